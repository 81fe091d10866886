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
    ids::{Lane, Principal, RunId, SandboxId},
    mask::Secrets,
    outcome::{Outcome, Verdict},
    request::{MAX_TIMEOUT, RunRequest},
    sandbox::{EngineKind, SandboxKey},
};
use isol8_engine::link::Link;
use isol8_proto::v1::{self, run_event::Event};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::Instrument;

use crate::{
    audit::{Heads, RunAudit},
    convert,
    daemon::Daemon,
    egress::Report,
    images::{self, Choice},
    install::requests,
    outbox::Outbox,
    pool::gate::Pass,
    session::{Turn, record::Record},
    status,
};

pub(crate) mod drive;
mod ending;
mod intake;
mod lane;
mod lasting;
mod lease;
mod network;
mod packages;
mod program;
pub(crate) mod pump;
mod seat;
mod stdin;
mod verdict;

use drive::{Terms, drive};
use ending::{cancelled_early, ended_early, ended_in_install, exited, masked};
use intake::Intake;
use lasting::Wanted;
use lease::{Front, key_of, lease};
use packages::{Packages, Place, bounded, lacks_base};
use pump::Stops;
use seat::{Holder, Seat};
use verdict::Seen;

/// What a run is started with.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) principal: Principal,
    pub(crate) lane: Lane,
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

impl Ended<'_> {
    /// It had no sandbox that could have been measured.
    fn after(mut self, wall: Duration) -> Self {
        self.outcome.usage.wall = wall;
        self
    }
}

/// What a run still holds when its client is told. Giving it back makes others
/// work: the next in the queue, the pool, the kernel.
struct Left<'a> {
    link: Link,
    clean: bool,
    sandbox: SandboxId,
    front: Front<'a>,
    pass: Pass,
    holder: Holder,
}

