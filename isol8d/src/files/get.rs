//! Files of a session, read by init, for a client.

use bytes::Bytes;
use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::Link;
use isol8_proto::{
    init::{Entry, EntryKind, Fetch, to_init},
    v1,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    MAX_BYTES, MAX_ENTRIES, PATIENCE, Trouble, WINDOW_BYTES, breach,
    entries::{Entries, Piece, ReadError},
    lost,
    memory::Memory,
    outlet::{Outlet, Room},
    place::Place,
    refusal, silent, stopped,
};
use crate::convert::invalid;

/// Data up to this size is copied.
const SMALL_BYTES: usize = 16 << 10;

/// What a client wants to read.
#[derive(Debug)]
pub(crate) struct Ask {
    place: Place,
    names_only: bool,
    /// 0: all levels.
    depth: u32,
    /// `None`: all that can be there.
    max_bytes: Option<u64>,
    max_entries: u32,
}

impl Ask {
    /// # Errors
    /// `InvalidRequest`.
    pub(crate) fn of(asked: &v1::GetRequest) -> Result<Self, Failure> {
        if asked.depth > 0 && !asked.names_only {
            return Err(invalid("`depth` is for names alone")
                .hint("set `names_only` too, or leave out `depth`"));
        }
        Ok(Self {
            place: Place::parse(&asked.path)?,
            names_only: asked.names_only,
            depth: asked.depth,
            max_bytes: match asked.max_bytes {
                0 => None,
                asked => Some(most("max_bytes", asked, MAX_BYTES)?),
            },
            max_entries: most("max_entries", asked.max_entries, MAX_ENTRIES)?,
        })
    }

    /// A sparse file pretends to any size: nobody reads holes for ever.
    fn max_bytes(&self, memory: &Memory) -> u64 {
        let most = MAX_BYTES.min(memory.files_bytes());
        self.max_bytes.unwrap_or(most)
    }

    fn order(&self, memory: &Memory) -> Fetch {
        Fetch {
            path: self.place.path(),
            root: self.place.root(),
            max_bytes: self.max_bytes(memory),
            max_entries: self.max_entries,
            credit: WINDOW_BYTES,
            names_only: self.names_only,
            depth: self.depth,
            any_kind: true,
        }
    }

    fn limits(&self, memory: &Memory) -> String {
        let (max_bytes, max_entries) = (self.max_bytes(memory), self.max_entries);
        let most = format!("the most is {max_entries} files and folders, {max_bytes} bytes");
        match self.max_bytes {
            Some(_) => most,
            None => most + ", what the session has room for: files are sparse, or too many",
        }
    }
}

/// 0 stands for the most that there is.
fn most<T: PartialOrd + Default + std::fmt::Display>(
    field: &str,
    asked: T,
    most: T,
) -> Result<T, Failure> {
    if asked == T::default() {
        return Ok(most);
    }
    if asked > most {
        return Err(invalid(format!("`{field}` is {asked}; the most is {most}")));
    }
    Ok(asked)
}

/// Reads what was asked for into the outlet, and `done` at its end.
///
/// # Errors
/// `NotFound`; what init could not read; `SessionLost`, `EngineTimeout`,
/// `Internal` where init is at fault; `ShuttingDown` when `stop` fires.
///
/// # Cancellation
/// Not cancel safe: the stream to init must then be closed. `stop` and a client
/// that goes end it early, with the same consequence.
pub(crate) async fn get(
    link: &mut Link,
    memory: &Memory,
    ask: &Ask,
    outlet: &Outlet,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    let order = ask.order(memory);
    let mut entries = Entries::of(&order);
    link.writer.push(to_init::Message::Fetch(order));
    let mut unsent = true;
    let mut room: Option<Room<'_>> = None;
    let mut until = Instant::now() + PATIENCE;
    loop {
        let is_init_to_act = unsent || (room.is_some() && entries.is_init_to_speak());
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Trouble::InDoubt(stopped())),
            sent = link.writer.flush(), if unsent => {
                sent.map_err(|error| lost(&error))?;
                unsent = false;
            }
            bytes = outlet.taken(entries.step()) => {
                link.writer.push(entries.taken(bytes));
                unsent = true;
            }
            free = outlet.room(), if room.is_none() => {
                room = Some(free.ok_or_else(|| Trouble::InDoubt(stopped()))?);
            }
            piece = entries.next(&mut link.reader), if room.is_some() => {
                let piece = piece.map_err(|error| trouble(error, memory, ask, &entries))?;
                let Some(room) = room.take() else { continue };
                if pass_on(piece, &ask.place, room)? {
                    return Ok(());
                }
            }
            () = sleep_until(until), if is_init_to_act => return Err(silent(PATIENCE)),
        }
        until = Instant::now() + PATIENCE;
    }
}

