//! `/file`, `/sessions` and `/session/:id`.

use data_encoding::BASE64;
use isol8_e2e::harness::{
    gateway::{Gateway, program},
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

fn put(session: &str, path: &str, content: &[u8]) -> Value {
    json!({"sessionId": session, "path": path, "content": BASE64.encode(content)})
}

#[track_caller]
fn inside(gateway: &Gateway, session: &str, code: &str) -> Value {
    let mut body = program("bash", code);
    body["sessionId"] = json!(session);
    gateway.post("/execute", &body).ok()["stdout"].clone()
}

both_engines! {
    fn files_go_there_and_back(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        assert_eq!(inside(gateway, "work", "echo made"), "made\n");
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for (path, asked) in [
            ("raw", "raw"), ("/sandbox/deep/er/raw", "deep%2Fer%2Fraw"), ("/tmp/raw", "%2Ftmp%2Fraw"),
            ("with blank & ü%", "with+blank+%26+%C3%BC%25"), ("./.hidden", ".hidden"),
        ] {
            assert_eq!(gateway.post("/file", &put("work", path, &bytes)).ok(), json!({"ok": true}), "{path}");
            let got = gateway.ask(&format!("GET /file?sessionId=work&path={asked}")).ok();
            assert_eq!(got, json!({"content": BASE64.encode(&bytes)}), "{path}");
        }
        assert_eq!(inside(gateway, "work", "cmp raw deep/er/raw && cmp raw /tmp/raw && wc -c < 'with blank & ü%'"), "100000\n");
        // It is replaced as a whole, and empty is a file too.
        gateway.post("/file", &put("work", "raw", b"")).ok();
        assert_eq!(gateway.ask("GET /file?sessionId=work&path=raw").ok(), json!({"content": ""}));
        let large = vec![7; 14 << 20];
        gateway.post("/file", &put("work", "large", &large)).ok();
        let got = gateway.ask("GET /file?sessionId=work&path=large").ok();
        assert_eq!(BASE64.decode(got["content"].as_str().expect("text").as_bytes()).expect("base64"), large);
        // What is too large to be answered says so.
        assert_eq!(inside(gateway, "work", "head -c 30M /dev/zero > huge; echo"), "\n");
        let answer = gateway.ask("GET /file?sessionId=work&path=huge");
        assert!(answer.error(400).contains("20971520 bytes"), "{}", answer.shown());

        for (path, status) in [("absent", 404), ("raw/below", 404), ("%2Ftmp%2Fabsent", 404), ("deep", 400)] {
            let answer = gateway.ask(&format!("GET /file?sessionId=work&path={path}"));
            assert_eq!(answer.status, status, "{path}: {}", answer.shown());
            assert_ne!(answer.error(status), "", "{path}");
        }
        assert!(gateway.ask("GET /file?sessionId=absent&path=raw").error(404).contains("absent"));
        assert!(gateway.post("/file", &put("absent", "raw", b"x")).error(404).contains("absent"));
        for outside in ["/etc/passwd", "/", "../x", "/sandbox/../etc/passwd", "a/../../b", "/proc/self/environ", "/sandboxes/x", ""] {
            let error = gateway.post("/file", &put("work", outside, b"x")).error(400);
            assert!(error.contains("`path`"), "{error}");
            let asked = outside.replace('/', "%2F").replace('.', "%2e");
            let error = gateway.ask(&format!("GET /file?sessionId=work&path={asked}")).error(400);
            assert!(error.contains("`path`"), "{error}");
        }
        // A link leads nowhere.
        assert_eq!(inside(gateway, "work", "ln -s /etc/passwd link; ln -s /etc way; echo"), "\n");
        for path in ["link", "way%2Fpasswd"] {
            let answer = gateway.ask(&format!("GET /file?sessionId=work&path={path}"));
            assert!((400..500).contains(&answer.status), "{}", answer.shown());
            assert!(!answer.text().contains("content"), "{}", answer.shown());
        }
        for (body, field) in [
            (json!({"sessionId": "work", "path": "a"}), "content"),
            (json!({"sessionId": "work", "path": "a", "content": "!"}), "content"),
            (json!({"sessionId": "work", "path": "a", "content": "YQ"}), "content"),
            (json!({"sessionId": "a b", "path": "a", "content": ""}), "sessionId"),
            (json!({"sessionId": "work", "path": 1, "content": ""}), "path"),
            (json!({"sessionId": "work", "path": "a", "content": "", "mode": 1}), "mode"),
        ] {
            let error = gateway.post("/file", &body).error(400);
            assert!(error.contains(field), "{error}");
        }
        for (query, field) in [
            ("", "sessionId"), ("?sessionId=work", "path"), ("?path=a", "sessionId"),
            ("?sessionId=work&path=a&x=1", "x"), ("?sessionId=work&path=a&path=b", "path"),
        ] {
            let error = gateway.ask(&format!("GET /file{query}")).error(400);
            assert!(error.contains(field), "{error}");
        }
        gateway.ask("DELETE /session/work").ok();
        gateway.until_idle(stage);
    }

    fn sessions_are_listed_and_removed(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let list = || gateway.ask("GET /sessions").ok()["sessions"].as_array().expect("a list").clone();
        assert_eq!(list(), Vec::<Value>::new());
        inside(gateway, "a-1._Z", "echo x > f");
        let mut body = program("python", "open('g', 'w').write('y')");
        body["sessionId"] = json!("b");
        gateway.post("/execute", &body).ok();
        // A session looks after itself for a moment when its run is over.
        wait_until("both to rest", seconds(10), || list().iter().all(|session| session["isActive"] == false));
        let mut all = list();
        all.sort_by_key(|session| session["id"].to_string());
        let told: Vec<_> = all.iter().map(|session| (&session["id"], &session["runtime"], &session["isActive"])).collect();
        assert_eq!(told, [
            (&json!("a-1._Z"), &json!("bash"), &json!(false)), (&json!("b"), &json!("python"), &json!(false)),
        ]);
        for session in &all {
            assert_eq!(session.as_object().map(serde_json::Map::len), Some(4), "{session}");
            let stamp = session["lastAccessedAt"].as_str().expect("text");
            assert!(stamp.len() == 24 && stamp.ends_with('Z'), "{stamp}");
        }
        // Another runtime, and other limits, are a conflict that says both.
        let mut other = program("bash", "true");
        other["sessionId"] = json!("b");
        let error = gateway.post("/execute", &other).error(409);
        assert!(error.contains("Cannot switch runtime from \"python\" to \"bash\""), "{error}");

        // One that is in use says so.
        let mut client = gateway.client();
        let mut body = program("bash", "echo ready; sleep 60");
        body["sessionId"] = json!("a-1._Z");
        client.send("POST /execute/stream", &[], body.to_string().as_bytes());
        client.begun().expect("an answer");
        assert_eq!(client.event().expect("an event")["data"], "ready\n");
        let busy = list().into_iter().find(|session| session["id"] == "a-1._Z");
        assert_eq!(busy.expect("it is there")["isActive"], true);
        gateway.ask("DELETE /session/a-1._Z").error(409);
        assert_eq!(gateway.ask("DELETE /session/a-1._Z?force=true").ok(), json!({"ok": true}));
        // Its run ends with a word.
        let last = client.event().expect("an event");
        assert!(last["type"] == "exit" && last["result"]["verdict"] != "exited" || last["type"] == "error", "{last:#}");
        drop(client);
        gateway.ask("DELETE /session/a-1._Z").error(404);
        assert_eq!(gateway.ask("DELETE /session/b").ok(), json!({"ok": true}));
        gateway.ask("DELETE /session/a%20b").error(400);
        gateway.ask("DELETE /session/b?force=maybe").error(400);
        gateway.ask("DELETE /session/b?x=1").error(400);
        assert_eq!(list(), Vec::<Value>::new());
        gateway.until_idle(stage);
    }
}
