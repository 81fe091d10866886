//! The program that runs: its pipes, what may flow through them, its end.
//!
//! ```text
//!  running ──reaped──▶ ended: what stood in its pipes is sent ──▶ gone (Exited)
//! ```
//! Children that hold the pipes open do not delay the end. In a sandbox that lasts
//! the pipes that they hold become [`leftovers`](crate::leftovers).

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use isol8_proto::init::{Exec, Exited, exited::How};

use crate::{
    offspring,
    sys::{self, Ending, Pid, Reaped, Stdio},
    wire::{LinkError, Outbox, Stream, is_temporary},
};

/// What we hold of stdin until the program reads it; the daemon sends no more
/// than this ahead.
pub(crate) const STDIN_BYTES: usize = 256 << 10;

/// Given back in pieces of at least this, so that a byte read by the program is
/// not a frame.
const STDIN_CREDIT_STEP: usize = 64 << 10;

/// The size of a pipe of a program that writes much, if the kernel grants it. A
/// read that fills this much shows that it does. Not from the start: the kernel
/// counts pipe pages per user.
const WIDE_PIPE_BYTES: i32 = 1 << 20;
const MUCH_BYTES: usize = 48 << 10;

/// Our ends of a program's three pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: File,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

/// The program's ends.
#[derive(Debug)]
pub(crate) struct ProgramEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl ProgramEnds {
    pub(crate) fn stdio(&self) -> Stdio<'_> {
        Stdio {
            stdin: self.stdin.as_fd(),
            stdout: self.stdout.as_fd(),
            stderr: self.stderr.as_fd(),
            extra: None,
        }
    }
}

