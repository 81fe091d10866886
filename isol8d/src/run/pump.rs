//! Moves bytes between a running program and its client until one of them, the
//! clock or the daemon ends it.
//!
//! ```text
//!  feeding ──program sent──▶ running ──Exited──────────────▶ done
//!     │                         │  └──link lost, breach────▶ done
//!     └──deadline, daemon stops─┴──KillAll──▶ ending ──Exited or grace over──▶ done
//! ```
//! A client that goes ends it at once: nobody reads what a grace would bring.

use std::time::Duration;

use isol8_core::{
    failure::{Failure, FailureKind},
    mask::Secrets,
    request::RunRequest,
};
use isol8_engine::{
    Interpreter,
    link::{Link, LinkError},
};
use isol8_proto::{
    init::{
        Credit, Exited, Failed, FailureKind as InitFailure, KillAll, KillRun, Signal, exited::How,
        from_init, to_init,
    },
    v1,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{lane::Lane, program::Program, stdin::Stdin, verdict::Seen};
use crate::{
    audit::Heads,
    convert::{self, Said},
    outbox::{Channel, Outbox},
};

/// For what the program had already written when it was killed.
pub(crate) const KILL_GRACE: Duration = Duration::from_millis(500);

/// Frames that may wait for an init that does not read. Past them the run takes
/// nothing more from the client.
const MAX_UNSENT: usize = 64;

/// Who can end a run from outside.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    /// The client is gone, or the daemon ends all runs.
    pub(super) cancel: CancellationToken,
    /// The daemon ends all runs: the client still listens.
    pub(super) daemon: CancellationToken,
}

impl Stops {
    /// Who it was, once [`Stops::cancel`] has fired.
    pub(super) fn seen(&self) -> Seen {
        if self.daemon.is_cancelled() {
            Seen::Stopped
        } else {
            Seen::Cancelled
        }
    }
}

/// What init said about the main process itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rusage {
    pub(super) cpu: Duration,
    pub(super) max_rss_bytes: u64,
}

