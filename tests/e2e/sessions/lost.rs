//! A sandbox that somebody else has destroyed: whoever comes next is told once
//! that everything is gone, and the one after begins anew.

use std::{fs, process::Command};

use isol8_e2e::harness::{
    host::{self, Process},
    stage::{Engine, Stage},
    wait::{seconds, wait_for, wait_until},
};
use rustix::process::{Pid, Signal, kill_process};

/// PID 1 of the sandbox in which `inside` is.
fn init_of(inside: &Process) -> Option<Process> {
    let namespace = |pid: Pid| fs::read_link(format!("/proc/{}/ns/pid", pid.as_raw_nonzero())).ok();
    let its = namespace(inside.pid)?;
    host::processes().into_iter().find(|process| {
        namespace(process.pid).as_ref() == Some(&its)
            && process.status("NSpid").split_whitespace().last() == Some("1")
    })
}

/// By hand, as an operator would.
#[track_caller]
fn destroy(stage: &Stage, inside: &str) {
    let process = wait_for("its process", seconds(10), || host::sleepers(inside).pop());
    match stage.engine() {
        Engine::Docker => {
            let cgroup =
                fs::read_to_string(format!("/proc/{}/cgroup", process.pid.as_raw_nonzero()));
            let cgroup = cgroup.expect("it lives");
            let id = cgroup
                .split(['/', '\n', '-', '.'])
                .find(|part| part.len() == 64);
            let mut docker = Command::new("docker");
            docker.args(["rm", "-f", id.expect("a container")]);
            assert!(docker.output().expect("docker is there").status.success());
        }
        Engine::Native => {
            let init = init_of(&process).expect("a jail has a PID 1");
            kill_process(init.pid, Signal::KILL).expect("it lives");
        }
    }
    wait_until("the end of all that was in it", seconds(10), || {
        host::sleepers(inside).is_empty()
    });
}

both_engines! {
    fn told_once_and_then_anew(stage: &Stage) {
        let work = stage.session("work");
        let mark = &stage.mark(70_140);
        let make = format!("echo kept > f; setsid sleep {mark} >/dev/null 2>&1 &");
        // With a daemon that sees it, and with none.
        for crashed in [false, true] {
            work.bash(&make).go().ok();
            let other = stage.session("other");
            other.bash("echo other > f").go().ok();
            if crashed {
                stage.crash_whoever_answers();
            }
            destroy(stage, mark);
            let told = work.bash("cat f").go();
            assert_eq!(told.ended(125).out(), "");
            told.says("lost").says("files").within(seconds(30));
            assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n", "a new one");
            assert_eq!(other.bash("cat f").go().ok(), "other\n", "nobody else's");
            work.remove();
            other.remove();
        }
        stage.stop_whoever_answers();
    }

    /// In the middle of a run: that run says so.
    fn under_a_run(stage: &Stage) {
        let work = stage.session("work");
        let mark = &stage.mark(70_141);
        let live = work.bash(&format!("echo up; sleep {mark}")).arg("--json").start();
        destroy(stage, mark);
        let ran = live.finish();
        assert_eq!(ran.ended(125).json()["verdict"], "sandbox_lost", "{ran:?}");
        // At most once more, and then anew.
        let next = work.bash("ls -A").go();
        if next.code() != 0 {
            next.ended(125).says("lost");
            assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        }
        work.remove();
    }

    /// Whoever copies or lists is told as well, and forgets nothing for the one
    /// who runs.
    fn copies_are_told_and_forget_nothing(stage: &Stage) {
        let work = stage.session("work");
        let mark = &stage.mark(70_142);
        work.bash(&format!("echo kept > f; setsid sleep {mark} >/dev/null 2>&1 &")).go().ok();
        destroy(stage, mark);
        let to = ["-".to_owned(), work.at("g")];
        for _ in 0..2 {
            work.cp(to.clone()).feed("x").go().ended(125).says("lost");
        }
        let info = work.info().expect("it is still listed");
        assert_eq!(info["state"], "lost");
        assert!(info["reason"].is_string(), "{info}");
        work.bash("true").go().ended(125).says("lost");
        assert!(work.info().is_none());
        work.rm().ended(125).says("no session");
        // One that is lost can be removed as well.
        work.bash(&format!("setsid sleep {mark} >/dev/null 2>&1 &")).go().ok();
        destroy(stage, mark);
        work.remove();
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n");
        work.remove();
    }
}
