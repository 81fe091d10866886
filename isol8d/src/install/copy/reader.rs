//! Reads the tree of a layer, as frames that make the same below /sandbox.
//!
//! A layer holds what an installer left. Every folder is opened beneath the root
//! of the tree by the kernel's own rule, so that no link is followed whatever
//! becomes of the tree meanwhile. One folder and one file are open at a time; of
//! the tree itself only names of folders are remembered.

use std::{
    io::{self, Read as _},
    mem,
    os::fd::OwnedFd,
    path::Path,
};

use bytes::Bytes;
use isol8_proto::init::{File, Folder, Symlink, to_init};
use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use thiserror::Error;
use tokio::sync::mpsc;

/// Of a file in one frame.
const PIECE_BYTES: u64 = 256 << 10;

/// A batch is handed over when it has so much of either, and is at most one piece
/// longer.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FRAMES: usize = 32;

/// What a frame takes beside its path and data.
const FRAME_BYTES: usize = 64;

/// Of set-uid and the like nothing comes along.
const MODE: u32 = 0o777;

/// Frames that are handed over together: a queue that wakes somebody up for each
/// small file would cost more than the file.
pub(super) type Batch = Vec<to_init::Message>;

/// What a frame takes in memory, or little more.
pub(super) fn frame_bytes(frame: &to_init::Message) -> usize {
    let bytes = match frame {
        to_init::Message::File(piece) => piece.path.len() + piece.data.len(),
        to_init::Message::Folder(order) => order.path.len(),
        to_init::Message::Symlink(order) => order.path.len() + order.target.len(),
        _ => 0,
    };
    bytes + FRAME_BYTES
}

/// Why not all of it came.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// The host's disk.
    #[error("cannot read `{}`", path.escape_debug())]
    Disk {
        /// Below /sandbox.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// What no layer holds.
    #[error("`{}` is neither a file nor a folder nor a link", path.escape_debug())]
    Strange {
        /// Below /sandbox.
        path: String,
    },
    /// Nobody takes the frames any more.
    #[error("the copy was given up")]
    Unwanted,
}

/// Hands over everything below `tree`, folders before what is in them. `folder` is
/// what the tree is called below /sandbox. Blocks.
///
/// # Errors
/// What was handed over before may end within a file.
pub(super) fn read(
    tree: &Path,
    folder: Vec<u8>,
    batches: mpsc::Sender<Batch>,
) -> Result<(), ReadError> {
    let mut reader = Reader {
        above: folder.len(),
        path: folder,
        levels: Vec::new(),
        batch: Batch::new(),
        batch_bytes: 0,
        batches,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = fs::open(tree, flags, Mode::empty());
    let root = root.map_err(|errno| reader.disk(errno))?;
    reader.all(&root)?;
    reader.hand_over()
}

#[derive(Debug)]
struct Reader {
    /// Of what is being read, below /sandbox.
    path: Vec<u8>,
    /// How much of it stands for the root of the tree.
    above: usize,
    levels: Vec<Level>,
    batch: Batch,
    batch_bytes: usize,
    batches: mpsc::Sender<Batch>,
}

/// A folder on the way to the one at hand.
#[derive(Debug)]
struct Level {
    /// Folders in it that are still to be read.
    folders: Vec<Vec<u8>>,
    /// The length of its own path.
    path: usize,
}

impl Reader {
    fn all(&mut self, root: &OwnedFd) -> Result<(), ReadError> {
        self.folder(root)?;
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path);
            match level.folders.pop() {
                Some(name) => {
                    self.push_name(&name);
                    let folder = self.open_folder(root);
                    let folder = folder.map_err(|errno| self.disk(errno))?;
                    self.folder(&folder)?;
                }
                None => {
                    self.levels.pop();
                }
            }
        }
        Ok(())
    }

    fn open_folder(&self, root: &OwnedFd) -> Result<OwnedFd, Errno> {
        let path = self.path.get(self.above + 1..).unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        fs::openat2(root, path, flags, Mode::empty(), beneath)
    }

    /// Reads what a folder holds, but for the folders.
    fn folder(&mut self, folder: &OwnedFd) -> Result<(), ReadError> {
        let stat = fs::fstat(folder).map_err(|errno| self.disk(errno))?;
        self.add(to_init::Message::Folder(Folder {
            path: self.path(),
            mode: stat.st_mode & MODE,
            ..Folder::default()
        }))?;
        let path = self.path.len();
        let mut folders = Vec::new();
        let entries = Dir::read_from(folder).map_err(|errno| self.disk(errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| self.disk(errno))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.push_name(name);
            match self.kind(folder, name, entry.file_type())? {
                FileType::Directory => folders.push(name.to_vec()),
                FileType::RegularFile => self.file(folder, name)?,
                FileType::Symlink => self.link(folder, name)?,
                _ => return Err(self.strange()),
            }
            self.path.truncate(path);
        }
        self.levels.push(Level { folders, path });
        Ok(())
    }

    /// Not every file system says it beside the name.
    fn kind(&self, folder: &OwnedFd, name: &[u8], said: FileType) -> Result<FileType, ReadError> {
        if said != FileType::Unknown {
            return Ok(said);
        }
        let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| self.disk(errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn link(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), ReadError> {
        let target = fs::readlinkat(folder, name, Vec::new());
        let target = target.map_err(|errno| self.disk(errno))?;
        self.add(to_init::Message::Symlink(Symlink {
            path: self.path(),
            target: target.into_bytes().into(),
            ..Symlink::default()
        }))
    }

    fn file(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), ReadError> {
        let (mut file, stat) = self.open_file(folder, name)?;
        let mut left = u64::try_from(stat.st_size).unwrap_or(0);
        let mut piece = File {
            path: self.path(),
            mode: stat.st_mode & MODE,
            ..File::default()
        };
        loop {
            let length = left.min(PIECE_BYTES);
            left -= length;
            let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact(&mut data)
                .map_err(|error| ReadError::Disk {
                    path: self.shown(),
                    error,
                })?;
            piece.data = data.into();
            piece.last = left == 0;
            self.add(to_init::Message::File(piece.clone()))?;
            if left == 0 {
                return Ok(());
            }
            piece.append = true;
        }
    }

    /// Does not wait for whoever else opens it, should it be a pipe by now.
    fn open_file(&self, folder: &OwnedFd, name: &[u8]) -> Result<(std::fs::File, Stat), ReadError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(folder, name, flags, Mode::empty());
        let file = file.map_err(|errno| self.disk(errno))?;
        let stat = fs::fstat(&file).map_err(|errno| self.disk(errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            Ok((file.into(), stat))
        } else {
            Err(self.strange())
        }
    }

    fn add(&mut self, frame: to_init::Message) -> Result<(), ReadError> {
        self.batch_bytes += frame_bytes(&frame);
        self.batch.push(frame);
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FRAMES {
            return self.hand_over();
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), ReadError> {
        self.batch_bytes = 0;
        let batch = mem::take(&mut self.batch);
        let handed = self.batches.blocking_send(batch);
        handed.map_err(|_| ReadError::Unwanted)
    }

    fn push_name(&mut self, name: &[u8]) {
        self.path.push(b'/');
        self.path.extend_from_slice(name);
    }

    fn path(&self) -> Bytes {
        Bytes::copy_from_slice(&self.path)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    fn disk(&self, errno: Errno) -> ReadError {
        ReadError::Disk {
            path: self.shown(),
            error: errno.into(),
        }
    }

    fn strange(&self) -> ReadError {
        ReadError::Strange { path: self.shown() }
    }
}
