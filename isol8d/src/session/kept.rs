//! Sandboxes that are kept after their run: they have an owner and no name.

use std::{sync::Arc, time::SystemTime};

use isol8_core::{failure::Failure, ids::SandboxId};
use isol8_engine::{Engine, Sandbox, link::Link};

use super::{Sessions, entry::Removed, make::Fresh, record::Record, turn::Seat};

/// A sandbox whose run goes on, and which is kept then. Dropped before, it is
/// removed.
#[derive(Debug)]
pub(crate) struct Kept {
    sessions: Sessions,
    id: SandboxId,
    engine: Arc<dyn Engine>,
    keep: bool,
}

impl Kept {
    /// Gives the sandbox for its run.
    pub(crate) fn new(sessions: &Sessions, fresh: Fresh) -> (Self, Sandbox) {
        let Seat {
            link,
            listener,
            record,
            engine,
        } = fresh.settle();
        let kept = Self {
            sessions: sessions.clone(),
            id: record.sandbox.clone(),
            engine,
            keep: false,
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

    pub(crate) fn id(&self) -> &SandboxId {
        &self.id
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Its run is over. Its init waits for somebody who adopts it.
    pub(crate) fn keep(mut self, link: Link) {
        drop(link);
        self.keep = true;
        let touched = |record: &mut Record| record.used = SystemTime::now();
        self.sessions.0.store.touch(&self.id, touched);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let (sessions, id) = (self.sessions.clone(), self.id.clone());
        self.sessions.0.tasks.spawn(async move {
            if let Err(error) = sessions.remove_kept(&id).await {
                tracing::warn!(sandbox_id = %id, %error, "a sandbox that nobody wants stays for now");
            }
        });
    }
}

impl Sessions {
    /// The sandbox of a session goes on without it.
    pub(super) async fn keep(&self, record: Record) -> Removed {
        let sandbox = record.sandbox.clone();
        let kept = Record {
            name: None,
            used: SystemTime::now(),
            ..record
        };
        self.0.store.put(kept).await?;
        Ok(Some(sandbox))
    }

    /// The sandbox of a session goes with it.
    pub(super) async fn destroy(&self, record: &Record) -> Removed {
        self.forget(record).await;
        if let Some(engine) = self.0.engines.get(&record.key.engine) {
            // Where this fails it is nobody's, and removed by the next sweep.
            engine.destroy(&record.sandbox).await?;
        }
        Ok(None)
    }

    /// Takes a record out.
    pub(super) async fn forget(&self, record: &Record) {
        if let Err(error) = self.0.store.remove(&record.sandbox).await {
            tracing::warn!(%error, "a removed session may come back as lost");
        }
    }

    /// Removes a kept sandbox. Does nothing to one that is gone or has a name now.
    ///
    /// # Errors
    /// Why it cannot be removed. It is nobody's then, and removed later.
    pub(crate) async fn remove_kept(&self, id: &SandboxId) -> Result<(), Failure> {
        let store = &self.0.store;
        let Some(record) = store.get(id).filter(|record| record.name.is_none()) else {
            return Ok(());
        };
        let written = store.remove(id).await;
        let engine = self.0.engines.get(&record.key.engine);
        let destroyed = match engine {
            Some(engine) => engine.destroy(id).await,
            None => Ok(()),
        };
        destroyed.and(written)
    }
}
