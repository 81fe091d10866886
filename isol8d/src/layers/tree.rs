//! Writes what an init sends of a folder to the disk of the host.
//!
//! The init is ours, but it ran beside an installer under the same uid: what it
//! sends is checked as if somebody else had sent it. Every file is opened below
//! the folder of the layer by the kernel's own rule (`RESOLVE_BENEATH`, no
//! links), so that neither a name nor a link that came before leads out.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use isol8_proto::init::{Entry, EntryKind};
use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use thiserror::Error;

use super::retention::{MOST_LAYER_BYTES, MOST_LAYER_ENTRIES};

/// Below the folder that init was asked for; the kernel's own limit is 4096.
const LONGEST_PATH: usize = 4000;

/// What disks give out, as most of them are made.
const BLOCK_BYTES: u64 = 4096;

/// Why a layer cannot be written.
#[derive(Debug, Error)]
pub(crate) enum TreeError {
    /// The host's disk.
    #[error("cannot write `{}`", path.escape_debug())]
    Disk {
        /// Below the layer.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A name or link that leads out, or that no installer makes.
    #[error("the packages hold `{}`, which {why}", path.escape_debug())]
    Refused {
        /// Below the layer.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// More than one layer may hold.
    #[error("the packages hold more than {what}")]
    TooMuch {
        /// Of what.
        what: String,
    },
    /// Init does not hold to the protocol.
    #[error("init {0}")]
    Protocol(&'static str),
}

impl TreeError {
    /// The disk is full.
    pub(crate) fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Disk { error, .. } if full.contains(&error.kind()))
    }
}

/// A file whose data has not all come.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    left: u64,
}

/// The folder of a layer while it is written. Every call may block.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    open: Option<Open>,
    has_root: bool,
    bytes: u64,
    blocks: u64,
    entries: u32,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// On the disk: whole blocks, and one for each folder and link.
    pub(crate) bytes: u64,
    pub(crate) entries: u32,
}

impl Tree {
    /// `folder` is there and empty, and nobody else can write to it.
    pub(crate) fn new(folder: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(folder, flags, Mode::empty());
        Ok(Self {
            root: root.map_err(|errno| disk(folder, errno))?,
            open: None,
            has_root: false,
            bytes: 0,
            blocks: 0,
            entries: 0,
        })
    }

