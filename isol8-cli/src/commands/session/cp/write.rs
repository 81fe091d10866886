//! What comes out of a session, on the disk of this host. Runs on a thread of
//! its own.
//!
//! What ran in the sandbox chose the names and what is in the files: every entry
//! is checked, and is written below the destination by the kernel's own rule,
//! with no link followed. A file is written under another name and takes its own
//! when it is whole.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{FileEntry, FileKind};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, renameat,
        statat, unlinkat,
    },
    io::Errno,
};

use super::{is_a_folder, shown, skipped::Skipped};
use crate::{commands::session::wrong, console::visible};

/// A folder that we could not write into or remove again helps nobody.
const FOLDER_BITS: u32 = 0o700;

/// Where one copy goes. Nothing is made before its first entry has come.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) folder: PathBuf,
    /// The folder is not there yet.
    pub(super) make: bool,
    /// `None`: what is in the copied folder goes into `folder` itself.
    pub(super) name: Option<OsString>,
}

impl Landing {
    fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.folder.join(name),
            None => self.folder.clone(),
        }
    }

    fn open(&self) -> Result<OwnedFd, Failure> {
        let fail = |error: io::Error| cannot(&shown(&self.folder), &error);
        if self.make {
            match fs::create_dir(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(fail(error));
                }
                _ => {}
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.folder, flags, Mode::empty()).map_err(|errno| fail(errno.into()))
    }
}

/// What the copy has turned out to be.
#[derive(Debug)]
enum Shape {
    Unknown,
    File,
    Folder(OwnedFd),
}

/// Takes entries and their data. What is not finished is gone with it.
#[derive(Debug)]
pub(super) struct Writer {
    landing: Landing,
    /// As it was typed, for messages.
    source: String,
    recursive: bool,
    shape: Shape,
    open: Option<Unfinished>,
    /// Whether what has come under this name, by its hash, is a folder.
    seen: HashMap<u64, bool>,
    hasher: RandomState,
    skipped: Skipped,
}

impl Writer {
    pub(super) fn new(landing: Landing, source: String, recursive: bool) -> Self {
        Self {
            landing,
            source,
            recursive,
            shape: Shape::Unknown,
            open: None,
            seen: HashMap::new(),
            hasher: RandomState::new(),
            skipped: Skipped::default(),
        }
    }

    /// Takes the next entry. A file's data follows by [`Writer::data`].
    pub(super) fn entry(&mut self, entry: &FileEntry) -> Result<(), Failure> {
        if self.open.is_some() {
            return Err(senseless("an entry before the end of a file"));
        }
        match (&self.shape, entry.path.is_empty()) {
            (Shape::Unknown, true) => self.first(entry),
            (Shape::Unknown, false) => Err(senseless("an entry of a folder before the folder")),
            (Shape::File, _) => Err(senseless("an entry below a file")),
            (Shape::Folder(_), true) => Err(senseless("the first folder twice")),
            (Shape::Folder(_), false) => self.below(entry),
        }
    }

    fn first(&mut self, entry: &FileEntry) -> Result<(), Failure> {
        let path = self.landing.path();
        match (entry.kind(), &self.landing.name) {
            (FileKind::Folder, _) if !self.recursive => Err(is_a_folder(&self.source)),
            (FileKind::Folder, None) => {
                self.shape = Shape::Folder(self.landing.open()?);
                Ok(())
            }
            (FileKind::Folder, Some(name)) => {
                let made = make_folder(self.landing.open()?.as_fd(), name, entry.mode, &path)?;
                self.shape = Shape::Folder(made);
                Ok(())
            }
            (FileKind::File, Some(name)) => {
                let folder = self.landing.open()?;
                self.shape = Shape::File;
                self.file(folder, name.clone(), entry, path)
            }
            (FileKind::File, None) => {
                let message = format!("`{}` is a file, not a folder", self.source);
                Err(wrong(message).hint("leave the `/.` at its end out"))
            }
            (FileKind::Link | FileKind::Other | FileKind::Unspecified, _) => {
                let message = format!("`{}` is neither a file nor a folder", self.source);
                Err(wrong(message).hint("`isol8 session ls` shows what is there"))
            }
        }
    }

