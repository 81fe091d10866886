//! Files, good and bad; and the schema against the types that read.

use std::path::{Path, PathBuf};

use expect_test::expect;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{layer::Layer, search::Trust, *};
use crate::failure::{Failure, FailureKind};

const FILE: &str = "/etc/isol8/config.json";

fn parse(text: &str, trust: Trust) -> Result<Layer, error::ConfigError> {
    Layer::parse(text, FILE.into(), trust)
}

fn resolve(text: &str) -> Result<Resolved, error::ConfigError> {
    let layer = parse(text, Trust::Full)?;
    Config::resolve(Some(&layer), &|name| {
        (name == "HOME").then(|| "/home/me".to_owned())
    })
}

#[track_caller]
fn good(text: &str) -> Config {
    resolve(text).unwrap().config
}

#[track_caller]
fn bad(text: &str, expected: &str) {
    let message = resolve(text).unwrap_err().to_string();
    assert_eq!(message.strip_prefix(FILE), Some(expected));
}

#[test]
fn without_a_file_the_defaults_hold() {
    let resolved = Config::resolve(None, &|_| None).unwrap();
    assert_eq!(resolved.config, Config::default());
    assert_eq!(good("{}"), Config::default());
    let shown = serde_json::to_string_pretty(&resolved.to_json()).unwrap();
    expect![[r#"
        {
          "config": {
            "audit": {
              "destination": "filesystem",
              "enabled": false,
              "includeCode": false,
              "includeOutput": false,
              "logDir": null,
              "retentionDays": 90
            },
            "cleanup": {
              "autoPrune": true,
              "maxContainerAgeMs": 3600000
            },
            "debug": false,
            "defaults": {
              "cpuLimit": 1,
              "maxOutputSize": 1048576,
              "memoryLimit": "512m",
              "network": "none",
              "pidsLimit": 64,
              "readonlyRootFs": true,
              "sandboxSize": "512m",
              "timeoutMs": 30000,
              "tmpSize": "256m"
            },
            "dependencies": {},
            "docker": {
              "host": null,
              "runtime": null
            },
            "engine": "auto",
            "maxConcurrent": 10,
            "network": {
              "allowPrivate": [],
              "blacklist": [],
              "caBundle": null,
              "ports": [
                80,
                443
              ],
              "upstreamProxy": null,
              "whitelist": []
            },
            "policy": {
              "allowHostNetwork": null,
              "images": null,
              "maxCpu": null,
              "maxMemory": null,
              "maxTimeoutMs": null
            },
            "poolSize": {
              "clean": 1,
              "dirty": 1
            },
            "poolStrategy": "secure",
            "prewarm": null,
            "security": {
              "customProfilePath": null,
              "seccomp": "strict"
            }
          },
          "file": null,
          "sources": {}
        }"#]]
    .assert_eq(&shown);
}

/// Every key, each with something else than its default.
fn everything() -> Value {
    json!({
        "$schema": "./schema.json",
        "engine": "native",
        "maxConcurrent": 3,
        "defaults": {
            "timeoutMs": 1000, "memoryLimit": "1g", "cpuLimit": 0.5, "pidsLimit": 7,
            "network": "filtered", "sandboxSize": "10m", "tmpSize": 4096,
            "maxOutputSize": 99, "readonlyRootFs": false,
        },
        "network": {
            "whitelist": ["^a$"], "blacklist": ["b"], "allowPrivate": ["10.0.0.0/8"],
            "ports": [8080], "caBundle": "ca.pem", "upstreamProxy": "http://p:1",
        },
        "cleanup": { "autoPrune": false, "maxContainerAgeMs": 5 },
        "poolStrategy": "fast",
        "poolSize": { "clean": 4, "dirty": 0 },
        "prewarm": ["python", "bash"],
        "dependencies": {
            "python": ["numpy==2.1", "a[b]>=1,<2"], "node": ["@types/node@22"],
            "bun": ["x"], "deno": ["jsr:@std/path@^1"], "bash": ["jq"],
        },
        "security": { "seccomp": "custom", "customProfilePath": "~/p.json" },
        "docker": { "host": "unix:///run/podman.sock", "runtime": "runsc" },
        "audit": {
            "enabled": true, "destination": "log", "logDir": "/var/log/isol8",
            "retentionDays": 1, "includeCode": true, "includeOutput": true,
        },
        "policy": {
            "allowHostNetwork": false, "maxMemory": "2g", "maxCpu": 2,
            "maxTimeoutMs": 9, "images": ["python:*"],
        },
        "debug": true,
    })
}

#[test]
fn every_key_arrives() {
    let text = everything().to_string();
    let resolved = resolve(&text).unwrap();
    let mut shown = resolved.to_json()["config"].clone();
    let mut expected = everything();
    expected.as_object_mut().unwrap().remove("$schema");
    // Paths become absolute, sizes are shown in one way.
    expected["network"]["caBundle"] = "/etc/isol8/ca.pem".into();
    expected["security"]["customProfilePath"] = "/home/me/p.json".into();
    expected["defaults"]["tmpSize"] = "4k".into();
    assert_eq!(shown, expected);

    // No value is the default, so no key can have been passed over.
    fn same(at: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
        match (left, right) {
            (Value::Object(left), Value::Object(right)) if at != "dependencies" => {
                for (key, value) in left {
                    same(key, value, right.get(key).unwrap_or(&Value::Null), found);
                }
            }
            _ if left == right => found.push(at.to_owned()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    same("", &shown.take(), &Config::default().to_json(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn objects_merge_and_lists_replace() {
    let config = good(r#"{ "defaults": { "pidsLimit": 5 }, "network": { "ports": [22] } }"#);
    let mut expected = Config::default();
    expected.defaults.limits.pids = crate::quantity::Pids::new(5).unwrap();
    expected.network.ports = vec![22];
    assert_eq!(config, expected);
    let none = good(r#"{ "network": { "ports": [] } }"#);
    assert!(none.network.ports.is_empty());
}

#[test]
fn sources_name_what_the_file_and_the_environment_set() {
    let text = r#"{ "engine": "docker", "defaults": { "pidsLimit": 5 } }"#;
    let layer = parse(text, Trust::Full).unwrap();
    let env = |name: &str| (name == "ISOL8_ENGINE").then(|| "native".to_owned());
    let resolved = Config::resolve(Some(&layer), &env).unwrap();
    let native = EngineChoice::Only(EngineKind::Native);
    assert_eq!(resolved.config.engine, native, "the environment wins");
    assert_eq!(
        resolved.source("engine"),
        &Source::Environment("ISOL8_ENGINE")
    );
    let file = Source::File(PathBuf::from(FILE));
    assert_eq!(resolved.source("defaults.pidsLimit"), &file);
    assert_eq!(resolved.source("defaults.timeoutMs"), &Source::Default);
    assert_eq!(resolved.file.as_deref(), Some(Path::new(FILE)));
    expect![[r#"{"defaults.pidsLimit":"/etc/isol8/config.json","engine":"environment variable ISOL8_ENGINE"}"#]]
        .assert_eq(&resolved.to_json()["sources"].to_string());
}

#[test]
fn a_wrong_variable_is_named() {
    let env = |name: &str| (name == "ISOL8_ENGINE").then(|| "podman".to_owned());
    let error = Config::resolve(None, &env).unwrap_err();
    expect!["environment variable ISOL8_ENGINE: `podman` is not an engine; choose auto, docker or native"]
        .assert_eq(&error.to_string());
    let empty = |name: &str| (name == "ISOL8_ENGINE").then(String::new);
    assert_eq!(
        Config::resolve(None, &empty).unwrap().config.engine,
        EngineChoice::Auto
    );
}

#[test]
fn errors_name_the_key_the_file_and_the_line() {
    bad("", ":1: EOF while parsing a value");
    bad("[]", ":1: invalid type: sequence, expected an object");
    bad("{\n\n  \"debug\": true,\n}", ":4: trailing comma");
    bad("{}\n{}", ":2: trailing characters");
    bad(
        "{\n \"maxConcurent\": 1\n}",
        ":2: `maxConcurent`: unknown field `maxConcurent`, expected one of `$schema`, `engine`, `maxConcurrent`, `defaults`, `network`, `cleanup`, `poolStrategy`, `poolSize`, `prewarm`, `dependencies`, `security`, `docker`, `audit`, `policy`, `debug`",
    );
    bad(
        "{\n \"defaults\": {\n  \"timeoutMs\": \"30s\"\n }\n}",
        r#":3: `defaults.timeoutMs`: invalid type: string "30s", expected a whole number from 1 to 4294967295"#,
    );
    bad(
        r#"{ "defaults": { "timeoutMs": 0 } }"#,
        ":1: `defaults.timeoutMs`: invalid value: integer `0`, expected a whole number from 1 to 4294967295",
    );
    bad(
        r#"{ "defaults": { "memoryLimit": "12x" } }"#,
        ":1: `defaults.memoryLimit`: `12x` is not a size; write it like `512m` or `2g`",
    );
    bad(
        r#"{ "defaults": { "cpuLimit": -1 } }"#,
        ":1: `defaults.cpuLimit`: `-1` is not a number of cores between 0.01 and 1024; write it like `1` or `0.5`",
    );
    bad(
        "{ \"network\": { \"whitelist\": [\n\"ok\",\n\"a(b\" ] } }",
        ":3: `network.whitelist[1]`: `a(b` is not a regular expression: unclosed group",
    );
    bad(
        r#"{ "network": { "allowPrivate": ["10.0.0.0/33"] } }"#,
        ":1: `network.allowPrivate[0]`: `10.0.0.0/33` is not a range of addresses; write it like `10.0.0.0/8` or `fd00::/8`",
    );
    bad(
        r#"{ "engine": "podman" }"#,
        ":1: `engine`: `podman` is none of auto, docker, native",
    );
    bad(
        r#"{ "engine": null }"#,
        ":1: `engine`: invalid type: null, expected a string",
    );
    bad(
        r#"{ "debug": 1 }"#,
        ":1: `debug`: invalid type: integer `1`, expected a boolean",
    );
    bad(
        "{ \"debug\": true,\n\"debug\": false }",
        ":2: duplicate field `debug`",
    );
    bad(
        r#"{ "dependencies": { "python": ["-r evil"] } }"#,
        ":1: `dependencies.python[0]`: `-r evil` is not a package name",
    );
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    bad(
        r#"{ "security": { "seccomp": "custom" } }"#,
        ": `security.seccomp`: `custom` needs `security.customProfilePath`",
    );
    bad(
        r#"{ "security": { "customProfilePath": "/p" } }"#,
        r#": `security.customProfilePath`: only `security.seccomp: "custom"` uses it"#,
    );
}

#[test]
fn a_working_directory_decides_nothing_about_isolation() {
    for (key, text) in [
        ("engine", "{\n\"engine\": \"native\" }"),
        ("security", "{\n\"security\": {} }"),
        ("policy", "{\n\"policy\": { \"maxCpu\": 1 } }"),
        ("docker", "{\n\"docker\": { \"host\": \"tcp://x:1\" } }"),
        (
            "network.allowPrivate",
            "{ \"network\": {\n\"allowPrivate\": [] } }",
        ),
    ] {
        let error = parse(text, Trust::WorkingDirectory).unwrap_err();
        let expected =
            format!("{FILE}:2: `{key}` cannot be set by a file of the working directory");
        assert_eq!(error.to_string(), expected);
        let failure = Failure::from(error);
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert!(failure.hint.unwrap().contains("/etc/isol8/config.json"));
        assert!(parse(text, Trust::Full).is_ok(), "{key}");
    }
    // Nor by writing an object as a list of its values.
    let list = r#"{ "network": [[], [], ["10.0.0.0/8"]] }"#;
    assert!(parse(list, Trust::WorkingDirectory).is_err());
    let harmless = r#"{ "defaults": { "memoryLimit": "1g" }, "network": { "ports": [1] } }"#;
    assert!(parse(harmless, Trust::WorkingDirectory).is_ok());
}

#[test]
fn ranges_hold_what_is_in_them() {
    let holds = |range: &str, address: &str| {
        let range: IpRange = range.parse().unwrap();
        range.contains(address.parse().unwrap())
    };
    assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
    assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
    assert!(holds("192.168.1.7", "192.168.1.7") && !holds("192.168.1.7", "192.168.1.6"));
    assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe80::1"));
    for wrong in [
        "",
        "10.0.0.0/",
        "10.0.0/8",
        "x/8",
        "10.0.0.0/-1",
        "::/129",
        "1.1.1.1/+8",
    ] {
        assert!(wrong.parse::<IpRange>().is_err(), "{wrong}");
    }
}

#[test]
fn the_schema_has_every_default_and_no_loose_end() {
    let schema = Config::json_schema();
    assert_eq!(
        schema["properties"]["defaults"]["properties"]["timeoutMs"]["default"],
        30_000
    );
    assert_eq!(schema["properties"]["poolStrategy"]["default"], "secure");
    assert_eq!(schema["additionalProperties"], false);
    let text = schema.to_string();
    assert!(!text.contains("$ref"), "{text}");
    assert!(jsonschema::draft7::meta::is_valid(&schema));
}

#[test]
fn the_schema_accepts_the_defaults_and_everything() {
    let schema = jsonschema::validator_for(&Config::json_schema()).unwrap();
    assert!(schema.is_valid(&everything()));
    // What `isol8 config --json` shows can be pasted once its nulls are gone.
    let mut shown = Config::default().to_json();
    remove_nulls(&mut shown);
    assert!(schema.is_valid(&shown));
    assert_eq!(good(&shown.to_string()), Config::default());
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(remove_nulls);
    }
}

/// Values that are right for some key and wrong for others.
fn odd_values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![-2_i64..100_000, any::<i64>()].prop_map(Value::from),
        (-10_i32..2000).prop_map(|number| Value::from(f64::from(number) / 4.0)),
        Just(json!(1.0)),
        "[ -~]{0,6}".prop_map(Value::from),
        "[0-9]{1,2}[mGbi]{0,3}".prop_map(Value::from),
        prop::sample::select(vec![
            "auto",
            "docker",
            "none",
            "host",
            "fast",
            "strict",
            "unconfined",
            "python",
            "log",
            "512m",
            "0m",
            "http://p:3128",
            "unix:///x",
            "10.0.0.0/8",
            "./x",
            "",
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["python", "bash"])),
        Just(json!(["a(b", 1])),
        Just(json!([80, 443, 65535])),
        Just(json!([0])),
        Just(json!({ "unknown": 1 })),
        Just(json!({ "docker": null })),
        Just(json!([[], [], ["10.0.0.0/8"]])),
    ]
}

/// Where something can stand.
fn places(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if let Value::Object(fields) = value {
        for (key, value) in fields {
            at.push(key.clone());
            found.push(at.clone());
            places(value, at, found);
            at.pop();
        }
    }
}

/// What the schema cannot say: a text's meaning, and how keys go together.
fn beyond_the_schema(message: &str) -> bool {
    [
        "is too large",
        "is not a regular expression",
        "is not a range of addresses",
        "`security.seccomp`",
        "`security.customProfilePath`",
    ]
    .iter()
    .any(|known| message.contains(known))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Any one place of a complete file holds anything: the schema says yes
    /// exactly when the types do.
    #[test]
    fn the_schema_says_what_the_types_say(
        place in any::<prop::sample::Index>(),
        value in odd_values(),
        extra in prop::option::weighted(0.1, "[a-zA-Z$]{1,12}"),
    ) {
        thread_local! {
            static SCHEMA: jsonschema::Validator =
                jsonschema::validator_for(&Config::json_schema()).unwrap();
        }
        let mut file = everything();
        let mut all = Vec::new();
        places(&file, &mut Vec::new(), &mut all);
        let mut path = place.get(&all).clone();
        if let Some(extra) = extra {
            path.pop();
            path.push(extra);
        }
        let last = path.pop().unwrap();
        let parent = path.iter().fold(&mut file, |value, key| &mut value[key.as_str()]);
        if !parent.is_object() {
            return Ok(());
        }
        parent[last.as_str()] = value;

        let valid = SCHEMA.with(|schema| schema.is_valid(&file));
        match resolve(&file.to_string()) {
            Ok(_) => prop_assert!(valid, "the schema refuses {file}"),
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!valid || beyond_the_schema(&message), "{message}: {file}");
            }
        }
    }
}

#[test]
fn a_policy_alone_is_read_as_in_a_configuration() {
    let text = r#"{"allowHostNetwork":false,"maxMemory":"64m","maxCpu":0.5,"maxTimeoutMs":1500,"images":["a"]}"#;
    let policy: Policy = serde_json::from_str(text).expect("it is right");
    assert_eq!(policy.max_memory, Some(ByteSize::mib(64)));
    assert_eq!(policy.max_timeout, Some(Duration::from_millis(1500)));
    let again = serde_json::to_string(&policy.given()).expect("it is JSON");
    assert_eq!(serde_json::from_str::<Policy>(&again).ok(), Some(policy));
    assert_eq!(Policy::default().given().len(), 0);
    for wrong in [r#"{"maxMemry":"1m"}"#, r#"{"maxCpu":0}"#, "[]", "null"] {
        assert!(serde_json::from_str::<Policy>(wrong).is_err(), "{wrong}");
    }
}
