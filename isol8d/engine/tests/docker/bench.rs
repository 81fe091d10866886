//! What a test stands on: a daemon's folders, its engine, and its part in a run.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use isol8_core::{
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
};
use isol8_engine::{
    Engine, Place, Sandbox,
    docker::{DockerEngine, DockerSettings},
    link::PROTOCOL,
};
use isol8_proto::init::{self, EnvVar, exited::How, from_init, to_init};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon's folders and its engine, with everything that it made gone at the end.
pub(crate) struct Bench {
    pub(crate) engine: DockerEngine,
    pub(crate) place: Place,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) fn with(settings: DockerSettings, init: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let place = place_in(folder.path(), DaemonId::random());
        init(&place.kit.join("init"));
        Self {
            engine: DockerEngine::new(place.clone(), settings).unwrap(),
            place,
            _folder: Some(folder),
        }
    }

    /// A daemon with a real init whose folders are in one that stays, and may be
    /// there from an earlier process.
    pub(crate) fn at(folder: &Path, daemon: DaemonId) -> Self {
        let place = place_in(folder, daemon);
        let init = place.kit.join("init");
        if !init.exists() {
            fs::copy(init_binary(), &init).unwrap();
            executable(&init);
        }
        Self {
            engine: DockerEngine::new(place.clone(), settings()).unwrap(),
            place,
            _folder: None,
        }
    }

    /// As a daemon that starts again on what the last one left.
    pub(crate) fn restarted(&self) -> Self {
        self.with_settings(settings())
    }

    /// The same, asking another engine.
    pub(crate) fn with_engine_at(&self, socket: &Path) -> Self {
        self.with_settings(DockerSettings {
            host: Some(format!("unix://{}", socket.display())),
            ..settings()
        })
    }

    fn with_settings(&self, settings: DockerSettings) -> Self {
        Self {
            engine: DockerEngine::new(self.place.clone(), settings).unwrap(),
            place: self.place.clone(),
            _folder: None,
        }
    }

    pub(crate) fn with_init(init: impl FnOnce(&Path)) -> Self {
        Self::with(settings(), init)
    }

    /// With a real init and a real image.
    pub(crate) async fn ready() -> Self {
        Self::with_images_of(&[Runtime::Bash]).await
    }

    /// The same for other runtimes, with a kit that can park.
    pub(crate) async fn with_images_of(runtimes: &[Runtime]) -> Self {
        let bench = Self::with_init(|at| {
            fs::copy(init_binary(), at).unwrap();
            executable(at);
        });
        crate::shared::add_hooks(&bench.place.kit);
        for runtime in runtimes {
            let mut key = spec().key;
            key.runtime = *runtime;
            bench.engine.prepare(&key, &|_| ()).await.unwrap();
        }
        bench
    }

    pub(crate) async fn own(&self) -> Vec<SandboxId> {
        let found = self.engine.list().await.unwrap();
        let own = found
            .into_iter()
            .filter(|found| found.daemon == self.place.daemon);
        own.map(|found| found.id).collect()
    }

    pub(crate) async fn nothing_is_left(&self) {
        assert_eq!(self.own().await, [], "containers stay");
        let folders = self.place.runtime_dir.join("sb");
        let stay = fs::read_dir(folders).map(Iterator::count).unwrap_or(0);
        assert_eq!(stay, 0, "folders stay");
    }
}

/// The folders of a daemon, as its containers and their engine may reach them.
fn place_in(folder: &Path, daemon: DaemonId) -> Place {
    let make = |name: &str, mode| {
        let path = folder.join(name);
        if !path.exists() {
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        path
    };
    Place {
        daemon,
        runtime_dir: make("run", 0o711),
        state_dir: make("state", 0o711),
        kit: make("kit", 0o755),
        authorities: false,
        layers: make("layers", 0o711),
        orphaned: Duration::from_secs(600),
    }
}

pub(crate) fn settings() -> DockerSettings {
    let named = std::env::var_os("ISOL8_TEST_CA_BUNDLE").map(PathBuf::from);
    let usual = Some(PathBuf::from("/etc/ssl/certs/ca-certificates.crt"));
    DockerSettings {
        ca_bundle: named.or(usual.filter(|path| path.is_file())),
        ..DockerSettings::default()
    }
}

pub(crate) fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
}

