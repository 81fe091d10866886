//! What a session keeps from one run to the next, and what each run has anew.

use isol8_e2e::harness::{
    host,
    wait::{millis, seconds, wait_until},
};

both_engines! {
    fn files_survive(stage: &Stage) {
        let work = stage.session("work");
        let write = "mkdir -p d /tmp/t; echo one > a; echo two > d/b; chmod 640 a; echo three > /tmp/t/c; echo four > /dev/shm/d; ln -s a l";
        assert_eq!(work.bash(write).go().ok(), "");
        let read = "cat a d/b /tmp/t/c /dev/shm/d l; stat -c %a a; readlink l";
        for _ in 0..2 {
            assert_eq!(work.bash(read).go().ok(), "one\ntwo\nthree\nfour\none\n640\na\n");
        }
        // Nobody else's: neither another session's nor a run's without one.
        assert_eq!(stage.session("other").bash("ls -A").go().ok(), "main.sh\n");
        assert_eq!(stage.bash("ls -A; ls -A /tmp").go().ok(), "main.sh\n");
        work.remove();
        stage.session("other").remove();
    }

    fn background_processes_survive(stage: &Stage) {
        let work = stage.session("work");
        let (one, two) = (&stage.mark(70_101), &stage.mark(70_102));
        let start = format!("sleep {one} >/dev/null 2>&1 & echo $!; setsid sleep {two} &");
        let ran = work.bash(&start).go();
        let pid = ran.within(seconds(20)).ok();
        let heart = work.start_heart(&stage.mark(70_103));
        let before = work.beat(&heart);
        for _ in 0..3 {
            // It sees them as its neighbours, by the same numbers.
            let code = format!("tr '\\0' ' ' < /proc/{}/cmdline", pid.trim());
            assert_eq!(work.bash(&code).go().ok().trim(), format!("sleep {one}"));
        }
        heart.goes_on_since(before);
        assert_eq!((host::sleepers(one).len(), host::sleepers(two).len()), (1, 1));
        // What they still hold of their run's output holds nobody up.
        work.bash(&format!("kill $(pgrep -f 'sleep {one}' || echo {})", pid.trim())).go().ok();
        wait_until("the end of the one that was killed", seconds(5), || host::sleepers(one).is_empty());
        work.remove();
        wait_until("the end of all", seconds(5), || host::sleepers(two).is_empty() && heart.process().is_none());
    }

    /// XR07: what a run does to itself is gone with it.
    fn environment_cwd_and_limits_do_not_survive(stage: &Stage) {
        let work = stage.session("work");
        let change = "export LEFT=behind; umask 077; mkdir deep; cd deep; ulimit -n 64; ulimit -c; shopt -s nullglob; alias x=y; f() { :; }; set -f; pwd; umask";
        let out = work.bash(change).args(["--env", "OWN=first", "--secret", "HIDDEN=of-the-first"]).go().ok();
        assert!(out.ends_with("/sandbox/deep\n0077\n"), "{out}");
        let look = "echo \"${LEFT-none} ${OWN-none} ${HIDDEN-none}\"; pwd; umask; ulimit -n; type f 2>&1 | head -c 40; echo; env | sort";
        let seen = work.bash(look).go().ok();
        let fresh = stage.bash(look).go().ok();
        assert_eq!(seen, fresh, "as in a sandbox of its own");
        assert!(seen.starts_with("none none none\n/sandbox\n0022\n"), "{seen}");
        let given = work.bash("echo $OWN").args(["--env", "OWN=second"]).go();
        assert_eq!(given.ok(), "second\n");
        let files = "grep -rl of-the-firs[t] /sandbox /tmp /proc/[0-9]*/environ 2>/dev/null; echo looked";
        assert_eq!(work.bash(files).go().ok(), "looked\n");
        work.remove();
    }

    /// Each run's program takes the place of the last one's.
    fn programs_take_each_others_place(stage: &Stage) {
        let work = stage.session("work");
        assert_eq!(work.bash("echo first; ls -A").go().ok(), "first\nmain.sh\n");
        assert_eq!(work.bash("echo second; cat $0").go().ok(), "second\necho second; cat $0");
        let file = stage.file("named.sh", "echo from a file; ls -A");
        let ran = stage.isol8(["run", "--session", "work"]).arg(&file).go();
        assert_eq!(ran.ok(), "from a file\nmain.sh\n");
        assert_eq!(work.bash("cat; exit 7").feed("given").go().ended(7).out(), "given");
        assert_eq!(work.bash("kill -TERM $$").go().code(), 143);
        assert_eq!(work.bash("echo still >&2").go().ended(0).err(), "still\n");
        work.remove();
    }

    fn every_runtime_has_sessions(stage: &Stage) {
        for (runtime, write, read) in [
            ("python", "open('n', 'w').write('41')", "print(int(open('n').read()) + 1)"),
            ("node", "require('fs').writeFileSync('n', '41')", "console.log(+require('fs').readFileSync('n') + 1)"),
            ("bun", "require('fs').writeFileSync('n', '41')", "console.log(+require('fs').readFileSync('n') + 1)"),
            ("deno", "Deno.writeTextFileSync('n', '41')", "console.log(+Deno.readTextFileSync('n') + 1)"),
            ("bash", "echo 41 > n", "echo $(($(cat n) + 1))"),
        ] {
            let work = stage.session(runtime);
            work.eval(runtime, write).go().ok();
            assert_eq!(work.eval(runtime, read).go().ok(), "42\n", "{runtime}");
            let info = work.info().expect("it is listed");
            assert_eq!((&info["runtime"], &info["engine"], &info["state"]),
                (&runtime.into(), &stage.engine().name().into(), &"idle".into()));
            work.remove();
        }
    }

    /// `--persistent` is the session `default`, and `--session` needs no
    /// `--persistent`.
    fn the_default_session_has_a_name(stage: &Stage) {
        stage.bash("echo one > f").arg("--persistent").go().ok();
        let default = stage.session("default");
        assert_eq!(default.bash("cat f").go().ok(), "one\n");
        let both = stage.bash("cat f").args(["--persistent", "--session", "default"]).go();
        assert_eq!(both.ok(), "one\n");
        assert!(default.info().is_some());
        assert_eq!(stage.sessions().len(), 1);
        default.remove();
        assert_eq!(stage.sessions().len(), 0);
    }

    /// One sandbox from the first run to the last, and another after `rm`.
    fn a_session_is_one_sandbox_until_it_is_removed(stage: &Stage) {
        let work = stage.session("work");
        let sandbox = || {
            let ran = work.bash("true").arg("--json").go();
            ran.ended(0).json()["sandboxId"].as_str().expect("an id").to_owned()
        };
        let first = sandbox();
        assert_eq!(sandbox(), first);
        assert_eq!(work.sandbox(), first);
        work.put("/sandbox/f", "x".repeat(100_000));
        let info = work.info().expect("it is listed");
        let size = info["sizeBytes"].as_u64().expect("a size");
        assert!((100_000..200_000).contains(&size), "{info}");
        assert_eq!((&info["waiting"], &info["persist"]), (&0.into(), &false.into()));
        work.remove();
        assert!(work.info().is_none());
        work.rm().ended(125).says("no session `work`");
        assert_ne!(sandbox(), first);
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        work.remove();
    }

    /// A session that a test leaves is what [`Stage`] calls left behind.
    fn a_session_that_is_left_is_counted(stage: &Stage) {
        let work = stage.session("work");
        let heart = work.start_heart(&stage.mark(70_104));
        stage.stop_daemon();
        let left = stage.leftovers();
        assert_eq!(left.folders.len(), 1, "{left:#?}");
        assert!(!left.processes.is_empty(), "{left:#?}");
        match stage.engine() {
            Engine::Docker => assert_eq!(left.containers.len(), 1, "{left:#?}"),
            Engine::Native => assert!(!left.cgroups.is_empty(), "{left:#?}"),
        }
        assert!(heart.process().is_some(), "it lives on without a daemon");
        stage.start_daemon();
        work.remove();
        stage.stop_daemon();
        stage.assert_nothing_left();
    }

    /// A run in a session that is there waits for no sandbox.
    fn later_runs_begin_at_once(stage: &Stage) {
        let work = stage.session("work");
        work.bash("true").go().ok();
        let mut times: Vec<_> = (0..7).map(|_| {
            let ran = work.bash("true").go();
            ran.ok();
            ran.elapsed
        }).collect();
        times.sort();
        assert!(times[3] < millis(400), "{times:?}");
        work.remove();
    }
}
