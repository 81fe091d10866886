//! Starting a daemon on a workstation.
//!
//! The daemon is started through ourselves (`isol8 __detached isol8d`): the
//! short-lived copy leaves our terminal and our open files and becomes the
//! daemon. Whether a second daemon may live is decided by the daemons alone, by
//! their lock on the socket: of two command lines that start one each, both
//! reach the one that won.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{net::UnixStream as StdStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use isol8_core::failure::{Failure, FailureKind};

use crate::{
    connect,
    console::Console,
    exit::Exit,
    logfile,
    paths::{Paths, Socket},
};

/// argv[1] of the copy of ourselves that becomes the daemon.
const DETACHED: &str = "__detached";
/// A daemon that tidies up after a crash takes a while; one that hangs is told
/// apart from it here.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// The daemon's exit code when another one has the socket: that one will answer.
const LOST_RACE: i32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// Lines of the log that explain a daemon which did not start.
const LOG_LINES: usize = 5;
/// What the daemon needs of our environment. Everything else stays out of it:
/// it may hold secrets, and it would be there as long as the daemon lives.
const ENVIRONMENT: [&str; 31] = [
    "BUN_INSTALL",
    "DBUS_SESSION_BUS_ADDRESS",
    "DENO_INSTALL",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LOGNAME",
    "NODENV_ROOT",
    "NO_PROXY",
    "NPM_CONFIG_PREFIX",
    "NVM_BIN",
    "NVM_DIR",
    "PATH",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "VOLTA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// The daemon's own variables; the key of a remote gateway is not its business.
const OWN: [&str; 6] = [
    "ISOL8_CONFIG",
    "ISOL8_ENGINE",
    "ISOL8_INIT",
    "ISOL8_LOG",
    "ISOL8_SOCKET",
    "ISOL8_STATE_DIR",
];

/// Becomes the daemon, if that is what this process was started for. Returns
/// only when it was not, or when the daemon's executable cannot be run.
pub(crate) fn as_detached(argv: &[OsString]) -> Option<Exit> {
    if argv.get(1)? != DETACHED {
        return None;
    }
    let console = Console::new(false);
    let Some(daemon) = argv.get(2) else {
        console.failure(&Failure::new(
            FailureKind::InvalidRequest,
            "no daemon to start",
        ));
        return Some(Exit::Usage);
    };
    // Leaves the terminal, so that Ctrl-C and a hang-up there do not end it. A
    // process that leads its group already cannot, and needs it no less.
    if let Err(errno) = rustix::process::setsid() {
        console.debug(format_args!("setsid: {errno}"));
    }
    close_inherited();
    let error = Command::new(daemon).args(&argv[3..]).exec();
    let message = format!("cannot run `{}`", Path::new(daemon).display());
    console.failure(&Failure::new(FailureKind::HostLacks, message).because(&error));
    Some(Exit::Failed)
}

/// Closes what a shell or a build tool left open in us. Somebody may wait for
/// the end of such a pipe, and the daemon would hold it open for ever.
fn close_inherited() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<i32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The folder's own descriptor is in the list and closed by now.
        let _ours = nix::unistd::close(number);
    }
}