    fn below(&mut self, entry: &FileEntry) -> Result<(), Failure> {
        let Shape::Folder(root) = &self.shape else {
            return Err(senseless("an entry below no folder"));
        };
        let (above, name) = checked(&entry.path)?;
        if !above.is_empty() && self.seen.get(&self.hasher.hash_one(above)) != Some(&true) {
            let path = visible(&entry.path);
            return Err(senseless(&format!("`{path}` and not the folder above it")));
        }
        let folder = entry.kind() == FileKind::Folder;
        let hash = self.hasher.hash_one(&entry.path[..]);
        if self.seen.insert(hash, folder).is_some() {
            return Err(senseless(&format!("`{}` twice", visible(&entry.path))));
        }
        let path = self.landing.path().join(OsStr::from_bytes(&entry.path));
        if !folder && entry.kind() != FileKind::File {
            let what = match entry.kind() {
                FileKind::Link => "a link",
                _ => "neither a file nor a folder",
            };
            let whole = format!("{}/", self.source).into_bytes();
            self.skipped.add(&[&whole[..], &entry.path].concat(), what);
            return Ok(());
        }
        let above = match above {
            b"" => OsStr::new("."),
            above => OsStr::from_bytes(above),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let above = openat2(root, above, flags, Mode::empty(), beneath);
        let above = above.map_err(|errno| cannot(&shown(&path), &errno.into()))?;
        let name = OsStr::from_bytes(name);
        match folder {
            true => make_folder(above.as_fd(), name, entry.mode, &path).map(drop),
            false => self.file(above, name.to_owned(), entry, path),
        }
    }

    fn file(
        &mut self,
        folder: OwnedFd,
        name: OsString,
        entry: &FileEntry,
        path: PathBuf,
    ) -> Result<(), Failure> {
        let mut unfinished = Unfinished::create(folder, name, entry, path)?;
        match entry.size_bytes {
            0 => unfinished.finish(),
            _ => {
                self.open = Some(unfinished);
                Ok(())
            }
        }
    }

    /// Takes a piece of the file that came last.
    pub(super) fn data(&mut self, data: &Bytes) -> Result<(), Failure> {
        let Some(open) = &mut self.open else {
            return Err(senseless("data of no file"));
        };
        let left = open.left.checked_sub(data.len() as u64);
        open.left = left.ok_or_else(|| senseless("more data than a file has"))?;
        let written = open.file.write_all(data);
        written.map_err(|error| cannot(&shown(&open.path), &error))?;
        if open.left == 0 {
            open.finish()?;
            self.open = None;
        }
        Ok(())
    }

    /// Everything has come. Gives what was passed over.
    pub(super) fn finish(self) -> Result<Skipped, Failure> {
        match (&self.shape, &self.open) {
            (Shape::Unknown, _) => Err(senseless("nothing")),
            (_, Some(_)) => Err(senseless("an end within a file")),
            (_, None) => Ok(self.skipped),
        }
    }
}

/// A file under another name. It is removed, unless it was finished.
#[derive(Debug)]
struct Unfinished {
    folder: OwnedFd,
    name: OsString,
    /// What it is called until it is whole.
    other_name: Option<String>,
    file: File,
    left: u64,
    path: PathBuf,
}

impl Unfinished {
    fn create(
        folder: OwnedFd,
        name: OsString,
        entry: &FileEntry,
        path: PathBuf,
    ) -> Result<Self, Failure> {
        let fail = |errno: Errno| cannot(&shown(&path), &errno.into());
        check_free(folder.as_fd(), &name, &path)?;
        let other_name = unused_name();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The kernel takes our umask off, as from every new file.
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = openat(&folder, &other_name, flags, mode).map_err(fail)?;
        Ok(Self {
            folder,
            name,
            other_name: Some(other_name),
            file: file.into(),
            left: entry.size_bytes,
            path,
        })
    }

    fn finish(&mut self) -> Result<(), Failure> {
        check_free(self.folder.as_fd(), &self.name, &self.path)?;
        if let Some(other_name) = &self.other_name {
            let renamed = renameat(&self.folder, other_name, &self.folder, &self.name);
            renamed.map_err(|errno| cannot(&shown(&self.path), &errno.into()))?;
        }
        self.other_name = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(name) = &self.other_name {
            let _gone_is_fine = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// Nothing but a regular file is replaced.
fn check_free(folder: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Failure> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(cannot(&shown(path), &errno.into())),
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(()),
            FileType::Directory => Err(in_the_way(path, "a folder")),
            FileType::Symlink => Err(in_the_way(path, "a link")),
            _ => Err(in_the_way(path, "neither a file nor a folder")),
        },
    }
}

/// Makes a folder. One that is there stays as it is.
fn make_folder(
    above: BorrowedFd<'_>,
    name: &OsStr,
    mode: u32,
    path: &Path,
) -> Result<OwnedFd, Failure> {
    let mode = Mode::from_raw_mode(mode & 0o777 | FOLDER_BITS);
    match mkdirat(above, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(cannot(&shown(path), &errno.into())),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => in_the_way(path, "not a folder"),
        errno => cannot(&shown(path), &errno.into()),
    })
}

/// The path of an entry: what is above it, and its name. All of plain names.
fn checked(path: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
    if path.contains(&0) || !path.split(|byte| *byte == b'/').all(plain) {
        let path = visible(path);
        return Err(senseless(&format!("`{path}`, which is no path below it")));
    }
    Ok(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    })
}

/// A name for what must not be seen.
pub(super) fn unused_name() -> String {
    format!(".isol8-{:016x}", RandomState::new().hash_one(()))
}

fn in_the_way(path: &Path, what: &str) -> Failure {
    let path = shown(path);
    let message = format!("cannot write `{path}`");
    Failure::new(FailureKind::Internal, message)
        .cause(format!("what is there is {what}"))
        .hint("remove it, or copy to another folder")
}

/// Of the disk here, under this name.
pub(super) fn cannot(name: &str, error: &io::Error) -> Failure {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    let kind = match full.contains(&error.kind()) {
        true => FailureKind::NoSpace,
        false => FailureKind::Internal,
    };
    Failure::new(kind, format!("cannot write `{name}`")).because(error)
}

/// Nothing that holds to the protocol sends this.
pub(super) fn senseless(what: &str) -> Failure {
    let message = "what came out of the session makes no sense, the copy is not whole";
    Failure::new(FailureKind::Internal, message)
        .cause(format!("it sent {what}"))
        .hint("`isol8 daemon logs` may say more")
}
