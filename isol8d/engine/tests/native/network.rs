//! The filtered network and installed packages, as on every engine; and packages
//! of the system, which are the host's own folders here.

use std::{fs, path::Path};

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
    let bench = Bench::new();
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
    let bench = Bench::new();
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
    system_packages(&bench).await;
    bench.nothing_is_left().await;
}

pub(crate) async fn system_packages(bench: &Bench) {
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
    let read = r#"
        isol8-test-tool; cat /usr/share/isol8-test/x; ls /usr/bin/env /usr/share/isol8-test/x
        grep ' /usr ' /proc/self/mountinfo | grep -c nosuid
    "#;
    let change = r#"
        : 2>/dev/null >> /usr/bin/isol8-test-tool && echo "wrote to the layer"
        : 2>/dev/null > /usr/share/isol8-test/y && echo "made a file"
        rm -f /usr/bin/env 2>/dev/null && echo "removed a file of the host"
        true
    "#;
    let program = [read, change].concat();
    for writable in [false, true] {
        let mut spec = spec();
        spec.id = SandboxId::random();
        spec.key.runtime = Runtime::Bash;
        spec.key.layer = Some(id.clone());
        spec.key.writable = writable;
        let sandbox = bench.engine.create(&spec).await.unwrap();
        let mut ready = Ready::of(sandbox, &spec.key, false).await;
        let said = ready.run(&program).await;
        let expected = "from the layer\ndata\n/usr/bin/env\n/usr/share/isol8-test/x\n1\n";
        assert!(said.starts_with(expected), "{said}");
        // What a writable jail changes is its own copy.
        assert!(writable || said == expected, "{said}");
        let tool = fs::read_to_string(tree.join("usr/bin/isol8-test-tool")).unwrap();
        assert_eq!(tool, script);
        assert!(!tree.join("usr/share/isol8-test/y").exists());
        assert!(Path::new("/usr/bin/env").exists());
        bench.engine.destroy(&spec.id).await.unwrap();
    }
}
