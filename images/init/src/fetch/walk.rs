//! Goes through a folder, parents first and sorted by name, unless there are so
//! many that they come in batches.
//!
//! Other processes of the sandbox may be at work in it. Every step is therefore
//! taken on a descriptor and follows no link, and the way back up is checked to
//! lead where it came from. Only the folder at hand is open, whatever the depth.

use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
};

use isol8_proto::init::{Failed, FailureKind};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

use super::{
    link,
    listing::{Held, Level, Name, Trouble},
};
use crate::{
    command::{because, failed},
    place::{Root, beneath, folder_flags, kind, parts, up},
};

/// The longest path that is passed on, four times what a program can name in one
/// piece. It bounds the depth, and what a deep tree costs.
const MAX_PATH_BYTES: usize = 16 << 10;

/// Something that was found.
#[derive(Debug)]
pub(super) struct Item {
    /// Relative to what was asked for; empty for the thing itself.
    pub(super) path: Vec<u8>,
    /// 0 where it cannot be known; see [`unseen`].
    pub(super) mode: u32,
    pub(super) found: Found,
}

#[derive(Debug)]
pub(super) enum Found {
    /// What is in it comes next.
    Folder,
    File {
        file: File,
        size: u64,
    },
    /// Its target.
    Link(Vec<u8>),
    /// A file that was not opened, for nobody wants what is in it.
    Name {
        size: u64,
    },
    /// Neither of these; only where names are wanted.
    Other,
}

/// How much of a tree is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// Files are not opened.
    pub(super) names_only: bool,
    /// Nothing is refused for what it is.
    pub(super) any_kind: bool,
    /// Levels below the first; 0: all.
    pub(super) depth: usize,
}

/// Where the walk is.
#[derive(Debug)]
pub(super) struct Walk {
    scope: Scope,
    /// What was asked for, until it is passed on.
    first: Option<Item>,
    /// The folder at hand.
    folder: Option<OwnedFd>,
    /// The one above, where the folder at hand does not let us back up.
    above: Option<OwnedFd>,
    /// It was passed on, and what is in it has not been looked at.
    entered: bool,
    /// The folders from the first to the one at hand.
    levels: Vec<Level>,
    held: Held,
    path: Vec<u8>,
}

impl Walk {
    /// Opens what is asked for: a path relative to the root, empty for all of it.
    pub(super) fn start(root: Root, path: &[u8], scope: Scope) -> Result<Self, Failed> {
        let mut walk = Self {
            scope,
            first: None,
            folder: None,
            above: None,
            entered: false,
            levels: Vec::new(),
            held: Held::default(),
            path: Vec::new(),
        };
        let wrong = |errno: Errno| {
            let path = String::from_utf8_lossy(path);
            let message = match errno {
                Errno::EACCES | Errno::EPERM => {
                    because(format_args!("cannot read `{path}` below {root}"), errno)
                }
                _ => format!("there is no file or folder `{path}` below {root}"),
            };
            failed(FailureKind::BadPath, message, errno)
        };
        if !path.is_empty() && parts(path).is_none() {
            return Err(wrong(Errno::EINVAL));
        }
        let root = root.open(OFlag::O_RDONLY).map_err(wrong)?;
        let (stat, found) = if path.is_empty() {
            walk.folder = Some(root);
            let folder = walk.folder.as_ref().ok_or_else(|| wrong(Errno::EBADF))?;
            (fstat(folder).map_err(wrong)?, Found::Folder)
        } else {
            let name = Path::new(OsStr::from_bytes(path));
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let there = beneath(&root, name, flags, Mode::empty()).map_err(wrong)?;
            let stat = fstat(&there).map_err(wrong)?;
            match kind(&stat) {
                SFlag::S_IFDIR => {
                    let folder = open_folder(&root, name).map_err(wrong)?;
                    let stat = fstat(&folder).map_err(wrong)?;
                    walk.folder = Some(folder);
                    (stat, Found::Folder)
                }
                SFlag::S_IFREG if !scope.names_only => open_file(&root, name).map_err(wrong)?,
                SFlag::S_IFREG => (stat, name_of(&stat)),
                SFlag::S_IFLNK if scope.any_kind => {
                    let target = readlinkat(&there, "").map_err(wrong)?;
                    (stat, Found::Link(target.into_vec()))
                }
                _ if scope.any_kind => (stat, Found::Other),
                _ => return Err(wrong(Errno::EINVAL)),
            }
        };
        walk.entered = walk.folder.is_some();
        walk.first = Some(walk.item(stat.st_mode, found));
        Ok(walk)
    }

