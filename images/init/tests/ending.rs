//! How programs end, and what they leave.

use std::time::{Duration, Instant};

use isol8_proto::init::{KillAll, exited::How, from_init, to_init};

use crate::rig::{Rig, bash};

#[test]
fn exit_codes_are_the_programs_own() {
    let mut rig = Rig::start();
    for code in [0, 1, 42, 127, 128, 255] {
        assert_eq!(rig.bash(&format!("exit {code}")).how, Some(How::Code(code)));
    }
}

#[test]
fn a_death_by_signal_is_one() {
    let mut rig = Rig::start();
    for signal in [1, 2, 6, 9, 11, 15] {
        let outcome = rig.bash(&format!("ulimit -c 0; kill -{signal} $$; sleep 60"));
        assert_eq!(outcome.how, Some(How::Signal(signal)));
    }
    assert_eq!(
        rig.bash("kill -PIPE $$; sleep 60").how,
        Some(How::Signal(13))
    );
}

#[test]
fn usage_is_that_of_the_program_and_its_children() {
    let mut rig = Rig::start();
    rig.start_command(bash(
        "for i in $(seq 100000); do :; done; head -c 50000000 /dev/zero | tail -c 40000000 | wc -c",
    ));
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let exited = rig.drain(&mut stdout, &mut stderr);
    assert!(exited.user_us > 1_000, "{exited:?}");
    assert!(exited.max_rss_bytes > 30_000_000, "{exited:?}");
}

#[test]
fn signals_go_to_the_whole_group() {
    let mut rig = Rig::start();
    rig.start_command(bash(
        "trap 'wait; echo parent; exit 7' INT
         (trap 'echo child; exit' INT; echo ready; while :; do sleep 0.05; done) &
         while :; do sleep 0.05; done",
    ));
    rig.wait_for_output("ready\n");
    rig.signal(2);
    let outcome = rig.outcome();
    assert!(
        outcome.stdout.contains("child\n") && outcome.stdout.ends_with("parent\n"),
        "{outcome:?}"
    );
    assert_eq!(outcome.how, Some(How::Code(7)));
}

#[test]
fn numbers_that_are_no_signals_change_nothing() {
    let mut rig = Rig::start();
    rig.start_command(bash("echo ready; sleep 0.2; echo unharmed"));
    rig.wait_for_output("ready\n");
    for number in [0, -1, -9, 65, i32::MAX, i32::MIN] {
        rig.signal(number);
    }
    assert_eq!(rig.outcome().stdout, "unharmed\n");
}

#[test]
fn children_that_hold_the_pipes_do_not_hold_the_run() {
    let mut rig = Rig::start();
    let start = Instant::now();
    let outcome =
        rig.bash("sleep 60 & (while :; do echo noise; sleep 0.01; done) & echo hi; exit 3");
    assert!(outcome.stdout.contains("hi\n"));
    assert_eq!(outcome.how, Some(How::Code(3)));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_child_that_floods_does_not_hold_the_end() {
    let mut rig = Rig::start();
    rig.start_command(bash("cat /dev/zero & sleep 0.1; exit 5"));
    let (mut stdout, mut stderr) = (vec![], vec![]);
    assert_eq!(rig.drain(&mut stdout, &mut stderr).how, Some(How::Code(5)));
}

#[test]
fn what_was_written_last_is_complete() {
    let mut rig = Rig::start();
    for _ in 0..20 {
        let script = "import os; os.write(2, b'e' * 60000); os.write(1, b'x' * 60000); os._exit(0)";
        rig.start_command(bash(&format!("exec /usr/bin/python3 -c \"{script}\"")));
        let outcome = rig.outcome();
        assert_eq!(
            (outcome.stdout.len(), outcome.stderr.len()),
            (60_000, 60_000)
        );
    }
}

#[test]
fn orphans_are_reaped() {
    let mut rig = Rig::start();
    let orphan = "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05' &) ; done";
    let outcome = rig.bash(&format!(
        "{orphan}; sleep 0.5; grep -l 'State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
    ));
    assert_eq!(outcome.stdout, "0\n");
}

#[test]
fn kill_all_reaches_other_sessions_and_leaves_init() {
    let mut rig = Rig::start();
    rig.start_command(bash(
        "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM; sleep 60 & sleep 60' & \
         setsid setsid sleep 60 & echo ready; while :; do sleep 1; done",
    ));
    rig.wait_for_output("ready\n");
    rig.send(to_init::Message::KillAll(KillAll {}));
    assert_eq!(rig.outcome().how, Some(How::Signal(9)));
    rig.becomes_empty();
}

#[test]
fn kill_all_ends_a_fork_bomb() {
    let mut rig = Rig::start();
    rig.start_bomb();
    rig.send(to_init::Message::KillAll(KillAll {}));
    let start = Instant::now();
    let (mut stdout, mut stderr) = (vec![], vec![]);
    rig.drain(&mut stdout, &mut stderr);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    rig.becomes_empty();
}

#[test]
fn the_end_of_the_stream_ends_everything() {
    let mut rig = Rig::start();
    rig.start_command(bash("trap '' TERM; echo ready; setsid sleep 60 & sleep 60"));
    rig.wait_for_output("ready\n");
    rig.hang_up();
    assert!(rig.wait_for_end());
}

#[test]
fn a_message_of_nonsense_ends_everything() {
    for nonsense in [&b"\xff\xff\xff\xff"[..], b"\x04\0\0\0\xff\xff\xff\xff"] {
        let mut rig = Rig::start();
        rig.send_raw(nonsense);
        assert!(rig.wait_for_end());
    }
}

#[test]
fn a_message_of_the_future_is_passed_over() {
    let mut rig = Rig::start();
    // Field 15, a varint.
    rig.send_raw(b"\x02\0\0\0\x78\x01");
    assert_eq!(rig.bash("echo on").stdout, "on\n");
    assert!(!matches!(
        rig.recv_within(Duration::from_millis(50)),
        Some(from_init::Message::Exited(_))
    ));
}
