//! Files, folders and links that the daemon makes.
//!
//! A file is written under another name and takes its own with its last piece:
//! whoever looks sees the old one or the whole new one, and what is never
//! finished leaves nothing. A link is made in the same way.

use std::{
    ffi::OsStr,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use isol8_proto::init::{Failed, FailureKind, FileWritten};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, renameat},
    sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use crate::{
    command::{because, errno, failed},
    place::{self, Root, UNKNOWN_ROOT},
};

/// For files and folders that come without one.
const USUAL_MODE: u32 = 0o644;
const USUAL_FOLDER_MODE: u32 = 0o755;

/// The longest that the kernel takes, which counts a NUL as well.
const MOST_LINK_BYTES: usize = 4095;

/// Names that are tried for what is unfinished. A second one is needed only when
/// somebody inside has guessed the first.
const MOST_NAMES: u32 = 16;

/// The file that is being written.
#[derive(Debug)]
pub(crate) struct Writing {
    path: Vec<u8>,
    root: i32,
    target: Option<Target>,
    bytes: u64,
    /// It has failed and the daemon knows: its other pieces are passed over.
    answered: bool,
}

/// Removes the unfinished file when it is dropped.
#[derive(Debug)]
struct Target {
    folder: OwnedFd,
    name: PathBuf,
    unfinished: Option<PathBuf>,
    file: File,
}

/// Takes one piece. Gives the answer that it calls for, if any: one per file.
pub(crate) fn write(
    writing: &mut Option<Writing>,
    piece: &isol8_proto::init::File,
) -> Option<Result<FileWritten, Failed>> {
    let goes_on = |writing: &mut Writing| {
        piece.append && writing.path[..] == piece.path[..] && writing.root == piece.root
    };
    if writing.as_mut().is_none_or(|writing| !goes_on(writing)) {
        *writing = Some(Writing {
            path: piece.path.to_vec(),
            root: piece.root,
            target: None,
            bytes: 0,
            answered: false,
        });
    }
    let state = writing.as_mut()?;
    let answer = match step(state, piece) {
        Ok(()) if piece.last && !state.answered => Some(Ok(FileWritten { bytes: state.bytes })),
        Ok(()) => None,
        Err(errno) => {
            state.answered = true;
            state.target = None;
            Some(Err(why(errno, "file", &piece.path, piece.root)))
        }
    };
    if piece.last {
        *writing = None;
    }
    answer
}

fn step(state: &mut Writing, piece: &isol8_proto::init::File) -> Result<(), Errno> {
    if state.answered {
        return Ok(());
    }
    if !piece.append {
        let root = Root::named(piece.root)?;
        state.target = Some(Target::create(root, &piece.path, piece.mode)?);
    }
    // There is none when the first piece of a file never came.
    let target = state.target.as_mut().ok_or(Errno::EINVAL)?;
    target
        .file
        .write_all(&piece.data)
        .map_err(|error| errno(&error))?;
    state.bytes += piece.data.len() as u64;
    if piece.last {
        target.finish()?;
    }
    Ok(())
}

fn why(errno: Errno, what: &str, path: &[u8], root: i32) -> Failed {
    let path = String::from_utf8_lossy(path);
    let (kind, message) = match (errno, Root::named(root)) {
        (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG, _) => (
            FailureKind::NoSpace,
            format!("there is no room left for `{path}`"),
        ),
        (_, Err(_)) => (FailureKind::BadPath, UNKNOWN_ROOT.to_owned()),
        (
            Errno::EINVAL
            | Errno::ELOOP
            | Errno::ENOTDIR
            | Errno::EXDEV
            | Errno::EEXIST
            | Errno::EISDIR
            | Errno::ENAMETOOLONG,
            Ok(root),
        ) => (
            FailureKind::BadPath,
            because(
                format_args!("`{path}` cannot be a {what} below {root}"),
                errno,
            ),
        ),
        _ => (
            FailureKind::Other,
            because(format_args!("cannot write `{path}`"), errno),
        ),
    };
    failed(kind, message, errno)
}

impl Target {
    /// Makes the file under another name, with the folders above it.
    fn create(root: Root, path: &[u8], mode: u32) -> Result<Self, Errno> {
        let (folders, name) = place::parts(path).ok_or(Errno::EINVAL)?;
        let folder = root.make(&folders)?;
        check_free(&folder, &name, REGULAR)?;
        let (unfinished, file) = create_unfinished(&folder)?;
        let target = Self {
            folder,
            name,
            unfinished: Some(unfinished),
            file,
        };
        let mode = if mode == 0 { USUAL_MODE } else { mode & 0o777 };
        fchmod(target.file.as_fd(), Mode::from_bits_truncate(mode))?;
        Ok(target)
    }

