//! The policy as tables, and a model that plays the owner task with random
//! events and checks what must never happen.

use proptest::prelude::*;

use super::*;
use crate::{failure::FailureKind, quantity::ByteSize, runtime::Runtime};

mod empty;
mod forget;
mod world;

use world::{Stage, World, key, layer, limits, ms, policy, with_layer};

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
    Forget(usize),
    Empty,
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
        1 => pick().prop_map(Move::Forget),
        1 => Just(Move::Empty),
    ]
}

/// Two with layers among them.
fn kinds() -> Vec<SandboxKey> {
    let plain = Runtime::ALL.into_iter().map(key);
    plain.chain([with_layer(0), with_layer(1)]).collect()
}

fn play(world: &mut World, next: Move) {
    let kinds = kinds();
    let runtime = |pick: usize| kinds[pick % kinds.len()].clone();
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
        Move::Forget(pick) => world.forget(layer(pick % 2)),
        Move::Empty => world.empty(),
    }
}

proptest! {
    /// Whatever happens: no sandbox serves two runs, none is destroyed under its
    /// run, no bound is exceeded, and after a shutdown nothing is left. (`World`
    /// asserts the first three.)
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

    /// Whatever was before: once the pool was emptied and nobody waits, it makes
    /// nothing until somebody comes, and who comes is served.
    #[test]
    fn an_emptied_pool_rests_until_somebody_comes(
        clean in 0_u32..4,
        moves in prop::collection::vec(moves(), 0..100),
        minutes in 0_u64..60,
    ) {
        let mut world = World::new(policy(clean));
        for next in moves {
            play(&mut world, next);
        }
        world.settle(ms(20_000));
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
        let leased = world.count(Stage::Leased);
        world.empty();
        world.settle(ms(minutes * 60_000));
        world.settle(ms(20_000));
        prop_assert_eq!(world.warm_now(), 0);
        prop_assert_eq!(world.count(Stage::Making), 0);
        prop_assert_eq!(world.count(Stage::Leased), leased);
        prop_assert_eq!(world.pool.live(), leased);

        world.lease(&key(Runtime::Bash), limits(512));
        world.make_ends(0, true);
        prop_assert_eq!(world.count(Stage::Leased), leased + 1);
    }
}
