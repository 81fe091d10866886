//! Removes what nobody answers for: sandboxes of an earlier life of this daemon,
//! of dead daemons, and folders that no sandbox uses.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use futures_util::{StreamExt, stream};
use isol8_core::{
    failure::Failure,
    ids::{DaemonId, SandboxId},
    sandbox::EngineKind,
};
use isol8_engine::{Engine, Found, meet, presence};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{cleanup::Claim, roster::Roster};

/// Between two sweeps when all is well.
const PERIOD: Duration = Duration::from_secs(60);

/// After the first sweep, and after one that could not do all; doubles up to
/// [`PERIOD`].
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

/// Sweeps until `stop`: at once and soon again, since an engine may yet make what a
/// daemon that was killed has asked for; then less and less, down to every minute,
/// and soon again after a failure.
pub async fn keep_sweeping(
    roster: &Roster,
    daemon: &DaemonId,
    runtime_dir: &Path,
    stop: &CancellationToken,
) {
    let (mut pause, mut failing) = (FIRST_RETRY, false);
    loop {
        let swept = sweep(roster, daemon, runtime_dir).await;
        if swept.destroyed + swept.folders > 0 {
            tracing::info!(
                destroyed = swept.destroyed,
                folders = swept.folders,
                "removed what nobody answers for"
            );
        }
        let failed = swept.failed > 0;
        if failed && !failing {
            pause = FIRST_RETRY;
        }
        failing = failed;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PERIOD);
    }
}

/// Looks once at every engine and at the folders, and removes what it finds.
pub async fn sweep(roster: &Roster, daemon: &DaemonId, runtime_dir: &Path) -> Swept {
    let mut swept = Swept::default();
    // Listed first: a sandbox that is made meanwhile has a note by now.
    let folders = folders(runtime_dir);
    let looked = look_once(roster, daemon).await;
    for (engine, error) in &looked.failed {
        tracing::debug!(%engine, %error, "cannot list sandboxes");
        swept.failed += 1;
    }
    for removed in remove(roster, daemon, looked.left).await {
        match removed.result {
            Ok(()) => swept.destroyed += 1,
            Err(error) => {
                let id = removed.left.id;
                tracing::warn!(sandbox_id = %id, %error, "cannot destroy a sandbox");
                swept.failed += 1;
            }
        }
    }
    if !looked.failed.is_empty() {
        return swept;
    }
    for id in folders {
        if looked.there.contains(&id) || roster.knows(&id) {
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

/// A sandbox that nobody answers for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Left {
    pub(crate) id: SandboxId,
    pub(crate) engine: EngineKind,
}

/// What became of one that was still there.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) left: Left,
    pub(crate) result: Result<(), Failure>,
}

/// What engines show.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// What may be removed.
    pub(crate) left: Vec<Left>,
    /// Engines that cannot be asked, and why.
    pub(crate) failed: Vec<(EngineKind, Failure)>,
    there: BTreeSet<SandboxId>,
}

impl Looked {
    /// Whether it may be removed, as far as it could be seen.
    fn shows(&self, left: &Left) -> bool {
        let unseen = |(engine, _): &(EngineKind, Failure)| *engine == left.engine;
        self.left.contains(left) || self.failed.iter().any(unseen)
    }
}

/// Finds what may be removed, and removes nothing.
pub(crate) async fn look(roster: &Roster, daemon: &DaemonId) -> Looked {
    let mut looked = look_once(roster, daemon).await;
    if !looked.left.is_empty() {
        // What was listed on its way out has gone by now.
        let again = look_once(roster, daemon).await;
        looked.left.retain(|left| again.shows(left));
    }
    looked
}

async fn look_once(roster: &Roster, daemon: &DaemonId) -> Looked {
    let mut looked = Looked::default();
    for (kind, engine) in roster.engines() {
        let found = match engine.list().await {
            Ok(found) => found,
            Err(failure) => {
                looked.failed.push((*kind, failure));
                continue;
            }
        };
        for found in found {
            if may_remove(roster, engine.as_ref(), daemon, &found).await {
                looked.left.push(Left {
                    id: found.id.clone(),
                    engine: *kind,
                });
            }
            looked.there.insert(found.id);
        }
    }
    looked
}

