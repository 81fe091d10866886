//! The log of a daemon that this command line started.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// A log that is longer when a daemon starts is put aside, one generation.
const MAX_BYTES: u64 = 8 << 20;
/// As much of its end as is read to find the last lines.
const TAIL_BYTES: u64 = 16 << 10;

/// Opens the log for a daemon to write to. Returns it with its length so far.
///
/// # Errors
/// The folder or the file cannot be made.
pub(crate) fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        // The uids of sandboxes pass through the state folder; they cannot list it.
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The last `count` lines that were written after byte `from`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn tail(path: &Path, from: u64, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = from.max(length.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(count);
    Ok(lines[skipped..].iter().map(|line| plain(line)).collect())
}

/// A line of the log without colours.
fn plain(line: &str) -> String {
    anstream::adapter::strip_str(line).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_begins_where_the_daemon_began() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s/isol8d.log");
        let (mut file, start) = open(&path).expect("a new log");
        assert_eq!(start, 0);
        io::Write::write_all(&mut file, b"old\n").expect("room");
        let (mut file, start) = open(&path).expect("the same log");
        io::Write::write_all(&mut file, b"one\n\n\x1b[31mtwo\x1b[0m\nthree\n").expect("room");
        assert_eq!(tail(&path, start, 2).expect("readable"), ["two", "three"]);
        assert_eq!(
            tail(&path, start, 9).expect("readable"),
            ["one", "two", "three"]
        );
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("isol8d.log");
        let file = File::create(&path).expect("a log");
        file.set_len(MAX_BYTES + 1).expect("a sparse file");
        let (_, length) = open(&path).expect("a new log");
        assert_eq!(length, 0);
        assert!(folder.path().join("isol8d.log.1").exists());
    }
}
