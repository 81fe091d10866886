//! Installed packages that are kept for later runs.
//!
//! ```text
//!  wanted ──find──▶ there: mounted read-only into the run's sandbox
//!    └──join──▶ building (one task a layer, many who wait) ──▶ on disk ──▶ there
//!                   └── failed, or nobody waits: nothing stays
//! ```
//! What a layer is named by is in `name`, what is on disk in `store`, which ones
//! there are in `index`, which ones go in `retention`. A build takes a sandbox
//! from the pool, lets the installer work there (`install`), and copies the
//! folder out (`fetch`, `tree`).

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use isol8_core::{
    config::NetworkConfig,
    failure::Failure,
    package::Package,
    request::Hosts,
    runtime::Runtime,
    sandbox::{Limits, Network, SandboxKey},
};
use isol8_proto::v1;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    egress::Egress,
    install::{
        self,
        apt::Apt,
        recipe, registry,
        requests::{Claim, Requests},
        transcript::{Reader, Transcript},
    },
    pool::PoolHandle,
    roster::Mounted,
};

mod build;
mod fetch;
mod index;
mod name;
pub(crate) mod registries;
pub(crate) mod retention;
mod store;
mod tree;

use index::Index;
pub(crate) use index::Use;
use name::LayerName;
use registries::Registries;
use store::Store;

/// What layers are made with.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) pool: PoolHandle,
    pub(crate) egress: Egress,
    pub(crate) mounted: Mounted,
    pub(crate) network: NetworkConfig,
    pub(crate) tasks: TaskTracker,
    /// Bytes of all layers together.
    pub(crate) room: u64,
}

/// What a run wants to be there.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Of the sandbox in which it is installed; without a layer.
    pub(crate) key: SandboxKey,
    pub(crate) limits: Limits,
    /// Sorted, each once.
    pub(crate) packages: Vec<Package>,
    /// The lists of the run.
    pub(crate) hosts: Hosts,
    /// Of the engine, for `key`, and of the system's packages.
    pub(crate) identity: String,
    /// For packages of the system.
    pub(crate) apt: Option<Arc<Apt>>,
}

impl Wish {
    fn name(&self) -> LayerName {
        LayerName::new(&self.key, &self.identity, &self.packages, recipe::VERSION)
    }

    /// What differs between two runs that want the same layer, and may make one
    /// fail to build it where the other would not.
    fn has_terms_of(&self, other: &Self) -> bool {
        self.key == other.key && self.limits == other.limits && self.hosts == other.hosts
    }

    fn worlds(&self) -> Vec<registry::World> {
        let worlds = registry::worlds(self.key.runtime, &self.packages);
        worlds.into_iter().map(|(world, _)| world).collect()
    }
}

type Outcome = Result<Use, Failure>;

/// A layer that is being built.
#[derive(Debug)]
struct Building {
    wish: Wish,
    text: Transcript,
    requests: Requests,
    outcome: watch::Receiver<Option<Outcome>>,
    waiters: usize,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct State {
    index: Index,
    builds: HashMap<LayerName, Building>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    means: Means,
    registries: Registries,
    state: Mutex<State>,
    /// Held while a layer gets its place. Comes before `state`.
    keeping: Mutex<()>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All layers of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Layers(Arc<Shared>);

/// How a build will have ended.
#[derive(Debug)]
pub(crate) struct Ending(watch::Receiver<Option<Outcome>>);

impl Ending {
    /// Waits for the layer.
    ///
    /// # Errors
    /// Why it could not be built.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<Use, Failure> {
        match self.0.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or_else(|| Err(build::broken())),
            Err(_) => Err(build::broken()),
        }
    }
}

