use futures_util::{FutureExt as _, future::join_all};
use isol8_core::{
    config::{Config, EngineChoice},
    ids::DaemonId,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::Limits,
};
use isol8_engine::{
    Engine,
    fake::{FakeEngine, Fault, Step},
};
use tokio::time::Instant;

use super::*;

const ME: Principal = Principal(1000);

struct World {
    sessions: Sessions,
    roster: Roster,
    fake: FakeEngine,
    tasks: TaskTracker,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = FakeEngine::new(EngineKind::Native, DaemonId::random());
    let engine: Arc<dyn Engine> = Arc::new(fake.clone());
    let roster = Roster::new([engine], EngineChoice::Auto);
    let store = Store::open(folder.path(), None).expect("there is none");
    let tasks = TaskTracker::new();
    World {
        sessions: Sessions::start(store, &roster, tasks.clone()),
        roster,
        fake,
        tasks,
        _folder: folder,
    }
}

impl World {
    async fn make(&self, name: Option<&SessionName>) -> Fresh {
        let terms = Terms {
            owner: ME,
            name: name.cloned(),
            key: Config::default().usual_key(EngineKind::Native, Runtime::Python),
            limits: Limits {
                memory: ByteSize::mib(64),
                cpu: CpuMillis::ONE,
                pids: Pids::new(8).expect("in range"),
            },
            packages: Vec::new(),
            persist: name.is_none(),
        };
        self.sessions.make(terms).await.expect("a sandbox")
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_sandbox_goes_also_when_nobody_waits_for_its_removal() {
    let world = world();
    let (kept, sandbox) = Kept::new(&world.sessions, world.make(None).await);
    let busy = world.sessions.remove_kept(&sandbox.id).await;
    assert_eq!(
        busy.map_err(|failure| failure.kind),
        Err(FailureKind::SessionBusy)
    );
    kept.keep(sandbox.link);
    assert_eq!(world.fake.live(), 1);

    let removed = world.sessions.remove_kept(&sandbox.id).now_or_never();
    assert!(removed.is_none(), "it takes a while");
    world.tasks.close();
    world.tasks.wait().await;
    assert_eq!(world.fake.live(), 0);
    assert!(!world.roster.knows(&sandbox.id));
}

#[tokio::test(start_paused = true)]
async fn one_try_to_find_a_sandbox_is_enough_for_all_who_wait_for_it() {
    let world = world();
    let name = SessionName::parse("work").expect("a name");
    let mut turn = world.sessions.turn(ME, &name, || {}).await.expect("a turn");
    turn.fill(world.make(Some(&name)).await);
    // Its stream closes with the turn.
    turn.link();
    world.fake.plan_always(Step::Adopt, Fault::Hang);
    drop(turn);

    let began = Instant::now();
    let waiting = (0..10).map(|_| world.sessions.turn(ME, &name, || {}));
    for told in join_all(waiting).await {
        let told = told.map(drop).map_err(|failure| failure.kind);
        assert_eq!(told, Err(FailureKind::EngineTimeout));
    }
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(90), "{waited:?}");
    world.sessions.close().await;
}
