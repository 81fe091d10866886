//! Runs the binary in an environment of the test's own.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::fake::Fake;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition, not for a time.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// What the binary did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.stdout).expect("it is text")
    }

    /// The code and stderr, as tables show them.
    pub(crate) fn told(&self) -> String {
        format!("{}\n{}", self.code, self.stderr)
    }
}

/// `isol8` with these arguments, in `home`, and nothing of our own environment.
pub(crate) fn command(home: &Path, args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_isol8"), home, args)
}

/// As [`command`], for a copy of the binary.
pub(crate) fn program(program: impl AsRef<OsStr>, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin")
        .env("ISOL8_SOCKET", home.join("d.sock"))
        .env("ISOL8_STATE_DIR", home.join("state"))
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `isol8` to its end.
pub(crate) fn isol8(fake: &Fake, args: &[&str]) -> Done {
    finish(spawn(command(fake.folder.path(), args)))
}

/// As [`isol8`], with this standard input through a pipe.
pub(crate) fn isol8_with_stdin(fake: &Fake, args: &[&str], stdin: &[u8]) -> Done {
    let mut command = command(fake.folder.path(), args);
    command.stdin(Stdio::piped());
    let mut child = spawn(command);
    let mut pipe = child.stdin.take().expect("it is piped");
    let data = stdin.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that does not read it all is no error of the test.
        drop(pipe.write_all(&data));
    });
    let done = finish(child);
    writer.join().expect("it does not panic");
    done
}

pub(crate) fn spawn(mut command: Command) -> Child {
    command.spawn().expect("the binary is there")
}

/// Waits for the end. A binary that hangs is killed and the test fails.
pub(crate) fn finish(child: Child) -> Done {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let hangs =
            receiver.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _gone = kill_process(pid, Signal::KILL);
        }
        hangs
    });
    let output = child.wait_with_output().expect("a child of ours");
    drop(sender);
    assert!(!watch.join().expect("it does not panic"), "isol8 hangs");
    done(output)
}

fn done(output: Output) -> Done {
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("our own words are text"),
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}
