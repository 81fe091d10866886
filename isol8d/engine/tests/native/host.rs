//! What this host has, and what the engine says about it.

use isol8_core::{failure::FailureKind, quantity::ByteSize, runtime::Runtime, sandbox::ImageName};
use isol8_engine::{Engine, ProbeStatus};

use crate::{
    bench::{Bench, spec},
    program::once,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_interpreter_of_this_host_runs_in_a_jail() {
    let bench = Bench::new();
    let mut ran = Vec::new();
    for runtime in Runtime::ALL {
        let mut spec = spec();
        spec.key.runtime = runtime;
        spec.limits.memory = ByteSize::mib(512);
        let program = match runtime {
            Runtime::Python => "import sys, ssl, json; print(6 * 7)",
            Runtime::Bash => "echo $((6 * 7))",
            _ => "console.log(6 * 7)",
        };
        let key = spec.key.clone();
        match bench.engine.prepare(&key, &|_| ()).await {
            Ok(()) => {}
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::InterpreterMissing, "{failure}");
                assert!(failure.hint.is_some());
                continue;
            }
        }
        let (ended, _) = once(&bench, &spec, program).await;
        assert_eq!(ended.stdout, "42\n", "{runtime}");
        ran.push(runtime);
    }
    eprintln!("ran {ran:?}");
    assert!(ran.contains(&Runtime::Bash) && ran.contains(&Runtime::Python));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_do_is_refused() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.image = Some(ImageName::parse("python:3").unwrap());
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    let built = bench.engine.build_image(Runtime::Python, false, &|_| ());
    assert_eq!(built.await.unwrap_err().kind, FailureKind::Unsupported);
    assert_eq!(bench.engine.images().await.unwrap(), []);
    assert_eq!(bench.own().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_this_host_well() {
    let bench = Bench::new();
    let health = bench.engine.health().await;
    assert!(health.healthy, "{}", health.detail);
    let probes = bench.engine.doctor().await;
    for probe in &probes {
        eprintln!(
            "{:?} {}: {} {}",
            probe.status, probe.name, probe.found, probe.fix
        );
        assert_ne!(probe.status, ProbeStatus::Failed, "{probe:?}");
        assert_eq!(
            probe.fix.is_empty(),
            probe.status == ProbeStatus::Ok,
            "{probe:?}"
        );
    }
    let names: Vec<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(
        names.join(", "),
        "bubblewrap, user namespaces, seccomp filter, cgroups, \
         python, node, bun, deno, bash, jail, writable root"
    );
    bench.nothing_is_left().await;
}
