//! One run from its request to its one terminal event.
//!
//! ```text
//!  queued ──slot──▶ leasing ──sandbox──▶ running ──verdict──▶ told ──▶ released
//!    │                 │                    │
//!    └──refused────────┴──failure───────────┴──▶ told with a status
//! ```
//! The task of a run is tracked and has a token of its own; the RPC holds only a
//! drop guard. What costs time after the program's end (destroying, refilling)
//! comes after the client was told.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{Principal, RunId},
    mask::Secrets,
    outcome::{Counters, Outcome, Usage, Verdict},
    request::{MAX_TIMEOUT, RunRequest},
    sandbox::{EngineKind, Limits, SandboxKey},
};
use isol8_engine::{Sandbox, link::Link};
use isol8_proto::v1::{self, run_event::Event};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::Instrument;

use crate::{
    audit::{Heads, RunAudit},
    convert,
    daemon::Daemon,
    egress::{Report, Traffic},
    outbox::Outbox,
    pool::{Hold, Lease, PoolHandle, gate::Pass},
    status,
};

mod ending;
mod intake;
mod lane;
mod network;
mod packages;
mod program;
pub(crate) mod pump;
mod stdin;
mod verdict;

use ending::{cancelled_early, conclude, ended_early, ended_in_install, exited, masked};
use intake::Intake;
use packages::{Packages, Place, bounded, lacks_base};
use pump::{Pump, Stops};
use verdict::{Seen, judge, since};

/// Where only the counters can tell a kill from an out-of-memory kill, they are
/// worth waiting for.
pub(crate) const VERDICT_COUNTERS: Duration = Duration::from_secs(1);

/// Where they only make the usage exact, they are not: what init knows of the
/// main process then has to do.
const USAGE_COUNTERS: Duration = Duration::from_millis(3);

/// What a run is started with.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) principal: Principal,
    pub(crate) request: RunRequest,
    pub(crate) client: Streaming<v1::RunRequest>,
    pub(crate) outbox: Outbox,
    /// Ends this run; a child of the daemon's own token.
    pub(crate) cancel: CancellationToken,
}

impl Job {
    fn stops(&self, daemon: &Daemon) -> Stops {
        Stops {
            cancel: self.cancel.clone(),
            daemon: daemon.cancel_runs.clone(),
        }
    }
}

/// A run that took place, with what is left to do.
struct Ended<'a> {
    outcome: Outcome,
    /// Of its output.
    heads: Heads,
    left: Option<Left<'a>>,
}

/// What a run still holds when its client is told. Giving it back makes others
/// work: the next in the queue, the pool, the kernel.
struct Left<'a> {
    link: Link,
    front: Front<'a>,
    pass: Pass,
    hold: Hold,
}

impl Left<'_> {
    async fn give_back(self) {
        drop(self.link);
        drop(self.front);
        drop(self.pass);
        self.hold.release().await;
    }
}

/// Does a run. Ends with a terminal event in the outbox whatever happens, a
/// panic included, and returns when the sandbox is gone.
pub(crate) async fn run(daemon: Arc<Daemon>, mut job: Job) {
    let id = RunId::random();
    let span = tracing::info_span!(
        "run",
        run_id = %id,
        runtime = %job.request.runtime,
        sandbox_id = tracing::field::Empty,
    );
    let began = Instant::now();
    let body = async {
        let secrets = Secrets::new(&job.request.secrets).expect("the gate has checked them");
        let audit = daemon.audit.of_run(&id, job.principal, &secrets);
        let ended = AssertUnwindSafe(execute(&daemon, &id, &mut job, &audit))
            .catch_unwind()
            .await;
        let ended = ended.unwrap_or_else(|_| {
            tracing::error!("a run panicked");
            Err(Failure::new(
                FailureKind::Internal,
                "the daemon has a bug: this run panicked",
            )
            .hint("`isol8 daemon logs` shows where"))
        });
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (outcome, left) = match ended {
            Ok(ended) => {
                let outcome = ended.outcome.verdict.name();
                let sandbox = ended.left.as_ref().map(|left| left.hold.id());
                audit.ended(&ended.outcome, sandbox, ended.heads).await;
                job.outbox.finish(Ok(Event::Exited(exited(ended.outcome))));
                (outcome, ended.left)
            }
            Err(failure) => {
                tracing::info!(kind = failure.kind.name(), error = %failure, "run failed");
                let failure = masked(failure, &job.request);
                audit.failed(&failure).await;
                job.outbox.finish(Err(status::from_failure(&failure)));
                ("failed", None)
            }
        };
        tracing::info!(outcome, elapsed_ms, "run ended");
        if let Some(left) = left {
            left.give_back().await;
        }
    };
    body.instrument(span).await;
}

