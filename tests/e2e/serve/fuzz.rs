//! A fuzzer that reads `/openapi.json` and believes it: schemathesis sends what the
//! document allows and what it does not, and holds every answer against it. What it
//! checks, and what it is told beforehand, stands in `tests/schemathesis`.

use std::{panic::resume_unwind, path::Path, process::Command, thread};

use isol8_e2e::harness::{
    call::Call,
    gateway::{Gateway, KEY},
    internet::Internet,
    stage::{Engine, Stage},
};
use serde_json::json;

/// Programs are what a fuzzer made of letters; they end soon, and so must those
/// that do not.
const MAX_TIMEOUT_MS: u64 = 500;

/// Repeats a run; so does `ISOL8_SEED`.
const SEED: &str = "20";

fn fuzz(gateway: &Gateway, document: &str, folder: &Path) -> Call {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = tests.join("../target/schemathesis/bin/schemathesis");
    assert!(
        program.exists(),
        "schemathesis is missing: run .ci/need-schemathesis, or `make test`"
    );
    let config = tests.join("schemathesis/schemathesis.toml");
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("PYTHONPATH", tests.join("schemathesis"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks");
    let header = format!("Authorization: Bearer {KEY}");
    let seed = std::env::var("ISOL8_SEED").unwrap_or_else(|_| SEED.to_owned());
    Call::new(command)
        .args(["--config-file".as_ref(), config.as_os_str()])
        .args(["run", document, "--seed", &seed, "--header", &header])
        .args(["--url", &format!("http://{}", gateway.address())])
}

/// In an internet of its own: no name that the fuzzer invents is asked for in the
/// real one.
#[test]
fn the_document_holds_against_a_fuzzer() {
    thread::scope(|scope| {
        let test = || {
            let internet = Internet::enter();
            let mut config = internet.config(&json!({}));
            config["policy"] = json!({"maxTimeoutMs": MAX_TIMEOUT_MS, "maxMemory": "64m"});
            Stage::with_config(Engine::Native, config, |stage| {
                let gateway = Gateway::start(stage);
                let document = gateway.ask("GET /openapi.json").text();
                let path = stage.file("openapi.json", &document);
                let ran = fuzz(&gateway, path.to_str().expect("text"), stage.folder()).go();
                assert!(ran.code() == 0, "{}", ran.out());
                // It has seen something: a document that is not right fails.
                let mut wrong = gateway.ask("GET /openapi.json").ok();
                wrong["components"]["schemas"]["Health"]["properties"]["version"]["type"] =
                    json!("integer");
                let path = stage.file("wrong.json", wrong.to_string());
                let only = ["--include-path", "/health", "--max-examples", "2"];
                let failed = fuzz(&gateway, path.to_str().expect("text"), stage.folder())
                    .args(only)
                    .go();
                assert!(
                    failed.ended(1).out().contains("is not of type \"integer\""),
                    "{}",
                    failed.out()
                );

                // It has done something: every path but one, some hundreds of cases.
                let said = ran.out();
                let cases = said
                    .lines()
                    .find_map(|line| line.trim().split_once(" generated, "));
                let cases = cases.and_then(|(count, _)| count.parse().ok());
                assert!(cases.is_some_and(|cases: u32| cases > 500), "{said}");
                // Whatever it has left: sessions of ids that it invented.
                let list = gateway.ask("GET /sessions").ok();
                for session in list["sessions"].as_array().expect("a list") {
                    let id = session["id"].as_str().expect("an id");
                    gateway
                        .ask(&format!("DELETE /session/{id}?force=true"))
                        .ok();
                }
                gateway.post("/cleanup", &json!({})).ok();
                gateway.until_idle(stage);
                let log = gateway.log();
                assert!(
                    !log.contains("panicked") && !log.contains("status=500"),
                    "{log}"
                );
                gateway.stop();
            });
        };
        if let Err(panic) = scope.spawn(test).join() {
            resume_unwind(panic);
        }
    });
}
