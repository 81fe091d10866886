//! Custom images: what is in them, when they are built, and what they leave.

use std::{
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use isol8_core::{
    failure::FailureKind,
    package::Package,
    runtime::Runtime,
    sandbox::{ImageName, Network, SandboxSpec},
};
use isol8_engine::{CustomOrder, Engine, Fit, docker::alias};
use tokio::time::timeout;

use crate::{
    bench::{Bench, once, spec},
    shared::Ready,
};

/// A download on a slow day.
const DOWNLOAD: Duration = Duration::from_secs(240);

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn order(runtime: Runtime, packages: &[&str]) -> CustomOrder {
    CustomOrder {
        runtime,
        packages: Package::parse_all(runtime, packages).unwrap(),
        alias: None,
        force: false,
    }
}

/// A sandbox of this image, without a network.
fn inside(runtime: Runtime, image: &str) -> SandboxSpec {
    let mut spec = spec();
    spec.key.runtime = runtime;
    spec.key.image = Some(ImageName::parse(image).unwrap());
    spec.key.network = Network::None;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_built_once_and_found_by_what_is_in_it() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    let lines = AtomicUsize::new(0);
    let count = |_: &str| {
        lines.fetch_add(1, Ordering::Relaxed);
    };
    // No other test asks for this pair, so that it can be removed at the end.
    let mut order = order(Runtime::Python, &["toolz", "six==1.16.0"]);
    let found = |packages: &'static [&str], fit| {
        let packages = Package::parse_all(Runtime::Python, packages).unwrap();
        let engine = bench.engine.clone();
        async move {
            let found = engine.find_custom(Runtime::Python, &packages, fit).await;
            found.unwrap().map(|name| name.as_str().to_owned())
        }
    };
    assert_eq!(found(&["toolz", "six==1.16.0"], Fit::Exactly).await, None);
    let build = || timeout(DOWNLOAD, bench.engine.build_custom(&order, &count));
    let (first, second) = tokio::join!(build(), build());
    let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
    assert!(first.built != second.built, "two at once build once");
    assert_eq!(first.image, second.image);
    let tag = first.image.tag.as_str();

    lines.store(0, Ordering::Relaxed);
    let began = Instant::now();
    assert!(!build().await.unwrap().unwrap().built);
    assert_eq!(lines.load(Ordering::Relaxed), 0, "there is nothing to do");
    assert!(began.elapsed() < Duration::from_secs(1));

    let here = Some(tag.to_owned());
    assert_eq!(found(&["six==1.16.0", "toolz"], Fit::Exactly).await, here);
    assert_eq!(found(&["toolz"], Fit::Exactly).await, None);
    assert_eq!(found(&["toolz"], Fit::AtLeast).await, here);
    assert_eq!(found(&["toolz", "six==1.15.0"], Fit::AtLeast).await, None);

    let label = "{{index .Config.Labels \"isol8.custom\"}}";
    let label = docker(&["inspect", "-f", label, tag]);
    assert_eq!(label, "[\"six==1.16.0\",\"toolz\"]\n");
    let images = bench.engine.images().await.unwrap();
    assert!(images.contains(&first.image), "{images:?}");

    // The alias is the same image, and parks as it does.
    let other = format!("isol8-test:{}", bench.place.daemon);
    order.alias = Some(alias(&other).unwrap());
    let aliased = bench.engine.build_custom(&order, &count).await.unwrap();
    assert!(!aliased.built);
    for name in [tag, &other] {
        let sandbox = bench.engine.create(&inside(Runtime::Python, name)).await;
        let sandbox = sandbox.unwrap();
        assert!(sandbox.interpreter.parkable, "{name}");
        bench.engine.destroy(&sandbox.id).await.unwrap();
        let program = "import six, toolz; print(six.__version__)";
        let (ended, _) = once(&bench, &inside(Runtime::Python, name), program).await;
        assert_eq!(ended.stdout, "1.16.0\n", "{ended:?}");
    }
    docker(&["rmi", &other, tag]);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runtime_finds_its_packages() {
    let all = [
        (
            Runtime::Node,
            "left-pad@1.3.0",
            "mjs",
            "import p from 'left-pad'; import { createRequire } from 'node:module';\n\
             console.log(p('x', 3) + createRequire(import.meta.url)('left-pad')('y', 3))",
            "  x  y\n",
        ),
        (
            Runtime::Bun,
            "left-pad@1.3.0",
            "ts",
            "import p from 'left-pad'; console.log(p('x', 3) + require('left-pad')('y', 3))",
            "  x  y\n",
        ),
        (
            Runtime::Deno,
            "npm:left-pad@1.3.0",
            "mts",
            "import p from 'npm:left-pad@1.3.0'; console.log(p('x', 3))",
            "  x\n",
        ),
        (
            Runtime::Bash,
            "tree",
            "sh",
            "[[ $(tree --version) == tree* ]] && echo found",
            "found\n",
        ),
    ];
    let bench = Bench::with_images_of(&all.map(|(runtime, ..)| runtime)).await;
    for (runtime, package, extension, program, expected) in all {
        let order = order(runtime, &[package]);
        let built = timeout(DOWNLOAD, bench.engine.build_custom(&order, &|_| ()));
        let built = built.await.unwrap().unwrap();
        let spec = inside(runtime, &built.image.tag);
        let sandbox = bench.engine.create(&spec).await.unwrap();
        let mut ready = Ready::of(sandbox, &spec.key, true).await;
        ready.start(extension, program).await;
        assert_eq!(ready.output().await, expected, "{runtime}");
        drop(ready);
        bench.engine.destroy(&spec.id).await.unwrap();
        docker(&["rmi", &built.image.tag]);
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_there_leaves_nothing() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    let own = format!("isol8-{}", bench.place.daemon);
    let order = order(Runtime::Python, &[&own]);
    let told = Mutex::new(String::new());
    let note = |line: &str| {
        if line.starts_with("installing ") {
            line.clone_into(&mut told.lock().unwrap());
        }
    };
    let built = bench.engine.build_custom(&order, &note);
    let failure = timeout(DOWNLOAD, built).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::ImageBuild);
    assert!(failure.message.contains(&own), "{failure}");
    assert!(
        failure.causes[0].contains("No matching distribution"),
        "{failure:?}"
    );
    let told = told.into_inner().unwrap();
    let (_, digits) = told.rsplit_once("-custom-").unwrap();
    for list in [&["images", "-aq"][..], &["ps", "-aq"]] {
        let all = docker(&[list, &["--filter", "label=isol8.build"]].concat());
        for id in all.split_whitespace() {
            // Of another test it may be gone by now.
            let label = "{{index .Config.Labels \"isol8.inputs\"}}";
            let shown = Command::new("docker")
                .args(["inspect", "-f", label, id])
                .output();
            let shown = shown.unwrap().stdout;
            assert!(!shown.starts_with(digits.as_bytes()), "{id} is left");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_takes_no_name_from_another_image() {
    let bench = Bench::ready().await;
    let other = format!("isol8-test:{}-other", bench.place.daemon);
    docker(&["tag", "isol8:bash", &other]);
    for name in [other.as_str(), isol8_engine::docker::DEFAULT_BASE_IMAGE] {
        let order = CustomOrder {
            alias: Some(alias(name).unwrap()),
            ..order(Runtime::Bash, &["tree"])
        };
        let failure = bench
            .engine
            .build_custom(&order, &|_| ())
            .await
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure}");
    }
    docker(&["rmi", &other]);
}
