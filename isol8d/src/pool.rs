//! Warm sandboxes, each for one run.
//!
//! ```text
//!  PoolHandle ──requests (bounded)──▶ Owner { core::pool::Pool } ──▶ makes, destroys
//!  Lease, Hold ──notes (sent by Drop)──▶ │                             (tasks of its own)
//!                                        └── watches the link of every warm sandbox
//! ```
//!
//! What is made, kept and destroyed is decided by [`isol8_core::pool`]; the
//! states of a sandbox are drawn there. The owner task performs it and is the
//! only one that holds sandboxes, from the order until a [`Lease`] has one. A
//! lease ends by [`Lease::release`], or by its drop, which only sends a note.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use isol8_core::pool::{KeyStatus, PoolStatus};
use isol8_core::{
    config::{Config, PoolStrategy},
    failure::{Failure, FailureKind},
    ids::SandboxId,
    layer::LayerId,
    outcome::Counters,
    pool::{Policy, Ticket},
    sandbox::{EngineKind, Limits, SandboxKey},
};
use isol8_engine::{Engine, Sandbox};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

pub mod gate;

mod empty;
mod forget;
mod make;
mod owner;

#[cfg(test)]
mod tests;

use owner::{Note, Owner, Request};

use crate::install::site::Room;

/// Every engine of this daemon.
pub type Engines = BTreeMap<EngineKind, Arc<dyn Engine>>;

/// Requests that wait for the owner. Senders wait: each is a run that has a
/// slot, so there are hardly ever two.
const INBOX: usize = 64;

/// The pool, for those who take from it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PoolHandle {
    engines: Engines,
    requests: mpsc::Sender<Request>,
    notes: mpsc::UnboundedSender<Note>,
    status: watch::Receiver<PoolStatus>,
    tickets: Arc<AtomicU64>,
}

/// A sandbox for one run: nobody's code ran in it, and its init is past `Ready`.
#[derive(Debug)]
pub struct Lease {
    /// The sandbox. Its link is idle: the next frame is the caller's to send.
    pub sandbox: Sandbox,
    /// It had been made before the lease was asked for.
    pub warm: bool,
    /// Its interpreter is parked.
    pub parked: bool,
    /// Its counters before the first program, where they could be read.
    pub baseline: Option<Counters>,
    /// Destroys the sandbox in the end.
    pub hold: Hold,
}

impl Lease {
    /// For an installation in it.
    pub(crate) fn room(&mut self) -> Room<'_> {
        Room {
            sandbox: &mut self.sandbox,
            engine: self.hold.engine(),
            baseline: self.baseline,
        }
    }

    /// [`Hold::release`], after closing the link.
    pub async fn release(self) {
        let Self { sandbox, hold, .. } = self;
        drop(sandbox);
        hold.release().await;
    }
}

/// The claim on a leased sandbox. Dropping it only sends "destroy" to the pool.
#[derive(Debug)]
pub struct Hold {
    id: SandboxId,
    engine: Arc<dyn Engine>,
    notes: mpsc::UnboundedSender<Note>,
    released: bool,
}

impl Hold {
    /// The sandbox.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The engine that made it.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Destroys the sandbox and waits until that was tried once; where it fails
    /// the pool goes on trying by itself.
    ///
    /// # Cancellation
    /// The sandbox is destroyed all the same.
    pub async fn release(mut self) {
        let (done, wait) = oneshot::channel();
        self.send_release(Some(done));
        // The owner is gone only when nothing of it is left to destroy.
        let _gone = wait.await;
    }

    fn send_release(&mut self, done: Option<oneshot::Sender<()>>) {
        self.released = true;
        let id = self.id.clone();
        let _owner_gone = self.notes.send(Note::Release { id, done });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released {
            self.send_release(None);
        }
    }
}

/// Tells the owner when somebody who waits goes away.
struct Waiting<'a> {
    ticket: Ticket,
    notes: &'a mpsc::UnboundedSender<Note>,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let ticket = self.ticket;
            let _owner_gone = self.notes.send(Note::Cancel { ticket });
        }
    }
}

impl PoolHandle {
    /// Starts the pool. `tasks` tracks its owner task; `cores` bounds how much
    /// it makes at a time.
    ///
    /// # Errors
    /// `NotYet` for `poolStrategy: "fast"`.
    pub fn start(
        engines: Engines,
        config: &Config,
        cores: usize,
        tasks: &TaskTracker,
    ) -> Result<Self, Failure> {
        if config.pool.strategy == PoolStrategy::Fast {
            let message = "`poolStrategy: \"fast\"` is not there yet";
            return Err(Failure::new(FailureKind::NotYet, message)
                .hint("set `poolStrategy` to \"secure\" in the configuration or leave it out"));
        }
        let limits = &config.defaults.limits;
        let limits = Limits {
            memory: limits.memory,
            cpu: limits.cpu,
            pids: limits.pids,
        };
        let policy = Policy::new(&config.pool, limits, cores);
        let (requests, inbox) = mpsc::channel(INBOX);
        // Unbounded, because a drop cannot wait; every lease and every waiting
        // caller sends at most one note, every run two.
        let (notes, noted) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(PoolStatus::default());
        let owner = Owner::new(policy, engines.clone(), notes.clone(), publish);
        tasks.spawn(owner.run(inbox, noted));
        Ok(Self {
            engines,
            requests,
            notes,
            status,
            tickets: Arc::default(),
        })
    }

