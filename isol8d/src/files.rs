//! Files in and out of a sandbox, over the idle stream to its init.
//!
//! Nobody else uses the stream meanwhile. A client is read only as fast as init
//! writes, and init reads only what its client has taken: what is in between is
//! bounded by [`WINDOW_BYTES`] each way. Whatever ends a transfer early says
//! whether init still expects a command, or nobody knows what comes next
//! ([`Trouble`]).
//!
//! Reading order: [`place`], [`entries`], [`put`], [`get`] with its [`outlet`],
//! [`delete`], [`size`], the [`memory`] that all of it takes, and how init's refusals are told ([`refusal`]).

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::LinkError;

mod delete;
pub(crate) mod entries;
mod get;
pub(crate) mod memory;
mod outlet;
mod place;
mod put;
mod refusal;
mod size;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use delete::delete;
pub(crate) use get::{Ask, get};
pub(crate) use memory::Memory;
pub(crate) use outlet::{Events, outlet};
pub(crate) use place::Place;
pub(crate) use put::put;
pub(crate) use size::size;

/// Data that may be between one end and the other: enough to keep both busy.
pub(crate) const WINDOW_BYTES: u64 = 1 << 20;

/// The longest piece of a file on the wire.
pub(crate) const MAX_PIECE_BYTES: usize = 256 << 10;

/// Files, folders and links of one transfer.
pub(crate) const MAX_ENTRIES: u32 = 1_000_000;

/// Of all files of one transfer together.
pub(crate) const MAX_BYTES: u64 = 16 << 30;

/// How long init may do nothing at all while it has something to do. It reads a
/// folder of a million names in a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a transfer did not take place, or not to its end.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Init expects the next command: the stream is as good as before.
    Refused(Failure),
    /// Nobody knows what comes next on the stream: it must be closed.
    InDoubt(Failure),
}

impl Trouble {
    /// What the client is told.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Refused(failure) | Self::InDoubt(failure) => failure,
        }
    }
}

/// The stream to init has ended, or carries what is no message.
fn lost(error: &LinkError) -> Trouble {
    let failure = Failure::new(
        FailureKind::SessionLost,
        "the session's sandbox went away while its files were used",
    );
    Trouble::InDoubt(
        failure
            .because(error)
            .hint("`isol8 session ls` shows whether it is still there"),
    )
}

/// Init said what it may not say here.
fn breach(how: &'static str) -> Trouble {
    let message = "the session's sandbox does not answer as it must";
    let failure = Failure::new(FailureKind::Internal, message).cause(format!("init {how}"));
    Trouble::InDoubt(failure)
}

/// Init has something to do, and does not.
fn silent(limit: Duration) -> Trouble {
    let message = "the session's sandbox does not answer";
    let waited = format!("nothing came from it within {} s", limit.as_secs());
    Trouble::InDoubt(
        Failure::new(FailureKind::EngineTimeout, message)
            .cause(waited)
            .hint("a program in it may take all of its processor time: try again"),
    )
}

/// The client has gone, or the daemon ends all calls.
fn stopped() -> Failure {
    Failure::new(FailureKind::ShuttingDown, "the daemon is going down")
}
