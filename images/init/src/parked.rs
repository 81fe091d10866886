//! An interpreter that has started and waits, before it opens its script, for
//! the environment of its program.
//!
//! ```text
//!  starting ──byte from the hook──▶ waiting ──record──▶ the program
//!      └────── ended, or wrote something ──────┘──▶ killed, plain start instead
//! ```
//! The hook in the interpreter finds one end of a socket pair at the number in
//! `ISOL8_PARK_FD`. When it is about to wait it sends one byte; then it reads a
//! 32-bit little-endian length and that many bytes, separated by NUL bytes: the
//! working directory, the path of the script, and the complete environment as
//! `NAME=value`.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use isol8_proto::init::{Command, EnvVar};

use crate::{
    command,
    program::Pipes,
    sys::{self, Pid, Stdio},
    wire::is_temporary,
};

/// How long a waiting interpreter may take to read its record. It is blocked in
/// that read; a longer wait means that it is broken.
const RECORD_DEADLINE: Duration = Duration::from_secs(2);

/// The parked interpreter.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) pid: Pid,
    pipes: Pipes,
    hook: UnixStream,
    waiting: bool,
}

/// What has become of an interpreter that was starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Starting,
    Waiting,
    /// It ended or does not hold to the agreement.
    Broken,
}

impl Parked {
    /// Starts the interpreter.
    ///
    /// # Errors
    /// For whatever reason there is none, programs start plainly.
    pub(crate) fn start(wanted: &Command) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (pipes, ends) = Pipes::new().map_err(text)?;
        let (hook, theirs) = UnixStream::pair().map_err(text)?;
        let theirs = sys::move_up(OwnedFd::from(theirs)).map_err(text)?;
        let mut wanted = wanted.clone();
        wanted.env.push(EnvVar {
            name: "ISOL8_PARK_FD".into(),
            value: theirs.as_raw_fd().to_string().into(),
        });
        let image = command::image(&wanted).map_err(|failed| failed.message)?;
        let stdio = Stdio {
            extra: Some(theirs.as_fd()),
            ..ends.stdio()
        };
        let pid = command::spawn(&image, &stdio).map_err(|failed| failed.message)?;
        hook.set_nonblocking(true).map_err(text)?;
        Ok(Self {
            pid,
            pipes,
            hook,
            waiting: false,
        })
    }

    /// What becomes readable when there is progress.
    pub(crate) fn hook(&self) -> Option<&UnixStream> {
        (!self.waiting).then_some(&self.hook)
    }

    /// Looks how far it is, without waiting.
    pub(crate) fn progress(&mut self) -> Progress {
        if !self.waiting {
            match self.hook.read(&mut [0]) {
                Ok(1) => self.waiting = true,
                Err(error) if is_temporary(&error) => return Progress::Starting,
                Ok(_) | Err(_) => return Progress::Broken,
            }
        }
        // Output that a plain start would not have had.
        if self.pipes.have_output() {
            return Progress::Broken;
        }
        Progress::Waiting
    }

    /// Lets it go on as the program. Gives back what is needed to end it when
    /// it does not take its record.
    pub(crate) fn release(mut self, command: &Command) -> Result<(Pid, Pipes), Pid> {
        // The length that the hook reads is 32 bits.
        let Ok(record) = record(command) else {
            return Err(self.pid);
        };
        let sent = self
            .hook
            .set_nonblocking(false)
            .and_then(|()| self.hook.set_write_timeout(Some(RECORD_DEADLINE)))
            .and_then(|()| self.hook.write_all(&record));
        match sent {
            Ok(()) => Ok((self.pid, self.pipes)),
            Err(_) => Err(self.pid),
        }
    }
}

fn record(command: &Command) -> Result<Vec<u8>, std::num::TryFromIntError> {
    let mut body = command.cwd.to_vec();
    body.push(0);
    // The script is what a command line ends with.
    body.extend_from_slice(command.argv.last().map_or(&b""[..], |entry| entry));
    for var in &command.env {
        body.push(0);
        body.extend_from_slice(&command::assignment(var));
    }
    let mut record = u32::try_from(body.len())?.to_le_bytes().to_vec();
    record.append(&mut body);
    Ok(record)
}
