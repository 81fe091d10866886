//! Sessions, their files, and the cleanup.

use serde_json::json;

use crate::stage::{KEY, OTHER_KEY, Stage};

fn open(stage: &Stage, key: &str, id: &str) {
    let body = format!(r#"{{"request":{{"code":"","runtime":"python"}},"sessionId":"{id}"}}"#);
    stage.ask_as(key, "POST", "/execute", &body).ok();
}

fn ids(stage: &Stage, key: &str) -> Vec<String> {
    let list = stage.ask_as(key, "GET", "/sessions", "").ok();
    let sessions = list["sessions"].as_array().expect("a list");
    let id = |session: &serde_json::Value| session["id"].as_str().expect("a text").to_owned();
    sessions.iter().map(id).collect()
}

fn put(id: &str, path: &str, content: &str) -> String {
    json!({"sessionId": id, "path": path, "content": content}).to_string()
}

#[test]
fn a_session_lives_from_its_first_run_to_its_removal() {
    let stage = Stage::new();
    assert_eq!(
        stage.ask("GET", "/sessions", "").ok(),
        json!({"sessions": []})
    );
    open(&stage, KEY, "work");
    let mut list = stage.ask("GET", "/sessions", "").ok();
    let last = list["sessions"][0]["lastAccessedAt"].take();
    assert!(
        last.as_str().is_some_and(|last| last.ends_with('Z')),
        "{last}"
    );
    let expected =
        json!({"id": "work", "runtime": "python", "isActive": false, "lastAccessedAt": null});
    assert_eq!(list, json!({"sessions": [expected]}));
    assert_eq!(
        stage.ask("DELETE", "/session/work", "").ok(),
        json!({"ok": true})
    );
    assert!(ids(&stage, KEY).is_empty());
    assert_eq!(stage.ask("DELETE", "/session/work", "").status, 404);
}

#[test]
fn an_id_that_is_none_is_refused_by_its_field() {
    let stage = Stage::new();
    for id in ["%ff", "a%2Fb", "%20", "%C3%A9"] {
        let answer = stage.ask("DELETE", &format!("/session/{id}"), "");
        let error = answer.error(400);
        assert!(error.starts_with("`id`: "), "{error}");
    }
}

#[test]
fn a_session_is_only_of_the_key_that_made_it() {
    let stage = Stage::new();
    open(&stage, KEY, "work");
    let body = put("work", "a", "YQ==");
    stage.ask("POST", "/file", &body).ok();
    assert!(ids(&stage, OTHER_KEY).is_empty());
    let other = |method, path, body: &str| stage.ask_as(OTHER_KEY, method, path, body).status;
    assert_eq!(other("DELETE", "/session/work", ""), 404);
    assert_eq!(other("GET", "/file?sessionId=work&path=a", ""), 404);
    assert_eq!(other("POST", "/file", &body), 404);
    // Nor by the name that the daemon knows it by.
    let name = &stage.world.sessions()[0];
    assert_eq!(other("DELETE", &format!("/session/{name}"), ""), 404);
    // The same id is another session.
    open(&stage, OTHER_KEY, "work");
    assert_eq!(stage.world.sessions().len(), 2);
    stage.ask_as(OTHER_KEY, "DELETE", "/session/work", "").ok();
    assert_eq!(ids(&stage, KEY), ["work"]);
}

#[test]
fn who_is_busy_is_removed_only_by_force() {
    let stage = Stage::new();
    open(&stage, KEY, "x.busy");
    let list = stage.ask("GET", "/sessions", "").ok();
    assert_eq!(list["sessions"][0]["isActive"], true);
    assert_eq!(stage.ask("DELETE", "/session/x.busy", "").status, 409);
    assert_eq!(
        stage
            .ask("DELETE", "/session/x.busy?force=maybe", "")
            .status,
        400
    );
    assert_eq!(
        stage.ask("DELETE", "/session/x.busy?other=1", "").status,
        400
    );
    stage.ask("DELETE", "/session/x.busy?force=true", "").ok();
}

#[test]
fn a_file_comes_back_as_it_went() {
    let stage = Stage::new();
    open(&stage, KEY, "work");
    let content = data_encoding::BASE64.encode(&vec![0xfe; 600 << 10]);
    let body = put("work", "/sandbox/dir/a b", &content);
    assert_eq!(stage.ask("POST", "/file", &body).ok(), json!({"ok": true}));
    stage.world.await_note("put /sandbox/dir/a b: 614400 bytes");
    let path = "/file?sessionId=work&path=%2Fsandbox%2Fdir/a+b";
    let answer = stage.ask("GET", path, "").ok();
    assert!(
        answer["content"] == content.as_str(),
        "all of it comes back"
    );
    stage.ask("POST", "/file", &put("work", "empty", "")).ok();
    let answer = stage.ask("GET", "/file?path=empty&sessionId=work", "").ok();
    assert_eq!(answer, json!({"content": ""}));
}

#[test]
fn a_file_that_cannot_be_is_refused_with_its_field() {
    let stage = Stage::new();
    open(&stage, KEY, "work");
    stage
        .ask("POST", "/file", &put("work", "/sandbox/dir/x", ""))
        .ok();
    let error = |method, path, body: &str, status| stage.ask(method, path, body).error(status);
    assert!(error("POST", "/file", &put("work", "/etc/x", ""), 400).contains("`path`"));
    assert!(error("POST", "/file", &put("work", "a/../../b", ""), 400).contains("`path`"));
    assert!(error("POST", "/file", &put("work", "a", "?"), 400).contains("`content`"));
    assert!(error("POST", "/file", &put("a/b", "a", ""), 400).contains("`sessionId`"));
    assert!(error("POST", "/file", "{}", 400).contains("`sessionId`"));
    error("POST", "/file", &put("none", "a", ""), 404);
    error("POST", "/file", &put("work", "full", ""), 413);
    assert!(error("GET", "/file?path=a", "", 400).contains("`sessionId`"));
    assert!(error("GET", "/file?sessionId=work", "", 400).contains("`path`"));
    assert!(error("GET", "/file?sessionId=work&path=a&x=1", "", 400).contains("`x`"));
    assert!(error("GET", "/file?sessionId=work&path=a&path=b", "", 400).contains("`path`"));
    assert!(error("GET", "/file?sessionId=work&path=/etc/passwd", "", 400).contains("`path`"));
    error("GET", "/file?sessionId=work&path=none", "", 404);
    error("GET", "/file?sessionId=none&path=a", "", 404);
    let folder = error("GET", "/file?sessionId=work&path=/sandbox/dir", "", 400);
    assert!(folder.contains("not a regular file"), "{folder}");
}

#[test]
fn the_cleanup_counts() {
    let stage = Stage::new();
    let counts = json!({"removed": 2, "failed": 1});
    assert_eq!(stage.ask("POST", "/cleanup", "").ok(), counts);
    assert_eq!(stage.ask("POST", "/cleanup", "{}").ok(), counts);
    stage.ask("POST", "/cleanup", r#"{"images":true}"#).ok();
    assert_eq!(
        stage.world.notes(),
        [
            "cleanup false false",
            "cleanup false false",
            "cleanup false true"
        ]
    );
    assert!(
        stage
            .ask("POST", "/cleanup", r#"{"image":1}"#)
            .error(400)
            .contains("`image`")
    );
    let answer = stage.ask_as(OTHER_KEY, "POST", "/cleanup", "");
    assert!(answer.error(403).contains("may not clean up"));
}

#[test]
fn a_failure_calls_a_session_what_its_owner_calls_it() {
    let stage = Stage::new();
    let body = r#"{"request":{"code":"mismatch","runtime":"python"},"sessionId":"work"}"#;
    let answer = stage.ask("POST", "/execute", body);
    assert_eq!(answer.error(409), "session `work` is another");
    assert_eq!(answer.json()["causes"], json!(["of work"]));
    assert_eq!(answer.json()["hint"], "remove work");
    let answer = stage.ask("POST", "/execute/stream", body);
    let owner = stage.world.sessions()[0].replace(".work", "");
    assert!(!answer.text().contains(&owner), "{answer:?}");
}
