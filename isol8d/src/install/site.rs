//! The sandbox in which something is installed, and its way to the network.

use std::{os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use isol8_core::{
    egress::{
        record::Action,
        rules::{Filter, Refusal},
    },
    failure::{Failure, FailureKind},
    ids::SandboxId,
    outcome::Counters,
    sandbox::Network,
};
use isol8_engine::{Engine, Interpreter, Sandbox, link::Link};
use isol8_proto::init::{Failed, FailureKind as InitFailure, File, KillAll, from_init, to_init};

use super::{
    apt::Sent,
    errand::{self, Ended, ErrandError},
    recipe::Step,
    registry,
    requests::Requests,
};
use crate::egress::{Egress, Report};

/// What a tool may say when it is asked something.
const MOST_ANSWER_BYTES: usize = 1 << 20;

/// Of a file in one frame.
const PIECE_BYTES: usize = 256 << 10;

/// No registry. A list with it alone lets nothing through, whereas an empty one
/// would not be a list.
const NOWHERE: &str = "registry.invalid";

/// A sandbox in which nothing runs.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) engine: &'a Arc<dyn Engine>,
    pub(crate) link: &'a mut Link,
    pub(crate) interpreter: &'a Interpreter,
    pub(crate) network: Network,
    pub(crate) listener: Option<&'a OwnedFd>,
    pub(crate) baseline: Option<Counters>,
    pub(crate) egress: &'a Egress,
    pub(crate) requests: &'a Requests,
}

/// What was tried with some hosts open.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) ended: Ended,
    pub(crate) output: Vec<u8>,
    pub(crate) report: Report,
}

/// A sandbox that was just made, for whom it is to become a [`Site`].
#[derive(Debug)]
pub(crate) struct Room<'a> {
    pub(crate) sandbox: &'a mut Sandbox,
    pub(crate) engine: &'a Arc<dyn Engine>,
    pub(crate) baseline: Option<Counters>,
}

impl<'a> Site<'a> {
    /// With nobody else in the room.
    pub(crate) fn new(
        room: Room<'a>,
        network: Network,
        egress: &'a Egress,
        requests: &'a Requests,
    ) -> Self {
        let Room {
            sandbox,
            engine,
            baseline,
        } = room;
        Self {
            id: &sandbox.id,
            engine,
            link: &mut sandbox.link,
            interpreter: &sandbox.interpreter,
            network,
            listener: sandbox.listener.as_ref(),
            baseline,
            egress,
            requests,
        }
    }
}

impl Site<'_> {
    /// A network with a filter has a door.
    ///
    /// # Errors
    /// `EgressUnavailable`.
    pub(crate) fn check_door(&self) -> Result<(), Failure> {
        if self.network == Network::Filtered {
            listener(self.listener).map(drop)?;
        }
        Ok(())
    }

    /// Lets the sandbox reach what `filter` permits, until its requests are
    /// closed. Does nothing where its network has no filter.
    ///
    /// # Errors
    /// `EgressUnavailable`, also when nobody waits for the installation any more.
    pub(crate) async fn open(&mut self, filter: &Filter) -> Result<(), Failure> {
        if self.network != Network::Filtered {
            return Ok(());
        }
        let listener = listener(self.listener)?;
        let traffic = self.egress.open(self.id, listener, filter).await?;
        if self.requests.open(traffic) {
            return Ok(());
        }
        let message = "the installation was given up";
        Err(Failure::new(FailureKind::EgressUnavailable, message))
    }

    /// Puts a file below /sandbox.
    ///
    /// # Errors
    /// `NoSpace` when it does not fit; `Internal` where it cannot be written for
    /// another reason, or the sandbox is gone.
    pub(crate) async fn send(&mut self, sent: &Sent) -> Result<(), Failure> {
        let gone = |error| lost(&ErrandError::Lost(error));
        let mut pieces = sent.data.chunks(PIECE_BYTES).peekable();
        let mut first = true;
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            self.link.writer.push(to_init::Message::File(File {
                path: Bytes::copy_from_slice(sent.path.as_bytes()),
                data: Bytes::copy_from_slice(piece),
                append: !first,
                last,
                mode: 0o644,
                ..File::default()
            }));
            self.link.writer.flush().await.map_err(gone)?;
            first = false;
            if last {
                break;
            }
        }
        match self.link.reader.recv().await.map_err(gone)? {
            from_init::Message::FileWritten(_) => Ok(()),
            from_init::Message::Failed(failed) => Err(unsent(failed)),
            _ => Err(lost(&ErrandError::Broken("spoke out of turn"))),
        }
    }

    /// Runs a step; gives what it wrote to its standard output.
    ///
    /// # Cancellation
    /// As [`errand::run`].
    pub(crate) async fn ask(&mut self, step: &Step) -> Result<(Ended, Vec<u8>), ErrandError> {
        let mut output = Vec::new();
        let take = |stdout: bool, bytes: &Bytes| {
            let room = MOST_ANSWER_BYTES.saturating_sub(output.len());
            if stdout {
                output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        };
        let ended = errand::run(self.link, step, take).await?;
        Ok((ended, output))
    }

    /// [`Site::ask`] with a network of its own.
    pub(crate) async fn attempt(&mut self, step: &Step, filter: &Filter) -> Result<Tried, Failure> {
        self.open(filter).await?;
        let asked = self.ask(step).await;
        let report = self.requests.close().await;
        let (ended, output) = asked.map_err(|error| lost(&error))?;
        Ok(Tried {
            ended,
            output,
            report,
        })
    }

    /// Ends whatever the steps so far have left running.
    pub(crate) async fn sweep(&mut self) -> Result<(), Failure> {
        let kill = to_init::Message::KillAll(KillAll {});
        let sent = self.link.writer.send(kill).await;
        sent.map_err(|error| lost(&ErrandError::Lost(error)))
    }
}

