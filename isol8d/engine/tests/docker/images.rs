//! Base images, and the doctor.

use std::time::{Duration, Instant};

use isol8_core::{failure::FailureKind, runtime::Runtime};
use isol8_engine::{Engine, ProbeStatus, docker::DockerSettings};

use crate::bench::{Bench, settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_the_same_inputs_is_not_built_again() {
    let bench = Bench::ready().await;
    let lines = std::sync::Mutex::new(0);
    let count = |_: &str| *lines.lock().unwrap() += 1;
    let first = bench
        .engine
        .build_image(Runtime::Bash, false, &count)
        .await
        .unwrap();
    let began = Instant::now();
    *lines.lock().unwrap() = 0;
    let second = bench
        .engine
        .build_image(Runtime::Bash, false, &count)
        .await
        .unwrap();
    assert!(!second.built);
    assert_eq!(
        (first.image, *lines.lock().unwrap()),
        (second.image.clone(), 0)
    );
    assert!(began.elapsed() < Duration::from_secs(2));
    let images = bench.engine.images().await.unwrap();
    assert!(images.contains(&second.image), "{images:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_on_what_is_not_there_says_so() {
    let bench = Bench::with(
        DockerSettings {
            base_image: "isol8-test/none:none".into(),
            ca_bundle: Some("/nonexistent/bundle.pem".into()),
            ..settings()
        },
        |_| (),
    );
    let failure = bench
        .engine
        .build_image(Runtime::Bash, true, &|_| ())
        .await
        .unwrap_err();
    // An image of before shows the one, a first build the other.
    let kinds = [FailureKind::HostLacks, FailureKind::ImageMissing];
    assert!(kinds.contains(&failure.kind), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_that_stops_a_run() {
    let bench = Bench::ready().await;
    let probes = bench.engine.doctor().await;
    let bad: Vec<_> = probes
        .iter()
        .filter(|probe| probe.status == ProbeStatus::Failed)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let sandbox = probes.last().unwrap();
    assert_eq!(
        (sandbox.name.as_str(), sandbox.status),
        ("docker sandbox", ProbeStatus::Ok)
    );
    assert!(
        probes
            .iter()
            .all(|probe| (probe.status == ProbeStatus::Ok) == probe.fix.is_empty())
    );
    bench.nothing_is_left().await;
}
