//! What is typed, and what is asked for; in [`refusals`], what is not.

mod network;
mod refusals;
mod remote;
mod session;

use std::{collections::BTreeMap, fs};

use clap::Parser as _;
use isol8_core::quantity::ByteSize;
use isol8_proto::v1::NetworkMode;

use super::*;
use crate::args::{Args, Command};

struct Place {
    stdin: StdinKind,
    program: &'static [u8],
    env: &'static [(&'static str, &'static str)],
    config: Config,
    configured: bool,
    trust: Trust,
    /// The keys of its file.
    given: &'static [&'static str],
}

impl Default for Place {
    fn default() -> Self {
        Self {
            stdin: StdinKind::Nothing,
            program: b"",
            env: &[],
            config: Config::default(),
            configured: false,
            trust: Trust::Full,
            given: &[],
        }
    }
}

fn typed(argv: &[&str]) -> RunArgs {
    let argv = ["isol8", "run"].iter().chain(argv);
    match Args::try_parse_from(argv).expect("clap takes it").command {
        Command::Run(args) => *args,
        other => panic!("not a run: {other:?}"),
    }
}

fn planned(place: &Place, argv: &[&str]) -> Result<Plan, Failure> {
    let lookup = |name: &str| {
        let found = place.env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let mut read = |most: u64| {
        let most = usize::try_from(most).expect("it is small");
        Ok(place.program[..place.program.len().min(most)].to_vec())
    };
    let mut world = World {
        stdin: place.stdin,
        read_stdin: &mut read,
        env: &lookup,
        config: &place.config,
        configured: place.configured,
        trust: place.trust,
        given: &|key| place.given.contains(&key),
    };
    plan(typed(argv), &mut world)
}

fn start(argv: &[&str]) -> Start {
    planned(&Place::default(), argv).expect("a plan").start
}

#[test]
fn nothing_typed_leaves_everything_to_the_daemon() {
    let start = start(&["-e", "print(1)"]);
    assert_eq!(start.code, "print(1)");
    let expected = Start {
        runtime: WireRuntime::Python.into(),
        code: "print(1)".into(),
        network: NetworkMode::None.into(),
        limits: Some(isol8_proto::v1::Limits::default()),
        ..Start::default()
    };
    assert_eq!(start, expected);
}

#[test]
fn every_flag_arrives() {
    let start = start(&[
        "-e",
        "-1",
        "-r",
        "node",
        "--stdin",
        "x",
        "--net=host",
        "--timeout",
        "5000",
        "--memory",
        "1g",
        "--cpu",
        "0.5",
        "--pids-limit",
        "9",
        "--sandbox-size",
        "3m",
        "--tmp-size",
        "2mb",
        "--max-output",
        "10g",
        "--writable",
        "--image",
        "node:20",
        "--engine",
        "docker",
        "--env",
        "A=b=c",
        "--secret",
        "S=tell",
        "--no-stream",
    ]);
    let expected = Start {
        runtime: WireRuntime::Node.into(),
        code: "-1".into(),
        extension: String::new(),
        engine: Engine::Docker.into(),
        network: NetworkMode::Host.into(),
        limits: Some(isol8_proto::v1::Limits {
            timeout_ms: 5000,
            memory_bytes: 1 << 30,
            cpu_millis: 500,
            pids: 9,
            sandbox_bytes: 3 << 20,
            tmp_bytes: 2 << 20,
            max_output_bytes: 10 << 30,
        }),
        writable: true,
        image: "node:20".to_owned(),
        env: [("A".to_owned(), "b=c".to_owned())].into(),
        secrets: [("S".to_owned(), "tell".to_owned())].into(),
        stdin: true,
        buffered: true,
        ..Start::default()
    };
    assert_eq!(start, expected);
}

#[test]
fn a_file_chooses_its_runtime_and_keeps_its_extension() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [
        ("a.py", WireRuntime::Python, "py"),
        ("a.js", WireRuntime::Node, "js"),
        ("a.mjs", WireRuntime::Node, "mjs"),
        ("a.cjs", WireRuntime::Node, "cjs"),
        ("a.ts", WireRuntime::Bun, "ts"),
        ("a.mts", WireRuntime::Deno, "mts"),
        ("a.b.sh", WireRuntime::Bash, "sh"),
        ("A.PY", WireRuntime::Python, "py"),
    ];
    for (name, runtime, extension) in cases {
        let path = folder.path().join(name);
        fs::write(&path, name).expect("room");
        let start = start(&[path.to_str().expect("plain")]);
        assert_eq!(
            (start.runtime(), start.extension.as_str()),
            (runtime, extension)
        );
        assert_eq!(start.code, name);
    }
}

