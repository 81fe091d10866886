//! Puts the keys of all sources together, and looks for changes.
//!
//! A [`Keeper`] has a thread of its own: files and databases are read there, and
//! nowhere near the tasks that answer requests.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use isol8_core::failure::{Failure, FailureKind};
use jiff::Timestamp;

use super::{
    Key, Keys, file,
    store::{self, Identity, Store},
};

/// How often the database is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Another process that writes to the database is waited for so long; then the
/// next look has its turn.
const PATIENCE: Duration = Duration::from_millis(200);
/// How exactly it is noted when a key was last used.
const USE_GRAIN_MS: i64 = 60_000;

/// Where keys come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Given by who started the gateway.
    pub given: Vec<Key>,
    /// A file of keys, read again when asked for.
    pub file: Option<PathBuf>,
    /// The folder of systemd's credentials: files in it may be read by a group.
    pub credentials: Option<PathBuf>,
    /// The database, used as soon as it is there.
    pub store: Option<PathBuf>,
}

/// Who looks after the keys of a gateway.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    of_file: Vec<Key>,
    of_store: Vec<Key>,
    open: Option<Open>,
    /// When keys of the database were last used, as far as it knows.
    noted_ms: HashMap<String, i64>,
    /// What was last said about the database. Said once, not at every look.
    said: Option<String>,
    keys: Keys,
}

/// The database as it was last read.
#[derive(Debug)]
struct Open {
    store: Store,
    identity: Identity,
    version: i64,
}

impl Keeper {
    /// Reads all sources.
    ///
    /// # Errors
    /// A source cannot be used, two sources have the same key, or no key would open
    /// the gateway.
    pub fn new(sources: Sources) -> Result<Self, Failure> {
        let mut keeper = Self {
            of_file: read_file(&sources)?,
            sources,
            of_store: Vec::new(),
            open: None,
            noted_ms: HashMap::new(),
            said: None,
            keys: Keys::default(),
        };
        let given = keeper.sources.given.iter();
        if let Some(clash) = first_clash(given, &keeper.of_file) {
            return Err(clash);
        }
        let mut wrong = keeper.read_store()?;
        wrong.extend(keeper.take_out_clashes());
        if let Some(wrong) = wrong.into_iter().next() {
            return Err(wrong);
        }
        keeper.check_any()?;
        keeper.publish();
        Ok(keeper)
    }

