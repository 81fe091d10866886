//! `/health`, `/cleanup`, `/metrics` and `/openapi.json`, and what all answers have.

use std::collections::{BTreeMap, BTreeSet};

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    stage::{Engine, Stage},
};
use serde_json::{Value, json};

/// Reads Prometheus text as strictly as its own parser: every sample has a family
/// with a type and a help before it, in one piece; names, labels and values have
/// their grammar; no sample comes twice. Gives the samples.
#[track_caller]
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut types, mut helps) = (BTreeMap::new(), BTreeSet::new());
    let (mut order, mut found) = (Vec::<String>::new(), BTreeMap::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next(), words.next().expect("a name"));
            let rest = words.next().expect("something to say");
            match kind {
                Some("HELP") => assert!(helps.insert(name.to_owned()), "{line}: twice"),
                Some("TYPE") => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    let twice = types.insert(name.to_owned(), rest.to_owned());
                    assert!(twice.is_none(), "{line}: twice");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = sample
            .split_once('{')
            .map_or((sample, None), |(name, rest)| {
                (
                    name,
                    Some(rest.strip_suffix('}').expect("the end of labels")),
                )
            });
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(
            name.starts_with("isol8_") && name.chars().all(plain),
            "{line}"
        );
        check_labels(labels.unwrap_or_default(), line);
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let family = name.strip_suffix(end)?;
            (types.get(family)? == "histogram").then_some(family)
        });
        let family = family.unwrap_or(name);
        let kind = types
            .get(family)
            .unwrap_or_else(|| panic!("{line}: no type"));
        assert!(helps.contains(family), "{line}: no help");
        assert!(kind != "counter" || family.ends_with("_total"), "{line}");
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        if order.last().is_none_or(|last| last != family) {
            assert!(
                !order.iter().any(|other| other == family),
                "{line}: torn apart"
            );
            order.push(family.to_owned());
        }
        assert!(
            found.insert(sample.to_owned(), value).is_none(),
            "{line}: twice"
        );
    }
    found
}

