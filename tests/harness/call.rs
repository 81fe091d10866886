//! One call of the command line: how it is put together, what it did.

use std::{
    ffi::OsStr,
    fmt,
    io::{Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wait::{seconds, wait_for, wait_until};

/// No call of a test may take longer, whatever it does.
const PATIENCE: Duration = seconds(120);

/// A call that has not begun.
#[derive(Debug)]
pub struct Call {
    command: Command,
    stdin: Feed,
    reads_stdout: bool,
}

#[derive(Debug)]
enum Feed {
    Nothing,
    Bytes(Vec<u8>),
    /// A pipe whose other end the test holds.
    Pipe,
}

impl Call {
    /// Wraps a command whose standard streams are not set yet.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command,
            stdin: Feed::Nothing,
            reads_stdout: true,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    /// Sets a variable of the caller's own environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives the bytes on standard input, as a pipe does.
    #[must_use]
    pub fn feed(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Feed::Bytes(bytes.into());
        self
    }

    /// Leaves standard input open: [`Running::stdin`] is its other end.
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.stdin = Feed::Pipe;
        self
    }

    /// Does not read standard output: it fills up.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.reads_stdout = false;
        self
    }

    /// Changes the command itself.
    #[must_use]
    pub fn tweak(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Begins the call.
    ///
    /// # Panics
    /// When the command cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        let feed = match self.stdin {
            Feed::Nothing => Stdio::null(),
            Feed::Bytes(_) | Feed::Pipe => Stdio::piped(),
        };
        self.command
            .stdin(feed)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = self.command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take();
        if let Feed::Bytes(bytes) = self.stdin {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // Whoever does not read to the end may do so.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = self.reads_stdout.then(|| {
            let pipe = child.stdout.take().expect("stdout is a pipe");
            Collector::of(pipe)
        });
        let stderr = Collector::of(child.stderr.take().expect("stderr is a pipe"));
        Running {
            shown: format!("{:?}", self.command),
            child,
            begun,
            stdin,
            stdout,
            stderr,
        }
    }

    /// Makes the call and waits for its end.
    ///
    /// # Panics
    /// When it takes longer than any call may.
    #[must_use]
    #[track_caller]
    pub fn go(self) -> Ran {
        self.start().finish()
    }
}

/// Reads a pipe to its end in a thread of its own.
#[derive(Debug)]
struct Collector {
    seen: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                sink.extend_from_slice(&piece[..length]);
            }
        });
        Self { seen, thread }
    }

    fn so_far(&self) -> Vec<u8> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    fn all(self) -> Vec<u8> {
        self.thread.join().expect("the reader does not panic");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *seen)
    }
}

/// A call under way. Dropped, its process is killed.
#[derive(Debug)]
pub struct Running {
    shown: String,
    child: Child,
    begun: Instant,
    /// The other end of [`Call::open_stdin`].
    pub stdin: Option<ChildStdin>,
    stdout: Option<Collector>,
    stderr: Collector,
}

impl Running {
    /// Waits until standard output contains `text`.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn until_stdout(&self, text: &str) {
        let stdout = self.stdout.as_ref().expect("this call's stdout is read");
        let what = format!("`{text}` on stdout of {}", self.shown);
        wait_until(&what, seconds(60), || {
            String::from_utf8_lossy(&stdout.so_far()).contains(text)
        });
    }

    /// Bytes of standard output that have come.
    #[must_use]
    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout
            .as_ref()
            .map(Collector::so_far)
            .unwrap_or_default()
    }

    /// Sends a signal to the command line client itself.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the client is there");
    }

    /// The client's process.
    ///
    /// # Panics
    /// Never: the child is not reaped yet.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it takes longer than any call may.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> Ran {
        drop(self.stdin.take());
        let shown = self.shown.clone();
        let status = wait_for(&format!("the end of {shown}"), PATIENCE, || {
            self.child.try_wait().expect("the child is ours")
        });
        let elapsed = self.begun.elapsed();
        let stdout = self.stdout.take().map(Collector::all).unwrap_or_default();
        let empty = Collector::of(std::io::empty());
        let stderr = std::mem::replace(&mut self.stderr, empty).all();
        Ran {
            shown,
            status,
            stdout,
            stderr,
            elapsed,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A call that is over.
pub struct Ran {
    shown: String,
    /// How the client ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Ran {
    /// The exit code; a signal counts as 128 and its number.
    #[must_use]
    pub fn code(&self) -> i32 {
        let signalled = || self.status.signal().map(|number| 128 + number);
        self.status.code().or_else(signalled).unwrap_or(-1)
    }

    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another, showing everything.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is often all")]
    pub fn ended(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "exit code of {self:?}");
        self
    }

    /// Checks that it ended with 0 and gives standard output.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is often all")]
    pub fn ok(&self) -> String {
        self.ended(0).out()
    }

    /// Checks that standard error contains `text`, upper and lower case alike.
    ///
    /// # Panics
    /// When it does not, showing everything.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is often all")]
    pub fn says(&self, text: &str) -> &Self {
        let said = self.err().to_lowercase();
        assert!(said.contains(&text.to_lowercase()), "`{text}` in {self:?}");
        self
    }

    /// Checks that it took less than `limit`.
    ///
    /// # Panics
    /// When it took longer.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is often all")]
    pub fn within(&self, limit: Duration) -> &Self {
        assert!(self.elapsed < limit, "more than {limit:?}: {self:?}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
            format!("({} bytes) {text}", bytes.len())
        };
        let shown: String = self.shown.chars().take(1500).collect();
        writeln!(f, "{shown}")?;
        writeln!(f, "-- {:?} after {:?}", self.status, self.elapsed)?;
        writeln!(f, "-- stdout {}", start(&self.stdout))?;
        write!(f, "-- stderr {}", start(&self.stderr))
    }
}