    /// The keys, which change for who holds them.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// How many keys there are, and from where.
    #[must_use]
    pub fn summary(&self) -> String {
        let now = Timestamp::now();
        let all = || self.all();
        let mut names: Vec<_> = all().map(|key| &key.owner).collect();
        names.sort_unstable();
        names.dedup();
        let expired = all().filter(|key| key.is_expired(now)).count();
        let mut text = match names.len() {
            1 => "1 key".to_owned(),
            many => format!("{many} keys"),
        };
        let sources = [
            (self.sources.given.len(), "given"),
            (self.of_file.len(), "in the keys file"),
            (
                names.len() - self.sources.given.len() - self.of_file.len(),
                "in the key database",
            ),
        ];
        let parts = sources.into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(count, place)| format!("{count} {place}"))
            .collect();
        text += &format!(": {}", parts.join(", "));
        if expired > 0 {
            text += &format!("; {expired} expired");
        }
        text
    }

    /// Looks after the keys until nobody holds the other end: each message is the
    /// order to read the keys file again. Does not return before; it belongs on a
    /// thread of its own.
    pub fn keep(mut self, orders: &Receiver<()>) {
        loop {
            match orders.recv_timeout(POLL) {
                Ok(()) => self.reread_file(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    /// Takes the file's keys as they are now, or leaves those from before.
    fn reread_file(&mut self) {
        if self.sources.file.is_none() {
            tracing::info!("there is no keys file to read again");
            return;
        }
        let others = self.sources.given.iter().chain(&self.of_store);
        let read = read_file(&self.sources).and_then(|keys| match first_clash(others, &keys) {
            None => Ok(keys),
            Some(clash) => Err(clash),
        });
        match read {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the keys file was read again");
                self.of_file = keys;
                self.publish();
            }
            Err(failure) => tracing::error!(
                error = %failure,
                "the keys file was not taken: the keys from before stay"
            ),
        }
    }

    /// Looks whether the database has changed, and tells it which keys were used.
    fn look(&mut self) {
        let looked = self.refresh().and_then(|()| self.note_use());
        let said = looked.err().map(|failure| failure.to_string());
        if said != self.said
            && let Some(error) = &said
        {
            tracing::error!(error, "the key database failed: the keys from before stay");
        }
        self.said = said;
    }

    fn refresh(&mut self) -> Result<(), Failure> {
        if !self.has_changed()? {
            return Ok(());
        }
        let before = self.of_store.clone();
        let mut wrong = self.read_store()?;
        wrong.extend(self.take_out_clashes());
        for wrong in wrong {
            tracing::error!(error = %wrong, "a key opens nothing");
        }
        // It also changes when another gateway notes when a key was used.
        if before != self.of_store {
            self.publish();
            tracing::info!(keys = self.of_store.len(), "the key database has changed");
        }
        Ok(())
    }

    fn has_changed(&self) -> Result<bool, Failure> {
        let Some(path) = &self.sources.store else {
            return Ok(false);
        };
        let found = store::look(path)?;
        Ok(match (&self.open, found) {
            (None, found) => found.is_some(),
            (Some(open), Some(found)) if open.identity == found => {
                open.store.version()? != open.version
            }
            (Some(_), _) => true,
        })
    }

    /// Reads the database, and gives what is wrong with single keys of it. Where
    /// there is none (any more) it has no keys.
    fn read_store(&mut self) -> Result<Vec<Failure>, Failure> {
        let Some(path) = &self.sources.store else {
            return Ok(Vec::new());
        };
        let identity = store::look(path)?;
        let same = |open: &Open| Some(open.identity) == identity;
        let store = match (self.open.take_if(|open| same(open)), identity) {
            (Some(open), _) => Some(open.store),
            (None, Some(_)) => Store::find(path)?,
            (None, None) => None,
        };
        let (Some(store), Some(identity)) = (store, identity) else {
            self.open = None;
            self.of_store.clear();
            return Ok(Vec::new());
        };
        store.hurry(PATIENCE)?;
        // Before the keys: what is written meanwhile is seen by the next look.
        let version = store.version()?;
        let listed = store.list()?;
        self.open = Some(Open {
            store,
            identity,
            version,
        });
        self.of_store.clear();
        let mut wrong = Vec::new();
        for stored in listed {
            match stored {
                Ok(stored) => {
                    if let Some(used) = stored.last_used {
                        let used_ms = used.as_millisecond();
                        self.noted_ms.insert(stored.owner.clone(), used_ms);
                    }
                    self.of_store.extend(stored.keys());
                }
                Err(failure) => wrong.push(failure),
            }
        }
        Ok(wrong)
    }

    fn note_use(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open.as_ref().filter(|open| open.store.can_write()) else {
            return Ok(());
        };
        let stored = |owner: &String| self.of_store.iter().any(|key| key.owner == *owner);
        for (owner, used_ms) in self.keys.used() {
            let noted_ms = self.noted_ms.get(&owner).copied().unwrap_or(i64::MIN);
            if stored(&owner) && used_ms.saturating_sub(noted_ms) >= USE_GRAIN_MS {
                open.store.note_use(&owner, used_ms)?;
                self.noted_ms.insert(owner, used_ms);
            }
        }
        Ok(())
    }

    /// Takes keys out of the database's whose text another source has too: it
    /// would not be known who comes with it.
    fn take_out_clashes(&mut self) -> Vec<Failure> {
        let mut found = Vec::new();
        let fixed = || self.sources.given.iter().chain(&self.of_file);
        self.of_store.retain(|key| {
            let clash = first_clash(fixed(), std::slice::from_ref(key));
            let stays = clash.is_none();
            found.extend(clash);
            stays
        });
        found
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        let fixed = self.sources.given.iter().chain(&self.of_file);
        fixed.chain(&self.of_store)
    }

    fn publish(&self) {
        self.keys.replace(self.all().cloned().collect());
    }

    fn check_any(&self) -> Result<(), Failure> {
        let now = Timestamp::now();
        if self.all().any(|key| !key.is_expired(now)) {
            return Ok(());
        }
        let failure = Failure::new(FailureKind::InvalidRequest, "API key required");
        if self.all().next().is_some() {
            let failure = failure.cause("every key has expired");
            return Err(failure.hint("`isol8 key rotate <name> --expires 90d` renews one"));
        }
        let failure = match (&self.open, &self.sources.file, &self.sources.store) {
            (_, Some(file), _) => {
                failure.cause(format!("the keys file `{}` has none", file.display()))
            }
            (Some(_), None, Some(path)) => {
                failure.cause(format!("the key database `{}` has none", path.display()))
            }
            _ => failure,
        };
        Err(failure.hint(
            "make one with `isol8 key add <name>`, or give it with `--key <key>`, ISOL8_API_KEY \
             or `--keys-file <path>`",
        ))
    }
}

/// The first of `keys` whose text one of the others has.
fn first_clash<'a>(others: impl Iterator<Item = &'a Key>, keys: &[Key]) -> Option<Failure> {
    let others: HashMap<_, _> = others.map(|key| (key.digest, &key.name)).collect();
    let (key, other) = keys
        .iter()
        .find_map(|key| Some((key, others.get(&key.digest)?)))?;
    let message = format!("the keys `{}` and `{other}` are the same", key.name);
    let failure = Failure::new(FailureKind::InvalidRequest, message);
    Some(failure.hint("give every key a text of its own, and each in one place"))
}

fn read_file(sources: &Sources) -> Result<Vec<Key>, Failure> {
    match &sources.file {
        Some(path) => file::read(path, sources.credentials.as_deref()),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests;
