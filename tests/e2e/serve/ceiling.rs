//! The ceiling that `policy` is for whoever comes over HTTP.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    stage::{Engine, Stage},
};
use serde_json::{Value, json};

const TOUCH: &str = "import sys\n\
    d = bytearray(int(sys.stdin.read()) << 20)\nfor i in range(0, len(d), 4096): d[i] = 1\nprint('kept')";

fn on(engine: Engine, policy: Value, test: impl FnOnce(&Stage, &Gateway)) {
    let config = json!({"policy": policy});
    Stage::with_config(engine, config, |stage| {
        let gateway = Gateway::start(stage);
        test(stage, &gateway);
        gateway.until_idle(stage);
        gateway.stop();
    });
}

#[track_caller]
fn refused(gateway: &Gateway, options: Value, rule: &str) {
    let mut body = program("bash", "echo over the ceiling");
    body["options"] = options;
    for path in ["/execute", "/execute/stream"] {
        let answer = gateway.post(path, &body);
        let error = answer.error(403);
        assert!(error.contains(&format!("`policy.{rule}`")), "{error}");
        assert_eq!(answer.json()["kind"], "forbidden");
    }
}

fn limits(engine: Engine) {
    let policy = json!({"maxMemory": "96m", "maxCpu": 0.5, "maxTimeoutMs": 6000});
    on(engine, policy, |_, gateway| {
        refused(gateway, json!({"memoryLimit": "97m"}), "maxMemory");
        refused(gateway, json!({"cpuLimit": 0.51}), "maxCpu");
        refused(gateway, json!({"timeoutMs": 6001}), "maxTimeoutMs");
        let mut body = program("bash", "true");
        body["request"]["timeoutMs"] = json!(30_000);
        assert!(
            gateway
                .post("/execute", &body)
                .error(403)
                .contains("`policy.maxTimeoutMs`")
        );
        // As much as there may be, and less.
        let all = json!({"memoryLimit": "96m", "cpuLimit": 0.5, "timeoutMs": 6000});
        assert_eq!(gateway.run("bash", "echo fits", all)["stdout"], "fits\n");

        // Who says nothing gets what the ceiling leaves of the defaults.
        let touch = |mib: &str, options: Value| {
            let mut body = program("python", TOUCH);
            body["request"]["stdin"] = json!(mib);
            body["options"] = options;
            gateway.post("/execute", &body).ok()["verdict"].clone()
        };
        assert_eq!(
            touch("150", json!({})),
            "oom_killed",
            "the default of 512m is lowered"
        );
        assert_eq!(touch("50", json!({})), "exited");
        assert_eq!(
            touch("50", json!({"memoryLimit": "32m"})),
            "oom_killed",
            "a request may ask for less"
        );
        let busy = gateway.run("bash", "while :; do :; done", json!({}));
        assert_eq!(busy["verdict"], "timed_out", "30 s are lowered: {busy:#}");
        let used = busy["resourceUsage"]["cpuMs"].as_f64().expect("a number");
        assert!(
            (500.0..4500.0).contains(&used),
            "half of 6000 ms, not {used}"
        );
    });
}

fn names(engine: Engine) {
    on(engine, json!({}), |_, gateway| {
        refused(gateway, json!({"network": "host"}), "allowHostNetwork");
        refused(gateway, json!({"image": "debian:trixie-slim"}), "images");
        refused(gateway, json!({"image": "x; id"}), "images");
    });
}

#[test]
fn limits_have_a_ceiling_docker() {
    limits(Engine::Docker);
}

#[test]
fn limits_have_a_ceiling_native() {
    limits(Engine::Native);
}

#[test]
fn nothing_is_open_by_itself_docker() {
    names(Engine::Docker);
}

#[test]
fn nothing_is_open_by_itself_native() {
    names(Engine::Native);
}

#[test]
fn the_host_network_can_be_allowed() {
    for engine in [Engine::Docker, Engine::Native] {
        on(engine, json!({"allowHostNetwork": true}), |_, gateway| {
            let names = "import socket; print(len(socket.if_nameindex()) > 0, open('/proc/net/dev').read().count(':') > 1)";
            let result = gateway.run("python", names, json!({"network": "host"}));
            assert_eq!(result["stdout"], "True True\n", "{result:#}");
        });
    }
}

#[test]
fn images_can_be_allowed() {
    let image = "debian:trixie-slim";
    on(Engine::Docker, json!({"images": [image]}), |_, gateway| {
        let code = "grep -c trixie /etc/os-release >/dev/null && command -v python3 || echo bare";
        let result = gateway.run("bash", code, json!({"image": image}));
        assert_eq!(result["stdout"], "bare\n", "{result:#}");
        refused(gateway, json!({"image": "debian"}), "images");
        refused(
            gateway,
            json!({"image": "debian:trixie-slim@sha256:0"}),
            "images",
        );
    });
}
