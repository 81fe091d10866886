//! Layers that go: nobody may have a sandbox with one in stock then.

use std::{collections::BTreeSet, time::Duration};

use super::state::{Life, Pool};
use crate::{layer::LayerId, sandbox::SandboxKey};

fn is_of(key: &SandboxKey, layers: &BTreeSet<LayerId>) -> bool {
    key.layer.as_ref().is_some_and(|id| layers.contains(id))
}

impl Pool {
    /// Dooms what is warm. What is being made for nobody is doomed as soon as it
    /// is made: somebody who comes meanwhile can still have it.
    pub(super) fn forget(&mut self, now: Duration, layers: &BTreeSet<LayerId>) {
        let mut warm = Vec::new();
        for key in self.keys.values_mut() {
            if is_of(&key.key, layers) {
                key.demand.forget();
                warm.extend(key.warm.drain(..));
            }
        }
        self.keys
            .retain(|name, key| !is_of(name, layers) || !key.is_empty());
        for id in warm {
            self.doom(now, &id);
        }
    }

    /// Whether sandboxes that nobody has leased have one of these layers.
    #[must_use]
    pub fn holds(&self, layers: &BTreeSet<LayerId>) -> bool {
        let mut slots = self.slots.values();
        slots.any(|slot| slot.life != Life::Leased && is_of(&slot.key, layers))
    }
}
