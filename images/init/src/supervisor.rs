//! The one loop: takes commands, moves bytes, reaps.
//!
//! ```text
//!  fresh ──Prepare──▶ prepared ──Exec───▶ running ──reaped, drained──▶ prepared
//!                         └──────Fetch──▶ reading ──all of it sent───▶ prepared
//! ```
//! In a sandbox that lasts, reading and running go on side by side, and a stream
//! that ends takes away what was under way and nothing else.
//!
//! Commands are read in every turn and before any output, so that a signal
//! overtakes a flood. No signal is a command: SIGCHLD only makes us look.

mod files;
mod start;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use isol8_proto::init::{Failed, FailureKind, Hello, StdinCredit, from_init, to_init};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    command,
    fetch::Fetch,
    file,
    leftovers::Leftovers,
    line::Line,
    parked::Parked,
    program::Program,
    remove::Removal,
    sys::{self, Pid},
    wire::LinkError,
};
use start::Pending;

/// What init and the daemon must agree on.
const PROTOCOL: u32 = 1;

/// The longest token that we keep for the daemon.
const MAX_TOKEN_BYTES: usize = 64;

/// The whole state of init.
#[derive(Debug)]
pub(crate) struct Supervisor {
    line: Line,
    /// By which the daemon knows us again.
    token: Vec<u8>,
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
    /// A tree that is being removed.
    removal: Option<Removal>,
    /// Only where the sandbox lasts.
    leftovers: Leftovers,
}

impl Supervisor {
    /// `children`: of [`sys::child_signals`].
    pub(crate) fn new(line: Line, children: OwnedFd) -> Self {
        Self {
            line,
            token: Vec::new(),
            children,
            writing: None,
            parked: None,
            ready_owed: false,
            pending: None,
            program: None,
            fetch: None,
            removal: None,
            leftovers: Leftovers::default(),
        }
    }

    /// Serves until the stream ends, or no other comes. There is no other way out.
    pub(crate) fn serve(mut self) -> LinkError {
        loop {
            let talking = self.line.stream().is_some();
            let turn = if talking { self.turn() } else { self.alone() };
            match turn {
                Ok(()) => {}
                Err(_) if talking && self.line.is_lasting() => self.lose_line(),
                Err(error) => return error,
            }
        }
    }

    /// Ends what was under way for a daemon that is gone: nobody can take the
    /// verdict of the run in flight, nor the rest of a tree. The run dies as by
    /// `KillRun` (see [`offspring`](crate::offspring)), also when only its last
    /// output was owed; an `Exec` that has not started does not start; a removal
    /// stops where it is; a file that is not whole is gone.
    ///
    /// What earlier runs left in the background lives on, as does what the run has
    /// detached; what they write is thrown away. The parked interpreter is left
    /// as it is. The next daemon begins with nothing under way, and is told by
    /// `Hello` alone: neither `Exited` nor `Failed` comes for what was before. What
    /// was killed may be on the process table for a moment more.
    fn lose_line(&mut self) {
        self.line.lose();
        self.writing = None;
        self.fetch = None;
        self.removal = None;
        self.ready_owed = false;
        self.pending = None;
        if let Some(program) = self.program.take() {
            program.kill();
            self.keep_outputs(program);
        }
    }

    fn keep_outputs(&mut self, program: Program) {
        if self.line.is_lasting() {
            program
                .into_outputs()
                .for_each(|pipe| self.leftovers.add(pipe));
        }
    }

    /// A turn without a daemon.
    fn alone(&mut self) -> Result<(), LinkError> {
        self.wait()?;
        self.reap();
        self.leftovers.pump();
        if self.line.redial()? {
            self.greet()?;
        }
        Ok(())
    }

