//! What a request is for: the path as it is written, and the host that is meant.

use isol8_e2e::harness::websocket::WebSocket;

use super::shapes::on_native;

#[test]
fn targets_are_taken_as_they_are() {
    on_native(|_, gateway| {
        for (target, status) in [
            ("//health", 404),
            ("/health/", 404),
            ("/HEALTH", 404),
            ("/./health", 404),
            ("/x/../health", 404),
            ("/%68ealth", 404),
            ("/health%00", 404),
            ("/health?x=1", 200),
            ("/session/%2e%2e", 405),
            ("/session/../x", 404),
            ("/session/%2e%2e%2fexecute", 405),
            ("/session/a%2fb", 405),
            ("/session//", 404),
            ("/session", 404),
            ("/execute//stream", 404),
            ("*", 404),
            ("/%", 404),
            ("/%zz", 404),
            ("/%ff", 404),
            ("http://localhost/health", 200),
            ("http://localhost/sessions", 200),
            ("http://evil.example/sessions", 403),
            ("https://evil.example/health", 403),
            ("http://localhost@evil.example/health", 403),
            ("http://user:pass@localhost/health", 403),
        ] {
            let mut client = gateway.client();
            client.send(&format!("GET {target}"), &[], b"");
            assert_eq!(client.answer().status, status, "{target}");
        }
        // Two dots are an id like others, as long as nobody takes them for a way up.
        for (id, status) in [
            ("..", 404),
            ("%2e%2e", 404),
            ("%2e%2e%2fx", 400),
            ("a%2fb", 400),
            ("%00", 400),
            ("%ff", 400),
            ("a%20b", 400),
            (&*"x".repeat(46), 404),
            (&*"x".repeat(47), 400),
        ] {
            let answer = gateway.ask(&format!("DELETE /session/{id}"));
            assert_eq!(answer.status, status, "{id}: {}", answer.shown());
            assert!(
                answer.status == 400 || answer.text().contains("session"),
                "{id}: {}",
                answer.shown()
            );
        }
        for what in [
            "CONNECT localhost:80",
            "OPTIONS *",
            "TRACE /health",
            "BREW /health",
            "HEAD /execute",
        ] {
            let mut client = gateway.client();
            client.send(what, &[], b"");
            let status = client.begun().map_or(400, |answer| answer.status);
            assert!([400, 403, 404, 405].contains(&status), "{what}: {status}");
        }
        let mut client = gateway.client();
        client.send("HEAD /health", &[], b"");
        assert_eq!(client.begun().expect("an answer").status, 200);
    });
}

/// GW08: who is meant, and which page asks.
#[test]
fn other_hosts_and_other_pages_are_refused() {
    on_native(|_, gateway| {
        let port = gateway.address().port();
        let ask = |headers: &[(&str, &str)]| {
            let mut client = gateway.client();
            client.send("GET /sessions", headers, b"");
            let answer = client.answer();
            assert_eq!(answer.header("access-control-allow-origin"), None);
            answer.status
        };
        let (named, addressed) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.0.0.53",
            "[::1]",
            &named,
            &addressed,
        ] {
            assert_eq!(ask(&[("Host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.example:80",
            "localhost.",
            "127.0.0.1.nip.example",
            "10.0.0.1",
            "localhost evil.example",
            "localhost,evil.example",
            "evil.example@localhost",
            "0.0.0.0",
            "[::]",
            "2130706433",
            "127.1",
            "",
        ] {
            let status = ask(&[("Host", host)]);
            assert!([400, 403].contains(&status), "{host}: {status}");
        }
        assert_eq!(ask(&[("Host", "localhost"), ("Host", "localhost")]), 400);
        assert_eq!(
            ask(&[("Host", "localhost"), ("X-Forwarded-Host", "evil.example")]),
            200
        );

        let own = format!("http://{named}");
        assert_eq!(ask(&[("Host", &named), ("Origin", &own)]), 200);
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://localhost.evil.example",
            "http://localhost:1",
            "file://",
            "http://127.0.0.1",
            "chrome-extension://x",
            &format!("http://{named}/"),
            &format!("http://{named}, https://evil.example"),
        ] {
            assert_eq!(
                ask(&[("Host", &named), ("Origin", origin)]),
                403,
                "{origin}"
            );
        }
        // Not before the key: a page learns nothing, and no socket is opened.
        for path in ["/health", "/execute/ws"] {
            let mut client = gateway.client();
            let mut headers = WebSocket::headers().to_vec();
            headers.push(("Origin", "https://evil.example"));
            client.send(&format!("GET {path}"), &headers, b"");
            client.answer().error(403);
        }
        // What a page asks before it asks.
        let mut client = gateway.stranger();
        let preflight = [
            ("Origin", "https://evil.example"),
            ("Access-Control-Request-Method", "POST"),
        ];
        client.send("OPTIONS /execute", &preflight, b"");
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.header("access-control-allow-methods")),
            (403, None)
        );
    });
}