async fn execute<'a>(
    daemon: &'a Daemon,
    id: &RunId,
    job: &mut Job,
    audit: &RunAudit,
) -> Result<Ended<'a>, Failure> {
    let request = &job.request;
    let engine = daemon
        .roster
        .choose(request.engine, request.image.is_some())
        .await?;
    let queued = || job.outbox.event(phase(v1::Phase::Queued));
    let pass = tokio::select! {
        biased;
        () = job.cancel.cancelled() => return Ok(cancelled_early(daemon)),
        pass = daemon.gate.enter(job.principal, queued) => pass?,
    };
    audit.started(request, engine, None).await?;
    // The budget begins here: time in the queue is not the program's.
    let began = Instant::now();
    let mut deadline = began + request.limits.timeout;
    let front = Front::enter(&daemon.pool);
    let ready = ready(daemon, engine, job, &mut deadline).await?;
    let (key, packages) = match ready {
        Ok(ready) => ready,
        Err(seen) => return Ok(ended_in_install(seen, &job.request.limits)),
    };
    job.outbox
        .events(network::open_notice(&job.request).into_iter());
    let mut lost = 0;
    loop {
        let request = &job.request;
        let leased = tokio::select! {
            biased;
            () = job.cancel.cancelled() => return Ok(cancelled_early(daemon)),
            leased = lease(daemon, &key, request, &job.outbox, &mut deadline) => leased?,
        };
        let Some(lease) = leased else {
            let reason = verdict::timeout_reason(request.limits.timeout);
            let reason = Some(format!("{reason} before a sandbox was ready"));
            return Ok(ended_early(Verdict::TimedOut, reason));
        };
        tracing::Span::current().record("sandbox_id", tracing::field::display(&lease.sandbox.id));
        job.outbox.event(Event::Accepted(v1::Accepted {
            run_id: id.to_string(),
            sandbox_id: lease.sandbox.id.to_string(),
            engine: convert::engine_to_wire(engine).into(),
            warm: lease.warm,
            runtime: convert::runtime_to_wire(request.runtime).into(),
        }));
        let times = Times { began, deadline };
        let may_retry = lease.warm && lost < MAX_LOST;
        let driven = drive(daemon, job, audit, lease, &packages, times, may_retry).await?;
        if let Some(driven) = driven {
            return Ok(Ended {
                outcome: driven.outcome,
                heads: driven.heads,
                left: Some(Left {
                    link: driven.link,
                    front,
                    pass,
                    hold: driven.hold,
                }),
            });
        }
        lost += 1;
        tracing::info!("a warm sandbox was dead: taking another");
    }
}

/// Sees to the packages of a run, building its base image first where that is
/// missing: that time is not the run's. Gives what kind of sandbox it then needs;
/// the inner `Err` is a run that was over before.
async fn ready(
    daemon: &Daemon,
    engine: EngineKind,
    job: &Job,
    deadline: &mut Instant,
) -> Result<Result<(SandboxKey, Packages), Seen>, Failure> {
    let request = &job.request;
    let mut key = key_of(engine, request);
    if request.install.is_empty() {
        return Ok(Ok((key, Packages::None)));
    }
    let secrets = Secrets::new(&request.secrets).expect("the gate has checked them");
    let mut intake = Intake::new(request, &secrets, &job.outbox);
    let place = Place {
        daemon,
        request,
        outbox: &job.outbox,
    };
    let stops = job.stops(daemon);
    let mut done = bounded(place.ready(&mut key, &mut intake), *deadline, &stops).await;
    if matches!(&done, Ok(Err(failure)) if lacks_base(failure, request)) {
        let began = Instant::now();
        let built = daemon.prepare(&key, &job.outbox);
        // Its own time is bounded by the engine.
        let Ok(built) = bounded(built, *deadline + MAX_TIMEOUT, &stops).await else {
            return Ok(Err(stops.seen()));
        };
        built?;
        *deadline += began.elapsed();
        done = bounded(place.ready(&mut key, &mut intake), *deadline, &stops).await;
    }
    intake.finish();
    match done {
        Ok(packages) => Ok(Ok((key, packages?))),
        Err(seen) => Ok(Err(seen)),
    }
}

