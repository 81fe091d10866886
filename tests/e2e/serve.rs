//! `isol8 serve`: runs that come in over HTTP.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use isol8_e2e::harness::wait::{seconds, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const KEY: &str = "a-key-of-the-test";

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is one");
    listener.local_addr().expect("it is bound").port()
}

/// One request on a connection of its own; the status and the body.
fn ask(port: u16, what: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let limit = Some(seconds(60));
    stream.set_read_timeout(limit).expect("a limit");
    let body = body.to_string();
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n"));
    let request = format!(
        "{what} HTTP/1.1\r\nHost: localhost:{port}\r\n{}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        key.unwrap_or_default(),
        body.len(),
    );
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    (status.expect("a status"), body)
}

both_engines! {
    /// The same runs as from the command line, for whoever has the key.
    fn runs_come_in_over_http(stage: &Stage) {
        let port = free_port();
        let server = stage.isol8(["serve", "-p", &port.to_string(), "-k", KEY]).start();
        wait_until("the gateway", seconds(30), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(ask(port, "GET /health", None, &json!({})).1["status"], "ok");
        let run = json!({"request": {"code": "print(6 * 7); raise SystemExit(3)", "runtime": "python"}});
        let (status, told) = ask(port, "POST /execute", None, &run);
        assert_eq!((status, &told["error"]), (401, &json!("Missing Authorization header")));
        let (status, told) = ask(port, "POST /execute", Some("another"), &run);
        assert_eq!((status, &told["error"]), (403, &json!("Invalid API key")));

        let (status, result) = ask(port, "POST /execute", Some(KEY), &run);
        assert_eq!(status, 200, "{result:#}");
        assert_eq!(result["stdout"], "42\n");
        assert_eq!((&result["exitCode"], &result["verdict"]), (&json!(3), &json!("exited")));
        assert_eq!(result["engine"], stage.engine().name());

        let inside = |code: &str| {
            let run = json!({"request": {"code": code, "runtime": "python"}, "sessionId": "work"});
            let (status, result) = ask(port, "POST /execute", Some(KEY), &run);
            assert_eq!(status, 200, "{result:#}");
            result["stdout"].clone()
        };
        assert_eq!(inside("print(open('kept', 'w').write('here'))"), "4\n");
        assert_eq!(inside("print(open('kept').read())"), "here\n");
        let (status, file) = ask(port, "GET /file?sessionId=work&path=kept", Some(KEY), &json!({}));
        assert_eq!((status, &file["content"]), (200, &json!("aGVyZQ==")));
        let (status, list) = ask(port, "GET /sessions", Some(KEY), &json!({}));
        assert_eq!((status, &list["sessions"][0]["id"]), (200, &json!("work")));
        let (status, gone) = ask(port, "DELETE /session/work", Some(KEY), &json!({}));
        assert_eq!((status, &gone["ok"]), (200, &json!(true)));
        let (status, _) = ask(port, "GET /file?sessionId=work&path=kept", Some(KEY), &json!({}));
        assert_eq!(status, 404);

        server.signal(Signal::TERM);
        server.finish().ended(0).within(seconds(20));
    }
}