#[test]
fn with_a_runtime_any_name_is_a_program() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, extension) in [
        ("script", ""),
        ("a.txt", "txt"),
        ("a.b-c", ""),
        ("a.py", "py"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, "1").expect("room");
        let start = start(&["-r", "bash", path.to_str().expect("plain")]);
        assert_eq!(start.runtime(), WireRuntime::Bash);
        assert_eq!(start.extension, extension, "{name}");
    }
}

#[test]
fn inline_node_code_may_import_and_require() {
    let extension = |argv: &[&str]| start(argv).extension;
    assert_eq!(extension(&["-r", "node", "-e", "require('os')"]), "");
    assert_eq!(
        extension(&["-r", "node", "-e", "import os from 'os'"]),
        "mjs"
    );
    assert_eq!(extension(&["-r", "bun", "-e", "import os from 'os'"]), "");
    let place = Place {
        program: b"import 'os'",
        ..Place::default()
    };
    let piped = planned(&place, &["-r", "node"]).expect("a plan");
    assert_eq!(piped.start.extension, "mjs");
}

#[test]
fn an_empty_program_is_a_program() {
    let place = Place {
        stdin: StdinKind::Readable,
        program: b"never read",
        ..Place::default()
    };
    let plan = planned(&place, &["-e", ""]).expect("a plan");
    assert_eq!(plan.start.code, "");
    assert_eq!(plan.stdin, Stdin::Stream);
}

#[test]
fn stdin_is_the_program_or_its_input() {
    let at = |stdin| Place {
        stdin,
        program: b"code",
        ..Place::default()
    };
    let stdin = |kind, argv: &[&str]| planned(&at(kind), argv).expect("a plan").stdin;
    let code = planned(&at(StdinKind::Readable), &[]).expect("a plan");
    assert_eq!(
        (&code.start.code[..], code.stdin),
        (&b"code"[..], Stdin::Closed)
    );
    let dash = planned(&at(StdinKind::Readable), &["-"]).expect("a plan");
    assert_eq!(&dash.start.code[..], b"code");

    let inline = ["-e", "1"];
    assert_eq!(stdin(StdinKind::Readable, &inline), Stdin::Stream);
    assert_eq!(stdin(StdinKind::Nothing, &inline), Stdin::Closed);
    assert_eq!(stdin(StdinKind::Terminal, &inline), Stdin::Closed);
    assert_eq!(
        stdin(StdinKind::Terminal, &["-i", "-e", "1"]),
        Stdin::Stream
    );
    let data = Stdin::Data(Bytes::from_static(b"x"));
    assert_eq!(
        stdin(StdinKind::Readable, &["-e", "1", "--stdin", "x"]),
        data
    );
    assert_eq!(stdin(StdinKind::Readable, &["--stdin", "x"]), data);
    assert_eq!(
        stdin(StdinKind::Readable, &["-e", "1", "--stdin", ""]),
        Stdin::Closed
    );
}

#[test]
fn a_file_beats_the_daemon_and_a_flag_beats_the_file() {
    let mut place = Place {
        configured: true,
        ..Place::default()
    };
    place.config.defaults.limits.memory = ByteSize::mib(64);
    place.config.defaults.readonly_root = false;
    place.config.engine = EngineChoice::Only(EngineKind::Native);
    let plan = planned(&place, &["-e", "1", "--timeout", "7"]).expect("a plan");
    let typed = isol8_proto::v1::Limits {
        timeout_ms: 7,
        ..Default::default()
    };
    assert_eq!(plan.start.limits, Some(typed));
    let limits = plan.start.defaults.expect("of the file");
    assert_eq!((limits.memory_bytes, limits.timeout_ms), (64 << 20, 30_000));
    assert_eq!((limits.pids, limits.cpu_millis), (64, 1000));
    assert_eq!(
        (limits.sandbox_bytes, limits.tmp_bytes),
        (512 << 20, 256 << 20)
    );
    assert_eq!(limits.max_output_bytes, 1 << 20);
    assert!(plan.start.writable);
    assert_eq!(plan.start.engine(), Engine::Native);
    let plan = planned(&place, &["-e", "1", "--engine", "auto", "--memory", "8m"]);
    let start = plan.expect("a plan").start;
    assert_eq!(start.engine(), Engine::Unspecified);
    assert_eq!(start.limits.expect("limits").memory_bytes, 8 << 20);
}