impl Left<'_> {
    async fn give_back(self) {
        drop(self.front);
        drop(self.pass);
        self.holder.give_back(self.link, self.clean).await;
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
        let mut asked = Report::default();
        let ended = AssertUnwindSafe(execute(&daemon, &id, &mut job, &audit, &mut asked))
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
        network::redact(&mut asked, &job.request);
        network::tell(&asked, &job.request, &job.outbox);
        audit.network(&asked.records).await;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (outcome, left) = match ended {
            Ok(mut ended) => {
                ended.outcome.usage.network_bytes_in = asked.bytes_in;
                ended.outcome.usage.network_bytes_out = asked.bytes_out;
                let outcome = ended.outcome.verdict.name();
                let sandbox = ended.left.as_ref().map(|left| &left.sandbox);
                audit.ended(&ended.outcome, sandbox, ended.heads).await;
                let kept = ended.left.as_ref().and_then(|left| left.holder.kept());
                job.outbox
                    .finish(Ok(Event::Exited(exited(ended.outcome, kept))));
                (outcome, ended.left)
            }
            Err(failure) => {
                let failure = masked(failure, &secrets);
                tracing::info!(kind = failure.kind.name(), error = %failure, "run failed");
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

/// Everything but the telling. What the run has asked the network for is added to
/// `asked`, whatever comes out.
async fn execute<'a>(
    daemon: &'a Daemon,
    id: &RunId,
    job: &mut Job,
    audit: &RunAudit,
    asked: &mut Report,
) -> Result<Ended<'a>, Failure> {
    let Some(mut turn) = turn(daemon, job).await? else {
        return Ok(cancelled_early(daemon));
    };
    let record = turn.as_ref().and_then(Turn::record).cloned();
    let engine = choose(daemon, &mut job.request, record.as_ref()).await?;
    let queued = || job.outbox.event(phase(v1::Phase::Queued));
    let pass = tokio::select! {
        biased;
        () = job.cancel.cancelled() => return Ok(cancelled_early(daemon)),
        pass = daemon.gate.enter(job.principal, &job.lane, queued) => pass?,
    };
    let choice = match record {
        // It has its image.
        Some(_) => Choice::AsAsked,
        None => images::choose(daemon, engine, &mut job.request, &job.outbox).await?,
    };
    audit.started(&job.request, engine).await?;
    // The budget begins here: time in the queue is not the program's.
    let began = Instant::now();
    let mut deadline = began + job.request.limits.timeout;
    let front = Front::enter(&daemon.pool);
    let ready = match &record {
        Some(record) if lasting::has_all(&mut job.request, record)? => {
            Ok(lasting::as_it_is(daemon, &job.request, record).await)
        }
        _ => ready(daemon, engine, job, choice, &mut deadline, asked).await?,
    };
    let (mut key, packages) = match ready {
        Ok(ready) => ready,
        Err(seen) => {
            let ended = ended_in_install(seen, &job.request.limits);
            return Ok(ended.after(began.elapsed()));
        }
    };
    let lasts = turn.is_some() || job.request.persist;
    let wanted = lasts.then(|| Wanted::of(&job.request, &mut key));
    job.outbox
        .events(network::open_notice(&job.request).into_iter());
    let mut lost = 0;
    loop {
        let seated = async {
            match &wanted {
                Some(wanted) => {
                    lasting::seat(daemon, job, &key, turn.take(), wanted, &mut deadline).await
                }
                None => {
                    let (request, outbox) = (&job.request, &job.outbox);
                    let leased = lease(daemon, &key, request, outbox, &mut deadline).await;
                    leased.map(|lease| lease.map(Seat::from))
                }
            }
        };
        let seat = tokio::select! {
            biased;
            () = job.cancel.cancelled() => {
                return Ok(cancelled_early(daemon).after(began.elapsed()));
            }
            seat = seated => seat?,
        };
        let Some(seat) = seat else {
            let reason = verdict::timeout_reason(job.request.limits.timeout);
            let reason = Some(format!("{reason} before a sandbox was ready"));
            let ended = ended_early(Verdict::TimedOut, reason);
            return Ok(ended.after(began.elapsed()));
        };
        tracing::Span::current().record("sandbox_id", tracing::field::display(&seat.sandbox.id));
        job.outbox.event(accepted(id, engine, &job.request, &seat));
        let terms = Terms {
            began,
            deadline,
            may_retry: seat.warm && !lasts && lost < MAX_LOST,
        };
        let driven = drive(daemon, job, audit, seat, &packages, terms, asked).await?;
        if let Some(driven) = driven {
            return Ok(Ended {
                outcome: driven.outcome,
                heads: driven.heads,
                left: Some(Left {
                    link: driven.link,
                    clean: driven.clean,
                    sandbox: driven.sandbox,
                    front,
                    pass,
                    holder: driven.holder,
                }),
            });
        }
        lost += 1;
        tracing::info!("a warm sandbox was dead: taking another");
    }
}

/// Waits for the turn in the session that a run wants. The outer `None`: nobody
/// wants it any more.
async fn turn(daemon: &Daemon, job: &Job) -> Result<Option<Option<Turn>>, Failure> {
    let Some(ask) = &job.request.session else {
        return Ok(Some(None));
    };
    let waits = || job.outbox.event(phase(v1::Phase::Queued));
    tokio::select! {
        biased;
        () = job.cancel.cancelled() => Ok(None),
        turn = daemon.sessions.turn(job.principal, &ask.name, waits) => {
            turn.map(|turn| Some(Some(turn)))
        }
    }
}

/// The engine of a run, whose request then is what its session has, where there
/// is one.
async fn choose(
    daemon: &Daemon,
    request: &mut RunRequest,
    record: Option<&Record>,
) -> Result<EngineKind, Failure> {
    lasting::check_packages(request)?;
    if let Some(record) = record {
        lasting::fit(request, record, &daemon.config.policy)?;
        return Ok(record.key.engine);
    }
    lasting::check_new(request)?;
    let image = request.image.is_some();
    daemon.roster.choose(request.engine, image).await
}

fn accepted(id: &RunId, engine: EngineKind, request: &RunRequest, seat: &Seat) -> Event {
    Event::Accepted(v1::Accepted {
        run_id: id.to_string(),
        sandbox_id: seat.sandbox.id.to_string(),
        engine: convert::engine_to_wire(engine).into(),
        warm: seat.warm,
        runtime: convert::runtime_to_wire(request.runtime).into(),
    })
}

/// Sees to the packages of a run, building its base image first where that is
/// missing: that time is not the run's. Gives what kind of sandbox it then needs;
/// the inner `Err` is a run that was over before.
async fn ready(
    daemon: &Daemon,
    engine: EngineKind,
    job: &Job,
    choice: Choice,
    deadline: &mut Instant,
    asked: &mut Report,
) -> Result<Result<(SandboxKey, Packages), Seen>, Failure> {
    let request = &job.request;
    let mut key = key_of(engine, request);
    if request.install.is_empty() {
        return Ok(Ok((key, Packages::None)));
    }
    if choice == Choice::Served {
        return Ok(Ok((key, Packages::Image)));
    }
    let secrets = Secrets::new(&request.secrets).expect("the gate has checked them");
    let mut intake = Intake::new(request, &secrets, &job.outbox);
    let place = Place {
        daemon,
        request,
        outbox: &job.outbox,
    };
    let stops = job.stops(daemon);
    let mut claims = Vec::new();
    let looking = place.ready(&mut key, &mut intake, &mut claims);
    let mut done = bounded(looking, *deadline, &stops).await;
    if matches!(&done, Ok(Err(failure)) if lacks_base(failure, request)) {
        let began = Instant::now();
        let built = daemon.prepare(&key, &job.outbox);
        // Its own time is bounded by the engine.
        let Ok(built) = bounded(built, *deadline + MAX_TIMEOUT, &stops).await else {
            return Ok(Err(stops.seen()));
        };
        built?;
        *deadline += began.elapsed();
        let looking = place.ready(&mut key, &mut intake, &mut claims);
        done = bounded(looking, *deadline, &stops).await;
    }
    intake.finish();
    for claim in claims {
        requests::add(asked, claim.settle().await);
    }
    match done {
        Ok(packages) => Ok(Ok((key, packages?))),
        Err(seen) => Ok(Err(seen)),
    }
}

/// A warm sandbox that somebody killed may be leased before its death is known.
/// So many in a row, and it is no accident.
const MAX_LOST: u32 = 8;

fn phase(phase: v1::Phase) -> Event {
    Event::Phase(v1::PhaseChanged {
        phase: phase.into(),
    })
}
