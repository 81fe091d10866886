//! Making, giving up, crashing, destroying: and what is left.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use isol8_core::{failure::FailureKind, runtime::Runtime};
use isol8_engine::{CREATE_DEADLINE, Engine};
use isol8_proto::init::{exited::How, from_init};
use tokio::time::timeout;

use crate::{
    bench::{Bench, members, spec, unburied_launchers},
    program::{finish, next, once, start},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_nothing_is_left() {
    let bench = Bench::new();
    let spec = spec();
    let program = "echo hello $((6 * 7)); head -c 9000000 /dev/zero > /tmp/x; exit 3";
    let (ended, counters) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "hello 42\n");
    assert_eq!(ended.how, How::Code(3));
    assert!(counters.cpu > Duration::ZERO);
    assert!(counters.peak_memory_bytes > 9_000_000, "{counters:?}");
    assert!(counters.shmem_bytes >= 9_000_000, "{counters:?}");
    assert_eq!(counters.oom_kills, 0);
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
    let gone = bench.engine.counters(&spec.id).await.unwrap_err();
    assert_eq!(gone.kind, FailureKind::NotFound);
    let again = bench.engine.destroy(&spec.id).await;
    again.expect("a second time does nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_is_found_and_removed() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    start(&mut sandbox, Runtime::Bash, "sleep 600").await;
    // The stream stays open, so the sandbox lives on without its daemon.
    let next = bench.restarted();
    assert_eq!(next.own().await, std::slice::from_ref(&spec.id));
    assert!(!members(spec.id.as_str()).is_empty());
    next.engine.destroy(&spec.id).await.unwrap();
    assert!(members(spec.id.as_str()).is_empty());
    assert_eq!(next.own().await, []);
    drop(sandbox);
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_ends_with_its_stream() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let program = "trap '' TERM HUP INT; setsid sleep 600 & while :; do sleep 1; done";
    start(&mut sandbox, Runtime::Bash, program).await;
    assert!(matches!(
        next(&mut sandbox).await,
        from_init::Message::Started(_)
    ));
    drop(sandbox);
    let before = Instant::now();
    while !members(spec.id.as_str()).is_empty() {
        assert!(before.elapsed() < Duration::from_secs(2), "it lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    assert!(counters.cpu > Duration::ZERO, "the figures outlive it");
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_given_up_at_any_point_leaves_nothing() {
    let bench = Bench::new();
    for step in 0..40_u64 {
        let spec = spec();
        let patience = Duration::from_micros(step * 250);
        drop(timeout(patience, bench.engine.create(&spec)).await);
        bench.engine.destroy(&spec.id).await.unwrap();
    }
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_cannot_be_made_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    // bubblewrap comes up, and there is nothing to run.
    fs::remove_file(bench.place.kit.join("init")).unwrap();
    fs::write(
        bench.place.kit.join("init"),
        "#!/bin/sh\necho no such luck >&2\nexit 7\n",
    )
    .unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(bench.place.kit.join("init"), mode).unwrap();
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::HostLacks);
    assert_eq!(
        failure.causes,
        ["no such luck", "the launcher ended with exit status: 7"]
    );
    assert!(failure.hint.is_some());
    bench.nothing_is_left().await;
    fs::remove_file(bench.place.kit.join("init")).unwrap();
    assert!(!bench.engine.health().await.healthy, "there is no init");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_one_sandbox() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);
    start(&mut sandbox, Runtime::Bash, "echo unharmed").await;
    assert_eq!(finish(&mut sandbox).await.stdout, "unharmed\n");
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_meet() {
    let bench = std::sync::Arc::new(Bench::new());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let bench = std::sync::Arc::clone(&bench);
        tasks.spawn(async move {
            let program = format!("echo {number} > /sandbox/x; sleep 0.05; cat /sandbox/x");
            let (ended, _) = once(&bench, &spec(), &program).await;
            assert_eq!(ended.stdout, format!("{number}\n"));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_is_made_in_milliseconds() {
    let bench = Bench::new();
    let (mut creates, mut destroys) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let spec = spec();
        let before = Instant::now();
        let mut sandbox = bench.engine.create(&spec).await.unwrap();
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Hello(_)
        ));
        creates.push(before.elapsed());
        let before = Instant::now();
        bench.engine.destroy(&spec.id).await.unwrap();
        destroys.push(before.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (create, destroy) = (median(&mut creates), median(&mut destroys));
    eprintln!("create {create:?}, destroy {destroy:?} (medians of 40)");
    // Far above what an idle machine takes, far below what people notice.
    assert!(create < Duration::from_millis(250), "{create:?}");
    assert!(destroy < Duration::from_millis(250), "{destroy:?}");
    assert!(CREATE_DEADLINE > Duration::from_secs(12));
    bench.nothing_is_left().await;
}
