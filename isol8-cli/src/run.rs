//! One run over one stream: what goes up ([`requests`], [`input`], [`signals`])
//! and what comes down ([`output`]).
//!
//! ```text
//!            Start, signals, stdin            RunEvent
//! requests ─────────────────────────▶ daemon ──────────▶ pump ─▶ output ─▶ fd 1, fd 2
//!    ▲  ▲                                                  │
//!    │  └── input (a thread that reads fd 0)                └─▶ Ended
//!    └───── signals (SIGINT, SIGTERM, SIGHUP)
//! ```
//!
//! Whatever is awaited, signals are heard. Everything that waits is bounded:
//! a full pipe behind us stops the thread that writes, then the queue before it
//! fills, then HTTP/2's window, then the daemon, then the program.

mod input;
mod install;
mod network;
pub(crate) mod output;
mod requests;
mod signals;

use bytes::Bytes;
use isol8_core::{
    egress::record::Record,
    failure::{Failure, FailureKind},
};
use isol8_proto::v1::{
    Accepted, Exited, RunEvent, run_event::Event, run_service_client::RunServiceClient,
};
use tokio::time::timeout;
use tonic::{Response, Streaming};

use crate::{
    connect::{ANSWER_TIMEOUT, Link, silent, unwanted},
    console::{Console, printable},
    plan::{Plan, Stdin},
};
use install::{Installer, Stderr};
use output::{Output, OutputError, Written};
use signals::Signals;

/// Pieces of output are small; the program's text on the way up is not bounded
/// here, and an event may hold a whole buffered stream.
const MAX_EVENT_BYTES: usize = 1 << 30;

/// How a run came to its end, seen from here.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The daemon told how, and all output is written.
    Exited(Box<Finished>),
    /// This signal ended it before the program ended.
    Interrupted(i32),
    /// Our own stdout took no more.
    Output(OutputError),
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) accepted: Accepted,
    pub(crate) exited: Exited,
    pub(crate) written: Written,
    /// The requests through the filter, where they were asked for.
    pub(crate) network: Option<Vec<Record>>,
}

/// Carries the run out: every event to `output`, until the last one.
///
/// # Errors
/// The daemon refused the run or was lost.
///
/// # Cancellation
/// Dropping it closes the stream, and the daemon cancels the run.
pub(crate) async fn carry_out(
    link: &Link,
    plan: Plan,
    mut output: Output,
    console: &Console,
) -> Result<Ended, Failure> {
    let mut client =
        RunServiceClient::new(link.channel.clone()).max_decoding_message_size(MAX_EVENT_BYTES);
    let stdin = match plan.stdin {
        Stdin::Closed => None,
        Stdin::Data(data) => Some(input::ready(&data)),
        Stdin::Stream => Some(input::stream()),
    };
    let (json, log_network) = (plan.json, plan.start.log_network);
    let (requests, sender, taken) = requests::requests(plan.start, stdin);
    let mut signals = Signals::new(sender)?;
    // The answer only says that the daemon heard us: a run that waits for its
    // turn waits afterwards.
    let answer = timeout(ANSWER_TIMEOUT, client.run(requests));
    let response = match signals.during(answer).await {
        Ok(Ok(response)) => response.map_err(|status| unwanted(&status))?,
        Ok(Err(_)) => return Err(silent(link)),
        Err(signal) => return Ok(Ended::Interrupted(signal)),
    };
    check_version(&response, console);
    let mut pump = Pump {
        output: &mut output,
        signals: &mut signals,
        accepted: Accepted::default(),
        installer: Installer::new(json),
        network: Vec::new(),
        taken: &taken,
        console,
    };
    let exited = match pump.run(response.into_inner()).await {
        Ok(exited) => Ok(exited),
        Err(Stop::Ended(ended)) => return Ok(ended),
        Err(Stop::Failed(failure)) => Err(pump.installer.explain(failure)),
    };
    let (accepted, network) = (pump.accepted, pump.network);
    // What the program wrote comes before what we say about its end. It is over:
    // the next signal is for us.
    signals.over();
    // A run that failed has no result object that could hold the log.
    let log = match log_network && (!json || exited.is_err()) {
        true => network::lines(&network),
        false => Bytes::new(),
    };
    let written = match signals.during(last_words(output, log)).await {
        Ok(Ok(written)) => written,
        Ok(Err(error)) => return Ok(Ended::Output(error)),
        Err(signal) => return Ok(Ended::Interrupted(signal)),
    };
    Ok(Ended::Exited(Box::new(Finished {
        accepted,
        exited: exited?,
        written,
        network: log_network.then_some(network),
    })))
}

