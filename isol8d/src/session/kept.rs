//! Sandboxes that are kept after their run: they have an owner and no name.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use isol8_engine::{Engine, Sandbox, link::Link};
use tokio::time::timeout;

use super::{
    Sessions, Shared,
    entry::{Removed, bug},
    make::Fresh,
    record::Record,
    turn::Seat,
};

/// How long an engine may take to remove a sandbox before it is left to the sweep.
const DESTROY_DEADLINE: Duration = Duration::from_secs(30);

/// A sandbox without a name whose run goes on: nobody adopts or removes it.
#[derive(Debug)]
pub(super) struct InUse {
    shared: Arc<Shared>,
    id: SandboxId,
}

impl InUse {
    /// Before its record is there to be found.
    pub(super) fn new(shared: &Arc<Shared>, id: &SandboxId) -> Self {
        shared.in_use().insert(id.clone());
        Self {
            shared: Arc::clone(shared),
            id: id.clone(),
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.shared.in_use().remove(&self.id);
    }
}

/// A sandbox whose run goes on, and which is kept then. Dropped before, it is
/// removed.
#[derive(Debug)]
pub(crate) struct Kept {
    sessions: Sessions,
    id: SandboxId,
    engine: Arc<dyn Engine>,
    /// Nobody could look into it.
    lost: bool,
    keep: bool,
    /// Last: what is to be removed has no record any more when this goes.
    _in_use: Option<InUse>,
}

impl Kept {
    /// Gives the sandbox for its run.
    pub(crate) fn new(sessions: &Sessions, fresh: Fresh) -> (Self, Sandbox) {
        let (seat, in_use) = fresh.settle();
        let Seat {
            link,
            listener,
            record,
            engine,
        } = seat;
        let kept = Self {
            sessions: sessions.clone(),
            id: record.sandbox.clone(),
            engine,
            lost: false,
            keep: false,
            _in_use: in_use,
        };
        let sandbox = Sandbox {
            id: record.sandbox,
            link,
            interpreter: record.interpreter,
            listener,
            uid: record.uid,
        };
        (kept, sandbox)
    }

    /// What will be kept.
    pub(crate) fn id(&self) -> Option<&SandboxId> {
        (!self.lost).then_some(&self.id)
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The sandbox went with its run: there is nothing to keep.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// Its run is over. Its init waits for somebody who adopts it.
    pub(crate) fn keep(mut self, link: Link) {
        drop(link);
        self.keep = !self.lost;
        let touched = |record: &mut Record| record.used = SystemTime::now();
        self.sessions.0.store.change(&self.id, touched);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.keep {
            self.sessions.0.discard(&self.engine, &self.id);
        }
    }
}

impl Shared {
    pub(super) fn in_use(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<SandboxId>> {
        // The set is whole between any two statements.
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a sandbox that nobody wants, in its own time. It has no record from
    /// this moment on.
    pub(super) fn discard(self: &Arc<Self>, engine: &Arc<dyn Engine>, id: &SandboxId) {
        self.store.take(id, |_| true);
        let (shared, engine, id) = (Arc::clone(self), Arc::clone(engine), id.clone());
        self.tasks.spawn(async move {
            // In this order, as for every removal: see the store.
            let written = shared.store.write().await;
            let destroyed = destroy(&engine, &id).await;
            if let Err(error) = written.and(destroyed) {
                tracing::warn!(sandbox_id = %id, %error, "a sandbox that nobody wants stays for now");
            }
        });
    }
}

/// Destroys a sandbox that has no record any more. Where this fails it is
/// nobody's, and removed by the next sweep.
pub(super) async fn destroy(engine: &Arc<dyn Engine>, id: &SandboxId) -> Result<(), Failure> {
    let destroyed = timeout(DESTROY_DEADLINE, engine.destroy(id)).await;
    destroyed.unwrap_or_else(|_| {
        let message = "a sandbox does not go in time";
        Err(Failure::new(FailureKind::EngineTimeout, message)
            .cause("its engine does not answer")
            .hint("the daemon tries again every minute"))
    })
}

impl Sessions {
    /// The sandbox of a session goes on without it.
    pub(super) async fn keep(&self, record: &Record) -> SandboxId {
        self.0.store.change(&record.sandbox, |record| {
            record.name = None;
            record.used = SystemTime::now();
        });
        if let Err(error) = self.0.store.write().await {
            tracing::warn!(%error, "a removed session may come back");
        }
        record.sandbox.clone()
    }

    /// The sandbox of a session goes with it.
    pub(super) async fn destroy(&self, record: &Record) -> Removed {
        self.forget(record).await;
        if let Some(engine) = self.0.engines.get(&record.key.engine) {
            destroy(engine, &record.sandbox).await?;
        }
        Ok(None)
    }

    /// Takes a record out.
    pub(super) async fn forget(&self, record: &Record) {
        self.0.store.take(&record.sandbox, |_| true);
        if let Err(error) = self.0.store.write().await {
            tracing::warn!(%error, "a removed session may come back as lost");
        }
    }

    /// Removes a kept sandbox. Does nothing to one that is gone or has a name now.
    ///
    /// # Errors
    /// `SessionBusy` while its run goes on. Why it cannot be removed: it is
    /// nobody's then, and removed later.
    ///
    /// # Cancellation
    /// It goes all the same: without its record only this would ever remove it.
    pub(crate) async fn remove_kept(&self, id: &SandboxId) -> Result<(), Failure> {
        if self.0.in_use().contains(id) {
            return Err(in_use(id));
        }
        let unnamed = |record: &Record| record.name.is_none();
        let Some(record) = self.0.store.take(id, unnamed) else {
            return Ok(());
        };
        let sessions = self.clone();
        let destroyed = async move { sessions.destroy(&record).await.map(drop) };
        let destroyed = self.0.tasks.spawn(destroyed).await;
        destroyed.unwrap_or_else(|_| Err(bug()))
    }
}

pub(super) fn in_use(id: &SandboxId) -> Failure {
    let message = format!("a run goes on in sandbox `{id}`");
    Failure::new(FailureKind::SessionBusy, message).hint("wait for the run to end, or stop it")
}
