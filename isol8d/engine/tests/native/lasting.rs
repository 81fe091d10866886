//! Jails that outlive their stream and their daemon.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use isol8_core::{
    ids::{DaemonId, SandboxId},
    runtime::Runtime,
};
use isol8_engine::{Engine, meet, native::NativeEngine};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bench::{Bench, init_binary, members, place_in, spec},
    shared::lasting,
};

fn kill(id: &SandboxId) {
    for pid in members(id.as_str()) {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // The others die with init.
        kill_process(pid, Signal::KILL).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_outlives_its_stream() {
    let bench = Bench::new();
    let later = bench.restarted();
    lasting::one_outlives_its_stream(&bench.engine, &later.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_outlives_its_engine_whole() {
    let bench = Bench::new();
    let spec = lasting::lasting(&spec(), Runtime::Bash);
    let sandbox = bench.engine.create(&spec).await.unwrap();
    let adoption = lasting::adoption(&spec, &sandbox);
    let folder = meet::folder_of(&bench.place.runtime_dir, &spec.id);
    let inode = fs::metadata(&folder).unwrap().ino();
    drop(sandbox);
    // As after a clock that was set: older than the host's start.
    let opened = fs::File::open(&folder).unwrap();
    opened.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    meet::sweep(&bench.place.runtime_dir);
    let Bench {
        engine,
        place,
        _folder,
    } = bench;
    drop(engine);
    let engine = NativeEngine::new(place.clone()).unwrap();
    let next = Bench {
        engine,
        place,
        _folder,
    };
    let sandbox = next.engine.adopt(&adoption).await.unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().ino(), inode);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a socket stays");
    drop(sandbox);
    next.engine.destroy(&spec.id).await.unwrap();
    next.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_not_taken_for_init() {
    let bench = Bench::new();
    lasting::a_program_is_no_init(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_is_gone_is_not_found() {
    let bench = Bench::new();
    let later = bench.restarted();
    let (one, other) = (&bench.engine, &later.engine);
    let run = &bench.place.runtime_dir;
    lasting::what_is_gone_is_not_found(one, other, &spec(), run, kill).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_somebody_holds_is_late() {
    let bench = Bench::new();
    lasting::what_lives_and_does_not_dial_is_late(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_of_a_jail_comes_again() {
    let bench = Bench::new();
    let later = bench.restarted();
    lasting::the_door_comes_again(&bench.engine, &later.engine, &spec()).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_without_a_daemon_ends_by_itself() {
    let mut bench = Bench::new();
    bench.place.orphaned = Duration::from_millis(300);
    let brief = bench.restarted();
    let is_there = |id: &SandboxId| !members(id.as_str()).is_empty();
    lasting::an_orphan_ends_by_itself(&brief.engine, &spec(), is_there).await;
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_outlives_a_daemon_that_is_killed() {
    let test = "lasting::a_jail_outlives_a_daemon_that_is_killed";
    if let Some((folder, daemon)) = lasting::part_to_play() {
        let mut place = place_in(&folder);
        fs::copy(init_binary(), place.kit.join("init")).unwrap();
        place.daemon = daemon.clone();
        let engine = NativeEngine::new(place).unwrap();
        return lasting::live_until_killed(&engine, &daemon, &spec(), &folder).await;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let daemon = DaemonId::random();
    let left = lasting::left_by_a_killed_daemon(test, &daemon, &spec(), folder.path()).await;
    assert!(!members(left.spec.id.as_str()).is_empty(), "it died too");
    let bench = Bench::in_place_of(folder, daemon);
    assert_eq!(bench.own().await, std::slice::from_ref(&left.spec.id));
    lasting::the_next_daemon_has_it(&bench.engine, &left).await;
    bench.nothing_is_left().await;
}
