//! `POST /execute`.

use serde_json::json;

use crate::stage::{Stage, program};

#[test]
fn the_result_has_the_fields_of_the_contract() {
    let stage = Stage::new();
    let mut result = stage.execute("print hello\ncomplain oh\nexit 7").ok();
    let timestamp = result["timestamp"].take();
    let timestamp = timestamp.as_str().expect("a text");
    assert!(
        timestamp.ends_with('Z') && timestamp.contains('T'),
        "{timestamp}"
    );
    assert_eq!(
        result,
        json!({
            "stdout": "hello",
            "stderr": "oh",
            "exitCode": 7,
            "verdict": "exited",
            "durationMs": 1.5,
            "truncated": false,
            "executionId": "run-1",
            "runtime": "python",
            "timestamp": null,
            "sandboxId": "sandbox-1",
            "engine": "native",
            "warm": true,
            "resourceUsage": {
                "cpuMs": 0.25,
                "peakMemoryBytes": 4096,
                "networkBytesIn": 1,
                "networkBytesOut": 2,
            },
        })
    );
    let start = stage.world.last_start();
    assert!(!start.stdin && start.session.is_none());
}

#[test]
fn every_verdict_is_told() {
    let stage = Stage::new();
    for (verdict, code) in [
        ("signalled", 139),
        ("timed_out", 137),
        ("oom_killed", 137),
        ("cancelled", 125),
        ("sandbox_lost", 125),
    ] {
        let result = stage.execute(&format!("verdict {verdict}")).ok();
        assert_eq!(result["verdict"], verdict);
        assert_eq!(result["exitCode"], code, "{verdict}");
    }
    // An end without sense is never a success.
    assert_eq!(stage.execute("verdict unspecified").status, 502);
    assert_eq!(stage.execute("break").status, 502);
}

#[test]
fn what_is_no_text_comes_in_base64_too() {
    let stage = Stage::new();
    let result = stage.execute("binary").ok();
    assert_eq!(result["stdout"], "a\u{fffd}");
    assert_eq!(result["stdoutBase64"], "Yf8=");
    let result = stage.execute("halves").ok();
    assert_eq!(result["stdout"], "é");
    assert_eq!(result.get("stdoutBase64"), None);
}

#[test]
fn stdin_arrives_whole() {
    let stage = Stage::new();
    let stdin = "0123456789abcdef".repeat(100_000);
    let rest = format!(r#","stdin":"{stdin}","timeoutMs":1234"#);
    let result = stage.ask("POST", "/execute", &program("echo", &rest)).ok();
    assert!(result["stdout"] == stdin.as_str(), "all of it comes back");
    let start = stage.world.last_start();
    assert!(start.stdin);
    assert_eq!(start.limits.expect("limits").timeout_ms, 1234);
}

#[test]
fn the_installer_is_not_the_program() {
    let stage = Stage::new();
    let result = stage.execute("install").ok();
    assert_eq!(result["stderr"], "");
}

#[test]
fn the_network_is_told_where_it_was_asked_for() {
    let stage = Stage::new();
    assert_eq!(stage.execute("network").ok().get("networkLogs"), None);
    let body = program("network", "").replace(
        "}}",
        r#"},"options":{"network":"filtered","logNetwork":true}}"#,
    );
    let result = stage.ask("POST", "/execute", &body).ok();
    let logs = result["networkLogs"].as_array().expect("a list");
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0]["host"], "example.com");
    assert_eq!(logs[0]["action"], "ALLOW");
    assert_eq!(logs[0]["timestamp"], "2023-11-14T22:13:20.123Z");
}

#[test]
fn what_is_wrong_is_named() {
    let stage = Stage::new();
    let error = |body: &str| stage.ask("POST", "/execute", body).error(400);
    assert!(error("").contains("bad request"));
    assert!(error("{").contains("bad request"));
    assert!(error("[]").contains("bad request"));
    assert!(error(r#"{"request":{"code":"","runtime":"perl"}}"#).contains("`request.runtime`"));
    let unknown = program("", r#","timeout":1"#);
    assert!(error(&unknown).contains("`request.timeout`"));
    let deep = format!(r#","metadata":{{"a":{}"#, "[".repeat(100_000));
    let deep = error(&program("", &deep));
    assert!(deep.contains("recursion limit"), "{deep}");
    let mut client = stage.client();
    let headers = format!(
        "Authorization: Bearer {}\r\nHost: localhost\r\n",
        crate::stage::KEY
    );
    client.write(
        format!("POST /execute HTTP/1.1\r\n{headers}Content-Length: 2\r\n\r\n\u{ff}").as_bytes(),
    );
    assert!(client.answer().error(400).contains("bad request"));
}

#[test]
fn a_rule_of_the_gateway_is_named() {
    let stage = Stage::new();
    for (options, rule) in [
        (r#"{"network":"host"}"#, "policy.allowHostNetwork"),
        (r#"{"image":"alpine"}"#, "policy.images"),
    ] {
        let body = program("", "").replace("}}", &format!(r#"}},"options":{options}}}"#));
        for path in ["/execute", "/execute/stream"] {
            let answer = stage.ask("POST", path, &body);
            assert!(answer.error(403).contains(rule), "{answer:?}");
            assert_eq!(answer.json()["kind"], "forbidden");
        }
    }
}

/// Each kind of failure, before the run and in it.
#[test]
fn a_failure_of_the_daemon_has_its_status() {
    let stage = Stage::new();
    for (kind, status) in [
        ("invalid_request", 400),
        ("forbidden", 403),
        ("not_found", 404),
        ("session_busy", 409),
        ("no_space", 413),
        ("at_capacity", 429),
        ("install_failed", 502),
        ("of_tomorrow", 502),
        ("engine_unreachable", 503),
        ("engine_timeout", 504),
    ] {
        for code in ["refuse", "fail"] {
            let answer = stage.execute(&format!("{code} {kind}"));
            assert_eq!(answer.error(status), format!("it is {kind}"));
            let body = answer.json();
            assert_eq!(body["kind"], kind);
            assert_eq!(body["causes"], json!(["a cause"]));
            assert_eq!(body["hint"], "type this");
            let again = matches!(status, 429 | 503).then_some("3");
            assert_eq!(answer.header("retry-after"), again, "{kind}");
        }
        let answer = stage.ask(
            "POST",
            "/execute/stream",
            &program(&format!("refuse {kind}"), ""),
        );
        assert_eq!(answer.error(status), format!("it is {kind}"));
    }
}

#[test]
fn a_daemon_that_is_gone_is_503_until_it_is_back() {
    let mut stage = Stage::new();
    stage.execute("").ok();
    stage.kill_daemon();
    crate::stage::wait_for("a 503", || stage.execute("").status == 503);
    assert_eq!(stage.ask("GET", "/sessions", "").status, 503);
    assert!(
        stage
            .ask("GET", "/metrics", "")
            .text()
            .contains("isol8_daemon_up 0\n")
    );
    assert_eq!(stage.ask("GET", "/health", "").status, 200);
    stage.start_daemon();
    crate::stage::wait_for("a run", || stage.execute("").status == 200);
}
