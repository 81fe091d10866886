//! Which hosts each installer takes packages from, as far as it is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::store::{Known, Meta};
use crate::install::registry::World;

/// Installers that are remembered: an image that is built anew every minute must
/// not fill the memory. Past it all are asked again.
const MOST_KNOWN: usize = 1000;

type Hosts = BTreeSet<String>;

/// By the identity of the installer's sandbox and the kind of registry.
#[derive(Debug, Default)]
pub(crate) struct Registries(Mutex<BTreeMap<(String, World), Hosts>>);

impl Registries {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(String, World), Hosts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, identity: &str, world: World) -> Option<Hosts> {
        self.known().get(&(identity.to_owned(), world)).cloned()
    }

    pub(crate) fn put(&self, identity: &str, world: World, hosts: Hosts) {
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert((identity.to_owned(), world), hosts);
    }

    /// What an earlier daemon had learned.
    pub(crate) fn recall(&self, meta: &Meta) {
        for known in &meta.registries {
            if let Some(world) = World::parse(&known.world) {
                self.put(&meta.identity, world, known.hosts.iter().cloned().collect());
            }
        }
    }

    /// What is known of these kinds, to be written down.
    pub(crate) fn note(&self, identity: &str, worlds: &[World]) -> Vec<Known> {
        let note = |world: &World| {
            let hosts = self.get(identity, *world)?;
            Some(Known {
                world: world.name().to_owned(),
                hosts: hosts.into_iter().collect(),
            })
        };
        worlds.iter().filter_map(note).collect()
    }
}