    /// Says who we are.
    pub(crate) fn greet(&mut self) -> Result<(), LinkError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.line.push(from_init::Message::Hello(Hello {
            protocol: PROTOCOL,
            version,
            token: self.token.clone().into(),
            lasting: self.line.is_lasting(),
            parked: self.parked.is_some(),
        }))
    }

    fn turn(&mut self) -> Result<(), LinkError> {
        self.line.flush()?;
        self.wait()?;
        self.commands()?;
        self.reap();
        self.look_at_parked()?;
        self.leftovers.pump();
        self.pump()
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<(), LinkError> {
        let outbox = &self.line.outbox;
        let mut fds = Vec::with_capacity(6);
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        for pipe in self.leftovers.pipes() {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.line.stream() {
            Some(stream) => {
                let mut link = PollFlags::POLLIN;
                link.set(PollFlags::POLLOUT, !outbox.is_empty());
                fds.push(PollFd::new(stream.as_fd(), link));
                self.timeout()
            }
            None => until(self.line.pause()),
        };
        // What it says is read only for somebody who waits for it.
        let hook = self.parked.as_ref().and_then(Parked::hook);
        if let Some(hook) = hook.filter(|_| self.awaits_parked()) {
            fds.push(PollFd::new(hook.as_fd(), PollFlags::POLLIN));
        }
        if let Some(program) = &self.program {
            if outbox.has_room() {
                let outputs = [program.stdout.wanted(), program.stderr.wanted()];
                for pipe in outputs.into_iter().flatten() {
                    fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
                }
            }
            if let Some(pipe) = program.stdin.wanted() {
                fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(LinkError::Io(errno.into())),
        }
    }

    /// How long nothing needs to be done unless something happens.
    fn timeout(&self) -> PollTimeout {
        let draining = self.program.as_ref().is_some_and(Program::is_draining);
        let fetching = self.fetch.as_ref().is_some_and(Fetch::is_ready);
        let sending = (draining || fetching) && self.line.outbox.has_room();
        if sending || self.removal.is_some() {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        }
    }

    fn commands(&mut self) -> Result<(), LinkError> {
        while self.line.fill()? {
            while let Some(command) = self.line.take()? {
                self.obey(command)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: to_init::Message) -> Result<(), LinkError> {
        match command {
            to_init::Message::Prepare(prepare) => self.prepare(prepare)?,
            to_init::Message::File(piece) => self.write(&piece)?,
            to_init::Message::Folder(order) => self.make_folder(&order)?,
            to_init::Message::Symlink(order) => self.make_link(&order)?,
            to_init::Message::Remove(order) => self.begin_removal(&order)?,
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
            to_init::Message::KillRun(_) => self.kill_run()?,
            to_init::Message::Fetch(order) => self.begin_fetch(&order)?,
        }
        Ok(())
    }

    fn kill_all(&mut self) -> Result<(), LinkError> {
        sys::kill_all();
        // It is dying and must not be handed a program.
        self.end_parked();
        self.forget_pending()?;
        let stopped = if self.fetch.take().is_some() {
            "stopped before all was read"
        } else if self.removal.take().is_some() {
            "stopped before all was removed"
        } else {
            return Ok(());
        };
        self.answer(Err(refusal(stopped, Errno::ECANCELED)))
    }

    fn kill_run(&mut self) -> Result<(), LinkError> {
        if let Some(program) = &self.program {
            program.kill();
        }
        self.forget_pending()
    }

    fn forget_pending(&mut self) -> Result<(), LinkError> {
        match self.pending.take() {
            Some(_) => self.fail(refusal(
                "the program was killed before it started",
                Errno::ECANCELED,
            )),
            None => Ok(()),
        }
    }

    /// A program runs or is about to.
    const fn has_program(&self) -> bool {
        self.program.is_some() || self.pending.is_some()
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
        self.line.push(from_init::Message::Failed(failed))
    }

    fn reap_until(&mut self, pid: Pid) {
        while let Some(reaped) = sys::reap(true) {
            self.account(reaped);
            if reaped.pid == pid {
                return;
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
        self.pump_program()?;
        self.pump_fetch()?;
        self.pump_removal()
    }

    fn pump_program(&mut self) -> Result<(), LinkError> {
        let Some(program) = &mut self.program else {
            return Ok(());
        };
        program.stdin.pump();
        program.stdout.pump(&mut self.line.outbox);
        program.stderr.pump(&mut self.line.outbox);
        if let Some(bytes) = program.stdin.take_freed() {
            self.line
                .push(from_init::Message::StdinCredit(StdinCredit { bytes }))?;
        }
        if let Some(exited) = program.exited() {
            self.line.push(from_init::Message::Exited(exited))?;
            if let Some(program) = self.program.take() {
                self.keep_outputs(program);
            }
        }
        Ok(())
    }
}

/// Not carried out for a reason of our own.
fn refusal(message: &str, errno: Errno) -> Failed {
    command::failed(FailureKind::Other, message, errno)
}

fn busy() -> Failed {
    refusal(
        "the sandbox is busy: a program runs in it, or files are being read or removed",
        Errno::EBUSY,
    )
}

/// Rounded up, so that it is not looked too early.
fn until(pause: Duration) -> PollTimeout {
    let ms = pause.as_millis() + u128::from(!pause.is_zero());
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}
