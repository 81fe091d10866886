//! The daemon as a whole: its parts, and how it ends.
//!
//! ```text
//!  serving ──stop──▶ draining ──runs gone, or grace over──▶ cancelling ──▶ closing
//!                       └────────────hurry───────────────────▲
//! ```
//! Draining refuses who comes or waits, and lets runs go on. Cancelling ends
//! each run that is left with a terminal event. Closing destroys what is warm.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    config::Config,
    failure::{Failure, FailureKind},
    ids::DaemonId,
    sandbox::SandboxKey,
};
use isol8_engine::presence::Presence;
use isol8_proto::v1::{self, run_event::Event};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    assembly::orphaned,
    audit::Audit,
    egress::{Egress, EgressSettings},
    layers::{Layers, Means},
    manager,
    outbox::Outbox,
    pool::{PoolHandle, gate::Gate},
    reconcile,
    roster::Roster,
    session::{
        Sessions,
        store::{Spare, Store},
    },
    status,
};

/// How long runs may go on after the daemon was told to stop.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// How long a cancelled run may take for its terminal event and its sandbox.
pub const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// How long clients may take to read their last events, and connections to close.
pub const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long the pool may take to destroy what is warm.
pub const POOL_GRACE: Duration = Duration::from_secs(10);

/// How long the last look for what an engine made too late may take.
pub const SWEEP_GRACE: Duration = Duration::from_secs(5);

/// A line of a build that is shown to a person.
const MAX_NOTICE_BYTES: usize = 2 << 10;

/// What a daemon is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the operator wants.
    pub config: Config,
    /// Where that was read, for a person.
    pub config_source: String,
    /// Marks what this daemon makes.
    pub id: DaemonId,
    /// Where clients dial.
    pub socket: PathBuf,
    /// `R`.
    pub runtime_dir: PathBuf,
    /// `S`.
    pub state_dir: PathBuf,
    /// Its engines.
    pub roster: Roster,
    /// Bytes that all installed packages may take together.
    pub install_room: u64,
    /// How filtered networks reach the world.
    pub egress: EgressSettings,
    /// Tells other daemons that this one lives.
    pub presence: Option<Presence>,
}

/// A daemon that serves until it is stopped.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) config: Config,
    pub(crate) config_source: String,
    pub(crate) id: DaemonId,
    pub(crate) socket: PathBuf,
    pub(crate) runtime_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) roster: Roster,
    pub(crate) pool: PoolHandle,
    pub(crate) egress: Egress,
    pub(crate) sessions: Sessions,
    /// Packages that were installed for earlier runs.
    pub(crate) layers: Layers,
    pub(crate) gate: Gate,
    pub(crate) audit: Audit,
    /// Runs and image builds, each with a client that waits for its end.
    pub(crate) runs: TaskTracker,
    /// Everything else that was spawned.
    pub(crate) tasks: TaskTracker,
    /// Ends every run that is left.
    pub(crate) cancel_runs: CancellationToken,
    pub(crate) started: Instant,
    pub(crate) runs_total: AtomicU64,
    stop: CancellationToken,
    hurry: CancellationToken,
    _presence: Option<Presence>,
    /// Image builds share the engine's cache: two at once would do the same work.
    builds: Semaphore,
}

impl Daemon {
    /// Puts the parts together and starts the pool.
    ///
    /// # Errors
    /// What the configuration asks for and this version does not do; an audit
    /// log that cannot be written; sessions that cannot be taken over.
    pub fn new(parts: Parts) -> Result<Arc<Self>, Failure> {
        let audit = Audit::open(&parts.config.audit, &parts.state_dir)?;
        let tasks = TaskTracker::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = PoolHandle::start(parts.roster.engines().clone(), &parts.config, cores, &tasks)?;
        let spare = parts.presence.clone().map(|presence| Spare {
            presence,
            keep: orphaned(&parts.config.cleanup),
        });
        let store = Store::open(&parts.state_dir, spare)?;
        let sessions = Sessions::start(store, &parts.roster, tasks.clone());
        let egress = Egress::start(parts.egress, &tasks);
        let layers = Layers::open(
            parts.state_dir.join("layers"),
            Means {
                pool: pool.clone(),
                egress: egress.clone(),
                mounted: parts.roster.mounted(),
                network: parts.config.network.clone(),
                tasks: tasks.clone(),
                room: parts.install_room,
            },
        );
        Ok(Arc::new(Self {
            gate: Gate::new(parts.config.max_concurrent),
            audit,
            config: parts.config,
            config_source: parts.config_source,
            id: parts.id,
            socket: parts.socket,
            runtime_dir: parts.runtime_dir,
            state_dir: parts.state_dir,
            egress,
            sessions,
            layers,
            roster: parts.roster,
            pool,
            runs: TaskTracker::new(),
            tasks,
            cancel_runs: CancellationToken::new(),
            started: Instant::now(),
            runs_total: AtomicU64::new(0),
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
            _presence: parts.presence,
            builds: Semaphore::new(1),
        }))
    }

    /// Tells the daemon to stop. The second time, runs get no more time.
    pub fn stop(&self) {
        if self.stop.is_cancelled() {
            self.hurry.cancel();
        }
        self.stop.cancel();
    }

    /// Fires when the daemon was told to stop.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// The pool, for who looks into it.
    #[must_use]
    pub fn pool(&self) -> &PoolHandle {
        &self.pool
    }

