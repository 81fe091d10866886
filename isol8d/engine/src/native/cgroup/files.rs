//! The small files that cgroups are driven by.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// An error that says what was done to which file.
pub(super) fn named(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {verb} {}: {error}", path.display()),
    )
}

/// Whether an error means that the group is no more. A file that was opened
/// before its group was removed answers with `ENODEV`.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Writes a file that must exist already.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| named(&format!("write `{text}` to"), path, &error))
}

/// Writes a file where the kernel has it.
pub(super) fn write_if_there(path: &Path, text: &str) -> io::Result<()> {
    match write(path, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        // The error's number must survive: callers tell by it that a group is gone.
        .map_err(|error| match error.raw_os_error() {
            Some(_) if is_gone(&error) => error,
            _ => named("read", path, &error),
        })
}

/// Reads a file that holds one number.
pub(super) fn read_number(path: &Path) -> io::Result<u64> {
    let text = read(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::other(format!("{} holds no number", path.display())))
}

/// Reads one number from a file of `name number` lines; 0 without the line.
pub(super) fn read_field(path: &Path, name: &str) -> io::Result<u64> {
    Ok(field(&read(path)?, name))
}

/// One number from the text of such a file.
pub(super) fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Reads a list of pids. One of another pid namespace reads as 0 and is left out.
pub(super) fn read_pids(path: &Path) -> io::Result<Vec<i32>> {
    Ok(read(path)?
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}
