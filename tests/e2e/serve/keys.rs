//! Keys with names: made, changed and removed while the gateway serves.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    http::{Answer, Client},
    stage::Stage,
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

/// `isol8 key` with these arguments; its stdout without the line's end.
fn key(stage: &Stage, args: &[&str]) -> String {
    let text = stage.isol8(["key"]).args(args).go().ok();
    text.trim_end().to_owned()
}

fn ask(gateway: &Gateway, key: &str, what: &str, body: &Value) -> Answer {
    let mut client = Client::connect(gateway.address()).with_key(key);
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    client.send(what, &[], body.as_bytes());
    client.answer()
}

fn await_status(gateway: &Gateway, key: &str, status: u16) {
    wait_until(&format!("{status} for the key"), seconds(20), || {
        ask(gateway, key, "GET /sessions", &Value::Null).status == status
    });
}

both_engines! {
    fn a_key_from_its_making_to_its_removal(stage: &Stage) {
        let first = key(stage, &["add", "ci", "--max-memory", "128m"]);
        let gateway = &Gateway::start_as(stage, |command| {
            // The database alone opens it.
            command.env_remove("ISOL8_API_KEY");
        });
        let inside = |key: &str, code: &str| {
            let mut body = program("bash", code);
            body["sessionId"] = json!("work");
            ask(gateway, key, "POST /execute", &body)
        };
        assert_eq!(inside(&first, "echo kept > f; cat f").ok()["stdout"], "kept\n");
        let mut greedy = program("bash", "true");
        greedy["options"] = json!({"memoryLimit": "129m"});
        let said = ask(gateway, &first, "POST /execute", &greedy).error(403);
        assert!(said.contains("`policy.maxMemory`"), "{said}");

        let other = key(stage, &["add", "other"]);
        await_status(gateway, &other, 200);
        ask(gateway, &other, "POST /execute", &greedy).ok();
        let file = |key: &str| ask(gateway, key, "GET /file?sessionId=work&path=f", &Value::Null);
        assert_eq!(file(&first).ok()["content"], "a2VwdAo=");
        file(&other).error(404);
        let none = ask(gateway, &other, "GET /sessions", &Value::Null).ok();
        assert_eq!(none, json!({"sessions": []}));
        ask(gateway, &other, "DELETE /session/work", &Value::Null).error(404);

        let second = key(stage, &["rotate", "ci"]);
        await_status(gateway, &second, 200);
        assert_eq!(file(&first).error(403), "Invalid API key");
        assert_eq!(inside(&second, "cat f").ok()["stdout"], "kept\n");

        // What runs under a key ends with it, and so does its sandbox.
        let mut stream = Client::connect(gateway.address()).with_key(&second);
        let forever = program("bash", &format!("echo runs; sleep {}", stage.mark(1000)));
        stream.send("POST /execute/stream", &[], forever.to_string().as_bytes());
        assert_eq!(stream.begun().expect("an answer").status, 200);
        assert_eq!(stream.event().expect("output")["data"], "runs\n");
        key(stage, &["rm", "ci"]);
        let last = stream.event().expect("a last event");
        assert_eq!(last["type"], "error", "{last}");
        assert_eq!(stream.event(), None);
        assert_eq!(file(&second).error(403), "Invalid API key");
        let again = key(stage, &["add", "ci"]);
        await_status(gateway, &again, 200);
        file(&again).error(404);
        wait_until("the run to end", seconds(20), || {
            ask(gateway, &again, "GET /metrics", &Value::Null)
                .text()
                .lines()
                .any(|line| line == "isol8_daemon_runs_in_flight 0")
        });
        stage.isol8(["cleanup", "--force"]).go().ended(0);
    }
}
