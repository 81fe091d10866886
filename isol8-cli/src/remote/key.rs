//! The key of a gateway, which is shown nowhere.

use std::{ffi::OsStr, fmt};

use hyper::header::HeaderValue;

/// Text that a header can carry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// `None` for what no header could carry as it is.
    pub(crate) fn parse(text: &OsStr) -> Option<Self> {
        let text = text.to_str()?;
        let fits = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (fits && !text.is_empty() && text.trim() == text).then(|| Self(text.to_owned()))
    }

    /// The value of `Authorization`. Whoever prints it prints nothing of it.
    pub(super) fn header(&self) -> HeaderValue {
        let text = format!("Bearer {}", self.0);
        let mut value = HeaderValue::try_from(text).expect("it was checked");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn only_what_a_header_carries_is_a_key() {
        let key = Key::parse(OsStr::new("a-key:with/all=sorts~")).expect("a key");
        assert_eq!(key.header(), "Bearer a-key:with/all=sorts~");
        assert_eq!(format!("{key:?} {:?}", key.header()), "Key Sensitive");
        for text in [
            &b""[..],
            b" k",
            b"k\n",
            b"k\0",
            b"a\r\nX: y",
            "k\u{e9}".as_bytes(),
            b"\xff",
        ] {
            assert_eq!(Key::parse(OsStr::from_bytes(text)), None, "{text:?}");
        }
    }
}
