//! How much the files of a session are.

use std::time::Duration;

use isol8_core::failure::Failure;
use isol8_engine::link::Link;
use isol8_proto::init::{Fetch, Root, to_init};
use tokio::time::timeout;

use super::{
    Trouble, breach,
    entries::{Entries, Piece, ReadError},
    lost, silent,
};

/// Past so many files and folders nobody counts.
pub(super) const MOST_ENTRIES: u32 = 200_000;

/// A list of sessions does not wait longer for one of them.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Bytes of all files below /sandbox and /tmp, by their names alone. With more
/// than 200 000 entries, or where a program changes them meanwhile, it is what
/// was counted until then.
///
/// # Errors
/// `SessionLost`, `EngineTimeout` after 2 s, `Internal`: the stream to init must
/// be closed after each of them.
///
/// # Cancellation
/// Not cancel safe: the stream to init must then be closed.
pub(crate) async fn size(link: &mut Link) -> Result<u64, Failure> {
    let counted = timeout(LIMIT, count(link)).await;
    let counted = counted.unwrap_or_else(|_| Err(silent(LIMIT)));
    counted.map_err(Trouble::into_failure)
}

async fn count(link: &mut Link) -> Result<u64, Trouble> {
    let mut bytes = 0_u64;
    let mut left = MOST_ENTRIES;
    for root in [Root::Sandbox, Root::Tmp] {
        let order = Fetch {
            root: root.into(),
            max_entries: left,
            names_only: true,
            ..Fetch::default()
        };
        let mut entries = Entries::of(&order);
        let fetch = to_init::Message::Fetch(order);
        let sent = link.writer.send(fetch).await;
        sent.map_err(|error| lost(&error))?;
        loop {
            match entries.next(&mut link.reader).await {
                Ok(Piece::Entry(_)) => {}
                Ok(Piece::Data(_)) => return Err(breach("sent data for names")),
                Ok(Piece::End(_)) | Err(ReadError::Refused(_)) => break,
                Err(ReadError::Lost(error)) => return Err(lost(&error)),
                Err(ReadError::Breach(how)) => return Err(breach(how)),
            }
        }
        bytes = bytes.saturating_add(entries.sent().bytes);
        left -= entries.sent().entries;
    }
    Ok(bytes)
}
