//! Where copies out of a session go, looked at before anything is asked.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use isol8_core::failure::Failure;

use super::{
    look, reads_as_folder, shown,
    write::{Landing, cannot},
};
use crate::commands::session::{place::Inside, wrong};

/// Where copies go.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands::session) enum Destination {
    Stdout,
    /// Copies keep their names in this folder.
    Folder {
        path: PathBuf,
        /// It is not there yet.
        make: bool,
    },
    /// The one copy gets this name.
    Named {
        folder: PathBuf,
        name: OsString,
    },
}

impl Destination {
    /// Looks at what is there. A link that is typed is followed, as by `cp`. `one`
    /// says that there is one source.
    pub(super) fn look(path: PathBuf, one: bool) -> Result<Self, Failure> {
        let name = shown(&path);
        let no_folder = || {
            wrong(format!("`{name}` is not a folder"))
                .cause("several things are to be copied to it")
                .hint(format!("`{name}/`, with a `/` at its end, makes it one"))
        };
        match look(&path) {
            Ok(found) if found.is_dir() => Ok(Self::Folder { path, make: false }),
            Ok(_) if !one => Err(no_folder().hint("give a folder")),
            Ok(found) if found.is_file() => {
                let link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
                let path = match link {
                    true => fs::canonicalize(&path).map_err(|error| cannot(&name, &error))?,
                    false => path,
                };
                Ok(Self::named(&path))
            }
            Ok(_) => Err(wrong(format!("`{name}` is neither a file nor a folder"))
                .hint("`-` copies a file to stdout")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(&path).is_ok() {
                    return Err(wrong(format!("`{name}` is a link that leads nowhere"))
                        .hint("remove it, or name what it leads to"));
                }
                let make = reads_as_folder(&path);
                if !one && !make {
                    return Err(no_folder());
                }
                let named = Self::named(&path);
                if let Self::Named { folder, .. } = &named
                    && !look(folder).is_ok_and(|found| found.is_dir())
                {
                    let folder = shown(folder);
                    return Err(wrong(format!("cannot write `{name}`"))
                        .cause(format!("there is no folder `{folder}`"))
                        .hint(format!("make it with `mkdir -p {folder}`")));
                }
                Ok(match make {
                    true => Self::Folder { path, make },
                    false => named,
                })
            }
            Err(error) => Err(wrong(format!("cannot write `{name}`")).because(&error)),
        }
    }

    fn named(path: &Path) -> Self {
        let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
        Self::Named {
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
            name: path.file_name().unwrap_or_default().to_owned(),
        }
    }

    /// Where one source goes; `None` is stdout.
    pub(super) fn landing(&self, source: &Inside) -> Option<Landing> {
        match self {
            Self::Stdout => None,
            Self::Folder { path, make } => {
                let whole = source.contents || source.name().is_empty();
                Some(Landing {
                    folder: path.clone(),
                    make: *make,
                    name: (!whole).then(|| OsStr::from_bytes(source.name()).to_owned()),
                })
            }
            Self::Named { folder, name } => Some(Landing {
                folder: folder.clone(),
                make: false,
                name: Some(name.clone()),
            }),
        }
    }
}
