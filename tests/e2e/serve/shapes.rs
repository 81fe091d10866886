//! Requests of wrong shapes: what two readers could understand differently, and
//! what is too long.

use std::thread;

use isol8_e2e::harness::{
    gateway::{Gateway, KEY},
    http::Client,
    stage::{Engine, Stage},
};
use serde_json::json;

pub(super) fn on_native(test: impl FnOnce(&Stage, &Gateway)) {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        test(stage, &gateway);
        gateway.until_idle(stage);
        gateway.stop();
    });
}

/// Statuses of everything that is answered to these bytes, to the end of the
/// connection; the last request must ask for it, or be refused.
#[track_caller]
fn statuses(gateway: &Gateway, bytes: &[u8]) -> Vec<u16> {
    let mut client = gateway.stranger();
    // It may be refused in the middle.
    drop(client.write(bytes));
    let mut all = Vec::new();
    while let Some(answer) = client.try_answer() {
        all.push(answer.status);
        if answer.header("connection") == Some("close") {
            client.until_closed();
            break;
        }
    }
    all
}

fn smuggled() -> String {
    format!(
        "DELETE /session/smuggled HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    )
}

/// A second request that hides in the body of a first one is never seen, and a
/// body of two lengths never taken.
#[test]
fn no_request_hides_in_another() {
    on_native(|_, gateway| {
        let hidden = smuggled();
        let head =
            format!("POST /execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n");
        let length = hidden.len();
        for (name, framing) in [
            (
                "two lengths",
                format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n"),
            ),
            (
                "two lengths in one",
                format!("Content-Length: 0, {length}\r\n\r\n"),
            ),
            ("a sign", format!("Content-Length: +{length}\r\n\r\n")),
            ("a negative one", "Content-Length: -1\r\n\r\n".to_owned()),
            ("hexadecimal", "Content-Length: 0x10\r\n\r\n".to_owned()),
            (
                "too many digits",
                "Content-Length: 99999999999999999999999\r\n\r\n".to_owned(),
            ),
            (
                "other codings",
                "Transfer-Encoding: gzip, chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
                    .to_owned(),
            ),
            (
                "not chunked last",
                "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n".to_owned(),
            ),
            (
                "an unknown coding",
                "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
            ),
            (
                "a folded line",
                format!("X-A: b\r\n Content-Length: {length}\r\n\r\n"),
            ),
            (
                "a blank before the colon",
                format!("Content-Length : {length}\r\n\r\n"),
            ),
            (
                "a bare line feed in a name",
                "X\n-A: b\r\nContent-Length: 0\r\n\r\n".to_owned(),
            ),
            ("a NUL", "X-A: \0\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ] {
            let seen = statuses(gateway, format!("{head}{framing}{hidden}").as_bytes());
            assert!(seen.len() <= 1, "{name}: {seen:?}");
            assert!(
                seen.iter().all(|status| (400..500).contains(status)),
                "{name}: {seen:?}"
            );
        }
        // Chunks win over a length, and the connection ends behind them: what
        // another reader took for the body is at worst never read.
        let both = format!(
            "{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        );
        let seen = statuses(gateway, both.as_bytes());
        assert!(
            seen.len() <= 1 && seen.iter().all(|status| *status == 400),
            "{seen:?}"
        );
        for (name, chunks) in [
            ("a bad size", "zz\r\nxx\r\n0\r\n\r\n"),
            ("a negative size", "-1\r\nxx\r\n0\r\n\r\n"),
            ("a huge size", "fffffffffffffffff\r\nxx\r\n0\r\n\r\n"),
            ("a size and no end", "2\r\nxxxx\r\n0\r\n\r\n"),
        ] {
            let seen = statuses(
                gateway,
                format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}{hidden}").as_bytes(),
            );
            assert!(
                seen.len() <= 1 && seen.iter().all(|status| *status == 400),
                "{name}: {seen:?}"
            );
        }
    });
}

#[test]
fn requests_in_one_go_are_answered_in_turn() {
    on_native(|_, gateway| {
        let body = json!({"request": {"code": "echo first", "runtime": "bash"}}).to_string();
        let mut client = gateway.client();
        let mut bytes = client.head(
            "POST /execute",
            &[("Content-Length", &body.len().to_string())],
        );
        bytes += &body;
        for what in ["GET /sessions", "GET /nowhere", "GET /health"] {
            bytes += &client.head(what, &[]);
        }
        client.write(bytes.as_bytes()).expect("it is taken");
        assert_eq!(client.answer().ok()["stdout"], "first\n");
        assert_eq!(client.answer().ok(), json!({"sessions": []}));
        client.answer().error(404);
        assert_eq!(client.answer().ok()["status"], "ok");
        // HTTP/1.0, with and without a host, ends with its answer.
        for (head, status) in [("Host: localhost\r\n", 200), ("", 400)] {
            let mut client = gateway.stranger();
            client
                .write(format!("GET /health HTTP/1.0\r\n{head}\r\n").as_bytes())
                .expect("it is taken");
            assert_eq!(client.answer().status, status);
            assert_eq!(client.until_closed(), b"");
        }
        // A head of another version is none.
        for first in [
            "GET /health HTTP/2.0",
            "GET /health HTTP/0.9",
            "GET /health",
            "PRI * HTTP/2.0",
            "G\u{e4}T / HTTP/1.1",
            "\x16\x03\x01",
        ] {
            let seen = statuses(
                gateway,
                format!("{first}\r\nHost: localhost\r\n\r\n").as_bytes(),
            );
            assert!(
                seen.iter().all(|status| (400..500).contains(status)),
                "{first}: {seen:?}"
            );
        }
    });
}

#[test]
fn heads_have_a_size() {
    on_native(|_, gateway| {
        let seen = |head: &str| {
            let all = statuses(gateway, format!("GET /health{head}\r\n\r\n").as_bytes());
            all.first().copied().unwrap_or(400)
        };
        let (large, many) = ("x".repeat(1 << 20), "X-A: b\r\n".repeat(10_000));
        for (name, head) in [
            (
                "a long target",
                format!("?{large} HTTP/1.1\r\nHost: localhost"),
            ),
            (
                "a long value",
                format!(" HTTP/1.1\r\nHost: localhost\r\nX-A: {large}"),
            ),
            (
                "a long name",
                format!(" HTTP/1.1\r\nHost: localhost\r\n{large}: x"),
            ),
            (
                "many headers",
                format!(" HTTP/1.1\r\nHost: localhost\r\n{many}X: y"),
            ),
            (
                "many of a few bytes",
                format!(
                    " HTTP/1.1\r\nHost: localhost\r\n{}X: y",
                    "A:\r\n".repeat(200)
                ),
            ),
        ] {
            let status = seen(&head);
            assert!([400, 414, 431].contains(&status), "{name}: {status}");
        }
        // Who goes on for ever is cut long before.
        let endless: Vec<usize> = thread::scope(|scope| {
            let flood = |start: &'static str| {
                move || {
                    let mut client = gateway.stranger();
                    drop(client.write(start.as_bytes()));
                    (0..10_000)
                        .find(|_| client.write(&[b'a'; 16 << 10]).is_err())
                        .unwrap_or(10_000)
                }
            };
            let starts = [
                "GET /",
                "GET / HTTP/1.1\r\nX-",
                "GET / HTTP/1.1\r\nX-A: ",
                "G",
            ];
            let floods: Vec<_> = starts.map(|start| scope.spawn(flood(start))).into();
            floods
                .into_iter()
                .map(|flood| flood.join().expect("no panic"))
                .collect()
        });
        // The kernel's own buffers take some of it.
        assert!(endless.iter().all(|pieces| *pieces < 2000), "{endless:?}");
        assert_eq!(gateway.ask("GET /health").status, 200);
    });
}

/// Bytes that no grammar has, on one connection after the other.
#[test]
fn rubbish_is_no_harm() {
    on_native(|_, gateway| {
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let template = format!(
            "POST /execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        for _ in 0..400 {
            let mut bytes = template.clone().into_bytes();
            for _ in 0..=next() % 4 {
                let at = usize::try_from(next()).unwrap_or(7) % bytes.len();
                bytes[at] = next().to_le_bytes()[0];
            }
            let mut client: Client = gateway.stranger();
            client.write(&bytes).expect("it is taken");
            // A goodbye, so that an unfinished one is not waited for.
            client.finish();
            let answer = client.try_answer().map(|answer| answer.status);
            assert!(
                answer.is_none_or(|status| (400..500).contains(&status)),
                "{answer:?}: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    });
}