impl Pipes {
    /// Makes them; ours do not block.
    pub(crate) fn new() -> io::Result<(Self, ProgramEnds)> {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
        let (stdin, ours_in) = pipe()?;
        let (ours_out, stdout) = pipe()?;
        let (ours_err, stderr) = pipe()?;
        for end in [&ours_in, &ours_out, &ours_err] {
            let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
            nix::fcntl::fcntl(end, flags)?;
        }
        let ours = Self {
            stdin: ours_in.into(),
            stdout: ours_out.into(),
            stderr: ours_err.into(),
        };
        Ok((
            ours,
            ProgramEnds {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// Whether something was written that nobody has read.
    pub(crate) fn have_output(&self) -> bool {
        sys::bytes_readable(&self.stdout) + sys::bytes_readable(&self.stderr) > 0
    }
}

/// The program's main process and its streams.
#[derive(Debug)]
pub(crate) struct Program {
    pid: Pid,
    pub(crate) stdin: Stdin,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    end: Option<Reaped>,
}

impl Program {
    pub(crate) fn new(pid: Pid, pipes: Pipes, exec: &Exec) -> Self {
        Self {
            pid,
            stdin: Stdin::new(exec.stdin.then_some(pipes.stdin)),
            stdout: Output::new(Stream::Stdout, pipes.stdout, exec.stdout_credit),
            stderr: Output::new(Stream::Stderr, pipes.stderr, exec.stderr_credit),
            end: None,
        }
    }

    /// Whether its main process lives and has this id. After its end the id may
    /// be another's.
    pub(crate) fn runs_as(&self, pid: Pid) -> bool {
        self.end.is_none() && self.pid == pid
    }

    /// Sends a signal to the process group, unless the main process is gone and
    /// its id may already be another's.
    pub(crate) fn signal(&self, number: i32) {
        if self.end.is_none() && sys::is_signal(number) {
            sys::signal_group(self.pid, number);
        }
    }

    /// Kills everything that it has started, but what has detached itself.
    pub(crate) fn kill(&self) {
        // The kernel does this to the whole group at once.
        self.signal(libc::SIGSTOP);
        offspring::kill(self.pid);
        self.signal(libc::SIGKILL);
    }

    /// Our ends of the pipes that others may still write into.
    pub(crate) fn into_outputs(self) -> impl Iterator<Item = File> {
        [self.stdout.pipe, self.stderr.pipe].into_iter().flatten()
    }

    /// The main process was reaped: what its pipes hold now is all that is
    /// still sent.
    pub(crate) fn ended(&mut self, reaped: Reaped) {
        self.end = Some(reaped);
        self.stdin.close();
        self.stdout.seal();
        self.stderr.seal();
    }

    /// Whether the rest of its output can be taken now. A pipe that somebody
    /// inside has emptied says nothing any more, so that it must be looked at
    /// and not waited for.
    pub(crate) fn is_draining(&self) -> bool {
        let ready = |output: &Output| output.left.is_some() && output.wanted().is_some();
        ready(&self.stdout) || ready(&self.stderr)
    }

    /// How it ended, once its output has been passed on.
    pub(crate) fn exited(&self) -> Option<Exited> {
        let end = self.end?;
        if !(self.stdout.is_done() && self.stderr.is_done()) {
            return None;
        }
        let how = match end.how {
            Ending::Code(code) => How::Code(code),
            Ending::Signal(signal) => How::Signal(signal),
        };
        Some(Exited {
            how: Some(how),
            user_us: end.usage.user_us,
            system_us: end.usage.system_us,
            max_rss_bytes: end.usage.max_rss_bytes,
        })
    }
}

/// Stdout or stderr: read only with credit, so that a daemon that takes nothing
/// stops the program and fills no memory.
#[derive(Debug)]
pub(crate) struct Output {
    stream: Stream,
    /// `None` after its end.
    pipe: Option<File>,
    /// All that is to be sent of it has been.
    done: bool,
    credit: u64,
    /// After the end of the main process: what is still to be sent.
    left: Option<usize>,
    wide: bool,
}

impl Output {
    fn new(stream: Stream, pipe: File, credit: u64) -> Self {
        Self {
            stream,
            pipe: Some(pipe),
            done: false,
            credit,
            left: None,
            wide: false,
        }
    }

    pub(crate) fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// The pipe, if more may be read from it.
    pub(crate) fn wanted(&self) -> Option<&File> {
        self.pipe.as_ref().filter(|_| self.credit > 0 && !self.done)
    }

    fn seal(&mut self) {
        let left = self.pipe.as_ref().map_or(0, sys::bytes_readable);
        self.left = Some(left);
        self.done = left == 0;
    }

    fn is_done(&self) -> bool {
        self.done || self.pipe.is_none()
    }

    /// Reads one piece into the outbox. False: nothing came, for lack of bytes,
    /// credit or room.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox) -> bool {
        let Some(pipe) = self.wanted() else {
            return false;
        };
        if !outbox.has_room() {
            return false;
        }
        let most = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let most = most.min(self.left.unwrap_or(usize::MAX));
        match outbox.read_output(self.stream, pipe, most) {
            Ok(count) if count > 0 => {
                if count >= MUCH_BYTES && !self.wide {
                    sys::widen_pipe(pipe, WIDE_PIPE_BYTES);
                    self.wide = true;
                }
                self.credit -= count as u64;
                self.left = self.left.map(|left| left - count);
                self.done = self.left == Some(0);
                true
            }
            Err(error) if is_temporary(&error) => {
                // After the end an empty pipe means that somebody inside read
                // what we had counted: there is nothing to wait for.
                self.done = self.left.is_some();
                false
            }
            Ok(_) | Err(_) => {
                self.pipe = None;
                false
            }
        }
    }
}

/// Stdin: what the daemon sent and the program has not read.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// `None` once closed, from either side. What comes later is dropped, and
    /// its credit given back, so that the sender runs to its end.
    pipe: Option<File>,
    buffer: VecDeque<u8>,
    /// Nothing more will come: close when the buffer is empty.
    ending: bool,
    /// Taken from the buffer and not yet told to the daemon.
    freed: usize,
    /// What the daemon may still send.
    credit: usize,
}

impl Stdin {
    fn new(pipe: Option<File>) -> Self {
        Self {
            pipe,
            buffer: VecDeque::new(),
            ending: false,
            freed: 0,
            credit: STDIN_BYTES,
        }
    }

    /// Takes bytes from the daemon.
    ///
    /// # Errors
    /// [`LinkError::Overrun`] when it sends more than its credit.
    pub(crate) fn accept(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.credit = self
            .credit
            .checked_sub(bytes.len())
            .ok_or(LinkError::Overrun)?;
        if self.pipe.is_none() || self.ending {
            self.freed += bytes.len();
            return Ok(());
        }
        self.buffer.extend(bytes);
        self.pump();
        Ok(())
    }

    /// Closes it behind what is in the buffer.
    pub(crate) fn finish(&mut self) {
        self.ending = true;
        self.pump();
    }

    fn close(&mut self) {
        self.freed += self.buffer.len();
        self.buffer = VecDeque::new();
        self.pipe = None;
    }

    /// The pipe, if bytes wait for it.
    pub(crate) fn wanted(&self) -> Option<&File> {
        self.pipe.as_ref().filter(|_| !self.buffer.is_empty())
    }

    /// Writes as much as the program's pipe takes now.
    pub(crate) fn pump(&mut self) {
        while let Some(mut pipe) = self.wanted() {
            match pipe.write(self.buffer.as_slices().0) {
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.freed += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The program closed its end: the rest is nobody's.
                Err(_) => self.close(),
            }
        }
        if self.ending {
            self.pipe = None;
        }
    }

    /// Credit to give back now, if it is worth a frame.
    pub(crate) fn take_freed(&mut self) -> Option<u64> {
        let enough = self.freed >= STDIN_CREDIT_STEP || self.buffer.is_empty();
        if self.freed == 0 || !enough {
            return None;
        }
        let freed = std::mem::take(&mut self.freed);
        self.credit += freed;
        Some(freed as u64)
    }
}
