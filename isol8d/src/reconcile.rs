//! Removes what nobody answers for: sandboxes of an earlier life of this daemon,
//! of dead daemons, and folders that no sandbox uses.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use isol8_core::ids::{DaemonId, SandboxId};
use isol8_engine::{Engine, Found, meet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::roster::Roster;

/// Between two sweeps when all is well.
const PERIOD: Duration = Duration::from_secs(60);

/// After a sweep that could not do all; doubles up to [`PERIOD`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Engines slow down when they destroy too much at once.
const AT_ONCE: usize = 4;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Sandboxes that are gone.
    pub destroyed: usize,
    /// Folders that are gone.
    pub folders: usize,
    /// What could not be listed or removed.
    pub failed: usize,
}

/// Sweeps until `stop`: at once, then every minute, and sooner after a failure.
pub async fn keep_sweeping(
    roster: &Roster,
    daemon: &DaemonId,
    runtime_dir: &Path,
    stop: &CancellationToken,
) {
    let mut pause = FIRST_RETRY;
    loop {
        let swept = sweep(roster, daemon, runtime_dir).await;
        if swept.destroyed + swept.folders > 0 {
            tracing::info!(
                destroyed = swept.destroyed,
                folders = swept.folders,
                "removed what nobody answers for"
            );
        }
        pause = if swept.failed == 0 {
            PERIOD
        } else {
            (pause * 2).min(PERIOD)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        if swept.failed == 0 {
            pause = FIRST_RETRY;
        }
    }
}

/// Looks once at every engine and at the folders.
pub async fn sweep(roster: &Roster, daemon: &DaemonId, runtime_dir: &Path) -> Swept {
    let mut swept = Swept::default();
    // Listed first: a sandbox that is made meanwhile has a note by now.
    let folders = folders(runtime_dir);
    let mut in_use = BTreeSet::new();
    let mut all_listed = true;
    for engine in roster.engines().values() {
        match engine.list().await {
            Ok(found) => {
                in_use.extend(found.iter().map(|found| found.id.clone()));
                sweep_engine(roster, engine, daemon, found, &mut swept).await;
            }
            Err(error) => {
                tracing::debug!(engine = %engine.kind(), %error, "cannot list sandboxes");
                all_listed = false;
                swept.failed += 1;
            }
        }
    }
    if !all_listed {
        return swept;
    }
    for id in folders {
        if in_use.contains(&id) || roster.knows(&id) {
            continue;
        }
        match meet::remove_folder(runtime_dir, &id) {
            Ok(()) => swept.folders += 1,
            Err(error) => {
                tracing::warn!(sandbox_id = %id, %error, "cannot remove a folder");
                swept.failed += 1;
            }
        }
    }
    swept
}

async fn sweep_engine(
    roster: &Roster,
    engine: &Arc<dyn Engine>,
    daemon: &DaemonId,
    found: Vec<Found>,
    swept: &mut Swept,
) {
    let mut removals = stream::iter(found)
        .map(|found| async move {
            if !may_remove(roster, engine, daemon, &found).await {
                return None;
            }
            Some(engine.destroy(&found.id).await.inspect_err(|error| {
                tracing::warn!(sandbox_id = %found.id, %error, "cannot destroy a sandbox");
            }))
        })
        .buffer_unordered(AT_ONCE);
    while let Some(removed) = removals.next().await {
        match removed {
            None => {}
            Some(Ok(())) => swept.destroyed += 1,
            Some(Err(_)) => swept.failed += 1,
        }
    }
}

async fn may_remove(
    roster: &Roster,
    engine: &Arc<dyn Engine>,
    daemon: &DaemonId,
    found: &Found,
) -> bool {
    if found.daemon == *daemon {
        return !roster.knows(&found.id);
    }
    !engine.daemon_is_alive(&found.daemon).await
}

/// The sandboxes that have a folder.
fn folders(runtime_dir: &Path) -> Vec<SandboxId> {
    let Ok(entries) = fs::read_dir(runtime_dir.join("sb")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| SandboxId::parse(entry.ok()?.file_name().to_str()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use isol8_core::{
        config::EngineChoice,
        quantity::{ByteSize, CpuMillis, Pids},
        runtime::Runtime,
        sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
    };
    use isol8_engine::fake::{FakeEngine, Fault, Step};

    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::random(),
            key: SandboxKey {
                engine: EngineKind::Native,
                runtime: Runtime::Python,
                image: None,
                network: Network::None,
                writable: false,
                sandbox_size: ByteSize::mib(1),
                tmp_size: ByteSize::mib(1),
                layer: None,
            },
            limits: Limits {
                memory: ByteSize::mib(64),
                cpu: CpuMillis::ONE,
                pids: Pids::new(8).expect("in range"),
            },
            lasting: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_and_the_living_stay() {
        let (own, dead, alive) = (DaemonId::random(), DaemonId::random(), DaemonId::random());
        let fake = FakeEngine::new(EngineKind::Native, own.clone());
        fake.daemon_died(dead.clone());
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        let folder = tempfile::tempdir().expect("a folder");

        let ours = spec();
        let native = roster.engine(EngineKind::Native).expect("it is there");
        let _sandbox = native.create(&ours).await.expect("it works");
        fake.add_stranger(SandboxId::random(), own.clone());
        fake.add_stranger(SandboxId::random(), dead);
        let neighbour = SandboxId::random();
        fake.add_stranger(neighbour.clone(), alive);

        let stray = folder.path().join("sb").join(SandboxId::random().as_str());
        let used = folder.path().join("sb").join(ours.id.as_str());
        let foreign = folder.path().join("sb/README");
        for path in [&stray, &used, &foreign] {
            fs::create_dir_all(path).expect("a folder");
        }

        let swept = sweep(&roster, &own, folder.path()).await;
        let expected = Swept {
            destroyed: 2,
            folders: 1,
            failed: 0,
        };
        assert_eq!(swept, expected);
        let mut left = fake.live_ids();
        left.sort();
        let mut stay = vec![ours.id.clone(), neighbour];
        stay.sort();
        assert_eq!(left, stay);
        assert!(!stray.exists() && used.exists() && foreign.exists());

        // What could not be destroyed is not forgotten.
        fake.plan(Step::Destroy, Fault::refuse());
        assert!(native.destroy(&ours.id).await.is_err());
        let swept = sweep(&roster, &own, folder.path()).await;
        assert_eq!(swept.destroyed, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_cannot_be_listed_costs_no_folder() {
        let own = DaemonId::random();
        let fake = FakeEngine::new(EngineKind::Docker, own.clone());
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sb").join(SandboxId::random().as_str());
        fs::create_dir_all(&path).expect("a folder");
        fake.plan(Step::List, Fault::refuse());
        assert_eq!(sweep(&roster, &own, folder.path()).await.failed, 1);
        assert!(path.exists());
    }
}
