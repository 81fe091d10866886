//! The database of keys: what `isol8 key` writes and `isol8 serve` reads.
//!
//! SQLite with a rollback journal: a gateway that may only read the file needs
//! nothing beside it. Only digests are in it.

mod place;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use isol8_core::{
    config,
    failure::{Failure, FailureKind},
};
use jiff::Timestamp;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior,
    params,
};

pub(super) use place::{Identity, look};
use schema::Kind;

use super::{Digest, Key, KeyName, digest_of};

/// Another process that writes is done by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// What every text begins with, so that it is known where it turns up.
const PREFIX: &str = "isol8_";
/// Nobody guesses as many.
const RANDOM_BYTES: usize = 32;
/// As many hex digits as `OWNER_CHARS` stand for a key's sessions.
const OWNER_BYTES: usize = 8;

/// The database, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is called.
    pub name: KeyName,
    /// It may clean up.
    pub is_admin: bool,
    /// From then on it opens nothing.
    pub expires: Option<Timestamp>,
    /// Its ceiling, below the gateway's.
    pub policy: config::Policy,
}

/// A new text for a key.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Until then the text that it had goes on working.
    pub keep: Option<Timestamp>,
    /// When it expires from now on; `None` leaves it as it is.
    pub expires: Option<Timestamp>,
}

/// A key as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it is called.
    pub name: String,
    /// It may clean up.
    pub is_admin: bool,
    /// Its ceiling, below the gateway's.
    pub policy: config::Policy,
    /// When it was made.
    pub created: Timestamp,
    /// From then on it opens nothing.
    pub expires: Option<Timestamp>,
    /// When it was last used, to about a minute.
    pub last_used: Option<Timestamp>,
    pub(super) owner: String,
    texts: Vec<(Digest, Option<Timestamp>)>,
}

impl Stored {
    /// Until when a text that was replaced goes on working.
    #[must_use]
    pub fn old_text_until(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.texts.iter().filter_map(|(_, until)| *until);
        ends.filter(|until| *until > now).max()
    }

    /// One for each text.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.texts.iter().map(|(digest, until)| {
            let key = Key::of_digest(self.name.clone(), *digest, self.owner.clone());
            Key {
                is_admin: self.is_admin,
                expires: [self.expires, *until].into_iter().flatten().min(),
                ..key.with_policy(self.policy.clone())
            }
        })
    }
}

