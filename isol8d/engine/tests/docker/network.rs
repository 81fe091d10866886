//! The filtered network and installed packages, as on every engine.

use isol8_core::{failure::FailureKind, layer::LayerId, runtime::Runtime};
use isol8_engine::Engine;

use crate::{
    bench::{Bench, spec},
    shared::{door, layer},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_door_leads_outside() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    door::leads_outside(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_is_nobody_elses() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    door::is_nobody_elses(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_goes_with_the_sandbox() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    door::goes_with_the_sandbox(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_missing_is_named() {
    let bench = Bench::ready().await;
    layer::one_that_is_missing_is_named(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_the_system_are_no_layer_here() {
    let bench = Bench::ready().await;
    let (id, _): (LayerId, _) = layer::make(&bench.place, 5, &[("usr/bin/x", "x")]);
    let mut spec = spec();
    spec.key.layer = Some(id);
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_imports_from_a_layer() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    layer::python_imports_from_one(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_be_changed() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    layer::one_cannot_be_changed(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_loads_from_a_layer() {
    let bench = Bench::with_images_of(&[Runtime::Node]).await;
    layer::node_loads_from_one(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}
