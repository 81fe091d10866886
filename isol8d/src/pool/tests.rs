//! The owner task against the fake engine, on a clock that stands still.

use futures_util::FutureExt as _;
use isol8_core::{
    ids::DaemonId,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::Network,
};
use isol8_engine::fake::{FakeEngine, Fault, Step};
use tokio::time::sleep;

use super::*;

const LONG: Duration = Duration::from_secs(120);

struct World {
    fake: FakeEngine,
    pool: PoolHandle,
    tasks: TaskTracker,
}

fn world_of(config: &Config) -> World {
    let fake = FakeEngine::new(EngineKind::Native, DaemonId::random());
    let mut engines = Engines::new();
    engines.insert(EngineKind::Native, Arc::new(fake.clone()));
    let tasks = TaskTracker::new();
    let pool = PoolHandle::start(engines, config, 2, &tasks).unwrap();
    World { fake, pool, tasks }
}

fn world() -> World {
    world_of(&Config::default())
}

fn key() -> SandboxKey {
    SandboxKey {
        engine: EngineKind::Native,
        runtime: Runtime::Python,
        image: None,
        network: Network::None,
        writable: false,
        sandbox_size: ByteSize::mib(512),
        tmp_size: ByteSize::mib(256),
        layer: None,
    }
}

fn limits(memory_mib: u64) -> Limits {
    Limits {
        memory: ByteSize::mib(memory_mib),
        cpu: CpuMillis::ONE,
        pids: Pids::new(64).unwrap(),
    }
}

impl World {
    async fn lease(&self) -> Result<Lease, Failure> {
        let lease = self.pool.lease(key(), limits(512));
        timeout(LONG, lease).await.expect("a lease hangs")
    }

    fn warm(&self) -> u32 {
        self.pool.status().keys.iter().map(|key| key.warm).sum()
    }

    /// Everything is destroyed, the owner ends, the engine is empty.
    async fn end(self) {
        assert_eq!(self.pool.shutdown(LONG).await, 0);
        self.tasks.close();
        timeout(LONG, self.tasks.wait())
            .await
            .expect("the owner ends");
        assert_eq!(self.fake.live(), 0);
    }
}

#[test]
fn a_shutdown_has_time_to_abort_and_to_destroy() {
    use isol8_core::pool::STOP_PATIENCE;
    assert!(STOP_PATIENCE * 2 < crate::daemon::POOL_GRACE);
}

