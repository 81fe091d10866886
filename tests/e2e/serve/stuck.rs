//! Clients that stop reading while a program goes on printing.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    host,
    http::Client,
    wait::{seconds, wait_until},
    websocket::WebSocket,
};
use serde_json::{Value, json};

/// As many of each kind.
const READERS: usize = 3;

fn flood(mark: &str) -> Value {
    let code = format!("sleep {mark} & echo ready; exec yes 0123456789abcdef");
    let mut body = program("bash", &code);
    body["request"]["timeoutMs"] = json!(6000);
    body["options"] = json!({"maxOutputSize": 16 << 20});
    body
}

both_engines! {
    /// GW06: what nobody reads is printed no further, held by nobody, and ended by
    /// the run's own limit; others do not notice.
    fn who_does_not_read_harms_nobody(stage: &Stage) {
        let gateway = Gateway::start(stage);
        gateway.run("bash", "true", json!({}));
        let mark = &stage.mark(70_520);
        let before = gateway.weight();
        let daemon = stage.daemon_process();
        let daemons_before = daemon.resident_bytes();
        let mut streams: Vec<Client> = Vec::new();
        let mut sockets: Vec<WebSocket> = Vec::new();
        for _ in 0..READERS {
            let mut client = gateway.client();
            client.send("POST /execute/stream", &[], flood(mark).to_string().as_bytes());
            client.begun().expect("an answer");
            assert_eq!(client.event().expect("an event")["type"], "stdout");
            streams.push(client);
            let mut socket = WebSocket::open(gateway.client());
            let mut first = flood(mark);
            first["type"] = json!("execute");
            socket.send(&first);
            assert_eq!(socket.event()["type"], "stdout");
            sockets.push(socket);
        }
        wait_until("all of them", seconds(20), || host::sleepers(mark).len() == 2 * READERS);
        // They read no more. Others do.
        for _ in 0..5 {
            assert_eq!(gateway.run("bash", "echo honest", json!({}))["stdout"], "honest\n");
        }
        wait_until("their end", seconds(30), || host::sleepers(mark).is_empty());
        wait_until("their runs' end", seconds(20), || {
            gateway.metric("isol8_daemon_runs_in_flight") < 0.5
        });
        let grown = daemon.resident_bytes().saturating_sub(daemons_before);
        assert!(grown < 96 << 20, "the daemon grew by {} MiB", grown >> 20);
        // Who reads again gets all of it, and how it ended.
        let mut client = streams.pop().expect("some");
        let mut last = Value::Null;
        while let Some(event) = client.event() {
            last = event;
        }
        assert_eq!(last["result"]["verdict"], "timed_out", "{last:#}");
        let (events, code) = sockets.pop().expect("some").rest();
        let last = events.last().expect("events");
        assert_eq!((&last["result"]["verdict"], code), (&json!("timed_out"), 1000), "{last:#}");
        drop((client, streams, sockets));
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 96 << 20);
        gateway.stop();
    }
}
