//! Runs over a WebSocket, with live stdin and signals.

use isol8_e2e::harness::{
    gateway::Gateway,
    websocket::{Message, WebSocket},
};
use serde_json::{Value, json};

fn start(gateway: &Gateway, runtime: &str, code: &str) -> WebSocket {
    let mut socket = WebSocket::open(gateway.client());
    socket.send(&json!({"type": "execute", "request": {"code": code, "runtime": runtime}}));
    socket
}

#[track_caller]
fn exited(socket: &mut WebSocket, verdict: &str, exit_code: i32) -> Vec<Value> {
    let (mut events, code) = socket.rest();
    let last = events.pop().expect("an event");
    assert_eq!(last["type"], "exit", "{last:#}");
    let told = (
        &last["result"]["verdict"],
        &last["result"]["exitCode"],
        code,
    );
    assert_eq!(told, (&json!(verdict), &json!(exit_code), 1000), "{last:#}");
    events
}

/// Waits until the program has said this; a piece of output may be any part.
#[track_caller]
fn until(socket: &mut WebSocket, text: &str) {
    let mut said = String::new();
    while said != text {
        let event = socket.event();
        let told = (&event["type"], &event["phase"]);
        assert_eq!(told, (&json!("stdout"), &json!("code")), "{event:#}");
        said += event["data"].as_str().expect("text");
        assert!(text.starts_with(&said), "{said}");
    }
}

both_engines! {
    fn stdin_is_live(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let echo = "import sys\nprint('ready', flush=True)\n\
            for line in sys.stdin: print(line.strip().upper(), flush=True)\n\
            print('end')";
        let mut socket = start(gateway, "python", echo);
        until(&mut socket, "ready\n");
        for (line, expected) in [("one\n", "ONE\n"), ("zwei ü\n", "ZWEI Ü\n")] {
            socket.send(&json!({"type": "stdin", "data": line}));
            until(&mut socket, expected);
        }
        socket.send(&json!({"type": "stdin", "data": "last\n", "end": true}));
        let events = exited(&mut socket, "exited", 0);
        let out: String = events.iter().filter_map(|event| event["data"].as_str()).collect();
        assert_eq!(out, "LAST\nend\n");

        // Stdin of the first message is all there is.
        let mut socket = WebSocket::open(gateway.client());
        socket.send(&json!({"type": "execute", "request": {"code": "cat", "runtime": "bash", "stdin": "whole"}}));
        assert_eq!(exited(&mut socket, "exited", 0)[0]["data"], "whole");

        // More than anything holds on its way, each byte once.
        let count = "import sys, zlib; d = sys.stdin.buffer.read(); print(len(d), zlib.crc32(d) == zlib.crc32(b'0123456789abcdef' * (len(d) // 16)))";
        let mut socket = start(gateway, "python", count);
        let piece = "0123456789abcdef".repeat(1 << 14);
        for _ in 0..32 {
            socket.send(&json!({"type": "stdin", "data": piece}));
        }
        socket.send(&json!({"type": "stdin", "end": true}));
        let events = exited(&mut socket, "exited", 0);
        let out: String = events.iter().filter_map(|event| event["data"].as_str()).collect();
        assert_eq!(out, "8388608 True\n");
        drop(socket);
        gateway.until_idle(stage);
    }

    fn signals_reach_the_program(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let code = "import signal, sys, time\n\
            signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n\
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n\
            print('ready', flush=True)\nwhile True: time.sleep(1)";
        let mut socket = start(gateway, "python", code);
        until(&mut socket, "ready\n");
        socket.send(&json!({"type": "signal", "signal": "SIGINT"}));
        until(&mut socket, "interrupted\n");
        socket.send(&json!({"type": "signal", "signal": "SIGTERM"}));
        assert_eq!(exited(&mut socket, "exited", 7), Vec::<Value>::new());

        for (signal, exit_code) in [("SIGINT", 130), ("SIGTERM", 143)] {
            let plain = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); time.sleep(60)";
            let mut socket = start(gateway, "python", plain);
            until(&mut socket, "ready\n");
            socket.send(&json!({"type": "signal", "signal": signal}));
            exited(&mut socket, "signalled", exit_code);
        }
        gateway.until_idle(stage);
    }

    fn a_socket_has_sessions_and_options(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        for (code, expected) in [("echo x > kept", ""), ("cat kept", "x\n")] {
            let mut socket = WebSocket::open(gateway.client());
            let request = json!({"code": code, "runtime": "bash"});
            socket.send(&json!({"type": "execute", "request": request, "sessionId": "ws"}));
            let events = exited(&mut socket, "exited", 0);
            let out: String = events.iter().filter_map(|event| event["data"].as_str()).collect();
            assert_eq!(out, expected);
        }
        gateway.ask("DELETE /session/ws").ok();
        let mut socket = WebSocket::open(gateway.client());
        let request = json!({"code": "sleep 60", "runtime": "bash"});
        socket.send(&json!({"type": "execute", "request": request, "options": {"timeoutMs": 1000}}));
        exited(&mut socket, "timed_out", 137);
        gateway.until_idle(stage);
    }

    /// What is no message of ours ends the socket with an error and 1008.
    fn nonsense_is_told_and_closed(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let refused = |mut socket: WebSocket, word: &str| {
            let event = socket.event();
            assert_eq!(event["type"], "error", "{event}");
            let error = event["error"]["error"].as_str().expect("text").to_owned();
            assert!(error.contains(word), "`{word}` in {error}");
            assert_eq!((event["data"].as_str(), socket.message()), (Some(&*error), Message::Close(1008)));
        };
        for (first, word) in [
            ("", "EOF"),
            ("{", "EOF"),
            (r#"{"type":"stdin","data":"x"}"#, "type"),
            (r#"{"type":"execute"}"#, "request"),
            (r#"{"type":"execute","request":{"code":"","runtime":"perl"}}"#, "request.runtime"),
            (r#"{"type":"execute","request":{"code":"","runtime":"bash"},"other":1}"#, "other"),
            (r#"{"type":"execute","request":{"code":"","runtime":"bash"},"options":{"network":"host"}}"#, "policy.allowHostNetwork"),
        ] {
            let mut socket = WebSocket::open(gateway.client());
            socket.text(first.as_bytes());
            refused(socket, word);
        }
        let mut socket = WebSocket::open(gateway.client());
        socket.frame(2, b"{}");
        refused(socket, "text");
        for (next, word) in [
            (r#"{"type":"signal","signal":"SIGKILL"}"#, "SIGKILL"),
            (r#"{"type":"execute","request":{"code":"","runtime":"bash"}}"#, "execute"),
            ("x", "expected"),
        ] {
            let mut socket = start(gateway, "bash", "echo ready; sleep 60");
            until(&mut socket, "ready\n");
            socket.text(next.as_bytes());
            refused(socket, word);
        }
        // No WebSocket without its key, and no run without an upgrade.
        let mut stranger = gateway.stranger();
        stranger.send("GET /execute/ws", &WebSocket::headers(), b"");
        stranger.answer().error(401);
        drop(stranger);
        let error = gateway.ask("GET /execute/ws").error(400);
        assert!(error.contains("WebSocket"), "{error}");
        gateway.until_idle(stage);
    }
}
