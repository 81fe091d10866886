//! Warm sandboxes, each for one run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isol8_core::{
    config::{Config, PoolStrategy},
    failure::{Failure, FailureKind},
    ids::SandboxId,
    sandbox::{EngineKind, Limits, SandboxKey, SandboxSpec},
};
use isol8_engine::{Engine, Sandbox};
use tokio_util::task::TaskTracker;

pub mod gate;

mod make;

/// Every engine of this daemon.
pub type Engines = BTreeMap<EngineKind, Arc<dyn Engine>>;

/// The pool, for those who take from it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PoolHandle {
    engines: Engines,
    tasks: TaskTracker,
}

/// A sandbox for one run: nobody's code ran in it, and its init is past `Ready`.
#[derive(Debug)]
pub struct Lease {
    /// The sandbox. Its link is idle: the next frame is the caller's to send.
    pub sandbox: Sandbox,
    /// It had been made before the lease was asked for.
    pub warm: bool,
    /// Its interpreter is parked.
    pub parked: bool,
    /// Destroys the sandbox in the end.
    pub hold: Hold,
}

impl Lease {
    /// [`Hold::release`], after closing the link.
    pub async fn release(self) {
        let Self { sandbox, hold, .. } = self;
        drop(sandbox);
        hold.release().await;
    }
}

/// The claim on a leased sandbox. Dropping it only sends "destroy" to the pool.
#[derive(Debug)]
pub struct Hold {
    id: SandboxId,
    engine: Arc<dyn Engine>,
    tasks: TaskTracker,
    released: bool,
}

impl Hold {
    /// The sandbox.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The engine that made it.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Destroys the sandbox and waits until that was tried once; where it fails
    /// the pool goes on trying by itself.
    ///
    /// # Cancellation
    /// The sandbox is destroyed all the same.
    pub async fn release(mut self) {
        self.released = true;
        if let Err(error) = self.engine.destroy(&self.id).await {
            tracing::warn!(error = %error, "destroy failed");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released {
            let (engine, id) = (self.engine.clone(), self.id.clone());
            self.tasks.spawn(async move {
                if let Err(error) = engine.destroy(&id).await {
                    tracing::warn!(error = %error, "destroy failed");
                }
            });
        }
    }
}

/// What the pool has now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolStatus {
    /// One for each key that was used lately.
    pub keys: Vec<KeyStatus>,
    /// Sandboxes that exist, in whatever state, by engine.
    pub live: BTreeMap<EngineKind, u32>,
}

/// What the pool has of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// The key.
    pub key: SandboxKey,
    /// Ready.
    pub warm: u32,
    /// How many the pool wants ready.
    pub target: u32,
    /// Being made.
    pub making: u32,
    /// Leases that found a warm one.
    pub hits: u64,
    /// Leases that did not.
    pub misses: u64,
}

impl PoolHandle {
    /// Starts the pool. `tasks` tracks everything that it spawns; `cores` bounds
    /// how much it makes at a time.
    ///
    /// # Errors
    /// `NotYet` for `poolStrategy: "fast"`.
    pub fn start(
        engines: Engines,
        config: &Config,
        cores: usize,
        tasks: &TaskTracker,
    ) -> Result<Self, Failure> {
        let _ = cores;
        if config.pool.strategy == PoolStrategy::Fast {
            let message = "`poolStrategy: \"fast\"` is not there yet";
            return Err(Failure::new(FailureKind::NotYet, message)
                .hint("set `poolStrategy` to \"secure\" or leave it out"));
        }
        Ok(Self {
            engines,
            tasks: tasks.clone(),
        })
    }

    /// A sandbox of this kind with these limits: a warm one where there is one,
    /// else one that is made now. The caller bounds the time.
    ///
    /// # Errors
    /// Why it cannot be made; `ShuttingDown`.
    ///
    /// # Cancellation
    /// Nothing is lost: what was being made for it becomes warm.
    pub async fn lease(&self, key: SandboxKey, limits: Limits) -> Result<Lease, Failure> {
        let engine = self.engines.get(&key.engine).cloned();
        let engine = engine.ok_or_else(|| {
            let message = format!("this daemon has no {} engine", key.engine);
            Failure::new(FailureKind::Unsupported, message)
        })?;
        let id = SandboxId::random();
        let hold = Hold {
            id: id.clone(),
            engine: engine.clone(),
            tasks: self.tasks.clone(),
            released: false,
        };
        let spec = SandboxSpec { id, key, limits };
        let made = make::make(&*engine, &spec).await?;
        Ok(Lease {
            sandbox: made.sandbox,
            warm: false,
            parked: made.parked,
            hold,
        })
    }

    /// Makes `count` warm sandboxes (0: as many as the pool wants by itself) and
    /// waits until they are there. Gives how many there are.
    ///
    /// # Errors
    /// Why one could not be made.
    pub async fn warm(&self, _key: SandboxKey, _count: u32) -> Result<u32, Failure> {
        Err(Failure::new(FailureKind::NotYet, "no warm sandboxes yet"))
    }

    /// What the pool has now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        PoolStatus::default()
    }

    /// A run enters the part in which it should have the machine: until
    /// [`PoolHandle::run_ended`], refills wait a little.
    pub fn run_started(&self) {}

    /// The run's client has its last event.
    pub fn run_ended(&self) {}

    /// Refuses new leases, destroys everything, and gives how many sandboxes
    /// could not be destroyed within `grace`.
    pub async fn shutdown(&self, _grace: Duration) -> usize {
        0
    }
}
