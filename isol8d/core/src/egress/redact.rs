//! Takes the secrets of a run out of its network log.

use std::collections::BTreeMap;

use super::record::{CUT, Record};
use crate::{
    mask::{MASK, SecretError, Secrets},
    request::Secret,
};

/// Knows the secrets of one run.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    exact: Secrets,
    /// Hosts are logged in lower case, and name servers do not care either. A
    /// reason may name a host too, as the client spelt it.
    folded: Secrets,
}

impl Redactor {
    /// Takes the secrets of a request.
    ///
    /// # Errors
    /// As [`Secrets::new`].
    pub fn new(values: &BTreeMap<String, Secret>) -> Result<Self, SecretError> {
        let lower = |(name, value): (&String, &Secret)| {
            let value = Secret(value.0.to_ascii_lowercase());
            (name.clone(), value)
        };
        Ok(Self {
            exact: Secrets::new(values)?,
            folded: Secrets::new(&values.iter().map(lower).collect())?,
        })
    }

    /// The record without any secret.
    #[must_use]
    pub fn redact(&self, record: &Record) -> Record {
        if self.exact.is_empty() {
            return record.clone();
        }
        Record {
            method: self.text(&record.method),
            host: self.in_any_case(&record.host),
            path: record.path.as_deref().map(|path| self.text(path)),
            reason: self.in_any_case(&self.text(&record.reason)),
            ..record.clone()
        }
    }

    /// In lower case where a value was found.
    fn in_any_case(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let masked = clean(&self.folded, &lower);
        if masked == lower {
            return self.text(text);
        }
        masked
    }

    fn text(&self, text: &str) -> String {
        clean(&self.exact, text)
    }
}

/// A text that was cut may end in the middle of a value: what could still have
/// become one goes as well.
fn clean(secrets: &Secrets, text: &str) -> String {
    let Some(kept) = text.strip_suffix(CUT) else {
        return secrets.mask_text(text);
    };
    let mut masker = secrets.masker();
    let mut sure = Vec::new();
    masker.push(kept.as_bytes(), &mut sure);
    let mut all = sure.clone();
    masker.finish(&mut all);
    if all.len() > sure.len() {
        sure.extend_from_slice(MASK);
    }
    format!("{}{CUT}", String::from_utf8_lossy(&sure))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::egress::record::{Action, cut};

    const VALUE: &str = "S3CR3Tvalue99XYZ";

    fn redacted(method: &str, host: &str, path: &str) -> Record {
        because(method, host, path, &format!("because of {VALUE}"))
    }

    fn because(method: &str, host: &str, path: &str, reason: &str) -> Record {
        let values = BTreeMap::from([("K".to_owned(), Secret(VALUE.to_owned()))]);
        let record = Record {
            timestamp_ms: 0,
            method: method.to_owned(),
            host: host.to_owned(),
            port: 80,
            path: Some(path.to_owned()),
            action: Action::Block,
            reason: reason.to_owned(),
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
        };
        Redactor::new(&values).expect("long enough").redact(&record)
    }

    #[test]
    fn a_value_in_a_host_is_found_in_any_case() {
        for host in ["s3cr3tvalue99xyz.nope.test", "a.S3CR3Tvalue99XYZ.test"] {
            let record = redacted("GET", host, "/");
            assert!(record.host.contains("***"), "{}", record.host);
            assert!(!record.host.to_lowercase().contains("s3cr3t"));
        }
        assert_eq!(redacted("GET", "Example.test", "/").host, "Example.test");
    }

    #[test]
    fn a_value_in_a_reason_is_found_in_any_case() {
        for name in [VALUE, "s3cr3tvalue99xyz", "S3cr3tVALUE99xyz"] {
            let reason = format!("the TLS handshake is for another host: `{name}.test`");
            let record = because("GET", "a.test", "/", &reason);
            assert!(record.reason.ends_with("`***.test`"), "{}", record.reason);
        }
        let reason = "the TLS handshake did not begin in time";
        assert_eq!(because("GET", "a.test", "/", reason).reason, reason);
    }

    #[test]
    fn a_cut_text_shows_no_part_of_a_value() {
        for left in 1..VALUE.len() {
            let path = format!("/{}{VALUE}", "x".repeat(100 - left));
            let record = redacted("GET", "a.test", &cut(&path, 101));
            let path = record.path.expect("it has one");
            assert!(path.ends_with("x***…"), "{left}: {path}");
        }
        let whole = redacted("GET", "a.test", "/S3CR3Tval");
        assert_eq!(whole.path.as_deref(), Some("/S3CR3Tval"), "not cut");
    }

    #[test]
    fn every_text_of_a_record_is_looked_at() {
        let record = redacted(VALUE, "a.test", &format!("/?k={VALUE}"));
        assert_eq!(record.method, "***");
        assert_eq!(record.path.as_deref(), Some("/?k=***"));
        assert_eq!(record.reason, "because of ***");
    }
}
