//! What the gateway sends to the daemon for one run: its start, its stdin, signals
//! as they come, and then nothing until it is over.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use isol8_proto::v1::{CloseStdin, RunRequest, Signal, Start, run_request::Message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::files::pieces;

/// Stdin that the sandbox has not taken, at most (and one piece). The daemon
/// always takes so much off the connection: with no more on its way, the end of
/// the stream is never stuck behind what a program does not read.
const UNTAKEN_BYTES: u64 = 1 << 20;

/// Holds the stream open: dropped, it ends, and with it the run.
#[derive(Debug)]
pub(crate) struct Open {
    taken: mpsc::UnboundedSender<u64>,
    _guard: DropGuard,
}

impl Open {
    /// The sandbox has taken so much. The daemon bounds how often.
    pub(crate) fn taken(&self, bytes: u64) {
        // A stream that has sent everything does not listen.
        let _over = self.taken.send(bytes);
    }
}

/// What goes to a program while it runs.
#[derive(Debug)]
pub(crate) struct Input {
    stdin: Stdin,
    signals: mpsc::Receiver<i32>,
}

#[derive(Debug)]
enum Stdin {
    Whole(Bytes),
    Live(mpsc::Receiver<Bytes>),
}

impl Input {
    /// All of stdin, and no signals.
    pub(crate) fn whole(stdin: Bytes) -> Self {
        let (_never, signals) = mpsc::channel(1);
        Self {
            stdin: Stdin::Whole(stdin),
            signals,
        }
    }

    /// Stdin in pieces that the daemon takes, until its sender is dropped.
    pub(crate) fn live(stdin: mpsc::Receiver<Bytes>, signals: mpsc::Receiver<i32>) -> Self {
        Self {
            stdin: Stdin::Live(stdin),
            signals,
        }
    }
}

struct Source {
    start: Option<Box<Start>>,
    stdin: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    /// Stdin goes on.
    is_open: bool,
    signals: mpsc::Receiver<i32>,
    untaken_bytes: u64,
    taken: mpsc::UnboundedReceiver<u64>,
    over: CancellationToken,
}

/// The stream of one run's requests.
pub(crate) fn requests(
    start: Start,
    input: Input,
) -> (impl Stream<Item = RunRequest> + Send + 'static, Open) {
    let over = CancellationToken::new();
    let (sender, taken) = mpsc::unbounded_channel();
    let open = Open {
        taken: sender,
        _guard: over.clone().drop_guard(),
    };
    let source = Source {
        is_open: start.stdin,
        start: Some(Box::new(start)),
        stdin: match input.stdin {
            Stdin::Whole(bytes) => Box::pin(stream::iter(pieces(bytes))),
            Stdin::Live(receiver) => Box::pin(ReceiverStream::new(receiver)),
        },
        signals: input.signals,
        untaken_bytes: 0,
        taken,
        over,
    };
    let requests = stream::unfold(source, |mut source| async {
        let over = source.over.clone();
        let message = tokio::select! {
            biased;
            () = over.cancelled() => return None,
            message = source.next() => message,
        };
        let request = RunRequest {
            message: Some(message),
        };
        Some((request, source))
    });
    (requests, open)
}

impl Source {
    /// The next message; after the last one it waits for ever. Signals overtake
    /// stdin.
    async fn next(&mut self) -> Message {
        if let Some(start) = self.start.take() {
            return Message::Start(*start);
        }
        loop {
            let has_room = self.untaken_bytes < UNTAKEN_BYTES;
            tokio::select! {
                biased;
                Some(number) = self.signals.recv() => return Message::Signal(Signal { number }),
                Some(bytes) = self.taken.recv() => {
                    self.untaken_bytes = self.untaken_bytes.saturating_sub(bytes);
                }
                piece = self.stdin.next(), if self.is_open && has_room => match piece {
                    Some(bytes) => {
                        self.untaken_bytes += bytes.len() as u64;
                        return Message::Stdin(bytes);
                    }
                    None => {
                        self.is_open = false;
                        return Message::CloseStdin(CloseStdin {});
                    }
                },
                else => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn stdin_waits_for_the_program_and_the_end_does_not() {
        let start = Start {
            stdin: true,
            ..Start::default()
        };
        let (requests, open) = requests(start, Input::whole(vec![0; 2 << 20].into()));
        let mut requests = Box::pin(requests);
        let mut next = || requests.next().now_or_never();
        let is_stdin = |next: Option<Option<RunRequest>>| {
            matches!(
                next.flatten().and_then(|next| next.message),
                Some(Message::Stdin(_))
            )
        };
        assert!(matches!(
            next().flatten().and_then(|next| next.message),
            Some(Message::Start(_))
        ));
        for _ in 0..4 {
            assert!(is_stdin(next()));
        }
        assert!(next().is_none(), "a whole window is not taken");
        open.taken(256 << 10);
        assert!(is_stdin(next()));
        assert!(next().is_none());
        drop(open);
        assert_eq!(next(), Some(None), "the stream ends");
    }

    #[tokio::test]
    async fn the_stream_stays_open_behind_stdin() {
        let start = Start {
            stdin: true,
            ..Start::default()
        };
        let (requests, open) = requests(start, Input::whole(Bytes::from_static(b"x")));
        let mut requests = Box::pin(requests);
        let mut seen = Vec::new();
        while let Some(Some(request)) = requests.next().now_or_never() {
            seen.push(match request.message {
                Some(Message::Start(_)) => "start",
                Some(Message::Stdin(_)) => "stdin",
                Some(Message::CloseStdin(_)) => "close",
                _ => "other",
            });
        }
        assert_eq!(seen, ["start", "stdin", "close"]);
        drop(open);
        assert_eq!(requests.next().now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn signals_overtake_stdin() {
        let start = Start {
            stdin: true,
            ..Start::default()
        };
        let (stdin, from_stdin) = mpsc::channel(1);
        let (signals, from_signals) = mpsc::channel(1);
        let (requests, open) = requests(start, Input::live(from_stdin, from_signals));
        let mut requests = Box::pin(requests);
        stdin.try_send(Bytes::from_static(b"x")).expect("room");
        signals.try_send(2).expect("room");
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(requests.next().await.and_then(|request| request.message));
        }
        assert!(matches!(seen[0], Some(Message::Start(_))));
        assert!(matches!(
            seen[1],
            Some(Message::Signal(Signal { number: 2 }))
        ));
        assert!(matches!(seen[2], Some(Message::Stdin(_))));
        drop((stdin, signals));
        let last = requests.next().await.and_then(|request| request.message);
        assert!(matches!(last, Some(Message::CloseStdin(_))));
        assert!(requests.next().now_or_never().is_none());
        drop(open);
        assert_eq!(requests.next().await, None);
    }
}
