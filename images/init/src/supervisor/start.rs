//! How a program starts: in the parked interpreter, or plainly.

use isol8_proto::init::{Command, Exec, Failed, FailureKind, Prepare, Ready, Started, from_init};

use super::{MAX_TOKEN_BYTES, Supervisor, busy};
use crate::{
    command,
    parked::{Parked, Progress},
    place::Root,
    program::{Pipes, Program, STDIN_BYTES},
    sys::{self, Pid},
    wire::LinkError,
};

/// A program that will start when the parked interpreter waits or has failed,
/// and what was said about it meanwhile.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) exec: Exec,
    pub(super) signals: Vec<i32>,
    pub(super) stdin_ended: bool,
}

impl Supervisor {
    pub(super) fn prepare(&mut self, prepare: Prepare) -> Result<(), LinkError> {
        if prepare.token.len() > MAX_TOKEN_BYTES {
            return Err(LinkError::Malformed);
        }
        if !prepare.token.is_empty() {
            self.token = prepare.token.to_vec();
        }
        self.end_parked();
        let parked = prepare.parked.as_ref();
        self.parked = parked.and_then(|command| Parked::start(command).ok());
        self.ready_owed = true;
        self.look_at_parked()
    }

    /// Somebody is to be told how far the parked interpreter is. Nobody after the
    /// daemon who asked is gone: it may be starting still, and is left to it.
    pub(super) const fn awaits_parked(&self) -> bool {
        self.ready_owed || self.pending.is_some()
    }

    /// Tells the daemon when the parked interpreter waits or has failed, and
    /// carries out an `Exec` that had to wait for that.
    pub(super) fn look_at_parked(&mut self) -> Result<(), LinkError> {
        if !self.awaits_parked() {
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
            self.line
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
    pub(super) fn end_parked(&mut self) {
        if let Some(parked) = self.parked.take() {
            sys::signal_group(parked.pid, libc::SIGKILL);
            self.reap_until(parked.pid);
        }
    }

    pub(super) fn exec(&mut self, exec: Exec) -> Result<(), LinkError> {
        if self.has_program() {
            return self.fail(busy());
        }
        if self.is_at_files() && !self.line.is_lasting() {
            return self.refuse_files();
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
            return self.fail(command::nothing_to_start());
        };
        Root::give_all_back();
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
                self.line.push(from_init::Message::Started(started))
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
}

/// Starts a process of its own for the command.
fn plain(command: &Command) -> Result<(Pid, Pipes), Failed> {
    let image = command::image(command)?;
    let (pipes, ends) = Pipes::new().map_err(|error| {
        let errno = command::errno(&error);
        let message = command::because("cannot make the program's pipes", errno);
        command::failed(FailureKind::Other, message, errno)
    })?;
    let pid = command::spawn(&image, &ends.stdio())?;
    Ok((pid, pipes))
}
