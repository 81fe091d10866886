//! What is sent of a file or folder here. Runs on a thread of its own.
//!
//! Somebody may change the folder meanwhile: everything is opened below it by the
//! kernel's own rule, and no link in it is followed.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{FileEntry, FileKind, PutRequest, put_request::Message};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, statat},
    io::Errno,
};
use tokio::sync::mpsc::Sender;

use super::{PIECE_BYTES, meter::Counted, skipped::Skipped, stdio, upload::Source};
use crate::console::visible;

/// A folder that cannot be entered or emptied is of no use to anybody inside.
const FOLDER_BITS: u32 = 0o700;

/// A source whose size, or whose first folder, is known.
#[derive(Debug)]
pub(super) enum Opened {
    File {
        name: String,
        file: File,
        size: u64,
        /// 0: the usual one.
        mode: u32,
    },
    Folder {
        name: PathBuf,
        root: OwnedFd,
        mode: u32,
    },
}

/// Why the thread stops before the end.
enum Stop {
    Failed(Failure),
    /// Nobody wants any more of it. The stream itself knows why.
    Unwanted,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Opened {
    /// May block, on stdin for as long as somebody writes to it.
    pub(super) fn new(source: &Source) -> Result<Self, Failure> {
        let (path, folder) = match source {
            Source::Stdin => {
                let (file, size) =
                    stdio::sized_stdin().map_err(|error| cannot_read("stdin", &error))?;
                return Ok(Self::File {
                    name: "stdin".to_owned(),
                    file,
                    size,
                    mode: 0,
                });
            }
            Source::Here { path, folder, .. } => (path, *folder),
        };
        let name = super::shown(path);
        let cannot = |errno: Errno| cannot_read(&name, &errno.into());
        // What is no file by now is not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let flags = match folder {
            true => flags | OFlags::DIRECTORY,
            false => flags,
        };
        let opened = open(path, flags, Mode::empty()).map_err(cannot)?;
        let stat = fstat(&opened).map_err(cannot)?;
        if folder {
            return Ok(Self::Folder {
                // Without a `.` at its end.
                name: path.components().collect(),
                root: opened,
                mode: permissions(&stat) | FOLDER_BITS,
            });
        }
        if kind(&stat) != FileType::RegularFile {
            return Err(changed(&name));
        }
        Ok(Self::File {
            name,
            file: File::from(opened),
            size: size(&stat),
            mode: permissions(&stat),
        })
    }

    /// Sends all of it. Gives what was passed over.
    pub(super) fn send(
        self,
        sender: &Sender<PutRequest>,
        counted: &Counted,
    ) -> Result<Skipped, Failure> {
        let mut sending = Sending {
            sender,
            counted,
            buffer: BytesMut::new(),
            skipped: Skipped::default(),
        };
        let sent = match self {
            Self::File {
                name,
                file,
                size,
                mode,
            } => {
                counted.set_total(size);
                sending.file(&[], file, size, mode, &name)
            }
            Self::Folder { name, root, mode } => sending.tree(&name, &root, mode),
        };
        match sent {
            Ok(()) | Err(Stop::Unwanted) => Ok(sending.skipped),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }
}

struct Sending<'a> {
    sender: &'a Sender<PutRequest>,
    counted: &'a Counted,
    buffer: BytesMut,
    skipped: Skipped,
}

