//! Files that come and go with a run.

use serde_json::json;

use crate::stage::{Stage, program, wait_for};

const FILES: &str = r#","files":{"data/a.txt":"text","b":{"base64":"/w=="}}"#;

/// Nothing of the run's own session is left.
fn await_nothing_left(stage: &Stage) {
    wait_for("the session to be removed", || {
        stage.world.sessions().is_empty()
    });
}

#[test]
fn files_are_there_before_and_fetched_after() {
    let stage = Stage::new();
    let rest = format!(r#"{FILES},"outputPaths":["out","data","none"]"#);
    let result = stage
        .ask("POST", "/execute", &program("write out\nprint x", &rest))
        .ok();
    assert_eq!(result["stdout"], "x");
    let files = json!({"out": "d3JpdHRlbg==", "data/a.txt": "dGV4dA=="});
    assert_eq!(result["files"], files, "what is not there is left out");
    assert_eq!(stage.world.count("put b: 1 bytes"), 1);
    assert_eq!(stage.world.count("put data/a.txt: 4 bytes"), 1);
    await_nothing_left(&stage);
    assert!(stage.ask("GET", "/sessions", "").ok()["sessions"] == json!([]));
}

#[test]
fn a_stream_tells_its_files_at_its_end() {
    let stage = Stage::new();
    let body = program("write out", r#","outputPaths":["out"]"#);
    let answer = stage.ask("POST", "/execute/stream", &body);
    let last = answer
        .text()
        .trim_end()
        .rsplit("data: ")
        .next()
        .expect("an event");
    let last: serde_json::Value = serde_json::from_str(last).expect("it is JSON");
    assert_eq!(last["result"]["files"], json!({"out": "d3JpdHRlbg=="}));
    await_nothing_left(&stage);
}

#[test]
fn in_a_session_they_stay() {
    let stage = Stage::new();
    for _ in 0..2 {
        let body = program("", FILES);
        let body = format!(r#"{},"sessionId":"work"}}"#, &body[..body.len() - 1]);
        stage.ask("POST", "/execute", &body).ok();
    }
    assert_eq!(stage.world.sessions().len(), 1);
    let answer = stage
        .ask("GET", "/file?sessionId=work&path=data/a.txt", "")
        .ok();
    assert_eq!(answer, json!({"content": "dGV4dA=="}));
}

/// However a run ends, the session that was made for it goes.
#[test]
fn nothing_is_left_behind() {
    for code in ["exit 1", "fail internal", "break", "verdict oom_killed"] {
        let stage = Stage::new();
        stage.ask("POST", "/execute", &program(code, FILES));
        assert!(stage.world.count("put b: 1 bytes") == 1, "{code}");
        await_nothing_left(&stage);
    }
    // A file that does not fit.
    let stage = Stage::new();
    let answer = stage.ask("POST", "/execute", &program("", r#","files":{"full":""}"#));
    assert_eq!(answer.status, 413);
    await_nothing_left(&stage);
    // A client that goes.
    for path in ["/execute", "/execute/stream"] {
        let stage = Stage::new();
        let mut client = stage.client();
        client.post(path, &program("wait", FILES));
        stage.world.await_note("waiting");
        drop(client);
        stage.world.await_note("gone");
        await_nothing_left(&stage);
    }
    // A gateway that goes.
    let stage = Stage::new();
    let mut client = stage.client();
    client.post("/execute", &program("wait", FILES));
    stage.world.await_note("waiting");
    stage.stop.cancel();
    assert_eq!(client.answer().status, 503);
    stage.await_end();
    assert!(
        stage.world.sessions().is_empty(),
        "before the gateway is over"
    );
}
