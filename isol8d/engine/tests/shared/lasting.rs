//! Sandboxes that outlive their stream, and are taken over.

use std::{
    env, fs,
    net::TcpListener as StdListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use isol8_core::{
    failure::FailureKind,
    ids::{DaemonId, SandboxId},
    quantity::ByteSize,
    runtime::Runtime,
    sandbox::{Network, SandboxSpec},
};
use isol8_engine::{
    Adoption, Engine, Interpreter, Sandbox, meet,
    presence::{self, Presence, Spared},
};
use isol8_proto::init::{self, Hello, from_init, to_init};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};

use super::{PATIENCE, Ready, next, send};

const TOKEN: &[u8] = b"the token of this test";
/// Names the folder in which a test plays the daemon that is going to be killed.
const DAEMON: &str = "ISOL8_TEST_LASTING";

/// Leaves a file and a process, and says which.
const LEAVE: &str = "echo 42 > /sandbox/kept; echo 43 > /tmp/kept
setsid sleep 600 < /dev/null > /dev/null 2>&1 &
echo $! > /sandbox/background; echo left";
/// Never ends, and ignores what can be ignored.
const STAY: &str = "echo $$ > /sandbox/own; echo here; trap '' TERM HUP PIPE
while :; do sleep 0.1; done";
/// What of it is there.
const LOOK: &str = "cat /sandbox/kept /tmp/kept
kill -0 $(cat /sandbox/background) && echo in the background
kill -0 $(cat /sandbox/own) 2> /dev/null && echo still running
true";
const FOUND: &str = "42\n43\nin the background\n";

/// Of a runtime, with a name of its own.
pub(crate) fn lasting(spec: &SandboxSpec, runtime: Runtime) -> SandboxSpec {
    let mut spec = spec.clone();
    spec.id = SandboxId::random();
    spec.key.runtime = runtime;
    spec.lasting = true;
    spec
}

pub(crate) fn adoption(spec: &SandboxSpec, sandbox: &Sandbox) -> Adoption {
    Adoption {
        spec: spec.clone(),
        uid: sandbox.uid,
        interpreter: sandbox.interpreter.clone(),
    }
}

/// Up to where programs can start.
async fn greet(mut sandbox: Sandbox, spec: &SandboxSpec) -> (Ready, Hello) {
    let hello = match next(&mut sandbox).await {
        from_init::Message::Hello(hello) => hello,
        other => panic!("{other:?} in place of Hello"),
    };
    let prepare = init::Prepare {
        token: TOKEN.into(),
        ..init::Prepare::default()
    };
    send(&mut sandbox, to_init::Message::Prepare(prepare)).await;
    match next(&mut sandbox).await {
        from_init::Message::Ready(_) => {}
        other => panic!("{other:?} in place of Ready"),
    }
    let ready = Ready {
        sandbox,
        key: spec.key.clone(),
        parked: false,
    };
    (ready, hello)
}

/// Makes one, leaves something in it, and lets a program run in it.
async fn lived_in(engine: &dyn Engine, spec: &SandboxSpec) -> Sandbox {
    let sandbox = engine.create(spec).await.unwrap();
    let (mut ready, hello) = greet(sandbox, spec).await;
    assert!(hello.lasting && hello.token.is_empty(), "{hello:?}");
    assert_eq!(ready.run(LEAVE).await, "left\n");
    ready.start("sh", STAY).await;
    match next(&mut ready.sandbox).await {
        from_init::Message::Stdout(piece) => assert_eq!(piece, "here\n"),
        other => panic!("{other:?} in place of output"),
    }
    ready.sandbox
}

/// Takes it over, and finds what was left and nothing that ran.
async fn found_again(engine: &dyn Engine, adoption: &Adoption) -> Ready {
    let sandbox = engine.adopt(adoption).await.unwrap();
    assert_eq!(sandbox.id, adoption.spec.id);
    assert_eq!(sandbox.uid, adoption.uid);
    let (mut ready, hello) = greet(sandbox, &adoption.spec).await;
    assert!(hello.lasting && hello.token == TOKEN, "{hello:?}");
    assert_eq!(ready.run(LOOK).await, FOUND);
    ready
}

/// By the engine that made it, and by those of later daemons on the same folders.
pub(crate) async fn one_outlives_its_stream(
    engine: &dyn Engine,
    later: &dyn Engine,
    spec: &SandboxSpec,
) {
    let mut spec = lasting(spec, Runtime::Bash);
    let sandbox = lived_in(engine, &spec).await;
    let adoption = adoption(&spec, &sandbox);
    drop(sandbox);
    for engine in [engine, engine, later, engine] {
        let ready = found_again(engine, &adoption).await;
        spec.limits.memory = ByteSize::mib(spec.limits.memory.as_bytes() / (1 << 20) + 1);
        engine.set_limits(&spec.id, &spec.limits).await.unwrap();
        let counters = engine.counters(&spec.id).await.unwrap();
        assert!(counters.shmem_bytes > 0, "{counters:?}");
        drop(ready);
    }
    let found = later.list().await.unwrap();
    assert!(found.iter().any(|found| found.id == spec.id));
    later.destroy(&spec.id).await.unwrap();
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
    engine.destroy(&spec.id).await.unwrap();
}