/// A run that waits for a layer. When the last one goes, the build is given up.
#[derive(Debug)]
pub(crate) struct Waiting {
    shared: Arc<Shared>,
    name: LayerName,
    pub(crate) outcome: Ending,
    /// What the installer says.
    pub(crate) text: Reader,
    /// Another run had begun to build it.
    pub(crate) joined: bool,
    /// What the build has been begun with is what this run would begin it with.
    pub(crate) same_terms: bool,
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

impl Layers {
    /// Looks which layers there are below `folder`. Blocks. Without a folder
    /// that can be used there are none, and every build says why.
    pub(crate) fn open(folder: PathBuf, means: Means) -> Self {
        let store = Store::new(folder);
        let (mut index, registries) = (Index::new(means.room), Registries::default());
        match store.open() {
            Ok(stored) => {
                for stored in stored {
                    registries.recall(&stored.meta);
                    drop(index.add(stored));
                }
            }
            Err(failure) => tracing::warn!(error = %failure, "there is no install cache"),
        }
        // Nothing is mounted yet.
        let going = index.make_room(now(), 0, &BTreeSet::new());
        for id in going.unwrap_or_default() {
            store.remove(&id);
        }
        let state = State {
            index,
            builds: HashMap::new(),
        };
        Self(Arc::new(Shared {
            store,
            means,
            registries,
            state: Mutex::new(state),
            keeping: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }))
    }

    /// The layer that a run wants, where it is there and it is known where it
    /// came from. Counts as a use of it; `first` is the run's first look, which
    /// is a hit or a miss.
    pub(crate) fn find(&self, wish: &Wish, first: bool) -> Option<Use> {
        let known = wish.key.network != Network::Filtered || self.is_known(wish);
        let now = now();
        let found = known
            .then(|| self.0.state().index.find(&wish.name(), now))
            .flatten();
        if first {
            let counter = if found.is_some() {
                &self.0.hits
            } else {
                &self.0.misses
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let found = found?;
        self.0.store.touch(&found.id, SystemTime::UNIX_EPOCH + now);
        Some(found)
    }

    fn is_known(&self, wish: &Wish) -> bool {
        let known = |world| self.0.registries.get(&wish.identity, world).is_some();
        wish.worlds().into_iter().all(known)
    }

    /// The hosts from which packages come, as far as they are known.
    pub(crate) fn hosts(
        &self,
        identity: &str,
        runtime: Runtime,
        packages: &[Package],
    ) -> Vec<String> {
        let mut hosts = install::named(packages);
        for (world, _) in registry::worlds(runtime, packages) {
            hosts.extend(self.registries().get(identity, world).unwrap_or_default());
        }
        hosts.into_iter().collect()
    }

    /// What is known of registries.
    pub(crate) fn registries(&self) -> &Registries {
        &self.0.registries
    }

    /// Begins to build a layer, or waits with those who wait for it already.
    /// Gives what to wait with, and the claim on what it asks the network for.
    pub(crate) fn join(&self, wish: Wish) -> (Waiting, Claim) {
        let name = wish.name();
        let mut state = self.0.state();
        let joined = state.builds.contains_key(&name);
        let building = state
            .builds
            .entry(name.clone())
            .or_insert_with(|| build::start(&self.0, &name, wish.clone()));
        building.waiters += 1;
        let claim = building.requests.claim();
        let waiting = Waiting {
            shared: Arc::clone(&self.0),
            outcome: Ending(building.outcome.clone()),
            text: building.text.reader(),
            joined,
            same_terms: building.wish.has_terms_of(&wish),
            name,
        };
        (waiting, claim)
    }

    /// For a person who asks.
    pub(crate) fn status(&self) -> v1::InstallCache {
        let state = self.0.state();
        v1::InstallCache {
            layers: u32::try_from(state.index.count()).unwrap_or(u32::MAX),
            bytes: state.index.bytes(),
            limit_bytes: state.index.room(),
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        // A build that has ended is not in the list, and one with this name may
        // be a later one.
        let Some(building) = state.builds.get_mut(&self.name) else {
            return;
        };
        if !building.outcome.same_channel(&self.outcome.0) {
            return;
        }
        building.waiters -= 1;
        if building.waiters == 0 {
            building.cancel.cancel();
            state.builds.remove(&self.name);
        }
    }
}
