//! A parked interpreter between its start and its program.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use isol8_core::{env, park, runtime::Runtime};
use isol8_proto::init::{Command, Exec, KillAll, Prepare, exited::How, from_init, to_init};

use nix::{
    sys::signal::{Signal::SIGKILL, kill},
    unistd::Pid,
};

use super::{interpreter, words};
use crate::rig::{Rig, bash, plain, wait_for};

/// A script that counts processes: init and itself are two.
const COUNT: &str = "set -- /proc/[0-9]*; echo $#";

fn parked_python() -> Command {
    let plan = park::plan(Runtime::Python, &interpreter(Runtime::Python)).expect("python parks");
    let mut env = env::base(&env::Surroundings::alone("/usr/bin:/bin"));
    env.extend(plan.extra_env);
    words(&plan.argv, &env, "/sandbox")
}

fn python() -> Command {
    let argv = Runtime::Python.command_line(&interpreter(Runtime::Python), "/sandbox/main.py");
    words(
        &argv,
        &env::base(&env::Surroundings::alone("/usr/bin:/bin")),
        "/sandbox",
    )
}

fn use_parked(command: Command) -> Exec {
    Exec {
        use_parked: true,
        ..plain(command)
    }
}

#[test]
fn a_parked_interpreter_makes_way_for_a_plain_start() {
    let mut rig = Rig::start();
    assert!(rig.prepare(Some(parked_python())));
    assert_eq!(rig.bash(COUNT).stdout, "2\n");
}

#[test]
fn one_that_died_is_replaced_by_a_plain_start() {
    for from_inside in [false, true] {
        let mut rig = Rig::start();
        assert!(rig.prepare(Some(parked_python())));
        let tree = crate::rig::descendants(rig.jail_pid());
        if from_inside {
            rig.send(to_init::Message::KillAll(KillAll {}));
        } else {
            let parked = *tree.last().expect("init and python");
            let parked = Pid::from_raw(i32::try_from(parked).expect("a pid"));
            kill(parked, SIGKILL).expect("killed");
            assert!(wait_for(
                || crate::rig::descendants(rig.jail_pid()).len() < tree.len()
            ));
        }
        rig.put("main.py", b"print('plainly')").expect("written");
        assert_eq!(rig.exec(use_parked(python())), Ok(false));
        assert_eq!(rig.outcome().stdout, "plainly\n");
    }
}

#[track_caller]
fn check_unfit(script: &str) {
    let mut rig = Rig::start();
    assert!(!rig.prepare(Some(bash(script))), "{script}");
    assert_eq!(rig.exec(use_parked(bash(COUNT))), Ok(false));
    assert_eq!(rig.outcome().stdout, "2\n", "{script}");
}

#[test]
fn one_that_does_not_wait_quietly_is_not_used() {
    check_unfit("exit 0");
    check_unfit("echo a warning >&2; printf x >&$ISOL8_PARK_FD; sleep 60");
    check_unfit("echo hello; printf x >&$ISOL8_PARK_FD; sleep 60");
    check_unfit("eval \"exec $ISOL8_PARK_FD>&-\"; sleep 60");
}

#[test]
fn one_that_cannot_start_is_none() {
    let mut rig = Rig::start();
    let nothing = crate::rig::command(&["/no/such"], &BTreeMap::new(), "/");
    assert!(!rig.prepare(Some(nothing)));
    assert!(!rig.prepare(None));
    assert_eq!(rig.bash("echo on").stdout, "on\n");
}

#[test]
fn one_that_speaks_after_it_said_that_it_waits_is_not_used() {
    let mut rig = Rig::start();
    let late = "printf x >&$ISOL8_PARK_FD; sleep 0.3; echo late; touch spoke; sleep 60";
    assert!(rig.prepare(Some(bash(late))));
    assert!(wait_for(
        || crate::names::names(&mut rig, "", 1).contains("spoke")
    ));
    assert_eq!(rig.exec(use_parked(bash("echo clean"))), Ok(false));
    assert_eq!(rig.outcome().stdout, "clean\n");
}

#[test]
fn a_program_that_comes_early_waits_for_it() {
    let mut rig = Rig::start();
    rig.send(to_init::Message::Prepare(Prepare {
        parked: Some(parked_python()),
        ..Prepare::default()
    }));
    rig.send(to_init::Message::Exec(Exec {
        stdin: true,
        ..use_parked(python())
    }));
    rig.send(to_init::Message::CloseStdin(
        isol8_proto::init::CloseStdin {},
    ));
    assert!(matches!(rig.recv(), from_init::Message::Ready(ready) if ready.parked));
    assert!(matches!(rig.recv(), from_init::Message::Started(started) if started.parked));
    // There is no file, and python says so in its own words.
    let outcome = rig.outcome();
    assert!(
        outcome
            .stderr
            .contains("can't open file '/sandbox/main.py'"),
        "{outcome:?}"
    );
    assert_eq!(outcome.how, Some(How::Code(2)));
}

