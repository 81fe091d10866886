//! Replaces the values of secrets with `***` in a stream of bytes.
//!
//! [`Secrets`] is made once a run, [`Masker`] once a stream. A value is found as
//! it is and in base64 (standard and URL-safe, at any offset in what was
//! encoded, wrapped at 64 or 76 columns or not), in whatever pieces it arrives.
//!
//! Every byte that belongs to any occurrence goes; occurrences that overlap
//! leave one `***`, those that only touch leave one each. So no part of one
//! value shows because another one began before it. The result is the same for
//! every way of cutting the stream into pieces: bytes are held back exactly
//! while they may still become part of a value.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use thiserror::Error;

use crate::request::Secret;

mod automaton;
mod encodings;
mod lane;

#[cfg(test)]
mod tests;

use automaton::Automaton;
use lane::{Lane, Span};

/// A shorter value would mask half of every output. A line end at its end does
/// not count, and is not masked.
pub const MIN_SECRET_BYTES: usize = 4;

/// All values of a run together. Each byte costs a few hundred in the automaton.
pub const MAX_SECRETS_BYTES: usize = 64 << 10;

/// What stands in place of a secret.
pub const MASK: &[u8] = b"***";

/// Why secrets cannot be masked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretError {
    /// Under [`MIN_SECRET_BYTES`].
    #[error("the value of secret `{0}` is too short to be masked: under {MIN_SECRET_BYTES} bytes")]
    TooShort(String),
    /// Over [`MAX_SECRETS_BYTES`].
    #[error("the values of all secrets take more than {MAX_SECRETS_BYTES} bytes")]
    TooLong,
}

/// The values to mask, ready for use. Cheap to clone.
#[derive(Clone, Default)]
pub struct Secrets(Option<Arc<Forms>>);

/// Automata over the forms in which values appear.
struct Forms {
    plain: Automaton,
    base64: Automaton,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secrets {
    /// Takes the secrets of a request.
    ///
    /// # Errors
    /// A value that is too short, or all of them too long.
    pub fn new(values: &BTreeMap<String, Secret>) -> Result<Self, SecretError> {
        if values.is_empty() {
            return Ok(Self(None));
        }
        let mut plain = Vec::new();
        for (name, value) in values {
            let value = value.0.trim_end_matches(['\r', '\n']).as_bytes();
            if value.len() < MIN_SECRET_BYTES {
                return Err(SecretError::TooShort(name.clone()));
            }
            plain.push(value.to_vec());
        }
        if plain.iter().map(Vec::len).sum::<usize>() > MAX_SECRETS_BYTES {
            return Err(SecretError::TooLong);
        }
        let base64 = plain.iter().flat_map(|value| encodings::base64(value));
        Ok(Self(Some(Arc::new(Forms {
            base64: Automaton::new(base64.collect()),
            plain: Automaton::new(plain),
        }))))
    }

    /// There is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A masker for one stream.
    #[must_use]
    pub fn masker(&self) -> Masker {
        Masker {
            scan: self.0.as_ref().map(|forms| Scan::new(Arc::clone(forms))),
        }
    }

    /// Masks a whole text, such as a message or a log line.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        let mut masker = self.masker();
        let mut out = Vec::with_capacity(text.len());
        masker.push(text.as_bytes(), &mut out);
        masker.finish(&mut out);
        // A value begins and ends between characters; its base64 is ASCII.
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Masks one stream.
#[derive(Debug)]
pub struct Masker {
    scan: Option<Scan>,
}

impl Masker {
    /// Takes the next bytes and appends to `out` what can no longer become a
    /// secret.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.scan {
            None => out.extend_from_slice(bytes),
            Some(scan) => {
                scan.look(bytes);
                scan.emit(bytes, scan.decided(), out);
            }
        }
    }

    /// The same without a copy where nothing has to change. May be empty.
    pub fn push_bytes(&mut self, bytes: Bytes) -> Bytes {
        let Some(scan) = &mut self.scan else {
            return bytes;
        };
        scan.look(&bytes);
        if let Some(clear) = scan.pass(&bytes) {
            return bytes.slice(..clear);
        }
        let mut out = Vec::with_capacity(scan.held.len() + bytes.len());
        scan.emit(&bytes, scan.decided(), &mut out);
        out.into()
    }

