//! From open to close.

use isol8_core::{egress::record::Action, failure::FailureKind, ids::SandboxId};

use tokio::{io::AsyncReadExt, time::timeout};

use crate::rig::{
    Door, Origin, PATIENCE, ask, assert_blocked, assert_passed, is_alive, only, read_all, settings,
    start, wait_for,
};

#[tokio::test]
async fn what_the_filter_permits_passes_and_everything_is_told() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    assert!(!egress.status().running, "nobody needs it yet");
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    assert_passed(&door.get(&origin.url("localhost", "/a?b")).await);
    assert_blocked(&door.get(&origin.url("127.0.0.1", "/")).await);
    let status = egress.status();
    assert_eq!(
        (status.running, status.sandboxes, status.restarts),
        (true, 1, 0)
    );

    let report = traffic.close().await;
    assert!(!report.lost);
    let told: Vec<_> = report
        .records
        .iter()
        .map(|record| (record.host.as_str(), record.path.as_deref(), record.action))
        .collect();
    let expected = [
        ("localhost", Some("/a?b"), Action::Allow),
        ("127.0.0.1", Some("/"), Action::Block),
    ];
    assert_eq!(told, expected);
    let sum: u64 = report.records.iter().map(|record| record.bytes_in).sum();
    assert_eq!(report.bytes_in, sum, "{report:?}");
    assert!(report.bytes_in > 0 && report.bytes_out > 0, "{report:?}");
    wait_for("the end of it", || egress.status().sandboxes == 0).await;
    egress.shutdown().await;
}

#[tokio::test]
async fn another_policy_takes_the_place_of_the_first() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    let [name, address] = [origin.url("localhost", "/"), origin.url("127.0.0.1", "/")];
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    assert_passed(&door.get(&name).await);
    traffic
        .set(&only(r"127\.0\.0\.1", origin.port))
        .await
        .unwrap();
    assert_blocked(&door.get(&name).await);
    assert_passed(&door.get(&address).await);
    assert_eq!(traffic.close().await.records.len(), 3);
    egress.shutdown().await;
}

#[tokio::test]
async fn each_sandbox_has_its_own_policy_and_report() {
    let (egress, origin) = (start(settings()), Origin::start().await);
    let (one, two) = (Door::new(), Door::new());
    let url = origin.url("localhost", "/");
    let first = one
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    let second = two
        .open(&egress, &only("other", origin.port))
        .await
        .unwrap();
    assert_passed(&one.get(&url).await);
    assert_blocked(&two.get(&url).await);
    assert_eq!(first.close().await.records.len(), 1);
    one.assert_nobody_accepts().await;
    assert_blocked(&two.get(&url).await);
    assert_eq!(second.close().await.records.len(), 2);
    egress.shutdown().await;
}

#[tokio::test]
async fn what_is_dropped_is_closed() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    assert_passed(&door.get(&origin.url("localhost", "/")).await);
    drop(traffic);
    wait_for("the end of it", || egress.status().sandboxes == 0).await;
    door.assert_nobody_accepts().await;
    egress.shutdown().await;
}

#[tokio::test]
async fn a_close_ends_what_is_under_way() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    let filter = only("localhost", origin.port);
    let traffic = door.open(&egress, &filter).await.unwrap();
    let mut half = door.dial().await;
    ask(&mut half, &origin.url("localhost", "/slow")).await;
    let mut byte = [0];
    let begun = timeout(PATIENCE, half.read_exact(&mut byte)).await;
    begun.expect("it begins").unwrap();
    let report = traffic.close().await;
    let rest = read_all(&mut half).await;
    assert!(!rest.ends_with("origin"), "it was cut off: {rest}");
    assert!(!report.lost);
    assert_eq!(report.records.len(), 1);
    assert_eq!(report.records[0].path.as_deref(), Some("/slow"));
    assert_eq!(report.bytes_in, report.records[0].bytes_in);
    egress.shutdown().await;
}

#[tokio::test]
async fn it_goes_through_the_upstream_proxy() {
    let upstream = Origin::start().await;
    let settings = isol8d::egress::EgressSettings {
        upstream: Some(format!("http://127.0.0.1:{}", upstream.port)),
        no_proxy: "localhost".to_owned(),
        ..settings()
    };
    let (egress, door) = (start(settings), Door::new());
    // Nobody but the upstream knows the name, and it answers everything.
    let traffic = door.open(&egress, &only(".*", 80)).await.unwrap();
    assert_passed(&door.get("http://name.invalid/").await);
    let direct = door.get("http://localhost/").await;
    assert!(direct.starts_with("HTTP/1.1 502 "), "{direct}");
    assert_eq!(traffic.close().await.records.len(), 2);
    egress.shutdown().await;
}

#[tokio::test]
async fn hundreds_of_sandboxes_leave_no_descriptor() {
    let (egress, origin) = (start(settings()), Origin::start().await);
    let url = origin.url("localhost", "/");
    let filter = only("localhost", origin.port);
    let keeper = Door::new();
    let kept = keeper.open(&egress, &filter).await.unwrap();
    assert_passed(&keeper.get(&url).await);
    let pid = egress.pid().expect("it runs");
    // Only root may look at a process that hides from debuggers.
    let count = || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .map(Iterator::count)
            .ok()
    };
    let ours = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (theirs_before, ours_before) = (count(), ours());
    for round in 0..300 {
        let door = Door::new();
        let traffic = door.open(&egress, &filter).await.unwrap();
        if round % 10 == 0 {
            assert_passed(&door.get(&url).await);
        }
        if round % 2 == 0 {
            drop(traffic);
        } else {
            assert!(!traffic.close().await.lost);
        }
    }
    wait_for("the end of all but one", || egress.status().sandboxes == 1).await;
    wait_for("no more descriptors than before", || {
        count() <= theirs_before
    })
    .await;
    wait_for("no more of ours than before", || ours() <= ours_before).await;
    assert!(!rustix::process::geteuid().is_root() || theirs_before.is_some());
    assert_eq!(egress.pid(), Some(pid), "it is the same process");
    assert!(!kept.close().await.lost);
    egress.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_leaves_no_process() {
    let (egress, door) = (start(settings()), Door::new());
    let traffic = door.open(&egress, &only("x", 80)).await.unwrap();
    let pid = egress.pid().expect("it runs");
    egress.shutdown().await;
    assert!(!is_alive(pid), "not even a zombie");
    door.assert_nobody_accepts().await;
    assert!(traffic.close().await.lost);
    let failure = egress
        .open(&SandboxId::random(), door.fd(), &only("x", 80))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::EgressUnavailable);
    egress.shutdown().await;
}