    /// Takes the next entry. A file's data follows by [`Tree::data`].
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        if self.open.is_some() {
            return Err(TreeError::Protocol(
                "sent an entry before the end of a file",
            ));
        }
        self.entries += 1;
        if self.entries > MOST_LAYER_ENTRIES {
            let what = format!("{MOST_LAYER_ENTRIES} files");
            return Err(TreeError::TooMuch { what });
        }
        let size = match entry.kind() {
            EntryKind::File => entry.size,
            // Whatever is said of the size of others means nothing.
            _ => 0,
        };
        self.blocks += size.div_ceil(BLOCK_BYTES).max(1);
        let path = checked(&entry.path)?;
        if path.as_os_str().is_empty() {
            // The folder itself, which the daemon has made.
            let first = !std::mem::replace(&mut self.has_root, true);
            return match entry.kind() {
                EntryKind::Folder if first => Ok(()),
                _ => Err(TreeError::Protocol("sent no folder")),
            };
        }
        match entry.kind() {
            EntryKind::Folder => self.folder(&path),
            EntryKind::Link => self.link(&path, &entry.target),
            EntryKind::File => self.file(path, entry),
            _ => Err(TreeError::Protocol("sent an entry of no kind that is kept")),
        }
    }

    fn folder(&self, path: &Path) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path)?;
        // Not through the umask of whoever started the daemon.
        let mode = Mode::from_raw_mode(0o755);
        fs::mkdirat(&parent, name, mode).map_err(|errno| disk(path, errno))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&parent, name, flags, Mode::empty());
        let made = made.map_err(|errno| disk(path, errno))?;
        fs::fchmod(made, mode).map_err(|errno| disk(path, errno))
    }

    fn link(&self, path: &Path, target: &[u8]) -> Result<(), TreeError> {
        let target = target_inside(path, target)?;
        let (parent, name) = self.parent(path)?;
        fs::symlinkat(target, &parent, name).map_err(|errno| disk(path, errno))
    }

    fn file(&mut self, path: PathBuf, entry: &Entry) -> Result<(), TreeError> {
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > MOST_LAYER_BYTES {
            let what = format!("{} MiB", MOST_LAYER_BYTES >> 20);
            return Err(TreeError::TooMuch { what });
        }
        let (parent, name) = self.parent(&path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600));
        let file = File::from(file.map_err(|errno| disk(&path, errno))?);
        // Readable by every sandbox, whose uids are not ours. No setuid.
        let mode = if entry.mode & 0o111 == 0 {
            0o644
        } else {
            0o755
        };
        fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|errno| disk(&path, errno))?;
        if entry.size > 0 {
            let left = entry.size;
            self.open = Some(Open { path, file, left });
        }
        Ok(())
    }

    /// The folder in which an entry stands, opened without following a link.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a std::ffi::OsStr), TreeError> {
        let name = path
            .file_name()
            .ok_or(TreeError::Protocol("sent an empty name"))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = fs::openat2(&self.root, parent, flags, Mode::empty(), beneath);
        Ok((opened.map_err(|errno| disk(path, errno))?, name))
    }

    /// Takes a piece of the file that came last.
    pub(crate) fn data(&mut self, data: &Bytes) -> Result<(), TreeError> {
        let Some(open) = &mut self.open else {
            return Err(TreeError::Protocol("sent data of no file"));
        };
        let came = data.len() as u64;
        let left = open.left.checked_sub(came);
        open.left = left.ok_or(TreeError::Protocol("sent more data than a file has"))?;
        open.file.write_all(data).map_err(|error| TreeError::Disk {
            path: open.path.to_string_lossy().into_owned(),
            error,
        })?;
        if open.left == 0 {
            self.open = None;
        }
        Ok(())
    }

    /// Everything has come.
    pub(crate) fn finish(self) -> Result<Written, TreeError> {
        if self.open.is_some() {
            return Err(TreeError::Protocol("ended within a file"));
        }
        Ok(Written {
            bytes: self.blocks * BLOCK_BYTES,
            entries: self.entries,
        })
    }
}

fn disk(path: &Path, errno: Errno) -> TreeError {
    TreeError::Disk {
        path: path.to_string_lossy().into_owned(),
        error: errno.into(),
    }
}

fn refused(path: &[u8], why: &'static str) -> TreeError {
    TreeError::Refused {
        path: String::from_utf8_lossy(path).into_owned(),
        why,
    }
}

/// A relative path of plain names.
fn checked(bytes: &[u8]) -> Result<PathBuf, TreeError> {
    use std::os::unix::ffi::OsStrExt as _;
    if bytes.len() > LONGEST_PATH || bytes.contains(&0) {
        return Err(refused(bytes, "is no path"));
    }
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !path.components().all(plain) {
        return Err(refused(bytes, "leads out of its folder"));
    }
    // `components` folds what another reader might not.
    let folded: PathBuf = path.components().collect();
    if folded.as_os_str().as_bytes() != bytes {
        return Err(refused(bytes, "is no plain path"));
    }
    Ok(folded)
}

/// The target of a link at `path`: relative, and inside of the layer as it reads.
/// Through other links it could still lead out; it is only ever followed inside
/// of a sandbox, which is where such a link may lead.
fn target_inside<'a>(path: &Path, target: &'a [u8]) -> Result<&'a Path, TreeError> {
    use std::os::unix::ffi::OsStrExt as _;
    let shown = path.as_os_str().as_bytes();
    if target.is_empty() || target.len() > LONGEST_PATH || target.contains(&0) {
        return Err(refused(shown, "is a link to no path"));
    }
    let target = Path::new(std::ffi::OsStr::from_bytes(target));
    let mut depth = path.components().count() - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(shown, "is a link out of its folder"));
            }
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests;
