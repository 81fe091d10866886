//! The policy of the pool: what to make, hand out and destroy, and when.
//!
//! A sandbox goes one way and serves at most one run:
//!
//! ```text
//!              make fails ─────────────────────────────┐
//!  (ordered) ──▶ making ──▶ warm ──▶ leased ──▶ doomed ─┴▶ destroying ──▶ (gone)
//!                  │          │ lost, idle,        ▲             │
//!                  │          │ surplus, stop      │  failed:    │
//!                  │          └────────────────────┤  wait and   │
//!                  └─ somebody waits: leased at    └─ try again ─┘
//!                     once, never warm
//! ```
//!
//! [`Pool::step`] takes an [`Event`] and answers with [`Action`]s; the owner
//! task performs them and reports back. Every `Make` is answered by one `Made`,
//! every `Destroy` by one `Destroyed`; nothing else ends a sandbox's life here,
//! so none is ever forgotten.
//!
//! Makes do not belong to leases: a lease waits for the next sandbox of its key,
//! and there are always at least as many being made as there are waiting. So a
//! lease takes over a refill that is under way, and what was being made for one
//! that went away becomes warm.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    config::PoolConfig,
    failure::Failure,
    ids::SandboxId,
    layer::LayerId,
    sandbox::{EngineKind, Limits, SandboxKey},
};

mod demand;
mod empty;
mod forget;
mod key;
mod plan;
mod state;

#[cfg(test)]
mod tests;

pub use state::Pool;

/// Who waits for an answer. Chosen by the owner task, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Bounds and delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Warm sandboxes that a key in use has at least; 0 turns the pool off.
    pub clean: u32,
    /// The most that use alone makes warm of one key.
    pub most_per_key: u32,
    /// The most that are warm or being made for nobody, all keys together.
    pub most_warm: u32,
    /// Refills start only while fewer than this are being made.
    pub most_making: u32,
    /// Destroys at the same time.
    pub most_destroying: u32,
    /// What refills are made with.
    pub limits: Limits,
}

impl Policy {
    /// For a machine of so many cores.
    #[must_use]
    pub fn new(config: &PoolConfig, limits: Limits, cores: usize) -> Self {
        let cores = u32::try_from(cores).unwrap_or(u32::MAX).clamp(1, 256);
        Self {
            clean: config.clean,
            // A core makes a sandbox about as fast as it serves one, so more
            // than two of them ahead only cost memory.
            most_per_key: config.clean.max(cores * 2),
            // Five runtimes, and a few odd sizes or images beside them.
            most_warm: (cores * 4).max(config.clean.saturating_mul(6)),
            most_making: cores.min(2),
            // They mostly wait for the engine.
            most_destroying: cores * 2,
            limits,
        }
    }
}

/// A refill waits this long for the runs in front of it to end, then starts all
/// the same: a program may well run for hours. It does not wait at all for a key
/// that is in demand and has none left: there the next run would be slower by
/// more than this one is.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// The same while somebody waits for a cold one, which would be slowed down.
/// Longer than most makes; where it is not, a second attempt is worth having.
pub const COLD_PATIENCE: Duration = Duration::from_secs(2);

/// What the client of a run still does after its last event: neither a refill
/// nor the destroy of its sandbox should be in its way.
pub const SETTLE: Duration = Duration::from_millis(3);

/// A key that nobody used for so long keeps one warm sandbox.
pub const IDLE: Duration = Duration::from_secs(5 * 60);

/// A key that nobody used for so long keeps none, unless it is prewarmed.
pub const FORGET: Duration = Duration::from_secs(30 * 60);

/// How long [`Event::Shutdown`] lets a sandbox become ready before it aborts
/// the making: most are ready by then and leave nothing half-made behind.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What happens to the pool.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody wants a sandbox.
    Lease {
        /// Who.
        ticket: Ticket,
        /// Of what kind.
        key: SandboxKey,
        /// A cold one is made with these.
        limits: Limits,
    },
    /// Somebody wants warm ones to be there.
    Warm {
        /// Who.
        ticket: Ticket,
        /// Of what kind.
        key: SandboxKey,
        /// How many; 0 is the pool's own target.
        count: u32,
    },
    /// Keep this kind warm even when nobody uses it.
    Prewarm {
        /// The kind.
        key: SandboxKey,
    },
    /// Layers are about to be removed: sandboxes that nobody has leased let go of
    /// them, and none are made for nobody until somebody asks again.
    Forget {
        /// Which.
        layers: BTreeSet<LayerId>,
    },
    /// What is warm goes, and none are made for nobody until somebody asks again,
    /// prewarmed or not.
    Empty,
    /// Whoever waited has gone.
    Cancel {
        /// Who.
        ticket: Ticket,
    },
    /// An [`Action::Make`] has ended.
    Made {
        /// The sandbox.
        id: SandboxId,
        /// It is ready, or why it is not.
        result: Result<(), Failure>,
    },
    /// A warm sandbox died, or said something unasked.
    Lost {
        /// The sandbox.
        id: SandboxId,
    },
    /// A lease is over.
    Release {
        /// The sandbox.
        id: SandboxId,
    },
    /// An [`Action::Destroy`] has ended.
    Destroyed {
        /// The sandbox.
        id: SandboxId,
        /// Nothing is left of it; else it must be tried again.
        gone: bool,
    },
    /// A run wants the machine for itself.
    RunStarted,
    /// It has ended, and its client knows.
    RunEnded,
    /// [`Pool::wake_at`] has come.
    Wake,
    /// No more leases; everything goes.
    Shutdown,
}

/// What the owner task must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a sandbox; answer with [`Event::Made`].
    Make {
        /// Its name.
        id: SandboxId,
        /// Its kind.
        key: SandboxKey,
        /// Its bounds.
        limits: Limits,
    },
    /// Stop making it; [`Event::Made`] is still owed.
    Abort {
        /// The sandbox.
        id: SandboxId,
    },
    /// Give a sandbox to whoever waits.
    Hand {
        /// To whom.
        ticket: Ticket,
        /// The sandbox.
        id: SandboxId,
        /// The bounds that it has now.
        limits: Limits,
        /// It was there before it was asked for.
        warm: bool,
    },
    /// Tell whoever waits that it comes to nothing.
    Fail {
        /// Whom.
        ticket: Ticket,
        /// Why.
        failure: Failure,
    },
    /// Tell whoever waits for warm ones.
    Warmed {
        /// Whom.
        ticket: Ticket,
        /// How many there are.
        count: u32,
    },
    /// Destroy a sandbox, or what was made of it; answer with
    /// [`Event::Destroyed`].
    Destroy {
        /// The sandbox.
        id: SandboxId,
    },
}

/// What the pool has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolStatus {
    /// One for each key that was used lately.
    pub keys: Vec<KeyStatus>,
    /// Sandboxes that exist, in whatever state, by engine.
    pub live: BTreeMap<EngineKind, u32>,
}

/// What the pool has of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// The key.
    pub key: SandboxKey,
    /// Ready.
    pub warm: u32,
    /// How many the pool wants ready.
    pub target: u32,
    /// Being made.
    pub making: u32,
    /// Leases that found a warm one.
    pub hits: u64,
    /// Leases that did not.
    pub misses: u64,
}
