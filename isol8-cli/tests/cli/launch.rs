//! Starting a daemon: once, detached, and with a reason if it does not start.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use expect_test::expect;

use crate::{
    cli::{command, finish, program, spawn, wait_for},
    fake::Fake,
};

/// A copy of `isol8` with this script beside it as `isol8d`.
fn installed(home: &Path, script: &str) -> PathBuf {
    let folder = home.join("bin");
    fs::create_dir(&folder).expect("room");
    let isol8 = folder.join("isol8");
    let built = env!("CARGO_BIN_EXE_isol8");
    if fs::hard_link(built, &isol8).is_err() {
        fs::copy(built, &isol8).expect("room");
    }
    let daemon = folder.join("isol8d");
    fs::write(&daemon, format!("#!/bin/sh\n{script}\n")).expect("room");
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).expect("it is ours");
    isol8
}

#[test]
fn a_daemon_is_started_and_waited_for() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let script = "cut -d' ' -f1,6 /proc/$$/stat > session
        ls /proc/$$/fd > fds; env > env; pwd > cwd; mv cwd started; sleep 600";
    let script = format!("cd {}; {script}", home.display());
    let isol8 = installed(home, &script);
    let mut command = program(isol8, home, &["run", "-e", "1"]);
    command.env("HUNTER", "hunter2");
    let child = spawn(command);
    wait_for("the daemon to start", || home.join("started").exists());
    fake.listen();
    assert_eq!(finish(child).told(), "0\n");

    let read = |name| fs::read_to_string(home.join(name)).expect("the daemon wrote it");
    let session = read("session");
    let (pid, leader) = session.trim().split_once(' ').expect("two numbers");
    assert_eq!(pid, leader, "it leads a session of its own");
    let env = read("env");
    assert!(!env.contains("hunter2"), "{env}");
    assert!(env.contains("ISOL8_SOCKET="), "{env}");
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.expect("a pid");
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).expect("it lives");
}

#[test]
fn what_we_inherited_is_not_the_daemons() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let here = home.display();
    let script = format!("cd {here}; ls /proc/$$/fd | tr '\\n' ' ' > fds; exit 9");
    let isol8 = installed(home, &script);
    let line = format!("exec {} run -e 1 7>{here}/held 8<&0", isol8.display());
    let done = finish(spawn(program("sh", home, &["-c", &line])));
    assert_eq!(done.code, 125);
    let open = fs::read_to_string(home.join("fds")).expect("it was written");
    let beyond: Vec<&str> = open
        .split_whitespace()
        .filter(|fd| ["7", "8"].contains(fd))
        .collect();
    assert_eq!(beyond, Vec::<&str>::new(), "{open}");
}

#[test]
fn a_daemon_that_dies_is_explained_by_its_log() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let isol8 = installed(home, "echo starting; echo 'no bubblewrap here' >&2; exit 4");
    let done = finish(spawn(program(isol8, home, &["run", "-e", "1"])));
    expect![[r#"
        125
        error: cannot start the isol8 daemon
        cause: `isol8d` ended: exit status: 4
        cause: starting
        cause: no bubblewrap here
        hint: `isol8 doctor` checks this host; `isol8 daemon logs` shows the whole log
    "#]]
    .assert_eq(&done.told());
    let log = fs::read_to_string(home.join("state/isol8d.log")).expect("it is there");
    assert_eq!(log, "starting\nno bubblewrap here\n");
}

#[test]
fn a_daemon_that_lost_the_race_is_no_failure() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let script = format!("touch {}/lost; exit 3", home.display());
    let isol8 = installed(home, &script);
    let child = spawn(program(isol8, home, &["run", "-e", "1"]));
    wait_for("the loser", || home.join("lost").exists());
    fake.listen();
    assert_eq!(finish(child).told(), "0\n");
}

#[test]
fn a_path_that_the_kernel_cannot_take_is_told() {
    let fake = Fake::silent();
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command.env("ISOL8_SOCKET", format!("/tmp/{}.sock", "x".repeat(120)));
    let done = finish(spawn(command));
    assert_eq!(done.code, 125);
    let expected = "cause: it has 130 bytes, and the kernel takes 107";
    assert!(done.stderr.contains(expected), "{}", done.stderr);
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let isol8 = installed(home, "exit 0");
    fs::write(home.join("state"), "a file").expect("room");
    let done = finish(spawn(program(isol8, home, &["run", "-e", "1"])));
    assert_eq!(done.code, 125);
    let expected = "error: cannot start the isol8 daemon\ncause: cannot write its log";
    assert!(done.stderr.starts_with(expected), "{}", done.stderr);
}

#[test]
fn commands_that_only_look_start_nothing() {
    let fake = Fake::silent();
    let home = fake.folder.path();
    let isol8 = installed(home, "touch \"$HOME/started\"");
    let status = finish(spawn(program(&isol8, home, &["status"])));
    assert_eq!(status.code, 125);
    let expected = "hint: start it with `isol8 daemon start`";
    assert!(status.stderr.contains(expected), "{}", status.stderr);
    let stop = finish(spawn(program(&isol8, home, &["daemon", "stop"])));
    assert_eq!((stop.code, stop.text()), (0, "isol8d was not running\n"));
    let logs = finish(spawn(program(&isol8, home, &["daemon", "logs"])));
    assert_eq!(logs.code, 125);
    assert!(!home.join("started").exists());
}
