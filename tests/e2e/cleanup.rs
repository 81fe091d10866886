//! `isol8 cleanup`: what nobody needs goes, counted exactly; what is in use
//! stays.

use std::collections::BTreeMap;

use isol8_e2e::harness::{
    call::Ran,
    host,
    stage::Stage,
    wait::{seconds, wait_until},
};

type Counts = BTreeMap<String, usize>;

/// How many of each kind.
#[track_caller]
fn counts(ran: &Ran, list: &str) -> Counts {
    let json = ran.json();
    let mut counts = Counts::new();
    for item in json[list].as_array().expect("a list") {
        let kind = item["kind"].as_str().expect("a kind");
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    counts
}

/// Sandboxes that wait for a run, once none is in the making.
#[track_caller]
fn warm(stage: &Stage) -> usize {
    let mut warm = 0;
    wait_until("a quiet pool", seconds(30), || {
        let status = stage.status();
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let sum = |field: &str| {
            pools
                .iter()
                .map(|pool| pool[field].as_u64().unwrap_or(0))
                .sum::<u64>()
        };
        warm = usize::try_from(sum("warm")).expect("a few");
        sum("making") == 0
            && warm > 0
            && pools
                .iter()
                .all(|pool| pool["warm"].as_u64() >= pool["target"].as_u64())
    });
    warm
}

/// Checks that there is no sandbox of any kind: the engines know none, and the
/// host shows none.
#[track_caller]
fn nothing_of_ours(stage: &Stage) {
    let mut left = stage.leftovers();
    wait_until("the end of every sandbox", seconds(10), || {
        left = stage.leftovers();
        // The daemon itself is still there, and its own group.
        left.processes.retain(|process| !process.contains("isol8d"));
        left.cgroups.clear();
        left.mounts.clear();
        left.is_none()
    });
    let status = stage.status();
    for engine in status["engines"].as_array().expect("a list") {
        assert_eq!(engine["sandboxes"], 0, "{status:#}");
    }
}

both_engines! {
    fn nobody_is_asked_without_a_terminal(stage: &Stage) {
        let work = stage.session("work");
        work.bash("echo kept > f").go().ok();
        stage.bash("echo without").go().ok();
        let before = (warm(stage), stage.leftovers().folders.len());
        for args in [&["cleanup"][..], &["cleanup", "--images"], &["cleanup", "--json"]] {
            let ran = stage.isol8(args).feed("y\n").go();
            assert_eq!(ran.ended(2).out(), "");
            ran.says("--force").within(seconds(5));
        }
        assert_eq!((warm(stage), stage.leftovers().folders.len()), before, "nothing is removed");
        assert_eq!(work.bash("cat f").go().ok(), "kept\n");
        work.remove();
    }

    fn everything_goes_and_is_counted(stage: &Stage) {
        let mark = &stage.mark(70_160);
        for name in ["one", "two"] {
            stage.session(name).bash(&format!("setsid sleep {mark} >/dev/null 2>&1 &")).go().ok();
        }
        stage.bash(&format!("setsid sleep {mark} >/dev/null 2>&1 &")).arg("--persist").go().ok();
        stage.python("1").go().ok();
        assert_eq!(host::sleepers(mark).len(), 3);
        let expected = Counts::from([("session".into(), 2), ("kept".into(), 1), ("warm".into(), warm(stage))]);
        // First only told.
        let told = stage.isol8(["cleanup", "--dry-run", "--json"]).go();
        told.ended(0);
        assert_eq!(counts(&told, "wouldRemove"), expected, "{told:?}");
        assert_eq!((stage.sessions().len(), host::sleepers(mark).len()), (3, 3));

        let ran = stage.isol8(["cleanup", "--force", "--json"]).go();
        ran.ended(0);
        assert_eq!(counts(&ran, "removed"), expected, "{ran:?}");
        assert_eq!(counts(&ran, "failed"), Counts::new());
        assert!(host::sleepers(mark).is_empty());
        assert!(stage.sessions().is_empty());
        nothing_of_ours(stage);

        let again = stage.isol8(["cleanup", "--force"]).go();
        assert_eq!(again.ok(), "nothing to remove\n");
        // And everything still works.
        assert_eq!(stage.bash("echo fine").go().ok(), "fine\n");
        let warm = warm(stage);
        let ran = stage.isol8(["cleanup", "--force"]).go();
        let plural = if warm == 1 { "" } else { "es" };
        assert_eq!(ran.ok(), format!("removed {warm} warm sandbox{plural}\n"));
        let work = stage.session("one");
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        work.remove();
    }

    /// A session with a run, one with a copy, one that has runs waiting; runs
    /// without a session.
    fn what_is_in_use_stays(stage: &Stage) {
        let busy = stage.session("busy");
        busy.bash("echo kept > f").go().ok();
        let idle = stage.session("idle");
        idle.bash("true").go().ok();
        let live = busy.bash("echo up; cat; cat f").open_stdin().start();
        live.until_stdout("up");
        let waits = busy.bash("echo waited").start();
        wait_until("one that waits", seconds(10), || busy.info().is_some_and(|info| info["waiting"] == 1));
        let alone = stage.bash("echo up; cat; echo down").open_stdin().start();
        alone.until_stdout("up");
        let ran = stage.isol8(["cleanup", "--force", "--json"]).go();
        ran.ended(0);
        let mut removed = counts(&ran, "removed");
        removed.remove("warm");
        assert_eq!(removed, Counts::from([("session".into(), 1)]), "{ran:?}");
        assert!(idle.info().is_none());
        assert_eq!(live.finish().ok(), "up\nkept\n");
        assert_eq!(waits.finish().ok(), "waited\n");
        assert_eq!(alone.finish().ok(), "up\ndown\n");
        assert_eq!(busy.bash("cat f").go().ok(), "kept\n");
        stage.isol8(["cleanup", "--force"]).go().ok();
        assert!(stage.sessions().is_empty());
        nothing_of_ours(stage);
    }

    /// A lost session is an entry that somebody may be rid of.
    fn what_a_crash_left_goes_too(stage: &Stage) {
        let mark = &stage.mark(70_161);
        let work = stage.session("work");
        work.bash(&format!("setsid sleep {mark} >/dev/null 2>&1 &")).go().ok();
        stage.python("1").go().ok();
        stage.crash_daemon();
        stage.start_daemon();
        let ran = stage.isol8(["cleanup", "--force", "--json"]).go();
        ran.ended(0);
        assert_eq!(counts(&ran, "removed").get("session"), Some(&1), "{ran:?}");
        assert_eq!(counts(&ran, "failed"), Counts::new(), "{ran:?}");
        assert!(stage.sessions().is_empty() && host::sleepers(mark).is_empty());
        nothing_of_ours(stage);
    }
}
