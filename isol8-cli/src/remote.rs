//! Runs on another machine: `isol8 run --host`.
//!
//! Reading order: where it is and which key opens it ([`address`], [`key`]), how it
//! is reached ([`dial`], [`tls`]), what it may answer in place of a welcome
//! ([`unwelcome`]), and one run over one WebSocket ([`events`]).
//!
//! What goes over it is what goes over the local socket: a `RunRequest` in each
//! message up, a `RunEvent` in each message down. Proxies that the environment names
//! are not used.

mod address;
mod dial;
mod events;
mod key;
mod tls;
mod unwelcome;

use std::path::PathBuf;

use isol8_core::failure::{Failure, FailureKind};

pub(crate) use address::Address;
pub(crate) use events::Events;
pub(crate) use key::Key;

/// A gateway, and what is needed to come in.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) address: Address,
    pub(crate) key: Key,
    /// Certificate authorities besides those of this host, in PEM.
    pub(crate) ca_bundle: Option<PathBuf>,
}

impl Remote {
    /// The failure of a gateway that does not answer.
    fn unreachable(&self) -> Failure {
        let message = format!("cannot reach `{}`", self.address);
        Failure::new(FailureKind::EngineUnreachable, message)
    }
}
