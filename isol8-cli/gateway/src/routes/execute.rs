//! `POST /execute`: a run as one answer.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
};
use isol8_proto::v1::{Phase, Start};
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, within};
use crate::{
    answering::Answering,
    api::{self, ExecuteBody},
    body::{self, Place},
    execution::{Event, Execution},
    gateway::Shared,
    job::Job,
    keys::Caller,
    outcome::Collected,
    refusal::Refusal,
    sessions::{self, Making},
};

/// What a run takes of what its key has, until it is over.
#[derive(Debug)]
pub(super) struct Places {
    _run: OwnedSemaphorePermit,
    _session: Option<Making>,
}

pub(super) async fn execute(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Answer {
    let (job, held) = job(&shared, &caller, request).await?;
    let room = shared
        .answers
        .reserve(&caller, job.answer_bytes(), &shared.bounds)
        .await?;
    let run = whole(Execution::start(&shared, job, held));
    let answer = within(shared.bounds.execute, run).await?;
    Ok(answer.map(|body| Body::new(Answering::new(body, room))))
}

/// Reads what is asked for. The run's place among those of its key is taken after
/// the body has come: a client that sends slowly holds none.
pub(super) async fn job(
    shared: &Shared,
    caller: &Caller,
    request: Request,
) -> Result<(Job, (Places, Place)), Refusal> {
    let (parts, body) = request.into_parts();
    let held = body::read(caller, &parts.headers, body, &shared.room, &shared.bounds).await?;
    let asked = body::parse(&held.bytes)?;
    let (job, places) = prepare(shared, caller, asked).await?;
    Ok((job, (places, held.place)))
}

/// Checks what is asked for, and takes the places of the run.
pub(super) async fn prepare(
    shared: &Shared,
    caller: &Caller,
    asked: ExecuteBody,
) -> Result<(Job, Places), Refusal> {
    if !asked.request.metadata.is_empty() {
        let metadata = serde_json::to_string(&asked.request.metadata).unwrap_or_default();
        let metadata = isol8_core::egress::record::cut(&metadata, 1024);
        tracing::info!(key = caller.name(), metadata, "asked");
    }
    let policy = shared.policy.narrowed(caller.policy());
    let job = Job::new(asked, caller, &policy)?;
    let places = places(shared, caller, &job.start).await?;
    Ok((job, places))
}

/// Takes a place among the runs of the key, and one for the session.
pub(super) async fn places(
    shared: &Shared,
    caller: &Caller,
    start: &Start,
) -> Result<Places, Refusal> {
    let run = place(shared, caller)?;
    let session = tokio::select! {
        session = sessions::place(shared, caller, start) => session?,
        () = shared.stop.cancelled() => return Err(Refusal::stopping()),
    };
    Ok(Places {
        _run: run,
        _session: session,
    })
}

fn place(shared: &Shared, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
    let place = Arc::clone(&caller.runs).try_acquire_owned();
    place.map_err(|_| {
        let most = shared.bounds.runs_per_key;
        Refusal::busy(format!("{most} runs of this key go on already"))
    })
}

async fn whole(mut run: Execution) -> Answer {
    let (mut stdout, mut stderr) = (Collected::default(), Collected::default());
    let mut phase = Phase::Unspecified;
    loop {
        match run.next().await {
            Event::Accepted => {}
            Event::Phase(next) => phase = next,
            Event::Stdout(bytes) => stdout.add(&bytes),
            // What the installer says is not the program's.
            Event::Stderr(_) if phase == Phase::Install => {}
            Event::Stderr(bytes) => stderr.add(&bytes),
            Event::Notice(notice) => tracing::info!(notice, "the daemon says"),
            Event::Ended(ended) => {
                let result = ended.with_output(stdout, stderr)?;
                tracing::info!(
                    run_id = result.execution_id,
                    exit_code = result.exit_code,
                    "ran"
                );
                return Ok(api::json(StatusCode::OK, &result));
            }
            Event::Failed(refusal) => return Err(refusal),
        }
    }
}
