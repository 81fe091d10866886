//! Runs from start to end: order, verdicts, failures, what is asked for.

use std::fs;

use expect_test::expect;
use isol8_proto::v1::{ErrorDetail, Exited, Usage, Verdict};
use tonic::Code;

use crate::{
    cli::{command, finish, isol8, spawn},
    fake::{Fake, Run},
};

fn ending(exited: Exited) -> Fake {
    Fake::new(move |run: Run| {
        let exited = exited.clone();
        async move {
            run.accept().await;
            run.exit(exited).await;
        }
    })
}

fn verdict(verdict: Verdict) -> Exited {
    Exited {
        verdict: verdict.into(),
        ..Exited::default()
    }
}

#[test]
fn both_streams_come_in_their_order() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        for (out, err) in [("one ", "two "), ("three ", "four ")] {
            run.stdout(out).await;
            run.stderr(err).await;
        }
        run.stdout("five\n").await;
        run.code(0).await;
    });
    let file = fs::File::create(fake.path("both")).expect("room");
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command
        .stdout(file.try_clone().expect("a copy"))
        .stderr(file);
    assert_eq!(finish(spawn(command)).code, 0);
    let both = fs::read_to_string(fake.path("both")).expect("it is there");
    assert_eq!(both, "one two three four five\n");
}

#[test]
fn the_programs_code_is_ours() {
    for code in [0, 1, 2, 125, 255] {
        let fake = Fake::new(move |run: Run| run.simple(code));
        let done = isol8(&fake, &["run", "-e", "1"]);
        assert_eq!(done.told(), format!("{code}\n"));
    }
}

