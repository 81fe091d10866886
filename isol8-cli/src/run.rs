//! One run over one stream: what goes up ([`requests`], [`input`], [`signals`])
//! and what comes down ([`output`]).
//!
//! ```text
//!            Start, signals, stdin           RunEvent
//! requests ─────────────────────────▶ peer ──────────▶ pump ─▶ output ─▶ fd 1, fd 2
//!    ▲  ▲                                                │
//!    │  └── input (a thread that reads fd 0)              └─▶ Ended
//!    └───── signals (SIGINT, SIGTERM, SIGHUP)
//! ```
//!
//! The peer is the daemon here or the gateway of another one ([`events`]).
//!
//! Whatever is awaited, signals are heard. Everything that waits is bounded:
//! a full pipe behind us stops the thread that writes, then the queue before it
//! fills, then HTTP/2's window, then the daemon, then the program.

mod events;
mod input;
mod install;
mod network;
pub(crate) mod output;
mod requests;
mod signals;

use bytes::Bytes;
use isol8_core::{egress::record::Record, failure::Failure};
use isol8_proto::v1::{Accepted, Exited, run_event::Event};

use crate::{
    console::{Console, printable},
    plan::{Plan, Stdin},
};
use events::Events;
pub(crate) use events::Peer;
use install::{Installer, Stderr};
use output::{Output, OutputError, Written};
use signals::Signals;

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
/// The run was refused, or who carries it out was lost.
///
/// # Cancellation
/// Dropping it closes the stream, and the run is cancelled.
pub(crate) async fn carry_out(
    peer: &Peer,
    plan: Plan,
    mut output: Output,
    console: &Console,
) -> Result<Ended, Failure> {
    let stdin = match plan.stdin {
        Stdin::Closed => None,
        Stdin::Data(data) => Some(input::ready(&data)),
        Stdin::Stream => Some(input::stream()),
    };
    let (json, log_network) = (plan.json, plan.start.log_network);
    let (requests, sender, taken) = requests::requests(plan.start, stdin);
    let mut signals = Signals::new(sender)?;
    let mut events = match signals.during(Events::begin(peer, requests, console)).await {
        Ok(events) => events?,
        Err(signal) => return Ok(Ended::Interrupted(signal)),
    };
    let mut pump = Pump {
        output: &mut output,
        signals: &mut signals,
        accepted: Accepted::default(),
        installer: Installer::new(json),
        network: Vec::new(),
        taken: &taken,
        console,
    };
    let exited = match pump.run(&mut events).await {
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
    async fn run(&mut self, events: &mut Events) -> Result<Exited, Stop> {
        let interrupted = |signal| Stop::Ended(Ended::Interrupted(signal));
        loop {
            let event = self.signals.during(events.next()).await;
            let event = event.map_err(interrupted)??;
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
