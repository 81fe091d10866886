//! One request, as the network log has it.

use std::{fmt::Write as _, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A request of a sandbox and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// When it came, in milliseconds since 1970 (UTC). As RFC 3339 in JSON.
    #[serde(rename = "timestamp", with = "timestamp")]
    pub timestamp_ms: u64,
    /// `GET`, `CONNECT`, …
    pub method: String,
    /// The canonical host, or what stood in its place where there is none.
    pub host: String,
    /// The port; 0 where none could be read.
    pub port: u16,
    /// The path and query. A tunnel has none.
    pub path: Option<String>,
    /// What was decided.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Bytes to the sandbox.
    pub bytes_in: u64,
    /// Bytes from the sandbox.
    pub bytes_out: u64,
    /// From the request to the end of the answer or the tunnel.
    #[serde(rename = "durationMs", with = "duration")]
    pub duration: Duration,
}

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// It went out.
    Allow,
    /// It did not.
    Block,
}

impl Record {
    /// One line of JSON, without the line break, in ASCII: whatever a request
    /// holds, no reader can take it for the end of the line or for an escape
    /// sequence of a terminal.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string(self).expect("text and numbers always serialise");
        if text.bytes().all(|byte| byte.is_ascii() && byte != 0x7f) {
            return text;
        }
        let mut line = String::with_capacity(text.len() * 2);
        for c in text.chars() {
            if c.is_ascii() && c != '\x7f' {
                line.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(line, "\\u{unit:04x}").expect("a String takes everything");
            }
        }
        line
    }
}

/// Stands at the end of a text that goes on.
pub const CUT: char = '…';

/// The beginning of a text, at most so many bytes of whole characters, with
/// [`CUT`] behind it where something is missing.
#[must_use]
pub fn cut(text: &str, most_bytes: usize) -> String {
    if text.len() <= most_bytes {
        return text.to_owned();
    }
    let mut end = most_bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", &text[..end])
}

mod timestamp {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};
    use serde::de::Error as _;

    pub(super) fn serialize<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        // Past the end of the calendar (year 9999) a clock is wrong anyway.
        let when = i64::try_from(*ms).map(Timestamp::from_millisecond);
        let when = when.map_or(Timestamp::MAX, |when| when.unwrap_or(Timestamp::MAX));
        serializer.collect_str(&format_args!("{when:.3}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let when: Timestamp = String::deserialize(from)?
            .parse()
            .map_err(D::Error::custom)?;
        u64::try_from(when.as_millisecond()).map_err(D::Error::custom)
    }
}

mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests;
