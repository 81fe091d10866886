//! The one loop: takes commands, moves bytes, reaps.
//!
//! ```text
//!  fresh ──Prepare──▶ prepared ──Exec───▶ running ──reaped, drained──▶ prepared
//!                         └──────Fetch──▶ reading ──all of it sent───▶ prepared
//! ```
//! Commands are read in every turn and before any output, so that a signal
//! overtakes a flood. No signal is a command: SIGCHLD only makes us look.

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use isol8_proto::init::{
    Command, Exec, Failed, FailureKind, Hello, Ready, Started, StdinCredit, from_init, to_init,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    command,
    door::Door,
    fetch::{self, Fetch},
    file,
    parked::{Parked, Progress},
    program::{Pipes, Program, STDIN_BYTES},
    sys::{self, Pid},
    wire::{Inbox, LinkError, Outbox},
};

/// What init and the daemon must agree on.
const PROTOCOL: u32 = 1;

/// The whole state of init.
#[derive(Debug)]
pub(crate) struct Supervisor {
    link: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    children: OwnedFd,
    writing: Option<file::Writing>,
    parked: Option<Parked>,
    /// `Ready` is owed until the parked interpreter waits.
    ready_owed: bool,
    /// Waits for the parked interpreter, which is still starting.
    pending: Option<Pending>,
    program: Option<Program>,
    /// A tree that is being read.
    fetch: Option<Fetch>,
    /// Stays open so that the port stays taken.
    _door: Option<Door>,
}

/// A program that will start when the parked interpreter waits or has failed,
/// and what was said about it meanwhile.
#[derive(Debug)]
struct Pending {
    exec: Exec,
    signals: Vec<i32>,
    stdin_ended: bool,
}

impl Supervisor {
    /// Dials the daemon and hands it the door, if there is one.
    ///
    /// # Errors
    /// When there is nobody at `socket`, or it does not get the door.
    pub(crate) fn dial(socket: &Path, door: Option<Door>) -> Result<Self, LinkError> {
        let children = sys::child_signals()?;
        let link = UnixStream::connect(socket)?;
        if let Some(door) = &door {
            door.hand_over(&link)?;
        }
        link.set_nonblocking(true)?;
        Ok(Self {
            link,
            inbox: Inbox::default(),
            outbox: Outbox::new(),
            children,
            writing: None,
            parked: None,
            ready_owed: false,
            pending: None,
            program: None,
            fetch: None,
            _door: door,
        })
    }

