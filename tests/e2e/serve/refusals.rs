//! What is refused before anything runs: who has no key, and what makes no sense.

use std::thread;

use isol8_e2e::harness::{
    gateway::{Gateway, KEY},
    stage::{Engine, Stage},
};
use serde_json::{Value, json};

/// Requests that need a key.
const DOORS: [&str; 10] = [
    "POST /execute",
    "POST /execute/stream",
    "GET /execute/ws",
    "POST /file",
    "GET /file?sessionId=a&path=b",
    "GET /sessions",
    "DELETE /session/a",
    "POST /cleanup",
    "GET /metrics",
    "GET /openapi.json",
];

/// Without a key and with each wrong one, the same words everywhere, also where
/// there is no such path.
#[test]
fn every_door_needs_the_key() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        let said = |what: &str, headers: &[(&str, &str)]| {
            let mut client = gateway.stranger();
            client.send(what, headers, b"");
            let answer = client.answer();
            (answer.status, answer.text())
        };
        let missing = (
            401,
            r#"{"error":"Missing Authorization header"}"#.to_owned(),
        );
        let invalid = (403, r#"{"error":"Invalid API key"}"#.to_owned());
        let longer = format!("Bearer {KEY}x");
        let shorter = format!("Bearer {}", &KEY[..KEY.len() - 1]);
        let upper = format!("Bearer {}", KEY.to_uppercase());
        let basic = format!("Basic {KEY}");
        let twice = format!("Bearer {KEY}, Bearer {KEY}");
        let wrong = [
            "",
            "Bearer",
            "Bearer ",
            KEY,
            &longer,
            &shorter,
            &upper,
            &basic,
            &twice,
            "Bearer \u{fc}",
        ];
        for what in DOORS
            .into_iter()
            .chain(["GET /nowhere", "PUT /execute", "GET /%00"])
        {
            assert_eq!(said(what, &[]), missing, "{what}");
            for key in wrong {
                assert_eq!(
                    said(what, &[("Authorization", key)]),
                    invalid,
                    "{what} {key}"
                );
            }
        }
        // A key in the address is none.
        assert_eq!(
            said(&format!("GET /sessions?key={KEY}&access_token={KEY}"), &[]),
            missing
        );
        // Which of two is meant nobody can say.
        let right = format!("Bearer {KEY}");
        let both = [
            ("Authorization", right.as_str()),
            ("Authorization", "Bearer other"),
        ];
        assert_eq!(said("GET /sessions", &both).0, 403);
        let both = [
            ("Authorization", "Bearer other"),
            ("Authorization", right.as_str()),
        ];
        assert_eq!(said("GET /sessions", &both).0, 403);
        // The scheme's name has no case.
        let lower = format!("bearer {KEY}");
        assert_eq!(said("GET /sessions", &[("Authorization", &lower)]).0, 200);
        assert_eq!(said("GET /health", &[]).0, 200);
        assert_eq!(
            said("GET /health", &[("Authorization", "Bearer other")]).0,
            200
        );
        gateway.stop();
    });
}

