//! A run whose events are passed on as they came, for a client that knows what the
//! daemon says.
//!
//! As with an [`Execution`](crate::execution::Execution), who holds it holds the
//! run: dropped, the stream ends and the daemon cancels.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use isol8_proto::v1::{
    ErrorDetail, Exited, GatewayEvent, RunEvent, Start, gateway_event, run_event,
};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use crate::{
    execution::count,
    gateway::Shared,
    job,
    keys::Caller,
    refusal::{Refusal, hint::over_http},
    requests::{Input, requests},
};

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Relay(mpsc::Receiver<GatewayEvent>);

impl Relay {
    /// Starts a run of this caller. `held` is given back when it is over.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        caller: &Caller,
        start: Start,
        input: Input,
        held: impl Send + 'static,
    ) -> Self {
        // The window of the stream to the daemon has what a client does not take.
        let (sender, events) = mpsc::channel(1);
        let task = Task {
            shared: Arc::clone(shared),
            sender,
            prefix: job::prefix(caller),
        };
        shared.tasks.spawn(async move {
            task.whole(start, input).await;
            drop(held);
        });
        Self(events)
    }

    /// The next event, and whether it is the last one; not to be asked after that.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub(crate) async fn next(&mut self) -> (GatewayEvent, bool) {
        let next = self.0.recv().await;
        // The task always says how it ended; without its word it was a bug.
        let event = next.unwrap_or_else(|| failed(Refusal::internal().detail()));
        let is_last = match &event.event {
            Some(gateway_event::Event::Run(run)) => {
                matches!(run.event, Some(run_event::Event::Exited(_)))
            }
            Some(gateway_event::Event::Failed(_)) => true,
            None => false,
        };
        (event, is_last)
    }
}

/// The last event of a run that did not take place.
pub(crate) fn failed(detail: ErrorDetail) -> GatewayEvent {
    GatewayEvent {
        event: Some(gateway_event::Event::Failed(detail)),
    }
}

struct Task {
    shared: Arc<Shared>,
    sender: mpsc::Sender<GatewayEvent>,
    /// What the names of the caller's sessions begin with.
    prefix: String,
}

/// Why a run went no further.
enum Trouble {
    Failed(Box<ErrorDetail>),
    /// Nobody takes its events any more.
    Gone,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(Box::new(refusal.detail()))
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        let detail = ErrorDetail::decode(status.details()).ok();
        match detail.filter(|detail| !detail.kind.is_empty()) {
            Some(detail) => Self::Failed(Box::new(detail)),
            None => Refusal::of_daemon(&status).into(),
        }
    }
}

impl Task {
    async fn whole(self, start: Start, input: Input) {
        let shared = &self.shared;
        let _flight = shared.metrics.flight();
        let began = Instant::now();
        let ended = tokio::select! {
            biased;
            () = self.sender.closed() => Err(Trouble::Gone),
            () = shared.stop.cancelled() => Err(Refusal::stopping().into()),
            ended = AssertUnwindSafe(self.drive(start, input)).catch_unwind() => {
                ended.unwrap_or_else(|_| Err(Refusal::internal().into()))
            }
        };
        let last = match ended {
            Ok(exited) => {
                count(&shared.metrics, &exited);
                shared.metrics.ran(began.elapsed());
                of_run(run_event::Event::Exited(exited))
            }
            Err(Trouble::Failed(detail)) => {
                shared.metrics.verdict("failed");
                failed(self.detail(*detail))
            }
            Err(Trouble::Gone) => return shared.metrics.verdict("dropped"),
        };
        // A client that went meanwhile hears nothing.
        let _gone = self.sender.send(last).await;
    }

    /// The run, to its last event.
    async fn drive(&self, start: Start, input: Input) -> Result<Exited, Trouble> {
        let (requests, open) = requests(start, input);
        let answer = self.shared.daemon.runs().run(requests).await?;
        let mut events = answer.into_inner();
        while let Some(RunEvent { event }) = events.message().await? {
            let event = match event {
                Some(run_event::Event::Exited(mut exited)) => {
                    exited.reason = self.text(exited.reason);
                    return Ok(exited);
                }
                Some(run_event::Event::StdinTaken(taken)) => {
                    open.taken(taken.bytes);
                    run_event::Event::StdinTaken(taken)
                }
                Some(run_event::Event::Notice(mut notice)) => {
                    notice.message = self.text(notice.message);
                    run_event::Event::Notice(notice)
                }
                Some(event) => event,
                // A newer daemon says more than we know.
                None => continue,
            };
            let sent = self.sender.send(of_run(event)).await;
            sent.map_err(|_| Trouble::Gone)?;
        }
        let message = "the daemon's stream ended before the run did";
        let status = axum::http::StatusCode::BAD_GATEWAY;
        Err(Refusal::new(status, message).kind("internal").into())
    }

    /// What a caller hears, in the caller's own words.
    fn text(&self, text: String) -> String {
        match text.contains(&self.prefix) {
            true => text.replace(&self.prefix, ""),
            false => text,
        }
    }

    fn detail(&self, detail: ErrorDetail) -> ErrorDetail {
        let causes = detail.causes.into_iter();
        ErrorDetail {
            message: self.text(detail.message),
            causes: causes.map(|cause| self.text(cause)).collect(),
            hint: over_http(&self.text(detail.hint)),
            ..detail
        }
    }
}

fn of_run(event: run_event::Event) -> GatewayEvent {
    GatewayEvent {
        event: Some(gateway_event::Event::Run(RunEvent { event: Some(event) })),
    }
}
