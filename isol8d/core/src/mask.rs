//! Replaces the values of secrets with `***` in a stream of bytes.
//!
//! [`Secrets`] is made once a run, [`Masker`] once a stream.

use std::{collections::BTreeMap, fmt, sync::Arc};

use thiserror::Error;

use crate::request::Secret;

/// A shorter value would mask half of every output.
pub const MIN_SECRET_BYTES: usize = 4;

/// Every byte of a secret costs memory in several encodings.
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
pub struct Secrets(Arc<Vec<Vec<u8>>>);

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
        for (name, value) in values {
            if value.0.len() < MIN_SECRET_BYTES {
                return Err(SecretError::TooShort(name.clone()));
            }
        }
        if values.values().map(|value| value.0.len()).sum::<usize>() > MAX_SECRETS_BYTES {
            return Err(SecretError::TooLong);
        }
        let values = values.values().map(|value| value.0.clone().into_bytes());
        Ok(Self(Arc::new(values.collect())))
    }

    /// There is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A masker for one stream.
    #[must_use]
    pub fn masker(&self) -> Masker {
        Masker {
            secrets: self.clone(),
            held: Vec::new(),
        }
    }

    /// Masks a whole text, such as a message or a log line.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        let mut masker = self.masker();
        let mut out = Vec::new();
        masker.push(text.as_bytes(), &mut out);
        masker.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Masks one stream.
#[derive(Debug)]
pub struct Masker {
    secrets: Secrets,
    held: Vec<u8>,
}

impl Masker {
    /// Takes the next bytes and appends to `out` what can no longer become a
    /// secret.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.secrets.is_empty() {
            out.extend_from_slice(bytes);
            return;
        }
        self.held.extend_from_slice(bytes);
        let longest = self.secrets.0.iter().map(Vec::len).max().unwrap_or(0);
        self.emit(longest.saturating_sub(1), out);
    }

    /// The stream is over: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.emit(0, out);
    }

    fn emit(&mut self, keep: usize, out: &mut Vec<u8>) {
        let mut at = 0;
        while at + keep < self.held.len() {
            let rest = &self.held[at..];
            let hits = self
                .secrets
                .0
                .iter()
                .filter(|value| rest.starts_with(value));
            if let Some(length) = hits.map(Vec::len).max() {
                out.extend_from_slice(MASK);
                at += length;
            } else {
                out.push(self.held[at]);
                at += 1;
            }
        }
        self.held.drain(..at);
    }
}
