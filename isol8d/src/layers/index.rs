//! The layers that there are, and who uses them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isol8_core::layer::LayerId;

use super::{
    name::LayerName,
    retention::{self, Held},
    store::{Meta, Stored},
};

/// Layers of one name that can exist at once: an expired one that is still
/// mounted, and its successors.
const MOST_GENERATIONS: u32 = 16;

/// A layer that is kept for as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) id: LayerId,
    _anchor: Arc<()>,
}

#[derive(Debug)]
struct Layer {
    meta: Meta,
    last_used: Duration,
    /// Held by every [`Use`].
    anchor: Arc<()>,
}

/// Where a new layer goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: LayerId,
    /// Layers that are no longer in the index and are still on disk.
    pub(crate) going: Vec<LayerId>,
}

/// All layers. Times are those since 1970.
#[derive(Debug)]
pub(crate) struct Index {
    layers: BTreeMap<LayerId, Layer>,
    /// Bytes of all together.
    room: u64,
}

impl Index {
    /// No layers, and room for so many bytes of them.
    pub(crate) fn new(room: u64) -> Self {
        Self {
            layers: BTreeMap::new(),
            room,
        }
    }

    /// Bytes of all together.
    pub(crate) fn room(&self) -> u64 {
        self.room
    }

    /// Adds a layer that is on disk.
    pub(crate) fn add(&mut self, stored: Stored) -> Use {
        let layer = Layer {
            meta: stored.meta,
            last_used: stored.last_used,
            anchor: Arc::default(),
        };
        let found = Use {
            id: stored.id.clone(),
            _anchor: Arc::clone(&layer.anchor),
        };
        self.layers.insert(stored.id, layer);
        found
    }

    /// The layer of a name that has not expired; it counts as used now.
    pub(crate) fn find(&mut self, name: &LayerName, now: Duration) -> Option<Use> {
        let none = BTreeSet::new();
        for generation in 0..MOST_GENERATIONS {
            let id = name.id(generation);
            let Some(layer) = self.layers.get_mut(&id) else {
                continue;
            };
            if !held(&id, layer, &none).is_expired(now) {
                layer.last_used = now;
                let _anchor = Arc::clone(&layer.anchor);
                return Some(Use { id, _anchor });
            }
        }
        None
    }

    /// Takes out what must go so that a layer of `wanted` bytes fits, and says
    /// what it is called. `None`: too much of what there is is in use; nothing
    /// goes then. `mounted` are the layers of sandboxes that exist.
    pub(crate) fn make_place(
        &mut self,
        name: &LayerName,
        now: Duration,
        wanted: u64,
        mounted: &BTreeSet<LayerId>,
    ) -> Option<Place> {
        // What goes may still be on the disk: its name is the last to be taken.
        let free = self.free_id(name);
        let going = self.to_remove(now, wanted, mounted)?;
        let ours = || {
            let mut ids = (0..MOST_GENERATIONS).map(|generation| name.id(generation));
            ids.find(|id| going.contains(id))
        };
        let id = free.or_else(ours)?;
        self.take_out(&going);
        Some(Place { id, going })
    }

    /// What the next layer of a name is called. `None` when every name is taken.
    fn free_id(&self, name: &LayerName) -> Option<LayerId> {
        let mut ids = (0..MOST_GENERATIONS).map(|generation| name.id(generation));
        ids.find(|id| !self.layers.contains_key(id))
    }

    /// Takes out what must go so that `wanted` more bytes fit. `None`: too much
    /// of it is in use. `mounted` are the layers of sandboxes that exist.
    pub(crate) fn make_room(
        &mut self,
        now: Duration,
        wanted: u64,
        mounted: &BTreeSet<LayerId>,
    ) -> Option<Vec<LayerId>> {
        let going = self.to_remove(now, wanted, mounted)?;
        self.take_out(&going);
        Some(going)
    }

    fn to_remove(
        &self,
        now: Duration,
        wanted: u64,
        mounted: &BTreeSet<LayerId>,
    ) -> Option<Vec<LayerId>> {
        let all = self.layers.iter();
        let all: Vec<Held> = all.map(|(id, layer)| held(id, layer, mounted)).collect();
        retention::to_remove(&all, now, wanted, self.room)
    }

    fn take_out(&mut self, going: &[LayerId]) {
        for id in going {
            self.layers.remove(id);
        }
    }

    /// What could go for `wanted` more bytes if no sandbox had a layer mounted
    /// that nobody uses.
    pub(crate) fn could_go(&self, now: Duration, wanted: u64) -> BTreeSet<LayerId> {
        let going = self.to_remove(now, wanted, &BTreeSet::new());
        going.unwrap_or_default().into_iter().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.layers.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.meta.bytes).sum()
    }
}

