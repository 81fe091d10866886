//! `GET /execute/ws` as `isol8 run --host` uses it.

use std::time::Duration;

use isol8_core::{config, quantity::ByteSize};
use isol8_gateway::{Key, Keys};
use isol8_proto::v1::{
    CloseStdin, ErrorDetail, Exited, GatewayEvent, Limits, NetworkMode, Phase, RunRequest, Signal,
    Start, StdinTaken, Verdict, gateway_event, run_event::Event, run_request::Message,
};
use prost::Message as _;

use crate::{
    client::Client,
    stage::{KEY, OTHER_KEY, Stage, wait_for},
    websocket::{BINARY, CLOSE, PING, Socket, TEXT, upgrade},
};

const WIRE: &str = "isol8.v1";

/// A run over a socket.
struct Remote(Socket);

impl Remote {
    fn open(stage: &Stage) -> Self {
        Self::open_as(stage, KEY)
    }

    fn open_as(stage: &Stage, key: &str) -> Self {
        Self(Socket::open_as(stage, key, Some(WIRE)))
    }

    fn start(stage: &Stage, start: Start) -> Self {
        let mut remote = Self::open(stage);
        remote.send(Message::Start(start));
        remote
    }

    fn send(&mut self, message: Message) {
        let message = Some(message);
        let bytes = RunRequest { message }.encode_to_vec();
        self.0.frame(BINARY, &bytes);
    }

    fn next(&mut self) -> gateway_event::Event {
        let (kind, payload) = self.0.next();
        assert_eq!(kind, BINARY, "{}", String::from_utf8_lossy(&payload));
        let event = GatewayEvent::decode(payload.as_slice()).expect("an event");
        event.event.expect("it says something")
    }

    #[track_caller]
    fn event(&mut self) -> Event {
        match self.next() {
            gateway_event::Event::Run(event) => event.event.expect("it says something"),
            gateway_event::Event::Failed(detail) => panic!("it failed: {detail:?}"),
        }
    }

    /// The last event of a run that failed, and the goodbye behind it.
    #[track_caller]
    fn failed(&mut self) -> ErrorDetail {
        let detail = match self.next() {
            gateway_event::Event::Failed(detail) => detail,
            other => panic!("it goes on: {other:?}"),
        };
        let code = self.0.goodbye();
        assert!([1000, 1008].contains(&code), "{code}");
        detail
    }

    /// The last event of a run that ended, and the goodbye behind it.
    fn exited(&mut self) -> Exited {
        loop {
            if let Event::Exited(exited) = self.event() {
                assert_eq!(self.0.goodbye(), 1000);
                return exited;
            }
        }
    }
}

fn program(code: &str) -> Start {
    Start {
        code: code.to_owned().into(),
        ..Start::default()
    }
}

fn with_stdin(code: &str) -> Start {
    Start {
        stdin: true,
        ..program(code)
    }
}