#[track_caller]
fn check_labels(labels: &str, line: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("a label");
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
            "{line}"
        );
        let mut escaped = false;
        let end = after.find(|c| match (escaped, c) {
            (false, '"') => true,
            (was, c) => {
                escaped = !was && c == '\\';
                false
            }
        });
        rest = &after[end.expect("the end of a label") + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

both_engines! {
    fn metrics_are_prometheus_text(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        samples(&gateway.ask("GET /metrics").text());
        gateway.run("bash", "exit 3", json!({}));
        gateway.run("bash", "sleep 60", json!({"timeoutMs": 1000}));
        let mut body = program("bash", "true");
        body["sessionId"] = json!("work");
        gateway.post("/execute", &body).ok();
        gateway.post("/execute", &json!({})).error(400);
        gateway.ask("GET /no%22%0awhere").error(404);
        let mut client = gateway.client();
        client.send("BREW /execute", &[], b"");
        client.answer().error(405);
        drop(client);
        let answer = gateway.ask("GET /metrics");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
        let found = samples(&answer.text());
        let engine = stage.engine().name();
        for (name, value) in [
            (r#"isol8_http_requests_total{route="/execute",method="POST",status="200"}"#.to_owned(), 3.0),
            (r#"isol8_http_requests_total{route="/execute",method="POST",status="400"}"#.to_owned(), 1.0),
            (r#"isol8_http_requests_total{route="/execute",method="other",status="405"}"#.to_owned(), 1.0),
            (r#"isol8_http_requests_total{route="other",method="GET",status="404"}"#.to_owned(), 1.0),
            (r#"isol8_http_runs_total{verdict="exited"}"#.to_owned(), 2.0),
            (r#"isol8_http_runs_total{verdict="timed_out"}"#.to_owned(), 1.0),
            ("isol8_http_runs_in_flight".to_owned(), 0.0),
            ("isol8_daemon_up".to_owned(), 1.0),
            ("isol8_daemon_sessions".to_owned(), 1.0),
            ("isol8_daemon_runs_total".to_owned(), 3.0),
            (format!(r#"isol8_daemon_engine_healthy{{engine="{engine}"}}"#), 1.0),
        ] {
            assert_eq!(found.get(&name).map(|value| value.to_bits()), Some(f64::to_bits(value)), "{name} in {found:#?}");
        }
        assert!(found["isol8_daemon_resident_bytes"] > 1e6, "{found:#?}");
        // What is counted as waiting for a while is in the bucket of a while.
        let bucket = |le: &str| found[&format!(r#"isol8_http_request_duration_seconds_bucket{{route="/execute",le="{le}"}}"#)];
        assert_eq!(bucket("+Inf").to_bits(), 5.0_f64.to_bits());
        assert!(bucket("0.005") <= bucket("1") && bucket("1") <= bucket("5"), "{found:#?}");
        gateway.ask("DELETE /session/work").ok();
        gateway.until_idle(stage);
    }

    fn cleanup_counts_what_it_removes(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        gateway.run("bash", "true", json!({"persist": true}));
        let counts = gateway.post("/cleanup", &json!({"images": false})).ok();
        assert_eq!(counts.as_object().map(serde_json::Map::len), Some(2), "{counts}");
        assert_eq!(counts["failed"], 0);
        assert!(counts["removed"].as_u64().is_some_and(|count| count >= 1), "{counts}");
        for body in [r#"{"images":1}"#, r#"{"all":true}"#, "[]", "x"] {
            gateway.post_text("/cleanup", body).error(400);
        }
        // A session in use stays, one that nobody uses does not.
        let mut client = gateway.client();
        for (session, code) in [("idle", "true"), ("busy", "echo ready; sleep 60")] {
            let mut body = program("bash", code);
            body["sessionId"] = json!(session);
            client.send("POST /execute/stream", &[], body.to_string().as_bytes());
            client.begun().expect("an answer");
            while client.event().is_some_and(|event| event["data"] != "ready\n") {}
        }
        let ids = || {
            let list = gateway.ask("GET /sessions").ok();
            let list = list["sessions"].as_array().expect("a list").iter();
            list.map(|session| session["id"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids().len(), 2);
        assert_eq!(gateway.post_text("/cleanup", "").ok()["failed"], 0);
        assert_eq!(ids(), ["busy"]);
        gateway.ask("DELETE /session/busy?force=true").ok();
        drop(client);
        gateway.until_idle(stage);
    }
}

#[test]
fn every_answer_has_its_marks() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        let health = gateway.ask("GET /health");
        let told = health.ok();
        assert_eq!(told["status"], "ok");
        let version = stage.isol8(["--version"]).go().ok();
        assert_eq!(
            version.trim(),
            format!("isol8 {}", told["version"].as_str().expect("text"))
        );
        let mut stranger = gateway.stranger();
        stranger.send("GET /nowhere", &[], b"");
        for (answer, status) in [
            (health, 200),
            (gateway.ask("GET /nowhere"), 404),
            (gateway.ask("PUT /execute"), 405),
            (gateway.post("/execute", &json!(1)), 400),
            (stranger.answer(), 401),
        ] {
            assert_eq!(answer.status, status, "{}", answer.shown());
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("access-control-allow-origin"), None);
            assert_eq!(answer.header("server"), None);
            assert_eq!(answer.header("x-request-id").map(str::len), Some(16));
        }
        // The client's own id, where it is one, in the answer and in the log.
        let mut client = gateway.client();
        client.send("GET /sessions", &[("X-Request-Id", "mine-4711")], b"");
        assert_eq!(client.answer().header("x-request-id"), Some("mine-4711"));
        assert!(gateway.log().contains("mine-4711"), "{}", gateway.log());
        client.send("GET /sessions", &[("X-Request-Id", "<not one>")], b"");
        assert_eq!(
            client.answer().header("x-request-id").map(str::len),
            Some(16)
        );
        gateway.stop();
    });
}

/// Every path and method of the contract, each with its answers; a schema for
/// every field of a request.
#[test]
fn the_document_describes_all_of_it() {
    Stage::with(Engine::Native, |stage| {
        let gateway = Gateway::start(stage);
        let document = gateway.ask("GET /openapi.json").ok();
        assert_eq!(document["openapi"], "3.1.0");
        let mut paths = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                paths.insert(format!("{} {path}", method.to_uppercase()));
                let answers = operation["responses"].as_object().expect("answers");
                let success = ["200", "101"]
                    .iter()
                    .any(|status| answers.contains_key(*status));
                assert!(success && answers.len() > 1, "{path}: {answers:?}");
            }
        }
        let wanted = [
            "DELETE /session/{id}",
            "GET /execute/ws",
            "GET /file",
            "GET /health",
            "GET /metrics",
            "GET /openapi.json",
            "GET /sessions",
            "POST /cleanup",
            "POST /execute",
            "POST /execute/stream",
            "POST /file",
        ];
        for path in wanted {
            assert!(paths.contains(path), "{path} in {paths:?}");
        }
        let fields = |schema: &str| -> BTreeSet<String> {
            let found = &document["components"]["schemas"][schema]["properties"];
            found.as_object().expect("fields").keys().cloned().collect()
        };
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(
            fields("Program"),
            set(&[
                "code",
                "runtime",
                "timeoutMs",
                "env",
                "fileExtension",
                "stdin",
                "files",
                "outputPaths",
                "installPackages",
                "metadata",
            ])
        );
        assert_eq!(
            fields("Options"),
            set(&[
                "network",
                "networkFilter",
                "cpuLimit",
                "memoryLimit",
                "pidsLimit",
                "readonlyRootFs",
                "maxOutputSize",
                "secrets",
                "timeoutMs",
                "image",
                "sandboxSize",
                "tmpSize",
                "persist",
                "logNetwork",
            ])
        );
        let result = fields("ExecutionResult");
        let whole: Value = gateway.run("bash", "printf '\\377'", json!({}));
        for field in whole.as_object().expect("fields").keys() {
            assert!(result.contains(field), "{field}");
        }
        gateway.until_idle(stage);
        gateway.stop();
    });
}