impl Store {
    /// Opens the database, and makes it with its folder if it is not there.
    ///
    /// # Errors
    /// It cannot be made, is open to others, or is of a newer isol8.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        place::make(path)?;
        Self::find(path)?.ok_or_else(|| {
            let shown = path.display();
            let message = format!("the key database `{shown}` is gone again");
            Failure::new(FailureKind::HostLacks, message)
        })
    }

    /// As [`Store::open`], but makes nothing: `None` where there is none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn find(path: &Path) -> Result<Option<Self>, Failure> {
        if look(path)?.is_none() {
            return Ok(None);
        }
        let failed = |error: &rusqlite::Error| trouble(path, error);
        // Where the file may only be read, this opens it for that.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed(&error))?;
        prepare(&mut connection).map_err(|error| failed(&error))?;
        let kind = schema::kind(&connection).map_err(|error| failed(&error))?;
        let shown = path.display();
        match kind {
            Kind::Ours => {}
            // Of somebody who is about to fill it, and we may not.
            Kind::Empty => return Ok(None),
            Kind::Newer(version) => {
                let message = format!("the key database `{shown}` is of a newer isol8");
                let ours = schema::VERSION;
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .cause(format!("its version is {version}, this isol8 knows {ours}"))
                    .hint("use the isol8 that made it, or a newer one"));
            }
            Kind::Foreign => {
                let message = format!("`{shown}` is no key database of isol8");
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .hint("name another place with `--keys-db`"));
            }
        }
        Ok(Some(Self {
            connection,
            path: path.to_path_buf(),
        }))
    }

    fn failed(&self, error: &rusqlite::Error) -> Failure {
        trouble(&self.path, error)
    }

    /// All or nothing, with nobody else who writes in between; and where, for errors.
    fn begin(&mut self) -> Result<(Transaction<'_>, &Path), Failure> {
        let path = &self.path;
        let all = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        Ok((all.map_err(|error| trouble(path, &error))?, path))
    }

    /// Makes a key. Its text is handed to `deliver`, and the key is there only when
    /// that succeeds: a key whose text nobody has seen is of no use.
    ///
    /// # Errors
    /// There is one of that name, `deliver` failed, or the database did.
    pub fn add<T>(
        &mut self,
        new: &NewKey,
        now: Timestamp,
        deliver: impl FnOnce(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (all, path) = self.begin()?;
        let failed = |error: rusqlite::Error| trouble(path, &error);
        if id_of(&all, &new.name).map_err(failed)?.is_some() {
            let name = &new.name;
            let message = format!("there is a key `{name}` already");
            return Err(Failure::new(FailureKind::InvalidRequest, message).hint(format!(
                "`isol8 key rotate {name}` gives it a new text, `isol8 key rm {name}` removes it"
            )));
        }
        let policy = serde_json::Value::from(new.policy.given()).to_string();
        let owner = HEXLOWER.encode(&random::<OWNER_BYTES>());
        let expires = new.expires.map(Timestamp::as_millisecond);
        all.execute(
            "INSERT INTO keys (name, owner, admin, policy, created_ms, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                new.name.as_str(),
                owner,
                new.is_admin,
                policy,
                now.as_millisecond(),
                expires
            ],
        )
        .map_err(failed)?;
        let id = all.last_insert_rowid();
        let text = new_text(&all, id).map_err(failed)?;
        let delivered = deliver(&text)?;
        all.commit().map_err(failed)?;
        Ok(delivered)
    }

    /// Gives a key a new text. It stays the same key: with its sessions, what runs
    /// under it, and its ceiling.
    ///
    /// # Errors
    /// There is none of that name, `deliver` failed, or the database did.
    pub fn rotate<T>(
        &mut self,
        name: &KeyName,
        rotation: &Rotation,
        now: Timestamp,
        deliver: impl FnOnce(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (all, path) = self.begin()?;
        let failed = |error: rusqlite::Error| trouble(path, &error);
        let id = id_of(&all, name).map_err(failed)?;
        let id = id.ok_or_else(|| unknown(name))?;
        match rotation.keep {
            None => all.execute("DELETE FROM texts WHERE key = ?1", [id]),
            Some(until) => {
                let over = "DELETE FROM texts WHERE key = ?1 AND until_ms <= ?2";
                all.execute(over, params![id, now.as_millisecond()])
                    .map_err(failed)?;
                let keep = "UPDATE texts SET until_ms = ?2 WHERE key = ?1 AND until_ms IS NULL";
                all.execute(keep, params![id, until.as_millisecond()])
            }
        }
        .map_err(failed)?;
        if let Some(expires) = rotation.expires {
            let renew = "UPDATE keys SET expires_ms = ?2 WHERE id = ?1";
            all.execute(renew, params![id, expires.as_millisecond()])
                .map_err(failed)?;
        }
        let text = new_text(&all, id).map_err(failed)?;
        let delivered = deliver(&text)?;
        all.commit().map_err(failed)?;
        Ok(delivered)
    }

    /// Removes a key. Its sessions are nobody's any more.
    ///
    /// # Errors
    /// There is none of that name, or the database failed.
    pub fn remove(&mut self, name: &KeyName) -> Result<(), Failure> {
        let remove = "DELETE FROM keys WHERE name = ?1";
        let removed = self.connection.execute(remove, [name.as_str()]);
        match removed.map_err(|error| self.failed(&error))? {
            0 => Err(unknown(name)),
            _ => Ok(()),
        }
    }

    /// Every key, by name. One that makes no sense is an error of its own: it opens
    /// nothing, and the others do.
    ///
    /// # Errors
    /// The database failed.
    pub fn list(&self) -> Result<Vec<Result<Stored, Failure>>, Failure> {
        self.rows().map_err(|error| self.failed(&error))
    }

    fn rows(&self) -> rusqlite::Result<Vec<Result<Stored, Failure>>> {
        // One statement is one moment: no key is seen without its texts.
        let mut all = self.connection.prepare(
            "SELECT id, name, owner, admin, policy, created_ms, expires_ms, last_used_ms,
                    digest, until_ms
             FROM keys LEFT JOIN texts ON key = id ORDER BY name, id, until_ms",
        )?;
        let mut rows = all.query([])?;
        let mut listed: Vec<Result<Stored, Failure>> = Vec::new();
        let mut last = None;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get("id")?;
            if last != Some(id) {
                last = Some(id);
                let name: String = row.get("name")?;
                listed.push(stored(row, &name).map_err(|why| self.senseless(&name, &why)));
            }
            let text: Option<Digest> = row.get("digest")?;
            if let (Some(Ok(key)), Some(text)) = (listed.last_mut(), text) {
                let until = row.get::<_, Option<i64>>("until_ms")?;
                // A time that makes no sense is over.
                let until = until.map(|until| moment(until).unwrap_or(Timestamp::MIN));
                key.texts.push((text, until));
            }
        }
        Ok(listed)
    }

    fn senseless(&self, name: &str, why: &str) -> Failure {
        let shown = self.path.display();
        let message = format!("the key `{name}` in `{shown}` makes no sense");
        Failure::new(FailureKind::Internal, message)
            .cause(why)
            .hint(format!("remove it with `isol8 key rm {name}`"))
    }

    /// Changes when another connection has written.
    pub(super) fn version(&self) -> Result<i64, Failure> {
        let version = self
            .connection
            .query_row("PRAGMA data_version", [], |row| row.get(0));
        version.map_err(|error| self.failed(&error))
    }

    /// Nothing is written where the file may only be read.
    pub(super) fn can_write(&self) -> bool {
        self.connection
            .is_readonly("main")
            .is_ok_and(|readonly| !readonly)
    }

    /// Waits less for others than who is at a terminal does.
    pub(super) fn hurry(&self, patience: Duration) -> Result<(), Failure> {
        let set = self.connection.busy_timeout(patience);
        set.map_err(|error| self.failed(&error))
    }

    /// Notes when the key with these sessions was used.
    pub(super) fn note_use(&self, owner: &str, used_ms: i64) -> Result<(), Failure> {
        let note = "UPDATE keys SET last_used_ms = max(?2, coalesce(last_used_ms, ?2))
                    WHERE owner = ?1";
        let noted = self.connection.execute(note, params![owner, used_ms]);
        noted.map(drop).map_err(|error| self.failed(&error))
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // A digest that was removed does not stay in the file.
    connection.pragma_update(None, "secure_delete", true)?;
    if schema::kind(connection)? == Kind::Empty && !connection.is_readonly("main")? {
        schema::make(connection)?;
    }
    Ok(())
}