/// What a field may not be, with the path that the message must name.
fn fields() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let mut request = |field, values: &[Value]| {
        all.extend(values.iter().map(|value| (field, value.clone())));
    };
    request("request.code", &[json!(1), json!(null), json!(["x"])]);
    request(
        "request.runtime",
        &[json!("perl"), json!(""), json!(1), json!("Python")],
    );
    request(
        "request.timeoutMs",
        &[
            json!(0),
            json!(-1),
            json!("1"),
            json!(1.5),
            json!(u64::MAX),
            json!(2_592_000_001_u64),
        ],
    );
    request(
        "request.env",
        &[
            json!([]),
            json!({"A": 1}),
            json!({"A=B": "x"}),
            json!({"": "x"}),
            json!({"A": "x\0y"}),
        ],
    );
    request(
        "request.fileExtension",
        &[
            json!("../x"),
            json!("a/b"),
            json!("PY"),
            json!(1),
            json!("012345678"),
        ],
    );
    request("request.stdin", &[json!(1), json!(["x"])]);
    request(
        "request.files",
        &[
            json!(["a"]),
            json!({"a": 1}),
            json!({"a": {"base64": "!"}}),
            json!({"a": {"hex": ""}}),
            json!({"": "x"}),
            json!({"/etc/passwd": "x"}),
            json!({"../a": "x"}),
            json!({"a/../../b": "x"}),
            json!({"a\0b": "x"}),
        ],
    );
    request(
        "request.outputPaths",
        &[
            json!("a"),
            json!([1]),
            json!(["/etc/passwd"]),
            json!([".."]),
            json!([""]),
        ],
    );
    request("request.installPackages", &[json!("a"), json!([1])]);
    request("request.metadata", &[json!("a"), json!([])]);
    request("request.other", &[json!(1)]);
    request("options.network", &[json!("full"), json!(""), json!(1)]);
    request(
        "options.networkFilter",
        &[
            json!([]),
            json!({"whitelist": "a"}),
            json!({"other": []}),
            json!({}),
        ],
    );
    request(
        "options.cpuLimit",
        &[json!(0), json!(-1), json!("1"), json!(1e9)],
    );
    request(
        "options.memoryLimit",
        &[
            json!(512),
            json!("much"),
            json!("-1"),
            json!(""),
            json!("1"),
            json!("99999999999t"),
        ],
    );
    request(
        "options.pidsLimit",
        &[json!(0), json!(-1), json!(1e12), json!("1")],
    );
    request("options.readonlyRootFs", &[json!("true"), json!(1)]);
    request(
        "options.maxOutputSize",
        &[json!(0), json!(-1), json!(u64::MAX), json!("1k")],
    );
    request(
        "options.secrets",
        &[json!([]), json!({"A": 1}), json!({"A=B": "x"})],
    );
    request("options.timeoutMs", &[json!(0), json!("1")]);
    request("options.image", &[json!(1)]);
    request(
        "options.sandboxSize",
        &[json!(1), json!("0"), json!("much")],
    );
    request("options.tmpSize", &[json!(1), json!("0"), json!("much")]);
    request("options.persist", &[json!("yes"), json!(null)]);
    request("options.logNetwork", &[json!("yes"), json!(true)]);
    request("options.other", &[json!(1)]);
    request(
        "sessionId",
        &[
            json!(""),
            json!("a/b"),
            json!("a b"),
            json!(1),
            json!("x".repeat(47)),
            json!("\u{fc}"),
        ],
    );
    request("other", &[json!(1)]);
    all
}

/// The last part of a path, without its index: what the daemon may call it too.
fn names(error: &str, field: &str) -> bool {
    let last = field.rsplit('.').next().unwrap_or(field);
    error.contains(field) || error.to_lowercase().contains(&last.to_lowercase())
}

/// A wrong value is a 400 that names its field, on both ways to run.
#[test]
fn a_wrong_field_is_named() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        thread::scope(|scope| {
            for path in ["/execute", "/execute/stream"] {
                let gateway = &gateway;
                scope.spawn(move || {
                    for (field, value) in fields() {
                        let mut body = json!({"request": {"code": "true", "runtime": "bash"}});
                        let mut place = &mut body;
                        for name in field.split('.') {
                            place = &mut place[name];
                        }
                        *place = value.clone();
                        let error = gateway.post(path, &body).error(400);
                        assert!(names(&error, field), "{path} {field} {value}: {error}");
                    }
                });
            }
        });
        for body in [
            "",
            "{",
            "[]",
            "null",
            "1",
            "\"x\"",
            "{}",
            r#"{"request":{}}"#,
            r#"{"request":{"code":""}}"#,
            r#"{"request":{"runtime":"bash"}}"#,
            r#"{"request":{"code":"","runtime":"bash"}} x"#,
            r#"{"request":{"code":"","runtime":"bash"}}{}"#,
            r#"{"request":{"code":"","runtime":"bash",}}"#,
            r#"{"request":{"code":"","runtime":"bash"},"request":{"code":"","runtime":"bash"}}"#,
            r#"{"request":{"code":"","code":"","runtime":"bash"}}"#,
        ] {
            assert_ne!(gateway.post_text("/execute", body).error(400), "", "{body}");
        }
        // What the daemon alone can judge is a 400 as well.
        for (more, word) in [
            (
                json!({"installPackages": ["--index-url=http://x"]}),
                "--index-url",
            ),
            (json!({"installPackages": ["a; id"]}), "a; id"),
        ] {
            let mut body = json!({"request": {"code": "", "runtime": "python"}});
            body["request"]["installPackages"] = more["installPackages"].clone();
            let error = gateway.post("/execute", &body).error(400);
            assert!(error.contains(word), "{error}");
        }
        let body = json!({
            "request": {"code": "", "runtime": "bash"},
            "options": {"network": "filtered", "networkFilter": {"whitelist": ["("]}},
        });
        assert!(gateway.post("/execute", &body).error(400).contains('('));
        assert_eq!(
            gateway.metric("isol8_daemon_runs_total").to_bits(),
            0.0_f64.to_bits(),
            "nothing ran"
        );
        gateway.until_idle(stage);
        gateway.stop();
    });
}