#[test]
fn what_was_killed_before_it_started_does_not_start() {
    let mut rig = Rig::start();
    rig.send(to_init::Message::Prepare(Prepare {
        parked: Some(bash("sleep 60")),
        ..Prepare::default()
    }));
    rig.send(to_init::Message::Exec(use_parked(bash("echo never"))));
    rig.send(to_init::Message::KillAll(KillAll {}));
    let mut seen = Vec::new();
    while let Some(message) = rig.recv_within(Duration::from_millis(300)) {
        seen.push(message);
    }
    let failed = |message: &_| matches!(message, from_init::Message::Failed(_));
    let begun = |message: &_| matches!(message, from_init::Message::Started(_));
    assert!(
        seen.iter().any(failed) && !seen.iter().any(begun),
        "{seen:?}"
    );
}

#[test]
fn a_folder_that_cannot_be_entered_fails_as_in_a_plain_start() {
    let mut rig = Rig::start();
    assert!(rig.prepare(Some(parked_python())));
    let mut command = python();
    command.cwd = "/no/such".into();
    let failed = rig.exec(use_parked(command)).expect_err("refused");
    assert_eq!(failed.kind(), isol8_proto::init::FailureKind::BadPath);
}

#[test]
fn packages_that_came_after_the_park_are_found() {
    let mut outcomes = vec![];
    for parked in [false, true] {
        let mut rig = Rig::start();
        assert_eq!(rig.prepare(parked.then(parked_python)), parked);
        let folder = rig_user_site();
        rig.put(&format!("{folder}/extra.py"), b"X = __file__")
            .expect("written");
        rig.put(
            &format!("{folder}/some.pth"),
            b"/sandbox/more\nimport sys; sys.pth_ran = True\n",
        )
        .expect("written");
        rig.put("more/further.py", b"Y = 2").expect("written");
        rig.put(
            "main.py",
            b"import sys, extra, further\nprint(sys.path, extra.X, further.Y, sys.pth_ran)",
        )
        .expect("written");
        let exec = Exec {
            use_parked: parked,
            ..plain(python())
        };
        assert_eq!(rig.exec(exec), Ok(parked));
        outcomes.push(rig.outcome());
    }
    assert_eq!(outcomes[0].stderr, "");
    assert_eq!(outcomes[0], outcomes[1]);
}

/// The user site of the interpreter, relative to /sandbox.
fn rig_user_site() -> String {
    let mut rig = Rig::start();
    rig.put("main.py", b"import site; print(site.getusersitepackages())")
        .expect("written");
    rig.start_command(python());
    let path = rig.outcome().stdout;
    path.trim()
        .strip_prefix("/sandbox/")
        .expect("below /sandbox")
        .to_owned()
}

#[test]
fn a_parked_python_and_its_init_are_small() {
    let mut rig = Rig::start();
    assert!(rig.prepare(Some(parked_python())));
    let pss = |pid: u32| -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find(|line| line.starts_with("Pss:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    let tree = crate::rig::descendants(rig.jail_pid());
    let sizes: Vec<_> = tree.iter().map(|pid| pss(*pid)).collect();
    // An unprivileged test cannot look at init, which is not dumpable.
    assert!(sizes.iter().any(|kib| *kib > 1000), "{tree:?} {sizes:?}");
    assert!(
        sizes.iter().sum::<u64>() <= 15 << 10,
        "{tree:?} {sizes:?} KiB"
    );
}

#[test]
fn the_end_of_the_stream_ends_a_parked_interpreter() {
    let mut rig = Rig::start();
    assert!(rig.prepare(Some(parked_python())));
    let tree = crate::rig::descendants(rig.jail_pid());
    assert!(tree.len() >= 2, "{tree:?}");
    rig.hang_up();
    let start = Instant::now();
    assert!(wait_for(|| tree
        .iter()
        .all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true))));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn it_goes_on_waiting_when_its_daemon_is_gone() {
    let mut rig = Rig::lasting();
    assert!(rig.prepare(Some(parked_python())));
    assert!(rig.meet_again().parked);
    rig.put("main.py", b"print('still there')")
        .expect("written");
    assert!(rig.exec(use_parked(python())).expect("started"));
    assert_eq!(rig.outcome().stdout, "still there\n");
    assert!(!rig.meet_again().parked);
}

#[test]
fn an_order_of_a_daemon_that_is_gone_does_not_use_it_up() {
    let mut rig = Rig::lasting();
    // Never says that it waits.
    rig.send(to_init::Message::Prepare(Prepare {
        parked: Some(bash("sleep 60")),
        ..Prepare::default()
    }));
    rig.send(to_init::Message::Exec(use_parked(bash("touch started"))));
    assert!(rig.meet_again().parked);
    assert_eq!(rig.bash("ls").stdout, "");
}

#[test]
fn one_that_nobody_waits_for_any_more_costs_no_processor() {
    let mut rig = Rig::lasting();
    let slow = "sleep 0.3; printf x >&$ISOL8_PARK_FD; touch said; sleep 60";
    rig.send(to_init::Message::Prepare(Prepare {
        parked: Some(bash(slow)),
        ..Prepare::default()
    }));
    assert!(rig.meet_again().parked);
    // A program that looked would take its place.
    assert!(wait_for(
        || crate::names::names(&mut rig, "", 1).contains("said")
    ));
    let (before, _) = rig.usage();
    std::thread::sleep(Duration::from_millis(300));
    let (after, _) = rig.usage();
    assert!(after - before <= 2, "{before} ticks, then {after}");
    // What it said is found when it is needed.
    assert_eq!(rig.exec(use_parked(bash("true"))), Ok(true));
}
