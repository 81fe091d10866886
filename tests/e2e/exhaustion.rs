//! Programs that take all they can get: processes, memory, space, output, time.
//! Each ends with the verdict that fits, within its time, leaves nothing, and
//! the next run does not notice.

use std::time::Duration;

use isol8_e2e::harness::{
    call::Ran,
    host,
    stage::Stage,
    wait::{millis, seconds, wait_for, wait_until},
};

/// The daemon is as good as before.
#[track_caller]
fn next_run_is_fine(stage: &Stage) {
    let next = stage.bash("echo fine").go();
    assert_eq!(next.ok(), "fine\n");
}

/// Dead at its timeout and not much later.
#[track_caller]
fn timed_out(ran: &Ran, limit: Duration) {
    ran.ended(137).within(limit + seconds(2));
    assert_eq!(ran.json()["verdict"], "timed_out", "{ran:?}");
    let measured = ran.json()["durationMs"].as_f64().expect("a number");
    let limit_ms = limit.as_secs_f64() * 1000.0;
    assert!(
        measured < limit_ms + 1000.0,
        "{measured} ms of {limit_ms}: {ran:?}"
    );
}

both_engines! {
    /// RX01
    fn fork_bombs_hit_their_limit_and_die(stage: &Stage) {
        next_run_is_fine(stage);
        let shell = ":(){ :|:& };:\nwait\nwhile :; do sleep 1; done";
        let python = "import os\nwhile 1:\n try: os.fork()\n except OSError: pass";
        for (runtime, bomb) in [("bash", shell), ("python", python)] {
            let ran = stage.eval(runtime, bomb).args(["--timeout", "2000", "--json"]).go();
            timed_out(&ran, seconds(2));
            next_run_is_fine(stage);
        }
        let counted = "import os, signal\nn = 0\nwhile 1:\n try:\n  \
            if os.fork() == 0: signal.pause()\n  \
            n += 1\n \
             except OSError as e: print(e.errno, n, flush=True); os._exit(0)";
        let ran = stage.python(counted).args(["--pids-limit", "30"]).go();
        assert_eq!(ran.ok(), "11 29\n", "EAGAIN with 29 children beside the first");
        next_run_is_fine(stage);
    }

    /// RX02
    fn deaf_programs_die_at_their_timeout(stage: &Stage) {
        next_run_is_fine(stage);
        let deaf = "trap '' TERM INT HUP QUIT; while :; do sleep 1; done";
        let ran = stage.bash(deaf).args(["--timeout", "1000", "--json"]).go();
        timed_out(&ran, seconds(1));
        let python = "import signal, time\n\
            for n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\n\
            while 1: time.sleep(1)";
        let ran = stage.python(python).args(["--timeout", "1000", "--json"]).go();
        timed_out(&ran, seconds(1));
    }

    /// RX03 and RX04: the run ends with its main process, and everything with
    /// the run.
    fn children_do_not_outlive_the_run(stage: &Stage) {
        next_run_is_fine(stage);
        let mark = &stage.mark(70_003);
        for code in [
            format!("setsid sh -c 'sleep {mark}' </dev/null >/dev/null 2>&1 & echo hi"),
            format!("sleep {mark} & echo hi"),
            format!("(trap '' HUP TERM; sleep {mark} & sleep {mark} & wait) & disown; echo hi"),
            format!("setsid sh -c 'setsid sleep {mark} & exec sleep {mark}' & echo hi"),
        ] {
            let ran = stage.bash(&code).arg("--json").go();
            assert_eq!(ran.ended(0).json()["stdout"], "hi\n");
            let measured = ran.json()["durationMs"].as_f64().expect("a number");
            assert!(measured < 2500.0, "it waited for a child: {ran:?}");
            wait_until("the children's end", seconds(2), || host::sleepers(mark).is_empty());
        }
        let daemon = "import os, sys, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(99)\n os._exit(0)\n\
            print('main', flush=True); sys.exit(5)";
        let ran = stage.python(daemon).go();
        assert_eq!(ran.ended(5).within(seconds(5)).out(), "main\n");
    }

    /// RX05
    fn memory_bombs_are_oom_kills(stage: &Stage) {
        next_run_is_fine(stage);
        let before = host::tool("grep", &["SwapFree", "/proc/meminfo"]);
        let python = stage.python("a = bytearray(8 << 30)").arg("--json").go();
        // An allocation of more than the machine has may be refused at once.
        let refused = python.json()["stderr"].as_str().is_some_and(|e| e.contains("MemoryError"));
        if !refused {
            assert_eq!(python.ended(137).json()["verdict"], "oom_killed", "{python:?}");
        }
        let touch = "a = []\nwhile 1: a.append(bytearray(b'x') * (1 << 20))";
        let ran = stage.python(touch).args(["--memory", "64m"]).go();
        ran.ended(137).says("memory").within(seconds(15));
        let ran = stage.python(touch).args(["--memory", "64m", "--json"]).go();
        assert_eq!(ran.json()["verdict"], "oom_killed", "{ran:?}");
        let peak = ran.json()["resourceUsage"]["peakMemoryBytes"].as_u64().expect("a number");
        assert!((32 << 20..=65 << 20).contains(&peak), "{peak}");
        let node = "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))";
        let ran = stage.eval("node", node).args(["--memory", "128m", "--json"]).go();
        assert_eq!(ran.json()["verdict"], "oom_killed", "{ran:?}");
        // A child's death is the program's own business.
        let child = "import subprocess, sys\n\
            p = subprocess.run([sys.executable, '-c', 'a = []\\nwhile 1: a.append(bytearray(b\"x\") * (1 << 20))'])\n\
            print(p.returncode)";
        let ran = stage.python(child).args(["--memory", "64m"]).go();
        assert_eq!(ran.ok(), "-9\n");
        assert_eq!(host::tool("grep", &["SwapFree", "/proc/meminfo"]), before);
        next_run_is_fine(stage);
    }

    /// RX06, RX08, RX13: space and inodes end where they were said to, and the
    /// program can go on.
    fn full_disks_are_errors_and_not_deaths(stage: &Stage) {
        next_run_is_fine(stage);
        let code = "import errno, os, sys\n\
            def fill(path):\n \
             try:\n  \
              with open(path, 'wb') as f:\n   \
               while 1: f.write(b'x' * (1 << 20))\n \
             except OSError as e: return errno.errorcode[e.errno]\n\
            for folder in ('/sandbox', '/tmp', '/dev/shm'):\n \
             print(folder, fill(folder + '/f'))\n \
             os.unlink(folder + '/f')\n\
            try:\n n = 0\n while 1: open(f'/tmp/{n}', 'w').close(); n += 1\n\
            except OSError as e: print(errno.errorcode[e.errno], n < 200000)\n\
            for n in os.listdir('/tmp'): os.unlink('/tmp/' + n)\n\
            f = open('/sandbox/sparse', 'wb')\n\
            try: os.posix_fallocate(f.fileno(), 0, 10 << 30); print('allocated')\n\
            except OSError as e: print(errno.errorcode[e.errno])\n\
            print('still here')";
        let args = ["--sandbox-size", "32m", "--tmp-size", "16m", "--memory", "256m"];
        let ran = stage.python(code).args(args).go();
        let out = ran.ok();
        let expected = "/sandbox ENOSPC\n/tmp ENOSPC\n/dev/shm ENOSPC\nENOSPC True\nENOSPC\nstill here\n";
        assert_eq!(out.replace("EFBIG", "ENOSPC"), expected);
        let deep = "import os\nfor n in range(3000):\n os.mkdir('d' * 255); os.chdir('d' * 255)\nprint('deep')";
        let ran = stage.python(deep).go();
        assert_eq!(ran.within(seconds(10)).ok(), "deep\n");
        // Files count as memory: more of them than memory is an OOM that says so.
        let flood = "f = open('/sandbox/f', 'wb')\nwhile 1: f.write(b'x' * (1 << 20))";
        let args = ["--memory", "64m", "--sandbox-size", "512m"];
        let ran = stage.python(flood).args(args).go();
        ran.ended(137).says("sandbox");
        next_run_is_fine(stage);
    }

    /// RX09: the cap is exact, and the daemon does not grow.
    fn floods_are_capped_and_the_daemon_stays_small(stage: &Stage) {
        next_run_is_fine(stage);
        let daemon = stage.daemon_process();
        let before = daemon.resident_bytes();
        let both = "yes >&2 & yes & head -c 300000000 /dev/zero; kill %1 %2; wait";
        let ran = stage.bash(both).args(["--timeout", "20000", "--max-output", "1m"]).go();
        assert_eq!(ran.stdout.len(), 1 << 20, "{ran:?}");
        assert!((1 << 20..(1 << 20) + 4096).contains(&ran.stderr.len()), "{}", ran.stderr.len());
        let zeros = "head -c 500000000 /dev/zero";
        let ran = stage.bash(zeros).args(["--max-output", "4096", "--json"]).go();
        assert_eq!(ran.ended(0).json()["truncated"], true);
        let endless = stage.bash("cat /dev/zero").args(["--timeout", "2000", "--json"]).go();
        timed_out(&endless, seconds(2));
        let grown = daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "the daemon grew by {grown} bytes");
        next_run_is_fine(stage);
    }

    /// RX11: 64 busy loops get what one core gives.
    fn processor_time_is_bounded(stage: &Stage) {
        next_run_is_fine(stage);
        let hogs = "for i in $(seq 40); do (while :; do :; done) & done; wait";
        let args = ["--timeout", "3000", "--cpu", "0.5", "--json"];
        let ran = stage.bash(hogs).args(args).go();
        timed_out(&ran, seconds(3));
        let used = ran.json()["resourceUsage"]["cpuMs"].as_f64().expect("a number");
        assert!((100.0..2300.0).contains(&used), "{used} ms of processor time in 3 s at half a core");
    }

    /// RX14: crashes leave no cores.
    fn crashes_leave_no_cores(stage: &Stage) {
        let code = "for i in $(seq 50); do sh -c 'kill -SEGV $$' 2>/dev/null; done; ls -A /sandbox";
        let ran = stage.bash(code).go();
        assert_eq!(ran.ok(), "main.sh\n");
    }

    /// RX15, RX16: PID 1 can be neither written to nor killed nor stopped nor
    /// starved, and notices nothing.
    fn pid_1_cannot_be_harmed(stage: &Stage) {
        next_run_is_fine(stage);
        let code = "import ctypes, errno, os, signal, time\n\
            def go(f, *a):\n \
             try: f(*a); return 'OK'\n \
             except OSError as e: return errno.errorcode[e.errno]\n\
            for n in range(1, 65):\n if n not in (32, 33): go(os.kill, 1, n)\n\
            for n in range(1, 65):\n \
             if n not in (32, 33, 9, 19) : signal.signal(n, signal.SIG_IGN)\n\
            go(os.kill, -1, signal.SIGTERM)\n\
            print('alive', flush=True)\n\
            print([go(open, f'/proc/1/fd/{n}', 'w') for n in range(4)])\n\
            print([go(open, p, 'w') for p in ('/proc/1/oom_score_adj', '/proc/1/mem', '/proc/1/comm')])\n\
            import resource\n\
            print(go(resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0)), go(os.setpriority, os.PRIO_PROCESS, 1, 19))\n\
            print(go(os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0)))\n\
            try: signal.pidfd_send_signal(os.pidfd_open(1), 9)\n\
            except OSError as e: print(errno.errorcode[e.errno])\n\
            print('done')";
        let ran = stage.python(code).go();
        let out = ran.ok();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines[0], lines[lines.len() - 1]), ("alive", "done"), "{out}");
        assert_eq!(lines[1], "['EACCES', 'EACCES', 'EACCES', 'EACCES']");
        assert!(!lines[2].contains("OK"), "{out}");
        assert_eq!((lines[3], lines[4]), ("EPERM EPERM", "EPERM"), "{out}");
        let shell = "kill -TERM 1; kill -STOP 1; kill -9 1; kill -9 -1; echo survived";
        let ran = stage.bash(shell).go();
        assert!(ran.out() == "survived\n" || ran.code() == 137, "its own death at most: {ran:?}");
        let log = "head -c 1000000 /dev/zero > /proc/1/fd/1 && echo written";
        assert!(!stage.bash(log).go().out().contains("written"));
        next_run_is_fine(stage);
    }

    /// RX18: a client that sends for ever to a program that does not read.
    fn endless_input_is_held_back(stage: &Stage) {
        next_run_is_fine(stage);
        let daemon = stage.daemon_process();
        let before = daemon.resident_bytes();
        let input = vec![b'x'; 64 << 20];
        let ran = stage.bash("sleep 2").feed(input).go();
        ran.ended(0).within(seconds(8));
        let grown = daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "the daemon grew by {grown} bytes");
    }

    /// A neighbour that does all of it at once is hardly noticed.
    fn neighbours_are_left_alone(stage: &Stage) {
        next_run_is_fine(stage);
        let bomb = "while :; do (dd if=/dev/zero of=/sandbox/$RANDOM bs=1M count=400; :(){ :|:& };:; yes) >/dev/null 2>&1 & done";
        let attacker = stage.bash(bomb).args(["--timeout", "6000", "--json"]).start();
        let mut slowest = millis(0);
        for _ in 0..6 {
            let ran = stage.python("print(sum(range(100000)))").go();
            assert_eq!(ran.ok(), "4999950000\n");
            slowest = slowest.max(ran.elapsed);
        }
        assert!(slowest < seconds(4), "a neighbour's run took {slowest:?}");
        let end = attacker.finish();
        let verdict = end.json()["verdict"].clone();
        assert!(["timed_out", "oom_killed"].contains(&verdict.as_str().unwrap_or_default()), "{end:?}");
        next_run_is_fine(stage);
    }

    /// After every kind of end, no more than the warm sandboxes are there.
    fn only_warm_sandboxes_remain(stage: &Stage) {
        for (code, args) in [
            ("exit 0", &[][..]),
            ("kill -9 $$", &[]),
            ("sleep 60", &["--timeout", "300"]),
            ("sleep 60 &", &[]),
        ] {
            let ran = stage.bash(code).args(args).go();
            assert!([0, 137].contains(&ran.code()), "{ran:?}");
        }
        wait_for("a quiet pool", seconds(20), || {
            let status = stage.status();
            let warm: u64 = status["pools"].as_array()?.iter()
                .map(|pool| pool["warm"].as_u64().unwrap_or(0)).sum();
            let all: u64 = status["engines"].as_array()?.iter()
                .map(|engine| engine["sandboxes"].as_u64().unwrap_or(0)).sum();
            (all == warm && status["runsInFlight"].as_u64() == Some(0)).then_some(())
        });
    }
}