    fn item(&self, mode: u32, found: Found) -> Item {
        Item {
            path: self.path.clone(),
            mode: mode & 0o777,
            found,
        }
    }

    /// The next one. `room` is how many may still come, this one included.
    pub(super) fn next(&mut self, room: u32) -> Result<Option<Item>, Failed> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if std::mem::take(&mut self.entered) {
            self.begin(room)?;
        }
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path);
            if let Some(name) = level.pop(&mut self.held) {
                if let Some(item) = self.look(&name)? {
                    return Ok(Some(item));
                }
            } else if level.has_rest() {
                self.go_on()?;
            } else {
                self.leave()?;
            }
        }
        Ok(None)
    }

    /// Reads the first names in the folder at hand.
    fn begin(&mut self, room: u32) -> Result<(), Failed> {
        let level = match &self.folder {
            Some(folder) => Level::begin(folder, self.path.len(), room, &mut self.held),
            None => Err(Errno::EBADF.into()),
        };
        let level = level.map_err(|trouble| self.trouble(&trouble))?;
        self.levels.push(level);
        Ok(())
    }

    /// Reads more names in the folder at hand.
    fn go_on(&mut self) -> Result<(), Failed> {
        let exact = !self.scope.names_only;
        let read = match (&self.folder, self.levels.last_mut()) {
            (Some(folder), Some(level)) => level.go_on(folder, exact, &mut self.held),
            _ => Err(Errno::EBADF.into()),
        };
        read.map_err(|trouble| self.trouble(&trouble))
    }

    /// Looks at a name in the folder at hand, and enters it if it is a folder.
    /// `None`: it is gone, which changes no list of names.
    fn look(&mut self, name: &Name) -> Result<Option<Item>, Failed> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.name.to_bytes());
        if self.path.len() > MAX_PATH_BYTES {
            return Err(too_deep(&self.path));
        }
        let names_only = self.scope.names_only;
        let folder = self.folder.take();
        let folder = folder.ok_or_else(|| self.wrong(Errno::EBADF))?;
        let found = self.find(&folder, name);
        if self.entered {
            self.above = self
                .folder
                .as_ref()
                .is_some_and(is_closed)
                .then_some(folder);
        } else {
            self.folder = Some(folder);
            if names_only && matches!(&found, Err(failed) if failed.errno == libc::ENOENT) {
                return Ok(None);
            }
        }
        found.map(|(mode, found)| Some(self.item(mode, found)))
    }

    /// What a name in a folder stands for. A folder is entered.
    fn find(&mut self, folder: &OwnedFd, listed: &Name) -> Result<(u32, Found), Failed> {
        let Scope {
            names_only,
            any_kind,
            depth,
        } = self.scope;
        let name = listed.name.as_c_str();
        let at = Path::new(OsStr::from_bytes(name.to_bytes()));
        let stat = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::EACCES) if names_only => return Ok((0, unseen(listed.stands_for))),
            stat => stat.map_err(|errno| self.wrong(errno))?,
        };
        let (stat, found) = match kind(&stat) {
            SFlag::S_IFDIR if depth > 0 && self.levels.len() >= depth => (stat, Found::Folder),
            SFlag::S_IFDIR => match open_folder(folder, at) {
                // It is there; what is in it nobody may know.
                Err(Errno::EACCES) if names_only => (stat, Found::Folder),
                below => {
                    let below = below.map_err(|errno| self.wrong(errno))?;
                    let stat = fstat(&below).map_err(|errno| self.wrong(errno))?;
                    self.folder = Some(below);
                    self.entered = true;
                    (stat, Found::Folder)
                }
            },
            SFlag::S_IFREG if names_only => (stat, name_of(&stat)),
            SFlag::S_IFREG => open_file(folder, at).map_err(|errno| self.wrong(errno))?,
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, name).map_err(|errno| self.wrong(errno))?;
                let target = target.into_vec();
                if !any_kind && !link::stays_inside(self.levels.len() - 1, &target) {
                    return Err(self.leads_out(&target));
                }
                (stat, Found::Link(target))
            }
            _ if any_kind => (stat, Found::Other),
            _ => return Err(self.neither()),
        };
        Ok((stat.st_mode, found))
    }

    /// Goes back to the folder above, if that was asked for too.
    fn leave(&mut self) -> Result<(), Failed> {
        self.levels.pop();
        let Some(above) = self.levels.last_mut() else {
            return Ok(());
        };
        let back = match (self.above.take(), &self.folder) {
            (Some(above), _) => Ok(above),
            (None, Some(folder)) => {
                above.reopened();
                up(folder, above.id)
            }
            (None, None) => Err(Errno::EBADF),
        };
        self.folder = Some(back.map_err(|errno| self.wrong(errno))?);
        Ok(())
    }

    fn trouble(&self, trouble: &Trouble) -> Failed {
        match trouble {
            Trouble::TooMany => too_many(),
            Trouble::Errno(errno) => self.wrong(*errno),
        }
    }

    fn wrong(&self, errno: Errno) -> Failed {
        let path = String::from_utf8_lossy(&self.path);
        let message = match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::ESTALE => {
                format!("somebody changed `{path}` while it was read")
            }
            _ => because(format_args!("cannot read `{path}`"), errno),
        };
        failed(FailureKind::Other, message, errno)
    }

    fn leads_out(&self, target: &[u8]) -> Failed {
        let [path, target] = [&self.path, target].map(|bytes| String::from_utf8_lossy(bytes));
        let message = format!("the link `{path}` leads out: to `{target}`");
        failed(FailureKind::BadPath, message, Errno::EXDEV)
    }

    fn neither(&self) -> Failed {
        let path = String::from_utf8_lossy(&self.path);
        let message = format!("`{path}` is neither a file, a folder nor a link");
        failed(FailureKind::BadPath, message, Errno::EINVAL)
    }
}

