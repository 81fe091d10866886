//! Lines for the journal of systemd: what is read from a stream, with the priority
//! at its beginning.

/// As syslog counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// 3
    Error,
    /// 4
    Warning,
    /// 6
    Info,
    /// 7
    Debug,
}

impl Priority {
    const fn mark(self) -> &'static [u8] {
        match self {
            Self::Error => b"<3>",
            Self::Warning => b"<4>",
            Self::Info => b"<6>",
            Self::Debug => b"<7>",
        }
    }
}

/// Whether the journal reads the stream with this device and inode: `variable` is
/// the value of JOURNAL_STREAM, which a process that has its stderr elsewhere may
/// have inherited.
#[must_use]
pub fn is_stream(variable: Option<&str>, device: u64, inode: u64) -> bool {
    let numbers = variable.and_then(|text| text.split_once(':'));
    numbers
        .is_some_and(|(first, second)| first.parse() == Ok(device) && second.parse() == Ok(inode))
}

/// The text with its priority before each line, as each is an entry of its own.
#[must_use]
pub fn lines(priority: Priority, text: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(text.len() + 8);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        marked.extend_from_slice(priority.mark());
        marked.extend_from_slice(line);
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_that_was_named_is_the_journals() {
        assert!(is_stream(Some("9:12345"), 9, 12345));
        for other in [None, Some(""), Some("9"), Some("9:12346"), Some("x:12345")] {
            assert!(!is_stream(other, 9, 12345), "{other:?}");
        }
    }

    #[test]
    fn each_line_has_the_priority() {
        assert_eq!(lines(Priority::Error, b"one\n two\n"), b"<3>one\n<3> two\n");
        assert_eq!(lines(Priority::Debug, b"half"), b"<7>half");
        assert_eq!(lines(Priority::Info, b""), b"");
        assert_eq!(lines(Priority::Warning, b"x\n"), b"<4>x\n");
    }
}
