//! Sandboxes that outlive their daemon.

use std::{
    collections::BTreeMap,
    fs,
    io::IoSliceMut,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use isol8_proto::init::{Credit, Exec, File, KillRun, Prepare, exited::How, from_init, to_init};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::{
    fetch,
    rig::{Rig, bash, command, descendants, plain, wait_for},
};

#[test]
fn what_was_in_flight_ends_and_what_was_left_before_lives() {
    let mut rig = Rig::lasting();
    rig.bash("sleep 70 & disown");
    rig.start_command(bash(
        "trap '' TERM HUP; sleep 71 & setsid sleep 72 & set -m; sleep 73 &
         until [ $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$') = 4 ]; do :; done
         echo ready; wait",
    ));
    rig.wait_for_output("ready\n");
    rig.send(to_init::Message::File(File {
        path: "half".into(),
        data: "half of it".into(),
        ..File::default()
    }));
    // What is in the stream before it ends is heard or not; this was.
    rig.send(to_init::Message::KillRun(KillRun {}));
    rig.outcome();
    assert_eq!(
        rig.bash("ls -A | sed 's/[0-9a-f]\\{16\\}//'").stdout,
        ".isol8-\n"
    );
    rig.start_command(bash(
        "sleep 74 & (setsid sleep 75 &)
         until [ $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$') = 3 ]; do :; done
         echo ready; wait",
    ));
    rig.wait_for_output("ready\n");

    let hello = rig.meet_again();
    assert!(hello.lasting);
    // The last one has detached itself.
    rig.sleepers_become("sleep 70 \nsleep 75 \n");
    assert_eq!(rig.bash("ls -A").stdout, "");
}

#[test]
fn only_the_run_in_flight_is_killed() {
    let mut rig = Rig::lasting();
    rig.bash("sleep 70 & (setsid sleep 71 &); disown");
    rig.start_command(bash(
        "sleep 72 & setsid sleep 73 &
         until [ $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$') = 4 ]; do :; done
         echo ready; wait",
    ));
    rig.wait_for_output("ready\n");
    rig.send(to_init::Message::KillRun(KillRun {}));
    assert_eq!(rig.outcome().how, Some(How::Signal(9)));
    rig.sleepers_become("sleep 70 \nsleep 71 \n");
    // What was said to have ended is no run any more.
    rig.bash("sleep 74 & disown");
    rig.send(to_init::Message::KillRun(KillRun {}));
    rig.sleepers_become("sleep 70 \nsleep 71 \nsleep 74 \n");
}

#[test]
fn a_run_whose_last_output_is_owed_is_still_in_flight() {
    for hang_up in [false, true] {
        let mut rig = Rig::lasting();
        rig.exec(Exec {
            stdout_credit: 0,
            ..plain(bash("sleep 70 & echo out"))
        })
        .expect("started");
        let init = descendants(rig.jail_pid())[0];
        let comm = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm"));
        let sleeps = |pid: &u32| comm(pid).is_ok_and(|name| name == "sleep\n");
        assert!(wait_for(|| {
            let there = descendants(init);
            there.len() == 1 && there.iter().all(sleeps)
        }));
        if hang_up {
            rig.meet_again();
        } else {
            rig.send(to_init::Message::KillRun(KillRun {}));
            rig.credit(1000, 0);
            let outcome = rig.outcome();
            assert_eq!(
                (outcome.stdout.as_str(), outcome.how),
                ("out\n", Some(How::Code(0)))
            );
        }
        rig.sleepers_become("");
    }
}

#[test]
fn each_run_has_the_environment_and_the_folder_that_it_is_given() {
    let mut rig = Rig::lasting();
    let look = "pwd; env | sort; umask; ulimit -n; echo ${LEFT-none}";
    let first = rig.bash(look);
    assert!(first.stdout.starts_with("/sandbox\n"), "{first:?}");
    assert!(first.stdout.ends_with("none\n"), "{first:?}");
    let leave = "export LEFT=1 PATH=/tmp PWD=/tmp; cd /tmp; umask 077; ulimit -n 50; echo $LEFT";
    assert_eq!(rig.bash(leave).stdout, "1\n");
    assert_eq!(rig.bash(look), first);
    let env = BTreeMap::from([("GIVEN".to_owned(), "2".to_owned())]);
    rig.start_command(command(
        &["/bin/bash", "-c", "echo $GIVEN ${LEFT-none}; pwd"],
        &env,
        "/tmp",
    ));
    assert_eq!(rig.outcome().stdout, "2 none\n/tmp\n");
    rig.meet_again();
    assert_eq!(rig.bash(look), first);
}

#[test]
fn what_earlier_runs_left_goes_on_and_is_not_heard() {
    let mut rig = Rig::lasting();
    let past = "(while :; do echo past; echo past >&2; : > beat; done) & disown; echo first";
    // It may be heard until its run has ended.
    assert!(rig.bash(past).stdout.contains("first\n"));
    let present = "for i in 1 2; do rm -f beat; until [ -e beat ]; do :; done; done; echo present";
    let hear = |rig: &mut Rig| {
        let outcome = rig.bash(present);
        let streams = (outcome.stdout.as_str(), outcome.stderr.as_str());
        assert_eq!(streams, ("present\n", ""));
    };
    hear(&mut rig);
    rig.start_command(bash("echo ready; sleep 60"));
    rig.wait_for_output("ready\n");
    rig.send(to_init::Message::KillRun(KillRun {}));
    assert_eq!(rig.outcome().how, Some(How::Signal(9)));
    hear(&mut rig);
    rig.start_command(bash("echo ready; sleep 60"));
    rig.wait_for_output("ready\n");
    rig.meet_again();
    hear(&mut rig);
    rig.sleepers_become("");
}

#[test]
fn init_is_known_again_by_its_token() {
    let (mut rig, hello) = Rig::start_as(&["--lasting"]);
    assert!(hello.token.is_empty());
    let prepare = |rig: &mut Rig, token: &'static [u8]| {
        rig.send(to_init::Message::Prepare(Prepare {
            parked: None,
            token: token.into(),
        }));
        assert!(matches!(rig.recv(), from_init::Message::Ready(_)));
    };
    prepare(&mut rig, b"one");
    assert_eq!(rig.meet_again().token, &b"one"[..]);
    prepare(&mut rig, &[7; 64]);
    prepare(&mut rig, b"");
    assert_eq!(rig.meet_again().token, &[7; 64][..]);
    // One that is too long is no message.
    rig.send(to_init::Message::Prepare(Prepare {
        parked: None,
        token: vec![1; 65].into(),
    }));
    assert_eq!(rig.meet_again().token, &[7; 64][..]);
}

#[test]
fn nothing_of_the_old_stream_comes_with_the_new_one() {
    let mut rig = Rig::lasting();
    rig.bash("head -c 3000000 /dev/zero > big");
    // Output and data that nobody takes, a frame that is cut, and credit.
    rig.send(to_init::Message::Fetch(fetch::order("big")));
    rig.send(to_init::Message::Exec(plain(bash(
        "head -c 3000000 /dev/zero",
    ))));
    rig.send(to_init::Message::Credit(Credit {
        stdout: 5,
        ..Credit::default()
    }));
    rig.send_raw(b"\xff\0\0\0\x0a");
    rig.meet_again();
    assert_eq!(rig.bash("echo on").stdout, "on\n");
    let (_, end) = fetch::fetch(&mut rig, fetch::order("big"));
    assert_eq!(end.expect("all of it").bytes, 3_000_000);
}

#[test]
fn nonsense_ends_the_stream_and_not_the_sandbox() {
    let mut rig = Rig::lasting();
    rig.put("kept", b"1").expect("written");
    rig.send_raw(b"\x04\0\0\0\xff\xff\xff\xff");
    rig.meet_again();
    assert_eq!(rig.bash("ls").stdout, "kept\n");
}

#[test]
fn orphans_of_the_time_alone_are_reaped() {
    let mut rig = Rig::lasting();
    rig.bash("(sleep 0.2 &); (sleep 0.3 &)");
    let init = descendants(rig.jail_pid())[0];
    rig.hang_up();
    assert!(wait_for(|| descendants(init).is_empty()));
    rig.meet_again();
}

#[test]
fn without_a_daemon_for_too_long_it_ends() {
    let (mut rig, _) = Rig::start_as(&["--lasting", "--orphan-ms", "400"]);
    rig.bash("sleep 60 & disown");
    let alone = Instant::now();
    rig.meet_again();
    // The time is counted anew.
    assert_eq!(rig.bash("echo on").stdout, "on\n");
    rig.hang_up();
    assert!(rig.wait_for_end());
    assert!(alone.elapsed() >= Duration::from_millis(400));
}

#[test]
fn who_hangs_up_at_once_is_not_called_in_a_hurry() {
    let mut rig = Rig::lasting();
    let listener = rig.listen();
    rig.hang_up();
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < Duration::from_secs(1) {
        rig.take_call(&listener);
        rig.hang_up();
        calls += 1;
    }
    // At 0, 50, 150, 350, 750 and 1550 ms.
    assert!((2..=7).contains(&calls), "{calls} calls");
    rig.take_call(&listener);
    assert!(matches!(rig.recv(), from_init::Message::Hello(_)));
    assert_eq!(rig.bash("echo on").stdout, "on\n");
}

/// Takes the listener that comes before the first frame; which one it is.
fn door(rig: &Rig) -> String {
    let mut mark = [0];
    let mut parts = [IoSliceMut::new(&mut mark)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let stream = rig.link().as_raw_fd();
    let got = recvmsg::<()>(stream, &mut parts, Some(&mut space), MsgFlags::empty())
        .expect("a descriptor");
    match got.cmsgs().expect("control messages").next() {
        Some(ControlMessageOwned::ScmRights(fds)) => {
            let link = fs::read_link(format!("/proc/self/fd/{}", fds[0]));
            link.expect("a descriptor").display().to_string()
        }
        other => panic!("{other:?} in place of a descriptor"),
    }
}

#[test]
fn the_listener_is_handed_over_to_every_daemon() {
    let mut rig = Rig::launch(&[], &[], &["--egress", "--lasting"]);
    let first = door(&rig);
    assert!(first.starts_with("socket:["), "{first}");
    assert!(matches!(rig.recv(), from_init::Message::Hello(_)));
    rig.hang_up();
    let listener = rig.listen();
    rig.take_call(&listener);
    assert_eq!(door(&rig), first);
    assert!(matches!(rig.recv(), from_init::Message::Hello(_)));
    assert_eq!(rig.bash("echo on").stdout, "on\n");
}

#[test]
fn background_processes_write_on() {
    let mut rig = Rig::lasting();
    let writer =
        "(until [ -e go ]; do :; done; head -c 300000 /dev/zero && touch written) & disown";
    rig.bash(writer);
    rig.bash(&format!("({writer}) >&2"));
    let seen = "touch go; until [ -e written ]; do :; done; echo on";
    assert_eq!(rig.bash(seen).stdout, "on\n");
    // And while there is no daemon.
    rig.bash("rm go written");
    rig.bash("(until [ -e go ]; do :; done; head -c 300000 /dev/zero && touch written) & (sleep 0.3; touch go) & disown");
    rig.meet_again();
    assert_eq!(
        rig.bash("until [ -e written ]; do :; done; echo on").stdout,
        "on\n"
    );
}

#[test]
fn what_does_not_last_breaks_the_pipes_of_the_past() {
    let mut rig = Rig::start();
    rig.bash("(until [ -e go ]; do :; done; head -c 300000 /dev/zero || touch broken) & disown");
    let seen = "touch go; until [ -e broken ]; do :; done; echo on";
    assert_eq!(rig.bash(seen).stdout, "on\n");
}

#[test]
fn the_oldest_of_too_many_pipes_are_closed() {
    let mut rig = Rig::lasting();
    for run in 0..33 {
        rig.bash(&format!(
            "(until [ -e go ]; do sleep 0.05; done
              if head -c 300000 /dev/zero; then touch whole{run}; else touch broken{run}; fi) & disown"
        ));
    }
    let seen =
        rig.bash("touch go; until [ $(ls | wc -l) = 34 ]; do sleep 0.05; done; ls -d broken*");
    assert_eq!(seen.stdout, "broken0\n");
}
