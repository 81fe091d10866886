//! One key that takes all it can get, and another one beside it.

use crate::{
    client::{Client, head},
    stage::{KEY, OTHER_KEY, Stage, program, wait_for},
    stream::waiting,
    websocket::upgrade,
};

fn session(id: &str) -> String {
    let body = program("", "");
    let body = body.strip_suffix('}').expect("an object");
    format!(r#"{body},"sessionId":"{id}"}}"#)
}

#[test]
fn requests_of_one_key_leave_places() {
    let stage = Stage::with(|bounds| bounds.connections = 8);
    let held: Vec<Client> = (0..6).map(|_| waiting(&stage, "wait")).collect();
    let answer = stage.execute("");
    assert_eq!(answer.error(429), "too many requests of this key");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let body = program("print x", "");
    let other = stage.ask_as(OTHER_KEY, "POST", "/execute", &body).ok();
    assert_eq!(other["stdout"], "x");
    drop(held);
    wait_for("a place", || stage.execute("").status == 200);
}

#[test]
fn sockets_of_one_key_leave_places() {
    let stage = Stage::with(|bounds| bounds.sockets = 8);
    let open = |key| {
        let mut client = stage.client();
        upgrade(&mut client, key, None);
        let (status, _) = client.head().expect("an answer");
        (client, status)
    };
    let held: Vec<_> = (0..6).map(|_| open(KEY)).collect();
    assert!(held.iter().all(|(_, status)| *status == 101));
    assert_eq!(open(KEY).1, 429);
    let other = open(OTHER_KEY);
    assert_eq!(other.1, 101);
    drop(held);
    wait_for("a place", || open(KEY).1 == 101);
}

#[test]
fn bodies_of_one_key_leave_room() {
    let stage = Stage::with(|bounds| {
        bounds.body_bytes = 3 << 20;
        bounds.bodies_bytes = 4 << 20;
    });
    let mut hog = stage.client();
    let bearer = format!("Bearer {KEY}");
    let headers = [("Authorization", &*bearer)];
    hog.write(head("POST", "/execute", &headers, Some(3 << 20)).as_bytes());
    hog.write(&vec![b' '; (3 << 20) - 1]);
    let body = program("print x", "");
    wait_for("a full room", || {
        stage.ask("POST", "/execute", &body).status == 429
    });
    let other = stage.ask_as(OTHER_KEY, "POST", "/execute", &body).ok();
    assert_eq!(other["stdout"], "x");
}

#[test]
fn sessions_of_one_key_leave_places() {
    let stage = Stage::with(|bounds| bounds.sessions = 8);
    for n in 0..6 {
        let body = session(&format!("s{n}"));
        stage.ask("POST", "/execute", &body).ok();
    }
    let full = "the sessions and kept sandboxes that are left are for other keys";
    let ask = |body: &str| stage.ask("POST", "/execute", body);
    assert_eq!(ask(&session("more")).error(429), full);
    let files = program("", r#","files":{"a":"b"}"#);
    assert_eq!(ask(&files).error(429), full, "files need a session");
    let kept = program("", "");
    let kept = format!(
        r#"{},"options":{{"persist":true}}}}"#,
        &kept[..kept.len() - 1]
    );
    assert_eq!(ask(&kept).error(429), full);
    // What is there goes on, and so does the other key.
    ask(&session("s1")).ok();
    ask(&program("", "")).ok();
    let other = |body: &str| stage.ask_as(OTHER_KEY, "POST", "/execute", body);
    other(&session("mine")).ok();
    assert_eq!(other(&session("another")).error(429), full);
    stage.ask("DELETE", "/session/s1", "").ok();
    stage.ask("DELETE", "/session/s2", "").ok();
    ask(&session("more")).ok();
}

#[test]
fn runs_of_each_key_wait_in_a_lane_of_their_own() {
    let stage = Stage::new();
    let lane_of = |key| {
        stage.ask_as(key, "POST", "/execute", &program("", "")).ok();
        stage.world.last_start().lane
    };
    let (one, other) = (lane_of(KEY), lane_of(OTHER_KEY));
    assert!(!one.is_empty() && !other.is_empty());
    assert_ne!(one, other);
    assert_eq!(one, lane_of(KEY));
}
