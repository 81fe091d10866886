//! Clients that go: with a goodbye, without one, and before they got an answer.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    host,
    http::Client,
    wait::{seconds, wait_until},
    websocket::WebSocket,
};
use serde_json::{Value, json};

/// A program whose life can be seen from the host.
fn sleeper(mark: &str, more: Value) -> Value {
    let mut body = program("bash", &format!("echo ready; sleep {mark}"));
    for (field, value) in more.as_object().expect("an object") {
        body["request"][field] = value.clone();
    }
    body
}

fn execute(gateway: &Gateway, body: &Value) -> Client {
    let mut client = gateway.client();
    client.send("POST /execute", &[], body.to_string().as_bytes());
    client
}

fn stream(gateway: &Gateway, body: &Value) -> Client {
    let mut client = gateway.client();
    client.send("POST /execute/stream", &[], body.to_string().as_bytes());
    client.begun().expect("an answer");
    client.event().expect("an event");
    client
}

fn socket(gateway: &Gateway, body: &Value) -> Client {
    let mut socket = WebSocket::open(gateway.client());
    let mut body = body.clone();
    body["type"] = json!("execute");
    socket.send(&body);
    assert_eq!(socket.event()["type"], "stdout");
    socket.into_client()
}

both_engines! {
    /// GW05: the run ends with its client, whatever way it came and whatever way
    /// the client goes.
    fn the_run_ends_with_its_client(stage: &Stage) {
        let gateway = Gateway::start(stage);
        gateway.run("bash", "true", json!({}));
        let before = gateway.weight();
        let mark = &stage.mark(70_530);
        let plain = sleeper(mark, json!({}));
        let filed = sleeper(mark, json!({"files": {"a": "x"}, "outputPaths": ["a"]}));
        let ways: [fn(&Gateway, &Value) -> Client; 3] = [execute, stream, socket];
        for body in [plain, filed] {
            let mut clients = Vec::new();
            for way in ways {
                clients.push((way(&gateway, &body), false));
                clients.push((way(&gateway, &body), true));
            }
            wait_until("all of them", seconds(60), || host::sleepers(mark).len() == clients.len());
            for (client, is_rude) in clients {
                match is_rude {
                    true => client.reset(),
                    false => drop(client),
                }
            }
            wait_until("their end", seconds(10), || host::sleepers(mark).is_empty());
        }
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 64 << 20);
        assert_eq!(gateway.run("bash", "echo next", json!({}))["stdout"], "next\n");
        gateway.stop();
    }

    /// Clients that go at any other moment leave nothing either.
    fn who_goes_early_leaves_nothing(stage: &Stage) {
        let gateway = Gateway::start(stage);
        gateway.run("bash", "true", json!({}));
        let before = gateway.weight();
        let mark = &stage.mark(70_540);
        let body = sleeper(mark, json!({"files": {"a": "x"}})).to_string();
        for count in 0..30 {
            let mut client = gateway.client();
            let length = body.len().to_string();
            let head = client.head("POST /execute/stream", &[("Content-Length", &length)]);
            let bytes = [head.as_bytes(), body.as_bytes()].concat();
            // In the middle of the head, of the body, and at once behind it.
            let part = bytes.len() * (count % 10 + 1) / 10;
            client.write(&bytes[..part]).expect("it is taken");
            match count % 2 {
                0 => client.reset(),
                _ => drop(client),
            }
        }
        for _ in 0..5 {
            let client = WebSocket::open(gateway.client()).into_client();
            drop(client);
            let mut socket = WebSocket::open(gateway.client());
            socket.send(&json!({"type": "execute", "request": {"code": format!("sleep {mark}"), "runtime": "bash"}}));
            socket.into_client().reset();
        }
        gateway.until_idle(stage);
        wait_until("their end", seconds(10), || host::sleepers(mark).is_empty());
        gateway.weighs_as(&before, 64 << 20);
        gateway.stop();
    }
}
