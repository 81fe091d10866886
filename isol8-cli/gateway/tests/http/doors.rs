//! Who may come in.

use crate::stage::{KEY, Stage};

const PATHS: [(&str, &str); 11] = [
    ("GET", "/execute/ws"),
    ("POST", "/execute"),
    ("POST", "/execute/stream"),
    ("POST", "/file"),
    ("GET", "/file"),
    ("GET", "/sessions"),
    ("DELETE", "/session/x"),
    ("POST", "/cleanup"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
];

#[test]
fn health_is_open_to_all() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.send("GET", "/health", &[], "");
    let answer = client.answer();
    assert_eq!(answer.text(), r#"{"status":"ok","version":"1.2.3"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn every_other_path_needs_a_key() {
    let stage = Stage::new();
    for (method, path) in PATHS {
        let mut client = stage.client();
        client.send(method, path, &[], "");
        let answer = client.answer();
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(
            answer.text(),
            r#"{"error":"Missing Authorization header"}"#,
            "{path}"
        );
        let answer = stage.ask_as("wrong", method, path, "");
        assert_eq!(answer.status, 403, "{path}");
        assert_eq!(answer.text(), r#"{"error":"Invalid API key"}"#, "{path}");
    }
    assert!(stage.world.notes().is_empty(), "nothing went to the daemon");
}

#[test]
fn a_key_is_taken_as_a_whole() {
    let stage = Stage::new();
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer the-ke",
        "Bearer the-keyy",
        "the-key",
        "Basic the-key",
    ] {
        let mut client = stage.client();
        client.send("GET", "/sessions", &[("Authorization", wrong)], "");
        assert_eq!(client.answer().status, 403, "{wrong:?}");
    }
    for right in ["Bearer the-key", "bearer the-key"] {
        let mut client = stage.client();
        client.send("GET", "/sessions", &[("Authorization", right)], "");
        assert_eq!(client.answer().status, 200, "{right:?}");
    }
}

/// What a proxy before us let through, and what we look at, must be one key.
#[test]
fn a_key_that_comes_twice_or_in_another_place_is_none() {
    let stage = Stage::new();
    let ask = |path: &str, lines: &[u8]| {
        let mut client = stage.client();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
        client.write(&[head.as_bytes(), lines, b"\r\n"].concat());
        let answer = client.answer();
        (answer.status, answer.text().to_owned())
    };
    let right = format!("Authorization: Bearer {KEY}\r\n");
    let other = "Authorization: Bearer wrong\r\n";
    assert_eq!(ask("/sessions", right.as_bytes()).0, 200);
    let invalid = (403, r#"{"error":"Invalid API key"}"#.to_owned());
    for lines in [
        right.repeat(2),
        format!("{right}{other}"),
        format!("{other}{right}"),
        format!("{right}Authorization: \r\n"),
        format!("Authorization: Bearer {KEY}, Bearer {KEY}\r\n"),
        format!("Authorization: Bearer Bearer {KEY}\r\n"),
        format!("Authorization: Bearer\t{KEY}\r\n"),
        format!("Authorization: {KEY} Bearer\r\n"),
        format!("Authorization: Bearer {KEY}\u{e9}\r\n"),
    ] {
        assert_eq!(ask("/sessions", lines.as_bytes()), invalid, "{lines}");
    }
    let raw = [b"Authorization: Bearer ", KEY.as_bytes(), b"\xff\r\n"].concat();
    assert_eq!(ask("/sessions", &raw), invalid);
    // No key is taken from anywhere else.
    let missing = (
        401,
        r#"{"error":"Missing Authorization header"}"#.to_owned(),
    );
    for path in [
        format!("/sessions?key={KEY}"),
        format!("/sessions?access_token={KEY}"),
        format!("/execute/ws?Authorization=Bearer%20{KEY}"),
        format!("http://user:{KEY}@localhost/sessions"),
    ] {
        let answer = ask(&path, b"");
        assert!(
            answer == missing || answer.0 == 403 || answer.0 == 400,
            "{path}: {answer:?}"
        );
    }
    for lines in [
        format!("Cookie: key={KEY}\r\n"),
        format!("X-API-Key: {KEY}\r\n"),
        format!("Proxy-Authorization: Bearer {KEY}\r\n"),
        format!("Sec-WebSocket-Protocol: {KEY}\r\n"),
    ] {
        assert_eq!(ask("/sessions", lines.as_bytes()), missing, "{lines}");
    }
}

#[test]
fn what_is_not_there_is_said_only_to_who_has_a_key() {
    let stage = Stage::new();
    assert_eq!(
        stage.ask("GET", "/nothing", "").error(404),
        "there is no such path"
    );
    assert_eq!(stage.ask("GET", "/execute", "").status, 405);
    assert_eq!(stage.ask("DELETE", "/health", "").status, 405);
}

#[test]
fn a_web_page_cannot_drive_the_gateway() {
    let stage = Stage::new();
    let port = stage.address.port();
    let key = format!("Bearer {KEY}");
    let status = |path: &str, host: &str, origin: Option<&str>| {
        let mut headers = vec![("Host", host), ("Authorization", key.as_str())];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let mut client = stage.client();
        client.send("GET", path, &headers, "");
        client.answer().status
    };
    let own = format!("127.0.0.1:{port}");
    for host in [
        &own,
        "localhost",
        "LOCALHOST:9",
        "[::1]:3000",
        "gateway.example",
        "127.0.0.1",
    ] {
        assert_eq!(status("/sessions", host, None), 200, "{host}");
    }
    // Rebound names, and addresses at which this gateway does not listen.
    for host in [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "[fe80::1]",
        "gateway.example.",
    ] {
        assert_eq!(status("/sessions", host, None), 403, "{host}");
        assert_eq!(status("/health", host, None), 403, "{host}");
    }
    for host in ["", "a b", "a@b/", "a@localhost"] {
        assert_ne!(status("/sessions", host, None), 200, "{host}");
    }
    let origin = format!("http://{own}");
    assert_eq!(status("/sessions", &own, Some(&origin)), 200);
    assert_eq!(
        status(
            "/sessions",
            "gateway.example",
            Some("https://gateway.example")
        ),
        200
    );
    for other in [
        "null",
        "http://evil.example",
        "http://127.0.0.1",
        "https://localhost",
        "file://",
        "",
    ] {
        assert_eq!(status("/sessions", &own, Some(other)), 403, "{other}");
        assert_eq!(status("/health", &own, Some(other)), 403, "{other}");
    }
}

#[test]
fn the_target_and_the_host_name_one_gateway() {
    let stage = Stage::new();
    let ask = |raw: &str| {
        let mut client = stage.client();
        client.write(raw.as_bytes());
        client.answer().status
    };
    let key = format!("Authorization: Bearer {KEY}\r\n");
    assert_eq!(
        ask(&format!("GET /health HTTP/1.1\r\n{key}\r\n")),
        400,
        "no host"
    );
    let twice = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n{key}\r\n");
    assert_eq!(ask(&twice), 400);
    let other = format!("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n{key}\r\n");
    assert_eq!(ask(&other), 403);
    let same = format!("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n{key}\r\n");
    assert_eq!(ask(&same), 200);
}

#[test]
fn every_answer_has_an_id() {
    let stage = Stage::new();
    let id = |given: &[(&str, &str)]| {
        let mut client = stage.client();
        client.send("GET", "/sessions", given, "");
        let answer = client.answer();
        assert_eq!(answer.status, 401);
        answer.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(id(&[("X-Request-Id", "mine-1.2_3")]), "mine-1.2_3");
    assert_ne!(id(&[]), id(&[]));
    let long = "x".repeat(65);
    for bad in ["", "a b", "a\"b", &long] {
        let id = id(&[("X-Request-Id", bad)]);
        assert!(
            id.len() == 16 && id.chars().all(|c| c.is_ascii_hexdigit()),
            "{id}"
        );
    }
}
