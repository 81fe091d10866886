//! The task that builds one layer.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    package::Package,
    sandbox::EngineKind,
};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Building, Outcome, Shared, Use, Wish, fetch,
    index::Place,
    name::LayerName,
    now,
    store::{Draft, Meta, Stored},
    tree::Written,
};
use crate::{
    install::{self, Job, requests::Requests, site::Site, transcript::Transcript},
    pool::Lease,
};

/// Longer than destroying warm sandboxes takes.
const FORGET_GRACE: Duration = Duration::from_secs(10);

pub(super) fn broken() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "the daemon has a bug: the installation broke off",
    )
    .hint("`isol8 daemon logs` shows where")
}

/// Takes a build off the list however its task ends.
struct Listed {
    shared: Arc<Shared>,
    name: LayerName,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let ours = |building: &Building| building.outcome.same_channel(&self.outcome.subscribe());
        if state.builds.get(&self.name).is_some_and(ours) {
            state.builds.remove(&self.name);
        }
    }
}

/// Starts the task. The caller lists what comes out.
pub(super) fn start(shared: &Arc<Shared>, name: &LayerName, wish: Wish) -> Building {
    let (sender, outcome) = watch::channel(None);
    let (text, cancel) = (Transcript::new(), CancellationToken::new());
    let requests = Requests::default();
    let listed = Listed {
        shared: Arc::clone(shared),
        name: name.clone(),
        outcome: sender,
    };
    let task = {
        let (wish, text, cancel) = (wish.clone(), text.clone(), cancel.clone());
        let requests = requests.clone();
        async move {
            let shared = Arc::clone(&listed.shared);
            let built = tokio::select! {
                biased;
                // Dropping the rest ends the sandbox and removes what was
                // written.
                () = cancel.cancelled() => return,
                built = build(&shared, &listed.name, &wish, &text, &requests) => built,
            };
            requests.end();
            match &built {
                Ok(layer) => tracing::info!(layer = %layer.id, "packages were installed"),
                Err(failure) => {
                    tracing::info!(error = failure.message, "packages were not installed");
                }
            }
            let outcome = listed.outcome.clone();
            // Who comes from now on must not wait for what is over.
            drop(listed);
            outcome.send_replace(Some(built));
        }
    };
    shared.means.tasks.spawn(task);
    Building {
        wish,
        text,
        requests,
        outcome,
        waiters: 0,
        cancel,
    }
}

async fn build(
    shared: &Arc<Shared>,
    name: &LayerName,
    wish: &Wish,
    text: &Transcript,
    requests: &Requests,
) -> Outcome {
    let mut lease = shared
        .means
        .pool
        .lease(wish.key.clone(), wish.limits)
        .await?;
    let built = work(shared, name, wish, text, requests, &mut lease).await;
    lease.release().await;
    built
}

async fn work(
    shared: &Arc<Shared>,
    name: &LayerName,
    wish: &Wish,
    text: &Transcript,
    requests: &Requests,
    lease: &mut Lease,
) -> Outcome {
    let filter = install::filter(&wish.hosts, &shared.means.network);
    let job = Job {
        runtime: wish.key.runtime,
        packages: &wish.packages,
        for_layer: true,
        of_host: wish.key.engine == EngineKind::Native,
        identity: &wish.identity,
        apt: wish.apt.as_deref(),
        filter: &filter,
        registries: &shared.registries,
        text,
    };
    let mut site = Site::new(
        lease.room(),
        wish.key.network,
        &shared.means.egress,
        requests,
    );
    let there = shared.state().index.find(name, now());
    if let Some(there) = there {
        // It was made in another network: only its registries are not known.
        let order = job.order(site.interpreter, site.network);
        install::learn(&mut site, &job, &order).await?;
        return Ok(there);
    }
    install::install(&mut site, &job).await?;
    let folder = job.order(site.interpreter, site.network).result();
    let (draft, written) = fetch::fetch(site.link, folder, &shared.store).await?;
    keep(shared, name, wish, draft, written).await
}

/// Makes room and gives the layer its name.
///
/// # Cancellation
/// A layer that is being kept when the future is dropped is kept.
async fn keep(
    shared: &Arc<Shared>,
    name: &LayerName,
    wish: &Wish,
    draft: Draft,
    written: Written,
) -> Result<Use, Failure> {
    let created = now();
    let idle = shared.state().index.could_go(created, written.bytes);
    if !idle.is_empty() {
        // Sandboxes that wait for nobody must not keep layers. Where one does not
        // go in time, its layer counts as used.
        let forgotten = shared.means.pool.forget(idle);
        drop(timeout(FORGET_GRACE, forgotten).await);
    }
    let meta = Meta {
        runtime: wish.key.runtime.to_string(),
        engine: wish.key.engine.to_string(),
        packages: wish.packages.iter().map(ToString::to_string).collect(),
        identity: wish.identity.clone(),
        registries: shared.registries.note(&wish.identity, &wish.worlds()),
        pinned: wish.packages.iter().all(Package::pinned),
        bytes: written.bytes,
        entries: written.entries,
        created_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
    };
    let kept = spawn_blocking({
        let (shared, name) = (Arc::clone(shared), name.clone());
        move || put_away(&shared, &name, draft, meta, created)
    });
    kept.await
        .unwrap_or_else(|error| Err(broken().because(&error)))
}

/// Blocks. One at a time: until a layer is in the index its bytes are not
/// counted and its name looks free.
fn put_away(
    shared: &Shared,
    name: &LayerName,
    draft: Draft,
    meta: Meta,
    created: Duration,
) -> Result<Use, Failure> {
    let _alone = shared
        .keeping
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let place = {
        let mut state = shared.state();
        // Under the lock: whoever finds a layer before holds it, and who comes
        // later does not find it.
        let mounted = shared.means.mounted.layers();
        let index = &mut state.index;
        index.make_place(name, created, meta.bytes, &mounted)
    };
    let Place { id, going } = place.ok_or_else(full)?;
    going.iter().for_each(|id| shared.store.remove(id));
    let stored = Stored {
        id,
        meta,
        last_used: created,
    };
    shared.store.keep(draft, &stored.id, &stored.meta)?;
    shared
        .store
        .touch(&stored.id, SystemTime::UNIX_EPOCH + created);
    Ok(shared.state().index.add(stored))
}

fn full() -> Failure {
    Failure::new(
        FailureKind::NoSpace,
        "the install cache is full of packages that are in use",
    )
    .hint("`--no-install-cache` installs them for one run alone")
}
