//! The fields of `request`, one by one.

use std::thread;

use data_encoding::BASE64;
use isol8_e2e::harness::gateway::{Gateway, program};
use serde_json::{Value, json};

use crate::install::registry;

/// A run with more fields of `request`.
#[track_caller]
fn with(gateway: &Gateway, runtime: &str, code: &str, more: Value) -> Value {
    let mut body = program(runtime, code);
    let request = body["request"].as_object_mut().expect("an object");
    request.extend(more.as_object().expect("an object").clone());
    gateway.post("/execute", &body).ok()
}

/// What a program of its runtime says and no other one can.
const RUNTIMES: [(&str, &str); 5] = [
    (
        "python",
        "import sys; print(sys.implementation.name and 6 * 7)",
    ),
    (
        "node",
        "const p = require('path'); console.log(p.join('4', '2').replace('/', ''))",
    ),
    (
        "bun",
        "const n: number = 6; console.log(typeof Bun.version && n * 7)",
    ),
    (
        "deno",
        "const n: number = 6; console.log(typeof Deno.version.deno && n * 7)",
    ),
    ("bash", "echo $((6 * 7))$BASH_NOT_SET"),
];

both_engines! {
    fn every_runtime_runs(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        thread::scope(|scope| {
            for (runtime, code) in RUNTIMES {
                scope.spawn(move || {
                    let result = gateway.run(runtime, code, json!({}));
                    assert_eq!((&result["stdout"], &result["runtime"]), (&json!("42\n"), &json!(runtime)), "{result:#}");
                });
            }
        });
        gateway.until_idle(stage);
    }

    fn the_program_gets_what_the_request_brings(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let env = json!({"env": {"GREETING": "hi ü", "EMPTY": ""}});
        let seen = with(gateway, "python", "import os; print(os.environ['GREETING'], repr(os.environ['EMPTY']), 'ISOL8_API_KEY' in os.environ)", env);
        assert_eq!(seen["stdout"], "hi ü '' False\n", "{seen:#}");

        let upper = "import sys; print(sys.stdin.read().upper())";
        assert_eq!(with(gateway, "python", upper, json!({"stdin": "to the program"}))["stdout"], "TO THE PROGRAM\n");
        assert_eq!(with(gateway, "python", upper, json!({"stdin": ""}))["stdout"], "\n");
        assert_eq!(with(gateway, "python", upper, json!({}))["stdout"], "\n", "no stdin is the end of file");
        let big = "x".repeat(6 << 20);
        let counted = with(gateway, "python", "import sys; print(len(sys.stdin.read()))", json!({"stdin": big}));
        assert_eq!(counted["stdout"], "6291456\n");

        for extension in ["mjs", ".mjs"] {
            let seen = with(gateway, "node", "console.log(import.meta.url)", json!({"fileExtension": extension}));
            assert_eq!(seen["stdout"], "file:///sandbox/main.mjs\n", "{seen:#}");
        }
        let seen = with(gateway, "node", "console.log(typeof require, __filename)", json!({"fileExtension": "cjs"}));
        assert_eq!(seen["stdout"], "function /sandbox/main.cjs\n", "{seen:#}");

        let noted = with(gateway, "bash", "true", json!({"metadata": {"ticket": "T-4711", "deep": [1, {"a": null}]}}));
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains("T-4711"));
        assert!(line.is_some_and(|line| line.contains("request_id")), "{noted:#} {log}");
        assert!(log.contains(noted["executionId"].as_str().expect("an id")), "{log}");

        let late = with(gateway, "bash", "echo begun; sleep 60; echo never", json!({"timeoutMs": 1500}));
        assert_eq!((&late["verdict"], &late["exitCode"], &late["stdout"]), (&json!("timed_out"), &json!(137), &json!("begun\n")));
        gateway.until_idle(stage);
    }

    fn files_go_in_and_come_out(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let bytes: Vec<u8> = (0..=255).collect();
        let code = "import os, pathlib\n\
            d = pathlib.Path('/sandbox/data/raw').read_bytes(); assert d == bytes(range(256)), d\n\
            print(open('notes.txt').read(), open('/tmp/t').read(), sorted(os.listdir('.')))\n\
            os.makedirs('out/deep'); open('out/a', 'wb').write(d[::-1]); open('out/deep/b', 'w').write('b')\n\
            open('/tmp/late', 'w').write('late'); open('unasked', 'w').write('x'); raise SystemExit(4)";
        let result = with(gateway, "python", code, json!({
            "files": {"data/raw": {"base64": BASE64.encode(&bytes)}, "notes.txt": "Grüße", "/tmp/t": "t"},
            "outputPaths": ["out", "/tmp/late", "not/there"],
        }));
        assert_eq!(result["stdout"], "Grüße t ['data', 'main.py', 'notes.txt']\n", "{result:#}");
        assert_eq!(result["exitCode"], 4);
        let back: Vec<u8> = bytes.iter().rev().copied().collect();
        assert_eq!(result["files"], json!({
            "out/a": BASE64.encode(&back), "out/deep/b": BASE64.encode(b"b"), "/tmp/late": BASE64.encode(b"late"),
        }));
        // Nothing of it is there for the next run, and no session is left.
        let next = with(gateway, "bash", "ls -A /sandbox /tmp", json!({"files": {"a": "x"}, "outputPaths": []}));
        assert_eq!(next["stdout"], "/sandbox:\na\nmain.sh\n\n/tmp:\n", "{next:#}");
        assert!(next.get("files").is_none(), "{next:#}");
        // As large as they may be.
        let big = with(gateway, "bash", "cat in in in > out", json!({
            "files": {"in": "y".repeat(6 << 20)}, "outputPaths": ["out"],
        }));
        let out = BASE64.decode(big["files"]["out"].as_str().expect("a file").as_bytes());
        assert_eq!(out.expect("base64").len(), 18 << 20);
        // A run that is cut leaves its files' session no more than others.
        let late = with(gateway, "bash", "echo x > out; sleep 60", json!({
            "files": {"a": "x"}, "outputPaths": ["out"], "timeoutMs": 2500,
        }));
        assert_eq!((&late["verdict"], &late["files"]["out"]), (&json!("timed_out"), &json!("eAo=")), "{late:#}");
        gateway.until_idle(stage);
    }
}

