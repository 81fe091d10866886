//! The tables, and how a file is known to have them.

use rusqlite::{Connection, TransactionBehavior};

/// "isl8", so that `file` and we know it.
const APPLICATION: i64 = 0x6973_6c38;
/// Of the tables below.
pub(super) const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE keys (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    -- Stands for the key in the names of its sessions: it stays when the text
    -- changes, and is never drawn twice.
    owner        TEXT NOT NULL UNIQUE,
    admin        INTEGER NOT NULL CHECK (admin IN (0, 1)),
    policy       TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    expires_ms   INTEGER,
    last_used_ms INTEGER
) STRICT;
CREATE TABLE texts (
    key      INTEGER NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    -- SHA-256; the text itself is nowhere.
    digest   BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- Until then a text that was replaced goes on working; null for the current one.
    until_ms INTEGER
) STRICT;
CREATE INDEX texts_of_key ON texts (key);
";

/// What a file is to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    /// Nothing is in it.
    Empty,
    /// A newer isol8 made it.
    Newer(i64),
    /// Somebody else's.
    Foreign,
}

pub(super) fn kind(connection: &Connection) -> rusqlite::Result<Kind> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    Ok(match (number("PRAGMA application_id")?, version) {
        (APPLICATION, VERSION) => Kind::Ours,
        (APPLICATION, version) if version > VERSION => Kind::Newer(version),
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Kind::Empty,
        _ => Kind::Foreign,
    })
}

/// Makes the tables, unless another process just did.
pub(super) fn make(connection: &mut Connection) -> rusqlite::Result<()> {
    let all = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if kind(&all)? == Kind::Empty {
        all.execute_batch(TABLES)?;
        all.pragma_update(None, "application_id", APPLICATION)?;
        all.pragma_update(None, "user_version", VERSION)?;
    }
    all.commit()
}
