//! Lines on their way to where they stay, and those that could not get there
//! yet.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    time::Duration,
};

use jiff::Timestamp;

use super::{days::Days, entry::Entry, line::lines};

/// What is kept for a disk that is full. Nothing starts meanwhile, so that only
/// runs under way can add to it.
const BACKLOG_BYTES: usize = 16 << 20;

/// How often a backlog is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often old files are looked for when nothing happens.
const TIDY: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Log {
    place: Place,
    /// In order; each was due before every line that comes now.
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
}

#[derive(Debug)]
enum Place {
    Files(Days),
    Stderr,
}

impl Log {
    pub(super) fn in_files(days: Days) -> Self {
        Self::new(Place::Files(days))
    }

    /// Line by line into the daemon's own log, whatever its filter lets through.
    pub(super) fn on_stderr() -> Self {
        Self::new(Place::Stderr)
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
        }
    }

    /// Records an entry. One that is no condition of anything is kept where it
    /// cannot be written.
    ///
    /// # Errors
    /// A condition is not written, or there is no room left to keep a line.
    pub(super) fn record(&mut self, entry: &Entry, now: Timestamp) -> io::Result<()> {
        let condition = entry.is_condition();
        let mut result = Ok(());
        for line in lines(entry, now) {
            let written = self.retry(now).and_then(|()| self.append(&line, now));
            if let Err(error) = written {
                if condition {
                    return Err(error);
                }
                result = result.and(self.keep(line, error));
            }
        }
        result
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// It still cannot.
    pub(super) fn retry(&mut self, now: Timestamp) -> io::Result<()> {
        let late = self.backlog.len();
        while let Some(line) = self.backlog.pop_front() {
            if let Err(error) = self.append(&line, now) {
                self.backlog.push_front(line);
                return Err(error);
            }
            self.backlog_bytes -= line.len();
        }
        if late > 0 {
            tracing::warn!(lines = late, "late lines of the audit log are written");
        }
        Ok(())
    }

    /// Does what is due though nobody brought an entry.
    pub(super) fn idle(&mut self, now: Timestamp) {
        // It was told when it began.
        let _still_full = self.retry(now);
        if let Place::Files(days) = &mut self.place {
            days.tidy(now);
        }
    }

    /// When to call [`Log::idle`] at the latest.
    pub(super) fn patience(&self) -> Duration {
        match self.backlog.is_empty() {
            true => TIDY,
            false => RETRY,
        }
    }

    /// The last chance.
    pub(super) fn finish(&mut self, now: Timestamp) {
        if let Err(error) = self.retry(now) {
            let lines = self.backlog.len();
            tracing::error!(%error, lines, "lines of the audit log are lost");
        }
    }

    fn append(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        match &mut self.place {
            Place::Files(days) => days.append(line, now),
            Place::Stderr => io::stderr().lock().write_all(line),
        }
    }

    fn keep(&mut self, line: Vec<u8>, error: io::Error) -> io::Result<()> {
        if self.backlog_bytes + line.len() > BACKLOG_BYTES {
            return Err(error);
        }
        if self.backlog.is_empty() {
            tracing::error!(%error, "the audit log cannot be written: nothing starts until it can");
        }
        self.backlog_bytes += line.len();
        self.backlog.push_back(line);
        Ok(())
    }
}