impl Sending<'_> {
    fn put(&self, message: Message) -> Result<(), Stop> {
        let request = PutRequest {
            message: Some(message),
        };
        let sent = self.sender.blocking_send(request);
        sent.map_err(|_| Stop::Unwanted)
    }

    fn folder(&self, path: &[u8], mode: u32) -> Result<(), Stop> {
        self.put(Message::Entry(FileEntry {
            path: Bytes::copy_from_slice(path),
            kind: FileKind::Folder.into(),
            mode,
            ..FileEntry::default()
        }))
    }

    /// Sends a file of exactly this size.
    fn file(
        &mut self,
        path: &[u8],
        mut file: File,
        size: u64,
        mode: u32,
        name: &str,
    ) -> Result<(), Stop> {
        self.put(Message::Entry(FileEntry {
            path: Bytes::copy_from_slice(path),
            kind: FileKind::File.into(),
            mode,
            size_bytes: size,
            ..FileEntry::default()
        }))?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            self.buffer.resize(most, 0);
            let count = read(&mut file, &mut self.buffer).map_err(|e| cannot_read(name, &e))?;
            if count == 0 {
                return Err(resized(name, "shorter").into());
            }
            let piece = self.buffer.split_to(count).freeze();
            self.put(Message::Data(piece))?;
            self.counted.add_bytes(count);
            left -= count as u64;
        }
        let more = read(&mut file, &mut [0]).map_err(|error| cannot_read(name, &error))?;
        if more > 0 {
            return Err(resized(name, "longer").into());
        }
        self.counted.add_file();
        Ok(())
    }

    /// Parents first, by name. Only the names of the folders above are held, and
    /// no folder is open but the first.
    fn tree(&mut self, name: &std::path::Path, root: &OwnedFd, mode: u32) -> Result<(), Stop> {
        self.folder(&[], mode)?;
        let shown = |path: &[u8]| super::shown(&name.join(OsStr::from_bytes(path)));
        let list = |folder: &OwnedFd, path: &[u8]| {
            names(folder).map_err(|errno| cannot_read(&shown(path), &errno.into()))
        };
        let mut levels = vec![(Vec::new(), list(root, &[])?)];
        while let Some((above, names)) = levels.last_mut() {
            let Some(next) = names.pop() else {
                levels.pop();
                continue;
            };
            let path = match above.is_empty() {
                true => next.into_encoded_bytes(),
                false => [above, &b"/"[..], next.as_bytes()].concat(),
            };
            let cannot = |errno: Errno| match errno {
                Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::NOTDIR => changed(&shown(&path)),
                errno => cannot_read(&shown(&path), &errno.into()),
            };
            let at = OsStr::from_bytes(&path);
            let found = statat(root, at, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
            match kind(&found) {
                FileType::Directory => {
                    let folder = beneath(root, at, OFlags::DIRECTORY).map_err(cannot)?;
                    let stat = fstat(&folder).map_err(cannot)?;
                    self.folder(&path, permissions(&stat) | FOLDER_BITS)?;
                    let names = list(&folder, &path)?;
                    levels.push((path, names));
                }
                FileType::RegularFile => {
                    let file = beneath(root, at, OFlags::NONBLOCK).map_err(cannot)?;
                    let stat = fstat(&file).map_err(cannot)?;
                    if kind(&stat) != FileType::RegularFile {
                        return Err(changed(&shown(&path)).into());
                    }
                    let (size, mode) = (size(&stat), permissions(&stat));
                    self.file(&path, file.into(), size, mode, &shown(&path))?;
                }
                other => {
                    let whole = name.join(at);
                    let whole = whole.as_os_str().as_bytes();
                    self.skipped.add(whole, what(other));
                }
            }
        }
        Ok(())
    }
}

/// Opens what has this path below a folder, if no link is on the way.
fn beneath(root: &OwnedFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// The names in a folder, the first one last.
fn names(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn read(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o777
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn what(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a link",
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "neither a file nor a folder",
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::NotFound, format!("cannot read `{name}`")).because(error)
}

fn changed(name: &str) -> Failure {
    let message = format!("`{name}` was changed while it was copied");
    Failure::new(FailureKind::Internal, message).hint("copy it again when nobody writes there")
}

fn resized(name: &str, how: &str) -> Failure {
    let message = format!("`{name}` became {how} while it was copied");
    let name = visible(name.as_bytes());
    Failure::new(FailureKind::Internal, message).hint(format!(
        "copy it again when nobody writes to it; what has no size goes through stdin: \
         `cat {name} | isol8 session cp - …`"
    ))
}