/// Starts a daemon that listens at `socket` and connects to it.
///
/// # Errors
/// It cannot be started, ended at once, or does not answer in time; the causes
/// are the last lines of its log.
///
/// # Cancellation
/// The daemon goes on starting.
pub(crate) async fn start(
    paths: &Paths,
    socket: &Socket,
    console: &Console,
) -> Result<StdStream, Failure> {
    let daemon = paths.daemon()?;
    let log = paths.log()?;
    let mut starter = Starter {
        daemon,
        log,
        from: 0,
    };
    let scope = scope(paths);
    let mut scoped = scope.is_some();
    let mut child = starter.spawn(scope, console)?;
    let started = Instant::now();
    loop {
        // Before the connection is tried: a daemon that ended was not the one
        // that answers afterwards.
        let ended = child
            .try_wait()
            .map_err(|error| starter.failed().because(&error))?;
        if let Some(stream) = connect::try_socket(socket)? {
            console.debug(format_args!("connected to {}", socket.path.display()));
            return Ok(stream);
        }
        match ended {
            // systemd may have refused the scope; it is no reason to have no daemon.
            Some(status) if scoped && status.code() != Some(LOST_RACE) => {
                console.debug(format_args!(
                    "no scope from systemd ({status}), going without"
                ));
                scoped = false;
                child = starter.spawn(None, console)?;
            }
            Some(status) if status.code() != Some(LOST_RACE) => {
                return Err(starter.explain(&format!("`isol8d` ended: {status}")));
            }
            _ => {}
        }
        if started.elapsed() > READY_TIMEOUT {
            let seconds = READY_TIMEOUT.as_secs();
            return Err(starter.explain(&format!("it does not answer after {seconds} s")));
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

struct Starter {
    daemon: PathBuf,
    log: PathBuf,
    /// Where this start begins in the log.
    from: u64,
}

impl Starter {
    fn failed(&self) -> Failure {
        Failure::new(
            FailureKind::EngineUnreachable,
            "cannot start the isol8 daemon",
        )
    }

    /// The failure with the daemon's own last words.
    fn explain(&self, what: &str) -> Failure {
        let lines = logfile::tail(&self.log, self.from, LOG_LINES).unwrap_or_default();
        last_words(self.failed().cause(what), &lines)
    }

    /// Starts the daemon, inside a scope of systemd's if there is one.
    fn spawn(&mut self, scope: Option<PathBuf>, console: &Console) -> Result<Child, Failure> {
        let shown = self.log.display().to_string();
        let (log, from) = logfile::open(&self.log).map_err(|error| {
            self.failed()
                .cause(format!("cannot write its log `{shown}`"))
                .because(&error)
                .hint("set ISOL8_STATE_DIR to a folder of your own")
        })?;
        self.from = from;
        let own = env::current_exe().map_err(|error| self.failed().because(&error))?;
        let argv = match scope {
            Some(systemd_run) => in_scope(systemd_run, &own, &self.daemon),
            None => detached(&own, &self.daemon),
        };
        console.debug(format_args!("starting {argv:?}, log in {shown}"));
        let spawn = |argv: &[OsString]| self.command(argv, &log)?.spawn();
        spawn(&argv).map_err(|error| self.failed().because(&error))
    }

    fn command(&self, argv: &[OsString], log: &fs::File) -> io::Result<Command> {
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env_clear()
            .envs(environment())
            // A folder that the daemon keeps busy would keep its disk mounted.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        Ok(command)
    }
}

/// What the daemon says at its end has the shape of our own messages: its hint
/// is worth more than ours.
fn last_words(failure: Failure, lines: &[String]) -> Failure {
    let usual = "`isol8 doctor` checks this host; `isol8 daemon logs` shows the whole log";
    let mut failure = failure.hint(usual);
    for line in lines {
        let told = ["error: ", "cause: "]
            .iter()
            .find_map(|label| line.strip_prefix(label));
        failure = match line.strip_prefix("hint: ") {
            Some(hint) => failure.hint(hint),
            None => failure.cause(told.unwrap_or(line)),
        };
    }
    failure
}

fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ENVIRONMENT
        .into_iter()
        .chain(OWN)
        .filter_map(|name| Some((name, env::var_os(name)?)))
}

fn detached(own: &Path, daemon: &Path) -> Vec<OsString> {
    [own.as_os_str(), OsStr::new(DETACHED), daemon.as_os_str()]
        .map(OsStr::to_owned)
        .to_vec()
}

/// A scope of its own with cgroups delegated to it: without, a daemon that is
/// not root cannot bound memory and processes of its sandboxes.
fn in_scope(systemd_run: PathBuf, own: &Path, daemon: &Path) -> Vec<OsString> {
    let options = [
        "--user",
        "--scope",
        "--quiet",
        "--collect",
        "-p",
        "Delegate=yes",
        "--",
    ];
    let mut argv = vec![systemd_run.into_os_string()];
    argv.extend(options.map(OsString::from));
    argv.extend(detached(own, daemon));
    argv
}

/// `systemd-run`, where it can give us a delegated scope: not for root, on
/// cgroup v2, with a user manager that answers.
fn scope(paths: &Paths) -> Option<PathBuf> {
    if paths.is_root() || !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return None;
    }
    let runtime_dir = PathBuf::from(env::var_os("XDG_RUNTIME_DIR")?);
    let manager = runtime_dir.join("systemd/private");
    StdStream::connect(manager).ok()?;
    paths.find("systemd-run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_hint_counts() {
        let say = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            last_words(Failure::new(FailureKind::Internal, "x"), &lines)
        };
        let said = say(&[
            "INFO serving",
            "error: no room",
            "cause: disk full",
            "hint: free some",
        ]);
        assert_eq!(said.causes, ["INFO serving", "no room", "disk full"]);
        assert_eq!(said.hint.as_deref(), Some("free some"));
        assert!(say(&[]).hint.is_some_and(|hint| hint.contains("doctor")));
    }
}