#[test]
fn the_files_network_does_not_reach_a_run() {
    let mut place = Place {
        configured: true,
        ..Place::default()
    };
    place.config.defaults.network = isol8_core::sandbox::Network::Host;
    let plan = planned(&place, &["-e", "1"]).expect("a plan");
    assert_eq!(plan.start.network(), NetworkMode::None);
}

#[test]
fn packages_of_our_file_replace_the_daemons() {
    let mut place = Place {
        given: &["dependencies.python", "dependencies.bun"],
        ..Place::default()
    };
    place.config.dependencies = BTreeMap::from([
        (Runtime::Python, vec!["numpy".to_owned()]),
        (Runtime::Bun, Vec::new()),
    ]);
    let sent = |runtime: &str| {
        let plan = planned(&place, &["-e", "1", "-r", runtime]).expect("a plan");
        plan.start.dependencies.map(|sent| sent.packages)
    };
    assert_eq!(sent("python"), Some(vec!["numpy".to_owned()]));
    assert_eq!(sent("bun"), Some(Vec::new()), "an empty list is one too");
    assert_eq!(sent("node"), None);
}

#[test]
fn a_secret_can_come_from_the_environment() {
    let place = Place {
        env: &[("TOKEN", "hunter2")],
        ..Place::default()
    };
    let plan = planned(&place, &["-e", "1", "--secret", "TOKEN"]).expect("a plan");
    assert_eq!(plan.start.secrets["TOKEN"], "hunter2");
}

#[test]
fn no_message_shows_a_value() {
    for argv in [
        ["-e", "1", "--secret", "KEY=hu2"],
        ["-e", "1", "--secret", "=hunter2"],
        ["-e", "1", "--secret", "hunter2"],
        ["-e", "1", "--secret", "hunter2 x"],
        ["-e", "1", "--secret", "A B=hunter2"],
        ["-e", "1", "--env", "=hunter2"],
        ["-e", "1", "--env", "hunter2"],
    ] {
        let failure = planned(&Place::default(), &argv).expect_err("it is wrong");
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{argv:?}");
        assert!(!format!("{failure:?}").contains("hu"), "{failure:?}");
    }
}

#[test]
fn too_long_programs_are_refused_and_the_longest_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("big.py");
    let file = fs::File::create(&path).expect("a file");
    let most = u64::try_from(isol8_core::request::MAX_CODE_BYTES).expect("it is small");
    file.set_len(most).expect("a sparse file");
    let text = path.to_str().expect("plain");
    assert_eq!(
        start(&[text]).code.len(),
        isol8_core::request::MAX_CODE_BYTES
    );
    file.set_len(most + 1).expect("a sparse file");
    let failure = planned(&Place::default(), &[text]).expect_err("too long");
    assert!(failure.message.contains("more than 16 MiB"), "{failure}");
    let long = vec![b'1'; isol8_core::request::MAX_CODE_BYTES + 9];
    let place = Place {
        program: long.leak(),
        ..Place::default()
    };
    let failure = planned(&place, &[]).expect_err("too long");
    assert!(failure.message.contains("on stdin has more"), "{failure}");
}

#[test]
fn a_wrong_flag_never_waits_for_stdin() {
    let mut read = |_| panic!("stdin must not be read");
    let config = Config::default();
    let mut world = World {
        stdin: StdinKind::Readable,
        read_stdin: &mut read,
        env: &|_| None,
        config: &config,
        configured: false,
        trust: Trust::Full,
        given: &|_| false,
    };
    for argv in [
        ["--memory", "x"],
        ["--session", "-"],
        ["--install", ""],
        ["--net", "x"],
    ] {
        assert!(plan(typed(&argv), &mut world).is_err());
    }
}
