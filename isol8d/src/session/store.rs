//! `S/sessions.json`: which lasting sandboxes are whose.
//!
//! A session is written here before its first program starts, and taken out
//! before its sandbox is destroyed: whatever a killed daemon leaves is either in
//! the file, and adopted, or nobody's, and removed.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use isol8_engine::presence::{Presence, Spared};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::record::{Record, Written};

/// Of the form of the file.
const VERSION: u32 = 1;

const FILE: &str = "sessions.json";

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    sessions: Vec<Written>,
}

/// What every version of the file has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// The file and what is in it. Clones are the same store.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    records: Mutex<BTreeMap<SandboxId, Record>>,
    /// One writer at a time, in the order of the changes.
    writing: Mutex<()>,
    /// Something changed that could wait.
    stale: AtomicBool,
    spare: Option<Spare>,
}

/// Tells other daemons what to leave alone when this one is dead.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) presence: Presence,
    /// After its last use, so long.
    pub(crate) keep: Duration,
}

impl Store {
    /// Reads the file. One that is not there has no sessions.
    ///
    /// # Errors
    /// A file that cannot be read, or not understood: its sessions would be
    /// destroyed as nobody's.
    pub(crate) fn open(state_dir: &Path, spare: Option<Spare>) -> Result<Self, Failure> {
        let path = state_dir.join(FILE);
        let records = match fs::read_to_string(&path) {
            Ok(text) => read(&text).map_err(|why| refused(&path, &why))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(refused(&path, &error.to_string())),
        };
        Ok(Self(Arc::new(Inner {
            path,
            records: Mutex::new(records),
            writing: Mutex::new(()),
            stale: AtomicBool::new(false),
            spare,
        })))
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Record>> {
        // The map is whole between any two statements.
        self.0
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.records().values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Record> {
        self.records().get(id).cloned()
    }

    /// Writes a new record, and waits until it is on disk.
    ///
    /// # Errors
    /// `NoSpace` when it cannot be written. It is not kept then.
    ///
    /// # Cancellation
    /// It is there, and on disk soon.
    pub(crate) async fn put(&self, record: Record) -> Result<(), Failure> {
        let id = record.sandbox.clone();
        self.records().insert(id.clone(), record);
        let written = self.write().await;
        if written.is_err() {
            self.records().remove(&id);
        }
        written
    }

    /// Changes a record at once, where it is still there, to be written with the
    /// next [`Store::write`] or when there is time.
    pub(crate) fn change<T>(
        &self,
        id: &SandboxId,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Option<T> {
        let changed = self.records().get_mut(id).map(change);
        if changed.is_some() {
            self.0.stale.store(true, Ordering::Relaxed);
        }
        changed
    }

    /// Takes time that nobody lived through off every age.
    pub(crate) fn age_less(&self, time: Duration) {
        for record in self.records().values_mut() {
            record.used += time;
        }
        self.0.stale.store(true, Ordering::Relaxed);
    }

    /// Takes a record out at once, if it is `wanted`. Until the next
    /// [`Store::write`] it may come back with a restart.
    pub(crate) fn take(
        &self,
        id: &SandboxId,
        wanted: impl FnOnce(&Record) -> bool,
    ) -> Option<Record> {
        let mut records = self.records();
        if !records.get(id).is_some_and(wanted) {
            return None;
        }
        self.0.stale.store(true, Ordering::Relaxed);
        records.remove(id)
    }

    /// Writes what could wait.
    pub(crate) async fn settle(&self) {
        if self.0.stale.load(Ordering::Relaxed)
            && let Err(error) = self.write().await
        {
            tracing::warn!(%error, "the sessions could not be written down");
        }
    }

    /// Waits until all that is here is on disk.
    ///
    /// # Errors
    /// `NoSpace` when it cannot be written. It is tried again later.
    pub(crate) async fn write(&self) -> Result<(), Failure> {
        let inner = Arc::clone(&self.0);
        let written = spawn_blocking(move || inner.write()).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| {
            let message = format!("cannot write `{}`", self.0.path.display());
            Failure::new(FailureKind::NoSpace, message).because(&error)
        })
    }
}

impl Inner {
    fn write(&self) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.stale.store(false, Ordering::Relaxed);
        // Read inside the turn: the last who writes writes everything.
        let (content, spared) = {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let content = Content {
                version: VERSION,
                sessions: records.values().map(Written::of).collect(),
            };
            (content, self.spared(records.values()))
        };
        // First, so that nobody takes for nobody's what is about to be ours.
        let written = match &self.spare {
            Some(spare) => spare.presence.spare(&spared),
            None => Ok(()),
        };
        let written = written.and_then(|()| self.replace(&content));
        if written.is_err() {
            self.stale.store(true, Ordering::Relaxed);
        }
        written
    }

    fn spared<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Vec<Spared> {
        let Some(spare) = &self.spare else {
            return Vec::new();
        };
        let there = records.filter(|record| record.lost.is_none());
        there
            .map(|record| Spared {
                id: record.sandbox.clone(),
                until: record.used + spare.keep,
            })
            .collect()
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            // The tokens are nobody's business.
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn read(text: &str) -> Result<BTreeMap<SandboxId, Record>, String> {
    let Versioned { version } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!(
            "it is of version {version}, and this isol8d reads version {VERSION}"
        ));
    }
    let content: Content = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut records = BTreeMap::new();
    for (index, written) in content.sessions.into_iter().enumerate() {
        let record = written
            .read()
            .map_err(|field| format!("`{field}` of session {index} makes no sense"))?;
        records.insert(record.sandbox.clone(), record);
    }
    Ok(records)
}

fn refused(path: &Path, why: &str) -> Failure {
    let shown = path.display();
    Failure::new(
        FailureKind::Unsupported,
        format!("cannot take over the sessions of `{shown}`"),
    )
    .cause(why)
    .hint(format!(
        "start the isol8d that wrote it, or give its sessions up: `mv {shown} {shown}.old`"
    ))
}

#[cfg(test)]
mod tests;
