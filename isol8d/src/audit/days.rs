//! One file for each day (UTC): `audit-2026-02-28.jsonl`, readable for us alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use isol8_core::failure::{Failure, FailureKind};
use jiff::{Timestamp, ToSpan as _, civil::Date, tz::Offset};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::paths::unusable;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct Days {
    folder: PathBuf,
    keep_days: u32,
    today: Option<Today>,
    /// When old files were last looked for.
    tidied: Option<Date>,
}

#[derive(Debug)]
struct Today {
    date: Date,
    path: PathBuf,
    file: File,
}

impl Days {
    /// Takes the operator's folder. One that is there keeps its mode.
    ///
    /// # Errors
    /// It cannot be used, or is not ours alone to write in.
    pub(super) fn open(folder: PathBuf, keep_days: u32, now: Timestamp) -> Result<Self, Failure> {
        make(&folder)?;
        Self::checked(folder, keep_days, now)
    }

    /// Takes a folder in our own state.
    ///
    /// # Errors
    /// As [`Days::open`].
    pub(super) fn open_own(
        folder: PathBuf,
        keep_days: u32,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        make(&folder)?;
        let closed = fs::Permissions::from_mode(FOLDER_MODE);
        fs::set_permissions(&folder, closed).map_err(|error| unusable(&folder, &error))?;
        Self::checked(folder, keep_days, now)
    }

    fn checked(folder: PathBuf, keep_days: u32, now: Timestamp) -> Result<Self, Failure> {
        check(&folder)?;
        let mut days = Self {
            folder,
            keep_days,
            today: None,
            tidied: None,
        };
        // A daemon that could not record should not come up first.
        let opened = days.today(now).map(drop);
        opened.map_err(|error| unusable(&days.folder, &error))?;
        days.tidy(now);
        Ok(days)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a line, whole or not at all.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be opened.
    pub(super) fn append(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let file = self.today(now)?;
        let added = add(file, line);
        self.tidy(now);
        added
    }

    /// Removes files of ours that are too old, once a day.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        let date = date(now);
        if self.tidied == Some(date) {
            return;
        }
        self.tidied = Some(date);
        if let Err(error) = self.remove_before(date) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "old files of the audit log cannot be removed");
        }
    }

    fn remove_before(&self, today: Date) -> io::Result<()> {
        let first = today.saturating_sub(i64::from(self.keep_days).days());
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let named = entry.file_name().to_str().and_then(date_of);
            if named.is_some_and(|date| date < first) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The file of the day; opened again if somebody moved or removed it.
    fn today(&mut self, now: Timestamp) -> io::Result<&File> {
        let date = date(now);
        let is_current = |today: &Today| today.date == date && today.is_in_place();
        let today = match self.today.take().filter(is_current) {
            Some(today) => today,
            None => Today::open(&self.folder, date)?,
        };
        Ok(&self.today.insert(today).file)
    }
}

impl Today {
    fn open(folder: &Path, date: Date) -> io::Result<Self> {
        let path = folder.join(name(date));
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).expect("flags are small");
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .custom_flags(flags)
            .open(&path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            let shown = path.display();
            return Err(io::Error::other(format!("`{shown}` is not a file")));
        }
        if found.mode() & 0o7777 != FILE_MODE {
            file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
        }
        end_broken_line(&file)?;
        Ok(Self { date, path, file })
    }

    fn is_in_place(&self) -> bool {
        let here = |path: &Path| fs::symlink_metadata(path).ok();
        match (here(&self.path), self.file.metadata()) {
            (Some(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
            _ => false,
        }
    }
}

/// Adds a line, with one write unless the disk is full. What a full disk took of it is taken back. Under
/// a lock, because another daemon may have been given the same folder.
fn add(file: &File, line: &[u8]) -> io::Result<()> {
    flock(file, FlockOperation::LockExclusive)?;
    let before = file.metadata()?.len();
    let mut writer = file;
    let mut written = writer.write_all(line);
    if written.is_err()
        && let Err(error) = file.set_len(before)
    {
        written = Err(error);
    }
    flock(file, FlockOperation::Unlock)?;
    written
}

/// A machine that lost its power may have left half a line.
fn end_broken_line(mut file: &File) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => add(file, b"\n"),
    }
}

fn make(folder: &Path) -> Result<(), Failure> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(FOLDER_MODE);
    builder
        .create(folder)
        .map_err(|error| unusable(folder, &error))
}

/// Who may write here may change what was recorded.
fn check(folder: &Path) -> Result<(), Failure> {
    let found = fs::metadata(folder).map_err(|error| unusable(folder, &error))?;
    let own = rustix::process::geteuid().as_raw();
    let why = match found.mode() {
        _ if found.uid() != own => format!("it belongs to uid {}, not to {own}", found.uid()),
        mode if mode & 0o022 != 0 => "others may write to it".to_owned(),
        _ => return Ok(()),
    };
    let message = format!(
        "will not keep the audit log in `{}`: {why}",
        folder.display()
    );
    let hint = "set `audit.logDir` to a folder that belongs to the daemon alone";
    Err(Failure::new(FailureKind::Forbidden, message).hint(hint))
}

fn date(now: Timestamp) -> Date {
    Offset::UTC.to_datetime(now).date()
}

fn name(date: Date) -> String {
    format!("audit-{date}.jsonl")
}

/// The day of a file of ours; nothing else in the folder is touched.
fn date_of(file: &str) -> Option<Date> {
    let text = file.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let date: Date = text.parse().ok()?;
    (name(date) == file).then_some(date)
}
