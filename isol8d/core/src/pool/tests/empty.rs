//! Somebody tidies up.

use super::{
    super::*,
    world::{Stage, World, key, limits, ms, policy},
};
use crate::runtime::Runtime;

fn target(world: &World, wanted: &SandboxKey) -> u32 {
    let status = world.pool.status(world.now);
    let of = status.keys.iter().find(|status| status.key == *wanted);
    of.map_or(0, |status| status.target)
}

#[test]
fn what_is_warm_goes_and_stays_away_until_the_next_use() {
    let mut world = World::new(policy(1));
    let python = key(Runtime::Python);
    for _ in 0..3 {
        world.lease(&python, limits(512));
    }
    world.settle(PATIENCE);
    let (warm, leased) = (world.warm_now(), world.count(Stage::Leased));
    assert!(warm >= 3, "{warm}");
    world.empty();
    assert_eq!(target(&world, &python), 0);
    world.settle(ms(20_000));
    assert_eq!((world.warm_now(), world.count(Stage::Leased)), (0, leased));
    assert_eq!(world.pool.live(), leased);

    world.lease(&python, limits(512));
    world.settle(PATIENCE);
    assert_eq!(world.warm_now(), 1, "what it had learned is forgotten");
}

#[test]
fn what_is_prewarmed_rests_too_and_comes_back_with_its_next_use() {
    let mut world = World::new(policy(2));
    let deno = key(Runtime::Deno);
    world.step(Event::Prewarm { key: deno.clone() });
    world.settle(PATIENCE);
    assert_eq!(world.warm_now(), 2);
    world.empty();
    world.settle(FORGET * 2);
    assert_eq!(world.warm_now(), 0);

    world.lease(&deno, limits(512));
    world.settle(FORGET * 2);
    assert_eq!(world.warm_now(), 2, "prewarmed as before");
    world.empty();
    world.step(Event::Prewarm { key: deno });
    world.settle(PATIENCE);
    assert_eq!(world.warm_now(), 2, "said once more");
}

#[test]
fn what_is_being_made_is_for_who_waits_and_else_for_nobody() {
    for waited_for in [false, true] {
        let mut world = World::new(policy(1));
        let node = key(Runtime::Node);
        world.lease(&node, limits(512));
        world.make_ends(0, true);
        world.release(0);
        assert_eq!(world.pool.passing().len(), 2, "one goes, one comes");
        world.destroy_ends(0, true);
        world.pass(ms(1000));
        assert_eq!(world.count(Stage::Making), 1, "the refill");
        assert_eq!(world.pool.passing().len(), 1);
        if waited_for {
            world.lease(&node, limits(512));
            assert_eq!(world.pool.passing(), []);
        }
        let making = world.pick(Stage::Making, 0).unwrap();
        world.empty();
        assert!(world.aborted.is_empty());
        assert!(world.pool.is_in_the_air(&making));
        world.make_ends(0, true);
        assert_eq!(world.pool.is_in_the_air(&making), !waited_for);
        assert_eq!(world.count(Stage::Leased), usize::from(waited_for));
        world.settle(ms(20_000));
        assert_eq!(world.warm_now(), 0);
    }
}

#[test]
fn who_waits_for_warm_ones_gets_them() {
    let mut world = World::new(policy(1));
    let bun = key(Runtime::Bun);
    world.warm(&bun, 3);
    world.make_ends(0, true);
    world.make_ends(0, true);
    assert!(world.warmed.is_empty());
    world.empty();
    world.settle(ms(0));
    assert_eq!(world.warmed, [3]);
    // Nobody waits any more, and nobody has used it since.
    world.settle(ms(20_000));
    assert_eq!(world.warm_now(), 0);
}

#[test]
fn one_that_cannot_be_destroyed_is_in_the_air_until_that_was_tried() {
    let mut world = World::new(policy(1));
    world.warm(&key(Runtime::Bun), 1);
    world.settle(ms(0));
    let (id, engine) = world.pool.idle().remove(0);
    assert_eq!(engine, EngineKind::Native);
    world.empty();
    assert_eq!(world.pool.idle(), []);
    world.destroy_ends(0, false);
    assert!(!world.pool.is_in_the_air(&id));
    assert!(world.pool.knows(&id), "it is tried again");
}
