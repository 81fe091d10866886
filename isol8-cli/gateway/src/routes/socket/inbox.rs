//! What a client sends for the program's stdin, until the program takes it.
//!
//! So much is read ahead of a program that does not read its input: a signal, or
//! the client's goodbye, which came behind it is heard.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, mpsc};

/// What waits at most, and one message. More than a client sends that counts what
/// was taken (1 MiB); another one is not heard when it has sent more.
const AHEAD_BYTES: u32 = 4 << 20;

/// Small pieces become one of so much at the most.
const JOINED_BYTES: usize = 64 << 10;

/// Where pieces come in; dropped, stdin ends behind them.
#[derive(Debug)]
pub(super) struct Inbox(Arc<Queue>);

/// What came in.
#[derive(Debug)]
pub(super) struct Waiting {
    first: Vec<Bytes>,
    later: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    room: Semaphore,
    pieces: Mutex<Pieces>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pieces {
    waiting: VecDeque<BytesMut>,
    /// Nothing comes behind them.
    ended: bool,
}

pub(super) fn inbox() -> (Inbox, Waiting) {
    let queue = Arc::new(Queue {
        room: Semaphore::new(AHEAD_BYTES as usize),
        pieces: Mutex::default(),
        changed: Notify::new(),
    });
    let waiting = Waiting {
        first: Vec::new(),
        later: Arc::clone(&queue),
    };
    (Inbox(queue), waiting)
}

impl Inbox {
    /// Puts a piece behind the others, if there is room; else gives it back.
    pub(super) fn try_put(&self, piece: Bytes) -> Result<(), Bytes> {
        match self.0.room.try_acquire_many(cost(&piece)) {
            Ok(place) => {
                place.forget();
                self.0.push(&piece);
                Ok(())
            }
            Err(_) => Err(piece),
        }
    }

    /// As [`Inbox::try_put`], and waits for room.
    pub(super) async fn put(&self, piece: Bytes) {
        let place = self.0.room.acquire_many(cost(&piece)).await;
        place.expect("the room is never closed").forget();
        self.0.push(&piece);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.pieces().ended = true;
        self.0.changed.notify_one();
    }
}

/// A piece that is larger than the room takes all of it.
fn cost(piece: &[u8]) -> u32 {
    u32::try_from(piece.len()).map_or(AHEAD_BYTES, |bytes| bytes.min(AHEAD_BYTES))
}

impl Queue {
    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        // Pieces are whole between any two statements.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the piece, which may hold the whole message that it came in, and joins
    /// it to the last one: a client that sends single bytes makes us hold bytes, and
    /// not what surrounds them.
    fn push(&self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let waiting = &mut self.pieces().waiting;
        match waiting.back_mut() {
            Some(last) if last.len() + piece.len() <= JOINED_BYTES => last.extend_from_slice(piece),
            _ => waiting.push_back(BytesMut::from(piece)),
        }
        self.changed.notify_one();
    }

    /// The next piece; `None` behind the last one.
    async fn next(&self) -> Option<Bytes> {
        loop {
            let changed = self.changed.notified();
            {
                let mut pieces = self.pieces();
                if let Some(piece) = pieces.waiting.pop_front() {
                    return Some(piece.freeze());
                }
                if pieces.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl Waiting {
    /// The same behind these pieces.
    pub(super) fn behind(self, first: Vec<Bytes>) -> Self {
        Self { first, ..self }
    }

    /// Hands everything to the program, as it takes it, and then the end.
    pub(super) async fn feed(self, stdin: mpsc::Sender<Bytes>) {
        for piece in self.first {
            // Without a program it is for nobody.
            let _over = stdin.send(piece).await;
        }
        while let Some(piece) = self.later.next().await {
            let place = cost(&piece);
            // The program's end may be on its way. What still comes is for nobody.
            let _over = stdin.send(piece).await;
            self.later.room.add_permits(place as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn so_much_is_taken_ahead_and_no_more() {
        let (inbox, waiting) = inbox();
        let piece = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..4 {
            assert_eq!(inbox.try_put(piece.clone()), Ok(()));
        }
        assert!(inbox.try_put(piece.clone()).is_err());
        let (stdin, mut program) = mpsc::channel(1);
        let feeding = waiting.feed(stdin);
        tokio::pin!(feeding);
        assert!(feeding.as_mut().now_or_never().is_none());
        assert_eq!(inbox.try_put(piece.clone()), Ok(()), "one was taken");
        // All of the room, also for more than there is.
        let put = async {
            inbox.put(Bytes::from(vec![0; 5 << 20])).await;
            drop(inbox);
        };
        let take = async {
            let mut sizes = Vec::new();
            while let Some(piece) = program.recv().await {
                sizes.push(piece.len() >> 20);
            }
            sizes
        };
        let ((), (), sizes) = tokio::join!(put, feeding, take);
        assert_eq!(sizes, [1, 1, 1, 1, 1, 5]);
    }

    #[tokio::test]
    async fn crumbs_are_joined_and_nothing_is_no_piece() {
        let (inbox, waiting) = inbox();
        let message = Bytes::from((0..=255).cycle().take(100 << 10).collect::<Vec<u8>>());
        for at in 0..message.len() {
            assert_eq!(inbox.try_put(Bytes::new()), Ok(()));
            assert_eq!(inbox.try_put(message.slice(at..=at)), Ok(()));
        }
        assert_eq!(waiting.later.pieces().waiting.len(), 2);
        drop(inbox);
        let (stdin, mut program) = mpsc::channel::<Bytes>(1);
        let take = async {
            let mut all = Vec::new();
            while let Some(piece) = program.recv().await {
                all.extend_from_slice(&piece);
            }
            all
        };
        let ((), all) = tokio::join!(waiting.feed(stdin), take);
        assert!(all == message);
    }

    #[tokio::test]
    async fn a_program_that_ends_takes_no_more_and_stops_nobody() {
        let (inbox, waiting) = inbox();
        let (stdin, program) = mpsc::channel(1);
        drop(program);
        let putting = async {
            for _ in 0..8 {
                inbox.put(Bytes::from(vec![0; 1 << 20])).await;
            }
            drop(inbox);
        };
        tokio::join!(waiting.feed(stdin), putting);
    }
}
