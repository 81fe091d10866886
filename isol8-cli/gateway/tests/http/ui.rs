//! The page at `/ui`: open to everybody, so it must hold nothing.

use crate::{
    client::Answer,
    stage::{KEY, Stage},
};

const FILES: [(&str, &str); 3] = [
    ("/ui", "text/html; charset=utf-8"),
    ("/ui/ui.js", "text/javascript; charset=utf-8"),
    ("/ui/ui.css", "text/css; charset=utf-8"),
];

/// Asks without a key.
fn ask(stage: &Stage, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = stage.client();
    client.send(method, path, headers, "");
    client.answer()
}

#[test]
fn the_page_needs_no_key() {
    let stage = Stage::new();
    for (path, kind) in FILES {
        let answer = ask(&stage, "GET", path, &[]);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        assert!(!answer.text().contains(KEY), "{path}");
        // Keys that are wrong change nothing: nobody looks at them.
        assert_eq!(stage.ask_as("wrong", "GET", path, "").status, 200, "{path}");
    }
    assert!(stage.world.notes().is_empty(), "nothing went to the daemon");
}

#[test]
fn a_browser_is_told_to_trust_nothing_else() {
    let stage = Stage::new();
    for (path, _) in FILES {
        let answer = ask(&stage, "GET", path, &[]);
        let policy = answer.header("content-security-policy").expect("a policy");
        let rules: Vec<_> = policy.split("; ").collect();
        assert_eq!(
            rules,
            [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "connect-src 'self'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            ]
        );
        for (name, value) in [
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-embedder-policy", "require-corp"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
}

/// The policy would keep these from working, and the page would be broken.
#[test]
fn the_page_has_its_script_and_style_in_files() {
    let stage = Stage::new();
    let page = ask(&stage, "GET", "/ui", &[]);
    let page = page.text();
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains(r#"<script type="module" src="ui/ui.js"></script>"#));
    assert!(page.contains(r#"<link rel="stylesheet" href="ui/ui.css">"#));
    assert!(!page.contains("<style") && !page.contains("style="));
    assert!(!page.contains("onclick") && !page.contains("onload"));
    let script = ask(&stage, "GET", "/ui/ui.js", &[]);
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
    ] {
        assert!(!script.text().contains(sink), "{sink}");
    }
}

#[test]
fn nothing_else_is_below_it() {
    let stage = Stage::new();
    for path in [
        "/ui/x",
        "/ui/index.html",
        "/ui/output.js",
        "/ui//",
        "/ui/ui.js/",
        "/ui/../sessions",
        "/ui/..%2fsessions",
        "/ui/%2e%2e/sessions",
        "/ui/../../../../etc/passwd",
        "/ui//etc/passwd",
        "/ui/sessions",
        "/ui/metrics",
    ] {
        let answer = ask(&stage, "GET", path, &[]);
        assert_eq!(answer.error(404), "there is no such path", "{path}");
    }
    // These are no paths of the page: whoever has no key does not hear more.
    for path in ["/uix", "/UI", "//ui", "/ui.js", "/%75i", "/x/ui", "/"] {
        assert_eq!(ask(&stage, "GET", path, &[]).status, 401, "{path}");
    }
}

#[test]
fn only_reading_it_is_known() {
    let stage = Stage::new();
    for (path, kind) in FILES {
        let whole = ask(&stage, "GET", path, &[]);
        let mut client = stage.client();
        client.send("HEAD", path, &[], "");
        let (status, headers) = client.head().expect("an answer");
        let header = |name: &str| {
            let found = headers.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!(status, 200, "{path}");
        assert_eq!(header("content-type"), kind, "{path}");
        assert_eq!(header("content-length"), whole.body.len().to_string());
        // No body came: what is next is the head of the next answer.
        client.send("GET", "/health", &[], "");
        assert_eq!(client.answer().status, 200, "{path}");
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(
                ask(&stage, method, path, &[]).status,
                405,
                "{method} {path}"
            );
        }
    }
    let answer = ask(&stage, "GET", "/ui/", &[]);
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("../ui"));
}

#[test]
fn other_names_and_other_pages_do_not_get_it() {
    let stage = Stage::new();
    for (path, _) in FILES {
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1"] {
            let answer = ask(&stage, "GET", path, &[("Host", host)]);
            assert_eq!(answer.status, 403, "{host} {path}");
        }
        for origin in ["null", "http://evil.example"] {
            let answer = ask(&stage, "GET", path, &[("Origin", origin)]);
            assert_eq!(answer.status, 403, "{origin} {path}");
        }
    }
}

/// What the page sends has an `Origin`: by whatever name it was reached, its own
/// requests pass, and those of every other page do not.
#[test]
fn requests_of_the_page_pass_under_every_name_of_the_gateway() {
    let stage = Stage::new();
    let key = format!("Bearer {KEY}");
    let port = stage.address.port();
    let names = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        "localhost".to_owned(),
        "gateway.example".to_owned(),
        "gateway.example:8443".to_owned(),
    ];
    for (index, host) in names.iter().enumerate() {
        assert_eq!(ask(&stage, "GET", "/ui", &[("Host", host)]).status, 200);
        let delete = |origin: &str| {
            let mut client = stage.client();
            let headers = [
                ("Host", host.as_str()),
                ("Origin", origin),
                ("Authorization", &key),
            ];
            client.send("DELETE", "/session/none", &headers, "");
            client.answer().status
        };
        for scheme in ["http", "https"] {
            assert_eq!(delete(&format!("{scheme}://{host}")), 404, "{host}");
        }
        let other = &names[(index + 1) % names.len()];
        assert_eq!(delete(&format!("http://{other}")), 403, "{host} {other}");
    }
}
