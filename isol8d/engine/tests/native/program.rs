//! The daemon's part in a run.

use isol8_core::{
    outcome::Counters,
    runtime::Runtime,
    sandbox::{Network, SandboxSpec},
};
use isol8_engine::{Engine, Sandbox, link::PROTOCOL};
use isol8_proto::init::{self, EnvVar, exited::How, from_init, to_init};
use tokio::time::timeout;

use crate::bench::{Bench, PATIENCE};

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stdout: String,
    pub(crate) how: How,
}

pub(crate) async fn next(sandbox: &mut Sandbox) -> from_init::Message {
    let next = timeout(PATIENCE, sandbox.link.reader.recv()).await;
    next.expect("init answers").unwrap()
}

pub(crate) async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
    sandbox.link.writer.send(message).await.unwrap();
}

/// Up to the program's start, in a sandbox that nothing was said to yet.
pub(crate) async fn start(sandbox: &mut Sandbox, runtime: Runtime, program: &str) {
    match next(sandbox).await {
        from_init::Message::Hello(hello) => assert_eq!(hello.protocol, PROTOCOL),
        other => panic!("{other:?} in place of a hello"),
    }
    let prepare = init::Prepare::default();
    send(sandbox, to_init::Message::Prepare(prepare)).await;
    assert!(matches!(next(sandbox).await, from_init::Message::Ready(_)));
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    let name = format!("main.{}", runtime.extension());
    let file = init::File {
        path: bytes(&name),
        data: bytes(program),
        append: false,
        last: true,
        mode: 0o644,
        ..init::File::default()
    };
    send(sandbox, to_init::Message::File(file)).await;
    assert!(matches!(
        next(sandbox).await,
        from_init::Message::FileWritten(_)
    ));
    let argv = runtime.command_line(&sandbox.interpreter.program, &format!("/sandbox/{name}"));
    let env = sandbox.interpreter.environment(Network::None);
    let exec = init::Exec {
        command: Some(init::Command {
            argv: argv.iter().map(|word| bytes(word)).collect(),
            env: env
                .iter()
                .map(|(name, value)| EnvVar {
                    name: bytes(name),
                    value: bytes(value),
                })
                .collect(),
            cwd: bytes("/sandbox"),
        }),
        use_parked: false,
        stdout_credit: 1 << 20,
        stderr_credit: 1 << 20,
        stdin: false,
    };
    send(sandbox, to_init::Message::Exec(exec)).await;
}

pub(crate) async fn finish(sandbox: &mut Sandbox) -> Ended {
    let mut output = Vec::new();
    loop {
        match next(sandbox).await {
            from_init::Message::Stdout(piece) => output.extend_from_slice(&piece),
            from_init::Message::Stderr(piece) => {
                eprintln!("{}", String::from_utf8_lossy(&piece));
            }
            from_init::Message::Exited(exited) => {
                let stdout = String::from_utf8_lossy(&output).into_owned();
                let how = exited.how.unwrap();
                return Ended { stdout, how };
            }
            from_init::Message::Failed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
}

/// Makes a sandbox, runs a program in it, reads its figures, destroys it.
pub(crate) async fn once(bench: &Bench, spec: &SandboxSpec, program: &str) -> (Ended, Counters) {
    let mut sandbox = bench.engine.create(spec).await.unwrap();
    start(&mut sandbox, spec.key.runtime, program).await;
    let ended = finish(&mut sandbox).await;
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    bench.engine.destroy(&spec.id).await.unwrap();
    (ended, counters)
}
