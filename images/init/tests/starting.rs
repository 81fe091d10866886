//! From a command to a process.

use std::collections::BTreeMap;

use isol8_proto::init::{CloseStdin, EnvVar, FailureKind, KillAll, exited::How, to_init};

use crate::rig::{Rig, bash, command, plain, wait_for};

#[test]
fn a_program_says_hello() {
    let outcome = Rig::start().bash("echo out; echo err >&2");
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(outcome.how, Some(How::Code(0)));
}

#[test]
fn a_program_gets_argv_env_and_folder_as_they_are() {
    let mut rig = Rig::start();
    let script = r#"printf '%s|' "$0" "$@" "$A" "$PWD"; env -0 | sort -z | tr '\0' '\n'"#;
    let env = BTreeMap::from([("A".to_owned(), "x=\n y".to_owned())]);
    let mut exec = command(
        &["/bin/bash", "-c", script, "zero", "", "ä $x"],
        &env,
        "/tmp",
    );
    exec.env.push(EnvVar {
        name: "PATH".into(),
        value: "/usr/bin".into(),
    });
    exec.env.push(EnvVar {
        name: "RAW".into(),
        value: b"\xff\xfe"[..].into(),
    });
    rig.start_command(exec);
    let (mut stdout, mut stderr) = (vec![], vec![]);
    rig.drain(&mut stdout, &mut stderr);
    let expected =
        b"zero||\xc3\xa4 $x|x=\n y|/tmp|A=x=\n y\nPATH=/usr/bin\nPWD=/tmp\nRAW=\xff\xfe\n";
    let stdout: Vec<_> = String::from_utf8_lossy(&stdout)
        .lines()
        .filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("_="))
        .map(str::to_owned)
        .collect();
    let expected: Vec<_> = String::from_utf8_lossy(expected)
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(stdout, expected);
}

#[test]
fn a_program_starts_with_default_signals_and_its_own_session() {
    let mut rig = Rig::start();
    rig.start_command(command(
        &["/bin/cat", "/proc/self/status"],
        &BTreeMap::new(),
        "/",
    ));
    let outcome = rig.outcome();
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = format!("{mask}:\t0000000000000000\n");
        assert!(outcome.stdout.contains(&line), "{}", outcome.stdout);
    }
    let outcome = Rig::start().bash("cut -d' ' -f5,6 /proc/$$/stat; echo $$ $$; umask; ulimit -Hc");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], lines[1], "group and session are its own");
    assert_eq!(lines[2], "0022");
    assert_eq!(lines[3], "0", "a core limit of one byte is zero blocks");
}

#[test]
fn a_program_has_three_descriptors() {
    let mut rig = Rig::start();
    rig.start_command(command(
        &["/bin/ls", "/proc/self/fd"],
        &BTreeMap::new(),
        "/",
    ));
    // The fourth is ls's own, for the folder.
    assert_eq!(rig.outcome().stdout, "0\n1\n2\n3\n");
}

#[test]
fn a_program_is_killed_before_init_when_memory_is_full() {
    let mut rig = Rig::start_with(&[], &["/usr/bin/choom", "-n", "500", "--"]);
    let score = "cat /proc/self/oom_score_adj /proc/1/oom_score_adj";
    assert_eq!(rig.bash(score).stdout, "1000\n500\n");
    // Nor is a program that nobody waits for any other.
    let detached = format!("setsid bash -c '{score}' & wait");
    assert_eq!(rig.bash(&detached).stdout, "1000\n500\n");
}

#[track_caller]
fn check_failure(argv: &[&str], path: Option<&str>, cwd: &str, expected: FailureKind) {
    let mut rig = Rig::start();
    rig.put("plain.txt", b"no program").expect("written");
    let env = path
        .map(|path| ("PATH".to_owned(), path.to_owned()))
        .into_iter()
        .collect();
    let failed = rig
        .exec(plain(command(argv, &env, cwd)))
        .expect_err("refused");
    assert_eq!(failed.kind(), expected, "{failed:?}");
    // It goes on working.
    assert_eq!(rig.bash("echo still").stdout, "still\n");
}

#[test]
fn what_is_not_there_is_not_found() {
    check_failure(&["/no/such"], None, "/", FailureKind::NotFound);
    check_failure(
        &["no-such"],
        Some("/usr/bin:/bin"),
        "/",
        FailureKind::NotFound,
    );
    check_failure(&["bash"], None, "/", FailureKind::NotFound);
}

#[test]
fn what_cannot_run_is_not_executable() {
    check_failure(
        &["/sandbox/plain.txt"],
        None,
        "/",
        FailureKind::NotExecutable,
    );
    check_failure(&["/usr"], None, "/", FailureKind::NotExecutable);
    check_failure(
        &["plain.txt"],
        Some("/sandbox:/nowhere"),
        "/",
        FailureKind::NotExecutable,
    );
}

#[test]
fn a_folder_that_cannot_be_entered_is_a_bad_path() {
    check_failure(&["/bin/true"], None, "/no/folder", FailureKind::BadPath);
    check_failure(
        &["/bin/true"],
        None,
        "/sandbox/plain.txt",
        FailureKind::BadPath,
    );
}

#[test]
fn one_program_at_a_time() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash("cat"));
    let failed = rig.exec(plain(bash("echo second"))).expect_err("refused");
    assert_eq!(failed.errno, 16, "{failed:?}");
    rig.send(to_init::Message::CloseStdin(CloseStdin {}));
    assert_eq!(rig.outcome().how, Some(How::Code(0)));
    assert_eq!(rig.bash("echo next").stdout, "next\n");
}

#[test]
fn a_process_limit_that_is_reached_is_named_and_survived() {
    let mut rig = Rig::start_with(&[], &["/usr/bin/prlimit", "--nproc=40"]);
    // The children go on forking when the main process is gone.
    let bomb = "import os, time
if os.fork():
    time.sleep(0.3)
    os._exit(0)
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001)
";
    rig.put("bomb.py", bomb.as_bytes()).expect("written");
    rig.start_command(bash("exec /usr/bin/python3 bomb.py"));
    assert_eq!(rig.outcome().how, Some(How::Code(0)));
    let mut refused = None;
    assert!(wait_for(|| match rig.exec(plain(bash("exit"))) {
        // It found the place that the main process left.
        Ok(_) => {
            rig.outcome();
            false
        }
        Err(failed) => {
            refused = Some(failed);
            true
        }
    }));
    let refused = refused.expect("just set");
    assert_eq!(
        (refused.kind(), refused.errno),
        (FailureKind::NoProcess, 11)
    );
    rig.send(to_init::Message::KillAll(KillAll {}));
    assert!(wait_for(|| rig.exec(plain(bash("echo room"))).is_ok()));
    assert_eq!(rig.outcome().stdout, "room\n");
}
