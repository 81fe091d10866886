//! What a key is called: by its operator, in logs, and never by its text.

use std::{error::Error, fmt, str::FromStr};

const MAX_CHARS: usize = 64;

/// 1 to 64 letters, digits and `._-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(String);

/// What was given is no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongName(String);

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.escape_debug();
        write!(
            f,
            "`{shown}` is no name of a key; use 1 to {MAX_CHARS} letters, digits and `._-`"
        )
    }
}

impl Error for WrongName {}

impl KeyName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = WrongName;

    fn from_str(text: &str) -> Result<Self, WrongName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match (1..=MAX_CHARS).contains(&text.len()) && text.chars().all(allowed) {
            true => Ok(Self(text.to_owned())),
            // A whole key, or more, does not belong into a message.
            false => Err(WrongName(text.chars().take(MAX_CHARS / 4).collect())),
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for right in ["a", "ci", "A.b_c-9", &"x".repeat(64)] {
            assert!(right.parse::<KeyName>().is_ok(), "{right}");
        }
        for wrong in ["", "a b", "a/b", "ä", "a\n", "a\0", &"x".repeat(65)] {
            assert!(wrong.parse::<KeyName>().is_err(), "{wrong:?}");
        }
    }
}
