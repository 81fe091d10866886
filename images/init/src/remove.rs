//! What the daemon has removed: a file, a link, or a folder with all that is in
//! it.
//!
//! Other processes of the sandbox may be at work in it. Every step is taken on a
//! descriptor and follows no link, and the way back up is checked to lead where it
//! came from. Only the folder at hand is open, whatever the depth, and nothing is
//! written: it works on a full file system.

use std::{
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use isol8_proto::init::{Failed, FailureKind};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag},
    sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::{
    command::{because, failed},
    place::{self, Id, Root},
};

/// Names that one turn takes away at most: about a millisecond.
const NAMES_A_TURN: usize = 256;

/// Names of a folder that are held at a time.
const NAMES_AT_ONCE: usize = 512;

/// How often a folder may turn out not to be empty after all, for somebody fills
/// it meanwhile.
const MOST_REFILLS: u32 = 100;

/// A folder that is on its way out.
#[derive(Debug)]
pub(crate) struct Removal {
    path: Vec<u8>,
    /// The folder that the first one is in.
    above: OwnedFd,
    /// The folder at hand, if it is not `above`.
    folder: Option<OwnedFd>,
    /// The first stands for `above`, with the name that was asked for.
    levels: Vec<Level>,
    refills: u32,
}

#[derive(Debug)]
struct Level {
    id: Id,
    /// What it is called in the one above it.
    name: CString,
    /// Some of what is in it.
    names: Vec<CString>,
}

/// How far a turn got.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more.
    Going,
    Done,
    Failed(Failed),
}

impl Removal {
    /// Removes what is no folder at once (`None`), and begins with a folder.
    ///
    /// # Errors
    /// `BAD_PATH` where there is nothing, or a folder and the order is not for
    /// folders.
    pub(crate) fn start(order: &isol8_proto::init::Remove) -> Result<Option<Self>, Failed> {
        let begin = || {
            let root = Root::named(order.root)?;
            let (folders, name) = place::parts(&order.path).ok_or(Errno::EINVAL)?;
            let above = open_above(root, &folders)?;
            let found = fstatat(&above, &name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if place::kind(&found) != SFlag::S_IFDIR {
                unlinkat(&above, &name, UnlinkatFlags::NoRemoveDir)?;
                return Ok(None);
            }
            if !order.recursive {
                return Err(Errno::EISDIR);
            }
            let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
            let base = Level {
                id: Id::of(&fstat(&above)?),
                name: CString::default(),
                names: vec![name],
            };
            Ok(Some(Self {
                path: order.path.to_vec(),
                above,
                folder: None,
                levels: vec![base],
                refills: 0,
            }))
        };
        begin().map_err(|errno| why(errno, &order.path))
    }

    /// Takes one turn's worth away.
    pub(crate) fn pump(&mut self) -> Progress {
        for _ in 0..NAMES_A_TURN {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return Progress::Done,
                Err(errno) => return Progress::Failed(why(errno, &self.path)),
            }
        }
        Progress::Going
    }

    fn here(&self) -> &OwnedFd {
        self.folder.as_ref().unwrap_or(&self.above)
    }

    /// Removes one name, goes into a folder, or leaves one. False: all is gone.
    fn step(&mut self) -> Result<bool, Errno> {
        let base = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        if let Some(name) = level.names.pop() {
            match unlinkat(self.here(), &*name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) => self.enter(name)?,
                Err(errno) => return Err(errno),
            }
            return Ok(true);
        }
        if base {
            return Ok(false);
        }
        let names = some_names(self.here())?;
        if names.is_empty() {
            self.leave()?;
        } else if let Some(level) = self.levels.last_mut() {
            level.names = names;
        }
        Ok(true)
    }

    fn enter(&mut self, name: CString) -> Result<(), Errno> {
        let folder = match open_folder(self.here(), &name) {
            Ok(folder) => folder,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let stat = fstat(&folder)?;
        if stat.st_mode & 0o700 != 0o700 {
            // Where this does not help, removing says what is wrong.
            let _removing_says = fchmod(folder.as_fd(), Mode::S_IRWXU);
        }
        self.levels.push(Level {
            id: Id::of(&stat),
            name,
            names: Vec::new(),
        });
        self.folder = Some(folder);
        Ok(())
    }

    /// Goes back up and removes the folder that was left.
    fn leave(&mut self) -> Result<(), Errno> {
        let (Some(left), Some(above)) = (self.levels.pop(), self.levels.last()) else {
            return Ok(());
        };
        self.folder = if self.levels.len() == 1 {
            None
        } else {
            Some(place::up(self.here(), above.id)?)
        };
        match unlinkat(self.here(), &*left.name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.refills < MOST_REFILLS => {
                self.refills += 1;
                if let Some(level) = self.levels.last_mut() {
                    level.names.push(left.name);
                }
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }
}

fn open_above(root: Root, folders: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let folder = root.open(OFlag::O_PATH)?;
    if folders.is_empty() {
        return Ok(folder);
    }
    let path: PathBuf = folders.iter().collect();
    let flags = OFlag::O_PATH | place::folder_flags();
    place::beneath(&folder, &path, flags, Mode::empty())
}

/// Opens a folder to read it, if need be by giving us the right to: it is ours.
fn open_folder(above: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    let open = |access| {
        let flags = access | place::folder_flags();
        place::beneath(above, name, flags, Mode::empty())
    };
    match open(OFlag::O_RDONLY) {
        Err(Errno::EACCES) => {
            // The very folder that is open, whatever has its name by now.
            let folder = open(OFlag::O_PATH)?;
            let itself = format!("/proc/self/fd/{}", folder.as_raw_fd());
            fchmodat(
                AT_FDCWD,
                itself.as_str(),
                Mode::S_IRWXU,
                FchmodatFlags::FollowSymlink,
            )?;
            open(OFlag::O_RDONLY)
        }
        other => other,
    }
}

/// The first names in a folder, read from its beginning.
fn some_names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let flags = OFlag::O_RDONLY | place::folder_flags();
    let mut names = Vec::new();
    for entry in Dir::openat(folder, ".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        names.push(name.to_owned());
        if names.len() == NAMES_AT_ONCE {
            break;
        }
    }
    Ok(names)
}

fn why(errno: Errno, path: &[u8]) -> Failed {
    let path = String::from_utf8_lossy(path);
    let (kind, message) = match errno {
        Errno::EISDIR => (
            FailureKind::BadPath,
            format!("`{path}` is a folder, and only a file was to be removed"),
        ),
        Errno::EINVAL
        | Errno::ENOENT
        | Errno::ELOOP
        | Errno::ENOTDIR
        | Errno::EXDEV
        | Errno::ENAMETOOLONG => (
            FailureKind::BadPath,
            format!("there is no file or folder `{path}`"),
        ),
        Errno::ESTALE | Errno::ENOTEMPTY => (
            FailureKind::Other,
            format!("somebody changed `{path}` while it was removed"),
        ),
        _ => (
            FailureKind::Other,
            because(format_args!("cannot remove `{path}`"), errno),
        ),
    };
    failed(kind, message, errno)
}
