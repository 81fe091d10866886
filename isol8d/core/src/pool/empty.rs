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

    /// What nobody has or waits for, and which is not warm: it is being made, or on
    /// its way out and not yet tried to destroy. Makes belong to no lease, so where
    /// some of a key are waited for and some not, it is all of them.
    #[must_use]
    pub fn passing(&self) -> Vec<SandboxId> {
        let keys = self.keys.values().filter(|key| key.spare() > 0);
        let made = keys.flat_map(|key| key.making.iter());
        let leaving = self.slots.iter().filter(|(_, slot)| slot.life.is_leaving());
        made.chain(leaving.map(|(id, _)| id)).cloned().collect()
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
        let life = self.slots.get(id).map(|slot| slot.life);
        life.is_some_and(|life| matches!(life, Life::Making { .. }) || life.is_leaving())
    }
}

impl Life {
    /// It goes, and that has not failed yet.
    fn is_leaving(self) -> bool {
        matches!(
            self,
            Self::Doomed { failed: 0, .. } | Self::Destroying { failed: 0 }
        )
    }
}
