//! Containers that outlive their stream and their daemon.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use isol8_core::{
    failure::FailureKind,
    ids::{DaemonId, SandboxId},
    runtime::Runtime,
};
use isol8_engine::{Engine, meet::folder_of};

use crate::{
    bench::{Bench, spec},
    shared::lasting,
};

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn name(id: &SandboxId) -> String {
    format!("isol8-{id}")
}

fn kill(id: &SandboxId) {
    docker(&["kill", &name(id)]);
}

fn runs(id: &SandboxId) -> bool {
    let format = "--format={{.State.Running}}";
    docker(&["inspect", format, &name(id)]) == "true"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_outlives_its_stream() {
    let bench = Bench::ready().await;
    let later = bench.restarted();
    lasting::one_outlives_its_stream(&bench.engine, &later.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_not_taken_for_init() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    lasting::a_program_is_no_init(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_gone_is_not_found() {
    let bench = Bench::ready().await;
    let later = bench.restarted();
    let (one, other) = (&bench.engine, &later.engine);
    let run = &bench.place.runtime_dir;
    lasting::what_is_gone_is_not_found(one, other, &spec(), run, kill).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_daemon_is_not_found() {
    let bench = Bench::ready().await;
    let other = Bench::ready().await;
    let spec = lasting::lasting(&spec(), Runtime::Bash);
    let sandbox = bench.engine.create(&spec).await.unwrap();
    let adoption = lasting::adoption(&spec, &sandbox);
    drop(sandbox);
    let failure = other.engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(runs(&spec.id));
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_holds_is_late() {
    let bench = Bench::ready().await;
    lasting::what_lives_and_does_not_dial_is_late(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_of_a_container_comes_again() {
    let bench = Bench::with_images_of(&[Runtime::Python]).await;
    let later = bench.restarted();
    lasting::the_door_comes_again(&bench.engine, &later.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_daemon_ends_by_itself() {
    let mut bench = Bench::ready().await;
    bench.place.orphaned = Duration::from_millis(300);
    let brief = bench.restarted();
    lasting::an_orphan_ends_by_itself(&brief.engine, &spec(), runs).await;
    bench.nothing_is_left().await;
}

/// Nobody knows whether it is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_absent_does_not_say_that_it_is_gone() {
    let bench = Bench::ready().await;
    let spec = lasting::lasting(&spec(), Runtime::Bash);
    let sandbox = bench.engine.create(&spec).await.unwrap();
    let adoption = lasting::adoption(&spec, &sandbox);
    drop(sandbox);
    let absent = bench.with_engine_at(Path::new("/nowhere/docker.sock"));
    let failure = absent.engine.adopt(&adoption).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EngineUnreachable);
    let sandbox = bench.engine.adopt(&adoption).await.unwrap();
    // What else is in there is mounted as well.
    let folder = folder_of(&bench.place.runtime_dir, &spec.id);
    assert!(folder.join("passwd").exists() && !folder.join("sock").exists());
    drop(sandbox);
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_outlives_a_daemon_that_is_killed() {
    let test = "lasting::a_container_outlives_a_daemon_that_is_killed";
    if let Some((folder, daemon)) = lasting::part_to_play() {
        let bench = Bench::at(&folder, daemon.clone());
        return lasting::live_until_killed(&bench.engine, &daemon, &spec(), &folder).await;
    }
    // Its image is there from now on.
    drop(Bench::ready().await);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let daemon = DaemonId::random();
    let left = lasting::left_by_a_killed_daemon(test, &daemon, &spec(), folder.path()).await;
    assert!(runs(&left.spec.id), "it died too");
    let bench = Bench::at(folder.path(), daemon);
    assert_eq!(bench.own().await, std::slice::from_ref(&left.spec.id));
    lasting::the_next_daemon_has_it(&bench.engine, &left).await;
    bench.nothing_is_left().await;
}
