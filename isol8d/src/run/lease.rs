//! The sandbox that a run asks the pool for.

use isol8_core::{
    failure::Failure,
    request::RunRequest,
    sandbox::{EngineKind, Limits, SandboxKey},
};
use tokio::time::{Instant, timeout_at};

use super::packages::lacks_base;
use crate::{
    daemon::Daemon,
    outbox::Outbox,
    pool::{Lease, PoolHandle},
};

/// The kind of sandbox that a run needs, as long as nothing is installed.
pub(super) fn key_of(engine: EngineKind, request: &RunRequest) -> SandboxKey {
    SandboxKey {
        engine,
        runtime: request.runtime,
        image: request.image.clone(),
        network: request.network,
        writable: request.writable,
        sandbox_size: request.limits.sandbox_size,
        tmp_size: request.limits.tmp_size,
        layer: None,
    }
}

pub(super) fn limits_of(request: &RunRequest) -> Limits {
    Limits {
        memory: request.limits.memory,
        cpu: request.limits.cpu,
        pids: request.limits.pids,
    }
}

/// Leases a sandbox, building its image first where that is missing: that time
/// is not the run's. `None` when the run's time was over before.
pub(super) async fn lease(
    daemon: &Daemon,
    key: &SandboxKey,
    request: &RunRequest,
    outbox: &Outbox,
    deadline: &mut Instant,
) -> Result<Option<Lease>, Failure> {
    let limits = limits_of(request);
    let leased = timeout_at(*deadline, daemon.pool.lease(key.clone(), limits)).await;
    match leased {
        Ok(Err(failure)) if lacks_base(&failure, request) => {
            let began = Instant::now();
            daemon.prepare(key, outbox).await?;
            *deadline += began.elapsed();
        }
        Ok(leased) => return leased.map(Some),
        Err(_) => return Ok(None),
    }
    match timeout_at(*deadline, daemon.pool.lease(key.clone(), limits)).await {
        Ok(leased) => leased.map(Some),
        Err(_) => Ok(None),
    }
}

/// Tells the pool that a run has the machine, for as long as it lives.
pub(super) struct Front<'a>(&'a PoolHandle);

impl<'a> Front<'a> {
    pub(super) fn enter(pool: &'a PoolHandle) -> Self {
        pool.run_started();
        Self(pool)
    }
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        self.0.run_ended();
    }
}