/// The failure for a file that is not there.
fn unsent(failed: Failed) -> Failure {
    let message = "what the installer needs cannot be put into /sandbox";
    let failure = if failed.kind() == InitFailure::NoSpace {
        Failure::new(FailureKind::NoSpace, message).hint("raise `--sandbox-size`")
    } else {
        Failure::new(FailureKind::Internal, message)
    };
    failure.cause(failed.message)
}

/// A duplicate of the listener of a sandbox.
///
/// # Errors
/// `EgressUnavailable` where there is none.
pub(crate) fn listener(listener: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let missing = || {
        let message = "the sandbox has no door to the filtered network";
        Failure::new(FailureKind::EgressUnavailable, message)
    };
    let listener = listener.ok_or_else(missing)?;
    listener
        .try_clone()
        .map_err(|error| missing().because(&error))
}

/// A filter that lets through what is listed and nothing else, also when nothing
/// is.
pub(crate) fn closed_but(registries: &[String], filter: &Filter) -> Filter {
    let mut registries = registries.to_vec();
    if registries.is_empty() && filter.allow.is_empty() {
        registries.push(NOWHERE.to_owned());
    }
    Filter {
        registries,
        ..filter.clone()
    }
}

/// The hosts that were asked for and are in no list.
pub(crate) fn unlisted(report: &Report) -> impl Iterator<Item = String> {
    let reason = Refusal::NotAllowed.to_string();
    let blocked = report
        .records
        .iter()
        .filter(move |record| record.action == Action::Block && record.reason == reason);
    blocked.filter_map(|record| registry::canonical(&record.host))
}

/// The failure for a sandbox that does not do as it is told.
pub(crate) fn lost(error: &ErrandError) -> Failure {
    let kind = if error.is_missing() {
        FailureKind::InstallFailed
    } else if error.is_full() {
        FailureKind::NoSpace
    } else {
        FailureKind::Internal
    };
    Failure::new(kind, "the packages could not be installed").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_sandbox_is_said_to_be_full() {
        let kind = |kind: InitFailure| {
            let message = "why".to_owned();
            let failure = unsent(Failed {
                kind: kind.into(),
                message,
                ..Failed::default()
            });
            assert_eq!(failure.causes, ["why"]);
            (failure.kind, failure.hint.is_some())
        };
        assert_eq!(kind(InitFailure::NoSpace), (FailureKind::NoSpace, true));
        assert_eq!(kind(InitFailure::BadPath), (FailureKind::Internal, false));
    }
}
