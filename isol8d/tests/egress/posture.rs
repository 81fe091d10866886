//! What the live process is, as the kernel says it.

use std::{collections::BTreeMap, fs};

use rustix::process::geteuid;

use crate::rig::{Door, Origin, assert_passed, only, settings, start};

#[tokio::test]
async fn it_has_nothing_but_sockets() {
    let (egress, origin, door) = (start(settings()), Origin::start().await, Door::new());
    let traffic = door
        .open(&egress, &only("localhost", origin.port))
        .await
        .unwrap();
    // With a lookup, so that every kind of its threads is there.
    assert_passed(&door.get(&origin.url("localhost", "/")).await);
    let pid = egress.pid().expect("it runs");
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        check_thread(&status);
        threads += 1;
    }
    assert!(threads > 1, "the lookup has a thread");
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "250");
    if geteuid().is_root() {
        check_process(pid);
    } else {
        let hidden = fs::read_link(format!("/proc/{pid}/exe"));
        assert!(hidden.is_err(), "not even its own user may look into it");
    }
    assert!(!traffic.close().await.lost);
    egress.shutdown().await;
}

fn check_thread(status: &str) {
    let fields: BTreeMap<&str, &str> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(fields[set], "0000000000000000", "{set}");
    }
    assert_eq!(fields["NoNewPrivs"], "1");
    assert_eq!(fields["Seccomp"], "2");
    for ids in ["Uid", "Gid"] {
        let mut ids = fields[ids].split_whitespace();
        let first = ids.next().expect("four of them");
        assert_ne!(first, "0");
        assert!(ids.all(|id| id == first), "{}", fields["Uid"]);
    }
    if geteuid().is_root() {
        assert_eq!(fields["CapBnd"], "0000000000000000");
        assert_eq!(fields["Groups"], "");
        let uid: u32 = fields["Uid"]
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(uid >= 200_000, "one of isol8's own: {uid}");
    }
}

fn check_process(pid: u32) {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(of("environ"), "", "nothing of the daemon's environment");
    for link in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(link.unwrap().path());
        // A connection may end while we look.
        let Ok(target) = target else { continue };
        let target = target.to_string_lossy().into_owned();
        let kinds = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
        assert!(
            kinds.iter().any(|kind| target.starts_with(kind)),
            "{target}"
        );
    }
    // Unix sockets of it: the control socket (twice) and the two ends that the
    // runtime keeps for signals, none of them with a name.
    let unix = fs::read_to_string("/proc/net/unix").unwrap();
    let inode_of = |line: &str| line.split_whitespace().nth(6).map(str::to_owned);
    let named: Vec<String> = unix
        .lines()
        .filter(|line| line.split_whitespace().count() > 7)
        .filter_map(inode_of)
        .collect();
    for link in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(target) = fs::read_link(link.unwrap().path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let inode = target.trim_start_matches("socket:[").trim_end_matches(']');
        assert!(!named.iter().any(|named| named == inode), "{target}");
    }
    let limits = of("limits");
    for limit in ["Max core file size", "Max file size", "Max locked memory"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let values: Vec<&str> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, ["0", "0"], "{line}");
    }
}

#[tokio::test]
async fn it_cannot_do_what_it_must_not() {
    let state = tempfile::tempdir().unwrap();
    let held = isol8d::egress::examine::examine(&settings(), state.path()).await;
    let held = held.expect("it can be started");
    assert_eq!(held.wrong, Vec::<String>::new(), "{held:?}");
    assert!(held.confined.contains("seccomp"), "{held:?}");
    assert!(!geteuid().is_root() || held.is_kept_from_files);
}

#[tokio::test]
async fn the_examination_finds_what_is_open() {
    // A file that every process may read, on purpose.
    let held = isol8d::egress::examine::examine(&settings(), "/etc/hosts".as_ref()).await;
    let held = held.expect("it can be started");
    if held.confined.ends_with("no landlock") {
        assert_eq!(held.wrong, Vec::<String>::new());
    } else {
        assert_eq!(held.wrong, ["it can read `/etc/hosts`"]);
    }
}
