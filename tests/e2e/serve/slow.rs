//! Clients that take their time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use isol8_e2e::harness::{
    gateway::Gateway,
    http::Client,
    stage::{Engine, Stage},
    wait::seconds,
};
use serde_json::json;

/// GW03: they never finish a request, of each kind so many. Together they are more
/// than the gateway has places for.
const OF_EACH: usize = 350;

/// Says a byte to each of them from time to time, until told to stop.
fn drip(clients: &mut Vec<Client>, byte: &[u8], over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        clients.retain_mut(|client| client.write(byte).is_ok());
        thread::sleep(seconds(1));
    }
}

#[test]
fn who_never_finishes_harms_nobody() {
    Stage::with(Engine::Native, |stage| {
        let server = Gateway::start(stage);
        let gateway = &server;
        gateway.run("bash", "true", json!({}));
        let before = gateway.weight();
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            let silent = scope.spawn(move || {
                let clients: Vec<Client> = (0..OF_EACH).map(|_| gateway.stranger()).collect();
                // Each is cut, whether it was the first or the last.
                for mut client in clients {
                    client.until_closed();
                }
            });
            scope.spawn(move || {
                let mut clients: Vec<Client> = (0..OF_EACH).map(|_| gateway.stranger()).collect();
                for client in &mut clients {
                    drop(client.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "));
                }
                drip(&mut clients, b"a", over);
            });
            scope.spawn(move || {
                // These have the key, and places for as long as a body may take.
                let mut clients: Vec<Client> = (0..100).map(|_| gateway.client()).collect();
                for client in &mut clients {
                    let head = client.head("POST /execute", &[("Content-Length", "1000000")]);
                    drop(client.write(head.as_bytes()));
                }
                drip(&mut clients, b" ", over);
            });
            let mut served = 0;
            while !silent.is_finished() {
                assert_eq!(
                    gateway.ask("GET /health").status,
                    200,
                    "after {served} others"
                );
                let result = gateway.run("bash", "echo honest", json!({}));
                assert_eq!(result["stdout"], "honest\n", "after {served} others");
                served += 1;
            }
            assert!(served >= 5, "{served}");
            over.store(true, Ordering::Release);
        });
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 64 << 20);
        server.stop();
    });
}
