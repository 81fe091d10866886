//! Verdicts as people and JSON see them.

use std::{fmt::Write as _, time::Duration};

use expect_test::expect;
use isol8_core::egress::record::{Action, Record};
use isol8_proto::v1::{Accepted, Engine, Runtime as WireRuntime, Usage};
use jiff::Timestamp;

use super::*;
use crate::run::output::Written;

fn exited(verdict: Verdict) -> Exited {
    Exited {
        verdict: verdict.into(),
        ..Exited::default()
    }
}

fn with_code(code: i32) -> Exited {
    Exited {
        code: Some(code),
        ..exited(Verdict::Exited)
    }
}

fn with_signal(signal: i32) -> Exited {
    Exited {
        signal: Some(signal),
        ..exited(Verdict::Signalled)
    }
}

#[test]
fn every_verdict_has_its_code_and_message() {
    let limits = Limits {
        timeout_ms: 100,
        memory_bytes: 64 << 20,
        ..Limits::default()
    };
    let mut full = exited(Verdict::TimedOut);
    full.reason = "it did not answer SIGTERM".to_owned();
    let mut noted = with_code(1);
    noted.reason = "/sandbox is full".to_owned();
    let cases = [
        with_code(0),
        with_code(7),
        noted,
        with_signal(11),
        exited(Verdict::TimedOut),
        full,
        exited(Verdict::OomKilled),
        exited(Verdict::Cancelled),
        exited(Verdict::SandboxLost),
    ];
    let mut table = String::new();
    for case in &cases {
        let Conclusion {
            exit,
            failure,
            note,
        } = conclude(case, &limits);
        let said = match (failure, note) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(note)) => format!("note: {note}"),
            (None, None) => "-".to_owned(),
        };
        writeln!(table, "{:?} {}: {said}", case.verdict(), exit.code()).expect("room");
    }
    expect![[r#"
        Exited 0: -
        Exited 7: -
        Exited 1: note: /sandbox is full
        Signalled 139: -
        TimedOut 137: the run was killed: the time limit of 100 ms was over
        TimedOut 137: the run was killed: it did not answer SIGTERM
        OomKilled 137: the run was killed: the memory limit of 64m was reached
        Cancelled 125: the run was cancelled
        SandboxLost 125: the sandbox vanished under the run
    "#]]
    .assert_eq(&table);
}

#[test]
fn an_end_without_sense_is_never_success() {
    let limits = Limits::default();
    for case in [
        exited(Verdict::Exited),
        with_code(256),
        with_code(-1),
        exited(Verdict::Signalled),
        with_signal(0),
        with_signal(128),
        exited(Verdict::Unspecified),
        Exited {
            verdict: 99,
            ..with_code(0)
        },
    ] {
        assert_eq!(conclude(&case, &limits).exit, Exit::Failed, "{case:?}");
    }
}

#[test]
fn what_was_cut_is_one_line() {
    let cut = |stdout_truncated, stderr_truncated| Exited {
        stdout_truncated,
        stderr_truncated,
        usage: Some(Usage {
            stdout_bytes: 5,
            stderr_bytes: 6,
            ..Usage::default()
        }),
        ..with_code(0)
    };
    assert_eq!(truncation(&cut(false, false)), None);
    for (case, expected) in [
        (
            cut(true, false),
            "stdout was truncated, the program wrote 5 bytes",
        ),
        (
            cut(false, true),
            "stderr was truncated, the program wrote 6 bytes",
        ),
        (
            cut(true, true),
            "stdout and stderr were truncated, the program wrote 5 and 6 bytes",
        ),
    ] {
        let line = truncation(&case).expect("something was cut");
        assert!(line.starts_with(expected), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

fn finished(stdout: &[u8]) -> Finished {
    Finished {
        accepted: Accepted {
            run_id: "r1".to_owned(),
            sandbox_id: "s1".to_owned(),
            engine: Engine::Native.into(),
            warm: true,
            runtime: WireRuntime::Python.into(),
        },
        exited: Exited {
            usage: Some(Usage {
                wall_us: 12_345,
                cpu_us: 1000,
                peak_memory_bytes: 9,
                stdout_bytes: 2,
                stderr_bytes: 0,
                network_bytes_in: 11,
                network_bytes_out: 22,
            }),
            ..with_code(3)
        },
        written: Written {
            stdout: stdout.to_vec(),
            ..Written::default()
        },
        network: None,
    }
}

fn object(stdout: &[u8]) -> String {
    of(&finished(stdout))
}

fn of(finished: &Finished) -> String {
    let conclusion = conclude(&finished.exited, &Limits::default());
    let started = Timestamp::from_second(1_700_000_000).expect("in range");
    String::from_utf8(result_object(finished, &conclusion, started)).expect("JSON is UTF-8")
}

#[test]
fn the_result_object() {
    expect![[r#"
        {"stdout":"é\n","stderr":"","exitCode":3,"verdict":"exited","durationMs":12.345,"truncated":false,"executionId":"r1","runtime":"python","timestamp":"2023-11-14T22:13:20.000Z","sandboxId":"s1","engine":"native","warm":true,"resourceUsage":{"cpuMs":1.0,"peakMemoryBytes":9,"networkBytesIn":11,"networkBytesOut":22}}
    "#]].assert_eq(&object("é\n".as_bytes()));
}

#[test]
fn what_is_no_text_comes_in_base64_as_well() {
    let value: serde_json::Value = serde_json::from_str(&object(b"\xff\x00")).expect("JSON");
    assert_eq!(value["stdout"], "\u{fffd}\u{0}");
    assert_eq!(value["stdoutBase64"], "/wA=");
}

#[test]
fn the_log_of_the_network_is_there_when_it_was_asked_for() {
    let asked = |network| {
        let finished = Finished {
            network,
            ..finished(b"")
        };
        serde_json::from_str::<serde_json::Value>(&of(&finished)).expect("JSON")
    };
    assert!(asked(None).get("networkLogs").is_none());
    assert_eq!(
        asked(Some(Vec::new()))["networkLogs"],
        serde_json::json!([])
    );
    let record = Record {
        timestamp_ms: 1_700_000_000_123,
        method: "CONNECT".to_owned(),
        host: "example.com".to_owned(),
        port: 443,
        path: None,
        action: Action::Block,
        reason: "not in the allow list".to_owned(),
        bytes_in: 1,
        bytes_out: 2,
        duration: Duration::from_millis(3),
    };
    let expected = serde_json::json!([{
        "timestamp": "2023-11-14T22:13:20.123Z",
        "method": "CONNECT",
        "host": "example.com",
        "port": 443,
        "path": null,
        "action": "BLOCK",
        "reason": "not in the allow list",
        "bytesIn": 1,
        "bytesOut": 2,
        "durationMs": 3,
    }]);
    assert_eq!(asked(Some(vec![record]))["networkLogs"], expected);
}