#[tokio::test(start_paused = true)]
async fn the_first_is_cold_the_second_is_warm_and_parked() {
    let world = world();
    let first = world.lease().await.unwrap();
    assert!(!first.warm && first.parked);
    first.release().await;
    assert_eq!(world.fake.destroyed_total(), 1, "release waits");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.warm(), 1);
    let second = world.lease().await.unwrap();
    assert!(second.warm && second.parked);
    let status = world.pool.status();
    assert_eq!((status.keys[0].hits, status.keys[0].misses), (1, 1));
    assert_eq!(status.live[&EngineKind::Native], 1);
    second.release().await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_is_destroyed() {
    let world = world();
    let lease = world.lease().await.unwrap();
    let id = lease.hold.id().clone();
    drop(lease);
    sleep(Duration::from_secs(1)).await;
    assert!(!world.fake.live_ids().contains(&id));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_died_while_it_waited_is_never_handed_out() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 1).await, Ok(1));
    let dead = world.fake.live_ids().remove(0);
    world.fake.kill_init(&dead);
    // No time passes: the watcher has not run yet.
    let lease = world.lease().await.unwrap();
    assert_ne!(*lease.hold.id(), dead);
    assert!(!lease.warm);
    sleep(Duration::from_secs(1)).await;
    assert!(!world.fake.live_ids().contains(&dead), "and is destroyed");
    lease.release().await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_died_is_replaced_without_a_lease() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 1).await, Ok(1));
    let dead = world.fake.live_ids().remove(0);
    world.fake.kill_init(&dead);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.warm(), 1);
    assert_eq!(world.fake.live(), 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn limits_are_set_on_a_warm_one_only_where_they_differ() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 2).await, Ok(2));
    let same = world.lease().await.unwrap();
    assert!(same.warm);
    assert_eq!(world.fake.set_limits_total(), 0);
    let other = world.pool.lease(key(), limits(64)).await.unwrap();
    assert!(other.warm);
    assert_eq!(world.fake.limits_of(other.hold.id()), Some(limits(64)));
    assert_eq!(world.fake.set_limits_total(), 1);
    drop((same, other));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_warm_one_that_takes_no_limits_is_replaced_once() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 1).await, Ok(1));
    world.fake.plan(Step::SetLimits, Fault::refuse());
    let lease = world.pool.lease(key(), limits(64)).await.unwrap();
    assert!(!lease.warm, "made with the right limits");
    assert_eq!(world.fake.limits_of(lease.hold.id()), Some(limits(64)));
    drop(lease);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_cancelled_loses_nothing() {
    let world = world();
    let delay = Duration::from_secs(5);
    world.fake.plan(Step::Created, Fault::Delay(delay));
    let lease = world.pool.lease(key(), limits(512));
    assert!(timeout(Duration::from_secs(1), lease).await.is_err());
    sleep(delay).await;
    assert_eq!((world.warm(), world.fake.live()), (1, 1));
    assert!(world.lease().await.unwrap().warm);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn leases_that_are_given_up_before_they_are_heard_make_nothing() {
    let world = world();
    for _ in 0..40 {
        // Asked for once, so that the owner will find both in its queues.
        let lease = world.pool.lease(key(), limits(512));
        assert!(lease.now_or_never().is_none());
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!((world.fake.live(), world.warm()), (0, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_make_leaves_nothing_and_says_why() {
    let gone = || Failure::new(FailureKind::EngineUnreachable, "gone");
    for fault in [Fault::refuse(), Fault::FailAndLeave(gone()), Fault::Panic] {
        for step in [Step::Create, Step::Created, Step::FrameIn, Step::FrameOut] {
            let world = world();
            world.fake.plan(step, fault.clone());
            let failure = world.lease().await.expect_err("it was planned");
            assert!(!failure.message.is_empty());
            world.lease().await.expect("only once").release().await;
            world.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_says_nothing_delays_but_does_not_hang() {
    for step in [Step::FrameIn, Step::FrameOut] {
        let world = world();
        world.fake.plan(step, Fault::Hang);
        let began = tokio::time::Instant::now();
        let lease = world.lease().await.expect("another one is made");
        assert!(began.elapsed() < Duration::from_secs(3));
        sleep(LONG).await;
        assert_eq!(world.fake.live(), 2, "leased and warm; not the dumb one");
        drop(lease);
        world.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_destroy_is_tried_until_the_engine_is_back() {
    let world = world();
    let lease = world.lease().await.unwrap();
    let id = lease.hold.id().clone();
    world.fake.plan_always(Step::Destroy, Fault::refuse());
    lease.release().await; // returns after the first attempt
    sleep(LONG).await;
    assert!(world.fake.live_ids().contains(&id));
    let attempts = world.fake.steps();
    let attempts = attempts
        .iter()
        .filter(|step| **step == Step::Destroy)
        .count();
    assert!((5..=40).contains(&attempts), "{attempts} attempts");
    world.fake.mend();
    sleep(Duration::from_secs(10)).await;
    assert!(!world.fake.live_ids().contains(&id));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_is_not_asked_in_a_loop() {
    let world = world();
    world.pool.prewarm(key());
    world.fake.plan_always(Step::Create, Fault::refuse());
    sleep(LONG).await;
    let creates = world.fake.steps();
    let creates = creates.iter().filter(|step| **step == Step::Create).count();
    assert!((10..=30).contains(&creates), "{creates} in two minutes");
    world.fake.mend();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.warm(), 1, "refilled within ten seconds");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn refills_wait_for_the_run_in_front() {
    let world = world();
    world.pool.run_started();
    let lease = world.lease().await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(world.fake.created_total(), 1);
    world.pool.run_ended();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(world.fake.created_total(), 2);
    drop(lease);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_refuses_what_waits_and_aborts_what_hangs() {
    let world = world();
    world.fake.plan(Step::Created, Fault::Hang);
    let (lease, left) = tokio::join!(world.pool.lease(key(), limits(512)), async {
        sleep(Duration::from_secs(1)).await;
        world.pool.shutdown(Duration::from_secs(10)).await
    });
    assert_eq!(lease.unwrap_err().kind, FailureKind::ShuttingDown);
    assert_eq!((left, world.fake.live()), (0, 0));
    let refused = world.lease().await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::ShuttingDown);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_says_what_is_left() {
    let world = world();
    let lease = world.lease().await.unwrap();
    world.fake.plan_always(Step::Destroy, Fault::refuse());
    drop(lease);
    assert_eq!(world.pool.shutdown(Duration::from_secs(10)).await, 1);
    world.fake.mend();
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_nobody_holds_tidies_up_and_ends() {
    let World { fake, pool, tasks } = world();
    assert_eq!(pool.warm(key(), 2).await, Ok(2));
    drop(pool);
    tasks.close();
    timeout(LONG, tasks.wait()).await.expect("the owner ends");
    assert_eq!(fake.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_plainly() {
    let world = world();
    let docker = SandboxKey {
        engine: EngineKind::Docker,
        ..key()
    };
    let refused = world.pool.lease(docker, limits(512)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unsupported);
    world.end().await;

    let mut config = Config::default();
    config.pool.strategy = PoolStrategy::Fast;
    let tasks = TaskTracker::new();
    let refused = PoolHandle::start(Engines::new(), &config, 2, &tasks).unwrap_err();
    assert_eq!(refused.kind, FailureKind::NotYet);
    assert!(refused.hint.unwrap().contains("poolStrategy"));
}

#[tokio::test(start_paused = true)]
async fn many_at_once_get_one_each() {
    let world = world();
    let leases = (0..40).map(|_| world.lease());
    let leases = futures_util::future::join_all(leases).await;
    let leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
    let ids: BTreeSet<_> = leases.iter().map(|lease| lease.hold.id().clone()).collect();
    assert_eq!(ids.len(), 40);
    let releases = leases.into_iter().map(Lease::release);
    futures_util::future::join_all(releases).await;
    assert!(ids.iter().all(|id| !world.fake.live_ids().contains(id)));
    sleep(LONG).await;
    assert!((1..=4).contains(&world.warm()), "{}", world.warm());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_emptied_pool_has_nothing_that_nobody_has() {
    let world = world();
    let leased = world.lease().await.unwrap();
    assert_eq!(world.pool.warm(key(), 2).await, Ok(2));
    let mut idle = world.pool.idle().await;
    idle.sort();
    let mut emptied = world.pool.empty().await;
    emptied.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let gone = idle.into_iter().map(|(id, engine)| (id, engine, Ok(())));
    assert_eq!(emptied, gone.collect::<Vec<_>>());
    assert_eq!(emptied.len(), 2);
    assert_eq!(world.fake.live_ids(), [leased.hold.id().clone()]);
    sleep(LONG).await;
    assert_eq!(world.fake.live(), 1, "nothing is refilled");
    assert_eq!(world.pool.empty().await, [], "there is nothing");
    let next = world.lease().await.unwrap();
    sleep(LONG).await;
    assert_eq!(world.warm(), 1, "until somebody runs");
    drop((leased, next));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_destroyed_is_told_with_the_reason() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 2).await, Ok(2));
    world.fake.plan(Step::Destroy, Fault::refuse());
    let emptied = world.pool.empty().await;
    let failed = emptied.iter().filter(|(.., result)| result.is_err());
    assert_eq!((emptied.len(), failed.count()), (2, 1));
    assert_eq!(world.fake.live(), 1);
    sleep(LONG).await;
    assert_eq!(world.fake.live(), 0, "the pool goes on trying");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_made_for_nobody_is_waited_for_and_not_counted() {
    let world = world();
    let leased = world.lease().await.unwrap();
    let delay = Duration::from_secs(5);
    world.fake.plan(Step::Created, Fault::Delay(delay));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.fake.live(), 2, "the refill is under way");
    let began = tokio::time::Instant::now();
    assert_eq!(world.pool.empty().await, []);
    assert!(began.elapsed() > Duration::from_secs(3));
    assert_eq!(world.fake.live_ids(), [leased.hold.id().clone()]);
    drop(leased);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_out_is_waited_for_and_not_counted() {
    let world = world();
    let lease = world.lease().await.unwrap();
    let delay = Duration::from_secs(5);
    world.fake.plan_always(Step::Destroy, Fault::Delay(delay));
    drop(lease);
    assert_eq!(world.pool.empty().await, []);
    assert_eq!(world.fake.live(), 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_made_for_a_lease_is_its_own() {
    let world = world();
    let delay = Duration::from_secs(5);
    world.fake.plan(Step::Created, Fault::Delay(delay));
    let (lease, emptied) = tokio::join!(world.lease(), async {
        sleep(Duration::from_secs(1)).await;
        world.pool.empty().await
    });
    let lease = lease.unwrap();
    assert_eq!(emptied, []);
    assert_eq!(world.fake.live_ids(), [lease.hold.id().clone()]);
    drop(lease);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_who_empty_it_do_not_count_the_same() {
    let world = world();
    assert_eq!(world.pool.warm(key(), 3).await, Ok(3));
    let delay = Duration::from_secs(1);
    world.fake.plan_always(Step::Destroy, Fault::Delay(delay));
    let (first, second) = tokio::join!(world.pool.empty(), world.pool.empty());
    assert_eq!((first.len(), second.len()), (3, 0));
    world.fake.mend();
    assert_eq!(world.pool.shutdown(LONG).await, 0);
    assert_eq!(world.pool.idle().await, []);
    assert_eq!(world.pool.empty().await, [], "nobody is there to wait for");
    world.end().await;
}
