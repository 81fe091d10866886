//! Clients and daemons that die or hang, hosts that run out of room: the run
//! ends in words, nothing stays behind, the next run works.

use std::{fs, process::Command};

use isol8_e2e::harness::{
    host,
    stage::{Engine, Stage},
    wait::{millis, seconds, wait_for, wait_until},
};
use rustix::process::Signal;
use serde_json::json;

#[track_caller]
fn next_run_is_fine(stage: &Stage) {
    assert_eq!(stage.bash("echo fine").go().ok(), "fine\n");
}

both_engines! {
    /// F11: nobody waits for the run any more.
    fn a_killed_client_takes_its_run_along(stage: &Stage) {
        for (turn, code) in [
            "echo up; sleep MARK",
            "trap '' TERM INT HUP; echo up; (setsid sleep MARK &); sleep MARK",
            "echo up; while :; do echo flood; done | cat & sleep MARK",
        ].into_iter().enumerate() {
            let mark = stage.mark(70_040 + u32::try_from(turn).expect("three turns"));
            let live = stage.bash(&code.replace("MARK", &mark)).start();
            live.until_stdout("up");
            wait_for("the program", seconds(10), || host::sleepers(&mark).pop());
            live.signal(Signal::KILL);
            wait_until("the program's end", seconds(2), || host::sleepers(&mark).is_empty());
        }
        next_run_is_fine(stage);
        wait_until("an idle daemon", seconds(10), || stage.status()["runsInFlight"] == 0);
    }

    /// F12: the program is held back, the daemon does not grow, others go on.
    fn a_client_that_stops_reading_holds_only_itself(stage: &Stage) {
        next_run_is_fine(stage);
        let daemon = stage.daemon_process();
        let before = daemon.resident_bytes();
        let mark = &stage.mark(70_050);
        let code = format!("sleep {mark} & while :; do echo flooooooooooooooooooooooood; done");
        let deaf: Vec<_> = (0..3)
            .map(|_| stage.bash(&code).args(["--max-output", "10g"]).deaf().start())
            .collect();
        wait_until("the floods", seconds(20), || host::sleepers(mark).len() == 3);
        for _ in 0..3 {
            next_run_is_fine(stage);
        }
        let grown = daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 48 << 20, "the daemon grew by {grown} bytes");
        drop(deaf);
        wait_until("the floods' end", seconds(3), || host::sleepers(mark).is_empty());
    }

    /// Programs up to the limit, and one over it.
    fn long_programs_arrive_whole(stage: &Stage) {
        let line = "x = 'some text that makes the program long'\n";
        let program = line.repeat((10 << 20) / line.len()) + "print('the end', len(open(__file__).read()))";
        let length = program.len();
        let file = stage.file("long.py", &program);
        let ran = stage.isol8(["run", "--timeout", "60000"]).arg(&file).go();
        assert_eq!(ran.ok(), format!("the end {length}\n"));
        let too_long = stage.file("longer.py", "#".repeat((16 << 20) + 1));
        let ran = stage.isol8(["run"]).arg(&too_long).go();
        assert_ne!(ran.code(), 0);
        assert_eq!(ran.out(), "");
        ran.says("16");
        next_run_is_fine(stage);
    }

    /// An interpreter or an image that is not there.
    fn what_is_missing_is_named(stage: &Stage) {
        let ran = stage.python("print(1)").args(["--image", "isol8-e2e:no-such-image"]).go();
        ran.ended(125).says("image");
        if stage.engine() == Engine::Docker {
            ran.says("isol8-e2e:no-such-image");
            // An image that has no node in it.
            let ran = stage.eval("node", "1").args(["--image", "isol8:bash"]).go();
            ran.ended(125).says("node");
            let empty = stage.python("print(1)").args(["--image", "isol8:bash"]).go();
            empty.ended(125).says("python3");
        }
        next_run_is_fine(stage);
    }

    /// F07: somebody else destroys a sandbox in the middle of a run, and one
    /// that waits in the pool.
    fn a_lost_sandbox_is_a_verdict(stage: &Stage) {
        let mark = &stage.mark(70_060);
        let live = stage.bash(&format!("echo up; sleep {mark}")).arg("--json").start();
        let process = wait_for("the program", seconds(20), || host::sleepers(mark).pop());
        kill_sandbox(stage, &process);
        let ran = live.finish();
        assert_eq!(ran.json()["verdict"], "sandbox_lost", "{ran:?}");
        assert_ne!(ran.code(), 0);
        ran.within(seconds(15));
        next_run_is_fine(stage);

        // None in the making: what is killed then is a create that fails.
        wait_until("warm sandboxes", seconds(20), || {
            let pools = stage.status()["pools"].clone();
            let all = pools.as_array().expect("a list");
            all.iter().any(|pool| pool["warm"].as_u64() > Some(0))
                && all.iter().all(|pool| pool["making"].as_u64() == Some(0))
        });
        for init in inits(stage) {
            rustix::process::kill_process(init.pid, Signal::KILL).ok();
        }
        for _ in 0..3 {
            next_run_is_fine(stage);
        }
    }

    /// SIGKILL at any moment: the next daemon finds and removes everything.
    fn a_crashed_daemon_leaves_nothing(stage: &Stage) {
        let mark = &stage.mark(70_070);
        // Moments from the first connection to well into the runs and their end.
        for moment in [0, 15, 60, 150, 300, 450, 700, 1100] {
            let code = format!("sleep 0.3; sleep {mark} & disown; exit 0");
            let long = format!("setsid sleep {mark} & sleep {mark}");
            let live = [stage.bash(&code).start(), stage.bash(&long).args(["--timeout", "3000"]).start(), stage.python("1").start()];
            std::thread::sleep(millis(moment));
            stage.crash_daemon();
            for run in live {
                let ran = run.finish();
                // One that dialled after the crash has started a daemon itself.
                assert!([0, 125, 137].contains(&ran.code()), "after {moment} ms: {ran:?}");
                ran.within(seconds(30));
            }
            // A client that found nobody has started a daemon of its own.
            stage.isol8(["daemon", "stop"]).go().within(seconds(30));
            stage.start_daemon();
            wait_until("the end of orphans", seconds(5), || host::sleepers(mark).is_empty());
        }
        next_run_is_fine(stage);
    }

    /// SIGTERM: what runs may end in its time; nothing new begins.
    fn shutdown_drains(stage: &Stage) {
        let live = stage.bash("echo up; sleep 1; echo down").start();
        live.until_stdout("up");
        let mark = &stage.mark(70_080);
        let endless = stage.bash(&format!("echo up; sleep {mark}")).args(["--timeout", "100000"]).start();
        endless.until_stdout("up");
        stage.stop_daemon();
        let ran = live.finish();
        assert!(ran.out().starts_with("up\n"), "{ran:?}");
        assert!([0, 125].contains(&ran.code()), "{ran:?}");
        assert_ne!(endless.finish().code(), 0);
        assert!(host::sleepers(mark).is_empty());
        stage.assert_nothing_left();
        stage.start_daemon();
        next_run_is_fine(stage);
    }

    /// F25: two daemons on one engine mind their own sandboxes.
    fn two_daemons_do_not_touch_each_other(stage: &Stage) {
        let mark = &stage.mark(70_090);
        let live = stage.bash(&format!("echo up; sleep {mark} & wait")).start();
        live.until_stdout("up");
        Stage::with(stage.engine(), |other| {
            next_run_is_fine(other);
            other.crash_daemon();
            other.start_daemon();
            next_run_is_fine(other);
        });
        assert_eq!(host::sleepers(mark).len(), 1, "the other daemon took it");
        next_run_is_fine(stage);
        drop(live);
    }
}

