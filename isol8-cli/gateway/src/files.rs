//! Files of a session, there and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use isol8_proto::v1::{
    FileEntry, FileKind, GetRequest, PutRequest, PutStart, get_response, put_request::Message,
};

use crate::{daemon::Daemon, refusal::Refusal};

/// The most that an answer carries in files, before base64.
pub(crate) const MAX_BYTES: u64 = 20 << 20;
const MAX_ENTRIES: u32 = 10_000;
/// What the daemon takes as one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Checks a path below `/sandbox` or `/tmp`. The daemon checks it again, and by
/// the rules of its file system; here it is known which field was wrong.
///
/// # Errors
/// 400 names the field.
pub(crate) fn check_path(field: &str, path: &str) -> Result<(), Refusal> {
    let shown = path.escape_debug();
    let wrong = |why: &str| Err(Refusal::invalid(format!("`{field}`: `{shown}` {why}")));
    if path.is_empty() || path.contains('\0') {
        return wrong("is not a path");
    }
    if path.split('/').any(|name| name == "..") {
        return wrong("leads up; a path has no `..`");
    }
    let mut names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    let first = names.next();
    if path.starts_with('/') && !matches!(first, Some("sandbox" | "tmp")) {
        return wrong("is outside /sandbox and /tmp");
    }
    Ok(())
}

/// Writes one file. Folders above it are made.
///
/// # Errors
/// What the daemon said.
///
/// # Cancellation
/// The file gets its name when it is whole, or never.
pub(crate) async fn put(
    daemon: &Daemon,
    session: &str,
    path: &str,
    content: Bytes,
) -> Result<(), Refusal> {
    let start = Message::Start(PutStart {
        session: session.to_owned(),
        path: Bytes::copy_from_slice(path.as_bytes()),
    });
    let entry = Message::Entry(FileEntry {
        kind: FileKind::File.into(),
        size_bytes: content.len() as u64,
        ..FileEntry::default()
    });
    let pieces = pieces(content).map(Message::Data);
    let messages = [start, entry].into_iter().chain(pieces);
    let requests = messages.map(|message| PutRequest {
        message: Some(message),
    });
    daemon.sessions().put(tokio_stream::iter(requests)).await?;
    Ok(())
}

/// The bytes in pieces that the daemon takes.
pub(crate) fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> + Send + 'static {
    std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some(piece)
    })
}

/// What was found at a path.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files by their path below the one that was asked for; its own is empty.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// It is a file, a folder, or something else.
    pub(crate) kind: FileKind,
}

/// Reads a file, or all files of a folder, of `most_bytes` at most.
///
/// # Errors
/// What the daemon said: 404, 413.
pub(crate) async fn get(
    daemon: &Daemon,
    session: &str,
    path: &str,
    most_bytes: u64,
) -> Result<Found, Refusal> {
    let request = GetRequest {
        session: session.to_owned(),
        path: Bytes::copy_from_slice(path.as_bytes()),
        max_bytes: most_bytes,
        max_entries: MAX_ENTRIES,
        ..GetRequest::default()
    };
    let mut answers = daemon.sessions().get(request).await?.into_inner();
    let mut found = Found::default();
    let mut open: Option<(String, Vec<u8>)> = None;
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(get_response::Message::Entry(entry)) => {
                found.files.extend(open.take());
                if entry.path.is_empty() {
                    found.kind = entry.kind();
                }
                if entry.kind() == FileKind::File {
                    let path = String::from_utf8_lossy(&entry.path).into_owned();
                    open = Some((path, Vec::new()));
                }
            }
            Some(get_response::Message::Data(data)) => {
                let (_, bytes) = open.as_mut().ok_or_else(Refusal::internal)?;
                bytes.extend_from_slice(&data);
            }
            Some(get_response::Message::Done(_)) => {
                found.files.extend(open.take());
                return Ok(found);
            }
            None => {}
        }
    }
    // A copy without its last message is not whole.
    Err(Refusal::internal())
}

/// Everything that `paths` name, in base64. What is not there is left out.
///
/// # Errors
/// What the daemon said; 413 where all of it is too much.
pub(crate) async fn collect(
    daemon: &Daemon,
    session: &str,
    paths: &[String],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut left = MAX_BYTES;
    let mut all = BTreeMap::new();
    for path in paths {
        // 0 would stand for the most that there is.
        let found = match get(daemon, session, path, left.max(1)).await {
            Ok(found) => found,
            Err(refusal) if refusal.is_not_found() => continue,
            Err(refusal) => return Err(refusal),
        };
        for (below, bytes) in found.files {
            left = left.saturating_sub(bytes.len() as u64);
            let name = match below.as_str() {
                "" => path.clone(),
                below => format!("{}/{below}", path.trim_end_matches('/')),
            };
            all.insert(name, BASE64.encode(&bytes));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_two_folders() {
        for good in [
            "a",
            "a/b.txt",
            "/sandbox/a",
            "/tmp/a",
            "./a",
            "//tmp/a",
            "a..b",
            "/sandbox",
        ] {
            assert!(check_path("path", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../a",
            "/sandbox/../etc",
            "a/..",
            "/sandboxes/a",
            "a\0",
        ] {
            let refusal = check_path("path", bad).expect_err(bad);
            assert!(refusal.body.error.starts_with("`path`: "), "{bad}");
        }
    }

    #[test]
    fn pieces_are_small_and_whole() {
        let bytes = Bytes::from(vec![7; PIECE_BYTES * 2 + 1]);
        let sizes: Vec<_> = pieces(bytes).map(|piece| piece.len()).collect();
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
        assert_eq!(pieces(Bytes::new()).count(), 0);
    }
}
