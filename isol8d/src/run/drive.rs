//! A run in its sandbox: what is left to install, its network, its program, and
//! what it has used.

use std::{sync::Arc, time::Duration};

use isol8_core::{
    failure::Failure,
    ids::SandboxId,
    mask::Secrets,
    outcome::{Counters, Outcome, Verdict},
};
use isol8_engine::{Engine, Sandbox, link::Link};
use isol8_proto::v1;
use tokio::time::{Instant, timeout};

use super::{
    Ended, Job,
    ending::{conclude, ended_early, ended_in_install},
    intake::Intake,
    network,
    packages::{Packages, Place, bounded},
    phase,
    pump::Pump,
    seat::{Holder, Seat},
    verdict::{Seen, judge, since},
};
use crate::{
    audit::{Heads, RunAudit},
    daemon::Daemon,
    egress::{Report, Traffic},
    install::requests::{self, Requests},
};

/// Where only the counters can tell a kill from an out-of-memory kill, they are
/// worth waiting for.
pub(crate) const VERDICT_COUNTERS: Duration = Duration::from_secs(1);

/// Where they only make the usage exact, they are not: what init knows of the
/// main process then has to do.
const USAGE_COUNTERS: Duration = Duration::from_millis(3);

/// How a run is driven.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// It left the queue.
    pub(super) began: Instant,
    /// Its time is over.
    pub(super) deadline: Instant,
    /// There may be another sandbox where this one turns out to be dead.
    pub(super) may_retry: bool,
}

/// A sandbox in which a run has ended.
pub(super) struct Driven {
    pub(super) outcome: Outcome,
    pub(super) heads: Heads,
    pub(super) link: Link,
    pub(super) sandbox: SandboxId,
    /// Init waits for the next command.
    pub(super) clean: bool,
    pub(super) holder: Holder,
}

impl Driven {
    /// Before the program had started.
    fn early(ended: Ended<'_>, sandbox: Sandbox, holder: Holder) -> Option<Self> {
        Some(Self {
            sandbox: sandbox.id,
            outcome: ended.outcome,
            heads: ended.heads,
            link: sandbox.link,
            clean: false,
            holder,
        })
    }
}

/// Runs the program in its sandbox, to the verdict. `None`, where it may retry:
/// the sandbox was dead before anything of the run happened in it. What was asked
/// of the network is added to `asked`, whatever comes out.
pub(super) async fn drive(
    daemon: &Daemon,
    job: &mut Job,
    audit: &RunAudit,
    mut seat: Seat,
    packages: &Packages,
    terms: Terms,
    asked: &mut Report,
) -> Result<Option<Driven>, Failure> {
    let leased_after = terms.began.elapsed();
    let secrets = Secrets::new(&job.request.secrets).expect("the gate has checked them");
    let stops = job.stops(daemon);
    let entered = enter(daemon, job, packages, &mut seat, terms.deadline, asked).await?;
    let Seat {
        sandbox,
        parked,
        baseline,
        mut holder,
        ..
    } = seat;
    let id = sandbox.id.clone();
    let engine = Arc::clone(holder.engine());
    let traffic = match entered {
        Ok(traffic) => traffic,
        Err(ended) => {
            let ended = ended.after(terms.began.elapsed());
            return Ok(Driven::early(ended, sandbox, holder));
        }
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
    if holder.outlives() {
        pump.share();
    }
    pump.collect(audit.heads());
    let seen = match pump.run(terms.deadline, &stops).await {
        Ok(seen) => seen,
        Err(failure) => {
            requests::add(asked, closed(traffic).await);
            return Err(failure);
        }
    };
    if terms.may_retry && !own && matches!(seen, Seen::LinkLost) && pump.is_untouched() {
        return Ok(None);
    }
    let wall = terms.began.elapsed();
    pump.finish();
    let (report, now) = tokio::join!(closed(traffic), counters(&engine, &id, seen));
    requests::add(asked, report);
    let shared = holder.outlives();
    let used = now.map(|now| since(baseline, now, shared));
    tracing::debug!(
        leased_us = leased_after.as_micros(),
        ran_us = wall.as_micros(),
        counted_us = terms.began.elapsed().as_micros(),
        parked = pump.parked,
        "run phases"
    );
    let outcome = conclude(seen, used, wall, &pump, request);
    let clean = pump.is_clean();
    match outcome.verdict {
        Verdict::SandboxLost => holder.lose(),
        // The limit killed init too.
        Verdict::OomKilled if !clean => holder.lose(),
        _ => {}
    }
    let heads = pump.take_heads();
    Ok(Some(Driven {
        outcome,
        heads,
        sandbox: id,
        clean,
        link: pump.into_link(),
        holder,
    }))
}

async fn closed(traffic: Option<Traffic>) -> Report {
    match traffic {
        Some(traffic) => traffic.close().await,
        None => Report::default(),
    }
}

/// Installs what is to be installed in the run's own sandbox, and opens its
/// network. The inner `Err` is a run that was over before its program could
/// start.
async fn enter(
    daemon: &Daemon,
    job: &Job,
    packages: &Packages,
    seat: &mut Seat,
    deadline: Instant,
    asked: &mut Report,
) -> Result<Result<Option<Traffic>, Ended<'static>>, Failure> {
    let (request, stops) = (&job.request, job.stops(daemon));
    if let Packages::Own { identity } = packages {
        let secrets = Secrets::new(&request.secrets).expect("the gate has checked them");
        let mut intake = Intake::new(request, &secrets, &job.outbox);
        let place = Place {
            daemon,
            request,
            outbox: &job.outbox,
        };
        let requests = Requests::default();
        let claim = requests.claim();
        let work = place.install_here(identity, seat, &mut intake, &requests);
        let done = bounded(work, deadline, &stops).await;
        intake.finish();
        requests::add(asked, claim.settle().await);
        match done {
            Ok(done) => done?,
            Err(seen) => return Ok(Err(ended_in_install(seen, &request.limits))),
        }
    }
    let registries = packages.registries(daemon, request);
    let Seat { sandbox, .. } = seat;
    let door = sandbox.listener.as_ref();
    let open = network::open(daemon, request, &sandbox.id, door, &registries);
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
    Ok(Ok(traffic))
}

/// What the sandbox has used, where that is known in time.
async fn counters(engine: &Arc<dyn Engine>, id: &SandboxId, seen: Seen) -> Option<Counters> {
    let patience = match seen {
        // Nobody is there to be told.
        Seen::Cancelled => return None,
        seen if seen.needs_counters() => VERDICT_COUNTERS,
        _ => USAGE_COUNTERS,
    };
    let counted = timeout(patience, engine.counters(id)).await;
    counted.ok().and_then(Result::ok)
}
