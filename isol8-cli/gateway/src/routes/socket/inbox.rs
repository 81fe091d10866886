//! What a client sends for the program's stdin, until the program takes it.
//!
//! So much is read ahead of a program that does not read its input: a signal, or
//! the client's goodbye, which came behind it is heard.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What waits at most, and one message. More than a client sends that counts what
/// was taken (1 MiB); another one is not heard when it has sent more.
const AHEAD_BYTES: u32 = 4 << 20;

/// Where pieces come in; dropped, stdin ends behind them.
#[derive(Debug)]
pub(super) struct Inbox {
    room: Arc<Semaphore>,
    waiting: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
}

/// What came in.
#[derive(Debug)]
pub(super) struct Waiting {
    first: Vec<Bytes>,
    later: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
}

pub(super) fn inbox() -> (Inbox, Waiting) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let inbox = Inbox {
        room: Arc::new(Semaphore::new(AHEAD_BYTES as usize)),
        waiting: sender,
    };
    let waiting = Waiting {
        first: Vec::new(),
        later: receiver,
    };
    (inbox, waiting)
}

impl Inbox {
    /// Puts a piece behind the others, if there is room; else gives it back.
    pub(super) fn try_put(&self, piece: Bytes) -> Result<(), Bytes> {
        match Arc::clone(&self.room).try_acquire_many_owned(cost(&piece)) {
            Ok(place) => {
                // Nobody takes it any more where the program's end is on its way.
                let _over = self.waiting.send((piece, place));
                Ok(())
            }
            Err(_) => Err(piece),
        }
    }

    /// As [`Inbox::try_put`], and waits for room.
    pub(super) async fn put(&self, piece: Bytes) {
        let place = Arc::clone(&self.room)
            .acquire_many_owned(cost(&piece))
            .await;
        let place = place.expect("the room is never closed");
        let _over = self.waiting.send((piece, place));
    }
}

/// A piece that is larger than the room takes all of it.
fn cost(piece: &Bytes) -> u32 {
    u32::try_from(piece.len()).map_or(AHEAD_BYTES, |bytes| bytes.min(AHEAD_BYTES))
}

impl Waiting {
    /// The same behind these pieces.
    pub(super) fn behind(self, first: Vec<Bytes>) -> Self {
        Self { first, ..self }
    }

    /// Hands everything to the program, as it takes it, and then the end.
    pub(super) async fn feed(mut self, stdin: mpsc::Sender<Bytes>) {
        for piece in self.first {
            // Without a program it is for nobody.
            let _over = stdin.send(piece).await;
        }
        while let Some((piece, place)) = self.later.recv().await {
            let sent = stdin.send(piece).await;
            drop(place);
            if sent.is_err() {
                // The program's end is on its way. What still comes is for nobody.
                while self.later.recv().await.is_some() {}
            }
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