/// A warm sandbox that somebody killed may be leased before its death is known.
/// So many in a row, and it is no accident.
const MAX_LOST: u32 = 8;

/// When a run left the queue, and when its time is over.
#[derive(Debug, Clone, Copy)]
struct Times {
    began: Instant,
    deadline: Instant,
}

/// A sandbox in which a run has ended.
struct Driven {
    outcome: Outcome,
    heads: Heads,
    link: Link,
    hold: Hold,
}

impl Driven {
    /// Before the program had started.
    fn early(ended: Ended<'_>, link: Link, hold: Hold) -> Option<Self> {
        Some(Self {
            outcome: ended.outcome,
            heads: ended.heads,
            link,
            hold,
        })
    }
}

/// Runs the program in its sandbox, to the verdict. `None`, where `may_retry`:
/// the sandbox was dead before anything of the run happened in it.
async fn drive(
    daemon: &Daemon,
    job: &mut Job,
    audit: &RunAudit,
    lease: Lease,
    packages: &Packages,
    times: Times,
    may_retry: bool,
) -> Result<Option<Driven>, Failure> {
    let leased_after = times.began.elapsed();
    let secrets = Secrets::new(&job.request.secrets).expect("the gate has checked them");
    let stops = job.stops(daemon);
    let Lease {
        mut sandbox,
        parked,
        baseline,
        hold,
        ..
    } = lease;
    let entered = enter(
        daemon,
        job,
        packages,
        &mut sandbox,
        &hold,
        baseline,
        times.deadline,
    );
    let (installed, traffic) = match entered.await? {
        Ok(entered) => entered,
        Err(ended) => return Ok(Driven::early(ended, sandbox.link, hold)),
    };
    let own = matches!(packages, Packages::Own { .. });
    let request = &job.request;
    // The parked interpreter has looked for packages before they were there.
    let parked = parked && !own;
    let mut pump = Pump::new(
        request,
        &secrets,
        sandbox.link,
        &sandbox.interpreter,
        parked,
        &mut job.client,
        &job.outbox,
    );
    pump.collect(audit.heads());
    let seen = pump.run(times.deadline, &stops).await?;
    if may_retry && !own && matches!(seen, Seen::LinkLost) && pump.is_untouched() {
        return Ok(None);
    }
    let wall = times.began.elapsed();
    pump.finish();
    let closing = async {
        match traffic {
            Some(traffic) => traffic.close().await,
            None => Report::default(),
        }
    };
    let (report, now) = tokio::join!(closing, counters(&hold, seen));
    let report = network::joined(installed, report);
    let used = now.map(|now| since(baseline, now));
    tracing::debug!(
        leased_us = leased_after.as_micros(),
        ran_us = wall.as_micros(),
        counted_us = times.began.elapsed().as_micros(),
        parked = pump.parked,
        "run phases"
    );
    let conclusion = conclude(seen, used, wall, &pump, request);
    let outcome = Outcome {
        usage: Usage {
            network_bytes_in: report.bytes_in,
            network_bytes_out: report.bytes_out,
            ..conclusion.usage
        },
        ..conclusion
    };
    network::tell(&report, &job.request, &secrets, &job.outbox);
    audit.network(&report.records).await;
    let heads = pump.take_heads();
    Ok(Some(Driven {
        outcome,
        heads,
        link: pump.into_link(),
        hold,
    }))
}

