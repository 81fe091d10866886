//! `--persist`: a sandbox that is kept after its run, and how to look into it.

use isol8_e2e::harness::{
    call::Ran,
    host,
    stage::Stage,
    wait::{seconds, wait_until},
};

/// The id that a run told.
#[track_caller]
fn told(ran: &Ran) -> String {
    let err = ran.err();
    let (_, rest) = err
        .split_once("isol8 session adopt ")
        .unwrap_or_else(|| panic!("no id: {ran:?}"));
    let id = rest.split_whitespace().next().expect("an id").to_owned();
    assert_eq!(id.len(), 32, "128 bits: {id}");
    id
}

#[track_caller]
fn kept(stage: &Stage) -> Vec<String> {
    let mut all = stage.sessions();
    all.retain(|session| session["name"].is_null());
    assert!(
        all.iter().all(|session| session["state"] == "kept"),
        "{all:?}"
    );
    all.iter()
        .map(|session| session["sandboxId"].as_str().expect("an id").to_owned())
        .collect()
}

both_engines! {
    fn a_kept_sandbox_can_be_adopted(stage: &Stage) {
        let mark = &stage.mark(70_150);
        let code = format!("echo kept > f; setsid sleep {mark} >/dev/null 2>&1 & exit 3");
        let ran = stage.bash(&code).arg("--persist").go();
        let id = told(ran.ended(3));
        assert_eq!(ran.out(), "");
        assert_eq!(kept(stage), std::slice::from_ref(&id));
        assert_eq!(host::sleepers(mark).len(), 1);
        // Not without a name, and nobody's runs go there.
        assert_eq!(stage.bash("ls -A").go().ok(), "main.sh\n");
        let none = stage.isol8(["session", "adopt", &"0".repeat(32), "work"]).go();
        none.ended(125).says("no kept sandbox");
        stage.isol8(["session", "adopt", "x; id", "work"]).go().ended(2);
        let adopted = stage.isol8(["session", "adopt", &id, "work"]).go();
        adopted.ok();
        let work = stage.session("work");
        assert_eq!(work.sandbox(), id);
        assert_eq!(work.fetch("f"), b"kept\n");
        assert_eq!(work.bash("cat f").go().ok(), "kept\n");
        assert_eq!(host::sleepers(mark).len(), 1);
        assert!(kept(stage).is_empty());
        let again = stage.isol8(["session", "adopt", &id, "other"]).go();
        again.ended(125).says("no kept sandbox");
        work.remove();
        wait_until("its end", seconds(5), || host::sleepers(mark).is_empty());
    }

    /// However the run ends, and also across a crash of the daemon.
    fn kept_whatever_the_end(stage: &Stage) {
        let ended = stage.bash("echo late > f; sleep 60").args(["--persist", "--timeout", "1500"]).go();
        let late = told(ended.ended(137));
        let json = stage.bash("echo json > f").args(["--persist", "--json"]).go();
        let id = json.ended(0).json()["sandboxId"].as_str().expect("an id").to_owned();
        assert_eq!(json.err(), "");
        assert_eq!(kept(stage).len(), 2);
        stage.crash_whoever_answers();
        assert_eq!(kept(stage).len(), 2);
        for (id, name, content) in [(late, "late", "late\n"), (id, "json", "json\n")] {
            stage.isol8(["session", "adopt", &id, name]).go().ok();
            let session = stage.session(name);
            assert_eq!(session.bash("cat f").go().ok(), content);
            // A name is given once.
            let other = stage.bash("true").arg("--persist").go();
            let other = told(&other);
            stage.isol8(["session", "adopt", &other, name]).go().says("already");
            assert!(kept(stage).contains(&other));
            session.remove();
        }
        stage.isol8(["cleanup", "--force"]).go().ok();
        assert!(stage.sessions().is_empty());
        stage.stop_whoever_answers();
    }

    /// With a session: kept when that is removed, not before.
    fn the_sandbox_of_a_session_is_kept_when_it_is_removed(stage: &Stage) {
        let work = stage.session("work");
        let ran = work.bash("echo kept > f").arg("--persist").go();
        ran.ok();
        assert!(!ran.err().contains("adopt"), "not yet: {ran:?}");
        assert!(kept(stage).is_empty());
        let heart = work.start_heart(&stage.mark(70_151));
        let beat = work.beat(&heart);
        let removed = work.rm();
        let id = told(removed.ended(0));
        assert_eq!(kept(stage), std::slice::from_ref(&id));
        assert!(work.info().is_none());
        heart.goes_on_since(beat);
        // The name is free for another.
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        stage.isol8(["session", "adopt", &id, "again"]).go().ok();
        let again = stage.session("again");
        assert_eq!(again.bash("cat f").go().ok(), "kept\n");
        heart.goes_on_since(beat);
        work.remove();
        // Now it is a session like any other.
        again.remove();
        wait_until("its end", seconds(5), || heart.process().is_none());
        assert!(stage.sessions().is_empty());
    }
}