    /// Serves until the stream ends, which is the only way out.
    pub(crate) fn serve(mut self) -> LinkError {
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
        }
    }

    /// Says who we are.
    pub(crate) fn greet(&mut self) -> Result<(), LinkError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.outbox.push(from_init::Message::Hello(Hello {
            protocol: PROTOCOL,
            version,
        }))
    }

    fn turn(&mut self) -> Result<(), LinkError> {
        self.outbox.flush(&self.link)?;
        self.wait()?;
        self.commands()?;
        self.reap();
        self.look_at_parked()?;
        self.pump()
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<(), LinkError> {
        let mut link = PollFlags::POLLIN;
        link.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        let mut fds = Vec::with_capacity(6);
        fds.push(PollFd::new(self.link.as_fd(), link));
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        if let Some(hook) = self.parked.as_ref().and_then(Parked::hook) {
            fds.push(PollFd::new(hook.as_fd(), PollFlags::POLLIN));
        }
        if let Some(program) = &self.program {
            if self.outbox.has_room() {
                let outputs = [program.stdout.wanted(), program.stderr.wanted()];
                for pipe in outputs.into_iter().flatten() {
                    fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
                }
            }
            if let Some(pipe) = program.stdin.wanted() {
                fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
            }
        }
        let draining = self.program.as_ref().is_some_and(Program::is_draining);
        let fetching = self.fetch.as_ref().is_some_and(Fetch::is_ready);
        let timeout = if (draining || fetching) && self.outbox.has_room() {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(LinkError::Io(errno.into())),
        }
    }

    fn commands(&mut self) -> Result<(), LinkError> {
        while self.inbox.fill(&self.link)? {
            while let Some(command) = self.inbox.take()? {
                self.obey(command)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: to_init::Message) -> Result<(), LinkError> {
        match command {
            to_init::Message::Prepare(prepare) => self.prepare(prepare.parked.as_ref())?,
            to_init::Message::File(piece) => {
                let answer = file::write(&mut self.writing, &piece);
                match answer {
                    Some(Ok(written)) => {
                        self.outbox.push(from_init::Message::FileWritten(written))?;
                    }
                    Some(Err(failed)) => self.fail(failed)?,
                    None => {}
                }
            }
            to_init::Message::Exec(exec) => self.exec(exec)?,
            to_init::Message::Stdin(bytes) => {
                if let Some(program) = &mut self.program {
                    program.stdin.accept(&bytes)?;
                }
            }
            to_init::Message::CloseStdin(_) => self.close_stdin(),
            to_init::Message::Credit(credit) => {
                if let Some(program) = &mut self.program {
                    program.stdout.add_credit(credit.stdout);
                    program.stderr.add_credit(credit.stderr);
                }
                if let Some(fetch) = &mut self.fetch {
                    fetch.add_credit(credit.data);
                }
            }
            to_init::Message::Signal(signal) => self.signal(signal.number),
            to_init::Message::KillAll(_) => self.kill_all()?,
            to_init::Message::Fetch(order) => self.begin_fetch(&order)?,
        }
        Ok(())
    }

    fn kill_all(&mut self) -> Result<(), LinkError> {
        sys::kill_all();
        // It is dying and must not be handed a program.
        self.end_parked();
        if self.pending.take().is_some() {
            self.fail(Failed {
                kind: FailureKind::Other.into(),
                message: "killed before it started".to_owned(),
                errno: libc::ECANCELED,
            })?;
        }
        if self.fetch.take().is_some() {
            self.fail(Failed {
                kind: FailureKind::Other.into(),
                message: "stopped before all was read".to_owned(),
                errno: libc::ECANCELED,
            })?;
        }
        Ok(())
    }

    fn begin_fetch(&mut self, order: &isol8_proto::init::Fetch) -> Result<(), LinkError> {
        if self.is_busy() {
            return self.refuse_busy();
        }
        match Fetch::start(order) {
            Ok(fetch) => self.fetch = Some(fetch),
            Err(failed) => self.fail(failed)?,
        }
        Ok(())
    }

    /// A program runs or is about to, or files are being read.
    const fn is_busy(&self) -> bool {
        self.program.is_some() || self.pending.is_some() || self.fetch.is_some()
    }

    fn refuse_busy(&mut self) -> Result<(), LinkError> {
        // Its answer would be taken for that of the command.
        self.fetch = None;
        self.fail(Failed {
            kind: FailureKind::Other.into(),
            message: "a program is running already, or files are being read".to_owned(),
            errno: libc::EBUSY,
        })
    }

    fn close_stdin(&mut self) {
        if let Some(program) = &mut self.program {
            program.stdin.finish();
        } else if let Some(pending) = &mut self.pending {
            pending.stdin_ended = true;
        }
    }

    fn signal(&mut self, number: i32) {
        if let Some(program) = &self.program {
            program.signal(number);
        } else if let Some(pending) = &mut self.pending {
            // The kernel does not count a pending signal twice either.
            if !pending.signals.contains(&number) && sys::is_signal(number) {
                pending.signals.push(number);
            }
        }
    }

    fn fail(&mut self, failed: Failed) -> Result<(), LinkError> {
        self.outbox.push(from_init::Message::Failed(failed))
    }

    fn prepare(&mut self, parked: Option<&Command>) -> Result<(), LinkError> {
        self.end_parked();
        self.parked = parked.and_then(|command| Parked::start(command).ok());
        self.ready_owed = true;
        self.look_at_parked()
    }

    /// Tells the daemon when the parked interpreter waits or has failed, and
    /// carries out an `Exec` that had to wait for that.
    fn look_at_parked(&mut self) -> Result<(), LinkError> {
        if !self.ready_owed && self.pending.is_none() {
            return Ok(());
        }
        let progress = self.parked.as_mut().map(Parked::progress);
        match progress {
            Some(Progress::Starting) => return Ok(()),
            Some(Progress::Waiting) => {}
            Some(Progress::Broken) | None => self.end_parked(),
        }
        if std::mem::take(&mut self.ready_owed) {
            let parked = self.parked.is_some();
            self.outbox
                .push(from_init::Message::Ready(Ready { parked }))?;
        }
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        self.start(&pending.exec)?;
        if pending.stdin_ended {
            self.close_stdin();
        }
        pending
            .signals
            .into_iter()
            .for_each(|number| self.signal(number));
        Ok(())
    }

    /// Kills the parked interpreter and waits until it is off the process
    /// table, so that it counts against no limit.
    fn end_parked(&mut self) {
        if let Some(parked) = self.parked.take() {
            sys::signal_group(parked.pid, libc::SIGKILL);
            self.reap_until(parked.pid);
        }
    }

    fn reap_until(&mut self, pid: Pid) {
        while let Some(reaped) = sys::reap(true) {
            self.account(reaped);
            if reaped.pid == pid {
                return;
            }
        }
    }

    fn exec(&mut self, exec: Exec) -> Result<(), LinkError> {
        if self.is_busy() {
            return self.refuse_busy();
        }
        if exec.use_parked && self.parked.is_some() {
            self.pending = Some(Pending {
                exec,
                signals: Vec::new(),
                stdin_ended: false,
            });
            return self.look_at_parked();
        }
        self.start(&exec)
    }

    fn start(&mut self, exec: &Exec) -> Result<(), LinkError> {
        let Some(command) = &exec.command else {
            return self.fail(Failed {
                kind: FailureKind::Other.into(),
                message: "no command".to_owned(),
                errno: libc::EINVAL,
            });
        };
        let released = if exec.use_parked {
            self.release_parked(command)
        } else {
            None
        };
        let parked = released.is_some();
        let started = match released {
            Some(started) => Ok(started),
            None => {
                self.end_parked();
                plain(command)
            }
        };
        match started {
            Ok((pid, pipes)) => {
                self.program = Some(Program::new(pid, pipes, exec));
                let started = Started {
                    parked,
                    stdin_credit: STDIN_BYTES as u64,
                };
                self.outbox.push(from_init::Message::Started(started))
            }
            Err(failed) => self.fail(failed),
        }
    }

    /// `None`: there is none, or none that can serve; start plainly.
    fn release_parked(&mut self, command: &Command) -> Option<(Pid, Pipes)> {
        // Everything that is wrong with the command is found on the plain path.
        command::image(command).ok().filter(command::can_enter)?;
        // It may have died or spoken since it said that it waits.
        self.reap();
        if self.parked.as_mut()?.progress() != Progress::Waiting {
            return None;
        }
        match self.parked.take()?.release(command) {
            Ok(started) => Some(started),
            Err(pid) => {
                sys::signal_group(pid, libc::SIGKILL);
                self.reap_until(pid);
                None
            }
        }
    }

    fn reap(&mut self) {
        sys::drain_signals(&self.children);
        while let Some(reaped) = sys::reap(false) {
            self.account(reaped);
        }
    }

    fn account(&mut self, reaped: sys::Reaped) {
        if let Some(program) = &mut self.program
            && program.runs_as(reaped.pid)
        {
            program.ended(reaped);
        }
        self.parked.take_if(|parked| parked.pid == reaped.pid);
    }

    /// Moves what can be moved, one piece of each stream a turn, and reports
    /// the end of the program behind its output.
    fn pump(&mut self) -> Result<(), LinkError> {
        self.pump_fetch()?;
        let Some(program) = &mut self.program else {
            return Ok(());
        };
        program.stdin.pump();
        program.stdout.pump(&mut self.outbox);
        program.stderr.pump(&mut self.outbox);
        if let Some(bytes) = program.stdin.take_freed() {
            self.outbox
                .push(from_init::Message::StdinCredit(StdinCredit { bytes }))?;
        }
        if let Some(exited) = program.exited() {
            self.outbox.push(from_init::Message::Exited(exited))?;
            self.program = None;
        }
        Ok(())
    }

    fn pump_fetch(&mut self) -> Result<(), LinkError> {
        let Some(fetch) = &mut self.fetch else {
            return Ok(());
        };
        let answer = match fetch.pump(&mut self.outbox)? {
            fetch::Progress::Going => return Ok(()),
            fetch::Progress::Done(fetched) => from_init::Message::Fetched(fetched),
            fetch::Progress::Failed(failed) => from_init::Message::Failed(failed),
        };
        self.fetch = None;
        self.outbox.push(answer)
    }
}

/// Starts a process of its own for the command.
fn plain(command: &Command) -> Result<(Pid, Pipes), Failed> {
    let image = command::image(command)?;
    let (pipes, ends) = Pipes::new()
        .map_err(|error| command::failed(FailureKind::Other, "cannot make pipes", &error))?;
    let pid = command::spawn(&image, &ends.stdio())?;
    Ok((pid, pipes))
}
