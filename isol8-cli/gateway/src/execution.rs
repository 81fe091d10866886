//! One run behind the gateway: a task that holds the stream to the daemon, and the
//! events that leave it.
//!
//! Who holds the [`Execution`] holds the run: dropped, as by a client that went,
//! the stream ends and the daemon cancels. The last event is `Ended` or `Failed`,
//! also when the gateway is told to stop. A session that was made for the run's
//! files is removed behind it, however it ended.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use isol8_core::egress::record::Record;
use isol8_proto::v1::{
    Accepted, Exited, Phase, RemoveSessionRequest, RunEvent, Start, Verdict, run_event,
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    daemon::Daemon,
    files,
    gateway::Shared,
    job::Job,
    keys,
    metrics::Metrics,
    outcome::{Ended, record},
    refusal::Refusal,
    requests::{Input, Open, requests},
};

/// Events that wait for a client; the window of the stream has the rest.
const WAITING: usize = 4;

/// The last event of a run goes to a client that may not read.
#[derive(Debug)]
pub(crate) enum Event {
    /// It has a sandbox.
    Accepted,
    Phase(Phase),
    Stdout(Bytes),
    Stderr(Bytes),
    /// For a person, such as that an image is being built.
    Notice(String),
    Ended(Box<Ended>),
    Failed(Refusal),
}

impl Event {
    /// Nothing comes after it.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Failed(_))
    }
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Execution {
    first: Option<Event>,
    events: mpsc::Receiver<Event>,
}

impl Execution {
    /// Starts a run. `held` is given back when it is over.
    pub(crate) fn start(shared: &Arc<Shared>, mut job: Job, held: impl Send + 'static) -> Self {
        let input = Input::whole(std::mem::take(&mut job.stdin));
        Self::with(shared, job, held, input)
    }

    /// As [`Execution::start`], with this input in place of the job's stdin.
    pub(crate) fn with(
        shared: &Arc<Shared>,
        job: Job,
        held: impl Send + 'static,
        input: Input,
    ) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let task = Task {
            shared: Arc::clone(shared),
            sender,
            accepted: None,
            network: None,
        };
        shared.tasks.spawn(async move {
            task.whole(job, input).await;
            drop(held);
        });
        Self {
            first: None,
            events,
        }
    }

    /// Waits for the first event. A run that the daemon refuses has failed by then:
    /// it is answered with a status in place of a stream.
    ///
    /// # Errors
    /// The run failed.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub(crate) async fn begun(&mut self) -> Result<(), Refusal> {
        match self.next().await {
            Event::Failed(refusal) => Err(refusal),
            event => {
                self.first = Some(event);
                Ok(())
            }
        }
    }

    /// The next event; not to be asked after the last one.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        if let Some(first) = self.first.take() {
            return first;
        }
        let next = self.events.recv().await;
        // The task always says how it ended; without its word it was a bug.
        next.unwrap_or_else(|| Event::Failed(Refusal::internal()))
    }
}

struct Task {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Event>,
    accepted: Option<Accepted>,
    network: Option<Vec<Record>>,
}

/// Why a run went no further.
enum Trouble {
    Failed(Refusal),
    /// Nobody takes its events any more.
    Gone,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal)
    }
}

impl From<tonic::Status> for Trouble {
    fn from(status: tonic::Status) -> Self {
        Self::Failed(status.into())
    }
}

impl Task {
    async fn whole(mut self, job: Job, input: Input) {
        let own = job.prefix.clone();
        let revoked = job.revoked.clone();
        let temporary = job.start.session.clone().filter(|_| job.temporary);
        let shared = Arc::clone(&self.shared);
        let _flight = shared.metrics.flight();
        let began = tokio::time::Instant::now();
        let client = self.sender.clone();
        let ended = tokio::select! {
            biased;
            () = client.closed() => Err(Trouble::Gone),
            () = shared.stop.cancelled() => Err(Refusal::stopping().into()),
            () = revoked.cancelled() => Err(keys::revoked().into()),
            // A bug in here must not leave the session behind.
            ended = AssertUnwindSafe(self.run(job, input)).catch_unwind() => {
                ended.unwrap_or_else(|_| Err(Refusal::internal().into()))
            }
        };
        let last = match ended {
            Ok(ended) => {
                count(&shared.metrics, &ended.exited);
                shared.metrics.ran(began.elapsed());
                Some(Event::Ended(Box::new(ended)))
            }
            Err(Trouble::Failed(refusal)) => {
                shared.metrics.verdict("failed");
                Some(Event::Failed(refusal.without(&own)))
            }
            Err(Trouble::Gone) => {
                shared.metrics.verdict("dropped");
                None
            }
        };
        let tell = async {
            if let Some(last) = last {
                // A client that went meanwhile hears nothing.
                let _gone = self.sender.send(last).await;
            }
        };
        let remove = async {
            if let Some(name) = temporary {
                remove(&shared.daemon, name).await;
            }
        };
        tokio::join!(tell, remove);
    }

