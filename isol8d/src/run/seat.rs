//! The sandbox of one run, and what becomes of it afterwards.

use std::sync::Arc;

use isol8_core::{ids::SandboxId, outcome::Counters};
use isol8_engine::{Engine, Sandbox, link::Link};

use crate::{
    install::site::Room,
    pool::{Hold, Lease},
    session::{Kept, Turn},
};

/// A sandbox for a run.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) sandbox: Sandbox,
    /// It had been made before the run asked for it.
    pub(super) warm: bool,
    /// Its interpreter is parked.
    pub(super) parked: bool,
    /// Its counters before the program.
    pub(super) baseline: Option<Counters>,
    pub(super) holder: Holder,
}

/// Who has the sandbox after the run. Dropped, it is nobody's: see each.
#[derive(Debug)]
pub(super) enum Holder {
    /// It serves this one run.
    Pool(Hold),
    /// The session gets it back.
    Session(Box<Turn>),
    /// Its owner may look into it.
    Kept(Kept),
}

impl From<Lease> for Seat {
    fn from(lease: Lease) -> Self {
        Self {
            sandbox: lease.sandbox,
            warm: lease.warm,
            parked: lease.parked,
            baseline: lease.baseline,
            holder: Holder::Pool(lease.hold),
        }
    }
}

impl Seat {
    /// For an installation in it.
    pub(super) fn room(&mut self) -> Room<'_> {
        Room {
            sandbox: &mut self.sandbox,
            engine: self.holder.engine(),
            baseline: self.baseline,
        }
    }
}

impl Holder {
    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        match self {
            Self::Pool(hold) => hold.engine(),
            Self::Session(turn) => turn.engine(),
            Self::Kept(kept) => kept.engine(),
        }
    }

    /// The sandbox outlives the run.
    pub(super) fn outlives(&self) -> bool {
        !matches!(self, Self::Pool(_))
    }

    /// The sandbox that somebody may adopt.
    pub(super) fn kept(&self) -> Option<&SandboxId> {
        match self {
            Self::Kept(kept) => kept.id(),
            Self::Pool(_) | Self::Session(_) => None,
        }
    }

    /// The sandbox went with the run.
    pub(super) fn lose(&mut self) {
        if let Self::Kept(kept) = self {
            kept.lose();
        }
    }

    /// The run is over. `clean`: init has said how it ended, and will take the
    /// next command; else its stream is closed, which ends what is left of the
    /// run.
    pub(super) async fn give_back(self, link: Link, clean: bool) {
        match self {
            Self::Pool(hold) => {
                drop(link);
                hold.release().await;
            }
            Self::Session(mut turn) if clean => {
                turn.take_back(link);
                turn.give_back();
            }
            Self::Session(turn) => {
                drop(link);
                drop(turn);
            }
            Self::Kept(kept) => kept.keep(link),
        }
    }
}
