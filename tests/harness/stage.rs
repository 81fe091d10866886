//! A daemon of one test's own, in folders of its own, and what is done with it.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    call::Call,
    host::{self, Process},
    leftovers::Leftovers,
    session::Session,
    wait::{seconds, wait_until},
};

/// Stands in the environment of every daemon: no program may see it.
pub const CANARY: &str = "nobody-may-read-this-of-the-daemon";

/// What makes the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Containers.
    Docker,
    /// Jails.
    Native,
}

impl Engine {
    /// Its name on the command line and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }

    /// Fails in words where the host lacks it: a test that is passed over proves
    /// nothing.
    #[track_caller]
    fn require(self) {
        let (tool, args, advice) = match self {
            Self::Docker => (
                "docker",
                &["version", "--format", "{{.Server.Version}}"][..],
                "no Docker engine answers: run .ci/need-docker, or `make test`",
            ),
            Self::Native => (
                "bwrap",
                &["--version"][..],
                "bubblewrap is missing: apt-get install bubblewrap, or `make test`",
            ),
        };
        let answer = Command::new(tool).args(args).output();
        assert!(
            answer.is_ok_and(|answer| answer.status.success()),
            "{advice}"
        );
    }
}

/// Where a test happens.
pub struct Stage {
    engine: Engine,
    bin: PathBuf,
    folder: TempDir,
    environment: Vec<(String, String)>,
    daemon: Mutex<Option<Child>>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("engine", &self.engine)
            .field("folder", &self.folder.path())
            .finish_non_exhaustive()
    }
}

impl Stage {
    /// Runs a test on a stage with a daemon, stops the daemon, and checks that
    /// nothing is left.
    ///
    /// # Panics
    /// As the test does, after the daemon's log was shown.
    pub fn with(engine: Engine, test: impl FnOnce(&Self)) {
        Self::with_config(engine, json!({}), test);
    }

    /// [`Stage::with`] and more in the configuration file.
    ///
    /// # Panics
    /// As the test does.
    pub fn with_config(engine: Engine, more: Value, test: impl FnOnce(&Self)) {
        Self::without_daemon(engine, more, |stage| {
            stage.start_daemon();
            test(stage);
        });
    }

    /// The same without starting a daemon: the test does, or the command line.
    ///
    /// # Panics
    /// As the test does, and when something is left.
    pub fn without_daemon(engine: Engine, more: Value, test: impl FnOnce(&Self)) {
        engine.require();
        let mut stage = Self::new(engine);
        stage.write_config(more);
        let result = catch_unwind(AssertUnwindSafe(|| {
            test(&stage);
            stage.stop_daemon();
            stage.assert_nothing_left();
        }));
        if let Err(panic) = result {
            stage.show_log();
            stage.kill_everything();
            resume_unwind(panic);
        }
    }

