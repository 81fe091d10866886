//! Where the daemon's files may be: below one of two folders, on a path of plain
//! names. The program may be at work in the same folder, so that every step is
//! taken on descriptors and follows no link.

use std::{
    ffi::OsStr,
    fmt,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, lstat, mkdirat},
    unistd::geteuid,
};

/// What is said of a root that [`Root::named`] refuses.
pub(crate) const UNKNOWN_ROOT: &str = "the order is for a folder that this init does not know";

/// The folder that a path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root(&'static str);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Root {
    const SANDBOX: Self = Self("/sandbox");
    const TMP: Self = Self("/tmp");
    const ALL: [Self; 2] = [Self::SANDBOX, Self::TMP];

    /// The one that a message names.
    ///
    /// # Errors
    /// `EINVAL` for one that we do not know.
    pub(crate) fn named(number: i32) -> Result<Self, Errno> {
        use isol8_proto::init::Root::{Sandbox, Tmp};
        match isol8_proto::init::Root::try_from(number) {
            Ok(Sandbox) => Ok(Self::SANDBOX),
            Ok(Tmp) => Ok(Self::TMP),
            Err(_) => Err(Errno::EINVAL),
        }
    }

    /// Opens it: with `O_RDONLY` to read it, with `O_PATH` to change what is in
    /// it, also after a program took the right to that from its owner, who we are.
    pub(crate) fn open(self, access: OFlag) -> Result<OwnedFd, Errno> {
        self.give_back(if access.contains(OFlag::O_PATH) {
            0o700
        } else {
            0o500
        });
        open(self.0, access | folder_flags(), Mode::empty())
    }

    /// Makes sure that programs can start in the roots.
    pub(crate) fn give_all_back() {
        Self::ALL.iter().for_each(|root| root.give_back(0o500));
    }

    /// Gives the owner all rights back if one of those that are needed is missing.
    /// By its path, for it is where something is mounted: nobody inside can put
    /// anything else there.
    fn give_back(self, needed: u32) {
        let Ok(stat) = lstat(self.0) else { return };
        let is_ours = stat.st_uid == geteuid().as_raw() && kind(&stat) == SFlag::S_IFDIR;
        if is_ours && stat.st_mode & needed != needed {
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777) | Mode::S_IRWXU;
            let follow = FchmodatFlags::FollowSymlink;
            // Where it fails, whatever needs the rights says so.
            let _the_opening_says = fchmodat(AT_FDCWD, self.0, mode, follow);
        }
    }

    /// Opens the folder at the end of `folders`. Those that are missing are made.
    pub(crate) fn make(self, folders: &[PathBuf]) -> Result<OwnedFd, Errno> {
        let mut folder = self.open(OFlag::O_PATH)?;
        for part in folders {
            match mkdirat(&folder, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let flags = OFlag::O_PATH | folder_flags();
            folder = beneath(&folder, part, flags, Mode::empty())?;
        }
        Ok(folder)
    }
}

/// For a folder and nothing else.
pub(crate) fn folder_flags() -> OFlag {
    OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
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

/// What kind of thing it is.
pub(crate) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// What a folder stays, wherever it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(u64, u64);

impl Id {
    pub(crate) const fn of(stat: &FileStat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// Goes back to the folder above, if that is the one it must be: somebody may
/// have moved the folder at hand.
///
/// # Errors
/// `ESTALE` where another one is above.
pub(crate) fn up(folder: &OwnedFd, above: Id) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | folder_flags();
    let up = openat(folder, "..", flags, Mode::empty())?;
    if Id::of(&fstat(&up)?) == above {
        Ok(up)
    } else {
        Err(Errno::ESTALE)
    }
}

/// The folders and the name of a relative path of plain names.
pub(crate) fn parts(path: &[u8]) -> Option<(Vec<PathBuf>, PathBuf)> {
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

    #[test]
    fn there_are_two_roots() {
        let names = [0, 1].map(|number| Root::named(number).map(|root| root.to_string()));
        assert_eq!(names, [Ok("/sandbox".to_owned()), Ok("/tmp".to_owned())]);
        assert_eq!(Root::named(2), Err(Errno::EINVAL));
    }
}