    /// A sandbox of this kind with these limits: a warm one where there is one,
    /// else one that is made now. The caller bounds the time.
    ///
    /// # Errors
    /// Why it cannot be made; `ShuttingDown`.
    ///
    /// # Cancellation
    /// Nothing is lost: what was being made for it becomes warm.
    pub async fn lease(&self, key: SandboxKey, limits: Limits) -> Result<Lease, Failure> {
        let mut warm_failed = false;
        loop {
            let (lease, has) = self.take(key.clone(), limits).await?;
            if has == limits {
                return Ok(lease);
            }
            let set = lease.hold.engine.set_limits(lease.hold.id(), &limits).await;
            match set {
                Ok(()) => return Ok(lease),
                // A warm one may have died in this moment. Once.
                Err(failure) if lease.warm && !warm_failed => {
                    tracing::debug!(error = %failure, "a warm sandbox took no limits");
                    warm_failed = true;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A sandbox, and the limits that it has.
    async fn take(&self, key: SandboxKey, limits: Limits) -> Result<(Lease, Limits), Failure> {
        self.check_engine(key.engine)?;
        let (reply, answer) = oneshot::channel();
        self.ask(answer, |ticket| Request::Lease {
            ticket,
            key,
            limits,
            reply,
        })
        .await
    }

    /// Makes `count` warm sandboxes (0: as many as the pool wants by itself) and
    /// waits until they are there. Gives how many there are; that is less than
    /// `count` where the pool's bound on all is less.
    ///
    /// # Errors
    /// Why one could not be made; `ShuttingDown`.
    ///
    /// # Cancellation
    /// The pool goes on making them.
    pub async fn warm(&self, key: SandboxKey, count: u32) -> Result<u32, Failure> {
        self.check_engine(key.engine)?;
        let (reply, answer) = oneshot::channel();
        self.ask(answer, |ticket| Request::Warm {
            ticket,
            key,
            count,
            reply,
        })
        .await
    }

    /// Keeps this kind warm from now on, also when nobody uses it. Does not wait.
    pub fn prewarm(&self, key: SandboxKey) {
        let _owner_gone = self.notes.send(Note::Prewarm { key });
    }

    /// Lets go of layers: no sandbox with one is kept for nobody from now on,
    /// until somebody asks for one again. Waits until those that were kept are
    /// gone; the caller bounds the time.
    ///
    /// # Cancellation
    /// They go all the same.
    pub async fn forget(&self, layers: BTreeSet<LayerId>) {
        let (done, gone) = oneshot::channel();
        self.note(Note::Forget { layers, done });
        let _gone = gone.await;
    }

    /// The sandboxes that are warm: nobody has them.
    pub async fn idle(&self) -> Vec<(SandboxId, EngineKind)> {
        let (reply, answer) = oneshot::channel();
        self.note(Note::Idle { reply });
        answer.await.unwrap_or_default()
    }

    /// Destroys every sandbox that is warm now, and keeps none from now on until
    /// somebody asks for one again, prewarmed or not. Leases are not touched, nor
    /// is what is being made for somebody.
    ///
    /// Waits until each was tried to destroy once, and gives how that went; where
    /// it failed the pool goes on trying by itself. Waits also for what was on its
    /// way out, and for what was being made for nobody, which is destroyed as soon
    /// as it is made: neither is counted.
    ///
    /// # Cancellation
    /// They go all the same.
    pub async fn empty(&self) -> Vec<(SandboxId, EngineKind, Result<(), Failure>)> {
        let (reply, answer) = oneshot::channel();
        self.note(Note::Empty { reply });
        answer.await.unwrap_or_default()
    }

    /// What the pool has now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        self.status.borrow().clone()
    }

    /// A run enters the part in which it should have the machine: until
    /// [`PoolHandle::run_ended`], refills wait a little.
    pub fn run_started(&self) {
        let _owner_gone = self.notes.send(Note::RunStarted);
    }

    /// The run's client has its last event. Once for each
    /// [`PoolHandle::run_started`].
    pub fn run_ended(&self) {
        let _owner_gone = self.notes.send(Note::RunEnded);
    }

    /// Refuses new leases, destroys everything, and gives how many sandboxes are
    /// still there after `grace`: those that are leased, and those whose engine
    /// does not answer. The pool goes on trying while its task lives.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        let (done, stopped) = oneshot::channel();
        let stop = async {
            if self.requests.send(Request::Shutdown { done }).await.is_ok() {
                let _owner_gone = stopped.await;
            }
        };
        // Either way the figures below are what is true.
        let _in_time = timeout(grace, stop).await;
        let live = self.status().live.into_values().sum::<u32>();
        usize::try_from(live).unwrap_or(usize::MAX)
    }

    /// Without its task the pool has nothing: the note is dropped then, and with
    /// it who would answer.
    fn note(&self, note: Note) {
        drop(self.notes.send(note));
    }

    fn check_engine(&self, kind: EngineKind) -> Result<(), Failure> {
        if self.engines.contains_key(&kind) {
            return Ok(());
        }
        let message = format!("this daemon has no {kind} engine");
        Err(Failure::new(FailureKind::Unsupported, message))
    }

    async fn ask<T>(
        &self,
        answer: oneshot::Receiver<Result<T, Failure>>,
        request: impl FnOnce(Ticket) -> Request,
    ) -> Result<T, Failure> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let mut waiting = Waiting {
            ticket,
            notes: &self.notes,
            answered: false,
        };
        let sent = self.requests.send(request(ticket)).await;
        sent.map_err(|_| shutting_down())?;
        let answer = answer.await;
        waiting.answered = true;
        answer.unwrap_or_else(|_| Err(shutting_down()))
    }
}

fn shutting_down() -> Failure {
    Failure::new(FailureKind::ShuttingDown, "the daemon is going down")
}
