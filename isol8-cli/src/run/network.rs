//! The log of the filtered network.

use bytes::Bytes;
use isol8_core::egress::record::Record;
pub(super) use isol8_gateway::record;

/// One line of JSON for each.
pub(super) fn lines(records: &[Record]) -> Bytes {
    let line = |record: &Record| record.to_json() + "\n";
    records.iter().map(line).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use isol8_proto::v1::{NetworkAction, NetworkRequest};

    use super::*;

    #[test]
    fn a_line_has_the_keys_of_the_contract() {
        let plain = NetworkRequest {
            timestamp_ms: 1_700_000_000_123,
            method: "GET".to_owned(),
            host: "example.com".to_owned(),
            port: 80,
            path: Some("/a?b".to_owned()),
            action: NetworkAction::Allow.into(),
            reason: String::new(),
            bytes_in: 5,
            bytes_out: 6,
            duration_us: 7890,
        };
        let blocked = NetworkRequest {
            method: "CONNECT".to_owned(),
            host: "a\"\n\u{1b}[2J\u{2028}é".to_owned(),
            port: 70_000,
            path: None,
            action: 99,
            reason: "not in the allow list".to_owned(),
            ..plain.clone()
        };
        let lines = lines(&[record(plain), record(blocked)]);
        expect![[r#"
            {"timestamp":"2023-11-14T22:13:20.123Z","method":"GET","host":"example.com","port":80,"path":"/a?b","action":"ALLOW","reason":"","bytesIn":5,"bytesOut":6,"durationMs":7}
            {"timestamp":"2023-11-14T22:13:20.123Z","method":"CONNECT","host":"a\"\n\u001b[2J\u2028\u00e9","port":0,"path":null,"action":"BLOCK","reason":"not in the allow list","bytesIn":5,"bytesOut":6,"durationMs":7}
        "#]].assert_eq(str::from_utf8(&lines).expect("it is text"));
    }
}
