//! What holds on every engine.

pub(crate) mod door;
pub(crate) mod lasting;
pub(crate) mod layer;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use isol8_core::{park, sandbox::SandboxKey};
use isol8_engine::Sandbox;
use isol8_proto::init::{self, EnvVar, from_init, to_init};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Puts the hooks beside init, as the kit has them.
pub(crate) fn add_hooks(kit: &Path) {
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/park");
    fs::create_dir_all(kit.join("park/python")).unwrap();
    for hook in ["python/sitecustomize.py", "node.cjs"] {
        fs::copy(hooks.join(hook), kit.join("park").join(hook)).unwrap();
    }
}

/// A sandbox whose interpreter is parked, where it can be.
pub(crate) struct Ready {
    pub(crate) sandbox: Sandbox,
    key: SandboxKey,
    parked: bool,
}

async fn next(sandbox: &mut Sandbox) -> from_init::Message {
    let next = timeout(PATIENCE, sandbox.link.reader.recv()).await;
    next.expect("init answers").unwrap()
}

async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
    sandbox.link.writer.send(message).await.unwrap();
}

fn command(argv: &[String], env: BTreeMap<String, String>) -> init::Command {
    let variable = |(name, value): (String, String)| EnvVar {
        name: name.into_bytes().into(),
        value: value.into_bytes().into(),
    };
    init::Command {
        argv: argv.iter().map(|word| word.clone().into()).collect(),
        env: env.into_iter().map(variable).collect(),
        cwd: b"/sandbox".to_vec().into(),
    }
}

impl Ready {
    /// Takes a sandbox that nothing was said to yet.
    pub(crate) async fn of(mut sandbox: Sandbox, key: &SandboxKey, park: bool) -> Self {
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Hello(_)
        ));
        let interpreter = &sandbox.interpreter;
        let plan = park::plan(key.runtime, &interpreter.program).filter(|_| park);
        let parked = plan.map(|plan| {
            let mut env = interpreter.environment(key.network);
            env.extend(plan.extra_env);
            command(&plan.argv, env)
        });
        let wanted = parked.is_some();
        send(
            &mut sandbox,
            to_init::Message::Prepare(init::Prepare {
                parked,
                ..init::Prepare::default()
            }),
        )
        .await;
        match next(&mut sandbox).await {
            from_init::Message::Ready(ready) => assert_eq!(ready.parked, wanted, "it parks"),
            other => panic!("{other:?} in place of Ready"),
        }
        Self {
            sandbox,
            key: key.clone(),
            parked: wanted,
        }
    }

    /// Starts a program in the runtime of the sandbox.
    pub(crate) async fn start(&mut self, extension: &str, program: &str) {
        let path = format!("/sandbox/main.{extension}");
        let file = init::File {
            path: format!("main.{extension}").into(),
            data: program.as_bytes().to_vec().into(),
            append: false,
            last: true,
            mode: 0o644,
            ..init::File::default()
        };
        send(&mut self.sandbox, to_init::Message::File(file)).await;
        match next(&mut self.sandbox).await {
            from_init::Message::FileWritten(_) => {}
            other => panic!("{other:?} in place of a written file"),
        }
        let interpreter = &self.sandbox.interpreter;
        let argv = self.key.runtime.command_line(&interpreter.program, &path);
        let exec = init::Exec {
            command: Some(command(&argv, interpreter.environment(self.key.network))),
            use_parked: self.parked,
            stdout_credit: 1 << 20,
            stderr_credit: 1 << 20,
            stdin: false,
        };
        send(&mut self.sandbox, to_init::Message::Exec(exec)).await;
        match next(&mut self.sandbox).await {
            from_init::Message::Started(started) => assert_eq!(started.parked, self.parked),
            other => panic!("{other:?} in place of Started"),
        }
    }

    /// What it writes until it ends: stdout, then stderr.
    pub(crate) async fn output(&mut self) -> String {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match next(&mut self.sandbox).await {
                from_init::Message::Stdout(piece) => stdout.extend_from_slice(&piece),
                from_init::Message::Stderr(piece) => stderr.extend_from_slice(&piece),
                from_init::Message::Exited(_) => break,
                other => panic!("{other:?} in place of output"),
            }
        }
        stdout.append(&mut stderr);
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// [`Ready::start`] and [`Ready::output`].
    pub(crate) async fn run(&mut self, program: &str) -> String {
        let extension = self.key.runtime.extension();
        self.start(extension, program).await;
        self.output().await
    }
}
