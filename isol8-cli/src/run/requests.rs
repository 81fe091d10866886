//! What we send: `Start`, then signals before stdin, so that a program which
//! does not read its input can still be interrupted.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use isol8_proto::v1::{CloseStdin, RunRequest, Signal, Start, run_request::Message};
use tokio::sync::mpsc;
use tokio_stream::Stream;

/// Signals on their way; a person cannot type more in the time that one takes.
const SIGNALS: usize = 8;

/// Stdin that the daemon has not taken, at most (and one piece): with no more of
/// it in the way a signal is heard though the program does not read.
const UNTAKEN_BYTES: u64 = 1 << 20;

/// The stream of one run's requests. It ends with its [`SignalSender`].
#[derive(Debug)]
pub(super) struct Requests {
    start: Option<Box<Start>>,
    signals: mpsc::Receiver<i32>,
    stdin: Option<mpsc::Receiver<Bytes>>,
    untaken_bytes: u64,
    taken: mpsc::UnboundedReceiver<u64>,
}

/// Tells the stream what the daemon has taken. The daemon bounds how often.
#[derive(Debug)]
pub(super) struct Taken(mpsc::UnboundedSender<u64>);

impl Taken {
    pub(super) fn add(&self, bytes: u64) {
        // A stream that has ended sends no more.
        let _ended = self.0.send(bytes);
    }
}

/// Sends signals into the stream, and holds it open.
#[derive(Debug)]
pub(super) struct SignalSender(mpsc::Sender<i32>);

impl SignalSender {
    /// A signal that finds no room is one of many like it.
    pub(super) fn send(&self, number: i32) {
        let _full = self.0.try_send(number);
    }
}

/// Without `stdin`, nothing but `Start` and signals is sent.
pub(super) fn requests(
    start: Start,
    stdin: Option<mpsc::Receiver<Bytes>>,
) -> (Requests, SignalSender, Taken) {
    let (sender, signals) = mpsc::channel(SIGNALS);
    let (take, taken) = mpsc::unbounded_channel();
    let requests = Requests {
        start: Some(Box::new(start)),
        signals,
        stdin,
        untaken_bytes: 0,
        taken,
    };
    (requests, SignalSender(sender), Taken(take))
}

impl Stream for Requests {
    type Item = RunRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RunRequest>> {
        let ready = |message| {
            Poll::Ready(Some(RunRequest {
                message: Some(message),
            }))
        };
        if let Some(start) = self.start.take() {
            return ready(Message::Start(*start));
        }
        match self.signals.poll_recv(cx) {
            Poll::Ready(Some(number)) => return ready(Message::Signal(Signal { number })),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        while let Poll::Ready(Some(bytes)) = self.taken.poll_recv(cx) {
            self.untaken_bytes = self.untaken_bytes.saturating_sub(bytes);
        }
        if self.untaken_bytes >= UNTAKEN_BYTES {
            return Poll::Pending;
        }
        let Some(stdin) = &mut self.stdin else {
            return Poll::Pending;
        };
        match stdin.poll_recv(cx) {
            Poll::Ready(Some(bytes)) => {
                self.untaken_bytes += bytes.len() as u64;
                ready(Message::Stdin(bytes))
            }
            Poll::Ready(None) => {
                self.stdin = None;
                ready(Message::CloseStdin(CloseStdin {}))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn signals_overtake_stdin() {
        let (stdin, receiver) = mpsc::channel(4);
        stdin.send(Bytes::from_static(b"data")).await.expect("room");
        drop(stdin);
        let (mut requests, sender, _taken) = requests(Start::default(), Some(receiver));
        sender.send(2);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let request = requests.next().await.and_then(|request| request.message);
            seen.push(match request.expect("a message") {
                Message::Start(_) => "start".to_owned(),
                Message::Stdin(bytes) => format!("{} bytes", bytes.len()),
                Message::CloseStdin(_) => "close".to_owned(),
                Message::Signal(signal) => format!("signal {}", signal.number),
            });
        }
        assert_eq!(seen, ["start", "signal 2", "4 bytes", "close"]);
        drop(sender);
        assert!(requests.next().await.is_none());
    }

    #[tokio::test]
    async fn stdin_stops_for_a_program_that_does_not_read_and_signals_do_not() {
        let piece = Bytes::from(vec![0; 256 << 10]);
        let (stdin, receiver) = mpsc::channel(16);
        for _ in 0..16 {
            stdin.send(piece.clone()).await.expect("room");
        }
        let (mut requests, sender, taken) = requests(Start::default(), Some(receiver));
        let mut next = async || {
            let next = timeout(Duration::from_millis(20), requests.next()).await;
            next.ok().flatten().and_then(|request| request.message)
        };
        assert!(matches!(next().await, Some(Message::Start(_))));
        for _ in 0..4 {
            assert!(matches!(next().await, Some(Message::Stdin(_))));
        }
        assert_eq!(next().await, None, "a whole window is not taken");
        sender.send(15);
        assert!(matches!(next().await, Some(Message::Signal(_))));
        taken.add(256 << 10);
        assert!(matches!(next().await, Some(Message::Stdin(_))));
        assert_eq!(next().await, None);
    }
}
