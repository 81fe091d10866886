//! Bodies that are too large, never end, or are no JSON that anybody means.

use std::thread;

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    http::Client,
    stage::{Engine, Stage},
};
use serde_json::json;

const MIB: u64 = 1 << 20;
const PATHS: [&str; 4] = ["/execute", "/execute/stream", "/file", "/cleanup"];

/// Writes as long as it is taken, `most` MiB at most.
fn flood(client: &mut Client, piece: &[u8], most: usize) -> usize {
    (0..most)
        .find(|_| client.write(piece).is_err())
        .unwrap_or(most)
}

/// A gigabyte, whether it is announced or not: refused with 413, and held by
/// nobody. Others are served meanwhile.
#[test]
fn a_gigabyte_is_refused_and_not_held() {
    Stage::with(Engine::Native, |stage| {
        let server = Gateway::start(stage);
        let gateway = &server;
        gateway.run("bash", "true", json!({}));
        let before = gateway.weight();
        thread::scope(|scope| {
            for path in PATHS {
                scope.spawn(move || {
                    let mut client = gateway.client();
                    let length = (1_u64 << 30).to_string();
                    let head = client.head(&format!("POST {path}"), &[("Content-Length", &length)]);
                    client.write(head.as_bytes()).expect("it is taken");
                    let taken = flood(&mut client, &vec![b' '; 1 << 20], 1 << 10);
                    assert!(taken < 200, "{taken} MiB were taken");
                    let error = client.answer().error(413);
                    assert!(error.contains("larger than 20971520 bytes"), "{error}");
                    client.until_closed();
                });
                scope.spawn(move || {
                    let mut client = gateway.client();
                    let head =
                        client.head(&format!("POST {path}"), &[("Transfer-Encoding", "chunked")]);
                    client.write(head.as_bytes()).expect("it is taken");
                    let mut piece = b"100000\r\n".to_vec();
                    piece.resize(piece.len() + (1 << 20), b' ');
                    piece.extend(b"\r\n");
                    let taken = flood(&mut client, &piece, 1 << 10);
                    assert!(taken < 200, "{taken} MiB were taken");
                    client.answer().error(413);
                });
            }
            for _ in 0..10 {
                assert_eq!(
                    gateway.run("bash", "echo honest", json!({}))["stdout"],
                    "honest\n"
                );
            }
        });
        // One that asks first is told at once, and what it did not send is no
        // request.
        let mut client = gateway.client();
        let headers = [("Content-Length", "1073741824"), ("Expect", "100-continue")];
        let head = client.head("POST /execute", &headers);
        client.write(head.as_bytes()).expect("it is taken");
        client.answer().error(413);
        client.until_closed();
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 8 * 24 * MIB);
        server.stop();
    });
}