/// A program inside may dial the same socket, and be the first to do so.
pub(crate) async fn a_program_is_no_init(engine: &dyn Engine, spec: &SandboxSpec) {
    let program = r#"
import os, socket, sys, time
sys.stdout.write("dialling\n")
sys.stdout.flush()
if os.fork():
    os._exit(0)
os.setsid()
for fd in range(3):
    os.close(fd)
tries = 0
while True:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect("/isol8/link/sock")
    except OSError:
        time.sleep(0.0005)
        continue
    tries += 1
    answer = b"?"
    try:
        # FromInit { hello: { protocol: 1, version: "x", lasting: true } }
        line.sendall(b"\x09\0\0\0\x0a\x07\x08\x01\x12\x01x\x20\x01")
        answer = line.recv(100)
    except OSError:
        answer = b""
    with open("/sandbox/calls", "a") as calls:
        calls.write("turned away\n" if answer == b"" else "HEARD\n")
"#;
    let spec = lasting(spec, Runtime::Python);
    let sandbox = engine.create(&spec).await.unwrap();
    let adoption = adoption(&spec, &sandbox);
    let (mut ready, _) = greet(sandbox, &spec).await;
    assert_eq!(ready.run(program).await, "dialling\n");
    let look = "print(open('/sandbox/calls').read())";
    let end = Instant::now() + PATIENCE;
    loop {
        drop(ready);
        let sandbox = engine.adopt(&adoption).await.unwrap();
        let (again, hello) = greet(sandbox, &spec).await;
        assert!(hello.lasting && hello.token == TOKEN, "{hello:?}");
        ready = again;
        let calls = ready.run(look).await;
        assert!(!calls.contains("HEARD"), "{calls}");
        // It may have been too late.
        if calls.contains("turned away") {
            break;
        }
        assert!(Instant::now() < end, "it never dialled: {calls}");
    }
    engine.destroy(&spec.id).await.unwrap();
}

/// What is not there, never was, does not last, or dies meanwhile. `kill` ends
/// everything in a sandbox, and nothing else of it.
pub(crate) async fn what_is_gone_is_not_found(
    engine: &dyn Engine,
    later: &dyn Engine,
    spec: &SandboxSpec,
    runtime_dir: &Path,
    kill: impl Fn(&SandboxId),
) {
    let mut brief = lasting(spec, Runtime::Bash);
    brief.lasting = false;
    let sandbox = engine.create(&brief).await.unwrap();
    let mut gone = adoption(&brief, &sandbox);
    drop(sandbox);
    let failure = engine.adopt(&gone).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
    gone.spec.id = SandboxId::random();
    let failure = engine.adopt(&gone).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
    engine.destroy(&brief.id).await.unwrap();

    for adopting in [engine, later] {
        let spec = lasting(spec, Runtime::Bash);
        let sandbox = engine.create(&spec).await.unwrap();
        let adoption = adoption(&spec, &sandbox);
        // Its init has a stream and does not dial, so that it is waited for.
        let socket = meet::folder_of(runtime_dir, &spec.id).join("sock");
        let (adopted, second) = tokio::join!(adopting.adopt(&adoption), async {
            let end = Instant::now() + PATIENCE;
            while !socket.exists() {
                assert!(Instant::now() < end, "nobody waits for it");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let second = adopting.adopt(&adoption).await;
            kill(&spec.id);
            second
        });
        let failure = adopted.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
        let failure = second.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal, "one at a time");
        let failure = adopting.adopt(&adoption).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
        drop(sandbox);
        adopting.destroy(&spec.id).await.unwrap();
        engine.destroy(&spec.id).await.unwrap();
    }
}

/// One that is held by somebody.
pub(crate) async fn what_lives_and_does_not_dial_is_late(engine: &dyn Engine, spec: &SandboxSpec) {
    let spec = lasting(spec, Runtime::Bash);
    let sandbox = engine.create(&spec).await.unwrap();
    let adoption = adoption(&spec, &sandbox);
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineTimeout, "{failure}");
    let (mut ready, _) = greet(sandbox, &spec).await;
    assert_eq!(ready.run("echo unharmed").await, "unharmed\n");
    drop(ready);
    let again = engine.adopt(&adoption).await.unwrap();
    let (mut ready, _) = greet(again, &spec).await;
    assert_eq!(ready.run("echo unharmed").await, "unharmed\n");
    engine.destroy(&spec.id).await.unwrap();
}