/// True: that was the end.
fn pass_on(piece: Piece, base: &Place, room: Room<'_>) -> Result<bool, Trouble> {
    match piece {
        Piece::Entry(entry) => room.entry(entry_to_wire(entry, base)?),
        // A small piece would keep alive the whole buffer that it was read into.
        Piece::Data(data) if data.len() <= SMALL_BYTES => {
            room.data(Bytes::copy_from_slice(&data));
        }
        Piece::Data(data) => room.data(data),
        Piece::End(fetched) => {
            room.done(v1::GetDone {
                bytes: fetched.bytes,
                entries: fetched.entries.into(),
            });
            return Ok(true);
        }
    }
    Ok(false)
}

/// Names go to a client that makes files of them: none leads out.
fn entry_to_wire(entry: Entry, base: &Place) -> Result<v1::FileEntry, Trouble> {
    let kind = match entry.kind() {
        EntryKind::File => v1::FileKind::File,
        EntryKind::Folder => v1::FileKind::Folder,
        EntryKind::Link => v1::FileKind::Link,
        EntryKind::Other => v1::FileKind::Other,
        EntryKind::Unspecified => return Err(breach("sent an entry of no kind")),
    };
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
    let mut names = entry.path.split(|byte| *byte == b'/');
    if !entry.path.is_empty() && (entry.path.contains(&0) || !names.all(plain)) {
        return Err(breach("sent a name that leads out"));
    }
    if base.join(&entry.path).is_err() {
        let message = format!("`{base}` cannot be read as a whole");
        return Err(Trouble::InDoubt(
            Failure::new(FailureKind::Unsupported, message)
                .cause("the paths in it are too long")
                .hint("read a folder further down"),
        ));
    }
    let is_file = kind == v1::FileKind::File;
    let is_link = kind == v1::FileKind::Link;
    Ok(v1::FileEntry {
        // Copied for the same reason.
        path: entry.path.to_vec().into(),
        kind: kind.into(),
        mode: entry.mode & 0o777,
        size_bytes: if is_file { entry.size } else { 0 },
        target: if is_link {
            entry.target.to_vec().into()
        } else {
            Bytes::new()
        },
    })
}

fn trouble(error: ReadError, memory: &Memory, ask: &Ask, entries: &Entries) -> Trouble {
    match error {
        ReadError::Lost(error) => lost(&error),
        ReadError::Breach(how) => breach(how),
        ReadError::Refused(failed) => {
            let begun = entries.sent().entries > 0;
            let limits = ask.limits(memory);
            Trouble::Refused(refusal::of_get(&failed, &ask.place, begun, &limits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::memory::tests::unknown;

    fn asked(change: impl FnOnce(&mut v1::GetRequest)) -> Result<Ask, Failure> {
        let mut asked = v1::GetRequest::default();
        change(&mut asked);
        Ask::of(&asked)
    }

    #[test]
    fn nothing_said_is_the_most_there_is() {
        let ask = asked(|_| {}).expect("it is right");
        let memory = unknown();
        let order = ask.order(&memory);
        assert_eq!(order.max_bytes, memory.files_bytes());
        assert_eq!(order.max_entries, MAX_ENTRIES);
        let told = ask.limits(&memory);
        assert!(told.contains("sparse"), "{told}");
        let ask = asked(|ask| {
            ask.max_bytes = 7;
            ask.max_entries = 8;
        });
        let ask = ask.expect("it is right");
        let order = ask.order(&memory);
        assert_eq!((order.max_bytes, order.max_entries), (7, 8));
        let told = ask.limits(&memory);
        assert!(!told.contains("sparse"), "{told}");
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert!(asked(|ask| ask.max_bytes = MAX_BYTES + 1).is_err());
        assert!(asked(|ask| ask.max_entries = MAX_ENTRIES + 1).is_err());
        assert!(asked(|ask| ask.depth = 1).is_err());
        assert!(asked(|ask| ask.path = "/etc".into()).is_err());
        let names = asked(|ask| {
            ask.depth = 1;
            ask.names_only = true;
        });
        assert!(names.is_ok());
    }

    #[test]
    fn no_name_leads_out() {
        let base = Place::parse(b"/tmp/a").expect("a place");
        let wire = |path: &[u8]| {
            let entry = Entry {
                path: path.to_vec().into(),
                kind: EntryKind::File.into(),
                ..Entry::default()
            };
            entry_to_wire(entry, &base)
        };
        for path in [&b""[..], b"a", b"a/b", b"..a", b"a\n"] {
            assert_eq!(wire(path).expect("plain").path, path);
        }
        for path in [
            &b"/"[..],
            b"/etc",
            b"..",
            b"../a",
            b"a/../b",
            b"a/",
            b"a//b",
            b"./a",
            b"a\0",
        ] {
            assert!(wire(path).is_err(), "{path:?}");
        }
        let long = vec![b'x'; 300];
        let failure = wire(&long).expect_err("long").into_failure();
        assert_eq!(failure.kind, FailureKind::Unsupported);
    }
}
