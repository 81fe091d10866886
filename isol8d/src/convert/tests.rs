use expect_test::{Expect, expect};
use isol8_core::{request::Hosts, sandbox::Network};

use super::*;

mod hosts;
mod install;

fn start() -> v1::Start {
    v1::Start {
        runtime: v1::Runtime::Python.into(),
        code: bytes::Bytes::from_static(b"out hello"),
        ..Default::default()
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut v1::Start), message: Expect) {
    let mut start = start();
    change(&mut start);
    let failure = run_request(start, &Config::default()).expect_err("it is refused");
    message.assert_eq(&format!("{}: {}", failure.kind.name(), failure.message));
}

#[test]
fn an_empty_request_gets_the_defaults() {
    let request = run_request(start(), &Config::default()).expect("a good request");
    assert_eq!(request.limits, RunLimits::default());
    assert_eq!(request.extension, "py");
    assert_eq!(request.engine, None);
    assert_eq!(request.network, Network::None);
    assert!(!request.writable);
}

#[test]
fn runtimes_and_engines_must_be_known() {
    refused(
        |start| start.runtime = 0,
        expect!["invalid_request: `runtime` is not given"],
    );
    refused(
        |start| start.runtime = 99,
        expect!["invalid_request: `99` is not a runtime"],
    );
    refused(
        |start| start.engine = -1,
        expect!["invalid_request: `-1` is not an engine"],
    );
    refused(
        |start| start.network = 7,
        expect!["invalid_request: `7` is not a network mode"],
    );
}

#[test]
fn the_host_network_is_the_policys_to_forbid() {
    let asked = || v1::Start {
        network: v1::NetworkMode::Host.into(),
        ..start()
    };
    for allowed in [None, Some(true)] {
        let mut config = Config::default();
        config.policy.allow_host_network = allowed;
        let request = run_request(asked(), &config).expect("a good request");
        assert_eq!(request.network, Network::Host);
    }
    let mut config = Config::default();
    config.policy.allow_host_network = Some(false);
    let failure = run_request(asked(), &config).expect_err("forbidden");
    assert_eq!(failure.kind, FailureKind::Forbidden);
    assert!(failure.to_string().contains("policy.allowHostNetwork"));
}

#[test]
fn an_extension_is_never_a_path() {
    for bad in ["../x", "PY", "a.b", "123456789", "é", "p\ny", "\0", " "] {
        let start = v1::Start {
            extension: bad.to_owned(),
            ..start()
        };
        assert!(run_request(start, &Config::default()).is_err(), "{bad:?}");
    }
    refused(
        |start| start.extension = "p/y".to_owned(),
        expect![
            "invalid_request: `p/y` is not a file extension; use up to 8 lower-case letters and digits"
        ],
    );
}

#[test]
fn environment_names_follow_the_grammar() {
    for bad in ["", "1A", "A-B", "A=B", "A B", "É", "A\0"] {
        let mut start = start();
        start.env.insert(bad.to_owned(), "x".to_owned());
        assert!(run_request(start, &Config::default()).is_err(), "{bad:?}");
    }
    refused(
        |start| {
            start.env.insert("A".to_owned(), "x\0y".to_owned());
        },
        expect!["invalid_request: the value of `A` has a NUL byte in it"],
    );
    refused(
        |start| {
            start.env.insert("A".to_owned(), "x".repeat(128 << 10));
        },
        expect![
            "invalid_request: the value of `A` is too long; the limit is 131072 bytes with the name"
        ],
    );
    refused(
        |start| {
            for n in 0..5 {
                start.env.insert(format!("A{n}"), "x".repeat(120 << 10));
            }
        },
        expect!["invalid_request: the environment has 614420 bytes, the limit is 524288"],
    );
}

