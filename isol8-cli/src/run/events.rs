//! Where a run takes place, and what comes from there.

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{RunEvent, run_service_client::RunServiceClient};
use tokio::time::timeout;
use tonic::{Response, Streaming};

use super::requests::Requests;
use crate::{
    connect::{ANSWER_TIMEOUT, Link, silent, unwanted},
    console::Console,
    remote::{self, Remote},
};

/// Pieces of output are small; the program's text on the way up is not bounded
/// here, and an event may hold a whole buffered stream.
const MAX_EVENT_BYTES: usize = 1 << 30;

/// Who carries a run out.
#[derive(Debug)]
pub(crate) enum Peer {
    /// A daemon on this machine.
    Daemon(Link),
    /// The daemon behind a gateway.
    Gateway(Box<Remote>),
}

/// The events of one run, in either case the same.
#[derive(Debug)]
pub(super) enum Events {
    Daemon(Box<Streaming<RunEvent>>),
    Gateway(Box<remote::Events>),
}

impl Events {
    /// Sends the run off. The answer only says that somebody heard us: a run that
    /// waits for its turn waits afterwards.
    ///
    /// # Errors
    /// Nobody answers, or it is refused.
    pub(super) async fn begin(
        peer: &Peer,
        requests: Requests,
        console: &Console,
    ) -> Result<Self, Failure> {
        let link = match peer {
            Peer::Daemon(link) => link,
            Peer::Gateway(remote) => {
                let events = remote::Events::begin(remote, requests, console).await?;
                return Ok(Self::Gateway(Box::new(events)));
            }
        };
        let client = RunServiceClient::new(link.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_EVENT_BYTES);
        let answer = timeout(ANSWER_TIMEOUT, client.run(requests)).await;
        let answer = answer.map_err(|_| silent(link))?;
        let response = answer.map_err(|status| unwanted(&status))?;
        check_version(&response, console);
        Ok(Self::Daemon(Box::new(response.into_inner())))
    }

    /// The next event; not to be asked after `Exited`.
    ///
    /// # Errors
    /// The run failed, or who carries it out was lost.
    pub(super) async fn next(&mut self) -> Result<RunEvent, Failure> {
        match self {
            Self::Daemon(events) => {
                let event = events.message().await;
                let event = event.map_err(|status| unwanted(&status))?;
                event.ok_or_else(silent_end)
            }
            Self::Gateway(events) => events.next().await,
        }
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
