//! One egress process, from its start until it is reaped.

use std::{fs::File, io, os::fd::AsFd, path::Path, process::Stdio, time::Duration};

use isol8_core::failure::{Failure, FailureKind};
use isol8_egress::{
    confine::Confined,
    control::{self, ControlError, Hello, News, Order, Receiver, Sender},
};
use isol8_engine::uids::{SlotUid, UidRange};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    task::JoinHandle,
    time::timeout,
};

use super::EgressSettings;

/// How long it may take until it is confined.
const READY_DEADLINE: Duration = Duration::from_secs(5);

/// How long its last words may take when it is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The longest line of it that is logged, in bytes.
const MAX_LINE_BYTES: u64 = 2 << 10;

/// A live process that is confined. Dropping it kills it; [`Process::end`]
/// also reaps it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    words: JoinHandle<String>,
    /// Its own until it is gone.
    _uid: Option<SlotUid>,
}

/// The uid that a process of a root daemon goes on as; nobody else can choose.
pub(super) fn lease() -> Result<Option<SlotUid>, Failure> {
    if rustix::process::geteuid().is_root() {
        UidRange::of_this_process()?.lease().map(Some)
    } else {
        Ok(None)
    }
}

/// `isol8d egress` with nothing of the daemon but what is asked for.
pub(super) fn command(program: &Path, uid: Option<&SlotUid>) -> Command {
    let mut command = Command::new(program);
    command
        .arg0("isol8d")
        .arg("egress")
        .env_clear()
        .current_dir("/");
    if let Some(uid) = uid {
        command.arg("--uid").arg(uid.get().to_string());
    }
    // A signal from the daemon's terminal is the daemon's.
    command.process_group(0).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn unavailable() -> Failure {
    let message = "the process that filters the network cannot be started";
    Failure::new(FailureKind::EgressUnavailable, message).hint("see why: `isol8 doctor`")
}

impl Process {
    /// Starts one and waits until it is confined.
    ///
    /// # Errors
    /// `EgressUnavailable`, with its own last words.
    ///
    /// # Cancellation
    /// It is killed.
    pub(super) async fn start(settings: &EgressSettings) -> Result<Self, Failure> {
        let uid = lease()?;
        let failed = |error: io::Error| unavailable().because(&error);
        let (ours, theirs) = control::pair().map_err(failed)?;
        let mut command = command(&settings.program, uid.as_ref());
        command.stdin(Stdio::from(theirs));
        let mut child = command.spawn().map_err(failed)?;
        // It holds the other end of the control socket until then.
        drop(command);
        let stderr = child.stderr.take();
        #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
        let words = tokio::spawn(listen(stderr));
        let (sender, receiver) = control::split(ours).map_err(failed)?;
        let mut process = Self {
            child,
            sender,
            receiver,
            words,
            _uid: uid,
        };
        let ready = timeout(READY_DEADLINE, process.greet(settings)).await;
        let why = match ready {
            Ok(Ok(confined)) => {
                let (pid, uid, landlock) = (process.pid(), confined.uid, confined.landlock);
                tracing::info!(pid, uid, ?landlock, "the egress process is ready");
                return Ok(process);
            }
            Ok(Err(why)) => why,
            Err(_) => "it was not ready in time".to_owned(),
        };
        Err(unavailable().cause(why).cause(process.end().await))
    }

    /// Says how to reach the network; gives how it is confined.
    async fn greet(&mut self, settings: &EgressSettings) -> Result<Confined, String> {
        let authorities = match &settings.authorities {
            Some(path) if settings.upstream.is_some() => {
                let opened = File::open(path);
                Some(opened.map_err(|error| format!("`{}`: {error}", path.display()))?)
            }
            _ => None,
        };
        let hello = Order::Hello(Hello {
            upstream: settings.upstream.clone(),
            no_proxy: settings.no_proxy.clone(),
            authorities: authorities.as_ref().map(AsFd::as_fd),
            any_port: settings.any_port,
        });
        let told = |error: ControlError| Failure::new(FailureKind::Internal, "").because(&error);
        let sent = self.sender.order(&hello).await;
        sent.map_err(|error| told(error).causes.join(": "))?;
        match self.receiver.news().await {
            Ok(Some(News::Ready(confined))) => Ok(confined),
            Ok(None) => Err("it ended".to_owned()),
            Ok(Some(_)) => Err("it said something else than that it is ready".to_owned()),
            Err(error) => Err(told(error).causes.join(": ")),
        }
    }

    /// Its id, while it was not reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills and reaps it. Gives how it ended, with the last line that it wrote.
    pub(super) async fn end(mut self) -> String {
        // It may be gone already.
        let _gone = self.child.start_kill();
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match timeout(LAST_WORDS, &mut self.words).await {
            Ok(Ok(line)) if !line.is_empty() => format!("{status}: {line}"),
            _ => status,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.words.abort();
    }
}

/// Puts what it writes into the daemon's log, a line each; gives the last one.
async fn listen(stderr: Option<ChildStderr>) -> String {
    let mut last = String::new();
    let Some(stderr) = stderr else {
        return last;
    };
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut lines).take(MAX_LINE_BYTES);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        // It may repeat what a program asked for: as a quoted value no line of
        // it can pass for another.
        let text = String::from_utf8_lossy(line.trim_ascii());
        tracing::warn!(line = ?text, "the egress process says");
        last = text.escape_debug().to_string();
    }
}