pub(crate) fn script(text: &'static str) -> impl FnOnce(&Path) {
    move |at| {
        fs::write(at, text).unwrap();
        executable(at);
    }
}

/// The static init that is released, or one built like it.
fn init_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let released = std::env::var_os("ISOL8_BIN_DIR").map(PathBuf::from);
        let released = released.map(|folder| folder.join("isol8-init"));
        if let Some(init) = released.filter(|init| init.is_file()) {
            return init;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let status = Command::new(env!("CARGO"))
            .current_dir(&root)
            .args([
                "rustc",
                "-q",
                "--release",
                "-p",
                "isol8-init",
                "--target",
                &target,
            ])
            .args([
                "--target-dir",
                "target",
                "--",
                "-C",
                "target-feature=+crt-static",
            ])
            .status()
            .unwrap();
        assert!(status.success(), "isol8-init cannot be built");
        root.join(format!("target/{target}/release/isol8-init"))
    })
}

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        key: SandboxKey {
            engine: EngineKind::Docker,
            runtime: Runtime::Bash,
            image: None,
            network: Network::None,
            writable: false,
            sandbox_size: ByteSize::mib(64),
            tmp_size: ByteSize::mib(32),
            layer: None,
        },
        limits: Limits {
            memory: ByteSize::mib(256),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).unwrap(),
        },
        lasting: false,
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stdout: String,
    pub(crate) how: How,
}

async fn next(sandbox: &mut Sandbox) -> from_init::Message {
    let next = timeout(PATIENCE, sandbox.link.reader.recv()).await;
    next.expect("init answers").unwrap()
}

async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
    sandbox.link.writer.send(message).await.unwrap();
}

/// Runs a bash program in a sandbox that nothing was said to yet.
pub(crate) async fn run(sandbox: &mut Sandbox, program: &str) -> Ended {
    match next(sandbox).await {
        from_init::Message::Hello(hello) => assert_eq!(hello.protocol, PROTOCOL),
        other => panic!("{other:?} in place of a hello"),
    }
    let prepare = init::Prepare::default();
    send(sandbox, to_init::Message::Prepare(prepare)).await;
    assert!(matches!(next(sandbox).await, from_init::Message::Ready(_)));
    let file = init::File {
        path: b"main.sh".as_ref().into(),
        data: program.as_bytes().to_vec().into(),
        append: false,
        last: true,
        mode: 0o644,
        ..init::File::default()
    };
    send(sandbox, to_init::Message::File(file)).await;
    match next(sandbox).await {
        from_init::Message::FileWritten(_) => {}
        other => panic!("{other:?} in place of a written file"),
    }
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    let exec = init::Exec {
        command: Some(init::Command {
            argv: [sandbox.interpreter.program.as_str(), "/sandbox/main.sh"]
                .map(bytes)
                .into(),
            env: vec![EnvVar {
                name: bytes("PATH"),
                value: bytes(&sandbox.interpreter.path),
            }],
            cwd: bytes("/sandbox"),
        }),
        use_parked: false,
        stdout_credit: 1 << 20,
        stderr_credit: 1 << 20,
        stdin: false,
    };
    send(sandbox, to_init::Message::Exec(exec)).await;
    let mut output = Vec::new();
    loop {
        match next(sandbox).await {
            from_init::Message::Stdout(piece) => output.extend_from_slice(&piece),
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
    let ended = run(&mut sandbox, program).await;
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    bench.engine.destroy(&spec.id).await.unwrap();
    (ended, counters)
}