#[test]
fn a_refusal_never_shows_a_secret() {
    let mut start = start();
    start.secrets.insert("KEY".to_owned(), "abc".to_owned());
    let failure = run_request(start, &Config::default()).expect_err("too short");
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(!format!("{failure:?}").contains("abc"), "{failure:?}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    refused(
        |start| start.limits.get_or_insert_default().timeout_ms = u64::MAX,
        expect![
            "invalid_request: a timeout of 18446744073709551615 ms is too long; the longest is 2592000000 ms"
        ],
    );
    refused(
        |start| start.limits.get_or_insert_default().memory_bytes = 1,
        expect!["invalid_request: memory of 1 is too little; the least is 6m"],
    );
    refused(
        |start| start.limits.get_or_insert_default().sandbox_bytes = u64::MAX,
        expect![
            "invalid_request: sandbox-size of 18446744073709551615 is too large; the most is 16t"
        ],
    );
    refused(
        |start| start.limits.get_or_insert_default().cpu_millis = 1,
        expect!["invalid_request: 1 thousandths of a core are out of range; use 10 to 1024000"],
    );
    refused(
        |start| start.limits.get_or_insert_default().pids = 40_000,
        expect!["invalid_request: 40000 processes are too many; the most is 32768"],
    );
    refused(
        |start| {
            start.buffered = true;
            start.limits.get_or_insert_default().max_output_bytes = 1 << 40;
        },
        expect!["invalid_request: a buffered run keeps at most 64m of each stream"],
    );
}

#[test]
fn a_program_has_a_largest_size() {
    refused(
        |start| start.code = vec![b'#'; MAX_CODE_BYTES + 1].into(),
        expect!["invalid_request: the program has 16777217 bytes, the limit is 16777216"],
    );
    let largest = v1::Start {
        code: vec![b'#'; MAX_CODE_BYTES].into(),
        ..start()
    };
    assert!(run_request(largest, &Config::default()).is_ok());
}

#[test]
fn images_need_a_name_and_docker() {
    refused(
        |start| start.image = "-v/:/host".to_owned(),
        expect!["invalid_request: `-v/:/host` is not an image name"],
    );
    refused(
        |start| {
            start.image = "alpine".to_owned();
            start.engine = v1::Engine::Native.into();
        },
        expect!["unsupported: the native engine runs no images"],
    );
}

#[test]
fn the_operators_ceilings_hold() {
    let config = Config {
        policy: Policy {
            max_memory: Some(ByteSize::mib(256)),
            images: Some(vec!["alpine".to_owned()]),
            ..Policy::default()
        },
        ..Config::default()
    };
    let lowered = run_request(start(), &config).expect("it asks for nothing");
    assert_eq!(lowered.limits.memory, ByteSize::mib(256));
    let mut greedy = start();
    greedy.limits.get_or_insert_default().memory_bytes = 512 << 20;
    let failure = run_request(greedy, &config).expect_err("it is over it");
    assert_eq!(
        failure.message,
        "memory of 512m is over the operator's `policy.maxMemory`"
    );
    let mut other = start();
    other.limits.get_or_insert_default().memory_bytes = 64 << 20;
    other.image = "debian".to_owned();
    let failure = run_request(other, &config).expect_err("not allowed");
    assert_eq!(failure.kind, FailureKind::Forbidden);
}

#[test]
fn messages_after_the_first_are_checked() {
    use v1::run_request::Message;
    let say = |message| said(v1::RunRequest { message });
    assert!(say(Some(Message::Start(start()))).is_err());
    assert!(say(None).is_err());
    for number in [-1, 0, 11, 17, 19, 64, 1000] {
        assert!(say(Some(Message::Signal(v1::Signal { number }))).is_err());
    }
    let int = say(Some(Message::Signal(v1::Signal { number: 2 })));
    assert_eq!(int, Ok(Said::Signal(2)));
    assert!(first(None).is_err());
    let close = Message::CloseStdin(v1::CloseStdin {});
    assert!(
        first(Some(v1::RunRequest {
            message: Some(close)
        }))
        .is_err()
    );
}

#[test]
fn what_is_a_default_is_not_given() {
    let start = v1::Start {
        session: Some("work".to_owned()),
        default_engine: v1::Engine::Docker.into(),
        default_writable: true,
        defaults: Some(v1::Limits {
            memory_bytes: 64 << 20,
            ..v1::Limits::default()
        }),
        ..start()
    };
    let request = run_request(start.clone(), &Config::default()).expect("a good request");
    assert_eq!(request.engine, Some(EngineKind::Docker));
    assert!(request.writable && request.limits.memory == ByteSize::mib(64));
    let given = request.session.expect("a session").given;
    assert_eq!(given, isol8_core::session::Given::default());
    let typed = v1::Start {
        engine: v1::Engine::Native.into(),
        ..start
    };
    let request = run_request(typed, &Config::default()).expect("a good request");
    assert_eq!(request.engine, Some(EngineKind::Native));
    let given = request.session.expect("a session").given;
    assert_eq!(given.engine, Some(EngineKind::Native));
}