#[test]
fn every_verdict_is_told() {
    let signalled = Exited {
        signal: Some(9),
        ..verdict(Verdict::Signalled)
    };
    assert_eq!(
        isol8(&ending(signalled), &["run", "-e", "1"]).told(),
        "137\n"
    );
    let told = |ended, args: &[&str]| isol8(&ending(verdict(ended)), args).told();
    let run = ["run", "-e", "1"];
    expect![[r#"
        137
        error: the run was killed: the time limit of 250 ms was over
        hint: allow more with `--timeout <ms>`
    "#]]
    .assert_eq(&told(
        Verdict::TimedOut,
        &["run", "-e", "1", "--timeout", "250"],
    ));
    expect![[r#"
        137
        error: the run was killed: the memory limit was reached
        hint: allow more with `--memory <size>`; files in /sandbox and /tmp count
    "#]]
    .assert_eq(&told(Verdict::OomKilled, &run));
    expect![[r#"
        125
        error: the run was cancelled
        hint: `isol8 daemon logs` may say more
    "#]]
    .assert_eq(&told(Verdict::Cancelled, &run));
    expect![[r#"
        125
        error: the sandbox vanished under the run
        hint: run it again; `isol8 doctor` checks this host
    "#]]
    .assert_eq(&told(Verdict::SandboxLost, &run));
    expect![[r#"
        125
        error: the daemon told an end without sense
        cause: verdict 0, code None, signal None
        hint: `isol8 status` shows the daemon's version
    "#]]
    .assert_eq(&told(Verdict::Unspecified, &run));
}

#[test]
fn what_was_cut_is_one_line_of_its_own() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        run.stderr("half a line").await;
        run.exit(Exited {
            code: Some(0),
            stdout_truncated: true,
            usage: Some(Usage {
                stdout_bytes: 5_000_000,
                ..Usage::default()
            }),
            ..verdict(Verdict::Exited)
        })
        .await;
    });
    expect![[r#"
        0
        half a line
        warning: stdout was truncated, the program wrote 5000000 bytes; keep more with `--max-output <bytes>`
    "#]].assert_eq(&isol8(&fake, &["run", "-e", "1"]).told());
}

#[test]
fn the_daemons_failures_are_told_whole() {
    let fail = |kind: &'static str, retry_after_ms| {
        Fake::new(move |run: Run| async move {
            let detail = ErrorDetail {
                kind: kind.to_owned(),
                message: "the image `isol8:python` is missing".to_owned(),
                causes: vec!["no such image".to_owned(), "404".to_owned()],
                hint: "build it with `isol8 setup`".to_owned(),
                retry_after_ms,
            };
            run.fail(Code::FailedPrecondition, &detail).await;
        })
    };
    let told = |fake: &Fake| isol8(fake, &["run", "-e", "1"]).told();
    expect![[r#"
        125
        error: the image `isol8:python` is missing
        cause: no such image
        cause: 404
        hint: build it with `isol8 setup`
    "#]]
    .assert_eq(&told(&fail("image_missing", 0)));
    expect![[r#"
        125
        error: the image `isol8:python` is missing
        cause: no such image
        cause: 404
        hint: try again in 250 ms
        hint: build it with `isol8 setup`
    "#]]
    .assert_eq(&told(&fail("at_capacity", 250)));
    expect![[r#"
        2
        error: the image `isol8:python` is missing
        cause: no such image
        cause: 404
        hint: build it with `isol8 setup`
    "#]]
    .assert_eq(&told(&fail("invalid_request", 0)));
    expect![[r#"
        125
        error: the image `isol8:python` is missing
        cause: no such image
        cause: 404
        hint: build it with `isol8 setup`
    "#]]
    .assert_eq(&told(&fail("of_a_newer_daemon", 0)));
}

#[test]
fn output_before_a_failure_is_not_lost() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        run.stdout("so far").await;
        let detail = ErrorDetail {
            kind: "internal".to_owned(),
            message: "it broke".to_owned(),
            ..ErrorDetail::default()
        };
        run.fail(Code::Internal, &detail).await;
    });
    let done = isol8(&fake, &["run", "-e", "1"]);
    assert_eq!((done.code, done.text()), (125, "so far"));
    assert_eq!(done.stderr, "error: it broke\n");
}

#[test]
fn a_run_without_an_end_is_a_failure() {
    let fake = Fake::new(|run: Run| async move { run.accept().await });
    expect![[r#"
        125
        error: the daemon ended the run without saying how
        hint: `isol8 daemon logs` may say more
    "#]]
    .assert_eq(&isol8(&fake, &["run", "-e", "1"]).told());
}

#[test]
fn a_notice_is_not_output() {
    let fake = Fake::new(|run: Run| async move {
        run.notice("building\x1b[2J").await;
        run.simple(0).await;
    });
    let done = isol8(&fake, &["run", "-e", "1"]);
    assert_eq!(done.text(), "");
    assert_eq!(done.told(), "0\nnote: building\\u{1b}[2J\n");
}

#[test]
fn a_daemon_of_another_version_is_told() {
    let fake = Fake::of_version("9.9.9", |run: Run| run.simple(0));
    let done = isol8(&fake, &["run", "-e", "1"]);
    assert_eq!(done.code, 0);
    let expected = "warning: the daemon is version 9.9.9 and this is";
    assert!(done.stderr.starts_with(expected), "{}", done.stderr);
    let same = Fake::of_version(env!("CARGO_PKG_VERSION"), |run: Run| run.simple(0));
    assert_eq!(isol8(&same, &["run", "-e", "1"]).told(), "0\n");
}

#[test]
fn what_is_asked_for_arrives() {
    let fake = Fake::new(|run: Run| async move {
        let start = &run.start;
        let limits = start.limits.expect("limits");
        run.note(format!(
            "{:?} {:?} {} {} {:?} {:?} {}",
            start.runtime(),
            start.code,
            limits.timeout_ms,
            start.buffered,
            start.env,
            start.secrets,
            start.stdin,
        ));
        run.simple(0).await;
    });
    let mut command = command(
        fake.folder.path(),
        &[
            "run",
            "-r",
            "node",
            "-e",
            "x",
            "--timeout",
            "9",
            "--no-stream",
            "--env",
            "A=1",
            "--secret",
            "S",
        ],
    );
    command.env("S", "hunter2");
    assert_eq!(finish(spawn(command)).told(), "0\n");
    let expected = r#"Node b"x" 9 true {"A": "1"} {"S": "hunter2"} false"#;
    assert_eq!(fake.seen(), [expected]);
}

#[test]
fn the_working_directorys_file_sets_defaults() {
    let fake = Fake::new(|run: Run| async move {
        let (typed, file) = (run.start.limits.expect("limits"), run.start.defaults);
        let file = file.unwrap_or_default();
        run.note(format!("{} {}", file.timeout_ms, file.memory_bytes));
        assert_eq!(typed.timeout_ms, 0);
        run.simple(0).await;
    });
    assert_eq!(isol8(&fake, &["run", "-e", "1"]).code, 0);
    let text = r#"{"defaults": {"timeoutMs": 1234}}"#;
    fs::write(fake.path("isol8.config.json"), text).expect("room");
    assert_eq!(isol8(&fake, &["run", "-e", "1"]).code, 0);
    assert_eq!(
        fake.seen(),
        ["0 0".to_owned(), format!("1234 {}", 512 << 20)]
    );
}

#[test]
fn a_program_of_ten_megabytes_arrives_whole() {
    let fake = Fake::new(|run: Run| async move {
        run.note(run.start.code.len().to_string());
        run.simple(0).await;
    });
    fs::write(fake.path("big.py"), vec![b'#'; 10 << 20]).expect("room");
    assert_eq!(isol8(&fake, &["run", "big.py"]).told(), "0\n");
    assert_eq!(fake.seen(), [(10 << 20).to_string()]);
}

#[test]
fn debug_lines_are_marked_and_never_on_stdout() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        run.stdout("out").await;
        run.code(0).await;
    });
    let done = isol8(&fake, &["--debug", "run", "-e", "hunter2"]);
    assert_eq!((done.code, done.text()), (0, "out"));
    assert!(done.stderr.lines().count() >= 2, "{}", done.stderr);
    assert!(done.stderr.lines().all(|line| line.starts_with("[DEBUG] ")));
    assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
    let after = isol8(&fake, &["run", "-e", "1", "--debug"]);
    assert!(after.stderr.starts_with("[DEBUG] "), "{}", after.stderr);
}
