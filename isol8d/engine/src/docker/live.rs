//! The containers that this engine is responsible for.
//!
//! ```text
//!  (none) ──begin──▶ Making ──settle──▶ Live ──drop_entry──▶ (none)
//!     │                │                  │▲
//!     └────────────────┼─ know ───────────┼┘
//!                      └───── strand ─────┴──▶ Stranded ──drop_entry──▶ (none)
//! ```
//! A sandbox is stranded when the engine did not say that it is gone. Its uid
//! stays taken: something may run under it.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry as Slot},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    outcome::Counters,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounting::Accounting;
use crate::{hardening::Bounds, uids::SlotUid};

/// An engine that answers again after a hang may still make a container that it
/// was asked for before. After so long without one it will not.
const STRANDED: Duration = Duration::from_secs(120);

/// What is known of one live container.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) accounting: Accounting,
    /// As the engine was last told; `None` when it may have heard otherwise.
    pub(super) bounds: Option<Bounds>,
    /// As last read.
    pub(super) counters: Counters,
    /// Given back when the container is gone.
    pub(super) _uid: SlotUid,
}

/// The ends of a sandbox that is being made.
#[derive(Debug, Clone, Default)]
pub(super) struct Making {
    /// Cancelled: stop at the next step and undo.
    pub(super) doomed: CancellationToken,
    /// Cancelled when nothing is being made any more.
    pub(super) done: CancellationToken,
}

#[derive(Debug)]
enum Entry {
    Making(Making),
    Live(Live),
    Stranded { _uid: SlotUid, since: Instant },
}

/// Every container of this engine, by its sandbox.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<HashMap<SandboxId, Entry>>,
    /// Those that somebody is taking over.
    adopting: Mutex<HashSet<SandboxId>>,
}

/// The right to take a sandbox over, given back on drop.
#[derive(Debug)]
pub(super) struct Adopting<'a> {
    registry: &'a Registry,
    id: SandboxId,
}

impl Drop for Adopting<'_> {
    fn drop(&mut self) {
        self.registry.adopting().remove(&self.id);
    }
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, HashMap<SandboxId, Entry>> {
        // Every change below is one statement.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopting(&self) -> MutexGuard<'_, HashSet<SandboxId>> {
        self.adopting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the right to take a sandbox over: a second socket would be in the
    /// way of the first.
    ///
    /// # Errors
    /// When somebody has it.
    pub(super) fn begin_adoption(&self, id: &SandboxId) -> Result<Adopting<'_>, Failure> {
        if self.adopting().insert(id.clone()) {
            let (registry, id) = (self, id.clone());
            return Ok(Adopting { registry, id });
        }
        let message = format!("somebody is taking over sandbox `{id}` already");
        Err(Failure::new(FailureKind::Internal, message))
    }

    /// An earlier process made it.
    ///
    /// # Errors
    /// When this process is making it, or does not know what has become of it.
    pub(super) fn know(&self, id: &SandboxId, live: Live) -> Result<(), Failure> {
        match self.entries().entry(id.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::Live(live));
                Ok(())
            }
            Slot::Occupied(_) => {
                let message = format!("sandbox `{id}` is not one that lasts");
                Err(Failure::new(FailureKind::Internal, message))
            }
        }
    }

    /// Reserves the name.
    ///
    /// # Errors
    /// When it is taken.
    pub(super) fn begin(&self, id: &SandboxId, making: Making) -> Result<(), Failure> {
        match self.entries().entry(id.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::Making(making));
                Ok(())
            }
            Slot::Occupied(_) => Err(Failure::new(
                FailureKind::Internal,
                format!("there is a sandbox `{id}` already"),
            )),
        }
    }

    /// It is up.
    pub(super) fn settle(&self, id: &SandboxId, live: Live) {
        self.entries().insert(id.clone(), Entry::Live(live));
    }

    /// It may exist or come to exist.
    pub(super) fn strand(&self, id: &SandboxId, uid: SlotUid) {
        let entry = Entry::Stranded {
            _uid: uid,
            since: Instant::now(),
        };
        self.entries().insert(id.clone(), entry);
    }

    /// It is gone.
    pub(super) fn drop_entry(&self, id: &SandboxId) {
        self.entries().remove(id);
    }

    /// Whether something may be left of it.
    pub(super) fn is_stranded(&self, id: &SandboxId) -> bool {
        matches!(self.entries().get(id), Some(Entry::Stranded { .. }))
    }

    /// The ends of a sandbox that is being made.
    pub(super) fn making(&self, id: &SandboxId) -> Option<Making> {
        match self.entries().get(id) {
            Some(Entry::Making(making)) => Some(making.clone()),
            _ => None,
        }
    }

    /// Looks at or changes what is known of a live container.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub(super) fn with<T>(
        &self,
        id: &SandboxId,
        look: impl FnOnce(&mut Live) -> T,
    ) -> Result<T, Failure> {
        match self.entries().get_mut(id) {
            Some(Entry::Live(live)) => Ok(look(live)),
            _ => Err(no_such(id)),
        }
    }

    /// Gives back the uids of stranded sandboxes that the engine does not have,
    /// by a listing of everything on it.
    pub(super) fn listed(&self, there: &HashSet<&SandboxId>) {
        self.entries().retain(|id, entry| match entry {
            Entry::Stranded { since, .. } => there.contains(id) || since.elapsed() < STRANDED,
            Entry::Making(_) | Entry::Live(_) => true,
        });
    }
}

pub(super) fn no_such(id: &SandboxId) -> Failure {
    let message = format!("there is no sandbox `{id}` on the Docker engine");
    Failure::new(FailureKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_takes_a_sandbox_over() {
        let registry = Registry::default();
        let id = SandboxId::random();
        let first = registry.begin_adoption(&id).unwrap();
        assert!(registry.begin_adoption(&id).is_err());
        registry.begin_adoption(&SandboxId::random()).unwrap();
        drop(first);
        registry.begin_adoption(&id).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranded_uid_is_kept_until_the_engine_had_its_time() {
        let registry = Registry::default();
        let id = SandboxId::random();
        registry.begin(&id, Making::default()).unwrap();
        assert!(registry.begin(&id, Making::default()).is_err());
        assert!(!registry.is_stranded(&id));
        registry.strand(&id, SlotUid::fixed(1));
        assert!(registry.is_stranded(&id));

        registry.listed(&HashSet::new());
        assert_eq!(registry.entries().len(), 1, "it may still appear");
        tokio::time::advance(STRANDED).await;
        registry.listed(&HashSet::from([&id]));
        assert_eq!(registry.entries().len(), 1, "it is there");
        registry.listed(&HashSet::new());
        assert!(registry.entries().is_empty());
    }

    #[test]
    fn what_is_not_live_is_not_found() {
        let registry = Registry::default();
        let id = SandboxId::random();
        let look = |registry: &Registry| registry.with(&id, |_| ()).unwrap_err().kind;
        assert_eq!(look(&registry), FailureKind::NotFound);
        registry.begin(&id, Making::default()).unwrap();
        assert_eq!(look(&registry), FailureKind::NotFound);
        assert!(registry.making(&id).is_some());
        registry.drop_entry(&id);
        assert!(registry.making(&id).is_none());
    }
}
