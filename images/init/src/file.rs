//! Files that the daemon puts below `/sandbox`. The program may be at work in
//! the same folder, so that every step is taken on descriptors and follows no
//! link.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use isol8_proto::init::{Failed, FailureKind, FileWritten};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::command::failed;

pub(crate) const ROOT: &str = "/sandbox";

/// For files that come without one.
const USUAL_MODE: u32 = 0o644;

/// The file that is being written.
#[derive(Debug)]
pub(crate) struct Writing {
    path: Vec<u8>,
    target: Option<Target>,
    bytes: u64,
    /// It has failed and the daemon knows: its other pieces are passed over.
    answered: bool,
}

#[derive(Debug)]
struct Target {
    folder: OwnedFd,
    name: PathBuf,
    file: File,
}

/// Takes one piece. Gives the answer that it calls for, if any: one per file.
pub(crate) fn write(
    writing: &mut Option<Writing>,
    piece: &isol8_proto::init::File,
) -> Option<Result<FileWritten, Failed>> {
    let goes_on = |writing: &mut Writing| piece.append && writing.path[..] == piece.path[..];
    if writing.as_mut().is_none_or(|writing| !goes_on(writing)) {
        *writing = Some(Writing {
            path: piece.path.to_vec(),
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
            if let Some(target) = state.target.take() {
                target.remove();
            }
            Some(Err(why(errno, &piece.path)))
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
        state.target = Some(Target::create(&piece.path, piece.mode)?);
    }
    // There is none when the first piece of a file never came.
    let target = state.target.as_mut().ok_or(Errno::EINVAL)?;
    target
        .file
        .write_all(&piece.data)
        .map_err(|error| errno(&error))?;
    state.bytes += piece.data.len() as u64;
    Ok(())
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn why(errno: Errno, path: &[u8]) -> Failed {
    let path = String::from_utf8_lossy(path);
    let (kind, message) = match errno {
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => {
            (FailureKind::NoSpace, format!("no room for `{path}`"))
        }
        Errno::EINVAL
        | Errno::ELOOP
        | Errno::ENOTDIR
        | Errno::EXDEV
        | Errno::EEXIST
        | Errno::EISDIR
        | Errno::ENAMETOOLONG => (
            FailureKind::BadPath,
            format!("`{path}` cannot be a file below {ROOT}"),
        ),
        _ => (FailureKind::Other, format!("cannot write `{path}`")),
    };
    failed(kind, message, &errno.into())
}

impl Target {
    /// Makes the file new, with the folders above it. A regular file of that
    /// name is replaced, not written into: who has it open keeps the old one.
    fn create(path: &[u8], mode: u32) -> Result<Self, Errno> {
        let (folders, name) = parts(path).ok_or(Errno::EINVAL)?;
        let mut folder = open(ROOT, folder_flags(), Mode::empty())?;
        for part in folders {
            match mkdirat(&folder, &part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            folder = beneath(&folder, &part, folder_flags(), Mode::empty())?;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let private = Mode::from_bits_truncate(0o600);
        let file = match beneath(&folder, &name, flags, private) {
            Err(Errno::EEXIST) => {
                remove_regular(&folder, &name)?;
                beneath(&folder, &name, flags, private)?
            }
            other => other?,
        };
        let target = Self {
            folder,
            name,
            file: file.into(),
        };
        let mode = if mode == 0 { USUAL_MODE } else { mode & 0o777 };
        if let Err(errno) = fchmod(target.file.as_fd(), Mode::from_bits_truncate(mode)) {
            target.remove();
            return Err(errno);
        }
        Ok(target)
    }

    /// Takes a part of a file away again. That it may already be gone, or be
    /// another's by now, is the program's own doing.
    fn remove(self) {
        let _gone_is_fine = unlinkat(&self.folder, &self.name, UnlinkatFlags::NoRemoveDir);
    }
}

fn folder_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// Opens what has this name below a folder, if no link is on the way.
pub(crate) fn beneath(
    folder: &OwnedFd,
    name: &Path,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(folder, name, how)
}

fn remove_regular(folder: &OwnedFd, name: &Path) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = fstat(beneath(folder, name, flags, Mode::empty())?)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EEXIST);
    }
    unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)
}

/// The folders and the name of a relative path of plain names.
pub(crate) fn parts(path: &[u8]) -> Option<(Vec<PathBuf>, PathBuf)> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    if path.contains(&0) || path.ends_with(b"/") {
        return None;
    }
    let mut names = Vec::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => names.push(PathBuf::from(name)),
            Component::CurDir
            | Component::ParentDir
            | Component::RootDir
            | Component::Prefix(_) => {
                return None;
            }
        }
    }
    let name = names.pop()?;
    Some((names, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(&[&str], &str)>) {
        let expected = expected.map(|(folders, name)| {
            (
                folders.iter().map(PathBuf::from).collect::<Vec<_>>(),
                PathBuf::from(name),
            )
        });
        assert_eq!(parts(path.as_bytes()), expected, "{path}");
    }

    #[test]
    fn only_relative_paths_of_plain_names_are_files() {
        check("main.py", Some((&[], "main.py")));
        check("a/b/c", Some((&["a", "b"], "c")));
        check("$(x); -rf", Some((&[], "$(x); -rf")));
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "./x",
            "a/",
            "a\0b",
            "..",
        ] {
            check(bad, None);
        }
    }
}
