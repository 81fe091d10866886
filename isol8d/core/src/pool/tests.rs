//! The policy as tables, and a model that plays the owner task with random
//! events and checks what must never happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    failure::FailureKind,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::Network,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limits(memory_mib: u64) -> Limits {
    Limits {
        memory: ByteSize::mib(memory_mib),
        cpu: CpuMillis::ONE,
        pids: Pids::new(64).unwrap(),
    }
}

fn key(runtime: Runtime) -> SandboxKey {
    SandboxKey {
        engine: EngineKind::Native,
        runtime,
        image: None,
        network: Network::None,
        writable: false,
        sandbox_size: ByteSize::mib(512),
        tmp_size: ByteSize::mib(256),
    }
}

fn policy(clean: u32) -> Policy {
    Policy {
        clean,
        most_per_key: 4,
        most_warm: 6,
        most_making: 2,
        most_destroying: 2,
        limits: limits(512),
    }
}

fn broken() -> Failure {
    Failure::new(FailureKind::EngineRefused, "no")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Making,
    Ready,
    Leased,
    Destroying,
}

/// Plays the owner task, the engine and the clients.
struct World {
    pool: Pool,
    policy: Policy,
    now: Duration,
    sandboxes: BTreeMap<SandboxId, (Stage, SandboxKey)>,
    /// Every id that was ever handed out.
    served: BTreeSet<SandboxId>,
    waiting: BTreeMap<Ticket, SandboxKey>,
    /// Those of them that wait for warm ones, not for one of their own.
    warmers: BTreeSet<Ticket>,
    aborted: BTreeSet<SandboxId>,
    tickets: u64,
    handed: Vec<(SandboxId, bool)>,
    failed: usize,
    warmed: Vec<u32>,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            pool: Pool::new(policy.clone()),
            policy,
            now: Duration::ZERO,
            sandboxes: BTreeMap::new(),
            served: BTreeSet::new(),
            waiting: BTreeMap::new(),
            warmers: BTreeSet::new(),
            aborted: BTreeSet::new(),
            tickets: 0,
            handed: Vec::new(),
            failed: 0,
            warmed: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.pool.step(self.now, event) {
            self.perform(action);
        }
        self.check();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Make { id, key, .. } => {
                let before = self.sandboxes.insert(id, (Stage::Making, key.clone()));
                assert!(before.is_none(), "an id is used twice");
                // A refill is what no lease waits for.
                let leases = self
                    .waiting
                    .iter()
                    .filter(|(ticket, wanted)| **wanted == key && !self.warmers.contains(ticket));
                let makes = self.sandboxes.values();
                let makes = makes.filter(|(stage, of)| *stage == Stage::Making && *of == key);
                if makes.count() > leases.count() {
                    let making = self.count(Stage::Making);
                    assert!(
                        making <= self.policy.most_making as usize,
                        "too many refills"
                    );
                }
            }
            Action::Abort { id } => {
                assert_eq!(self.sandboxes[&id].0, Stage::Making);
                assert!(self.aborted.insert(id), "aborted twice");
            }
            Action::Hand {
                ticket, id, warm, ..
            } => {
                let wanted = self.waiting.remove(&ticket).expect("somebody waits");
                let (stage, key) = self.sandboxes.get_mut(&id).expect("it lives");
                assert_eq!((*stage, &*key), (Stage::Ready, &wanted));
                *stage = Stage::Leased;
                assert!(self.served.insert(id.clone()), "one sandbox for two runs");
                self.handed.push((id, warm));
            }
            Action::Fail { ticket, .. } => {
                self.waiting.remove(&ticket).expect("somebody waits");
                self.failed += 1;
            }
            Action::Warmed { ticket, count } => {
                self.waiting.remove(&ticket).expect("somebody waits");
                self.warmed.push(count);
            }
            Action::Destroy { id } => {
                let (stage, _) = self.sandboxes.get_mut(&id).expect("it lives");
                assert_ne!(*stage, Stage::Making, "destroyed under the make");
                assert_ne!(*stage, Stage::Destroying, "destroyed twice at a time");
                *stage = Stage::Destroying;
            }
        }
    }

    fn check(&self) {
        let warm = self.warm_now();
        assert!(warm <= self.policy.most_warm, "{warm} warm");
        assert!(warm as usize <= self.count(Stage::Ready), "not ready");
        let destroying = self.count(Stage::Destroying);
        assert!(destroying <= self.policy.most_destroying as usize);
        assert!(self.pool.live() >= self.sandboxes.len(), "one is forgotten");
    }

    fn count(&self, stage: Stage) -> usize {
        let stages = self.sandboxes.values();
        stages.filter(|(other, _)| *other == stage).count()
    }

    fn pick(&self, stage: Stage, pick: usize) -> Option<SandboxId> {
        let of_stage = self.sandboxes.iter().filter(|(_, (s, _))| *s == stage);
        let ids: Vec<_> = of_stage.map(|(id, _)| id.clone()).collect();
        ids.get(pick % ids.len().max(1)).cloned()
    }

    fn ticket(&mut self, key: &SandboxKey) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, key.clone());
        ticket
    }

    fn lease(&mut self, key: &SandboxKey, limits: Limits) -> Ticket {
        let ticket = self.ticket(key);
        let key = key.clone();
        self.step(Event::Lease {
            ticket,
            key,
            limits,
        });
        ticket
    }

    fn warm(&mut self, key: &SandboxKey, count: u32) {
        let ticket = self.ticket(key);
        self.warmers.insert(ticket);
        let key = key.clone();
        self.step(Event::Warm { ticket, key, count });
    }

    fn make_ends(&mut self, pick: usize, good: bool) {
        let Some(id) = self.pick(Stage::Making, pick) else {
            return;
        };
        self.sandboxes.get_mut(&id).unwrap().0 = Stage::Ready;
        let result = if good && !self.aborted.contains(&id) {
            Ok(())
        } else {
            Err(broken())
        };
        self.step(Event::Made { id, result });
    }

    fn destroy_ends(&mut self, pick: usize, gone: bool) {
        let Some(id) = self.pick(Stage::Destroying, pick) else {
            return;
        };
        if gone {
            self.sandboxes.remove(&id);
        } else {
            self.sandboxes.get_mut(&id).unwrap().0 = Stage::Ready;
        }
        self.step(Event::Destroyed { id, gone });
    }

    fn release(&mut self, pick: usize) {
        if let Some(id) = self.pick(Stage::Leased, pick) {
            self.step(Event::Release { id });
            self.pass(SETTLE);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.pool.wake_at().filter(|at| *at <= end) {
            assert!(at > self.now, "the pool would spin");
            self.now = at;
            self.step(Event::Wake);
        }
        self.now = end;
        self.step(Event::Wake);
    }

    /// Everything that can end, ends well, and time goes by.
    fn settle(&mut self, time: Duration) {
        self.pass(time);
        for _ in 0..100 {
            self.make_ends(0, true);
            self.destroy_ends(0, true);
            self.pass(SETTLE);
        }
    }

    fn warm_now(&self) -> u32 {
        let status = self.pool.status(self.now);
        status.keys.iter().map(|key| key.warm).sum()
    }
}