#[test]
fn every_event_comes_as_the_daemon_said_it() {
    let stage = Stage::new();
    let code = "install\nprint hi\nbinary\ncomplain no\nnotice look\nnetwork\nexit 4";
    let mut remote = Remote::start(&stage, program(code));
    let Event::Accepted(accepted) = remote.event() else {
        panic!("not accepted");
    };
    assert_eq!(
        (
            accepted.run_id.as_str(),
            accepted.sandbox_id.as_str(),
            accepted.warm
        ),
        ("run-1", "sandbox-1", true)
    );
    let phase = |event| match event {
        Event::Phase(phase) => phase.phase(),
        other => panic!("no phase: {other:?}"),
    };
    assert_eq!(phase(remote.event()), Phase::Install);
    assert_eq!(remote.event(), Event::Stderr("installing\n".into()));
    assert_eq!(phase(remote.event()), Phase::Code);
    assert_eq!(remote.event(), Event::Stdout("hi".into()));
    assert_eq!(remote.event(), Event::Stdout(vec![b'a', 0xff].into()));
    assert_eq!(remote.event(), Event::Stderr("no".into()));
    assert!(matches!(remote.event(), Event::Notice(notice) if notice.message == "look"));
    let Event::Network(log) = remote.event() else {
        panic!("no log");
    };
    assert_eq!(log.requests[0].host, "example.com");
    let exited = remote.exited();
    assert_eq!((exited.verdict(), exited.code), (Verdict::Exited, Some(4)));
    assert_eq!(exited.usage.map(|usage| usage.wall_us), Some(1500));
    remote.0.0.await_close();
    let metrics = stage.ask("GET", "/metrics", "");
    assert!(
        metrics.text().contains(r#"verdict="exited"} 1"#),
        "{}",
        metrics.text()
    );
}

#[test]
fn the_whole_request_reaches_the_daemon() {
    let stage = Stage::new();
    let start = Start {
        engine: 2,
        network: NetworkMode::Filtered.into(),
        limits: Some(Limits {
            timeout_ms: 5,
            ..Limits::default()
        }),
        defaults: Some(Limits {
            pids: 7,
            ..Limits::default()
        }),
        default_writable: true,
        env: [("A".to_owned(), "b".to_owned())].into(),
        secrets: [("S".to_owned(), "t".to_owned())].into(),
        buffered: true,
        install: vec!["left-pad".to_owned()],
        no_install_cache: true,
        log_network: true,
        persist: true,
        // Not the client's to choose.
        lane: "of-another-key".to_owned(),
        ..program("exit 0")
    };
    Remote::start(&stage, start.clone()).exited();
    let mut seen = stage.world.last_start();
    assert_ne!(seen.lane, start.lane);
    seen.lane.clone_from(&start.lane);
    assert_eq!(seen, start);
}

#[test]
fn stdin_and_what_was_taken_of_it() {
    let stage = Stage::new();
    let mut remote = Remote::start(&stage, with_stdin("cat"));
    assert!(matches!(remote.event(), Event::Accepted(_)));
    for piece in [&b"one"[..], b"\xff\0two"] {
        remote.send(Message::Stdin(piece.to_vec().into()));
        assert_eq!(remote.event(), Event::Stdout(piece.to_vec().into()));
        let bytes = piece.len() as u64;
        assert_eq!(remote.event(), Event::StdinTaken(StdinTaken { bytes }));
    }
    remote.send(Message::CloseStdin(CloseStdin {}));
    assert_eq!(remote.exited().code, Some(0));
}

/// Without any of it having been taken: a client that counts stops at 1 MiB.
#[test]
fn a_signal_overtakes_stdin_that_nobody_reads() {
    let stage = Stage::new();
    let mut remote = Remote::start(&stage, with_stdin("deaf"));
    for _ in 0..12 {
        remote.send(Message::Stdin(vec![b'x'; 256 << 10].into()));
    }
    remote.send(Message::Signal(Signal { number: 10 }));
    assert_eq!(remote.exited().signal, Some(10));
}

#[test]
fn a_session_is_the_keys_own_and_is_called_as_the_client_calls_it() {
    let stage = Stage::new();
    let inside = |code: &str| Start {
        session: Some("work".to_owned()),
        ..program(code)
    };
    let name = |remote: &mut Remote| {
        remote.exited();
        let name = stage.world.last_start().session.expect("a session");
        assert!(name.starts_with('h') && name.ends_with(".work"), "{name}");
        name
    };
    let mine = name(&mut Remote::start(&stage, inside("exit 0")));
    let mut other = Remote::open_as(&stage, OTHER_KEY);
    other.send(Message::Start(inside("exit 0")));
    assert_ne!(mine, name(&mut other));
    // The JSON door has the same one.
    let body = r#"{"request":{"code":"exit 0","runtime":"python"},"sessionId":"work"}"#;
    assert_eq!(stage.ask("POST", "/execute", body).status, 200);
    assert_eq!(stage.world.last_start().session, Some(mine.clone()));

    let mut other = Remote::start(&stage, inside("mismatch"));
    assert!(matches!(other.event(), Event::Accepted(_)));
    let told = other.failed();
    assert_eq!(told.kind, "session_mismatch");
    assert_eq!(told.message, "session `work` is another");
    assert_eq!(
        (told.causes[0].as_str(), told.hint.as_str()),
        ("of work", "remove work")
    );
    let mut noticed = Remote::start(&stage, inside(&format!("notice {mine} is new")));
    assert!(matches!(noticed.event(), Event::Accepted(_)));
    assert!(matches!(noticed.event(), Event::Notice(notice) if notice.message == "work is new"));

    let long = "x".repeat(47);
    for id in ["", "../x", "a/b", &long] {
        let mut start = program("print never");
        start.session = Some(id.to_owned());
        let told = Remote::start(&stage, start).failed();
        assert_eq!(told.kind, "invalid_request");
        assert!(told.message.contains("`session`"), "{}", told.message);
    }
}

#[test]
fn nothing_goes_over_the_ceiling() {
    let low = config::Policy {
        max_memory: Some(ByteSize::mib(64)),
        ..config::Policy::default()
    };
    let stage = Stage::with_keys(Keys::new(vec![
        Key::new("low", KEY, false).with_policy(low),
        Key::new("high", OTHER_KEY, false),
    ]));
    let memory = |mib: u64| {
        Some(Limits {
            memory_bytes: mib << 20,
            ..Limits::default()
        })
    };
    let host = Start {
        network: NetworkMode::Host.into(),
        ..Start::default()
    };
    let image = Start {
        image: "alpine".to_owned(),
        ..Start::default()
    };
    let greedy = Start {
        limits: memory(65),
        ..Start::default()
    };
    for (start, rule) in [
        (host, "`policy.allowHostNetwork`"),
        (image, "`policy.images`"),
        (greedy.clone(), "`policy.maxMemory`"),
    ] {
        let told = Remote::start(&stage, start).failed();
        assert_eq!(told.kind, "forbidden");
        assert!(told.message.contains(rule), "{}", told.message);
    }
    let mut other = Remote::open_as(&stage, OTHER_KEY);
    other.send(Message::Start(greedy));
    other.exited();
    // What the client has for defaults is lowered, not refused.
    let start = Start {
        defaults: memory(4096),
        ..Start::default()
    };
    Remote::start(&stage, start).exited();
    assert_eq!(stage.world.last_start().defaults, memory(64));
}

#[test]
fn what_is_no_request_is_refused_and_ends_the_run() {
    let stage = Stage::new();
    let first = |kind: u8, payload: &[u8], part: &str| {
        let mut remote = Remote::open(&stage);
        remote.0.frame(kind, payload);
        let told = remote.failed();
        assert_eq!(told.kind, "invalid_request");
        assert!(told.message.contains(part), "{}", told.message);
    };
    let signal = Message::Signal(Signal { number: 2 });
    let signal = RunRequest {
        message: Some(signal),
    };
    first(TEXT, br#"{"type":"execute"}"#, "as binary");
    first(BINARY, b"\xff\xff", "no `RunRequest`");
    first(BINARY, b"", "says nothing");
    first(BINARY, &signal.encode_to_vec(), "no `Start`");
    assert!(stage.world.notes().is_empty());

    for (message, part) in [
        (Message::Start(Start::default()), "a second `Start`"),
        (Message::Stdin("x".into()), "`stdin`"),
    ] {
        let mut remote = Remote::start(&stage, program("wait"));
        assert!(matches!(remote.event(), Event::Accepted(_)));
        remote.send(message);
        let told = remote.failed();
        assert!(told.message.contains(part), "{}", told.message);
    }
    wait_for("both to end", || stage.world.count("gone") == 2);

    let mut long = Remote::open(&stage);
    long.0.head_of(BINARY, (20 << 20) + 1);
    assert!(long.failed().message.contains("no message"));
}

#[test]
fn a_failure_is_told_as_the_daemon_told_it() {
    let stage = Stage::new();
    let told = Remote::start(&stage, program("refuse egress_unavailable")).failed();
    let expected = ErrorDetail {
        kind: "egress_unavailable".to_owned(),
        message: "it is egress_unavailable".to_owned(),
        causes: vec!["a cause".to_owned()],
        hint: "type this".to_owned(),
        retry_after_ms: 2500,
    };
    assert_eq!(told, expected);
    let mut late = Remote::start(&stage, program("print x\nfail internal"));
    assert!(matches!(late.event(), Event::Accepted(_)));
    assert_eq!(late.event(), Event::Stdout("x".into()));
    assert_eq!(late.failed().kind, "internal");
    let mut broken = Remote::start(&stage, program("break"));
    assert!(matches!(broken.event(), Event::Accepted(_)));
    assert!(broken.failed().message.contains("before the run did"));
}

#[test]
fn a_client_that_goes_cancels_its_run() {
    for says_so in [true, false] {
        let stage = Stage::new();
        let mut remote = Remote::start(&stage, program("wait"));
        stage.world.await_note("waiting");
        if says_so {
            remote.0.frame(CLOSE, &[]);
        }
        drop(remote);
        stage.world.await_note("gone");
    }
}

#[test]
fn the_end_of_the_gateway_is_the_last_event() {
    let stage = Stage::new();
    let mut running = Remote::start(&stage, program("wait"));
    let mut silent = Remote::open(&stage);
    stage.world.await_note("waiting");
    assert!(matches!(running.event(), Event::Accepted(_)));
    stage.stop.cancel();
    assert_eq!(running.failed().kind, "shutting_down");
    assert_eq!(silent.failed().kind, "shutting_down");
    stage.await_end();
    stage.world.await_note("gone");
}

#[test]
fn a_key_has_so_many_runs_and_the_gateway_so_many_sockets() {
    let stage = Stage::with(|bounds| {
        bounds.runs_per_key = 1;
        bounds.sockets = 3;
    });
    let running = Remote::start(&stage, program("wait"));
    stage.world.await_note("waiting");
    let told = Remote::start(&stage, program("exit 0")).failed();
    assert_eq!(
        (told.kind.as_str(), told.retry_after_ms),
        ("at_capacity", 1000)
    );
    let mut other = Remote::open_as(&stage, OTHER_KEY);
    other.send(Message::Start(program("wait")));
    wait_for("the other one", || stage.world.count("waiting") == 2);
    let _third = Remote::open(&stage);
    let mut fourth: Client = stage.client();
    upgrade(&mut fourth, KEY, Some(WIRE));
    let answer = fourth.answer();
    assert_eq!(answer.error(429), "too many WebSockets");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(running);
    wait_for("a place", || {
        let mut client = stage.client();
        upgrade(&mut client, KEY, Some(WIRE));
        client.head().is_some_and(|(status, _)| status == 101)
    });
}

#[test]
fn first_messages_share_the_room_of_bodies() {
    let stage = Stage::with(|bounds| {
        bounds.bodies_bytes = 1 << 20;
        bounds.body = Duration::from_secs(1);
    });
    let code = |what: &str| format!("{what}\n{}", "#".repeat(600 << 10));
    let wire = Remote::start(&stage, program(&code("wait")));
    stage.world.await_note("waiting");
    let told = Remote::start(&stage, program(&code("exit 0"))).failed();
    assert_eq!(
        (told.kind.as_str(), told.message.as_str()),
        ("at_capacity", "too many large requests at once")
    );
    let told = Socket::start(&stage, &code("exit 0"), "").event();
    assert_eq!(told["data"], "too many large requests at once");
    let small = Remote::start(&stage, program("exit 3")).exited();
    assert_eq!(small.code, Some(3));
    drop(wire);
    wait_for("room", || {
        let next = Socket::start(&stage, &code("exit 3"), "").event();
        next["type"] == "exit"
    });
}

/// What comes down waits for its reader, who says in the meantime that it is there.
#[test]
fn who_does_not_read_holds_the_run_up_and_loses_nothing() {
    // Two seconds of silence, and it is gone.
    let stage = Stage::with(|bounds| bounds.comment = Duration::from_millis(1500));
    let mut slow = Remote::start(&stage, program("flood"));
    stage.world.await_note("flooding");
    for _ in 0..30 {
        slow.0.frame(PING, b"");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stage.world.count("gone"), 0);
    assert!(matches!(slow.event(), Event::Accepted(_)));
    for _ in 0..100 {
        assert_eq!(slow.event(), Event::Stdout(vec![b'x'; 256 << 10].into()));
    }
    // It reads no more, and says nothing either.
    stage.world.await_note("gone");
}
