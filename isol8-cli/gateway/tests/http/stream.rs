//! `POST /execute/stream`.

use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    stage::{Stage, program},
};

fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let events = answer.text().split_terminator("\n\n").filter_map(|event| {
        let data = event.strip_prefix("data: ")?;
        assert!(!data.contains('\n'), "one line for each event");
        Some(serde_json::from_str(data).expect("it is JSON"))
    });
    events.collect()
}

fn stream(stage: &Stage, code: &str) -> Answer {
    stage.ask("POST", "/execute/stream", &program(code, ""))
}

/// A stream whose program waits, past its head.
pub(crate) fn waiting(stage: &Stage, code: &str) -> Client {
    let mut client = stage.client();
    client.post("/execute/stream", &program(code, ""));
    let (status, _) = client.head().expect("a head");
    assert_eq!(status, 200);
    client
}

#[test]
fn output_comes_as_events_and_the_end_is_the_last() {
    let stage = Stage::new();
    let answer = stream(&stage, "print a\ncomplain b\nexit 3");
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut events = events(&answer);
    let last = events.pop().expect("an end");
    assert_eq!(
        events,
        [
            json!({"type": "stdout", "data": "a", "phase": "code"}),
            json!({"type": "stderr", "data": "b", "phase": "code"}),
        ]
    );
    assert_eq!(last["type"], "exit");
    assert_eq!(last["data"], "3");
    assert_eq!(last["phase"], "code");
    assert_eq!(last["result"]["verdict"], "exited");
    assert_eq!(last["result"]["exitCode"], 3);
    assert_eq!(last["result"].get("stdout"), None);
}

#[test]
fn phases_are_told() {
    let stage = Stage::new();
    let events = events(&stream(&stage, "install\nprint x"));
    let told = json!({"type": "stderr", "data": "installing\n", "phase": "install"});
    assert_eq!(events[0], told);
    assert_eq!(events[1]["phase"], "code");
    assert_eq!(events[2]["phase"], "code");
}

#[test]
fn bytes_stay_exact() {
    let stage = Stage::new();
    let events = events(&stream(&stage, "halves\nbinary"));
    assert_eq!(
        events[0],
        json!({"type": "stdout", "data": "é", "phase": "code"})
    );
    assert_eq!(events[1]["data"], "a\u{fffd}");
    assert_eq!(events[1]["dataBase64"], "Yf8=");
}

#[test]
fn what_goes_wrong_on_the_way_is_the_last_event() {
    let stage = Stage::new();
    for (code, kind) in [
        ("print a\nfail session_lost", "session_lost"),
        ("print a\nbreak", "internal"),
    ] {
        let events = events(&stream(&stage, code));
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[1]["type"], "error");
        assert_eq!(events[1]["error"]["kind"], kind);
        assert!(
            events[1]["data"]
                .as_str()
                .is_some_and(|data| !data.is_empty())
        );
    }
}

#[test]
fn a_notice_is_a_comment() {
    let stage = Stage::new();
    let answer = stream(&stage, "notice building an image\nprint x");
    assert!(
        answer.text().contains("\n: building an image\n\n")
            || answer.text().starts_with(": building")
    );
    assert_eq!(events(&answer).len(), 2);
}

#[test]
fn a_quiet_stream_has_comments() {
    let stage = Stage::with(|bounds| bounds.comment = std::time::Duration::from_millis(20));
    let mut client = waiting(&stage, "wait\nprint x");
    for _ in 0..3 {
        assert_eq!(client.event().as_deref(), Some(":\n\n"));
    }
    stage.world.release.cancel();
    let mut events = Vec::new();
    while let Some(event) = client.event() {
        events.push(event);
    }
    assert!(
        events.iter().any(|event| event.contains(r#""data":"x""#)),
        "{events:?}"
    );
    assert!(events.last().expect("an end").contains(r#""type":"exit""#));
}

#[test]
fn output_comes_while_the_program_runs() {
    let stage = Stage::new();
    let mut client = waiting(&stage, "print now\nwait\nprint later");
    assert!(client.event().expect("an event").contains("now"));
    stage.world.release.cancel();
    assert!(client.event().expect("an event").contains("later"));
}

#[test]
fn a_client_that_goes_cancels_its_run() {
    let stage = Stage::new();
    let client = waiting(&stage, "wait");
    stage.world.await_note("waiting");
    drop(client);
    stage.world.await_note("gone");

    let stage = Stage::new();
    let mut client = stage.client();
    client.post("/execute", &program("wait", ""));
    stage.world.await_note("waiting");
    drop(client);
    stage.world.await_note("gone");
}