#[test]
fn a_first_run_is_cold_and_the_second_is_warm() {
    let mut world = World::new(policy(1));
    let python = key(Runtime::Python);
    world.lease(&python, limits(512));
    assert_eq!(world.count(Stage::Making), 1);
    world.make_ends(0, true);
    world.settle(ms(0));
    world.lease(&python, limits(512));
    let warm: Vec<_> = world.handed.iter().map(|(_, warm)| *warm).collect();
    assert_eq!(warm, [false, true]);
    let status = &world.pool.status(world.now).keys[0];
    assert_eq!((status.hits, status.misses), (1, 1));
}

#[test]
fn a_refill_waits_for_the_run_in_front_but_not_for_ever() {
    let mut world = World::new(policy(1));
    world.step(Event::RunStarted);
    world.lease(&key(Runtime::Bash), limits(512));
    world.make_ends(0, true);
    world.pass(PATIENCE - ms(1));
    assert_eq!(world.count(Stage::Making), 0);
    world.pass(ms(1));
    assert_eq!(world.count(Stage::Making), 1);
}

#[test]
fn a_refill_waits_longer_for_a_cold_one() {
    let mut world = World::new(policy(1));
    world.lease(&key(Runtime::Bash), limits(512));
    world.pass(COLD_PATIENCE - ms(1));
    assert_eq!(world.count(Stage::Making), 1);
    world.pass(ms(1));
    assert_eq!(world.count(Stage::Making), 2, "the first may hang");
    world.make_ends(0, true);
    assert_eq!(world.handed.len(), 1, "whichever is ready first");
}

