//! The turn of one caller in a session.

use std::{os::fd::OwnedFd, sync::Arc, time::SystemTime};

use isol8_core::failure::Failure;
use isol8_engine::{Engine, Sandbox, link::Link};
use tokio::sync::oneshot;

use super::{
    entry::{Entry, gone},
    make::Fresh,
    record::Record,
    store::Store,
};

/// What its owner gets back.
#[derive(Debug)]
pub(super) enum Back {
    /// Init waits for the next command, once it has carried out what it was sent.
    Clean(Box<Seat>),
    /// Nobody knows what init is at.
    Doubtful(Box<Record>),
    /// No sandbox was made.
    Nothing,
}

/// The sandbox of a session, as one has it who may use it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) link: Link,
    /// The door of a filtered network.
    pub(super) listener: Option<OwnedFd>,
    pub(super) record: Record,
    pub(super) engine: Arc<dyn Engine>,
}

/// Everything that one may do with a session, until it is given back. Dropped
/// otherwise, whatever goes on in the session for its sake ends.
#[derive(Debug)]
pub(crate) struct Turn {
    store: Store,
    link: Option<Link>,
    listener: Option<OwnedFd>,
    made: Option<(Record, Arc<dyn Engine>)>,
    /// Something may have been sent to init.
    used: bool,
    entry: Arc<Entry>,
    back: Option<oneshot::Sender<Back>>,
}

impl Turn {
    pub(super) fn new(
        store: Store,
        entry: Arc<Entry>,
        seat: Option<Seat>,
        back: oneshot::Sender<Back>,
    ) -> Self {
        let (mut link, mut listener, mut made) = (None, None, None);
        if let Some(seat) = seat {
            link = Some(seat.link);
            listener = seat.listener;
            made = Some((seat.record, seat.engine));
        }
        Self {
            store,
            link,
            listener,
            made,
            used: false,
            entry,
            back: Some(back),
        }
    }

    /// What is known of the sandbox; `None` before it is made.
    pub(crate) fn record(&self) -> Option<&Record> {
        self.made.as_ref().map(|(record, _)| record)
    }

    /// What made it.
    ///
    /// # Panics
    /// Before it is made.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.made.as_ref().expect("the sandbox is made").1
    }

    /// The idle stream to init; the next frame is the caller's to send.
    ///
    /// # Panics
    /// Before the sandbox is made, and while somebody else has the stream.
    pub(crate) fn link(&mut self) -> &mut Link {
        self.used = true;
        self.link.as_mut().expect("the stream is here")
    }

    /// Takes the sandbox that was made for this session.
    pub(crate) fn fill(&mut self, fresh: Fresh) {
        let (seat, _) = fresh.settle();
        let id = seat.record.sandbox.clone();
        self.entry.view.send_modify(|view| view.sandbox = Some(id));
        self.link = Some(seat.link);
        self.listener = seat.listener;
        self.made = Some((seat.record, seat.engine));
    }

    /// Gives the stream away, with what a run needs beside it.
    ///
    /// # Errors
    /// The host has no descriptor left.
    ///
    /// # Panics
    /// As [`Turn::link`].
    pub(crate) fn lend(&mut self) -> std::io::Result<Sandbox> {
        self.used = true;
        let (record, _) = self.made.as_ref().expect("the sandbox is made");
        let listener = self.listener.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Sandbox {
            id: record.sandbox.clone(),
            link: self.link.take().expect("the stream is here"),
            interpreter: record.interpreter.clone(),
            listener,
            uid: record.uid,
        })
    }

    /// Takes the stream back, idle.
    pub(crate) fn take_back(&mut self, link: Link) {
        self.link = Some(link);
    }

    /// Writes down what changed of the sandbox.
    ///
    /// # Errors
    /// `NoSpace`; `SessionLost` for a session that was removed meanwhile.
    pub(crate) async fn note(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Failure> {
        let Some((record, _)) = &mut self.made else {
            return Ok(());
        };
        let before = record.clone();
        change(record);
        let changed = record.clone();
        // A record that was taken out must not come back.
        let noted = self
            .store
            .change(&record.sandbox, |record| *record = changed);
        noted.ok_or_else(gone)?;
        let written = self.store.write().await;
        if written.is_err() {
            // Whoever is told that it failed must not find it done.
            let id = before.sandbox.clone();
            record.clone_from(&before);
            self.store.change(&id, |record| *record = before);
        }
        written
    }

    /// After a call that ended where init expects the next command.
    pub(crate) fn give_back(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(back) = self.back.take() else {
            return;
        };
        let given = match (self.link.take(), self.made.take()) {
            (Some(link), Some((mut record, engine))) => {
                record.used = SystemTime::now();
                Back::Clean(Box::new(Seat {
                    link,
                    listener: self.listener.take(),
                    record,
                    engine,
                }))
            }
            (_, Some((record, _))) => Back::Doubtful(Box::new(record)),
            (_, None) => Back::Nothing,
        };
        // The owner is gone where the session was removed by force, or with the
        // daemon.
        let _gone = back.send(given);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.used {
            // Init is at something that nobody will wait for.
            self.link = None;
        }
        self.end();
    }
}
