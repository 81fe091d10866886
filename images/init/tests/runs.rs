//! The end of one run, and of nothing else.

use std::time::{Duration, Instant};

use isol8_proto::init::{Exec, KillRun, Prepare, exited::How, from_init, to_init};

use crate::rig::{Rig, bash, plain};

fn kill_run(rig: &mut Rig) {
    rig.send(to_init::Message::KillRun(KillRun {}));
}

#[test]
fn what_a_run_has_started_dies_and_what_is_detached_lives() {
    let mut rig = Rig::start();
    rig.bash("sleep 70 >/dev/null 2>&1 & disown");
    rig.start_command(bash(
        "trap '' TERM INT HUP
         sleep 71 &                  # of the session
         (sleep 72 &)                # without its parent
         setsid sleep 73 &           # of a session of its own
         setsid sh -c 'sleep 74; :' &
         (setsid sleep 75 &)         # of its own and without its parent: detached
         set -m; sleep 76 &          # of a group of its own
         (sleep 77 &)
         until [ $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$') = 8 ]; do :; done
         echo ready; wait",
    ));
    rig.wait_for_output("ready\n");
    kill_run(&mut rig);
    assert_eq!(rig.outcome().how, Some(How::Signal(9)));
    rig.sleepers_become("sleep 70 \nsleep 75 \n");
}

#[test]
fn a_fork_bomb_is_a_run_like_others() {
    let mut rig = Rig::start();
    rig.bash("sleep 70 >/dev/null 2>&1 & disown");
    rig.start_bomb();
    let start = Instant::now();
    kill_run(&mut rig);
    let (mut stdout, mut stderr) = (vec![], vec![]);
    rig.drain(&mut stdout, &mut stderr);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    rig.sleepers_become("sleep 70 \n");
    let alone = "until set -- /proc/[0-9]*; [ $# -le 3 ]; do :; done; echo alone";
    assert_eq!(rig.bash(alone).stdout, "alone\n");
}

#[test]
fn without_a_run_nothing_happens() {
    let mut rig = Rig::start();
    rig.bash("sleep 70 >/dev/null 2>&1 & disown");
    kill_run(&mut rig);
    rig.sleepers_become("sleep 70 \n");
}

#[test]
fn a_run_that_waits_for_its_interpreter_does_not_start() {
    let mut rig = Rig::start();
    rig.send(to_init::Message::Prepare(Prepare {
        parked: Some(bash("sleep 60")),
        ..Prepare::default()
    }));
    rig.send(to_init::Message::Exec(Exec {
        use_parked: true,
        ..plain(bash("echo never"))
    }));
    kill_run(&mut rig);
    match rig.recv() {
        from_init::Message::Failed(failed) => assert!(!failed.files, "{failed:?}"),
        other => panic!("expected Failed, got {other:?}"),
    }
}
