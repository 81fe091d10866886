//! The daemon's handle on the process that carries the traffic of filtered
//! networks (`isol8d egress`).
//!
//! ```text
//!        first open            ready                    died, or answered late
//!  Idle ───────────▶ Starting ───────▶ Running ───────────────────────────────▶ Waiting
//!   ▲                   │ failed: who waits is told                                │
//!   └───────────────────┴──────────────────────── backoff over ◀───────────────────┘
//! ```
//! One task owns the process. It keeps a duplicate of every listener and never
//! accepts on it, so that another process can be given it: while there is none,
//! connections wait in the backlog, and nothing passes.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    egress::{record::Record, rules::Filter},
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use isol8_egress::control::{self, TrafficId};
use isol8_proto::v1;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

pub mod entrance;
mod entry;
pub mod examine;
mod ledger;
mod owner;
mod process;
pub mod settings;

use entry::Command;
use ledger::Ledger;
use owner::Owner;
pub use settings::EgressSettings;

/// How long [`Egress::open`] and [`Traffic::set`] may take: the longest pause
/// before a new process, its start, and an answer.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(12);

/// How long [`Traffic::close`] waits for the last records.
pub const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Handle on the egress process; cheap to clone. Starts it at first need,
/// restarts it when it dies.
#[derive(Debug, Clone)]
pub struct Egress {
    commands: Commands,
    settings: Arc<EgressSettings>,
    next: Arc<AtomicU64>,
    status: watch::Receiver<Status>,
}

/// Unbounded, so that a drop can send: each [`Traffic`] has at most one command
/// of each kind in it.
type Commands = mpsc::UnboundedSender<Command>;

/// What others see of the task.
#[derive(Debug, Clone, Copy, Default)]
struct Status {
    shown: v1::EgressStatus,
    pid: Option<u32>,
}

/// What became of the requests of one [`Traffic`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each request, in the order in which they ended.
    pub records: Vec<Record>,
    /// Bytes to the sandbox.
    pub bytes_in: u64,
    /// Bytes from the sandbox.
    pub bytes_out: u64,
    /// The process died meanwhile, or did not answer in time: records may be
    /// missing.
    pub lost: bool,
}

/// A sandbox's way to the network. Dropping it closes it.
#[derive(Debug)]
pub struct Traffic {
    id: TrafficId,
    commands: Commands,
    ledger: Arc<Mutex<Ledger>>,
}

fn gone() -> Failure {
    let message = "the network filter has been stopped";
    Failure::new(FailureKind::EgressUnavailable, message)
}

impl Egress {
    /// Makes the handle and its task, which starts no process yet and ends with
    /// [`Egress::shutdown`] or the last handle.
    pub fn start(settings: EgressSettings, tasks: &TaskTracker) -> Self {
        let (commands, orders) = mpsc::unbounded_channel();
        let (tell, status) = watch::channel(Status::default());
        let settings = Arc::new(settings);
        let owner = Owner::new(Arc::clone(&settings), tell);
        tasks.spawn(owner.run(orders));
        Self {
            commands,
            settings,
            next: Arc::new(AtomicU64::new(1)),
            status,
        }
    }

    /// Lets the sandbox behind `listener` reach what `filter` permits, until
    /// the [`Traffic`] is closed or dropped. Waits until the process has taken
    /// it, at most [`OPEN_DEADLINE`].
    ///
    /// # Errors
    /// `EgressUnavailable` when there is no such process, or it refuses.
    ///
    /// # Cancellation
    /// Nothing is open then.
    pub async fn open(
        &self,
        id: &SandboxId,
        listener: OwnedFd,
        filter: &Filter,
    ) -> Result<Traffic, Failure> {
        let traffic = Traffic {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            commands: self.commands.clone(),
            ledger: Arc::default(),
        };
        fits(filter)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Open {
            traffic: traffic.id,
            sandbox: id.clone(),
            listener,
            filter: filter.clone(),
            ledger: Arc::clone(&traffic.ledger),
            reply,
        };
        self.commands.send(command).map_err(|_| gone())?;
        answered(answer).await?;
        Ok(traffic)
    }

    /// What `status` shows of it.
    #[must_use]
    pub fn status(&self) -> v1::EgressStatus {
        self.status.borrow().shown
    }

    /// The process that runs now.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.status.borrow().pid
    }

    /// How it was set up.
    #[must_use]
    pub fn settings(&self) -> &EgressSettings {
        &self.settings
    }

    /// Ends the process and waits until it is gone; nothing can be opened any
    /// more.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).is_ok() {
            // It is dropped when the task ends, which says the same.
            let _ended = done.await;
        }
    }
}

/// Patterns are bounded where they come in; an operator may have listed more
/// ports or ranges than a message holds.
fn fits(filter: &Filter) -> Result<(), Failure> {
    let length = control::length_of(filter);
    if length <= control::MAX_FILTER_BYTES {
        return Ok(());
    }
    let message = format!("the network filter has {length} bytes, which is too much");
    Err(Failure::new(FailureKind::InvalidRequest, message)
        .hint("list fewer of `network.ports` and `network.allowPrivate`"))
}

/// Waits for the process's answer.
async fn answered(answer: oneshot::Receiver<Result<(), Failure>>) -> Result<(), Failure> {
    match timeout(OPEN_DEADLINE, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(gone()),
        Err(_) => Err(Failure::new(
            FailureKind::EgressUnavailable,
            "the network filter did not answer in time",
        )),
    }
}

impl Traffic {
    /// Replaces the policy: connections to what the new one refuses end. Waits
    /// for the process, at most [`OPEN_DEADLINE`].
    ///
    /// # Errors
    /// `EgressUnavailable`: close it then, nothing passes any more or the old
    /// policy still holds.
    pub async fn set(&self, filter: &Filter) -> Result<(), Failure> {
        fits(filter)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Set {
            traffic: self.id,
            filter: filter.clone(),
            reply,
        };
        self.commands.send(command).map_err(|_| gone())?;
        answered(answer).await
    }

    /// Ends all connections; gives every record and the totals. Takes at most
    /// [`CLOSE_DEADLINE`].
    pub async fn close(self) -> Report {
        let (reply, closed) = oneshot::channel();
        let command = Command::Close {
            traffic: self.id,
            reply: Some(reply),
        };
        // Without the task there is no process, and nothing more comes.
        let sent = self.commands.send(command).is_ok();
        let in_time = timeout(CLOSE_DEADLINE, closed).await;
        let ledger = std::mem::take(&mut *self.ledger());
        let mut report = ledger.into_report();
        report.lost |= !sent || !matches!(in_time, Ok(Ok(())));
        report
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // What is closed already is not known any more, and passed over.
        let (traffic, reply) = (self.id, None);
        let _gone = self.commands.send(Command::Close { traffic, reply });
    }
}