fn held(id: &LayerId, layer: &Layer, mounted: &BTreeSet<LayerId>) -> Held {
    Held {
        id: id.clone(),
        bytes: layer.meta.bytes,
        created: Duration::from_millis(layer.meta.created_ms),
        last_used: layer.last_used,
        pinned: layer.meta.pinned,
        in_use: Arc::strong_count(&layer.anchor) > 1 || mounted.contains(id),
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::{config::Config, package::Package, runtime::Runtime, sandbox::EngineKind};

    use super::*;

    use retention::MOST_BYTES;

    const WEEK: Duration = retention::UNPINNED_AGE;

    fn name(package: &str) -> LayerName {
        let key = Config::default().usual_key(EngineKind::Native, Runtime::Python);
        let package = Package::parse(Runtime::Python, package).expect("a good package");
        LayerName::new(&key, "x", &[package], 1)
    }

    fn stored(id: LayerId, created: Duration, bytes: u64) -> Stored {
        let meta = Meta {
            runtime: "python".to_owned(),
            engine: "native".to_owned(),
            packages: Vec::new(),
            identity: "x".to_owned(),
            registries: Vec::new(),
            pinned: false,
            bytes,
            entries: 1,
            created_ms: u64::try_from(created.as_millis()).expect("small"),
        };
        Stored {
            id,
            meta,
            last_used: created,
        }
    }

    #[test]
    fn an_expired_layer_has_a_successor_while_it_is_mounted() {
        let (mut index, six) = (Index::new(MOST_BYTES), name("six"));
        let first = index.free_id(&six).expect("all are free");
        drop(index.add(stored(first.clone(), Duration::ZERO, 1)));
        let found = index.find(&six, WEEK / 2).expect("it is fresh");
        assert_eq!(found.id, first);
        assert!(index.find(&six, WEEK).is_none(), "it has expired");
        let next = index.free_id(&six).expect("others are free");
        assert_ne!(next, first);
        let mounted = BTreeSet::new();
        let going = index.make_room(WEEK, 0, &mounted);
        assert_eq!(going, Some(vec![]), "somebody holds it");
        drop(index.add(stored(next.clone(), WEEK, 1)));
        assert_eq!(index.find(&six, WEEK).expect("the successor").id, next);
        drop(found);
        assert_eq!(index.make_room(WEEK, 0, &mounted), Some(vec![first]));
        assert_eq!(index.count(), 1);
    }

    #[test]
    fn what_a_sandbox_mounts_stays() {
        let (mut index, six) = (Index::new(MOST_BYTES), name("six"));
        let id = six.id(0);
        drop(index.add(stored(id.clone(), WEEK, MOST_BYTES)));
        let mounted = BTreeSet::from([id.clone()]);
        assert_eq!(index.make_room(WEEK, 1, &mounted), None);
        assert_eq!(index.could_go(WEEK, 1), mounted);
        let used = index.find(&six, WEEK);
        assert_eq!(index.could_go(WEEK, 1), BTreeSet::new(), "a run has it");
        drop(used);
        assert_eq!(index.bytes(), MOST_BYTES);
        assert_eq!(index.make_room(WEEK, 1, &BTreeSet::new()), Some(vec![id]));
        assert_eq!(index.bytes(), 0);
    }

    #[test]
    fn nothing_goes_for_a_layer_that_gets_no_name() {
        let (mut index, six, none) = (Index::new(MOST_BYTES), name("six"), BTreeSet::new());
        drop(index.add(stored(name("attrs").id(0), WEEK, MOST_BYTES)));
        let ids = (0..MOST_GENERATIONS).map(|generation| six.id(generation));
        let mut held: Vec<Use> = ids.map(|id| index.add(stored(id, WEEK, 0))).collect();
        assert_eq!(index.make_place(&six, WEEK, 1, &none), None);
        let before = index.count();
        assert_eq!(before, held.len() + 1, "nothing went");
        // One that nobody holds any more has expired and gives its name.
        let late = WEEK * 2;
        let last = held.pop().expect("there are some").id;
        let place = index
            .make_place(&six, late, 1, &none)
            .expect("there is one");
        assert_eq!(place.id, last);
        assert!(place.going.contains(&last), "{place:?}");
    }

    #[test]
    fn what_goes_does_not_give_its_name_while_there_is_another() {
        let (mut index, six, none) = (Index::new(1), name("six"), BTreeSet::new());
        drop(index.add(stored(six.id(0), WEEK, 1)));
        let place = index.make_place(&six, WEEK, 1, &none);
        let (id, going) = (six.id(1), vec![six.id(0)]);
        assert_eq!(place, Some(Place { id, going }));
    }
}
