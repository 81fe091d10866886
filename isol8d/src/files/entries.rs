//! What init sends of a tree: the one reader of it.
//!
//! Init shares its user with the programs of the sandbox. What it sends is
//! checked as if somebody else had sent it: the order, the sizes, the credit and
//! what was asked for. What names and links lead to is for the caller to judge.

use bytes::Bytes;
use isol8_engine::link::{LinkError, LinkReader};
use isol8_proto::init::{
    Credit, Entry, EntryKind, Failed, Fetch, Fetched, from_init, to_init::Message as ToInit,
};

/// The next thing of a tree.
#[derive(Debug)]
pub(crate) enum Piece {
    Entry(Entry),
    /// Of the last entry.
    Data(Bytes),
    /// That was all of it.
    End(Fetched),
}

/// Why there is no next thing.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The stream has ended.
    Lost(LinkError),
    /// Init said what it may not say.
    Breach(&'static str),
    /// Init does not pass on the tree, or not all of it. It expects the next
    /// command.
    Refused(Failed),
}

/// One `Fetch`, from its order to its end.
#[derive(Debug)]
pub(crate) struct Entries {
    names_only: bool,
    window: u64,
    credit: u64,
    max_bytes: u64,
    max_entries: u32,
    /// Data of the last entry that is still to come.
    left: u64,
    sent: Fetched,
}

impl Entries {
    /// What is to come for an order. The caller sends that, and nothing else
    /// until the end.
    pub(crate) const fn of(order: &Fetch) -> Self {
        Self {
            names_only: order.names_only,
            window: order.credit,
            credit: order.credit,
            max_bytes: order.max_bytes,
            max_entries: order.max_entries,
            left: 0,
            sent: Fetched {
                bytes: 0,
                entries: 0,
            },
        }
    }

    /// What has come of the tree so far.
    pub(crate) const fn sent(&self) -> &Fetched {
        &self.sent
    }

    /// Whether init can go on without hearing from us.
    pub(crate) const fn is_init_to_speak(&self) -> bool {
        self.left == 0 || self.credit > 0
    }

    /// The next thing.
    ///
    /// # Errors
    /// After one, there is nothing more of this tree.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(crate) async fn next(&mut self, reader: &mut LinkReader) -> Result<Piece, ReadError> {
        use from_init::Message;
        match reader.recv().await.map_err(ReadError::Lost)? {
            Message::Entry(entry) => self.entry(entry),
            Message::EntryData(data) => self.data(data),
            Message::Fetched(fetched) if self.left == 0 && fetched == self.sent => {
                Ok(Piece::End(fetched))
            }
            Message::Fetched(_) => Err(ReadError::Breach("ended before all was there")),
            Message::Failed(failed) if failed.files => Err(ReadError::Refused(failed)),
            _ => Err(ReadError::Breach("spoke out of turn")),
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<Piece, ReadError> {
        if self.left > 0 {
            return Err(ReadError::Breach("sent an entry before the end of a file"));
        }
        self.sent.entries += 1;
        if self.sent.entries > self.max_entries {
            return Err(ReadError::Breach("sent more entries than it may"));
        }
        if entry.kind() == EntryKind::File {
            // Of names, any size may be told: there are files of holes.
            self.sent.bytes = self.sent.bytes.saturating_add(entry.size);
            if !self.names_only {
                self.left = entry.size;
                if self.sent.bytes > self.max_bytes {
                    return Err(ReadError::Breach("sent larger files than it may"));
                }
            }
        }
        Ok(Piece::Entry(entry))
    }

    fn data(&mut self, data: Bytes) -> Result<Piece, ReadError> {
        let bytes = data.len() as u64;
        let (Some(credit), Some(left)) =
            (self.credit.checked_sub(bytes), self.left.checked_sub(bytes))
        else {
            return Err(ReadError::Breach("sent more data than it may"));
        };
        self.credit = credit;
        self.left = left;
        Ok(Piece::Data(data))
    }

    /// Data that has been taken, so that as much may come again: what init is to
    /// be told, in steps of half the window.
    pub(crate) fn taken(&mut self, bytes: u64) -> ToInit {
        self.credit += bytes;
        ToInit::Credit(Credit {
            data: bytes,
            ..Credit::default()
        })
    }

    /// From so much on it is worth telling [`Entries::taken`].
    pub(crate) const fn step(&self) -> u64 {
        self.window / 2
    }
}
