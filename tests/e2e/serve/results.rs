//! The result of a run: which fields there are, and what stands in them.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use isol8_e2e::harness::gateway::Gateway;
use serde_json::{Value, json};

const KEYS: [&str; 13] = [
    "durationMs",
    "engine",
    "executionId",
    "exitCode",
    "resourceUsage",
    "runtime",
    "sandboxId",
    "stderr",
    "stdout",
    "timestamp",
    "truncated",
    "verdict",
    "warm",
];

fn keys(value: &Value) -> BTreeSet<&str> {
    let fields = value.as_object().expect("an object");
    fields.keys().map(String::as_str).collect()
}

both_engines! {
    fn a_result_has_every_field(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let code = "import sys; print('out'); print('err', file=sys.stderr); bytearray(30 << 20); sys.exit(3)";
        let result = gateway.run("python", code, json!({}));
        assert_eq!(keys(&result), KEYS.into_iter().collect());
        let told = (&result["stdout"], &result["stderr"], &result["exitCode"], &result["verdict"]);
        assert_eq!(told, (&json!("out\n"), &json!("err\n"), &json!(3), &json!("exited")));
        let told = (&result["runtime"], &result["engine"], &result["truncated"]);
        assert_eq!(told, (&json!("python"), &json!(stage.engine().name()), &json!(false)));
        assert!(result["warm"].is_boolean(), "{result:#}");
        assert!(result["durationMs"].as_f64().is_some_and(|ms| ms > 0.0), "{result:#}");
        for id in ["executionId", "sandboxId"] {
            assert!(result[id].as_str().is_some_and(|id| id.len() >= 16), "{result:#}");
        }
        let stamp = result["timestamp"].as_str().expect("text");
        assert!(stamp.len() == 24 && stamp.ends_with('Z') && stamp.as_bytes()[10] == b'T', "{stamp}");
        let usage = &result["resourceUsage"];
        assert_eq!(keys(usage), ["cpuMs", "networkBytesIn", "networkBytesOut", "peakMemoryBytes"].into());
        assert!(usage["cpuMs"].as_f64().is_some_and(|ms| ms > 0.0), "{usage}");
        assert!(usage["peakMemoryBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{usage}");
        assert_eq!((&usage["networkBytesIn"], &usage["networkBytesOut"]), (&json!(0), &json!(0)));
        // Another run is another one in another sandbox, and warm when one waits.
        let other = gateway.run("python", "", json!({}));
        assert_ne!(other["executionId"], result["executionId"]);
        assert_ne!(other["sandboxId"], result["sandboxId"]);
        gateway.until_idle(stage);
    }

    fn every_end_is_told_as_it_was(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        for (code, verdict, exit_code) in [
            ("exit 0", "exited", 0),
            ("exit 255", "exited", 255),
            ("exit 137", "exited", 137),
            ("kill -TERM $$", "signalled", 143),
            ("kill -SEGV $$", "signalled", 139),
        ] {
            let result = gateway.run("bash", code, json!({}));
            assert_eq!((&result["verdict"], &result["exitCode"]), (&json!(verdict), &json!(exit_code)), "{code}: {result:#}");
        }
        gateway.until_idle(stage);
    }

    fn bytes_that_are_no_text_come_in_base64(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let code = "printf 'a\\377\\000b'; printf 'e\\376' >&2";
        let result = gateway.run("bash", code, json!({}));
        assert_eq!(result["stdoutBase64"], BASE64.encode(b"a\xff\0b"));
        assert_eq!((&result["stdout"], &result["stderr"]), (&json!("a\u{fffd}\0b"), &json!("e\u{fffd}")));
        let text = gateway.run("bash", "printf 'ü\\0'", json!({}));
        assert_eq!((&text["stdout"], text.get("stdoutBase64")), (&json!("ü\0"), None));
        gateway.until_idle(stage);
    }
}
