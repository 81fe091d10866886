//! The record of runs that an operator asks for with `audit.enabled`.
//!
//! ```text
//!  run ──entry──▶ thread: line ──▶ backlog (empty, unless the disk is full) ──▶ file of the day
//!      ◀─written or not──┘
//! ```
//! One thread makes and writes all lines, so that they stand in the order in
//! which they came and no two of them mix. Whoever brings one waits until it is
//! written: there are never more of them than runs.
//!
//! **No run without its record.** [`RunAudit::started`] comes before the program
//! starts, and where it fails the run fails. What is recorded later can no
//! longer be refused; if it cannot be written it is kept, tried again every
//! second and before every other line, and meanwhile nothing starts.
//!
//! Lines outlive the daemon from the moment they are written. They are not
//! forced to the disk: what the kernel holds is lost with the power.

use std::{io, path::Path, sync::Arc};

use isol8_core::{
    config,
    egress::record::Record,
    failure::{Failure, FailureKind},
    ids::{Principal, RunId, SandboxId},
    mask::Secrets,
    outcome::Outcome,
    request::RunRequest,
    sandbox::EngineKind,
};
use jiff::Timestamp;

mod days;
mod entry;
mod head;
mod line;
mod log;
mod writer;

#[cfg(test)]
mod tests;

pub use head::{Head, Heads};

use days::Days;
use entry::{Body, Ended, Entry, Started};
use log::Log;
use writer::Writer;

/// Where lines go. Cheap to clone and to ask; nothing at all where the operator
/// wants no record.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    writer: Writer,
    place: String,
    include_code: bool,
    include_output: bool,
}

impl Audit {
    /// Opens the record, and removes files that are too old. `state_dir` holds
    /// the folder that is used where the operator names none.
    ///
    /// # Errors
    /// A folder or file that cannot be used: a daemon that cannot record does
    /// not start. `Forbidden` for a folder in which others may write.
    pub fn open(config: &config::Audit, state_dir: &Path) -> Result<Self, Failure> {
        if !config.enabled {
            return Ok(Self(None));
        }
        let (log, place) = match config.destination {
            config::AuditDestination::Filesystem => {
                let (keep, now) = (config.retention_days, Timestamp::now());
                let days = match &config.log_dir {
                    Some(folder) => Days::open(folder.clone(), keep, now)?,
                    None => Days::open_own(state_dir.join("audit"), keep, now)?,
                };
                let place = format!("`{}`", days.folder().display());
                (Log::in_files(days), place)
            }
            config::AuditDestination::Log => (Log::on_stderr(), "the daemon's log".to_owned()),
        };
        let writer = Writer::start(log).map_err(|error| {
            let message = "cannot start the thread of the audit log";
            Failure::new(FailureKind::HostLacks, message).because(&error)
        })?;
        Ok(Self(Some(Arc::new(Open {
            writer,
            place,
            include_code: config.include_code,
            include_output: config.include_output,
        }))))
    }

    /// The record of one run. Every text in it is masked with `secrets`.
    #[must_use]
    pub fn of_run(&self, id: &RunId, principal: Principal, secrets: &Secrets) -> RunAudit {
        RunAudit(self.0.as_ref().map(|open| Run {
            open: Arc::clone(open),
            id: id.clone(),
            principal,
            secrets: secrets.clone(),
        }))
    }
}

/// The record of one run: `started`, then `network`, then `ended` or `failed`.
#[derive(Debug)]
pub struct RunAudit(Option<Run>);

#[derive(Debug)]
struct Run {
    open: Arc<Open>,
    id: RunId,
    principal: Principal,
    secrets: Secrets,
}

impl RunAudit {
    /// Where the beginning of the output is to be collected, if anybody wants it.
    #[must_use]
    pub fn heads(&self) -> Heads {
        let wanted = |run: &Run| run.open.include_output;
        Heads::new(self.0.as_ref().is_some_and(wanted))
    }

    /// Records that the run is about to start, with the image that was chosen for
    /// it. Comes before anything of the request runs anywhere, installers
    /// included, and so before there is a sandbox.
    ///
    /// # Errors
    /// `NoSpace` on a full disk, else `Internal`: the run must not start.
    ///
    /// # Cancellation
    /// Dropped, the line may or may not be written.
    pub async fn started(&self, request: &RunRequest, engine: EngineKind) -> Result<(), Failure> {
        let Some(run) = &self.0 else { return Ok(()) };
        let started = Started {
            principal: run.principal,
            engine,
            request: request.clone(),
            with_code: run.open.include_code,
        };
        let entry = run.entry(Body::Started(Box::new(started)));
        let written = run.open.writer.write(entry).await;
        written.map_err(|error| run.open.unwritten(&error))
    }

    /// Records requests through the filter, a line for each.
    ///
    /// # Cancellation
    /// As [`RunAudit::started`].
    pub async fn network(&self, records: &[Record]) {
        if !records.is_empty() {
            self.tell(|_| Body::Network(records.to_vec())).await;
        }
    }

    /// Records how the run ended, and in which sandbox it was, if it had one.
    ///
    /// # Cancellation
    /// As [`RunAudit::started`].
    pub async fn ended(&self, outcome: &Outcome, sandbox: Option<&SandboxId>, output: Heads) {
        let ended = || Ended {
            sandbox: sandbox.cloned(),
            outcome: outcome.clone(),
            output,
        };
        self.tell(|_| Body::Ended(Box::new(ended()))).await;
    }

    /// Records why the run did not take place, or that its end is not known.
    ///
    /// # Cancellation
    /// As [`RunAudit::started`].
    pub async fn failed(&self, failure: &Failure) {
        self.tell(|run| Body::Failed(run.principal, failure.clone()))
            .await;
    }

    /// The thread says in the daemon's log what it cannot write.
    async fn tell(&self, body: impl FnOnce(&Run) -> Body) {
        if let Some(run) = &self.0 {
            let entry = run.entry(body(run));
            if let Err(error) = run.open.writer.write(entry).await {
                tracing::error!(run_id = %run.id, %error, "the audit log lacks a line");
            }
        }
    }
}

impl Run {
    fn entry(&self, body: Body) -> Entry {
        Entry {
            run: self.id.clone(),
            secrets: self.secrets.clone(),
            body,
        }
    }
}

impl Open {
    fn unwritten(&self, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => FailureKind::NoSpace,
            _ => FailureKind::Internal,
        };
        let place = &self.place;
        Failure::new(kind, format!("cannot write the audit log in {place}"))
            .because(error)
            .hint("no run starts without its record: make room there, or set `audit.enabled` to false")
    }
}