/// The listening socket of a filtered network comes again.
pub(crate) async fn the_door_comes_again(
    engine: &dyn Engine,
    later: &dyn Engine,
    spec: &SandboxSpec,
) {
    let mut spec = lasting(spec, Runtime::Python);
    spec.key.network = Network::Filtered;
    let sandbox = engine.create(&spec).await.unwrap();
    let adoption = adoption(&spec, &sandbox);
    drop(sandbox);
    let mut sandbox = later.adopt(&adoption).await.unwrap();
    let listener = StdListener::from(sandbox.listener.take().expect("a listener"));
    let listener = TcpListener::from_std(listener).unwrap();
    let (mut ready, _) = greet(sandbox, &spec).await;
    let program = "import socket
socket.create_connection(('127.0.0.1', 8118)).sendall(b'ping')";
    ready.start("py", program).await;
    let accepted = timeout(PATIENCE, listener.accept()).await;
    let (mut stream, _) = accepted.unwrap().unwrap();
    let mut heard = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, "ping");
    assert_eq!(ready.output().await, "");
    engine.destroy(&spec.id).await.unwrap();
    later.destroy(&spec.id).await.unwrap();
}

/// Nobody comes for it. `is_there`: something lives in it.
pub(crate) async fn an_orphan_ends_by_itself(
    engine: &dyn Engine,
    spec: &SandboxSpec,
    is_there: impl Fn(&SandboxId) -> bool,
) {
    let spec = lasting(spec, Runtime::Bash);
    let sandbox = lived_in(engine, &spec).await;
    let adoption = adoption(&spec, &sandbox);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(is_there(&spec.id), "it has a daemon");
    drop(sandbox);
    let end = Instant::now() + PATIENCE;
    while is_there(&spec.id) {
        assert!(Instant::now() < end, "it lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let failure = engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
    engine.destroy(&spec.id).await.unwrap();
}

/// The folder and the name of the daemon that this process is to play, if any.
pub(crate) fn part_to_play() -> Option<(PathBuf, DaemonId)> {
    let folder = PathBuf::from(env::var_os(DAEMON)?);
    let daemon = fs::read_to_string(folder.join("daemon")).unwrap();
    Some((folder, DaemonId::parse(&daemon).unwrap()))
}

/// Plays a daemon: has a sandbox that lasts, tells of it, and waits to be killed.
pub(crate) async fn live_until_killed(
    engine: &dyn Engine,
    daemon: &DaemonId,
    spec: &SandboxSpec,
    folder: &Path,
) {
    let spec = lasting(spec, Runtime::Bash);
    // Other daemons of this host come along.
    let spared = Spared {
        id: spec.id.clone(),
        until: SystemTime::now() + PATIENCE,
    };
    let presence = Presence::announce(daemon).unwrap();
    presence.spare(&[spared]).unwrap();
    let sandbox = lived_in(engine, &spec).await;
    let Interpreter { program, path, .. } = &sandbox.interpreter;
    let told = format!("{}\n{}\n{program}\n{path}\n", spec.id, sandbox.uid);
    fs::write(folder.join("telling"), told).unwrap();
    fs::rename(folder.join("telling"), folder.join("told")).unwrap();
    std::future::pending::<()>().await;
}

/// Starts this very test as a daemon of its own, kills it with all of its process
/// group, and says what it has left.
pub(crate) async fn left_by_a_killed_daemon(
    test: &str,
    daemon: &DaemonId,
    spec: &SandboxSpec,
    folder: &Path,
) -> Adoption {
    fs::write(folder.join("daemon"), daemon.as_str()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DAEMON, folder)
        .process_group(0)
        .spawn()
        .unwrap();
    let told = folder.join("told");
    let end = Instant::now() + PATIENCE;
    while !told.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        assert!(Instant::now() < end, "it tells nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process_group(group, Signal::KILL).unwrap();
    child.wait().unwrap();
    let told = fs::read_to_string(told).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    let [id, uid, program, path] = lines[..] else {
        panic!("{told}");
    };
    let mut spec = lasting(spec, Runtime::Bash);
    spec.id = SandboxId::parse(id).unwrap();
    assert!(!presence::is_alive(daemon) && presence::spares(daemon, &spec.id));
    assert!(!presence::spares(daemon, &SandboxId::random()));
    Adoption {
        spec,
        uid: uid.parse().unwrap(),
        interpreter: Interpreter {
            program: program.to_owned(),
            path: path.to_owned(),
            parkable: false,
            authorities: None,
            deno_dir: None,
        },
    }
}

/// The next daemon has it.
pub(crate) async fn the_next_daemon_has_it(engine: &dyn Engine, left: &Adoption) {
    drop(found_again(engine, left).await);
    let ready = found_again(engine, left).await;
    engine.destroy(&left.spec.id).await.unwrap();
    drop(ready);
}
