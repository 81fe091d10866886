//! One output stream of a program on its way out: mask, then cap, and count.
//!
//! In this order, so that a cap never cuts a secret in two and shows its first
//! half. After the cap the rest is counted and dropped: the program is not
//! blocked, and nobody pays for masking what nobody sees.

use bytes::Bytes;

use crate::mask::{Masker, Secrets};

/// The state of one stream.
#[derive(Debug)]
pub struct Stream {
    masker: Masker,
    room: u64,
    written: u64,
    truncated: bool,
}

impl Stream {
    /// `max_output` bytes are passed on, counted after masking.
    #[must_use]
    pub fn new(secrets: &Secrets, max_output: u64) -> Self {
        Self {
            masker: secrets.masker(),
            room: max_output,
            written: 0,
            truncated: false,
        }
    }

    /// Takes what the program wrote; gives what may leave now, if anything.
    /// Copies only where something has to change.
    pub fn push(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.written += bytes.len() as u64;
        if self.truncated {
            return None;
        }
        let bytes = self.masker.push_bytes(bytes);
        self.cap(bytes)
    }

    /// The program has closed the stream or is gone: gives what was held back.
    pub fn finish(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if !self.truncated {
            self.masker.finish(&mut out);
        }
        self.cap(out.into())
    }

    /// Bytes that the program wrote, before any cap.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Something was dropped.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn cap(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX);
        if bytes.len() > fits {
            bytes.truncate(fits);
            self.truncated = true;
        }
        self.room -= bytes.len() as u64;
        (!bytes.is_empty()).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::request::Secret;

    fn secrets(value: &str) -> Secrets {
        let value = Secret(value.to_owned());
        Secrets::new(&BTreeMap::from([("KEY".to_owned(), value)])).unwrap()
    }

    /// What leaves, and whether something was dropped.
    fn check(secrets: &Secrets, max: u64, pieces: &[&str]) -> (String, bool) {
        let mut stream = Stream::new(secrets, max);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(stream.push(Bytes::copy_from_slice(piece.as_bytes())));
        }
        out.extend(stream.finish());
        let written: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(stream.written_bytes(), written as u64);
        let out = String::from_utf8(out.concat()).unwrap();
        (out, stream.is_truncated())
    }

    #[test]
    fn the_cap_is_exact() {
        let none = Secrets::default();
        let full = |text: &str| (text.to_owned(), false);
        let cut = |text: &str| (text.to_owned(), true);
        assert_eq!(check(&none, 6, &["abc", "def"]), full("abcdef"));
        assert_eq!(check(&none, 5, &["abc", "def", "ghi"]), cut("abcde"));
        assert_eq!(check(&none, 6, &["abc", "def", "", "g"]), cut("abcdef"));
        assert_eq!(check(&none, 0, &["a"]), cut(""));
        assert_eq!(check(&none, 0, &[]), full(""));
        assert_eq!(check(&none, u64::MAX, &["a"]), full("a"));
    }

    #[test]
    fn a_cap_inside_a_secret_shows_none_of_it() {
        let secrets = secrets("hunter22");
        for max in 0..12 {
            let (out, truncated) = check(&secrets, max, &["ab hunt", "er22 and more"]);
            assert!("ab *** and more".starts_with(&out), "{out}");
            assert_eq!((out.len() as u64, truncated), (max, true));
        }
    }

    #[test]
    fn what_was_held_back_counts_too() {
        let secrets = secrets("hunter22");
        assert_eq!(check(&secrets, 4, &["hunt"]), ("hunt".to_owned(), false));
        assert_eq!(check(&secrets, 3, &["hunt"]), ("hun".to_owned(), true));
        // A secret takes three bytes of the cap, whatever its length.
        let all = ("***".to_owned(), false);
        assert_eq!(check(&secrets, 3, &["hunter22"]), all);
    }

    #[test]
    fn bytes_pass_without_a_copy() {
        for secrets in [Secrets::default(), secrets("hunter22")] {
            let mut stream = Stream::new(&secrets, 7);
            let bytes = Bytes::from_static(b"abcd");
            let out = stream.push(bytes.clone()).unwrap();
            assert_eq!(out.as_ptr(), bytes.as_ptr());
            let out = stream.push(bytes.clone()).unwrap();
            assert_eq!((out.as_ptr(), out.len()), (bytes.as_ptr(), 3));
            assert_eq!(stream.push(bytes), None);
            assert!(stream.is_truncated());
        }
    }

    proptest! {
        #[test]
        fn the_end_is_the_beginning_of_what_masking_alone_gives(
            text in "(hunter22|hunt|[ab]{1,5}){0,20}",
            size in 1_usize..20,
            max in 0_u64..80,
        ) {
            let secrets = secrets("hunter22");
            let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
            let pieces: Vec<_> = pieces.iter().map(|p| std::str::from_utf8(p).unwrap()).collect();
            let (out, truncated) = check(&secrets, max, &pieces);
            let whole = secrets.mask_text(&text);
            prop_assert!(whole.starts_with(&out));
            prop_assert_eq!(truncated, whole.len() as u64 > max);
            prop_assert_eq!(out.len() as u64, max.min(whole.len() as u64));
        }
    }
}
