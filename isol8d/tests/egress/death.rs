//! Who dies, and what becomes of the others.

use std::{os::unix::fs::symlink, time::Duration};

use isol8_core::egress::record::Action;
use isol8d::egress::EgressSettings;
use rustix::process::Signal;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout},
};

use crate::rig::{
    Door, Origin, PATIENCE, ask, assert_blocked, assert_passed, is_alive, only, program, read_all,
    settings, signal, start, wait_for,
};

#[tokio::test]
async fn another_process_takes_over_with_the_same_policies() {
    let (egress, origin) = (start(settings()), Origin::start().await);
    let (one, two) = (Door::new(), Door::new());
    let url = origin.url("localhost", "/");
    let first = one
        .open(&egress, &only("other", origin.port))
        .await
        .unwrap();
    first.set(&only("localhost", origin.port)).await.unwrap();
    let second = two
        .open(&egress, &only("other", origin.port))
        .await
        .unwrap();
    assert_passed(&one.get(&url).await);
    let dead = egress.pid().expect("it runs");
    signal(dead, Signal::KILL);
    // These wait in the backlog until there is another process.
    assert_passed(&one.get(&url).await);
    assert_blocked(&two.get(&url).await);
    let status = egress.status();
    assert_eq!(
        (status.running, status.sandboxes, status.restarts),
        (true, 2, 1)
    );
    assert_ne!(egress.pid(), Some(dead));
    assert!(!is_alive(dead), "it was reaped");

    let third = Door::new();
    let later = third
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    assert_passed(&third.get(&url).await);
    let (first, second, later) = (
        first.close().await,
        second.close().await,
        later.close().await,
    );
    assert!(first.lost && second.lost, "they lived through a death");
    // What was told in the moment of death may be missing, what came after not.
    assert!(matches!(first.records.len(), 1 | 2), "{first:?}");
    assert_eq!(second.records.len(), 1);
    assert!(first.bytes_in > 0);
    assert!(!later.lost, "it began after it");
    egress.shutdown().await;
}

#[tokio::test]
async fn while_there_is_no_process_nothing_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("isol8d");
    symlink(program(), &path).unwrap();
    let settings = EgressSettings {
        program: path.clone(),
        ..settings()
    };
    let (egress, origin, door) = (start(settings), Origin::start().await, Door::new());
    let url = origin.url("localhost", "/");
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    let mut half = door.dial().await;
    ask(&mut half, &origin.url("localhost", "/slow")).await;
    let mut byte = [0];
    timeout(PATIENCE, half.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();

    std::fs::remove_file(&path).unwrap();
    signal(egress.pid().expect("it runs"), Signal::KILL);
    let rest = read_all(&mut half).await;
    assert!(!rest.ends_with("origin"), "it was cut off: {rest}");
    wait_for("it is gone", || egress.pid().is_none()).await;
    door.assert_nobody_accepts().await;
    // New sandboxes are told so.
    let other = Door::new();
    let failure = other
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap_err();
    assert_eq!(failure.kind.name(), "egress_unavailable", "{failure}");
    door.assert_nobody_accepts().await;

    symlink(program(), &path).unwrap();
    assert_passed(&door.get(&url).await);
    assert!(traffic.close().await.lost);
    egress.shutdown().await;
}

#[tokio::test]
async fn a_process_that_hangs_holds_up_no_close() {
    let (egress, door) = (start(settings()), Door::new());
    let traffic = door.open(&egress, &only("x", 80)).await.unwrap();
    let pid = egress.pid().expect("it runs");
    signal(pid, Signal::STOP);
    let began = Instant::now();
    let report = traffic.close().await;
    assert!(report.lost);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    wait_for("it is replaced or gone", || !is_alive(pid)).await;
    door.assert_nobody_accepts().await;
    egress.shutdown().await;
}

#[tokio::test]
async fn it_dies_again_and_again_and_comes_back() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    let url = origin.url("localhost", "/");
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    for restarts in 1..=4 {
        signal(egress.pid().expect("it runs"), Signal::KILL);
        assert_passed(&door.get(&url).await);
        assert_eq!(egress.status().restarts, restarts);
    }
    // Set while there is none: the next one begins with it.
    signal(egress.pid().expect("it runs"), Signal::KILL);
    traffic.set(&only("other", origin.port)).await.unwrap();
    assert_blocked(&door.get(&url).await);
    let report = traffic.close().await;
    assert!(report.lost);
    let last = report.records.last().expect("the last one was told");
    assert_eq!(last.action, Action::Block);
    egress.shutdown().await;
}