#[test]
fn a_key_in_demand_with_none_left_is_refilled_at_once() {
    let mut world = World::new(policy(1));
    let bash = key(Runtime::Bash);
    world.warm(&bash, 3);
    world.settle(ms(0));
    for left in [2, 1] {
        world.step(Event::RunStarted);
        world.lease(&bash, limits(512));
        assert_eq!((world.warm_now(), world.count(Stage::Making)), (left, 0));
    }
    world.lease(&bash, limits(512));
    assert_eq!((world.warm_now(), world.count(Stage::Making)), (0, 2));
}

#[test]
fn a_refill_starts_soon_after_the_run_in_front() {
    let mut world = World::new(policy(1));
    world.step(Event::RunStarted);
    world.lease(&key(Runtime::Bash), limits(512));
    world.make_ends(0, true);
    world.pass(ms(10));
    world.step(Event::RunEnded);
    assert_eq!(world.count(Stage::Making), 0);
    world.pass(SETTLE);
    assert_eq!(world.count(Stage::Making), 1);
}

#[test]
fn a_lease_takes_over_the_refill_that_is_under_way() {
    let mut world = World::new(policy(1));
    let node = key(Runtime::Node);
    world.lease(&node, limits(512));
    world.make_ends(0, true);
    world.pass(ms(1000));
    assert_eq!(world.count(Stage::Making), 1);
    world.lease(&node, limits(512));
    assert_eq!(world.count(Stage::Making), 1, "no second make");
    world.make_ends(0, true);
    assert_eq!(world.handed.len(), 2);
}

#[test]
fn what_was_made_for_a_lease_that_left_becomes_warm() {
    let mut world = World::new(policy(1));
    let node = key(Runtime::Node);
    let ticket = world.lease(&node, limits(512));
    world.waiting.remove(&ticket);
    world.step(Event::Cancel { ticket });
    world.make_ends(0, true);
    assert_eq!(world.warm_now(), 1);
    world.lease(&node, limits(512));
    assert_eq!(world.handed.len(), 1);
    assert!(world.handed[0].1);
}

#[test]
fn a_lease_prefers_the_sandbox_with_its_limits() {
    let mut world = World::new(policy(2));
    let bun = key(Runtime::Bun);
    let ticket = world.lease(&bun, limits(64));
    world.waiting.remove(&ticket);
    world.step(Event::Cancel { ticket });
    world.settle(PATIENCE);
    assert_eq!(world.warm_now(), 2);
    let ticket = world.ticket(&bun);
    let actions = world.pool.step(
        world.now,
        Event::Lease {
            ticket,
            key: bun,
            limits: limits(512),
        },
    );
    let Some(Action::Hand { limits: has, .. }) = actions.first() else {
        panic!("{actions:?}")
    };
    assert_eq!(*has, limits(512));
}

#[test]
fn a_failed_make_is_told_to_who_waits_and_is_not_repeated_at_once() {
    let mut world = World::new(policy(1));
    let python = key(Runtime::Python);
    world.lease(&python, limits(512));
    world.make_ends(0, false);
    assert_eq!((world.failed, world.count(Stage::Making)), (1, 0));
    world.pass(ms(199));
    assert_eq!(world.count(Stage::Making), 0);
    // While nothing works, the pauses between attempts grow.
    let mut attempts = 0;
    for _ in 0..600 {
        world.pass(ms(100));
        attempts += world.count(Stage::Making);
        world.make_ends(0, false);
        world.destroy_ends(0, true);
    }
    assert!((6..=16).contains(&attempts), "{attempts} in a minute");
    // And a lease is tried all the same.
    world.lease(&python, limits(512));
    assert_eq!(world.count(Stage::Making), 1);
}

#[test]
fn what_only_a_person_can_mend_is_tried_rarely_until_they_have() {
    let mut world = World::new(policy(1));
    let python = key(Runtime::Python);
    world.lease(&python, limits(512));
    let id = world.pick(Stage::Making, 0).unwrap();
    world.sandboxes.get_mut(&id).unwrap().0 = Stage::Ready;
    let result = Err(Failure::new(FailureKind::ImageMissing, "no image"));
    world.step(Event::Made { id, result });
    world.pass(ms(59_000));
    assert_eq!(world.count(Stage::Making), 0);
    // The image is built, and a run works: so do refills.
    world.lease(&python, limits(512));
    world.make_ends(0, true);
    world.pass(SETTLE);
    assert_eq!(world.count(Stage::Making), 1);
}