/// Writes what is left, and then the log of the network.
async fn last_words(mut output: Output, log: Bytes) -> Result<Written, OutputError> {
    if !log.is_empty() {
        output.own(log).await?;
    }
    output.finish().await
}

/// Why the pump stops before `Exited`.
enum Stop {
    Ended(Ended),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Pump<'a> {
    output: &'a mut Output,
    signals: &'a mut Signals,
    accepted: Accepted,
    installer: Installer,
    /// The daemon bounds it.
    network: Vec<Record>,
    taken: &'a requests::Taken,
    console: &'a Console,
}

impl Pump<'_> {
    async fn run(&mut self, mut events: Streaming<RunEvent>) -> Result<Exited, Stop> {
        let interrupted = |signal| Stop::Ended(Ended::Interrupted(signal));
        loop {
            let event = self.signals.during(events.message()).await;
            let event = event
                .map_err(interrupted)?
                .map_err(|status| unwanted(&status))?;
            let Some(event) = event else {
                return Err(silent_end().into());
            };
            let written = match event.event {
                Some(Event::Exited(exited)) => return Ok(exited),
                Some(Event::Stdout(bytes)) => self.signals.during(self.output.stdout(bytes)).await,
                Some(Event::Stderr(bytes)) => match self.installer.sort(bytes) {
                    Stderr::Program(bytes) => self.signals.during(self.output.stderr(bytes)).await,
                    Stderr::Installer(bytes) => {
                        self.signals.during(self.output.installer(bytes)).await
                    }
                    Stderr::Unseen => continue,
                },
                Some(Event::Notice(notice)) => {
                    let line = format!("note: {}\n", printable(&notice.message));
                    self.signals.during(self.output.own(line.into())).await
                }
                Some(Event::Accepted(accepted)) => {
                    self.accept(accepted);
                    continue;
                }
                Some(Event::StdinTaken(taken)) => {
                    self.taken.add(taken.bytes);
                    continue;
                }
                Some(Event::Phase(phase)) => {
                    let phase = phase.phase();
                    let name = phase.as_str_name();
                    self.console.debug(format_args!("phase {name}"));
                    if !self.installer.enter(phase) {
                        continue;
                    }
                    // What the program writes begins on a line of its own.
                    self.signals.during(self.output.own(Bytes::new())).await
                }
                Some(Event::Network(log)) => {
                    let records = log.requests.into_iter().map(network::record);
                    self.network.extend(records);
                    continue;
                }
                // A newer daemon says more than we know.
                None => continue,
            };
            written
                .map_err(interrupted)?
                .map_err(|error| Stop::Ended(Ended::Output(error)))?;
        }
    }

    fn accept(&mut self, accepted: Accepted) {
        self.console.debug(format_args!(
            "run {} in sandbox {} ({}, {})",
            accepted.run_id,
            accepted.sandbox_id,
            accepted.engine().as_str_name(),
            if accepted.warm { "warm" } else { "cold" },
        ));
        self.signals.accepted();
        self.accepted = accepted;
    }
}

fn silent_end() -> Failure {
    let message = "the daemon ended the run without saying how";
    Failure::new(FailureKind::Internal, message).hint("`isol8 daemon logs` may say more")
}

/// A daemon of another version answers as well as it can; the person should
/// know when something then looks odd.
fn check_version<T>(response: &Response<T>, console: &Console) {
    let version = response.metadata().get("isol8-version");
    let Some(version) = version.and_then(|version| version.to_str().ok()) else {
        return;
    };
    if version != env!("CARGO_PKG_VERSION") {
        console.warning(&format!(
            "the daemon is version {version} and this is {}; `isol8 daemon stop` ends the old one",
            env!("CARGO_PKG_VERSION")
        ));
    }
}
