//! More requests than may run.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    http::Client,
    stage::{Engine, Stage},
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

/// Ten times what one key may run at once, which is 64.
const BURST: usize = 640;

/// F09: every request of a burst is served with its own answer or told when to
/// come again; what is no run is served at once; nothing is left of it.
#[test]
fn a_burst_is_served_or_told_to_come_again() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        gateway.run("bash", "true", json!({}));
        let before = gateway.weight();
        let mut clients: Vec<Client> = Vec::new();
        for number in 0..BURST {
            let mut client = gateway.client();
            let body = program("bash", &format!("echo {number}; sleep 0.2"));
            client.send("POST /execute", &[], body.to_string().as_bytes());
            clients.push(client);
        }
        let (mut served, mut told) = (0, 0);
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.answer();
            if answer.status == 200 {
                served += 1;
                let result = answer.json();
                assert_eq!(
                    (&result["stdout"], &result["exitCode"]),
                    (&json!(format!("{number}\n")), &json!(0))
                );
            } else {
                told += 1;
                answer.error(429);
                assert_eq!(answer.json()["kind"], "at_capacity", "{}", answer.shown());
                let after = answer
                    .header("retry-after")
                    .and_then(|after| after.parse::<u64>().ok());
                assert!(after.is_some_and(|after| after >= 1), "{}", answer.shown());
            }
        }
        assert!(served >= 20 && told >= 100, "{served} served, {told} told");
        drop(clients);
        // Who comes again is served.
        gateway.until_idle(stage);
        assert_eq!(
            gateway.run("bash", "echo again", json!({}))["stdout"],
            "again\n"
        );
        gateway.weighs_as(&before, 96 << 20);
        gateway.stop();
    });
}

/// While all places of the key are taken, the other paths answer, and a place
/// that becomes free is taken by the next one.
#[test]
fn a_full_gateway_still_answers() {
    let config = json!({"maxConcurrent": 4});
    Stage::with_config(Engine::Native, config, |stage| {
        let gateway = Gateway::start(stage);
        let body = program("bash", "sleep 60").to_string();
        let mut clients: Vec<Client> = (0..64).map(|_| gateway.client()).collect();
        for client in &mut clients {
            client.send("POST /execute", &[], body.as_bytes());
        }
        wait_until("a full gateway", seconds(30), || {
            gateway.metric("isol8_http_runs_in_flight") > 63.5
        });
        let answer = gateway.post("/execute", &program("bash", "true"));
        assert!(
            answer.error(429).contains("64 runs of this key"),
            "{}",
            answer.shown()
        );
        assert_eq!(
            gateway.metric("isol8_daemon_runs_in_flight").to_bits(),
            4.0_f64.to_bits()
        );
        gateway.ask("GET /health").ok();
        assert_eq!(
            gateway.ask("GET /sessions").ok(),
            json!({"sessions": Value::Array(Vec::new())})
        );
        // All but one go, running or waiting, and nobody waits for them.
        drop(clients);
        gateway.until_idle(stage);
        assert_eq!(
            gateway.run("bash", "echo next", json!({}))["stdout"],
            "next\n"
        );
        gateway.stop();
    });
}