/// GW04: what is JSON by its letters, and what is none.
#[test]
fn json_that_nobody_means_is_refused() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        let deep = "[".repeat(100_000);
        let objects = r#"{"a":"#.repeat(100_000);
        let (open, close) = (r#"{"request":{"code":"echo x","runtime":"bash""#, "}}");
        let many = (0..50_000)
            .map(|n| format!("\"k{n}\":1"))
            .collect::<Vec<_>>()
            .join(",");
        for (name, body) in [
            ("brackets", deep.clone()),
            ("braces", objects.clone()),
            (
                "brackets in a field",
                format!(
                    r#"{open},"metadata":{{"a":{deep}{}}}{close}"#,
                    "]".repeat(100_000)
                ),
            ),
            (
                "braces in a field",
                format!(r#"{open},"files":{objects}{close}"#),
            ),
            (
                "a number of no size",
                format!(r#"{open}}},"options":{{"cpuLimit":1e999}}}}"#),
            ),
            (
                "a tiny number",
                format!(r#"{open}}},"options":{{"cpuLimit":1e-999}}}}"#),
            ),
            (
                "many digits",
                format!(r#"{open},"timeoutMs":{}{close}"#, "9".repeat(100_000)),
            ),
            ("not a number", format!(r#"{open},"timeoutMs":NaN{close}"#)),
            (
                "a lone surrogate",
                r#"{"request":{"code":"echo \ud800","runtime":"bash"}}"#.to_owned(),
            ),
            (
                "two the wrong way round",
                r#"{"request":{"code":"echo \udc00\ud800","runtime":"bash"}}"#.to_owned(),
            ),
            (
                "a control character",
                "{\"request\":{\"code\":\"echo \u{1}\n\",\"runtime\":\"bash\"}}".to_owned(),
            ),
            ("a field twice", format!(r#"{open},"code":"echo y"{close}"#)),
            (
                "a field twice, once escaped",
                format!(r#"{open},"c\u006fde":"echo y"{close}"#),
            ),
            (
                "fields by the thousands",
                format!(r#"{open},{many}{close}"#),
            ),
            ("a byte order mark", format!("\u{feff}{open}{close}")),
            ("comments", format!("/* x */{open}{close}")),
            ("two in one", format!("{open}{close}{open}{close}")),
            (
                "a proxy's prototype",
                format!(r#"{open},"__proto__":{{"runtime":"python"}}{close}"#),
            ),
            (
                "a name with NUL",
                format!(r#"{open},"env":{{"A\u0000":"x"}}{close}"#),
            ),
            (
                "a value with NUL",
                format!(r#"{open},"env":{{"A":"x\u0000"}}{close}"#),
            ),
            ("nothing but blanks", " ".repeat(1 << 20)),
        ] {
            let answer = gateway.post_text("/execute", &body);
            assert_eq!(answer.status, 400, "{name}: {}", answer.shown());
            assert!(
                answer.body.len() < 4096,
                "{name}: {} bytes",
                answer.body.len()
            );
            answer.error(400);
        }
        for (name, bytes) in [
            (
                "no UTF-8",
                &b"{\"request\":{\"code\":\"echo \xff\",\"runtime\":\"bash\"}}"[..],
            ),
            (
                "overlong",
                b"{\"request\":{\"code\":\"echo \xc0\xaf\",\"runtime\":\"bash\"}}",
            ),
            (
                "a surrogate as bytes",
                b"{\"request\":{\"code\":\"echo \xed\xa0\x80\",\"runtime\":\"bash\"}}",
            ),
            ("UTF-16", b"{\0\"\0r\0"),
            ("gzip by its bytes", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        ] {
            let mut client = gateway.client();
            client.send("POST /execute", &[], bytes);
            assert_ne!(client.answer().error(400), "", "{name}");
        }
        for path in PATHS {
            let mut client = gateway.client();
            client.send(
                &format!("POST {path}"),
                &[("Content-Encoding", "gzip")],
                b"\x1f\x8b",
            );
            client.answer().error(415);
        }
        assert_eq!(
            gateway.metric("isol8_daemon_runs_total").to_bits(),
            0,
            "nothing ran"
        );

        // What is odd and allowed runs: a NUL in the program is its own matter.
        let mut odd = program("python", "print('a\0b')");
        odd["request"]["stdin"] = json!("\0");
        let ran = gateway.post("/execute", &odd).ok();
        assert!(ran["exitCode"].is_i64(), "{ran:#}");
        let pair = r#"{"request":{"code":"print('\ud83e\udd80')","runtime":"python"}}"#;
        assert_eq!(
            gateway.post_text("/execute", pair).ok()["stdout"],
            "\u{1f980}\n"
        );
        gateway.until_idle(stage);
        gateway.stop();
    });
}

/// Bodies that are announced and do not come hold nothing that others need.
#[test]
fn bodies_that_do_not_come_hold_no_room() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        let before = gateway.weight();
        let mut held: Vec<Client> = (0..64).map(|_| gateway.client()).collect();
        for client in &mut held {
            let head = client.head("POST /execute", &[("Content-Length", "20000000")]);
            client.write(head.as_bytes()).expect("it is taken");
            client.write(b"{").expect("it is taken");
        }
        for _ in 0..5 {
            assert_eq!(
                gateway.run("bash", "echo honest", json!({}))["stdout"],
                "honest\n"
            );
        }
        let large =
            json!({"request": {"code": "wc -c", "runtime": "bash", "stdin": "x".repeat(10 << 20)}});
        assert_eq!(
            gateway.post("/execute", &large).ok()["stdout"],
            "10485760\n"
        );
        drop(held);
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 96 * MIB);
        gateway.stop();
    });
}