both_engines_online! {
    fn packages_are_installed(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", "VALUE = 42\n");
        let gateway = &Gateway::start(stage);
        let packages = json!({"installPackages": ["tiny"]});
        let result = with(gateway, "python", "import tiny; print(tiny.VALUE)", packages);
        assert_eq!(result["stdout"], "42\n", "{result:#}");
        assert_eq!(result["stderr"], "", "what the installer says is not the program's");
        // As a stream it is told, in its phase.
        registry::wheel(stage, internet, "other", "VALUE = 43\n");
        let mut body = program("python", "import other; print(other.VALUE)");
        body["request"]["installPackages"] = json!(["other"]);
        let events = gateway.client().events(&body);
        let phases: Vec<&str> = events.iter().filter_map(|event| event["phase"].as_str()).collect();
        let (last, first) = (phases.last().expect("events"), phases[0]);
        assert_eq!((first, *last), ("install", "code"), "{events:#?}");
        let out: Vec<&Value> = events.iter().filter(|event| event["type"] == "stdout").collect();
        let text: String = out.iter().filter_map(|event| event["data"].as_str()).collect();
        assert!(text == "43\n" && out.iter().all(|event| event["phase"] == "code"), "{events:#?}");

        let mut body = program("python", "");
        body["request"]["installPackages"] = json!(["not-in-this-registry"]);
        let answer = gateway.post("/execute", &body);
        answer.error(502);
        let told = answer.json();
        assert_eq!(told["kind"], "install_failed", "{told:#}");
        assert!(told["causes"][0].as_str().is_some_and(|why| !why.is_empty()), "{told:#}");
        gateway.until_idle(stage);
    }
}
