//! The file of the database: where it may be, and whose it is.

use std::{
    fs::{self, DirBuilder, Metadata, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use isol8_core::failure::{Failure, FailureKind};

/// A group may read it, as far as it can do that: there are digests in it. Nobody
/// but its owner writes.
const FORBIDDEN: u32 = 0o026;
/// Who could write to the folder could put a journal beside the file.
const FOLDER_FORBIDDEN: u32 = 0o022;

/// Makes the file, empty, if it is not there, and the folder around it.
///
/// # Errors
/// It cannot be made, or the folder belongs to somebody else or is open to others.
pub(super) fn make(path: &Path) -> Result<(), Failure> {
    let cannot = |error: &io::Error| {
        let message = format!("cannot make the key database `{}`", path.display());
        Failure::new(FailureKind::HostLacks, message).because(error)
    };
    let folder = folder(path);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| cannot(&error))?;
    // Before the file is: one that is left there is in the way of those who may.
    let around = fs::metadata(folder).map_err(|error| cannot(&error))?;
    check_folder(&around).map_err(|wrong| wrong.failure(path))?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot(&error)),
        _ => Ok(()),
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Which file this is: another one in its place is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keys) struct Identity(u64, u64);

/// Looks at the file; `None` where there is none.
///
/// # Errors
/// It is no file, belongs to somebody else, or others can write to it.
pub(in crate::keys) fn look(path: &Path) -> Result<Option<Identity>, Failure> {
    let cannot = |error: &io::Error| {
        let shown = path.display();
        let message = format!("cannot look at the key database `{shown}`");
        Failure::new(FailureKind::HostLacks, message).because(error)
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(&error)),
    };
    let around = fs::metadata(folder(path)).map_err(|error| cannot(&error))?;
    let checked = check_file(&found).and_then(|()| check_folder(&around));
    checked.map_err(|wrong| wrong.failure(path))?;
    Ok(Some(Identity(found.dev(), found.ino())))
}

/// Why a place is not safe.
enum Wrong {
    NoFile,
    /// Whose it is.
    Theirs(&'static str, u32),
    /// And its mode.
    Open(&'static str, u32),
}

impl Wrong {
    fn failure(self, path: &Path) -> Failure {
        let shown = path.display();
        let message = format!("the key database `{shown}` is not safe");
        let failure = Failure::new(FailureKind::Forbidden, message);
        match self {
            Self::NoFile => failure
                .cause("it is no regular file")
                .hint("name another place with `--keys-db`"),
            Self::Theirs(what, uid) => failure
                .cause(format!("{what} belongs to the user {uid}"))
                .hint("do it as that user, or name another place with `--keys-db`"),
            Self::Open(what, mode) => failure
                .cause(format!(
                    "{what} has mode {mode:04o}, which is open to others"
                ))
                .hint(format!(
                    "make it your own: `chmod 600 {shown}`, in a folder of mode 700"
                )),
        }
    }
}

fn check_file(found: &Metadata) -> Result<(), Wrong> {
    match found.is_file() {
        true => check("it", found, FORBIDDEN),
        false => Err(Wrong::NoFile),
    }
}

fn check_folder(found: &Metadata) -> Result<(), Wrong> {
    check("its folder", found, FOLDER_FORBIDDEN)
}

fn check(what: &'static str, found: &Metadata, forbidden: u32) -> Result<(), Wrong> {
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us && found.uid() != 0 {
        return Err(Wrong::Theirs(what, found.uid()));
    }
    match found.mode() & forbidden {
        0 => Ok(()),
        _ => Err(Wrong::Open(what, found.mode() & 0o7777)),
    }
}
