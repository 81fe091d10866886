//! Packages that were installed once, for many runs.

use std::fmt;

/// The name of a layer: a digest of everything that decides what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(String);

impl LayerId {
    /// Takes the first 16 bytes of a digest.
    #[must_use]
    pub fn new(digest: &[u8; 32]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&digest[..16]))
    }

    /// Takes 32 lower-case hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 32 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_are_names() {
        let id = LayerId::new(&[0xab; 32]);
        assert_eq!(LayerId::parse(id.as_str()), Some(id));
        for bad in ["", "..", "ABababababababababababababababab", "a/b"] {
            assert_eq!(LayerId::parse(bad), None, "{bad}");
        }
    }
}
