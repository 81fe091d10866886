//! Images with packages of their own system.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use isol8_core::{
    failure::FailureKind,
    package::Package,
    runtime::Runtime,
    sandbox::{ImageName, Network, SandboxSpec},
};
use isol8_engine::Engine;
use tokio::{sync::Notify, time::timeout};

use crate::bench::{Bench, once, spec};

/// A download on a slow day.
const DOWNLOAD: Duration = Duration::from_secs(240);

fn filtered() -> SandboxSpec {
    let mut spec = spec();
    spec.key.network = Network::Filtered;
    spec
}

fn packages(names: &[&str]) -> Vec<Package> {
    Package::parse_all(Runtime::Bash, names).unwrap()
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What carries the label of builds of these packages: containers, and images of
/// every step.
fn made_for(names: &[Package]) -> (String, String) {
    let names: Vec<&str> = names.iter().map(Package::as_str).collect();
    let filter = format!("label=isol8.packages={}", names.join(" "));
    let containers = docker(&["ps", "-aq", "--filter", &filter]);
    (containers, docker(&["images", "-aq", "--filter", &filter]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_once_and_runs() {
    let bench = Bench::ready().await;
    let spec = filtered();
    // No other test asks for this pair, so that it can be removed at the end.
    let names = packages(&["bc", "jq"]);
    let lines = AtomicUsize::new(0);
    let count = |_: &str| {
        lines.fetch_add(1, Ordering::Relaxed);
    };
    let derive = || {
        bench
            .engine
            .derive_image(&spec.key, &names, &spec.limits, &count)
    };
    let (first, second) = tokio::join!(timeout(DOWNLOAD, derive()), timeout(DOWNLOAD, derive()));
    let image: ImageName = first.unwrap().unwrap();
    assert_eq!(second.unwrap().unwrap(), image, "two at once build once");

    lines.store(0, Ordering::Relaxed);
    assert_eq!(derive().await.unwrap(), image);
    assert_eq!(lines.load(Ordering::Relaxed), 0, "it is found");

    let show = |format: &str| docker(&["inspect", "-f", format, image.as_str()]);
    let of_base = |format: &str| docker(&["inspect", "-f", format, "isol8:bash"]);
    for format in [
        "{{.Config.User}}",
        "{{.Config.Cmd}}",
        "{{.Config.WorkingDir}}",
    ] {
        assert_eq!(show(format), of_base(format));
    }
    assert_eq!(
        show("{{index .Config.Labels \"isol8.packages\"}}"),
        "bc jq\n"
    );
    let tags = bench.engine.images().await.unwrap();
    assert!(tags.iter().any(|found| found.tag == image.as_str()));

    let mut key = spec.key.clone();
    key.image = Some(image);
    key.network = Network::None;
    let spec = SandboxSpec { key, ..spec };
    let program = "echo '{\"a\": 1}' | jq .a; ls / | grep isol8-install; ls /var/lib/apt/lists";
    let (ended, _) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "1\n");
    docker(&["rmi", spec.key.image.as_ref().unwrap().as_str()]);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_there_leaves_nothing() {
    let bench = Bench::ready().await;
    let spec = filtered();
    let own = format!("isol8-{}", bench.place.daemon);
    // Read as a pattern the second would be hundreds of packages.
    let names = packages(&[&own, "p.thon3"]);
    let derived = bench
        .engine
        .derive_image(&spec.key, &names, &spec.limits, &|_| ());
    let failure = timeout(DOWNLOAD, derived).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    let message = format!("cannot install `{own}`, `p.thon3`");
    assert_eq!(failure.message, message);
    let said = &failure.causes[0];
    for name in [&own, "p.thon3"] {
        let line = format!("\nE: Unable to locate package {name}");
        assert!(said.contains(&line), "{said}");
    }
    assert_eq!(made_for(&names), (String::new(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_nobody_waits_for_ends() {
    let bench = Bench::ready().await;
    let spec = filtered();
    let own = format!("isol8-{}", bench.place.daemon);
    let names = packages(&[&own]);
    let in_step = Notify::new();
    let progress = |line: &str| {
        if line.starts_with("Get:") || line.starts_with("Err:") {
            in_step.notify_one();
        }
    };
    let derived = bench
        .engine
        .derive_image(&spec.key, &names, &spec.limits, &progress);
    let begun = timeout(DOWNLOAD, in_step.notified());
    tokio::select! {
        done = derived => panic!("{done:?} before it was dropped"),
        begun = begun => {
            begun.unwrap();
            let (containers, _) = made_for(&names);
            let limits = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.CPUQuota}}";
            let limits = docker(&["inspect", "-f", limits, containers.trim()]);
            let memory = spec.limits.memory.as_bytes();
            assert_eq!(limits, format!("{memory} {memory} 100000\n"));
        }
    }
    let gone = async {
        while made_for(&names) != (String::new(), String::new()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), gone)
        .await
        .expect("the build is stopped and its steps are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_of_a_build_goes_at_its_next_start() {
    let bench = Bench::ready().await;
    let mark = |build: u8| format!("isol8.build={}-{build}", bench.place.daemon);
    // An image of a step, and a container on it, as a builder makes them.
    let leave = |labels: &[&str]| {
        let from = docker(&["create", "isol8:bash", "true"]);
        let changes: Vec<String> = labels
            .iter()
            .map(|label| format!("LABEL {label}"))
            .collect();
        let changes = changes.iter().flat_map(|change| ["-c", change.as_str()]);
        let commit: Vec<&str> = ["commit"].into_iter().chain(changes).collect();
        let image = docker(&[&commit[..], &[from.trim()]].concat());
        docker(&["rm", from.trim()]);
        let container = docker(&["create", image.trim(), "true"]);
        (image.trim().to_owned(), container.trim().to_owned())
    };
    let (abandoned, whole) = (mark(1), mark(2));
    leave(&[&abandoned]);
    let (image, container) = leave(&[&whole, "isol8.whole=1"]);
    let left = |mark: &str| {
        let filter = format!("label={mark}");
        let containers = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let images = docker(&["images", "-aq", "--no-trunc", "--filter", &filter]);
        (containers.trim().to_owned(), images.trim().to_owned())
    };
    bench.engine.list().await.unwrap();
    let gone = async {
        while left(&abandoned) != (String::new(), String::new()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), gone)
        .await
        .expect("the steps are removed");
    assert_eq!(
        left(&whole),
        (container.clone(), image.clone()),
        "somebody's"
    );
    docker(&["rm", &container]);
    docker(&["rmi", &image]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_nothing_is_fetched() {
    let bench = Bench::ready().await;
    let mut spec = filtered();
    spec.key.network = Network::None;
    let names = packages(&["jq", &format!("isol8-{}", bench.place.daemon)]);
    let derived = bench
        .engine
        .derive_image(&spec.key, &names, &spec.limits, &|_| ());
    let failure = timeout(DOWNLOAD, derived).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    let said = &failure.causes[0];
    assert!(said.contains("\nE: Unable to locate package jq"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_image_keeps_its_user_and_its_own_manager_is_used() {
    let bench = Bench::ready().await;
    let tag = format!("isol8-test:{}", bench.place.daemon);
    // A manager that installs by writing its arguments down.
    let dockerfile = "FROM isol8:bash\n\
        LABEL isol8.managed=\"\" isol8.runtime=\"\"\n\
        USER 0\n\
        RUN rm /usr/bin/apt-get && mkdir -p /opt/own && ln -s /bin/bash /opt/own/bash && \
        printf '#!/bin/sh\\nprintf \"%%s,\" \"$@\" > /installed\\n' > /usr/local/bin/apk && \
        chmod 755 /usr/local/bin/apk\n\
        ENV PATH=/opt/own:/usr/bin:/bin:/usr/local/bin\n\
        USER nobody\n\
        CMD [\"own\"]\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    docker(&["build", "-q", "-t", &tag, folder.path().to_str().unwrap()]);

    let mut spec = filtered();
    spec.key.image = Some(ImageName::parse(&tag).unwrap());
    let names = packages(&["jq=1.8-r0", "file"]);
    let derived = bench
        .engine
        .derive_image(&spec.key, &names, &spec.limits, &|_| ());
    let image = timeout(DOWNLOAD, derived).await.unwrap().unwrap();
    let show = |format: &str| docker(&["inspect", "-f", format, image.as_str()]);
    assert_eq!(show("{{.Config.User}} {{.Config.Cmd}}"), "nobody [own]\n");

    spec.key.image = Some(image.clone());
    spec.key.network = Network::None;
    let program = "cat /installed; echo; [[ $BASH = /opt/own/bash ]] && echo own";
    let (ended, _) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "add,--no-cache,--,file,jq=1.8-r0,\nown\n");
    docker(&["rmi", image.as_str(), &tag]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_manager_says_so() {
    let bench = Bench::ready().await;
    let tag = format!("isol8-test:{}-bare", bench.place.daemon);
    let folder = tempfile::tempdir().unwrap();
    let dockerfile = "FROM isol8:bash\nUSER 0\nRUN rm /usr/bin/apt-get\n";
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    docker(&["build", "-q", "-t", &tag, folder.path().to_str().unwrap()]);
    let mut spec = filtered();
    spec.key.image = Some(ImageName::parse(&tag).unwrap());
    let names = packages(&["jq"]);
    let derived = bench
        .engine
        .derive_image(&spec.key, &names, &spec.limits, &|_| ());
    let failure = timeout(DOWNLOAD, derived).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    assert!(failure.causes[0].contains("neither apt-get nor apk"));
    docker(&["rmi", &tag]);
}
