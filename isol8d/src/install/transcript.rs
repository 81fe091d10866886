//! What an installer has said, for everybody who waits for it.
//!
//! The installer writes, any number of runs read, each at its own speed. Past
//! [`KEPT_BYTES`] the oldest bytes go: a client that does not read holds up
//! neither the installer nor the other runs, and costs no more than this.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

/// What a reader may be behind.
const KEPT_BYTES: usize = 256 << 10;

/// Of the end of the text: what explains a failure.
const TAIL_LINES: usize = 10;

/// Of one such line.
const LINE_CHARS: usize = 300;

#[derive(Debug, Default)]
struct State {
    /// The end of the text.
    kept: VecDeque<u8>,
    /// Bytes that have gone.
    gone: u64,
}

/// The text. Clones are the same text.
#[derive(Debug, Clone)]
pub(crate) struct Transcript {
    state: Arc<Mutex<State>>,
    grown: watch::Sender<()>,
}

/// A place in the text.
#[derive(Debug)]
pub(crate) struct Reader {
    text: Transcript,
    next: u64,
    grown: watch::Receiver<()>,
}

impl Transcript {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            grown: watch::Sender::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the installer has written.
    pub(crate) fn add(&self, bytes: &[u8]) {
        {
            let mut state = self.state();
            state.kept.extend(bytes);
            let over = state.kept.len().saturating_sub(KEPT_BYTES);
            state.kept.drain(..over);
            state.gone += over as u64;
        }
        self.grown.send_replace(());
    }

    /// Reads from the beginning, as far as that is still there.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            text: self.clone(),
            next: 0,
            grown: self.grown.subscribe(),
        }
    }

    /// The last lines that are not empty.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let state = self.state();
        let bytes: Vec<u8> = state.kept.iter().copied().collect();
        drop(state);
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(plain).filter(|line| !line.is_empty());
        let mut last: Vec<String> = lines.rev().take(TAIL_LINES).collect();
        last.reverse();
        last
    }
}

/// A line without what only a terminal understands.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // A sequence ends with a letter.
            let _letter = chars.by_ref().find(char::is_ascii_alphabetic);
        } else if !c.is_control() || c == '\t' {
            plain.push(c);
        }
        if plain.len() >= LINE_CHARS {
            break;
        }
    }
    plain.trim_end().to_owned()
}

impl Reader {
    /// What came since the last call, and whether something before it is lost.
    pub(crate) fn take(&mut self) -> (Bytes, bool) {
        self.grown.mark_unchanged();
        let state = self.text.state();
        let lost = self.next < state.gone;
        let from = usize::try_from(self.next.saturating_sub(state.gone)).unwrap_or(usize::MAX);
        let bytes: Bytes = state.kept.iter().skip(from).copied().collect();
        self.next = state.gone + state.kept.len() as u64;
        (bytes, lost)
    }

    /// Waits until there is something to take.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(crate) async fn grown(&mut self) {
        if self.grown.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn every_reader_gets_all_of_it() {
        let text = Transcript::new();
        let mut early = text.reader();
        text.add(b"one ");
        assert!(early.grown().now_or_never().is_some());
        assert_eq!(early.take(), (Bytes::from_static(b"one "), false));
        assert!(early.grown().now_or_never().is_none());
        text.add(b"two");
        let mut late = text.reader();
        assert_eq!(late.take(), (Bytes::from_static(b"one two"), false));
        assert_eq!(early.take(), (Bytes::from_static(b"two"), false));
    }

    #[test]
    fn who_does_not_read_loses_the_beginning() {
        let text = Transcript::new();
        let mut reader = text.reader();
        text.add(b"begin");
        text.add(&vec![b'x'; KEPT_BYTES]);
        let (bytes, lost) = reader.take();
        assert!(lost);
        assert_eq!(bytes.len(), KEPT_BYTES);
        text.add(b"end");
        assert_eq!(reader.take(), (Bytes::from_static(b"end"), false));
    }

    #[test]
    fn the_last_lines_explain() {
        let text = Transcript::new();
        for number in 0..20 {
            text.add(format!("line {number}\r\n\n").as_bytes());
        }
        text.add(b"\x1b[31merror\x1b[0m: no such thing \xff\n");
        let lines = text.last_lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[0], "line 11");
        assert_eq!(lines[9], "error: no such thing \u{fffd}");
    }
}
