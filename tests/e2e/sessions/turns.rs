//! Runs in one session: one after the other, in the order in which they came,
//! each with its own output.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use isol8_e2e::harness::{
    call::Running,
    session::Session,
    wait::{seconds, wait_until},
};
use rustix::process::Signal;

/// Goes on until its stdin ends.
fn blocker(work: &Session<'_>) -> Running {
    let live = work
        .bash("echo up; cat > /dev/null; echo blocker >> log; echo down")
        .open_stdin()
        .start();
    live.until_stdout("up");
    live
}

#[track_caller]
fn until_waiting(work: &Session<'_>, count: u64) {
    wait_until(&format!("{count} that wait"), seconds(20), || {
        work.info()
            .is_some_and(|info| info["waiting"] == count && info["state"] == "busy")
    });
}

both_engines! {
    fn runs_queue_in_order(stage: &Stage) {
        let work = stage.session("work");
        let first = blocker(&work);
        let mut waiting = Vec::new();
        for n in 1..=5 {
            let code = format!("echo {n} >> log; for i in $(seq 50); do echo line {n}; echo err {n} >&2; done");
            waiting.push(work.bash(&code).start());
            until_waiting(&work, n);
        }
        assert!(waiting.iter().all(|run| run.stdout_so_far().is_empty()));
        assert_eq!(first.finish().ok(), "up\ndown\n");
        for (n, run) in (1..).zip(waiting) {
            let ran = run.finish();
            assert_eq!(ran.ok(), format!("line {n}\n").repeat(50));
            assert_eq!(ran.err().replace(&format!("err {n}\n"), ""), waits_note(&ran.err()));
        }
        assert_eq!(work.bash("cat log").go().ok(), "blocker\n1\n2\n3\n4\n5\n");
        work.remove();
    }

    /// Whoever gives up waiting gives up the place, and nothing of it runs.
    fn one_that_goes_while_it_waits_never_runs(stage: &Stage) {
        let work = stage.session("work");
        let first = blocker(&work);
        let kept = work.bash("echo kept >> log").start();
        until_waiting(&work, 1);
        let killed = work.bash("echo killed >> log").start();
        until_waiting(&work, 2);
        let interrupted = work.bash("echo interrupted >> log").start();
        until_waiting(&work, 3);
        let last = work.bash("echo last >> log").start();
        until_waiting(&work, 4);
        killed.signal(Signal::KILL);
        assert_eq!(killed.finish().code(), 137);
        interrupted.signal(Signal::INT);
        assert_eq!(interrupted.finish().code(), 130);
        drop(first.finish().ok());
        kept.finish().ok();
        last.finish().ok();
        assert_eq!(work.bash("cat log").go().ok(), "blocker\nkept\nlast\n");
        work.remove();
    }

    /// Copies and removals take their turn too; a busy session goes by force.
    fn others_take_their_turn(stage: &Stage) {
        let work = stage.session("work");
        let first = blocker(&work);
        let copy = work.cp(["-".to_owned(), work.at("copied")]).feed("by a copy").start();
        until_waiting(&work, 1);
        work.rm().ended(125).says("a run goes on in session `work`").says("hint: ");
        first.finish().ok();
        copy.finish().ok();
        assert_eq!(work.bash("cat copied").go().ok(), "by a copy");
        let mut live = blocker(&work);
        let forced = stage.isol8(["session", "rm", "--force", "work"]).go();
        forced.ended(0).within(seconds(20));
        wait_until("the end of its run", seconds(10), || !live.is_running());
        let ran = live.finish();
        ran.ended(125);
        assert!(work.info().is_none());
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        work.remove();
    }

    /// Many at once, of many kinds: never two at a time, nobody sees the output
    /// of another, and whoever is told that it ran has run.
    fn never_two_at_once(stage: &Stage) {
        let work = &stage.session("work");
        work.bash("> log").go().ok();
        let (count, lanes) = match stage.engine() {
            Engine::Docker => (24, 6),
            Engine::Native => (48, 8),
        };
        let ended = AtomicUsize::new(0);
        thread::scope(|scope| {
            for lane in 0..lanes {
                let ended = &ended;
                scope.spawn(move || for n in (lane..count).step_by(lanes) {
                    let nonce = format!("nonce-{n}-{}", n * 7919);
                    let code = format!(
                        "echo begin {n} >> log; trap 'echo end {n} >> log' EXIT; mkdir only || echo TWO >> log; cat;\n\
                         for i in 1 2 3 4 5; do echo {nonce}; echo {nonce} >&2; done; rmdir only");
                    match n % 8 {
                        // What is cut short cannot tidy up.
                        3 => {
                            let cut = format!("echo begin {n} >> log; echo {nonce}; sleep 50");
                            let ran = work.bash(&cut).args(["--timeout", "2000", "--json"]).go();
                            // Its time may have passed while it waited.
                            assert_eq!(ran.json()["verdict"], "timed_out", "{ran:?}");
                        }
                        6 => {
                            let live = work.bash(&format!("{code}; echo tidy; exec sleep 50")).start();
                            live.until_stdout("tidy");
                            live.signal(Signal::KILL);
                            assert_eq!(live.finish().code(), 137);
                        }
                        _ => {
                            let ran = work.bash(&code).args(["--timeout", "100000"]).feed(nonce.clone()).go();
                            assert_eq!(ran.ok(), format!("{nonce}{}", format!("{nonce}\n").repeat(5)), "{ran:?}");
                            assert_eq!(ran.err().matches(&nonce).count(), 5, "{ran:?}");
                            assert_eq!(ran.err().matches("nonce-").count(), 5, "{ran:?}");
                            ended.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let log = work.bash("cat log").go().ok();
        assert!(!log.contains("TWO"), "{log}");
        let (mut inside, mut whole) = (None, 0);
        for line in log.lines() {
            match line.split_once(' ') {
                Some(("begin", n)) => inside = Some(n),
                Some(("end", n)) => {
                    assert_eq!(inside.take(), Some(n), "two at once:\n{log}");
                    whole += 1;
                }
                _ => panic!("no line of ours: {line}"),
            }
        }
        assert!(whole >= ended.into_inner(), "{log}");
        work.remove();
    }

    /// Different sessions do not wait for each other.
    fn sessions_run_beside_each_other(stage: &Stage) {
        let (one, two) = (stage.session("one"), stage.session("two"));
        let first = blocker(&one);
        let second = blocker(&two);
        assert_eq!(stage.bash("echo without").go().ok(), "without\n");
        assert_eq!(second.finish().ok(), "up\ndown\n");
        assert_eq!(two.bash("cat log").go().ok(), "blocker\n");
        assert_eq!(first.finish().ok(), "up\ndown\n");
        one.remove();
        two.remove();
    }
}

/// What isol8 itself says to one that waits, if anything: lines of its own.
fn waits_note(err: &str) -> String {
    let own = err
        .lines()
        .filter(|line| line.contains("isol8") || line.contains("wait"));
    own.map(|line| format!("{line}\n")).collect()
}
