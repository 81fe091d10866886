//! One automaton's way through a stream.

use std::collections::VecDeque;

use super::automaton::{Automaton, ENDS, ROOT, State};

/// The columns at which tools wrap base64: `base64` and MIME, `openssl` and PEM.
const COLUMNS: [u64; 2] = [76, 64];

/// The longest line that matters, with its line end.
const LONGEST_LINE: usize = 78;

/// An occurrence: positions in the stream, the end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Where the automaton stands.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: State,
    /// Bytes seen.
    end: u64,
    /// The beginning of the longest thing that may still become a string.
    candidate: u64,
    wrap: Option<Wrap>,
}

/// Line ends inside base64 that is wrapped count as nothing.
#[derive(Debug, Default)]
struct Wrap {
    /// Positions of those since `candidate`.
    skipped: VecDeque<u64>,
    /// Where the last line of the earlier pieces began.
    line: u64,
    last: u8,
}

impl Lane {
    /// A lane that reads over the line ends of wrapped text.
    pub(super) fn wrapping() -> Self {
        Self {
            wrap: Some(Wrap::default()),
            ..Self::default()
        }
    }

    /// Nothing before this position can become part of a string any more.
    pub(super) fn candidate(&self) -> u64 {
        self.candidate
    }

    /// Takes the next bytes, which begin at `base`; adds what it finds.
    pub(super) fn scan(
        &mut self,
        automaton: &Automaton,
        bytes: &[u8],
        base: u64,
        found: &mut Vec<Span>,
    ) {
        let mut state = self.state;
        let mut at = 0;
        while at < bytes.len() {
            if state == ROOT {
                match automaton.find_start(&bytes[at..]) {
                    Some(ahead) => at += ahead,
                    None => break,
                }
            }
            let byte = bytes[at];
            if state != ROOT
                && matches!(byte, b'\r' | b'\n')
                && let Some(wrap) = &mut self.wrap
                && wrap.takes(bytes, at, base)
            {
                wrap.skipped.push_back(base + at as u64);
                at += 1;
                continue;
            }
            let next = automaton.next(state, byte);
            state = next & !ENDS;
            at += 1;
            if next & ENDS != 0 {
                let end = base + at as u64;
                let start = self.start(end, automaton.longest(state));
                found.push(Span { start, end });
            }
        }
        self.state = state;
        self.end = base + bytes.len() as u64;
        self.candidate = self.start(self.end, automaton.depth(state));
        if let Some(wrap) = &mut self.wrap {
            wrap.end_piece(bytes, base, self.candidate);
        }
    }

    /// Where the `length` bytes before `end` begin, line ends not counted.
    fn start(&self, end: u64, length: u32) -> u64 {
        let mut start = end - u64::from(length);
        if let Some(wrap) = &self.wrap
            && length > 0
        {
            for skipped in wrap.skipped.iter().rev() {
                if *skipped < start {
                    break;
                }
                start -= 1;
            }
        }
        start
    }
}

impl Wrap {
    /// Whether the line end at `at` is one that a tool put into its base64.
    fn takes(&self, bytes: &[u8], at: usize, base: u64) -> bool {
        let nearest = at.saturating_sub(LONGEST_LINE);
        let line = match memchr::memrchr(b'\n', &bytes[nearest..at]) {
            Some(before) => base + (nearest + before) as u64 + 1,
            None if nearest == 0 => self.line,
            None => return false,
        };
        let before = if at == 0 { self.last } else { bytes[at - 1] };
        let returned = bytes[at] == b'\n' && before == b'\r';
        let column = base + at as u64 - line;
        COLUMNS.contains(&(column - u64::from(returned && column > 0)))
    }

    fn end_piece(&mut self, bytes: &[u8], base: u64, candidate: u64) {
        if let Some(before) = memchr::memrchr(b'\n', bytes) {
            self.line = base + before as u64 + 1;
        }
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
        while self
            .skipped
            .front()
            .is_some_and(|skipped| *skipped < candidate)
        {
            self.skipped.pop_front();
        }
    }
}
