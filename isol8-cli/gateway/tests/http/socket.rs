//! `GET /execute/ws`.

use std::time::Duration;

use serde_json::json;

use crate::{
    stage::{KEY, OTHER_KEY, Stage, program, wait_for},
    websocket::{BINARY, CLOSE, MORE, PING, PONG, Socket, TEXT, upgrade},
};

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
    let stage = Stage::with(|bounds| bounds.body = Duration::from_millis(50));
    let mut socket = Socket::open(&stage);
    assert_eq!(socket.event()["type"], "error");
    assert_eq!(socket.goodbye(), 1008);
}

#[test]
fn sockets_are_counted_and_plain_requests_are_none() {
    let stage = Stage::with(|bounds| bounds.sockets = 1);
    let first = Socket::open(&stage);
    let mut second = stage.client();
    upgrade(&mut second, KEY, None);
    assert_eq!(second.answer().error(429), "too many WebSockets");
    drop(first);
    wait_for("a place", || {
        let mut client = stage.client();
        upgrade(&mut client, KEY, None);
        client.head().is_some_and(|(status, _)| status == 101)
    });
    let plain = stage.ask_as(OTHER_KEY, "GET", "/execute/ws", "");
    assert!(plain.error(400).contains("no WebSocket"));
}

#[test]
fn what_came_of_a_message_has_its_place_among_the_bodies() {
    let stage = Stage::alone(|bounds| {
        bounds.body_bytes = 3 << 20;
        bounds.bodies_bytes = 4 << 20;
    });
    let body = program("print x", "") + &" ".repeat(2 << 20);
    let other = || stage.ask("POST", "/execute", &body);
    other().ok();
    let first = r#"{"type":"execute","request":{"runtime":"python","code":"print x"}}"#;
    let blanks = vec![b' '; (3 << 20) - first.len()];
    let mut socket = Socket::open(&stage);
    // Not whole without another one, and read as far as the ping behind it.
    socket.begin_of(TEXT, blanks.len());
    socket.0.write(&blanks);
    socket.frame(PING, b"");
    assert_eq!(socket.frame_of_theirs().0, PONG);
    assert_eq!(other().error(429), "too many large requests at once");
    // A small one needs none of it.
    stage.execute("print x").ok();
    socket.frame(MORE, first.as_bytes());
    assert_eq!(socket.event()["data"], "x");
    drop(socket);
    wait_for("room", || other().status == 200);
}

/// More than the daemon takes ahead of its program, and less than we do.
const UNREAD_BYTES: usize = 3 << 20;

/// A program that reads nothing, with stdin that waits for it.
fn deaf(stage: &Stage) -> Socket {
    let mut socket = Socket::start(stage, "print on\ndeaf", "");
    assert_eq!(socket.event()["data"], "on");
    let data = "x".repeat(UNREAD_BYTES);
    socket.send(&json!({"type": "stdin", "data": data}).to_string());
    socket
}

#[test]
fn a_signal_overtakes_stdin_that_nobody_reads() {
    let stage = Stage::new();
    let mut socket = deaf(&stage);
    socket.send(r#"{"type":"signal","signal":"SIGTERM"}"#);
    assert_eq!(socket.event()["data"], "143");
    assert_eq!(socket.goodbye(), 1000);
}

#[test]
fn a_goodbye_is_heard_behind_stdin_that_nobody_reads() {
    for says_so in [true, false] {
        let stage = Stage::new();
        let mut socket = deaf(&stage);
        if says_so {
            socket.frame(CLOSE, &[]);
            stage.world.await_note("gone");
        } else {
            drop(socket);
            stage.world.await_note("gone");
        }
    }
}

/// Two pings unanswered, 750 ms apart, and the client is gone.
fn quick() -> Stage {
    Stage::with(|bounds| bounds.comment = Duration::from_millis(1500))
}

#[test]
fn who_answers_no_ping_is_gone() {
    let stage = quick();
    let socket = Socket::start(&stage, "wait", "");
    stage.world.await_note("waiting");
    stage.world.await_note("gone");
    drop(socket);
}

#[test]
fn who_answers_pings_may_be_silent() {
    let stage = quick();
    let mut socket = Socket::start(&stage, "wait", "");
    for _ in 0..6 {
        let (kind, payload) = socket.frame_of_theirs();
        assert_eq!(kind, PING);
        socket.frame(PONG, &payload);
    }
    stage.world.release.cancel();
    assert_eq!(socket.event()["type"], "exit");
    assert_eq!(stage.world.count("gone"), 0);
}

#[test]
fn a_message_that_is_too_long_is_refused() {
    let stage = Stage::with(|bounds| bounds.body_bytes = 1000);
    let mut socket = Socket::open(&stage);
    socket.head_of(TEXT, 1001);
    let told = socket.event()["data"].to_string();
    assert!(told.contains("1001 > 1000"), "{told}");
    assert_eq!(socket.goodbye(), 1008);
}
