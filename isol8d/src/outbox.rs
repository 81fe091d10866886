//! What a run has for its client and the client has not taken yet.
//!
//! The run pushes, the response stream takes. Output in here was paid for with
//! credit that init gets back only when the client has taken it: so a client
//! that stops reading stops the program, and the outbox never holds more than
//! the credit of both streams. Many tiny writes are joined, and past
//! [`MAX_EVENTS`] the run stops reading from init.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use isol8_proto::v1::{RunEvent, run_event};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;
use tonic::Status;

/// Bytes of each output stream that may be between the program and the client:
/// wide enough for a flood at memory speed, small enough that dozens of clients
/// that do not read cost the daemon little.
pub(crate) const WINDOW_BYTES: u64 = 320 << 10;

/// Credit goes back in steps, not for every line.
pub(crate) const CREDIT_STEP_BYTES: u64 = WINDOW_BYTES / 4;

/// Events that wait for the client before the run stops reading from init.
const MAX_EVENTS: usize = 1024;

/// Small writes are joined up to this size.
const JOIN_BYTES: usize = 16 << 10;

/// One of the program's two output streams, or what an installer says before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
    /// Reaches the client as standard error, and has an account of its own: it
    /// was not paid for with the program's credit.
    Installer,
}

#[derive(Debug)]
enum Entry {
    Whole(Channel, Bytes),
    Joined(Channel, BytesMut),
    Event(run_event::Event),
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    end: Option<Status>,
    ended: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    /// Bytes that the client took and init has no credit for yet.
    taken_stdout: u64,
    taken_stderr: u64,
    taken_installer: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The client took something that the run waits for.
    moved: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The run's end.
#[derive(Debug)]
pub(crate) struct Outbox(Arc<Shared>);

/// The client's end: the response stream of the RPC. Dropping it cancels the run.
#[derive(Debug)]
pub(crate) struct Events {
    shared: Arc<Shared>,
    _cancel: DropGuard,
}

/// Both ends of a new outbox; `cancel` fires when the client goes.
pub(crate) fn outbox(cancel: DropGuard) -> (Outbox, Events) {
    let shared = Arc::new(Shared::default());
    let events = Events {
        shared: Arc::clone(&shared),
        _cancel: cancel,
    };
    (Outbox(shared), events)
}

impl Outbox {
    /// Adds output. The caller has checked it against the credit.
    pub(crate) fn output(&self, channel: Channel, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.push(|queue| {
            if bytes.len() > JOIN_BYTES {
                queue.push_back(Entry::Whole(channel, bytes));
                return;
            }
            // Small pieces are copied also because each would keep the whole
            // buffer alive that it was read into.
            match queue.back_mut() {
                Some(Entry::Joined(last, joined))
                    if *last == channel && joined.len() + bytes.len() <= JOIN_BYTES =>
                {
                    joined.extend_from_slice(&bytes);
                }
                _ => queue.push_back(Entry::Joined(channel, BytesMut::from(&*bytes))),
            }
        });
    }

    /// Adds an event that is no output.
    pub(crate) fn event(&self, event: run_event::Event) {
        self.push(|queue| queue.push_back(Entry::Event(event)));
    }

    /// Adds events.
    pub(crate) fn events(&self, events: impl Iterator<Item = run_event::Event>) {
        events.for_each(|event| self.event(event));
    }