/// The state of one run between its lease and its end.
pub(super) struct Pump<'a> {
    link: Link,
    client: &'a mut Streaming<v1::RunRequest>,
    client_ended: bool,
    outbox: &'a Outbox,
    program: Program,
    pub(super) stdout: Lane,
    pub(super) stderr: Lane,
    stdin: Stdin,
    started: bool,
    /// The client said something that is not to be heard a second time.
    heard: bool,
    /// The parked interpreter went on; else the program was started plainly.
    pub(super) parked: bool,
    unsent: usize,
    /// Others live in the sandbox too, and stay.
    shared: bool,
    /// Init has said how the program ended.
    told: bool,
    /// Set when we ended it ourselves.
    ending: Option<Seen>,
    pub(super) rusage: Option<Rusage>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        request: &RunRequest,
        secrets: &Secrets,
        link: Link,
        interpreter: &Interpreter,
        parked: bool,
        client: &'a mut Streaming<v1::RunRequest>,
        outbox: &'a Outbox,
    ) -> Self {
        let lane = |channel| {
            Lane::new(
                channel,
                secrets,
                request.limits.max_output,
                request.buffered,
            )
        };
        Self {
            link,
            client,
            client_ended: false,
            outbox,
            program: Program::new(request, interpreter, parked),
            stdout: lane(Channel::Stdout),
            stderr: lane(Channel::Stderr),
            stdin: Stdin::new(request.stdin),
            started: false,
            heard: false,
            parked: false,
            unsent: 0,
            shared: false,
            told: false,
            ending: None,
            rusage: None,
        }
    }

    /// The sandbox outlives this run, and may hold what is not of this run.
    pub(super) fn share(&mut self) {
        self.shared = true;
        self.program.wait_for_file();
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// The program could not be started, or the client said what it may not.
    ///
    /// # Cancellation
    /// Not cancel safe: the run is then without a verdict.
    pub(super) async fn run(
        &mut self,
        mut deadline: Instant,
        stops: &Stops,
    ) -> Result<Seen, Failure> {
        loop {
            self.fill();
            let can_hear = self.program.is_sent()
                && !self.client_ended
                && self.stdin.has_room()
                && self.unsent < MAX_UNSENT;
            let has_room = self.outbox.has_room();
            tokio::select! {
                biased;
                () = stops.cancel.cancelled(), if self.ending.is_none() => {
                    if !stops.daemon.is_cancelled() {
                        return Ok(Seen::Cancelled);
                    }
                    deadline = self.kill(Seen::Stopped);
                }
                () = sleep_until(deadline) => match self.ending {
                    Some(seen) => return Ok(seen),
                    None => deadline = self.kill(Seen::Deadline),
                },
                sent = self.link.writer.flush(), if self.unsent > 0 => match sent {
                    Ok(()) => self.unsent = 0,
                    // What init said before it went is still to be read.
                    Err(_) => return self.drain().await,
                },
                said = self.client.message(), if can_hear => {
                    if let Some(seen) = self.hear(said)? {
                        return Ok(seen);
                    }
                }
                message = self.link.reader.recv(), if has_room => {
                    if let Some(seen) = self.take(message)? {
                        return Ok(self.ending.unwrap_or(seen));
                    }
                }
                () = self.outbox.moved() => {}
            }
        }
    }

    /// Queues every frame that may go to init now.
    fn fill(&mut self) {
        if !self.program.is_sent() && self.unsent == 0 && self.ending.is_none() {
            for frame in self.program.burst() {
                self.push(frame);
            }
        }
        while let Some(frame) = self.stdin.next_frame(self.started) {
            self.push(frame);
        }
        // A client that does not read hears of it later, in one sum.
        if self.outbox.has_room()
            && let Some(bytes) = self.stdin.take_taken()
        {
            let taken = v1::StdinTaken { bytes };
            self.outbox.event(v1::run_event::Event::StdinTaken(taken));
        }
        let (stdout, stderr) = self.outbox.take_credit();
        if stdout + stderr > 0 {
            self.stdout.granted(stdout);
            self.stderr.granted(stderr);
            self.push(to_init::Message::Credit(Credit {
                stdout,
                stderr,
                data: 0,
            }));
        }
    }

    fn push(&mut self, frame: to_init::Message) {
        self.unsent += 1;
        self.link.writer.push(frame);
    }

    /// Kills the program through init; gives how long to wait for its last words.
    fn kill(&mut self, seen: Seen) -> Instant {
        self.ending = Some(seen);
        self.push(match self.shared {
            true => to_init::Message::KillRun(KillRun {}),
            false => to_init::Message::KillAll(KillAll {}),
        });
        Instant::now() + KILL_GRACE
    }

    /// Handles what the client said; `Some` ends the run.
    fn hear(
        &mut self,
        said: Result<Option<v1::RunRequest>, tonic::Status>,
    ) -> Result<Option<Seen>, Failure> {
        let Ok(message) = said else {
            return Ok(Some(Seen::Cancelled));
        };
        let Some(message) = message else {
            self.client_ended = true;
            self.stdin.end();
            return Ok(None);
        };
        self.heard = true;
        match convert::said(message)? {
            Said::Stdin(_) if !self.stdin.is_open() => {
                return Err(convert::invalid(
                    "stdin came for a run whose stdin is closed",
                ));
            }
            Said::Stdin(data) => self.stdin.add(data),
            Said::CloseStdin => self.stdin.end(),
            Said::Signal(number) => self.push(to_init::Message::Signal(Signal { number })),
        }
        Ok(None)
    }

    /// Handles what init said; `Some` ends the run.
    fn take(
        &mut self,
        message: Result<from_init::Message, LinkError>,
    ) -> Result<Option<Seen>, Failure> {
        use from_init::Message;
        let taken = match message {
            Ok(Message::Stdout(bytes)) => self.stdout.take(bytes, self.outbox),
            Ok(Message::Stderr(bytes)) => self.stderr.take(bytes, self.outbox),
            Ok(Message::Started(started)) => {
                self.started = true;
                self.parked = started.parked;
                self.stdin.granted(started.stdin_credit);
                Ok(())
            }
            Ok(Message::StdinCredit(credit)) => {
                self.stdin.granted(credit.bytes);
                Ok(())
            }
            Ok(Message::FileWritten(_)) => {
                self.program.file_written();
                Ok(())
            }
            Ok(Message::Exited(exited)) => return Ok(Some(self.exited(&exited))),
            Ok(Message::Failed(failed)) if self.started => {
                // Such as a signal for a program that is just gone.
                tracing::debug!(
                    kind = failed.kind,
                    errno = failed.errno,
                    "init refused a command"
                );
                Ok(())
            }
            Ok(Message::Failed(failed)) => return Err(not_started(&failed)),
            Ok(
                Message::Hello(_)
                | Message::Ready(_)
                | Message::Entry(_)
                | Message::EntryData(_)
                | Message::Fetched(_)
                | Message::Done(_),
            ) => {
                return Ok(Some(Seen::Broken("init spoke out of turn")));
            }
            Err(LinkError::Closed | LinkError::Broken(_)) => return Ok(Some(Seen::LinkLost)),
            Err(LinkError::TooLong(_) | LinkError::Malformed(_)) => {
                return Ok(Some(Seen::Broken("init sent what is no message")));
            }
        };
        Ok(taken
            .is_err()
            .then_some(Seen::Broken("init sent more output than it may")))
    }

    fn exited(&mut self, exited: &Exited) -> Seen {
        self.told = true;
        let cpu_us = exited.user_us.saturating_add(exited.system_us);
        self.rusage = Some(Rusage {
            cpu: Duration::from_micros(cpu_us),
            max_rss_bytes: exited.max_rss_bytes,
        });
        match exited.how {
            Some(How::Code(code)) => match u8::try_from(code) {
                Ok(code) => Seen::Code(code),
                Err(_) => Seen::Broken("init gave an exit code that cannot be"),
            },
            Some(How::Signal(signal)) if (1..=64).contains(&signal) => Seen::Signal(signal),
            Some(How::Signal(_)) => Seen::Broken("init gave a signal that cannot be"),
            None => Seen::Broken("init gave no exit code"),
        }
    }

    /// Init takes no more frames: reads what it had said, for a moment.
    async fn drain(&mut self) -> Result<Seen, Failure> {
        let until = Instant::now() + KILL_GRACE;
        loop {
            let message = tokio::time::timeout_at(until, self.link.reader.recv()).await;
            let seen = match message {
                Ok(message) => self.take(message)?,
                Err(_) => Some(Seen::LinkLost),
            };
            if let Some(seen) = seen {
                return Ok(self.ending.unwrap_or(seen));
            }
        }
    }

    /// Nothing of the run has happened yet: it can be done in another sandbox.
    pub(super) fn is_untouched(&self) -> bool {
        !self.started && !self.heard
    }

    /// Init waits for the next command, once it has read what it was sent.
    pub(super) fn is_clean(&self) -> bool {
        self.told
    }

    /// The stream to init. Closing it ends what still runs in the sandbox.
    pub(super) fn into_link(self) -> Link {
        self.link
    }

    /// Collects the beginning of the output for the record of the run.
    pub(super) fn collect(&mut self, heads: Heads) {
        self.stdout.collect(heads.stdout);
        self.stderr.collect(heads.stderr);
    }

    /// What was collected.
    pub(super) fn take_heads(&mut self) -> Heads {
        Heads {
            stdout: self.stdout.take_head(),
            stderr: self.stderr.take_head(),
        }
    }

    /// Lets everything that is still held back go to the client.
    pub(super) fn finish(&mut self) {
        self.stdout.finish(self.outbox);
        self.stderr.finish(self.outbox);
    }
}

/// Init could not start the program.
fn not_started(failed: &Failed) -> Failure {
    let with = |kind, message: &str| Failure::new(kind, message).cause(failed.message.clone());
    match failed.kind() {
        InitFailure::NotFound | InitFailure::NotExecutable => with(
            FailureKind::InterpreterMissing,
            "the interpreter cannot be started",
        )
        .hint("`isol8 doctor` shows which interpreters are there"),
        InitFailure::NoSpace => with(FailureKind::NoSpace, "no room in /sandbox for the program")
            .hint("raise `--sandbox-size`"),
        InitFailure::NoProcess => with(
            FailureKind::Unsupported,
            "the process limit leaves no room for the program",
        )
        .hint("raise `--pids-limit`"),
        // Only where somebody was here before.
        InitFailure::BadPath if failed.files => with(
            FailureKind::Unsupported,
            "something stands in the way of the program's own file",
        )
        .hint("remove it: `isol8 session rm <name>:/sandbox/main.<extension>`"),
        InitFailure::BadPath | InitFailure::Other | InitFailure::Unspecified => {
            with(FailureKind::Internal, "init could not start the program")
        }
    }
}