/// More than the daemon wants.
pub(super) fn too_many() -> Failed {
    let message = "there are more files and folders than may be read at once";
    failed(FailureKind::NoSpace, message, Errno::E2BIG)
}

fn too_deep(path: &[u8]) -> Failed {
    let begin = String::from_utf8_lossy(&path[..100]);
    let message = format!(
        "the folders are too deep, their path has more than {MAX_PATH_BYTES} bytes: below `{begin}…`"
    );
    failed(FailureKind::BadPath, message, Errno::ENAMETOOLONG)
}

fn name_of(stat: &FileStat) -> Found {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    Found::Name { size }
}

/// What stands in a folder that may be listed and not entered: its names, and as
/// a rule what they stand for. No mode, no size, and not where a link leads.
fn unseen(stands_for: u8) -> Found {
    match stands_for {
        libc::DT_DIR => Found::Folder,
        libc::DT_REG => Found::Name { size: 0 },
        libc::DT_LNK => Found::Link(Vec::new()),
        _ => Found::Other,
    }
}

/// Whether a folder may not be entered, not even to leave it.
fn is_closed(folder: &OwnedFd) -> bool {
    fstatat(folder, ".", AtFlags::empty()) == Err(Errno::EACCES)
}

fn open_folder(above: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | folder_flags();
    beneath(above, name, flags, Mode::empty())
}

/// What is no regular file by now is not waited for and not read.
fn open_file(above: &OwnedFd, name: &Path) -> Result<(FileStat, Found), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = beneath(above, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    if kind(&stat) != SFlag::S_IFREG {
        return Err(Errno::ESTALE);
    }
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::EOVERFLOW)?;
    let file = File::from(file);
    Ok((stat, Found::File { file, size }))
}