fn stored(row: &rusqlite::Row<'_>, name: &str) -> Result<Stored, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let time = |column: &str| -> Result<Option<Timestamp>, String> {
        let ms: Option<i64> = row.get(column).map_err(text)?;
        ms.map(moment).transpose()
    };
    let policy: String = row.get("policy").map_err(text)?;
    let policy = serde_json::from_str(&policy).map_err(|error| format!("its policy: {error}"))?;
    Ok(Stored {
        name: name.to_owned(),
        is_admin: row.get("admin").map_err(text)?,
        policy,
        created: time("created_ms")?.unwrap_or(Timestamp::UNIX_EPOCH),
        expires: time("expires_ms")?,
        last_used: time("last_used_ms")?,
        owner: row.get("owner").map_err(text)?,
        texts: Vec::new(),
    })
}

fn moment(ms: i64) -> Result<Timestamp, String> {
    Timestamp::from_millisecond(ms).map_err(|error| error.to_string())
}

fn id_of(connection: &Connection, name: &KeyName) -> rusqlite::Result<Option<i64>> {
    let find = "SELECT id FROM keys WHERE name = ?1";
    connection
        .query_row(find, [name.as_str()], |row| row.get(0))
        .optional()
}

/// Draws a text for the key, and keeps its digest.
fn new_text(connection: &Connection, id: i64) -> rusqlite::Result<String> {
    let random = BASE32_NOPAD.encode(&random::<RANDOM_BYTES>());
    let text = format!("{PREFIX}{}", random.to_ascii_lowercase());
    let insert = "INSERT INTO texts (key, digest) VALUES (?1, ?2)";
    connection.execute(insert, params![id, digest_of(&text)])?;
    Ok(text)
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).expect("the kernel's random source answers");
    random
}

fn unknown(name: &KeyName) -> Failure {
    Failure::new(FailureKind::NotFound, format!("there is no key `{name}`"))
        .hint("`isol8 key ls` lists them")
}

fn trouble(path: &Path, error: &rusqlite::Error) -> Failure {
    let shown = path.display();
    let code = error.sqlite_error_code();
    let (kind, message, hint) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            FailureKind::AtCapacity,
            format!("the key database `{shown}` is in use"),
            Some("try again in a moment"),
        ),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
            FailureKind::Unsupported,
            format!("the key database `{shown}` is damaged, or is none"),
            Some("move it away, and make the keys again with `isol8 key add`"),
        ),
        Some(ErrorCode::DiskFull) => (
            FailureKind::NoSpace,
            format!("cannot write to the key database `{shown}`"),
            None,
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
            FailureKind::Forbidden,
            format!("cannot write to the key database `{shown}`, or to its folder"),
            Some("do it as the user whose it is"),
        ),
        _ => (
            FailureKind::Internal,
            format!("cannot use the key database `{shown}`"),
            None,
        ),
    };
    let failure = Failure::new(kind, message).because(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