    /// The stream is over: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(scan) = &mut self.scan {
            scan.emit(&[], scan.seen, out);
        }
    }
}

/// The state of one stream. Positions count from its first byte.
struct Scan {
    forms: Arc<Forms>,
    plain: Lane,
    base64: Lane,
    /// How far the lanes have looked.
    seen: u64,
    /// What was looked at and not decided: the bytes that end at `seen`, without
    /// those of the last push until it is emitted.
    held: Vec<u8>,
    /// How far everything is decided and emitted.
    emitted: u64,
    /// The end of the last occurrence for which `***` was emitted.
    masked_to: u64,
    /// Occurrences at or after `emitted`, in order, apart from each other.
    spans: Vec<Span>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.len();
        f.debug_struct("Scan")
            .field("held", &held)
            .finish_non_exhaustive()
    }
}

impl Scan {
    fn new(forms: Arc<Forms>) -> Self {
        Self {
            forms,
            plain: Lane::default(),
            base64: Lane::wrapping(),
            seen: 0,
            held: Vec::new(),
            emitted: 0,
            masked_to: 0,
            spans: Vec::new(),
        }
    }

    /// Lets both lanes see the next bytes.
    fn look(&mut self, bytes: &[u8]) {
        let known = self.spans.len();
        self.plain
            .scan(&self.forms.plain, bytes, self.seen, &mut self.spans);
        self.base64
            .scan(&self.forms.base64, bytes, self.seen, &mut self.spans);
        self.seen += bytes.len() as u64;
        if self.spans.len() > known {
            merge(&mut self.spans);
        }
    }

    /// Before this position nothing can change any more.
    fn decided(&self) -> u64 {
        self.plain.candidate().min(self.base64.candidate())
    }

    /// When `bytes` may leave as they are but for an end that is held back: the
    /// length of what may leave. Takes note of it.
    fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.seen - bytes.len() as u64;
        let clear = self.held.is_empty()
            && self.spans.is_empty()
            && self.emitted == before
            && self.masked_to <= before;
        let decided = self.decided();
        if !clear || decided < before {
            return None;
        }
        let length = usize::try_from(decided - before).expect("it is within a slice");
        self.held.extend_from_slice(&bytes[length..]);
        self.emitted = decided;
        Some(length)
    }

    /// Emits everything before `to`. `fresh` are the bytes of the last look.
    fn emit(&mut self, fresh: &[u8], to: u64, out: &mut Vec<u8>) {
        let first_fresh = self.seen - fresh.len() as u64;
        let held = std::mem::take(&mut self.held);
        let first_held = first_fresh - held.len() as u64;
        let index = |at: u64, first: u64| usize::try_from(at - first).expect("within a slice");
        let copy = |from: u64, to: u64, out: &mut Vec<u8>| {
            if from < to.min(first_fresh) {
                let end = index(to.min(first_fresh), first_held);
                out.extend_from_slice(&held[index(from, first_held)..end]);
            }
            if from.max(first_fresh) < to {
                let start = index(from.max(first_fresh), first_fresh);
                out.extend_from_slice(&fresh[start..index(to, first_fresh)]);
            }
        };
        let mut done = 0;
        for span in self.spans.iter().take_while(|span| span.start < to) {
            done += 1;
            if span.start >= self.masked_to {
                copy(self.emitted.max(self.masked_to), span.start, out);
                out.extend_from_slice(MASK);
                self.emitted = span.start;
            }
            self.masked_to = self.masked_to.max(span.end);
        }
        self.spans.drain(..done);
        copy(self.emitted.max(self.masked_to), to, out);
        self.emitted = to.max(self.emitted);
        copy(self.emitted, self.seen, &mut self.held);
    }
}

/// Sorts, and makes one of those that share a byte.
fn merge(spans: &mut Vec<Span>) {
    spans.sort_unstable_by_key(|span| span.start);
    spans.dedup_by(|next, kept| {
        let shared = next.start < kept.end;
        if shared {
            kept.end = kept.end.max(next.end);
        }
        shared
    });
}
