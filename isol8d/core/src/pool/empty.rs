//! Somebody tidies up: nothing is kept for nobody until somebody runs again.

use std::time::Duration;

use super::state::{Life, Pool};
use crate::{ids::SandboxId, sandbox::EngineKind};

impl Pool {
    /// What is warm: nobody has it, and nobody waits for it.
    #[must_use]
    pub fn idle(&self) -> Vec<(SandboxId, EngineKind)> {
        let warm = self.keys.values().flat_map(|key| {
            let engine = key.key.engine;
            key.warm.iter().map(move |id| (id.clone(), engine))
        });
        warm.collect()
    }

    /// What is being made and has nobody who waits for it. Makes belong to no
    /// lease, so where some of a key are waited for and some not, it is all of
    /// them.
    #[must_use]
    pub fn coming(&self) -> Vec<SandboxId> {
        let keys = self.keys.values().filter(|key| key.spare() > 0);
        keys.flat_map(|key| key.making.iter().cloned()).collect()
    }

    /// Dooms what is warm and forgets what use has taught, also that a key is
    /// prewarmed: its next use brings that back. What is being made for nobody is
    /// doomed as soon as it is made: somebody who comes meanwhile can have it.
    ///
    /// Who waits for warm ones still gets them.
    pub(super) fn empty(&mut self, now: Duration) {
        let mut warm = Vec::new();
        for key in self.keys.values_mut() {
            key.demand.rest(now);
            warm.extend(key.warm.drain(..));
        }
        for id in warm {
            self.doom(now, &id);
        }
    }

    /// Whether a sandbox is being made, or has still to be destroyed and that was
    /// not tried yet.
    #[must_use]
    pub fn is_in_the_air(&self, id: &SandboxId) -> bool {
        matches!(
            self.slots.get(id).map(|slot| slot.life),
            Some(
                Life::Making { .. }
                    | Life::Doomed { failed: 0, .. }
                    | Life::Destroying { failed: 0 }
            )
        )
    }
}
