//! What the gateway sends to the daemon for one run: its start, its stdin, and then
//! nothing until it is over.

use bytes::Bytes;
use futures_util::{Stream, stream};
use isol8_proto::v1::{CloseStdin, RunRequest, Start, run_request::Message};
use tokio::sync::mpsc;
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

struct Source<I> {
    start: Option<Box<Start>>,
    stdin: I,
    closes: bool,
    untaken_bytes: u64,
    taken: mpsc::UnboundedReceiver<u64>,
    over: CancellationToken,
}

/// The stream of one run's requests.
pub(crate) fn requests(
    start: Start,
    stdin: Bytes,
) -> (impl Stream<Item = RunRequest> + Send + 'static, Open) {
    let over = CancellationToken::new();
    let (sender, taken) = mpsc::unbounded_channel();
    let open = Open {
        taken: sender,
        _guard: over.clone().drop_guard(),
    };
    let source = Source {
        closes: start.stdin,
        start: Some(Box::new(start)),
        stdin: pieces(stdin),
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

impl<I: Iterator<Item = Bytes>> Source<I> {
    /// The next message; after the last one it waits for ever.
    async fn next(&mut self) -> Message {
        if let Some(start) = self.start.take() {
            return Message::Start(*start);
        }
        while self.untaken_bytes >= UNTAKEN_BYTES {
            let Some(bytes) = self.taken.recv().await else {
                return std::future::pending().await;
            };
            self.untaken_bytes = self.untaken_bytes.saturating_sub(bytes);
        }
        if let Some(bytes) = self.stdin.next() {
            self.untaken_bytes += bytes.len() as u64;
            return Message::Stdin(bytes);
        }
        if std::mem::take(&mut self.closes) {
            return Message::CloseStdin(CloseStdin {});
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn stdin_waits_for_the_program_and_the_end_does_not() {
        let start = Start {
            stdin: true,
            ..Start::default()
        };
        let (requests, open) = requests(start, vec![0; 2 << 20].into());
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
        let (requests, open) = requests(start, Bytes::from_static(b"x"));
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
}