#[test]
fn one_that_dies_warm_is_destroyed_and_not_made_again_in_a_hurry() {
    let mut world = World::new(policy(1));
    world.lease(&key(Runtime::Python), limits(512));
    world.make_ends(0, true);
    let mut deaths = 0;
    for _ in 0..600 {
        world.pass(ms(100));
        world.make_ends(0, true);
        world.destroy_ends(0, true);
        if let Some(id) = world.pick(Stage::Ready, 0) {
            deaths += 1;
            world.step(Event::Lost { id });
        }
    }
    assert!((6..=16).contains(&deaths), "{deaths} in a minute");
    assert_eq!(world.handed.len(), 1);
}

#[test]
fn a_used_sandbox_stays_until_its_client_is_done() {
    let mut world = World::new(policy(0));
    world.lease(&key(Runtime::Python), limits(512));
    world.make_ends(0, true);
    let id = world.pick(Stage::Leased, 0).unwrap();
    world.step(Event::Release { id });
    assert_eq!(world.count(Stage::Destroying), 0);
    world.pass(SETTLE);
    assert_eq!(world.count(Stage::Destroying), 1);
}

#[test]
fn a_failed_destroy_is_tried_until_it_works() {
    let mut world = World::new(policy(0));
    world.lease(&key(Runtime::Python), limits(512));
    world.make_ends(0, true);
    world.release(0);
    for _ in 0..5 {
        assert_eq!(world.count(Stage::Destroying), 1);
        world.destroy_ends(0, false);
        assert_eq!(world.count(Stage::Destroying), 0, "not at once");
        world.pass(ms(10_000));
    }
    world.destroy_ends(0, true);
    assert_eq!(world.pool.live(), 0);
}

#[test]
fn an_unused_pool_shrinks_to_nothing() {
    let mut world = World::new(policy(2));
    for _ in 0..3 {
        world.lease(&key(Runtime::Python), limits(512));
    }
    world.settle(PATIENCE);
    assert!(world.warm_now() >= 2);
    while world.count(Stage::Leased) > 0 {
        world.release(0);
        world.destroy_ends(0, true);
    }
    world.settle(IDLE + ms(20_000));
    assert_eq!(world.warm_now(), 1);
    world.settle(FORGET);
    assert_eq!((world.warm_now(), world.pool.live()), (0, 0));
    assert_eq!(world.pool.wake_at(), None, "an empty pool sleeps");
}

#[test]
fn a_prewarmed_key_is_warm_without_use_and_stays() {
    let mut world = World::new(policy(1));
    let deno = key(Runtime::Deno);
    world.step(Event::Prewarm { key: deno });
    world.settle(PATIENCE);
    assert_eq!(world.warm_now(), 1);
    world.settle(FORGET * 2);
    assert_eq!(world.warm_now(), 1);
}

#[test]
fn a_key_in_use_takes_room_from_one_that_is_not() {
    let mut world = World::new(policy(2));
    for runtime in [Runtime::Python, Runtime::Node, Runtime::Bun] {
        world.lease(&key(runtime), limits(512));
        world.settle(PATIENCE);
    }
    assert_eq!(world.warm_now(), 6);
    world.lease(&key(Runtime::Bash), limits(512));
    world.settle(PATIENCE);
    let status = world.pool.status(world.now);
    let warm = |runtime| {
        let of = status
            .keys
            .iter()
            .find(|status| status.key.runtime == runtime);
        of.unwrap().warm
    };
    assert_eq!((warm(Runtime::Bash), warm(Runtime::Python)), (2, 0));
    assert_eq!(world.warm_now(), 6);
}

#[test]
fn a_person_who_asks_for_warm_ones_gets_them_or_hears_why() {
    let mut world = World::new(policy(1));
    world.step(Event::RunStarted);
    let python = key(Runtime::Python);
    world.warm(&python, 5);
    world.make_ends(0, true);
    assert!(world.warmed.is_empty());
    world.settle(ms(0));
    assert_eq!(world.warmed, [5]);
    world.warm(&key(Runtime::Node), 0);
    world.make_ends(0, false);
    assert_eq!(world.failed, 1);
    world.warm(&python, 1000);
    world.settle(ms(0));
    assert_eq!(world.warmed, [5, 6], "the bound on all holds");
}

