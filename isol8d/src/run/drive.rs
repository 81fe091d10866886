//! A run in its sandbox: what is left to install, its network, its program, and
//! what it has used.

use std::time::Duration;

use isol8_core::{
    failure::Failure,
    mask::Secrets,
    outcome::{Counters, Outcome},
};
use isol8_engine::link::Link;
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
    verdict::{Seen, judge, since},
};
use crate::{
    audit::{Heads, RunAudit},
    daemon::Daemon,
    egress::{Report, Traffic},
    install::requests::{self, Requests},
    pool::{Hold, Lease},
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
    pub(super) hold: Hold,
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

/// Runs the program in its sandbox, to the verdict. `None`, where it may retry:
/// the sandbox was dead before anything of the run happened in it. What was asked
/// of the network is added to `asked`, whatever comes out.
pub(super) async fn drive(
    daemon: &Daemon,
    job: &mut Job,
    audit: &RunAudit,
    mut lease: Lease,
    packages: &Packages,
    terms: Terms,
    asked: &mut Report,
) -> Result<Option<Driven>, Failure> {
    let leased_after = terms.began.elapsed();
    let secrets = Secrets::new(&job.request.secrets).expect("the gate has checked them");
    let stops = job.stops(daemon);
    let entered = enter(daemon, job, packages, &mut lease, terms.deadline, asked).await?;
    let Lease {
        sandbox,
        parked,
        baseline,
        hold,
        ..
    } = lease;
    let traffic = match entered {
        Ok(traffic) => traffic,
        Err(ended) => {
            let ended = ended.after(terms.began.elapsed());
            return Ok(Driven::early(ended, sandbox.link, hold));
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
    let (report, now) = tokio::join!(closed(traffic), counters(&hold, seen));
    requests::add(asked, report);
    let used = now.map(|now| since(baseline, now));
    tracing::debug!(
        leased_us = leased_after.as_micros(),
        ran_us = wall.as_micros(),
        counted_us = terms.began.elapsed().as_micros(),
        parked = pump.parked,
        "run phases"
    );
    let outcome = conclude(seen, used, wall, &pump, request);
    let heads = pump.take_heads();
    Ok(Some(Driven {
        outcome,
        heads,
        link: pump.into_link(),
        hold,
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
    lease: &mut Lease,
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
        let work = place.install_here(identity, lease, &mut intake, &requests);
        let done = bounded(work, deadline, &stops).await;
        intake.finish();
        requests::add(asked, claim.settle().await);
        match done {
            Ok(done) => done?,
            Err(seen) => return Ok(Err(ended_in_install(seen, &request.limits))),
        }
    }
    let registries = packages.registries(daemon, request);
    let door = lease.sandbox.listener.as_ref();
    let open = network::open(daemon, request, lease.hold.id(), door, &registries);
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
