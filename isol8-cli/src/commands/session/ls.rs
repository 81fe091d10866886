//! `isol8 session ls`: sessions, and the files in one.

use std::{ffi::OsStr, time::Duration};

use data_encoding::BASE64;
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{
    FileEntry, FileKind, GetRequest, ListSessionsRequest, SessionInfo, SessionState,
    get_response::Message,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    answer, answer_json, client,
    place::{Inside, Place},
    table::{amount, print, span, table},
    wrong,
};
use crate::{
    connect::{ANSWER_TIMEOUT, silent, unwanted},
    console::{Console, visible},
    exit::Exit,
    paths::Paths,
};

/// Lists the sessions of the person, and the sandboxes that were kept.
pub(super) async fn sessions(
    json: bool,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let (link, mut client) = client(paths, console).await?;
    let request = ListSessionsRequest { sizes: true };
    let listed = timeout(ANSWER_TIMEOUT, client.list(request)).await;
    let listed = listed.map_err(|_| silent(&link))?;
    let listed = listed.map_err(|status| unwanted(&status))?.into_inner();
    if json {
        let sessions: Vec<Value> = listed.sessions.iter().map(to_json).collect();
        return answer_json(&json!({ "sessions": sessions }));
    }
    if listed.sessions.is_empty() {
        console.say("no sessions; `isol8 run --persistent …` makes one");
        return Ok(Exit::Done);
    }
    print(&[of(&listed.sessions)])
}

/// A table of sessions and kept sandboxes. Kept ones have no name to go by, lost
/// ones a reason to tell.
pub(in crate::commands) fn of(sessions: &[SessionInfo]) -> String {
    let row = |session: &SessionInfo| {
        let name = match session.name.as_str() {
            "" => "-",
            name => name,
        };
        let remark = match (session.state(), session.name.is_empty()) {
            (SessionState::Lost, _) => session.reason.clone(),
            (_, true) => session.sandbox_id.clone(),
            (_, false) => String::new(),
        };
        vec![
            name.to_owned(),
            session.runtime.clone(),
            session.engine.clone(),
            state(session).to_owned(),
            span(Duration::from_millis(session.idle_ms)),
            session.size_bytes.map_or("-".to_owned(), amount),
            session.waiting.to_string(),
            remark,
        ]
    };
    let rows: Vec<Vec<String>> = sessions.iter().map(row).collect();
    let header = [
        "session", "runtime", "engine", "state", "idle", "size", "waiting", "",
    ];
    table(&header, rows)
}

fn state(session: &SessionInfo) -> &'static str {
    match session.state() {
        SessionState::Idle if session.name.is_empty() => "kept",
        SessionState::Idle => "idle",
        SessionState::Busy => "busy",
        SessionState::Starting => "starting",
        SessionState::Lost => "lost",
        SessionState::Unspecified => "unknown",
    }
}

/// The same for programs; `name` is null for a kept sandbox.
pub(in crate::commands) fn to_json(session: &SessionInfo) -> Value {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    json!({
        "name": text(&session.name),
        "runtime": session.runtime,
        "engine": session.engine,
        "state": state(session),
        "idleMs": session.idle_ms,
        "sizeBytes": session.size_bytes,
        "waiting": session.waiting,
        "sandboxId": session.sandbox_id,
        "createdMs": session.created_ms,
        "persist": session.persist,
        "reason": text(&session.reason),
    })
}

/// Lists what is in a folder of a session, or one file.
pub(super) async fn files(
    place: &OsStr,
    json: bool,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let place = match Place::parse(place)? {
        Place::Inside(inside) => inside,
        Place::Here(_) | Place::Standard => {
            let shown = place.to_string_lossy();
            return Err(wrong(format!("`{shown}` is in no session"))
                .hint("files are listed with `isol8 session ls NAME:/sandbox`"));
        }
    };
    let (_, mut client) = client(paths, console).await?;
    let request = GetRequest {
        session: place.session.as_str().to_owned(),
        path: place.path.clone().into(),
        names_only: true,
        depth: 1,
        ..GetRequest::default()
    };
    let answered = client.get(request).await;
    let mut stream = answered.map_err(|status| unwanted(&status))?.into_inner();
    let mut entries = Vec::new();
    loop {
        let message = stream.message().await.map_err(|status| unwanted(&status))?;
        match message.and_then(|message| message.message) {
            Some(Message::Entry(entry)) => entries.push(entry),
            Some(Message::Done(_)) => break,
            Some(Message::Data(_)) | None => return Err(no_end()),
        }
    }
    // The folder itself is not in it.
    if entries.len() > 1 || entries.iter().any(|entry| entry.kind() == FileKind::Folder) {
        entries.retain(|entry| !entry.path.is_empty());
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    match json {
        true => {
            answer_json(&json!({ "files": entries.iter().map(file_to_json).collect::<Vec<_>>() }))
        }
        false => answer(long(&entries, &place).as_bytes()),
    }
}

fn no_end() -> Failure {
    let message = "the daemon did not send a whole list";
    Failure::new(FailureKind::Internal, message).hint("`isol8 daemon logs` may say more")
}

/// A line for each, as `ls -l` has it but for what a sandbox does not know: links,
/// owner and time.
fn long(entries: &[FileEntry], place: &Inside) -> String {
    let sizes = entries
        .iter()
        .map(|entry| entry.size_bytes.to_string().len());
    let width = sizes.max().unwrap_or_default();
    let line = |entry: &FileEntry| {
        let name = match &entry.path[..] {
            b"" => place.name(),
            name => name,
        };
        let name = visible(name);
        let target = match entry.kind() {
            FileKind::Link if !entry.target.is_empty() => format!(" -> {}", visible(&entry.target)),
            _ => String::new(),
        };
        let (mode, size) = (mode(entry), entry.size_bytes);
        format!("{mode} {size:>width$} {name}{target}\n")
    };
    entries.iter().map(line).collect()
}

/// `-rw-r--r--`.
fn mode(entry: &FileEntry) -> String {
    let kind = match entry.kind() {
        FileKind::File => '-',
        FileKind::Folder => 'd',
        FileKind::Link => 'l',
        FileKind::Other | FileKind::Unspecified => '?',
    };
    let bits = (0..9).map(|bit| match entry.mode >> (8 - bit) & 1 {
        0 => '-',
        _ => ['r', 'w', 'x'][bit % 3],
    });
    std::iter::once(kind).chain(bits).collect()
}

/// JSON escapes what steers a terminal; what is no text comes in base64 as well.
fn file_to_json(entry: &FileEntry) -> Value {
    let name = String::from_utf8_lossy(&entry.path);
    let valid = matches!(name, std::borrow::Cow::Borrowed(_));
    let kind = match entry.kind() {
        FileKind::File => "file",
        FileKind::Folder => "folder",
        FileKind::Link => "link",
        FileKind::Other | FileKind::Unspecified => "other",
    };
    let mut value = json!({
        "name": name,
        "kind": kind,
        "mode": format!("{:04o}", entry.mode & 0o777),
        "sizeBytes": entry.size_bytes,
    });
    if !valid {
        value["nameBase64"] = BASE64.encode(&entry.path).into();
    }
    if entry.kind() == FileKind::Link {
        value["target"] = String::from_utf8_lossy(&entry.target).into();
    }
    value
}
