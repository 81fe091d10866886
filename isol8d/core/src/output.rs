//! One output stream of a program on its way out: mask, then cap, and count.

use bytes::Bytes;

use crate::mask::{Masker, Secrets};

/// The state of one stream.
#[derive(Debug)]
pub struct Stream {
    masker: Option<Masker>,
    room: u64,
    written: u64,
    truncated: bool,
}

impl Stream {
    /// `max_output` bytes are passed on, counted after masking.
    #[must_use]
    pub fn new(secrets: &Secrets, max_output: u64) -> Self {
        Self {
            masker: (!secrets.is_empty()).then(|| secrets.masker()),
            room: max_output,
            written: 0,
            truncated: false,
        }
    }

    /// Takes what the program wrote; gives what may leave now, if anything.
    pub fn push(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.written += bytes.len() as u64;
        let bytes = match &mut self.masker {
            None => bytes,
            Some(masker) => {
                let mut out = Vec::with_capacity(bytes.len());
                masker.push(&bytes, &mut out);
                out.into()
            }
        };
        self.cap(bytes)
    }

    /// The program has closed the stream or is gone: gives what was held back.
    pub fn finish(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if let Some(masker) = &mut self.masker {
            masker.finish(&mut out);
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