    async fn run(&mut self, job: Job, input: Input) -> Result<Ended, Trouble> {
        let started = Timestamp::now();
        let session = job.start.session.clone().unwrap_or_default();
        let runtime = job.start.runtime;
        let over = match job.files.is_empty() {
            true => None,
            false => self.place(&job, &session).await?,
        };
        if job.start.log_network {
            self.network = Some(Vec::new());
        }
        let exited = match over {
            Some(exited) => exited,
            None => self.drive(job.start, input).await?,
        };
        let files = match job.outputs.is_empty() {
            true => None,
            false => Some(files::collect(&self.shared.daemon, &session, &job.outputs).await?),
        };
        // A run whose time is over before it has a sandbox has none.
        let accepted = self.accepted.take().unwrap_or(Accepted {
            runtime,
            ..Accepted::default()
        });
        let network = self.network.take();
        Ok(Ended {
            accepted,
            exited,
            network,
            files,
            started,
        })
    }

    /// Writes the run's files, into a session that is made if it is not there.
    /// Gives the end of a run whose time is over by then.
    async fn place(&mut self, job: &Job, session: &str) -> Result<Option<Exited>, Trouble> {
        let daemon = self.shared.daemon.clone();
        let mut there = !job.temporary;
        for (path, content) in &job.files {
            if there {
                match files::put(&daemon, session, path, content.clone()).await {
                    Err(refusal) if refusal.is_not_found() => {}
                    Err(refusal) => return Err(refusal.into()),
                    Ok(()) => continue,
                }
            }
            if let Some(over) = self.open(job.opening()).await? {
                return Ok(Some(over));
            }
            there = true;
            files::put(&daemon, session, path, content.clone()).await?;
        }
        Ok(None)
    }

    /// Makes the session, by a run of nothing.
    async fn open(&mut self, start: Start) -> Result<Option<Exited>, Trouble> {
        let (mut events, _open) = self.call(start, Input::whole(Bytes::new())).await?;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(run_event::Event::Notice(notice)) => {
                    self.send(Event::Notice(notice.message)).await?;
                }
                Some(run_event::Event::Exited(exited)) => {
                    return match (exited.verdict(), exited.code) {
                        (Verdict::Exited, Some(0)) => Ok(None),
                        (Verdict::TimedOut, _) => Ok(Some(exited)),
                        _ => Err(unopened(&exited).into()),
                    };
                }
                _ => {}
            }
        }
        Err(Refusal::internal().into())
    }

    /// Whoever drops what this gives ends the run.
    async fn call(
        &self,
        start: Start,
        input: Input,
    ) -> Result<(Streaming<RunEvent>, Open), Trouble> {
        let (requests, open) = requests(start, input);
        let answer = self.shared.daemon.runs().run(requests).await?;
        Ok((answer.into_inner(), open))
    }

    /// The run itself, to its last event.
    async fn drive(&mut self, start: Start, input: Input) -> Result<Exited, Trouble> {
        let (mut events, open) = self.call(start, input).await?;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(run_event::Event::Accepted(accepted)) => {
                    self.accepted = Some(accepted);
                    self.send(Event::Accepted).await?;
                }
                Some(run_event::Event::Phase(phase)) => {
                    self.send(Event::Phase(phase.phase())).await?;
                }
                Some(run_event::Event::Stdout(bytes)) => self.send(Event::Stdout(bytes)).await?,
                Some(run_event::Event::Stderr(bytes)) => self.send(Event::Stderr(bytes)).await?,
                Some(run_event::Event::Notice(notice)) => {
                    self.send(Event::Notice(notice.message)).await?;
                }
                Some(run_event::Event::Network(log)) => {
                    if let Some(network) = &mut self.network {
                        network.extend(log.requests.into_iter().map(record));
                    }
                }
                Some(run_event::Event::Exited(exited)) => return Ok(exited),
                Some(run_event::Event::StdinTaken(taken)) => open.taken(taken.bytes),
                None => {}
            }
        }
        let message = "the daemon's stream ended before the run did";
        let status = axum::http::StatusCode::BAD_GATEWAY;
        Err(Refusal::new(status, message).kind("internal").into())
    }

    async fn send(&self, event: Event) -> Result<(), Trouble> {
        self.sender.send(event).await.map_err(|_| Trouble::Gone)
    }
}

fn unopened(exited: &Exited) -> Refusal {
    let message = format!(
        "the sandbox for the files could not be made: {:?} {}",
        exited.verdict(),
        exited.reason
    );
    let status = axum::http::StatusCode::BAD_GATEWAY;
    Refusal::new(status, message.trim_end()).kind("internal")
}

/// Counts how a run ended.
pub(crate) fn count(metrics: &Metrics, exited: &Exited) {
    let name = exited.verdict().as_str_name();
    let name = name.strip_prefix("VERDICT_").unwrap_or(name);
    metrics.verdict(&name.to_ascii_lowercase());
}

/// A session that cannot be removed now goes when it was idle for long.
async fn remove(daemon: &Daemon, name: String) {
    let request = RemoveSessionRequest { name, force: true };
    if let Err(status) = daemon.sessions().remove(request).await {
        let refusal = Refusal::of_daemon(&status);
        if !refusal.is_not_found() {
            let error = refusal.body.error;
            tracing::warn!(error, "the session of a run's files was not removed");
        }
    }
}
