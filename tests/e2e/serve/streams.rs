//! Runs as server-sent events.

use isol8_e2e::harness::gateway::{Gateway, program};
use serde_json::{Value, json};

/// What all events of a kind say, in one piece.
fn joined(events: &[Value], kind: &str) -> String {
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    of_kind
        .map(|event| event["data"].as_str().expect("text"))
        .collect()
}

both_engines! {
    fn events_come_in_order_and_the_exit_is_last(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let code = "import sys, time\n\
            for i in range(3):\n \
             print(i, flush=True); print('e', i, file=sys.stderr, flush=True); time.sleep(0.05)\n\
            sys.exit(5)";
        let events = gateway.client().events(&program("python", code));
        let (last, before) = events.split_last().expect("events");
        assert_eq!((&last["type"], &last["data"], &last["phase"]), (&json!("exit"), &json!("5"), &json!("code")), "{last:#}");
        let result = &last["result"];
        assert_eq!((&result["verdict"], &result["exitCode"], &result["runtime"]), (&json!("exited"), &json!(5), &json!("python")));
        assert_eq!((result.get("stdout"), result.get("stderr")), (None, None), "it was told before");
        assert!(before.iter().all(|event| event["phase"] == "code"), "{events:#?}");
        assert_eq!(joined(before, "stdout"), "0\n1\n2\n");
        assert_eq!(joined(before, "stderr"), "e 0\ne 1\ne 2\n");
        assert!(before.len() >= 4, "as it comes, not at the end: {events:#?}");

        let files = json!({"request": {"code": "cat a > b", "runtime": "bash", "files": {"a": "x"}, "outputPaths": ["b"]}});
        let events = gateway.client().events(&files);
        assert_eq!(events.last().expect("an event")["result"]["files"], json!({"b": "eA=="}));

        let mut late = program("bash", "echo begun; sleep 60");
        late["request"]["timeoutMs"] = json!(1500);
        let events = gateway.client().events(&late);
        let last = events.last().expect("an event");
        assert_eq!((&last["type"], &last["data"], &last["result"]["verdict"]), (&json!("exit"), &json!("137"), &json!("timed_out")));
        gateway.until_idle(stage);
    }

    /// An event comes when it happens, not when its run is over.
    fn a_stream_is_live(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let mut client = gateway.client();
        let mut body = program("bash", "echo ready; sleep 60");
        body["request"]["timeoutMs"] = json!(4000);
        client.send("POST /execute/stream", &[], body.to_string().as_bytes());
        let head = client.begun().expect("an answer");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        let mut said = String::new();
        while said != "ready\n" {
            let event = client.event().expect("an event");
            assert_eq!(event["type"], "stdout", "{event:#}");
            said += event["data"].as_str().expect("text");
        }
        assert!((gateway.metric("isol8_daemon_runs_in_flight") - 1.0).abs() < 0.5, "it goes on meanwhile");
        let last = client.event().expect("an event");
        assert_eq!(last["result"]["verdict"], "timed_out", "{last:#}");
        assert_eq!(client.event(), None);
        // The connection is as good as before.
        client.send("GET /health", &[], b"");
        client.answer().ok();
        drop(client);
        gateway.until_idle(stage);
    }

    fn bytes_and_letters_are_not_torn(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let code = "import sys, time\n\
            for b in 'aü世🦀'.encode(): sys.stdout.buffer.write(bytes([b])); sys.stdout.flush(); time.sleep(0.01)\n\
            sys.stdout.buffer.write(b'\\xff\\x00'); sys.stdout.flush()";
        let events = gateway.client().events(&program("python", code));
        let out: Vec<&Value> = events.iter().filter(|event| event["type"] == "stdout").collect();
        let text: String = out.iter().filter(|event| event.get("dataBase64").is_none()).map(|event| event["data"].as_str().expect("text")).collect();
        assert!(text.starts_with("aü世🦀"), "{events:#?}");
        assert!(out.iter().any(|event| event["dataBase64"].as_str().is_some_and(|data| data.starts_with("/w"))), "{events:#?}");

        let lines = "print('data: x\\n\\nevent: y\\r\\n: z')";
        let events = gateway.client().events(&program("python", lines));
        assert_eq!(joined(&events, "stdout"), "data: x\n\nevent: y\r\n: z\n", "no program makes events");

        let flood = "import sys\nfor i in range(400000): sys.stdout.write('%08d\\n' % i)";
        let mut body = program("python", flood);
        body["options"] = json!({"maxOutputSize": 4_000_000});
        let events = gateway.client().events(&body);
        let out = joined(&events, "stdout");
        assert_eq!(out.len(), 3_600_000);
        assert!(out.lines().enumerate().all(|(n, line)| line == format!("{n:08}")), "in order, each once");
        gateway.until_idle(stage);
    }
}