/// The PID 1 of every sandbox of a stage, seen from the host.
fn inits(stage: &Stage) -> Vec<host::Process> {
    let name = stage
        .folder()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let mut all = host::processes();
    all.retain(|process| {
        let pids = process.status("NSpid");
        let inside: Vec<&str> = pids.split_whitespace().collect();
        inside.len() > 1 && inside.last() == Some(&"1") && process.mounts().contains(&name)
    });
    all
}

fn kill_sandbox(stage: &Stage, process: &host::Process) {
    let namespace = |process: &host::Process| {
        fs::read_link(format!("/proc/{}/ns/pid", process.pid.as_raw_nonzero())).ok()
    };
    let mut inits = inits(stage);
    inits.retain(|init| namespace(init) == namespace(process));
    let [init] = inits.as_slice() else {
        panic!("one PID 1: {inits:?}");
    };
    rustix::process::kill_process(init.pid, Signal::KILL).expect("it lives");
}

/// F16: the disk below the state folder is full, and heals.
#[test]
fn a_full_disk_is_a_typed_failure() {
    Stage::without_daemon(Engine::Native, json!({}), |stage| {
        let state = stage.folder().join("state");
        fs::create_dir(&state).expect("the folder is ours");
        let at = state.to_str().expect("text");
        drop(host::tool(
            "mount",
            &["-t", "tmpfs", "-o", "size=16m,mode=711", "none", at],
        ));
        let _unmount = Unmount(at.to_owned());
        stage.start_daemon();
        next_run_is_fine(stage);
        let filler = state.join("filler");
        let mut fill = Command::new("dd");
        fill.args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", filler.display()));
        assert!(
            !fill.output().expect("dd is there").status.success(),
            "the disk is full"
        );
        for _ in 0..3 {
            let ran = stage.bash("echo fine").go();
            match ran.code() {
                0 => assert_eq!(ran.out(), "fine\n"),
                _ => drop(ran.ended(125).says("space")),
            }
        }
        // A daemon that starts on a full disk says so or serves.
        stage.stop_daemon();
        let mut child = stage.spawn_daemon(|_| {});
        wait_until("an answer or an end", seconds(20), || {
            stage.answers() || child.try_wait().is_ok_and(|status| status.is_some())
        });
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            assert!(
                stage.log().to_lowercase().contains("space"),
                "{}",
                stage.log()
            );
        } else {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, Signal::TERM).expect("it lives");
            child.wait().expect("it is ours");
        }
        fs::remove_file(filler).expect("room again");
        stage.start_daemon();
        next_run_is_fine(stage);
        stage.stop_daemon();
    });
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l", &self.0]).output());
    }
}

/// F09: far more at once than may run: a bounded queue, typed refusals, and
/// everything is back to normal afterwards.
#[test]
fn a_burst_waits_or_is_refused() {
    Stage::with_config(Engine::Native, json!({"maxConcurrent": 2}), |stage| {
        next_run_is_fine(stage);
        let all: Vec<_> = (0..40)
            .map(|n| (n, stage.bash(&format!("sleep 0.1; echo {n}")).start()))
            .collect();
        for (n, run) in all {
            let ran = run.finish();
            match ran.code() {
                0 => assert_eq!(ran.out(), format!("{n}\n")),
                _ => drop(ran.ended(125).says("queue")),
            }
        }
        next_run_is_fine(stage);
        let status = stage.status();
        assert_eq!(
            (&status["runsInFlight"], &status["runsQueued"]),
            (&json!(0), &json!(0))
        );
    });
}
