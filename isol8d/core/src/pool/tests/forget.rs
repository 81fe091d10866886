//! Layers that go.

use super::{
    super::*,
    world::{Stage, World, layer, limits, ms, policy, with_layer},
};

#[test]
fn a_layer_that_goes_takes_its_warm_sandboxes_along() {
    let mut world = World::new(policy(2));
    let (goes, stays) = (with_layer(0), with_layer(1));
    world.lease(&goes, limits(512));
    world.lease(&stays, limits(512));
    world.settle(PATIENCE);
    let before = world.warm_now();
    assert!(before >= 4, "{before}");
    world.forget(layer(0));
    let of = |world: &World, wanted: &SandboxKey| {
        let status = world.pool.status(world.now);
        let mut keys = status.keys.into_iter();
        keys.find(|key| key.key == *wanted).map(|key| key.warm)
    };
    assert_eq!(of(&world, &goes), None);
    assert!(of(&world, &stays) >= Some(2));
    let layers = [layer(0)].into();
    assert!(world.pool.holds(&layers), "they are not gone yet");
    world.settle(ms(20_000));
    assert!(!world.pool.holds(&layers), "the leased one does not count");
    assert_eq!(of(&world, &goes), None, "nothing is refilled");
    // Who asks again is served, and the key is as any other.
    world.lease(&goes, limits(512));
    world.settle(PATIENCE);
    assert!(of(&world, &goes) >= Some(2));
}

#[test]
fn a_refill_under_way_for_a_layer_that_goes_is_not_kept() {
    for wanted_again in [false, true] {
        let mut world = World::new(policy(1));
        let goes = with_layer(0);
        world.lease(&goes, limits(512));
        world.make_ends(0, true);
        world.release(0);
        world.pass(PATIENCE);
        assert_eq!(world.count(Stage::Making), 1, "the refill");
        world.forget(layer(0));
        if wanted_again {
            world.lease(&goes, limits(512));
        }
        world.make_ends(0, true);
        assert_eq!(world.handed.len(), 1 + usize::from(wanted_again));
        assert_eq!(world.warm_now(), 0);
        assert!(world.waiting.is_empty());
    }
}