    /// # Errors
    /// `ShuttingDown` once the daemon was told to stop.
    pub(crate) fn check_open(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            return Err(Failure::new(
                FailureKind::ShuttingDown,
                "the daemon is going down",
            ));
        }
        Ok(())
    }

    pub(crate) fn count_run(&self) {
        self.runs_total.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the turn to build an image.
    pub(crate) async fn build_turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        let turn = self.builds.acquire().await;
        turn.expect("the semaphore is never closed")
    }

    /// Makes what `key` needs, with notices to the run's client.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(crate) async fn prepare(&self, key: &SandboxKey, outbox: &Outbox) -> Result<(), Failure> {
        let engine = self.roster.engine(key.engine)?;
        let notice = |message: &str| {
            // A client that does not read misses lines, not events.
            if outbox.has_room() {
                outbox.event(Event::Notice(v1::Notice {
                    message: status::cut(message, MAX_NOTICE_BYTES).to_owned(),
                }));
            }
        };
        notice(&format!("building the {} image, once", key.runtime));
        let _turn = self.build_turn().await;
        engine.prepare(key, &notice).await
    }

    /// Starts what runs beside the server.
    pub(crate) fn start_chores(self: &Arc<Self>, health: &tonic_health::server::HealthReporter) {
        for kind in self.roster.engines().keys().copied() {
            let daemon = Arc::clone(self);
            self.tasks
                .spawn(async move { daemon.roster.watch(kind, &daemon.stop).await });
        }
        let (daemon, health) = (Arc::clone(self), health.clone());
        self.tasks.spawn(async move {
            loop {
                report(&daemon, &health).await;
                tokio::select! {
                    () = daemon.stop.cancelled() => return,
                    () = daemon.roster.heard() => {}
                }
            }
        });
        let daemon = Arc::clone(self);
        self.tasks.spawn(async move { daemon.prewarm().await });
        let daemon = Arc::clone(self);
        self.tasks
            .spawn(async move { manager::keep_informed(&daemon).await });
        let daemon = Arc::clone(self);
        self.tasks.spawn(async move {
            let cleanup = &daemon.config.cleanup;
            let max_age = cleanup.auto_prune.then_some(cleanup.max_age);
            daemon.sessions.keep_tidy(max_age, &daemon.stop).await;
        });
        let daemon = Arc::clone(self);
        self.tasks.spawn(async move {
            let (roster, stop) = (&daemon.roster, &daemon.stop);
            reconcile::keep_sweeping(roster, &daemon.id, &daemon.runtime_dir, stop).await;
        });
    }

    /// Warms what the configuration names, once it is known on which engine.
    async fn prewarm(&self) {
        let Some(runtimes) = &self.config.pool.prewarm else {
            return;
        };
        let chosen = tokio::select! {
            () = self.stop.cancelled() => return,
            chosen = self.roster.choose(None, false) => chosen,
        };
        match chosen {
            Ok(engine) => {
                for runtime in runtimes {
                    self.pool.prewarm(self.config.usual_key(engine, *runtime));
                }
            }
            Err(failure) => tracing::warn!(error = %failure, "nothing is prewarmed"),
        }
    }

    /// Ends all runs, kindly first. Call after [`Daemon::stop`].
    pub(crate) async fn drain(&self) {
        self.gate.close();
        self.runs.close();
        let began = Instant::now();
        tokio::select! {
            () = self.runs.wait() => {}
            () = self.hurry.cancelled() => {}
            () = tokio::time::sleep(DRAIN_GRACE) => {}
        }
        let left = self.runs.len();
        self.cancel_runs.cancel();
        let in_time = timeout(CANCEL_GRACE, self.runs.wait()).await.is_ok();
        let elapsed_ms = began.elapsed().as_millis();
        tracing::info!(cancelled = left, in_time, elapsed_ms, "runs have ended");
    }

    /// An engine that hung may have done what it was asked to long after whoever
    /// asked had given up: nobody but this daemon would look for it before the
    /// next start.
    async fn sweep_once_more(&self) {
        let sweep = reconcile::sweep(&self.roster, &self.id, &self.runtime_dir);
        let swept = tokio::select! {
            swept = timeout(SWEEP_GRACE, sweep) => swept,
            () = self.hurry.cancelled() => return,
        };
        match swept {
            Ok(swept) if swept.destroyed == 0 => {}
            Ok(swept) => tracing::info!(destroyed = swept.destroyed, "removed what came late"),
            Err(_) => tracing::warn!("an engine does not answer: it was not looked at again"),
        }
    }

    /// Destroys what is warm and waits for the rest.
    pub(crate) async fn close(&self) {
        self.sessions.close().await;
        let left = self.pool.shutdown(POOL_GRACE).await;
        self.sweep_once_more().await;
        let ended = timeout(CLOSE_GRACE, self.egress.shutdown()).await;
        if ended.is_err() {
            tracing::warn!("the egress process did not end in time");
        }
        self.tasks.close();
        let in_time = timeout(CLOSE_GRACE, self.tasks.wait()).await.is_ok();
        if left > 0 || !in_time {
            tracing::warn!(sandboxes = left, "left for the next start to remove");
        }
    }
}

async fn report(daemon: &Daemon, health: &tonic_health::server::HealthReporter) {
    use tonic_health::ServingStatus;
    let status = match daemon.roster.can_serve() {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::Unknown,
    };
    // The empty name is the daemon as a whole.
    for service in ["", "isol8.v1.RunService"] {
        health.set_service_status(service, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_needs_to_end_fits_into_its_grace() {
        use crate::run::{drive::VERDICT_COUNTERS, pump::KILL_GRACE};
        assert!(KILL_GRACE + VERDICT_COUNTERS < CANCEL_GRACE);
    }
}