/// Installs what is to be installed in the run's own sandbox, and opens its
/// network. Gives what was asked of the network so far; the inner `Err` is a run
/// that was over before its program could start.
async fn enter(
    daemon: &Daemon,
    job: &Job,
    packages: &Packages,
    sandbox: &mut Sandbox,
    hold: &Hold,
    baseline: Option<Counters>,
    deadline: Instant,
) -> Result<Result<(Report, Option<Traffic>), Ended<'static>>, Failure> {
    let (request, stops) = (&job.request, job.stops(daemon));
    let mut installed = packages.report();
    if let Packages::Own { identity } = packages {
        let secrets = Secrets::new(&request.secrets).expect("the gate has checked them");
        let mut intake = Intake::new(request, &secrets, &job.outbox);
        let place = Place {
            daemon,
            request,
            outbox: &job.outbox,
        };
        let work = place.install_here(identity, sandbox, hold, baseline, &mut intake);
        let done = bounded(work, deadline, &stops).await;
        intake.finish();
        match done {
            Ok(report) => installed = report?,
            Err(seen) => return Ok(Err(ended_in_install(seen, &request.limits))),
        }
    }
    let registries = packages.registries(daemon, request);
    let door = sandbox.listener.as_ref();
    let open = network::open(daemon, request, hold.id(), door, &registries);
    let traffic = match bounded(open, deadline, &stops).await {
        Ok(traffic) => traffic?,
        Err(seen) => {
            let (verdict, reason) = judge(seen, None, &request.limits);
            return Ok(Err(ended_early(verdict, reason)));
        }
    };
    if !request.install.is_empty() {
        job.outbox.event(phase(v1::Phase::Code));
    }
    Ok(Ok((installed, traffic)))
}

/// What the sandbox has used, where that is known in time.
async fn counters(hold: &Hold, seen: Seen) -> Option<Counters> {
    let patience = match seen {
        // Nobody is there to be told.
        Seen::Cancelled => return None,
        seen if seen.needs_counters() => VERDICT_COUNTERS,
        _ => USAGE_COUNTERS,
    };
    let counted = timeout(patience, hold.engine().counters(hold.id())).await;
    counted.ok().and_then(Result::ok)
}

/// The kind of sandbox that a run needs, as long as nothing is installed.
fn key_of(engine: EngineKind, request: &RunRequest) -> SandboxKey {
    SandboxKey {
        engine,
        runtime: request.runtime,
        image: request.image.clone(),
        network: request.network,
        writable: request.writable,
        sandbox_size: request.limits.sandbox_size,
        tmp_size: request.limits.tmp_size,
        layer: None,
    }
}

fn limits_of(request: &RunRequest) -> Limits {
    Limits {
        memory: request.limits.memory,
        cpu: request.limits.cpu,
        pids: request.limits.pids,
    }
}

/// Leases a sandbox, building its image first where that is missing: that time
/// is not the run's. `None` when the run's time was over before.
async fn lease(
    daemon: &Daemon,
    key: &SandboxKey,
    request: &RunRequest,
    outbox: &Outbox,
    deadline: &mut Instant,
) -> Result<Option<Lease>, Failure> {
    let limits = limits_of(request);
    let leased = timeout_at(*deadline, daemon.pool.lease(key.clone(), limits)).await;
    match leased {
        Ok(Err(failure)) if lacks_base(&failure, request) => {
            let began = Instant::now();
            daemon.prepare(key, outbox).await?;
            *deadline += began.elapsed();
        }
        Ok(leased) => return leased.map(Some),
        Err(_) => return Ok(None),
    }
    match timeout_at(*deadline, daemon.pool.lease(key.clone(), limits)).await {
        Ok(leased) => leased.map(Some),
        Err(_) => Ok(None),
    }
}

/// Tells the pool that a run has the machine, for as long as it lives.
struct Front<'a>(&'a PoolHandle);

impl<'a> Front<'a> {
    fn enter(pool: &'a PoolHandle) -> Self {
        pool.run_started();
        Self(pool)
    }
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        self.0.run_ended();
    }
}

fn phase(phase: v1::Phase) -> Event {
    Event::Phase(v1::PhaseChanged {
        phase: phase.into(),
    })
}