    /// Gives it its name. A regular file of that name is replaced, not written
    /// into: who has it open keeps the old one.
    fn finish(&mut self) -> Result<(), Errno> {
        check_free(&self.folder, &self.name, REGULAR)?;
        let unfinished = self.unfinished.as_ref().ok_or(Errno::EINVAL)?;
        renameat(&self.folder, unfinished, &self.folder, &self.name)?;
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(name) = &self.unfinished {
            // That it is gone, or another's by now, is the program's own doing.
            let _gone_is_fine = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// What a file may replace, and what a link may.
const REGULAR: &[SFlag] = &[SFlag::S_IFREG];
const REGULAR_OR_LINK: &[SFlag] = &[SFlag::S_IFREG, SFlag::S_IFLNK];

/// Nothing but these kinds may be replaced. Between this look and the rename
/// somebody inside may still put something there; what a rename then replaces is
/// that thing and not where it leads.
fn check_free(folder: &OwnedFd, name: &Path, kinds: &[SFlag]) -> Result<(), Errno> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Ok(stat) if kinds.contains(&place::kind(&stat)) => Ok(()),
        Ok(_) => Err(Errno::EEXIST),
        Err(errno) => Err(errno),
    }
}

fn create_unfinished(folder: &OwnedFd) -> Result<(PathBuf, File), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let private = Mode::from_bits_truncate(0o600);
    let (name, file) = with_free_name(|name| place::beneath(folder, name, flags, private))?;
    Ok((name, file.into()))
}

/// Makes something under a name that nothing has.
fn with_free_name<T>(make: impl Fn(&Path) -> Result<T, Errno>) -> Result<(PathBuf, T), Errno> {
    let mut taken = Errno::EEXIST;
    for _ in 0..MOST_NAMES {
        let random = RandomState::new().hash_one(());
        let name = PathBuf::from(format!(".isol8-{random:016x}"));
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(errno @ (Errno::EEXIST | Errno::ELOOP)) => taken = errno,
            Err(errno) => return Err(errno),
        }
    }
    Err(taken)
}

/// Makes a folder and those above it. One that is there stays as it is.
///
/// # Errors
/// `BAD_PATH` where something else is, `NO_SPACE` on a full file system.
pub(crate) fn make_folder(order: &isol8_proto::init::Folder) -> Result<(), Failed> {
    let make = || {
        let root = Root::named(order.root)?;
        if order.path.is_empty() {
            return Ok(());
        }
        let (folders, name) = place::parts(&order.path).ok_or(Errno::EINVAL)?;
        let above = root.make(&folders)?;
        let made = match mkdirat(&above, &name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(errno),
        };
        let access = if made {
            OFlag::O_RDONLY
        } else {
            // It may be one that we may not read.
            OFlag::O_PATH
        };
        let flags = access | place::folder_flags();
        let folder = place::beneath(&above, &name, flags, Mode::empty())?;
        if made {
            let mode = match order.mode {
                0 => USUAL_FOLDER_MODE,
                mode => mode & 0o777,
            };
            fchmod(folder.as_fd(), Mode::from_bits_truncate(mode))?;
        }
        Ok(())
    };
    make().map_err(|errno| why(errno, "folder", &order.path, order.root))
}

/// Makes a link, whatever it leads to, and the folders above it.
///
/// # Errors
/// `BAD_PATH` where something else is than a file or a link, and for a target that
/// no link can have; `NO_SPACE` on a full file system.
pub(crate) fn make_link(order: &isol8_proto::init::Symlink) -> Result<(), Failed> {
    let make = || {
        let root = Root::named(order.root)?;
        let (folders, name) = place::parts(&order.path).ok_or(Errno::EINVAL)?;
        let target = &order.target[..];
        if target.is_empty() || target.contains(&0) || target.len() > MOST_LINK_BYTES {
            return Err(Errno::EINVAL);
        }
        let target = OsStr::from_bytes(target);
        let folder = root.make(&folders)?;
        check_free(&folder, &name, REGULAR_OR_LINK)?;
        let (unfinished, ()) = with_free_name(|name| symlinkat(target, &folder, name))?;
        renameat(&folder, &unfinished, &folder, &name).inspect_err(|_| {
            let _gone_is_fine = unlinkat(&folder, &unfinished, UnlinkatFlags::NoRemoveDir);
        })
    };
    make().map_err(|errno| why(errno, "link", &order.path, order.root))
}
