//! `GET /execute/ws`.

use serde_json::{Value, json};

use crate::{
    client::Client,
    stage::{KEY, OTHER_KEY, Stage, wait_for},
};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A WebSocket, by hand.
struct Socket(Client);

impl Socket {
    fn open(stage: &Stage) -> Self {
        let mut client = stage.client();
        upgrade(&mut client);
        let (status, _) = client.head().expect("a head");
        assert_eq!(status, 101);
        Self(client)
    }

    /// As [`Socket::open`], with the first message.
    fn start(stage: &Stage, code: &str, rest: &str) -> Self {
        let mut socket = Self::open(stage);
        let code = serde_json::to_string(code).expect("it is text");
        socket.send(&format!(
            r#"{{"type":"execute","request":{{"code":{code},"runtime":"python"{rest}}}}}"#
        ));
        socket
    }

    fn send(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).expect("it is short");
        let mut frame = vec![0x80 | kind, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        // A mask of zeros leaves the payload as it is.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write(&frame);
    }

    /// The next message that is no ping: its kind and what is in it.
    fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let head = self.0.read(2);
            assert_eq!(head.len(), 2, "the connection was cut");
            let length = match head[1] {
                126 => u16::from_be_bytes(self.0.read(2).try_into().expect("two")).into(),
                127 => panic!("too long for these tests"),
                short => usize::from(short),
            };
            let payload = self.0.read(length);
            match head[0] & 0xf {
                9 => {}
                kind => return (kind, payload),
            }
        }
    }

    fn event(&mut self) -> Value {
        let (kind, payload) = self.next();
        assert_eq!(kind, TEXT, "{payload:?}");
        serde_json::from_slice(&payload).expect("it is JSON")
    }

    /// The code of the gateway's goodbye.
    fn goodbye(&mut self) -> u16 {
        let (kind, payload) = self.next();
        assert_eq!(kind, CLOSE, "{payload:?}");
        self.frame(CLOSE, &payload[..2]);
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

fn upgrade(client: &mut Client) {
    let key = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", key.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    client.write(crate::client::head("GET", "/execute/ws", &headers, None).as_bytes());
}

#[test]
fn a_run_is_told_and_closed() {
    let stage = Stage::new();
    let mut socket = Socket::start(&stage, "print hi\nexit 4", "");
    assert_eq!(
        socket.event(),
        json!({"type": "stdout", "data": "hi", "phase": "code"})
    );
    let last = socket.event();
    assert_eq!(
        (&last["type"], &last["data"]),
        (&json!("exit"), &json!("4"))
    );
    assert_eq!(last["result"]["verdict"], "exited");
    assert_eq!(socket.goodbye(), 1000);
    socket.0.await_close();
    wait_for("its place", || stage.execute("").status == 200);
}

#[test]
fn stdin_goes_in_as_it_is_typed() {
    let stage = Stage::new();
    let mut socket = Socket::start(&stage, "cat", "");
    for word in ["one", "two"] {
        socket.send(&json!({"type": "stdin", "data": word}).to_string());
        assert_eq!(socket.event()["data"], word);
    }
    socket.send(r#"{"type":"stdin","data":"three","end":true}"#);
    assert_eq!(socket.event()["data"], "three");
    assert_eq!(socket.event()["type"], "exit");
    assert_eq!(socket.goodbye(), 1000);
}

#[test]
fn stdin_of_the_request_is_all_of_it() {
    let stage = Stage::new();
    let mut socket = Socket::start(&stage, "cat", r#","stdin":"whole""#);
    assert_eq!(socket.event()["data"], "whole");
    assert_eq!(socket.event()["type"], "exit");
    let mut socket = Socket::start(&stage, "wait", r#","stdin":"whole""#);
    stage.world.await_note("waiting");
    socket.send(r#"{"type":"stdin","data":"more"}"#);
    assert!(
        socket.event()["data"]
            .as_str()
            .is_some_and(|data| data.contains("it has ended"))
    );
    assert_eq!(socket.goodbye(), 1008);
    stage.world.await_note("gone");
}

#[test]
fn a_signal_reaches_the_program() {
    let stage = Stage::new();
    for (signal, code) in [("SIGINT", "130"), ("SIGTERM", "143")] {
        let mut socket = Socket::start(&stage, "print on\ncat", "");
        assert_eq!(socket.event()["data"], "on");
        socket.send(&json!({"type": "signal", "signal": signal}).to_string());
        assert_eq!(socket.event()["data"], code);
        assert_eq!(socket.goodbye(), 1000);
    }
}

#[test]
fn what_is_no_message_is_refused_and_ends_the_run() {
    let stage = Stage::new();
    let refused = |socket: &mut Socket, part: &str| {
        let event = socket.event();
        assert_eq!(event["type"], "error");
        let error = event["error"]["error"].as_str().expect("an error");
        assert!(error.contains(part), "{error}");
        assert_eq!(socket.goodbye(), 1008);
    };
    for (first, part) in [
        ("", "bad request"),
        (r#"{"type":"stdin","data":""}"#, "unknown variant `stdin`"),
        (r#"{"type":"execute"}"#, "missing field `request`"),
        (
            r#"{"type":"execute","request":{"code":"","runtime":"perl"}}"#,
            "`request.runtime`",
        ),
        (
            r#"{"type":"execute","request":{"code":"","runtime":"bash"},"options":{"network":"host"}}"#,
            "policy.allowHostNetwork",
        ),
    ] {
        let mut socket = Socket::open(&stage);
        socket.send(first);
        refused(&mut socket, part);
    }
    let mut socket = Socket::open(&stage);
    socket.frame(BINARY, b"x");
    refused(&mut socket, "messages are JSON");
    assert!(stage.world.notes().is_empty());

    let mut socket = Socket::start(&stage, "wait", "");
    stage.world.await_note("waiting");
    socket.send(r#"{"type":"signal","signal":"SIGKILL"}"#);
    refused(&mut socket, "SIGKILL");
    stage.world.await_note("gone");
}

#[test]
fn a_failure_is_the_last_event() {
    let stage = Stage::new();
    let mut socket = Socket::start(&stage, "refuse engine_unreachable", "");
    assert_eq!(socket.event()["error"]["kind"], "engine_unreachable");
    assert_eq!(socket.goodbye(), 1000);
}

#[test]
fn a_client_that_goes_cancels_its_run() {
    for says_so in [true, false] {
        let stage = Stage::new();
        let mut socket = Socket::start(&stage, "wait", "");
        stage.world.await_note("waiting");
        if says_so {
            socket.frame(CLOSE, &[]);
        }
        drop(socket);
        stage.world.await_note("gone");
    }
}

#[test]
fn the_end_of_the_gateway_is_told() {
    let stage = Stage::new();
    let mut running = Socket::start(&stage, "wait", "");
    let mut silent = Socket::open(&stage);
    stage.world.await_note("waiting");
    stage.stop.cancel();
    assert_eq!(running.event()["error"]["kind"], "shutting_down");
    assert_eq!(running.goodbye(), 1000);
    assert_eq!(silent.event()["error"]["kind"], "shutting_down");
    silent.goodbye();
    stage.await_end();
}

#[test]
fn who_says_nothing_is_closed() {
    let stage = Stage::with(|bounds| bounds.body = std::time::Duration::from_millis(50));
    let mut socket = Socket::open(&stage);
    assert_eq!(socket.event()["type"], "error");
    assert_eq!(socket.goodbye(), 1008);
}

#[test]
fn sockets_are_counted_and_plain_requests_are_none() {
    let stage = Stage::with(|bounds| bounds.sockets = 1);
    let first = Socket::open(&stage);
    let mut second = stage.client();
    upgrade(&mut second);
    assert_eq!(second.answer().error(429), "too many WebSockets");
    drop(first);
    wait_for("a place", || {
        let mut client = stage.client();
        upgrade(&mut client);
        client.head().is_some_and(|(status, _)| status == 101)
    });
    let plain = stage.ask_as(OTHER_KEY, "GET", "/execute/ws", "");
    assert!(plain.error(400).contains("no WebSocket"));
}
