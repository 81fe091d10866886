//! Runs that end badly: the session, its files and its background processes are
//! as good as before.

use isol8_e2e::harness::{
    host,
    session::{Heart, Session},
    stage::Stage,
    wait::{seconds, wait_for, wait_until},
};
use rustix::process::Signal;

/// A session with a file and a heart.
fn begin<'a>(stage: &'a Stage, mark: u32, args: &[&str]) -> (Session<'a>, Heart) {
    let work = stage.session("work");
    work.bash("echo kept > /sandbox/f").args(args).go().ok();
    let heart = work.start_heart(&stage.mark(mark));
    (work, heart)
}

#[track_caller]
fn as_good_as_before(work: &Session<'_>, heart: &Heart) {
    let before = work.beat(heart);
    assert_eq!(
        work.bash("cat /sandbox/f; echo fine").go().ok(),
        "kept\nfine\n"
    );
    heart.goes_on_since(before);
}

both_engines! {
    fn timeouts(stage: &Stage) {
        let (work, heart) = begin(stage, 70_120, &[]);
        let sandbox = work.sandbox();
        let mark = &stage.mark(70_121);
        for code in [
            format!("sleep {mark}"),
            format!("trap '' TERM INT HUP; sleep {mark} & sleep {mark} & wait"),
            format!("setsid sleep {mark} & sleep {mark}"),
            "yes".to_owned(),
        ] {
            let ran = work.bash(&code).args(["--timeout", "1000", "--json"]).go();
            assert_eq!(ran.ended(137).json()["verdict"], "timed_out", "{ran:?}");
            ran.within(seconds(5));
            // What the run has started ends with it.
            wait_until("the end of all of it", seconds(2), || host::sleepers(mark).is_empty());
            as_good_as_before(&work, &heart);
        }
        assert_eq!(work.sandbox(), sandbox);
        work.remove();
    }

    fn interrupts(stage: &Stage) {
        let (work, heart) = begin(stage, 70_122, &[]);
        let mark = &stage.mark(70_123);
        // Ctrl-C; Ctrl-C twice at one who is deaf; a client that is killed.
        let live = work.bash(&format!("echo up; sleep {mark}")).start();
        live.until_stdout("up");
        live.signal(Signal::INT);
        live.finish().ended(130);
        wait_until("its end", seconds(3), || host::sleepers(mark).is_empty());
        as_good_as_before(&work, &heart);

        let mut live = work.bash(&format!("trap 'echo heard' INT; echo up; while :; do sleep {mark}; done")).start();
        live.until_stdout("up");
        live.signal(Signal::INT);
        live.until_stdout("heard");
        assert!(live.is_running());
        live.signal(Signal::INT);
        live.finish().ended(130);
        wait_until("its end", seconds(3), || host::sleepers(mark).is_empty());
        as_good_as_before(&work, &heart);

        let live = work.bash(&format!("trap '' TERM INT HUP; echo up; sleep {mark} & wait")).start();
        live.until_stdout("up");
        live.signal(Signal::KILL);
        assert_eq!(live.finish().code(), 137);
        wait_until("its end", seconds(3), || host::sleepers(mark).is_empty());
        as_good_as_before(&work, &heart);
        work.remove();
    }

    fn memory_bombs(stage: &Stage) {
        let (work, heart) = begin(stage, 70_124, &["--memory", "96m"]);
        for _ in 0..3 {
            let ran = work.bash("x=$(head -c 200m /dev/zero | tr '\\0' x)").go();
            ran.ended(137).says("memory");
            as_good_as_before(&work, &heart);
        }
        // One that dies later of something else was not killed for its memory.
        let ran = work.bash("kill -9 $$").arg("--json").go();
        assert_eq!(ran.json()["verdict"], "signalled", "{ran:?}");
        as_good_as_before(&work, &heart);
        work.remove();
    }

    fn fork_bombs(stage: &Stage) {
        let (work, heart) = begin(stage, 70_125, &[]);
        // The shell itself starts nothing more: it would end by a fork that fails.
        for bomb in [
            ":(){ :|:& };:\nwhile :; do :; done",
            "f() { f & f & }; (while :; do f; done) 2>/dev/null &\nwhile :; do :; done",
        ] {
            let ran = work.bash(bomb).args(["--timeout", "2000", "--json"]).go();
            assert_eq!(ran.ended(137).json()["verdict"], "timed_out", "{ran:?}");
            ran.within(seconds(8));
            wait_until("the end of the bomb", seconds(10), || {
                host::processes().iter().filter(|process| process.argv.iter().any(|word| word == "/sandbox/main.sh")).count() == 0
            });
            as_good_as_before(&work, &heart);
        }
        work.remove();
    }

    /// One that leaves its session behind cannot be told from what is to stay:
    /// it may fill the session, and goes with it.
    fn bombs_that_detach_end_with_the_session(stage: &Stage) {
        let work = stage.session("work");
        let mark = &stage.mark(70_126);
        let bomb = format!("for i in $(seq 200); do (setsid sleep {mark} >/dev/null 2>&1 &) 2>/dev/null; done; echo full");
        let ran = work.bash(&bomb).args(["--timeout", "10000", "--pids-limit", "30"]).go();
        assert_ne!(ran.code(), 125, "{ran:?}");
        assert!(host::sleepers(mark).len() > 15);
        // Files need no process.
        work.put("/sandbox/f", "still");
        assert_eq!(work.fetch("/sandbox/f"), b"still");
        let next = work.bash("echo next").args(["--timeout", "5000"]).go();
        assert!(next.code() != 0 || next.out() == "next\n", "{next:?}");
        work.remove();
        wait_until("the end of all", seconds(5), || host::sleepers(mark).is_empty());
    }

    /// RX06: nothing fits any more, not even the next program. What is there can
    /// be listed, fetched and removed, and then there is room.
    fn a_full_sandbox(stage: &Stage) {
        let (work, heart) = begin(stage, 70_127, &["--sandbox-size", "16m", "--memory", "256m"]);
        let fill = "head -c 64m /dev/zero | tr '\\0' x > big; cat /dev/zero > rest";
        let ran = work.bash(fill).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        ran.says("space");
        let next = work.bash("echo next").go();
        assert_eq!(next.ended(125).out(), "");
        next.says("room").says("hint: ");
        for path in ["/", "/sandbox", ""] {
            let names = work.names(path);
            assert!(names.contains(&"big".to_owned()) && names.contains(&"f".to_owned()), "{path:?}: {names:?}");
        }
        let big = work.fetch("/sandbox/big");
        assert!(big.len() > 8 << 20 && big.iter().all(|byte| *byte == b'x'), "{}", big.len());
        let put = work.cp(["-".to_owned(), work.at("more")]).feed(vec![b'y'; 1 << 20]).go();
        put.ended(125).says("room").says("--sandbox-size");
        assert!(!work.names("/").contains(&"more".to_owned()), "no half file");
        stage.isol8(["session", "rm", &work.at("/sandbox/big")]).go().ok();
        as_good_as_before(&work, &heart);
        work.put("more", vec![b'y'; 1 << 20]);
        work.remove();
    }

    /// The same with more names than fit.
    fn a_sandbox_full_of_names(stage: &Stage) {
        let work = stage.session("work");
        let fill = "mkdir many; n=0; while > many/$n; do n=$((n + 1)); done 2>/dev/null; echo filled";
        let ran = work.bash(fill).args(["--sandbox-size", "4m", "--timeout", "60000"]).go();
        assert_eq!(ran.ok(), "filled\n");
        let next = work.bash("echo next").go();
        next.ended(125).says("room");
        assert!(work.names("/sandbox/many").len() > 50);
        let rm = ["session", "rm", "-r", &work.at("many")];
        stage.isol8(rm).go().ok();
        assert_eq!(work.bash("echo fine").go().ok(), "fine\n");
        work.remove();
    }

    /// PID 1 of a session is not within its programs' reach.
    fn pid_1_cannot_be_harmed(stage: &Stage) {
        let (work, heart) = begin(stage, 70_128, &[]);
        let ran = work.bash("kill -TERM 1; kill -STOP 1; kill -9 1; echo tried").go();
        assert_eq!(ran.ok(), "tried\n");
        as_good_as_before(&work, &heart);
        // All that it may kill is its own, hearts too.
        let ran = work.bash("kill -9 -1; echo alone").go();
        assert!(ran.code() == 137 || ran.out() == "alone\n", "{ran:?}");
        wait_for("the end of the heart", seconds(5), || heart.process().is_none().then_some(()));
        assert_eq!(work.bash("cat f").go().ok(), "kept\n");
        work.remove();
    }
}
