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
pub(super) fn make(path: &Path) -> io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
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
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let around = fs::metadata(folder.unwrap_or(Path::new("."))).map_err(|error| cannot(&error))?;
    if let Err(why) = check(&found, &around) {
        let shown = path.display();
        let message = format!("the key database `{shown}` is not safe");
        return Err(Failure::new(FailureKind::Forbidden, message)
            .cause(why)
            .hint(format!(
                "make it your own: `chmod 600 {shown}`, in a folder of mode 700"
            )));
    }
    Ok(Some(Identity(found.dev(), found.ino())))
}

fn check(file: &Metadata, folder: &Metadata) -> Result<(), String> {
    if !file.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let us = rustix::process::geteuid().as_raw();
    for (what, found, forbidden) in [
        ("it", file, FORBIDDEN),
        ("its folder", folder, FOLDER_FORBIDDEN),
    ] {
        if found.uid() != us && found.uid() != 0 {
            return Err(format!("{what} belongs to the user {}", found.uid()));
        }
        if found.mode() & forbidden != 0 {
            let mode = found.mode() & 0o7777;
            return Err(format!(
                "{what} has mode {mode:04o}, which is open to others"
            ));
        }
    }
    Ok(())
}
