//! What tells of the gateway itself.

use crate::stage::Stage;

#[test]
fn metrics_tell_of_gateway_and_daemon() {
    let stage = Stage::new();
    stage.execute("exit 1").ok();
    stage.execute("fail internal");
    stage.ask("GET", "/nothing/at/all", "");
    let answer = stage.ask("GET", "/metrics", "");
    assert!(
        answer
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain"))
    );
    let text = answer.text();
    for expected in [
        r#"isol8_http_requests_total{route="/execute",method="POST",status="200"} 1"#,
        r#"isol8_http_requests_total{route="/execute",method="POST",status="502"} 1"#,
        r#"isol8_http_requests_total{route="other",method="GET",status="404"} 1"#,
        r#"isol8_http_runs_total{verdict="exited"} 1"#,
        r#"isol8_http_runs_total{verdict="failed"} 1"#,
        "isol8_http_runs_in_flight 0",
        // One came to a verdict.
        r#"isol8_http_run_duration_seconds_bucket{le="+Inf"} 1"#,
        "isol8_http_run_duration_seconds_count 1",
        "isol8_daemon_up 1",
        "isol8_daemon_runs_in_flight 3",
        "isol8_daemon_runs_total 17",
        r#"isol8_daemon_engine_healthy{engine="native"} 1"#,
        r#"isol8_daemon_pool_warm{engine="native",runtime="python",key="512m"} 2"#,
        r#"isol8_daemon_pool_target{engine="native",runtime="python",key="512m"} 0"#,
        r#"isol8_daemon_pool_making{engine="native",runtime="python",key="512m"} 0"#,
        r#"isol8_daemon_pool_hits_total{engine="native",runtime="python",key="512m"} 9"#,
    ] {
        assert!(
            text.lines().any(|line| line == expected),
            "{expected} is not in\n{text}"
        );
    }
    // A family is described once, before its values.
    let mut families: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let all = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all);
}

/// What the document has is there, with these methods.
#[test]
fn the_document_describes_what_is_answered() {
    let stage = Stage::new();
    let document = stage.ask("GET", "/openapi.json", "").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let mut seen = Vec::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let method = method.to_ascii_uppercase();
            let answer = stage.ask(&method, &path.replace("{id}", "none"), "");
            assert_ne!(answer.status, 405, "{method} {path}");
            let status = answer.status.to_string();
            assert!(
                operation["responses"][&status].is_object(),
                "{method} {path} {status}"
            );
            if answer.status == 404 {
                assert_ne!(answer.error(404), "there is no such path");
            }
            seen.push(format!("{method} {path}"));
        }
    }
    assert_eq!(
        seen,
        [
            "POST /cleanup",
            "POST /execute",
            "POST /execute/stream",
            "GET /execute/ws",
            "GET /file",
            "POST /file",
            "GET /health",
            "GET /metrics",
            "GET /openapi.json",
            "DELETE /session/{id}",
            "GET /sessions",
        ]
    );
}
