//! The filtered network and installed packages, as on every engine; and packages
//! of the system, which are the host's own folders here.

use isol8_core::{ids::SandboxId, runtime::Runtime};
use isol8_engine::Engine;

use crate::{
    bench::{Bench, spec},
    shared::{Ready, door, layer},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_door_leads_outside() {
    let bench = Bench::new();
    door::leads_outside(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_is_nobody_elses() {
    let bench = Bench::with_hooks();
    door::is_nobody_elses(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_goes_with_the_sandbox() {
    let bench = Bench::new();
    door::goes_with_the_sandbox(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_missing_is_named() {
    let bench = Bench::new();
    layer::one_that_is_missing_is_named(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_imports_from_a_layer() {
    let bench = Bench::with_hooks();
    layer::python_imports_from_one(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_be_changed() {
    let bench = Bench::with_hooks();
    layer::one_cannot_be_changed(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_loads_from_a_layer() {
    let bench = Bench::with_hooks();
    layer::node_loads_from_one(&bench.engine, &bench.place, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_the_system_lie_over_the_hosts() {
    let bench = Bench::new();
    let script = "#!/bin/sh\necho from the layer\n";
    let (id, tree) = layer::make(
        &bench.place,
        4,
        &[
            ("usr/bin/isol8-test-tool", script),
            ("usr/share/isol8-test/x", "data\n"),
        ],
    );
    layer::make_executable(&tree.join("usr/bin/isol8-test-tool"));
    let program = r#"
        isol8-test-tool; cat /usr/share/isol8-test/x; ls /usr/bin/env /usr/share/isol8-test/x
        : 2>/dev/null >> /usr/bin/isol8-test-tool && echo "wrote to the layer"
        : 2>/dev/null > /usr/share/isol8-test/y && echo "made a file"
        rm -f /usr/bin/env 2>/dev/null && echo "removed a file of the host"
        grep ' /usr ' /proc/self/mountinfo | grep -c nosuid
    "#;
    for writable in [false, true] {
        let mut spec = spec();
        spec.id = SandboxId::random();
        spec.key.runtime = Runtime::Bash;
        spec.key.layer = Some(id.clone());
        spec.key.writable = writable;
        let sandbox = bench.engine.create(&spec).await.unwrap();
        let mut ready = Ready::of(sandbox, &spec.key, false).await;
        assert_eq!(
            ready.run(program).await,
            "from the layer\ndata\n/usr/bin/env\n/usr/share/isol8-test/x\n1\n",
            "writable: {writable}"
        );
        bench.engine.destroy(&spec.id).await.unwrap();
    }
    bench.nothing_is_left().await;
}
