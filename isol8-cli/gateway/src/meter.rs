//! What a WebSocket has sent of a message that is not whole yet: it is held in
//! memory, and so has its place in the room of bodies. Where there is none, no more
//! is read for a while.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    body::{GROW_TIME, Place, Room},
    bounds::Bounds,
    keys::Caller,
    refusal::Refusal,
};

/// A message below this needs no place.
const FREE_BYTES: usize = 256 << 10;
/// Asked for at once.
const STEP_BYTES: usize = 256 << 10;

/// One for each connection; it does nothing until [`Meter::begin`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<Option<Reading>>>);

type Wanted = Pin<Box<dyn Future<Output = Result<Place, Refusal>> + Send>>;

struct Reading {
    room: Room,
    caller: Arc<Caller>,
    patience: Duration,
    /// Since the last message that was whole.
    read_bytes: usize,
    /// What there is a place for.
    placed_bytes: usize,
    place: Option<Place>,
    wanted: Option<Wanted>,
    /// Why nothing is read any more.
    refused: Option<Refusal>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("read_bytes", &self.read_bytes)
            .field("placed_bytes", &self.placed_bytes)
            .finish_non_exhaustive()
    }
}

impl Meter {
    fn reading(&self) -> MutexGuard<'_, Option<Reading>> {
        // Nothing in here panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what is read counts. For room it waits as a body does, and not
    /// longer: then reading fails.
    pub(crate) fn begin(&self, room: Room, caller: Arc<Caller>, bounds: &Bounds) {
        *self.reading() = Some(Reading {
            room,
            caller,
            patience: (bounds.body / 2).min(GROW_TIME),
            read_bytes: 0,
            placed_bytes: FREE_BYTES,
            place: None,
            wanted: None,
            refused: None,
        });
    }

    /// A message is whole. Gives its place, if it needed one.
    pub(crate) fn heard(&self) -> Option<Place> {
        let mut reading = self.reading();
        let reading = reading.as_mut()?;
        reading.read_bytes = 0;
        reading.placed_bytes = FREE_BYTES;
        reading.wanted = None;
        reading.place.take()
    }

    /// Why reading failed, if there was no room.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.reading().as_mut()?.refused.take()
    }

    /// Before something is read: waits until there is room for it.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.reading().as_mut() {
            Some(reading) => reading.poll_room(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// So much was read.
    pub(crate) fn count(&self, bytes: usize) {
        if let Some(reading) = self.reading().as_mut() {
            reading.read_bytes += bytes;
        }
    }
}

impl Reading {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.read_bytes >= self.placed_bytes {
            let wanted = self.wanted.get_or_insert_with(|| {
                let (room, caller) = (self.room.clone(), Arc::clone(&self.caller));
                let patience = self.patience;
                Box::pin(async move { room.place(&caller, STEP_BYTES, patience).await })
            });
            let Poll::Ready(more) = wanted.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            self.wanted = None;
            let more = more.map_err(|refusal| {
                self.refused = Some(refusal);
                io::ErrorKind::TimedOut
            })?;
            self.placed_bytes += STEP_BYTES;
            match &mut self.place {
                Some(place) => place.merge(more),
                None => self.place = Some(more),
            }
        }
        Poll::Ready(Ok(()))
    }
}
