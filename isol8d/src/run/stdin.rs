//! A run's standard input on its way to init.

use std::collections::VecDeque;

use bytes::Bytes;
use isol8_proto::init::{CloseStdin, to_init};

/// Input that was read from the client and init has no credit for. At the bound
/// the run reads no more from the client, who is stopped in turn. A client that
/// counts what was taken stays below it, and its signals are always heard.
const MAX_PENDING_BYTES: usize = 2 << 20;

/// The client hears in steps what was taken.
const TAKEN_STEP_BYTES: u64 = 256 << 10;

/// The most that one frame may carry.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that wait for credit.
#[derive(Debug)]
pub(super) struct Stdin {
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    credit: u64,
    /// Given to init, and the client has not heard of it.
    taken: u64,
    /// The client will send no more.
    ended: bool,
    /// Init knows.
    closed: bool,
}

impl Stdin {
    /// `wanted` is false for a program whose stdin is closed from the start.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            pending: VecDeque::new(),
            pending_bytes: 0,
            credit: 0,
            taken: 0,
            ended: !wanted,
            closed: !wanted,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending_bytes < MAX_PENDING_BYTES
    }

    /// Whether a piece may still come.
    pub(super) fn is_open(&self) -> bool {
        !self.ended
    }

    pub(super) fn add(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.pending_bytes += data.len();
            self.pending.push_back(data);
        }
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn granted(&mut self, credit: u64) {
        self.credit = self.credit.saturating_add(credit);
    }

    /// What to tell the client, when a step is full.
    pub(super) fn take_taken(&mut self) -> Option<u64> {
        (self.taken >= TAKEN_STEP_BYTES).then(|| std::mem::take(&mut self.taken))
    }

    /// The next frame that may go out, if one may. `started` is false until the
    /// program has a stdin to close.
    pub(super) fn next_frame(&mut self, started: bool) -> Option<to_init::Message> {
        let Some(front) = self.pending.front_mut() else {
            if self.ended && !self.closed && started {
                self.closed = true;
                return Some(to_init::Message::CloseStdin(CloseStdin {}));
            }
            return None;
        };
        let fits = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let fits = fits.min(PIECE_BYTES).min(front.len());
        if fits == 0 {
            return None;
        }
        let piece = front.split_to(fits);
        if front.is_empty() {
            self.pending.pop_front();
        }
        self.pending_bytes -= piece.len();
        self.credit -= piece.len() as u64;
        self.taken += piece.len() as u64;
        Some(to_init::Message::Stdin(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_waits_for_credit_and_the_end_for_the_input() {
        let mut stdin = Stdin::new(true);
        stdin.add(Bytes::from_static(b"hello"));
        stdin.end();
        assert_eq!(stdin.next_frame(true), None, "no credit");
        stdin.granted(3);
        let piece = to_init::Message::Stdin(Bytes::from_static(b"hel"));
        assert_eq!(stdin.next_frame(true), Some(piece));
        assert_eq!(stdin.next_frame(true), None);
        stdin.granted(100);
        let piece = to_init::Message::Stdin(Bytes::from_static(b"lo"));
        assert_eq!(stdin.next_frame(true), Some(piece));
        assert_eq!(stdin.next_frame(false), None, "nothing to close yet");
        let close = to_init::Message::CloseStdin(CloseStdin {});
        assert_eq!(stdin.next_frame(true), Some(close));
        assert_eq!(stdin.next_frame(true), None, "closed once");
    }

    #[test]
    fn a_piece_is_cut_to_what_a_frame_carries() {
        let mut stdin = Stdin::new(true);
        stdin.add(Bytes::from(vec![0; MAX_PENDING_BYTES]));
        assert!(!stdin.has_room());
        stdin.granted(u64::MAX);
        stdin.granted(1);
        let mut frames = 0;
        while let Some(to_init::Message::Stdin(piece)) = stdin.next_frame(true) {
            assert!(piece.len() <= PIECE_BYTES);
            frames += 1;
        }
        assert_eq!(frames, MAX_PENDING_BYTES / PIECE_BYTES);
        assert_eq!(stdin.take_taken(), Some(MAX_PENDING_BYTES as u64));
        assert_eq!(stdin.take_taken(), None);
        assert!(stdin.has_room());
    }

    #[test]
    fn unwanted_stdin_is_never_closed_twice() {
        let mut stdin = Stdin::new(false);
        assert!(!stdin.is_open());
        assert_eq!(stdin.next_frame(true), None);
    }
}