#[test]
fn shutdown_refuses_destroys_and_aborts_what_takes_too_long() {
    let mut world = World::new(policy(2));
    let python = key(Runtime::Python);
    world.lease(&python, limits(512));
    world.settle(PATIENCE);
    world.lease(&key(Runtime::Node), limits(512));
    world.step(Event::Shutdown);
    assert_eq!(world.failed, 1);
    world.lease(&python, limits(512));
    assert_eq!(world.failed, 2);
    world.pass(STOP_PATIENCE);
    assert_eq!(world.aborted.len(), 1);
    world.make_ends(0, true);
    world.release(0);
    for _ in 0..8 {
        world.destroy_ends(0, true);
    }
    assert!(world.pool.is_stopped());
    assert!(world.sandboxes.is_empty());
}

#[test]
fn keys_are_bounded() {
    let mut world = World::new(policy(1));
    for size in 1..200 {
        let key = SandboxKey {
            sandbox_size: ByteSize::mib(size),
            ..key(Runtime::Python)
        };
        world.lease(&key, limits(512));
        world.settle(ms(300));
        world.release(0);
    }
    assert!(world.pool.status(world.now).keys.len() <= 64);
    assert!(world.warm_now() <= 6);
}

#[derive(Debug, Clone)]
enum Move {
    Lease(usize, bool),
    Warm(usize, u32),
    Prewarm(usize),
    Cancel(usize),
    Make(usize, bool),
    Lost(usize),
    Release(usize),
    Destroy(usize, bool),
    Runs(bool),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    let pick = any::<usize>;
    prop_oneof![
        4 => (pick(), any::<bool>()).prop_map(|(key, odd)| Move::Lease(key, odd)),
        1 => (pick(), 0_u32..10).prop_map(|(key, count)| Move::Warm(key, count)),
        1 => pick().prop_map(Move::Prewarm),
        1 => pick().prop_map(Move::Cancel),
        6 => (pick(), prop::bool::weighted(0.8)).prop_map(|(id, good)| Move::Make(id, good)),
        1 => pick().prop_map(Move::Lost),
        3 => pick().prop_map(Move::Release),
        4 => (pick(), prop::bool::weighted(0.8)).prop_map(|(id, gone)| Move::Destroy(id, gone)),
        2 => any::<bool>().prop_map(Move::Runs),
        3 => prop_oneof![0_u64..500, 0_u64..600_000].prop_map(Move::Pass),
    ]
}

fn play(world: &mut World, next: Move) {
    let runtime = |pick: usize| key(Runtime::ALL[pick % Runtime::ALL.len()]);
    match next {
        Move::Lease(key, odd) => {
            world.lease(&runtime(key), limits(if odd { 64 } else { 512 }));
        }
        Move::Warm(key, count) => world.warm(&runtime(key), count),
        Move::Prewarm(key) => world.step(Event::Prewarm { key: runtime(key) }),
        Move::Cancel(pick) => {
            let tickets: Vec<_> = world.waiting.keys().copied().collect();
            if let Some(ticket) = tickets.get(pick % tickets.len().max(1)).copied() {
                world.waiting.remove(&ticket);
                world.step(Event::Cancel { ticket });
            }
        }
        Move::Make(pick, good) => world.make_ends(pick, good),
        Move::Lost(pick) => {
            // Also of sandboxes that are on their way out: reports cross.
            if let Some(id) = world.pick(Stage::Ready, pick) {
                world.step(Event::Lost { id });
            }
        }
        Move::Release(pick) => world.release(pick),
        Move::Destroy(pick, gone) => world.destroy_ends(pick, gone),
        Move::Runs(true) => world.step(Event::RunStarted),
        Move::Runs(false) => world.step(Event::RunEnded),
        Move::Pass(time) => world.pass(ms(time)),
    }
}

proptest! {
    /// Whatever happens: no sandbox serves two runs, no bound is exceeded, and
    /// after a shutdown nothing is left. (`World` asserts the first two.)
    #[test]
    fn nothing_leaks_and_nothing_is_shared(
        clean in 0_u32..4,
        moves in prop::collection::vec(moves(), 0..150),
    ) {
        let mut world = World::new(policy(clean));
        for next in moves {
            play(&mut world, next);
        }
        // Whoever waits now is served: nobody hangs.
        world.settle(ms(20_000));
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);

        world.step(Event::Shutdown);
        world.pass(STOP_PATIENCE);
        for _ in 0..1000 {
            world.make_ends(0, true);
            world.release(0);
            world.destroy_ends(0, true);
        }
        // Destroys that had failed are tried again in their time.
        world.settle(ms(20_000));
        prop_assert!(world.pool.is_stopped(), "{:?}", world.sandboxes);
        prop_assert!(world.sandboxes.is_empty());
        prop_assert_eq!(world.pool.wake_at(), None);
    }
}
