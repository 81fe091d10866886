use expect_test::expect;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn record() -> Record {
    Record {
        timestamp_ms: 1_700_000_000_123,
        method: "GET".to_owned(),
        host: "example.com".to_owned(),
        port: 80,
        path: Some("/a?b".to_owned()),
        action: Action::Allow,
        reason: "allowed".to_owned(),
        bytes_in: 5,
        bytes_out: 7,
        duration: Duration::from_micros(12_900),
    }
}

#[test]
fn the_keys_are_these() {
    expect![[r#"{"timestamp":"2023-11-14T22:13:20.123Z","method":"GET","host":"example.com","port":80,"path":"/a?b","action":"ALLOW","reason":"allowed","bytesIn":5,"bytesOut":7,"durationMs":12}"#]]
    .assert_eq(&record().to_json());
    let tunnel = Record {
        method: "CONNECT".to_owned(),
        path: None,
        port: 443,
        action: Action::Block,
        timestamp_ms: 0,
        ..record()
    };
    expect![[r#"{"timestamp":"1970-01-01T00:00:00.000Z","method":"CONNECT","host":"example.com","port":443,"path":null,"action":"BLOCK","reason":"allowed","bytesIn":5,"bytesOut":7,"durationMs":12}"#]]
    .assert_eq(&tunnel.to_json());
}

#[test]
fn nothing_that_a_host_holds_ends_the_line() {
    let host = "a\n\r\0\"\\\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{1b}[2Jü😀";
    let line = Record {
        host: host.to_owned(),
        ..record()
    }
    .to_json();
    assert!(
        line.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "{line}"
    );
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["host"], host);
    let plain = Record {
        host: "a\u{7f}b".to_owned(),
        ..record()
    };
    assert!(plain.to_json().contains(r#""a\u007fb""#));
}

#[test]
fn a_clock_beyond_the_calendar_does_not_panic() {
    for timestamp_ms in [253_402_300_799_999, 253_402_300_800_000, u64::MAX] {
        let line = Record {
            timestamp_ms,
            ..record()
        }
        .to_json();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert!(
            value["timestamp"]
                .as_str()
                .unwrap()
                .starts_with("9999-12-3"),
            "{line}"
        );
    }
}

proptest! {
    #[test]
    fn always_one_line_of_valid_json(
        timestamp_ms in 0_u64..253_402_207_200_000,
        texts: [String; 4],
        path: Option<String>,
        port: u16,
        allow: bool,
        bytes: [u64; 2],
        ms in 0..u64::MAX,
    ) {
        let [method, host, reason, extra] = texts;
        let record = Record {
            timestamp_ms,
            method,
            host: format!("{host}\u{0}\u{2028}{extra}"),
            port,
            path,
            action: if allow { Action::Allow } else { Action::Block },
            reason,
            bytes_in: bytes[0],
            bytes_out: bytes[1],
            duration: Duration::from_millis(ms),
        };
        let line = record.to_json();
        prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        prop_assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        let value: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value.as_object().unwrap().len(), 10);
    }
}