    fn push(&self, add: impl FnOnce(&mut VecDeque<Entry>)) {
        let mut state = self.0.state();
        if state.ended || state.reader_gone {
            return;
        }
        add(&mut state.queue);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends the stream with the one terminal event. Later calls do nothing.
    pub(crate) fn finish(&self, end: Result<run_event::Event, Status>) {
        let mut state = self.0.state();
        if state.ended {
            return;
        }
        match end {
            Ok(event) => state.queue.push_back(Entry::Event(event)),
            Err(status) => state.end = Some(status),
        }
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether the run may read more from init.
    pub(crate) fn has_room(&self) -> bool {
        self.0.state().queue.len() < MAX_EVENTS
    }

    /// Takes the credit that is due for (stdout, stderr): nothing until a step
    /// is full.
    pub(crate) fn take_credit(&self) -> (u64, u64) {
        let mut state = self.0.state();
        // The installer is over when the program has credit.
        state.taken_installer = 0;
        let mut due = (0, 0);
        if state.taken_stdout >= CREDIT_STEP_BYTES {
            due.0 = std::mem::take(&mut state.taken_stdout);
        }
        if state.taken_stderr >= CREDIT_STEP_BYTES {
            due.1 = std::mem::take(&mut state.taken_stderr);
        }
        due
    }

    /// Takes what the client has taken of the installer's words.
    pub(crate) fn take_installer(&self) -> u64 {
        std::mem::take(&mut self.0.state().taken_installer)
    }

    /// Counts output that goes to nobody as taken.
    pub(crate) fn count_as_taken(&self, channel: Channel, bytes: u64) {
        self.0.state().taken(channel, bytes);
    }

    /// Waits until the client took enough for the run to go on.
    ///
    /// # Cancellation
    /// Cancel safe: a wake-up is kept for the next call.
    pub(crate) async fn moved(&self) {
        self.0.moved.notified().await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // A run that vanished must not leave its client waiting.
        self.finish(Err(Status::internal("the run ended without a verdict")));
    }
}

impl State {
    fn taken(&mut self, channel: Channel, bytes: u64) {
        match channel {
            Channel::Stdout => self.taken_stdout += bytes,
            Channel::Stderr => self.taken_stderr += bytes,
            Channel::Installer => self.taken_installer += bytes,
        }
    }

    fn credit_is_due(&self) -> bool {
        let most = self.taken_stdout.max(self.taken_stderr);
        most.max(self.taken_installer) >= CREDIT_STEP_BYTES
    }
}

impl Stream for Events {
    type Item = Result<RunEvent, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.state();
        let was_full = state.queue.len() == MAX_EVENTS;
        let Some(entry) = state.queue.pop_front() else {
            if let Some(status) = state.end.take() {
                return Poll::Ready(Some(Err(status)));
            }
            if state.ended {
                return Poll::Ready(None);
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let event = match entry {
            Entry::Whole(channel, bytes) => state.deliver(channel, bytes),
            Entry::Joined(channel, joined) => state.deliver(channel, joined.freeze()),
            Entry::Event(event) => event,
        };
        if was_full || state.credit_is_due() {
            self.shared.moved.notify_one();
        }
        Poll::Ready(Some(Ok(RunEvent { event: Some(event) })))
    }
}

impl State {
    fn deliver(&mut self, channel: Channel, bytes: Bytes) -> run_event::Event {
        self.taken(channel, bytes.len() as u64);
        match channel {
            Channel::Stdout => run_event::Event::Stdout(bytes),
            Channel::Stderr | Channel::Installer => run_event::Event::Stderr(bytes),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.reader_gone = true;
        state.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn pair() -> (Outbox, Events, CancellationToken) {
        let token = CancellationToken::new();
        let (outbox, events) = outbox(token.clone().drop_guard());
        (outbox, events, token)
    }

    fn next(events: &mut Events) -> Option<run_event::Event> {
        let item = events.next().now_or_never()??;
        item.expect("no status").event
    }

    #[test]
    fn small_writes_of_one_stream_are_joined() {
        let (outbox, mut events, _token) = pair();
        for byte in [b"a", b"b", b"c"] {
            outbox.output(Channel::Stdout, Bytes::from_static(byte));
        }
        outbox.output(Channel::Stderr, Bytes::from_static(b"d"));
        let first = next(&mut events);
        assert_eq!(
            first,
            Some(run_event::Event::Stdout(Bytes::from_static(b"abc")))
        );
        let second = next(&mut events);
        assert_eq!(
            second,
            Some(run_event::Event::Stderr(Bytes::from_static(b"d")))
        );
        assert_eq!(next(&mut events), None);
    }

    #[test]
    fn credit_is_due_only_for_what_was_taken() {
        let (outbox, mut events, _token) = pair();
        let half = usize::try_from(CREDIT_STEP_BYTES / 2).expect("small");
        let piece = Bytes::from(vec![0; half]);
        outbox.output(Channel::Stdout, piece.clone());
        outbox.output(Channel::Stdout, piece);
        assert_eq!(outbox.take_credit(), (0, 0));
        assert!(next(&mut events).is_some());
        assert_eq!(outbox.take_credit(), (0, 0), "half a step");
        assert!(next(&mut events).is_some());
        assert_eq!(outbox.take_credit(), (CREDIT_STEP_BYTES, 0));
        assert_eq!(outbox.take_credit(), (0, 0));
    }

    #[test]
    fn there_is_one_end() {
        let (outbox, mut events, _token) = pair();
        outbox.finish(Err(Status::unavailable("first")));
        outbox.finish(Err(Status::internal("second")));
        outbox.output(Channel::Stdout, Bytes::from_static(b"late"));
        drop(outbox);
        let end = events.next().now_or_never().flatten();
        let code = end.and_then(Result::err).map(|status| status.code());
        assert_eq!(code, Some(tonic::Code::Unavailable));
        assert!(matches!(events.next().now_or_never(), Some(None)));
    }

    #[test]
    fn a_run_that_vanishes_ends_its_stream() {
        let (outbox, mut events, _token) = pair();
        drop(outbox);
        let end = events.next().now_or_never().flatten();
        assert!(end.is_some_and(|end| end.is_err()));
    }

    #[test]
    fn a_client_that_goes_cancels_the_run() {
        let (outbox, events, token) = pair();
        drop(events);
        assert!(token.is_cancelled());
        outbox.output(Channel::Stdout, Bytes::from_static(b"x"));
        assert!(outbox.0.state().queue.is_empty());
    }

    #[test]
    fn the_run_stops_reading_at_the_bound() {
        let (outbox, mut events, _token) = pair();
        for turn in 0..MAX_EVENTS {
            assert!(outbox.has_room());
            let channel = if turn % 2 == 0 {
                Channel::Stdout
            } else {
                Channel::Stderr
            };
            outbox.output(channel, Bytes::from_static(b"x"));
        }
        assert!(!outbox.has_room());
        assert!(next(&mut events).is_some());
        assert!(outbox.has_room());
        assert!(outbox.moved().now_or_never().is_some());
    }
}
