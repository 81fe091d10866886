//! What the daemon takes out of a sandbox: a file, or a folder with everything in
//! it, or only the names.
//!
//! It is sent as it is found. Data goes against credit, entries as the daemon
//! takes them, and a turn of the supervisor moves only so much, so that commands
//! are heard in between. What cannot be passed on exactly ends the whole: the
//! daemon never gets a part for the whole.

mod link;
mod listing;
mod walk;

use std::fs::File;

use isol8_proto::init::{Entry, EntryKind, Failed, FailureKind, Fetched, from_init};
use nix::errno::Errno;

use crate::{
    command::{because, errno, failed},
    place::{Root, UNKNOWN_ROOT},
    wire::{LinkError, Outbox, Stream, is_temporary},
};

use walk::{Found, Item, Scope, Walk};

/// Entries that one turn sends at most: a fraction of a millisecond.
const ENTRIES_A_TURN: usize = 128;

/// A tree that is on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    walk: Walk,
    reading: Option<Reading>,
    credit: u64,
    max_bytes: u64,
    max_entries: u32,
    sent: Fetched,
}

/// The file whose data is being sent.
#[derive(Debug)]
struct Reading {
    path: Vec<u8>,
    file: File,
    left: u64,
}

/// How far a turn got.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more.
    Going,
    /// All of it is sent.
    Done(Fetched),
    Failed(Failed),
}

impl Fetch {
    /// Finds what is asked for.
    ///
    /// # Errors
    /// `BAD_PATH` where there is neither a file nor a folder.
    pub(crate) fn start(order: &isol8_proto::init::Fetch) -> Result<Self, Failed> {
        let root = Root::named(order.root)
            .map_err(|errno| failed(FailureKind::BadPath, UNKNOWN_ROOT, errno))?;
        let scope = Scope {
            names_only: order.names_only,
            any_kind: order.names_only || order.any_kind,
            depth: order.depth as usize,
        };
        Ok(Self {
            walk: Walk::start(root, &order.path, scope)?,
            reading: None,
            credit: order.credit,
            max_bytes: order.max_bytes,
            max_entries: order.max_entries,
            sent: Fetched::default(),
        })
    }

    pub(crate) fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Whether something could be sent, were there room for it.
    pub(crate) const fn is_ready(&self) -> bool {
        self.reading.is_none() || self.credit > 0
    }

    /// Sends one turn's worth.
    ///
    /// # Errors
    /// When the stream is broken. What is wrong with the tree is progress.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox) -> Result<Progress, LinkError> {
        for _ in 0..ENTRIES_A_TURN {
            if !self.is_ready() || !outbox.has_room() {
                break;
            }
            let step = match self.reading.take() {
                Some(reading) => self.read(reading, outbox),
                None => match self.next() {
                    Ok(Some((entry, reading))) => {
                        outbox.push(from_init::Message::Entry(entry))?;
                        self.reading = reading;
                        Ok(())
                    }
                    Ok(None) => return Ok(Progress::Done(self.sent)),
                    Err(failed) => Err(failed),
                },
            };
            if let Err(failed) = step {
                return Ok(Progress::Failed(failed));
            }
        }
        Ok(Progress::Going)
    }

    /// The next entry, and what is to be read for it.
    fn next(&mut self) -> Result<Option<(Entry, Option<Reading>)>, Failed> {
        let room = self.max_entries - self.sent.entries;
        let Some(Item { path, mode, found }) = self.walk.next(room)? else {
            return Ok(None);
        };
        if room == 0 {
            return Err(walk::too_many());
        }
        self.sent.entries += 1;
        let mut entry = Entry {
            path: path.clone().into(),
            mode,
            ..Entry::default()
        };
        let mut reading = None;
        match found {
            Found::Folder => entry.kind = EntryKind::Folder.into(),
            Found::Link(target) => {
                entry.kind = EntryKind::Link.into();
                entry.target = target.into();
            }
            Found::Other => entry.kind = EntryKind::Other.into(),
            Found::Name { size } => {
                self.sent.bytes = self.sent.bytes.saturating_add(size);
                entry.kind = EntryKind::File.into();
                entry.size = size;
            }
            Found::File { file, size } => {
                if size > self.max_bytes - self.sent.bytes {
                    return Err(too_large(self.max_bytes));
                }
                self.sent.bytes += size;
                entry.kind = EntryKind::File.into();
                entry.size = size;
                let left = size;
                reading = (size > 0).then_some(Reading { path, file, left });
            }
        }
        Ok(Some((entry, reading)))
    }

    /// Passes on one piece of a file, of the size that it had at its entry.
    fn read(&mut self, mut reading: Reading, outbox: &mut Outbox) -> Result<(), Failed> {
        let most = usize::try_from(reading.left.min(self.credit)).unwrap_or(usize::MAX);
        match outbox.read_output(Stream::Data, &reading.file, most) {
            Ok(0) => {
                let path = String::from_utf8_lossy(&reading.path);
                let message = format!("`{path}` became shorter while it was read");
                return Err(failed(FailureKind::Other, message, Errno::ESTALE));
            }
            Ok(count) => {
                self.credit -= count as u64;
                reading.left -= count as u64;
            }
            Err(error) if is_temporary(&error) => {}
            Err(error) => {
                let (path, errno) = (String::from_utf8_lossy(&reading.path), errno(&error));
                let message = because(format_args!("cannot read `{path}`"), errno);
                return Err(failed(FailureKind::Other, message, errno));
            }
        }
        self.reading = Some(reading).filter(|reading| reading.left > 0);
        Ok(())
    }
}

fn too_large(max_bytes: u64) -> Failed {
    let message = format!("the files have more than {max_bytes} bytes together");
    failed(FailureKind::NoSpace, message, Errno::EFBIG)
}