    fn new(engine: Engine) -> Self {
        let bin = env::var_os("ISOL8_BIN_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist"),
            PathBuf::from,
        );
        let bin = fs::canonicalize(&bin).unwrap_or_else(|error| {
            panic!(
                "no binaries in `{}` ({error}): run `make release`",
                bin.display()
            )
        });
        let folder = tempfile::Builder::new().prefix("e2e-stage-").tempdir();
        let folder = folder.expect("/tmp takes a folder");
        // The uids of sandboxes have to pass through to their sockets.
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(folder.path(), open).expect("the folder is ours");
        Self {
            engine,
            bin,
            folder,
            environment: Vec::new(),
            daemon: Mutex::new(None),
        }
    }

    fn write_config(&mut self, more: Value) {
        let mut config = json!({"engine": self.engine.name()});
        if let Ok(bundle) = env::var("ISOL8_TEST_CA_BUNDLE") {
            config["network"] = json!({"caBundle": bundle});
        }
        for (key, value) in more.as_object().expect("a configuration is an object") {
            config[key] = value.clone();
        }
        fs::write(self.folder().join("config.json"), config.to_string())
            .expect("the configuration is written");
        self.environment = vec![
            ("ISOL8_CONFIG".into(), self.path("config.json")),
            ("ISOL8_SOCKET".into(), self.path("run/isol8d.sock")),
            ("ISOL8_STATE_DIR".into(), self.path("state")),
        ];
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder().join(name);
        path.to_str()
            .expect("temporary folders are UTF-8")
            .to_owned()
    }

    /// The engine under test.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// The folder that holds all of this stage; tests may put files in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A number of seconds that nobody else sleeps for: `sleep MARK` is then
    /// found on the host by [`host::sleepers`].
    #[must_use]
    pub fn mark(&self, seconds: u32) -> String {
        let engine = u32::from(self.engine == Engine::Docker);
        format!("{seconds}.{engine}{}", std::process::id())
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("run/isol8d.sock")
    }

    /// Writes a file for a test and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, content).expect("a test's file is written");
        path
    }

    /// One of the binaries, with nothing in its environment but the usual and
    /// the way to this stage.
    #[must_use]
    pub fn binary(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env_clear();
        for name in [
            "PATH",
            "HOME",
            "PYENV_ROOT",
            "NVM_DIR",
            "LANG",
            "RUST_BACKTRACE",
        ] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command line client.
    #[must_use]
    pub fn isol8<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        Call::new(self.binary("isol8")).args(args)
    }

    /// `isol8 run` with inline code.
    #[must_use]
    pub fn eval(&self, runtime: &str, code: &str) -> Call {
        self.isol8(["run", "-r", runtime, "-e", code])
    }

    /// `isol8 run` with inline python.
    #[must_use]
    pub fn python(&self, code: &str) -> Call {
        self.eval("python", code)
    }

    /// `isol8 run` with inline bash.
    #[must_use]
    pub fn bash(&self, code: &str) -> Call {
        self.eval("bash", code)
    }

    /// A session of this stage's, which may not be there yet.
    #[must_use]
    pub fn session(&self, name: impl Into<String>) -> Session<'_> {
        Session::new(self, name)
    }

    /// What `isol8 session ls` knows: sessions and kept sandboxes.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        let ran = self.isol8(["session", "ls", "--json"]).go();
        ran.ended(0);
        let listed = ran.json()["sessions"].as_array().cloned();
        listed.expect("a list of sessions")
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start_daemon(&self) {
        self.start_daemon_as(|_| {});
    }

    /// [`Stage::start_daemon`] with a change to its command.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn start_daemon_as(&self, change: impl FnOnce(&mut Command)) {
        *self.daemon() = Some(self.spawn_daemon(change));
        wait_until("the daemon's answer", seconds(60), || {
            let ended = self.daemon().as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                panic!("the daemon ended: {status}");
            }
            self.answers()
        });
    }

    /// Starts one more daemon on the same folders. The caller waits for it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn_daemon(&self, change: impl FnOnce(&mut Command)) -> Child {
        let log = self.folder().join("daemon.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log);
        let mut command = self.binary("isol8d");
        command
            .env("ISOL8_E2E_CANARY", CANARY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the log is opened"));
        change(&mut command);
        command.spawn().expect("isol8d starts")
    }

    /// Whether somebody takes connections at the socket.
    #[must_use]
    pub fn answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// When none was started by this stage.
    #[must_use]
    pub fn daemon_process(&self) -> Process {
        let daemon = self.daemon();
        let child = daemon.as_ref().expect("this stage has a daemon");
        host::process(Pid::from_child(child)).expect("the daemon lives")
    }

    /// Kills the daemon on the spot, as a crash would.
    ///
    /// # Panics
    /// When there is none.
    pub fn crash_daemon(&self) {
        let mut child = self.daemon().take().expect("this stage has a daemon");
        child.kill().expect("the daemon is ours");
        child.wait().expect("the daemon is ours");
    }

    /// Kills the daemon that answers, whoever has started it, as a crash would.
    ///
    /// # Panics
    /// When none answers, or it does not end.
    #[track_caller]
    pub fn crash_whoever_answers(&self) {
        let pid = self.status()["pid"]
            .as_i64()
            .and_then(|pid| pid.try_into().ok());
        let pid = Pid::from_raw(pid.expect("a pid")).expect("a pid");
        if let Some(mut child) = self.daemon().take_if(|child| Pid::from_child(child) == pid) {
            child.kill().expect("the daemon is ours");
            child.wait().expect("the daemon is ours");
            return;
        }
        kill_process(pid, Signal::KILL).expect("the daemon lives");
        wait_until("the daemon's end", seconds(10), || {
            host::process(pid).is_none_or(|process| process.is_over())
        });
    }

    /// Kills every daemon of this stage, also one that does not answer yet.
    ///
    /// # Panics
    /// When one does not end.
    pub fn crash_every_daemon(&self) {
        let folder = self.folder().display().to_string();
        let mut daemons = host::processes();
        daemons.retain(|process| {
            let [program] = process.argv.as_slice() else {
                return false;
            };
            program.ends_with("/isol8d") && process.environment().contains(&folder)
        });
        for daemon in daemons {
            // It may end by itself.
            kill_process(daemon.pid, Signal::KILL).ok();
            let own = self
                .daemon()
                .take_if(|child| Pid::from_child(child) == daemon.pid);
            if let Some(mut child) = own {
                child.wait().expect("the daemon is ours");
            }
            wait_until("the daemon's end", seconds(10), || {
                host::process(daemon.pid).is_none_or(|process| process.is_over())
            });
        }
    }

    /// Ends the daemon that answers, whoever has started it. Does nothing where
    /// none answers.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop_whoever_answers(&self) {
        self.isol8(["daemon", "stop"]).go().ended(0);
        if let Some(mut child) = self.daemon().take() {
            child.wait().expect("the daemon is ours");
        }
    }

    /// Ends the daemon as an operator would, and waits for it.
    ///
    /// # Panics
    /// When it does not end, or not with 0.
    #[track_caller]
    pub fn stop_daemon(&self) {
        let Some(mut child) = self.daemon().take() else {
            return;
        };
        kill_process(Pid::from_child(&child), Signal::TERM).expect("the daemon is ours");
        wait_until("the daemon's end after SIGTERM", seconds(45), || {
            child.try_wait().expect("the daemon is ours").is_some()
        });
        let status = child.wait().expect("the daemon is ours");
        assert!(status.success(), "the daemon ended with {status}");
    }

    /// The daemon's id, once it has one.
    #[must_use]
    pub fn daemon_id(&self) -> Option<String> {
        let id = fs::read_to_string(self.folder().join("state/daemon-id")).ok()?;
        Some(id.trim().to_owned())
    }

    /// What is on the host of this stage now.
    #[must_use]
    pub fn leftovers(&self) -> Leftovers {
        let docker = self.engine == Engine::Docker;
        Leftovers::of(self.folder(), self.daemon_id().as_deref(), docker)
    }

    /// Checks that nothing is left, giving the kernel a moment for what was
    /// killed.
    ///
    /// # Panics
    /// When something is, naming it.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let mut left = self.leftovers();
        let deadline = std::time::Instant::now() + seconds(5);
        while !left.is_none() && std::time::Instant::now() < deadline {
            std::thread::sleep(super::wait::millis(50));
            left = self.leftovers();
        }
        assert!(left.is_none(), "left behind: {left:#?}");
    }

    /// The state that `isol8 status` shows.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        let ran = self.isol8(["status", "--json"]).go();
        ran.ok();
        ran.json()
    }

    /// The daemon's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("daemon.log")).unwrap_or_default()
    }

    #[expect(clippy::print_stderr, reason = "a failed test says why")]
    fn show_log(&self) {
        let log = self.log();
        let from = log.len().saturating_sub(6000);
        let tail = log.get(from..).unwrap_or(&log);
        eprintln!("---- daemon log\n{tail}\n----");
    }

    /// After a failure: nothing of it may reach the next test.
    fn kill_everything(&self) {
        if let Some(mut child) = self.daemon().take() {
            drop(child.kill());
            drop(child.wait());
        }
        // One that the command line has started would make new sandboxes.
        self.crash_every_daemon();
        for id in self.leftovers().containers {
            drop(Command::new("docker").args(["rm", "-f", &id]).output());
        }
        let name = self
            .folder()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let me = rustix::process::getpid();
        for process in host::processes() {
            let its = process.environment() + &process.mounts();
            if process.pid != me && its.contains(&*name) {
                kill_process(process.pid, Signal::KILL).ok();
            }
        }
    }
}
