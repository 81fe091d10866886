//! What was read of a session and its client has not taken yet.
//!
//! Entries wait in a short queue. Data was paid for with the credit of init,
//! which gets it back only when the client has taken it: a client that does not
//! read stops init, and costs no more than the window.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::Stream;
use isol8_core::failure::Failure;
use isol8_proto::v1::{FileEntry, GetDone, GetResponse, get_response::Message};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::DropGuard;
use tonic::Status;

use crate::status;

/// Messages that wait for the client. An entry has at most 20 KiB, data is bounded
/// by itself.
pub(super) const MAX_WAITING: usize = 64;

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that the client took and init has no credit for yet.
    taken: AtomicU64,
    moved: Notify,
    /// Why it ended, unless with `done`.
    end: Mutex<Option<Status>>,
}

impl Shared {
    fn end(&self) -> Option<Status> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.take()
    }
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// The client's end: the response stream of the call. Dropping it ends the call.
#[derive(Debug)]
pub(crate) struct Events {
    queue: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    is_over: bool,
    _cancel: DropGuard,
}

/// Both ends of a new outlet; `cancel` fires when the client goes.
pub(crate) fn outlet(cancel: DropGuard) -> (Outlet, Events) {
    let (sender, queue) = mpsc::channel(MAX_WAITING);
    let shared = Arc::<Shared>::default();
    let events = Events {
        queue,
        shared: Arc::clone(&shared),
        is_over: false,
        _cancel: cancel,
    };
    let outlet = Outlet {
        queue: sender,
        shared,
    };
    (outlet, events)
}

/// Room for one message.
pub(super) struct Room<'a>(mpsc::Permit<'a, Message>);

impl Room<'_> {
    pub(super) fn entry(self, entry: FileEntry) {
        self.0.send(Message::Entry(entry));
    }

    pub(super) fn data(self, data: bytes::Bytes) {
        self.0.send(Message::Data(data));
    }

    pub(super) fn done(self, done: GetDone) {
        self.0.send(Message::Done(done));
    }
}

impl Outlet {
    /// Waits for room. `None`: the client is gone.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(super) async fn room(&self) -> Option<Room<'_>> {
        self.queue.reserve().await.ok().map(Room)
    }

    /// Waits until the client has taken at least so many bytes, and takes them.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(super) async fn taken(&self, least: u64) -> u64 {
        loop {
            let moved = self.shared.moved.notified();
            let taken = self.shared.taken.load(Ordering::Acquire);
            if taken >= least {
                return self.shared.taken.swap(0, Ordering::AcqRel);
            }
            moved.await;
        }
    }

    /// Ends the stream with a status instead of `done`.
    pub(crate) fn fail(self, failure: &Failure) {
        let mut end = self
            .shared
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *end = Some(status::from_failure(failure));
    }
}

impl Stream for Events {
    type Item = Result<GetResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = self.queue.poll_recv(cx) else {
            return Poll::Pending;
        };
        match &next {
            Some(Message::Data(data)) => {
                let bytes = data.len() as u64;
                self.shared.taken.fetch_add(bytes, Ordering::AcqRel);
                self.shared.moved.notify_one();
            }
            Some(Message::Entry(_)) => {}
            Some(Message::Done(_)) | None => self.is_over = true,
        }
        let Some(message) = next else {
            // A reader that vanished must not pass for one that came to its end.
            let end = self.shared.end();
            let end = end.unwrap_or_else(|| Status::internal("the call ended without an answer"));
            return Poll::Ready(Some(Err(end)));
        };
        Poll::Ready(Some(Ok(GetResponse {
            message: Some(message),
        })))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use isol8_core::failure::FailureKind;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn pair() -> (Outlet, Events, CancellationToken) {
        let token = CancellationToken::new();
        let (outlet, events) = outlet(token.clone().drop_guard());
        (outlet, events, token)
    }

    fn next(events: &mut Events) -> Option<Result<GetResponse, tonic::Code>> {
        let next = events.next().now_or_never().expect("something is there");
        next.map(|next| next.map_err(|status| status.code()))
    }

    #[test]
    fn credit_is_due_when_the_client_has_taken_enough() {
        let (outlet, mut events, _token) = pair();
        for _ in 0..2 {
            let room = outlet.room().now_or_never().flatten().expect("room");
            room.data(vec![0; 10].into());
        }
        assert!(outlet.taken(20).now_or_never().is_none());
        assert!(next(&mut events).is_some_and(|next| next.is_ok()));
        assert!(outlet.taken(20).now_or_never().is_none());
        assert!(next(&mut events).is_some_and(|next| next.is_ok()));
        assert_eq!(outlet.taken(20).now_or_never(), Some(20));
        assert!(outlet.taken(1).now_or_never().is_none());
    }

    #[test]
    fn so_many_messages_wait_and_no_more() {
        let (outlet, mut events, _token) = pair();
        for _ in 0..MAX_WAITING {
            let room = outlet.room().now_or_never().flatten().expect("room");
            room.entry(FileEntry::default());
        }
        assert!(outlet.room().now_or_never().is_none());
        assert!(next(&mut events).is_some());
        assert!(outlet.room().now_or_never().is_some());
    }

    #[test]
    fn the_end_comes_last_and_once() {
        let (outlet, mut events, _token) = pair();
        let room = outlet.room().now_or_never().flatten().expect("room");
        room.entry(FileEntry::default());
        outlet.fail(&Failure::new(FailureKind::NotFound, "no"));
        assert!(next(&mut events).is_some_and(|next| next.is_ok()));
        assert_eq!(next(&mut events), Some(Err(tonic::Code::NotFound)));
        assert_eq!(next(&mut events), None);
    }

    #[test]
    fn a_reader_that_vanishes_is_no_end_of_the_files() {
        let (outlet, mut events, _token) = pair();
        drop(outlet);
        assert_eq!(next(&mut events), Some(Err(tonic::Code::Internal)));
        assert_eq!(next(&mut events), None);
    }

    #[test]
    fn a_client_that_goes_ends_the_call() {
        let (outlet, events, token) = pair();
        drop(events);
        assert!(token.is_cancelled());
        assert!(outlet.room().now_or_never().flatten().is_none());
    }
}
