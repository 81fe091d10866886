//! `RunService`: hands a checked request to a task of its own.

use std::{sync::Arc, time::Duration};

use isol8_core::{failure::Failure, ids::Lane};
use isol8_proto::v1::{self, run_service_server::RunService};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use super::principal;
use crate::{
    convert,
    daemon::Daemon,
    outbox::{Events, outbox},
    run::{self, Job},
    status,
};

/// A client has the whole request before it dials; 16 MiB over a local socket
/// take milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Runs(pub(super) Arc<Daemon>);

impl Runs {
    async fn start(&self, request: Request<Streaming<v1::RunRequest>>) -> Result<Events, Failure> {
        let daemon = &self.0;
        let principal = principal(&request)?;
        daemon.check_open()?;
        let mut client = request.into_inner();
        let first = timeout(START_DEADLINE, client.message()).await;
        let first = first.map_err(|_| {
            let ms = START_DEADLINE.as_millis();
            convert::invalid(format!("no `start` came within {ms} ms"))
        })?;
        let first = first.map_err(|status| {
            convert::invalid("the `start` could not be read").cause(status.message())
        })?;
        let start = convert::first(first)?;
        let lane = Lane::parse(&start.lane).ok_or_else(|| {
            let most = Lane::MAX_BYTES;
            convert::invalid(format!("`lane` has up to {most} letters, digits and `._-`"))
        })?;
        let request = convert::run_request(start, &daemon.config)?;
        let cancel = daemon.cancel_runs.child_token();
        let (outbox, events) = outbox(cancel.clone().drop_guard());
        let job = Job {
            principal,
            lane,
            request,
            client,
            outbox,
            cancel,
        };
        daemon.count_run();
        daemon.runs.spawn(run::run(Arc::clone(daemon), job));
        Ok(events)
    }
}

#[tonic::async_trait]
impl RunService for Runs {
    type RunStream = Events;

    async fn run(
        &self,
        request: Request<Streaming<v1::RunRequest>>,
    ) -> Result<Response<Events>, Status> {
        let events = self.start(request).await;
        events
            .map(versioned)
            .map_err(|failure| status::from_failure(&failure))
    }
}

/// Says who answers, so that a client of another version can tell its person.
fn versioned<T>(answer: T) -> Response<T> {
    let mut response = Response::new(answer);
    let version = MetadataValue::from_static(env!("CARGO_PKG_VERSION"));
    response.metadata_mut().insert("isol8-version", version);
    response
}