/// Removes those of `left` that are still there and that nobody else is at.
/// Several at a time, each within the engine's own deadlines.
///
/// # Cancellation
/// What is not removed is found again.
pub(crate) async fn remove(roster: &Roster, daemon: &DaemonId, left: Vec<Left>) -> Vec<Removed> {
    let claim = |left: Left| Some((Claim::on(left.id.to_string())?, left));
    let mut claimed: Vec<(Claim, Left)> = left.into_iter().filter_map(claim).collect();
    if claimed.is_empty() {
        return Vec::new();
    }
    let looked = look_once(roster, daemon).await;
    claimed.retain(|(_, left)| looked.shows(left));
    let removals = claimed.into_iter().map(|(claim, left)| async move {
        let result = match roster.engine(left.engine) {
            Ok(engine) => engine.destroy(&left.id).await,
            Err(failure) => Err(failure),
        };
        drop(claim);
        Removed { left, result }
    });
    stream::iter(removals)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn may_remove(
    roster: &Roster,
    engine: &dyn Engine,
    daemon: &DaemonId,
    found: &Found,
) -> bool {
    if found.daemon == *daemon {
        return !roster.knows(&found.id);
    }
    // A daemon that is dead may come back for its sessions.
    !engine.daemon_is_alive(&found.daemon).await && !presence::spares(&found.daemon, &found.id)
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
    use std::sync::Arc;

    use isol8_core::{
        config::EngineChoice,
        quantity::{ByteSize, CpuMillis, Pids},
        runtime::Runtime,
        sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
    };
    use isol8_engine::{
        fake::{FakeEngine, Fault, Step},
        presence::{Presence, Spared},
    };

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
        drop(Presence::announce(&dead).expect("a folder for it"));
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

    /// What comes late is found in about the time that it took.
    #[tokio::test(start_paused = true)]
    async fn the_first_minute_is_watched_closely() {
        let own = DaemonId::random();
        let fake = FakeEngine::new(EngineKind::Docker, own.clone());
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        let folder = tempfile::tempdir().expect("a folder");
        for late in [2, 5, 11, 40] {
            let stop = CancellationToken::new();
            let sweeping = keep_sweeping(&roster, &own, folder.path(), &stop);
            let watch = async {
                sleep(Duration::from_secs(late)).await;
                fake.add_stranger(SandboxId::random(), own.clone());
                sleep(Duration::from_secs(late + 1)).await;
                assert_eq!(fake.live(), 0, "after {late} s");
                stop.cancel();
            };
            tokio::join!(sweeping, watch);
        }
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

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_daemon_wants_back_stays() {
        let (own, dead) = (DaemonId::random(), DaemonId::random());
        let fake = FakeEngine::new(EngineKind::Native, own.clone());
        fake.daemon_died(dead.clone());
        let (session, other) = (SandboxId::random(), SandboxId::random());
        let presence = Presence::announce(&dead).expect("a folder for it");
        let spared = Spared {
            id: session.clone(),
            until: std::time::SystemTime::now() + Duration::from_secs(3600),
        };
        presence.spare(&[spared]).expect("it is written");
        drop(presence);
        for id in [&session, &other] {
            fake.add_stranger(id.clone(), dead.clone());
        }
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        let left = look(&roster, &own).await.left;
        let ids: Vec<_> = left.iter().map(|left| left.id.clone()).collect();
        assert_eq!(ids, [other]);
        assert_eq!(remove(&roster, &own, left).await.len(), 1);
        assert_eq!(fake.live_ids(), [session]);
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_remove_the_same_count_it_once() {
        let own = DaemonId::random();
        let fake = FakeEngine::new(EngineKind::Native, own.clone());
        for _ in 0..10 {
            fake.add_stranger(SandboxId::random(), own.clone());
        }
        fake.plan_always(Step::Destroy, Fault::Delay(Duration::from_secs(1)));
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        let shown = look(&roster, &own).await.left;
        assert_eq!(shown.len(), 10);
        let began = tokio::time::Instant::now();
        let folder = tempfile::tempdir().expect("a folder");
        let removed = remove(&roster, &own, shown.clone());
        let (removed, swept) = tokio::join!(removed, sweep(&roster, &own, folder.path()));
        assert_eq!((removed.len(), swept.destroyed), (10, 0));
        assert_eq!(began.elapsed(), Duration::from_secs(3), "four at a time");
        // What has gone since it was shown is nobody's doing.
        assert!(remove(&roster, &own, shown).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_listed_or_destroyed_is_told() {
        let own = DaemonId::random();
        let fake = FakeEngine::new(EngineKind::Native, own.clone());
        fake.add_stranger(SandboxId::random(), own.clone());
        let engine: Arc<dyn Engine> = Arc::new(fake.clone());
        let roster = Roster::new([engine], EngineChoice::Auto);
        fake.plan(Step::List, Fault::refuse());
        let looked = look(&roster, &own).await;
        assert_eq!((looked.left.len(), looked.failed.len()), (0, 1));
        let left = look(&roster, &own).await.left;
        // Not to be seen a second time is no reason to leave it.
        fake.plan(Step::List, Fault::refuse());
        fake.plan(Step::Destroy, Fault::refuse());
        let removed = remove(&roster, &own, left.clone()).await;
        assert!(removed[0].result.is_err());
        assert!(remove(&roster, &own, left).await[0].result.is_ok());
        assert_eq!(fake.live(), 0);
    }
}
