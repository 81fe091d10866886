//! Sessions: listed, removed, adopted, and runs in them.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use isol8_proto::v1::{Exited, FileEntry, FileKind, SessionInfo, SessionState, Verdict};

use crate::{
    cli::isol8,
    fake::{Answers, Fake, Run, Step, entry, failing},
};

fn sessions() -> Vec<SessionInfo> {
    let session = |name: &str, state: SessionState| SessionInfo {
        name: name.to_owned(),
        runtime: "python".to_owned(),
        engine: "native".to_owned(),
        idle_ms: 67_000,
        sandbox_id: "5a5a".to_owned(),
        state: state.into(),
        size_bytes: Some(1536),
        ..SessionInfo::default()
    };
    let busy = SessionInfo {
        size_bytes: None,
        waiting: 2,
        engine: "docker".to_owned(),
        ..session("work", SessionState::Busy)
    };
    let lost = SessionInfo {
        reason: "the host was\nrestarted \x1b[2J".to_owned(),
        ..session("old", SessionState::Lost)
    };
    vec![
        session("default", SessionState::Idle),
        busy,
        lost,
        session("", SessionState::Idle),
    ]
}

fn with_sessions() -> Fake {
    Fake::answering(Answers {
        sessions: sessions(),
        ..Answers::default()
    })
}

#[track_caller]
fn check(fake: &Fake, argv: &[&str], expected: &Expect) {
    let done = isol8(fake, argv);
    expected.assert_eq(&format!("{}{}", done.text(), done.told()));
}

#[test]
fn sessions_are_a_table_or_json() {
    let fake = with_sessions();
    check(
        &fake,
        &["session", "ls"],
        &expect![[r#"
            session  runtime  engine  state  idle   size     waiting
            default  python   native  idle   1m 7s  1.5 KiB  0
            work     python   docker  busy   1m 7s  -        2
            old      python   native  lost   1m 7s  1.5 KiB  0        the host was
                                                                        restarted \u{1b}[2J
            -        python   native  kept   1m 7s  1.5 KiB  0        5a5a
            0
        "#]],
    );
    let json = isol8(&fake, &["session", "ls", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    let list = value["sessions"].as_array().expect("a list");
    assert_eq!(list.len(), 4);
    assert_eq!(
        (&list[0]["name"], &list[0]["state"]),
        (&"default".into(), &"idle".into())
    );
    assert_eq!(list[1]["sizeBytes"], serde_json::Value::Null);
    assert_eq!(list[3]["name"], serde_json::Value::Null);
    assert_eq!(list[3]["sandboxId"], "5a5a");
}

#[test]
fn no_sessions_is_no_empty_table() {
    let fake = Fake::answering(Answers::default());
    check(
        &fake,
        &["session", "ls"],
        &expect![[r"
        0
        no sessions; `isol8 run --persistent …` makes one
    "]],
    );
    check(
        &fake,
        &["session", "ls", "--json"],
        &expect![[r#"
        {
          "sessions": []
        }
        0
    "#]],
    );
}

#[test]
fn status_shows_sessions_too() {
    let done = isol8(&with_sessions(), &["status"]);
    let line = "work     python   docker  busy   1m 7s  -        2";
    assert!(
        done.text().lines().any(|found| found == line),
        "{}",
        done.text()
    );
}

/// A folder with one of each kind, and names that nobody would choose.
fn listing() -> BTreeMap<&'static str, Vec<Step>> {
    let link = Step::Entry(FileEntry {
        path: "b-link".into(),
        kind: FileKind::Link.into(),
        mode: 0o777,
        target: "/etc/\x1bpasswd".into(),
        ..FileEntry::default()
    });
    let steps = vec![
        entry(b"", FileKind::Folder, 0),
        entry(b"x\x1b[2J\n\xff", FileKind::File, 10),
        link,
        entry(b"a-folder", FileKind::Folder, 0),
        entry("gnp.\u{202e}exe".as_bytes(), FileKind::Other, 0),
        Step::Done,
    ];
    let one = vec![entry(b"", FileKind::File, 7), Step::Done];
    let empty = vec![entry(b"", FileKind::Folder, 0), Step::Done];
    let half = vec![entry(b"", FileKind::Folder, 0)];
    [
        ("/sandbox", steps),
        ("/sandbox/one.txt", one),
        ("/tmp/empty", empty),
        ("/tmp/half", half),
    ]
    .into()
}

#[test]
fn files_are_listed_and_cannot_steer_the_terminal() {
    let fake = Fake::answering(Answers {
        files: listing(),
        ..Answers::default()
    });
    check(
        &fake,
        &["session", "ls", "work:/sandbox/"],
        &expect![[r"
        drwxr-xr-x  0 a-folder
        lrwxrwxrwx  0 b-link -> /etc/\u{1b}passwd
        ?rw-r--r--  0 gnp.\u{202e}exe
        -rw-r--r-- 10 x\u{1b}[2J\n\xff
        0
    "]],
    );
    check(
        &fake,
        &["session", "ls", "work:one.txt"],
        &expect![[r"
        -rw-r--r-- 7 one.txt
        0
    "]],
    );
    check(
        &fake,
        &["session", "ls", "work:/tmp/empty"],
        &expect!["0\n"],
    );
    check(
        &fake,
        &["session", "ls", "work:/tmp/half"],
        &expect![[r"
        125
        error: the daemon did not send a whole list
        hint: `isol8 daemon logs` may say more
    "]],
    );
    check(
        &fake,
        &["session", "ls", "work:nosuch"],
        &expect![[r"
        125
        error: there is no such file
        hint: type this
    "]],
    );
    let json = isol8(&fake, &["session", "ls", "--json", "work:"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(value["files"][0]["kind"], "folder");
    assert_eq!(value["files"][1]["target"], "/etc/\x1bpasswd");
    assert_eq!(value["files"][2]["mode"], "0644");
    assert_eq!(value["files"][3]["nameBase64"], "eBtbMkoK/w==");
    assert!(!json.text().contains('\x1b'));
}

#[test]
fn sessions_and_files_are_removed() {
    let fake = Fake::answering(Answers {
        failures: [(
            "remove busy",
            failing("session_busy", "a run goes on in it"),
        )]
        .into(),
        ..Answers::default()
    });
    check(
        &fake,
        &["session", "rm", "busy", "work"],
        &expect![[r"
        removed work
        125
        error: a run goes on in it
        hint: type this
    "]],
    );
    let folder = Fake::answering(Answers {
        failures: [("delete", failing("invalid_request", "it is a folder"))].into(),
        ..Answers::default()
    });
    check(
        &folder,
        &["session", "rm", "work:folder"],
        &expect![[r"
            2
            error: it is a folder
            hint: type this
        "]],
    );
    check(
        &fake,
        &["session", "rm", "-f", "work", "work:a/b"],
        &expect![[r"
        removed work
        0
    "]],
    );
    check(
        &fake,
        &["session", "rm", "-r", "work:/tmp/x/"],
        &expect!["0\n"],
    );
    assert_eq!(
        fake.seen(),
        [
            "remove busy force=false",
            "remove work force=false",
            "remove work force=true",
            "delete work:/sandbox/a/b recursive=false",
            "delete work:/tmp/x recursive=true",
        ]
    );
}

#[test]
fn what_is_kept_of_a_session_is_told() {
    let fake = Fake::answering(Answers {
        kept_sandbox_id: "5a5a",
        ..Answers::default()
    });
    check(
        &fake,
        &["session", "rm", "work"],
        &expect![[r#"
            removed work
            0
            note: sandbox `5a5a` is kept
              isol8 session adopt 5a5a NAME   makes it a session; then
              isol8 session ls NAME:/sandbox  lists its files, and
              isol8 run --session NAME …      runs a program in it
              isol8 cleanup                   removes it
        "#]],
    );
}

#[test]
fn a_kept_sandbox_becomes_a_session() {
    let fake = with_sessions();
    check(
        &fake,
        &["session", "adopt", "5a5a", "mine"],
        &expect![[r"
        session mine (python, native)
        0
    "]],
    );
    assert_eq!(fake.seen(), ["adopt 5a5a mine"]);
    let fake = Fake::answering(Answers {
        failures: [(
            "adopt",
            failing("not_found", "no sandbox of this id is kept"),
        )]
        .into(),
        ..Answers::default()
    });
    check(
        &fake,
        &["session", "adopt", "5a5a", "mine"],
        &expect![[r"
        125
        error: no sandbox of this id is kept
        hint: type this
    "]],
    );
}

#[test]
fn what_is_typed_wrong_asks_no_daemon() {
    let fake = Fake::silent();
    let wrong: [(&[&str], &str); 13] = [
        (&["ls", "work"], "`work` is in no session"),
        (&["ls", "work:../x"], "`../x` leads up with `..`"),
        (&["ls", "-"], "`-` is in no session"),
        (&["ls", "a b:x"], "`a b` is not a session name"),
        (&["rm", "../x"], "`../x` is not a session name"),
        (
            &["rm", "work", "-r"],
            "`--recursive` does nothing for sessions",
        ),
        (&["rm", "work:x", "-f"], "`--force` does nothing for files"),
        (&["rm", "work:"], "`work:` names no file"),
        (&["rm", "./a:b"], "`./a:b` is in no session"),
        (&["rm", "work:x/../y"], "`x/../y` leads up with `..`"),
        (&["adopt", "5a5a", "-x"], "unexpected argument '-x' found"),
        (&["adopt", "5a5a", "x/y"], "`x/y` is not a session name"),
        (
            &["cp", "x"],
            "the following required arguments were not provided:",
        ),
    ];
    for (argv, message) in wrong {
        let argv: Vec<&str> = ["session"].iter().chain(argv).copied().collect();
        let done = isol8(&fake, &argv);
        let first = done.stderr.lines().next().unwrap_or_default();
        let expected = format!("error: {message}");
        assert_eq!((done.code, first), (2, expected.as_str()), "{argv:?}");
    }
    assert!(!fake.socket().exists(), "no daemon was started");
}

#[test]
fn a_run_that_is_kept_says_how_to_look_into_it() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        run.stderr("no end of line").await;
        let kept = run.start.persist && run.start.session.is_none();
        run.exit(Exited {
            verdict: Verdict::Exited.into(),
            code: Some(3),
            kept_sandbox_id: if kept { "5a5a" } else { "" }.to_owned(),
            ..Exited::default()
        })
        .await;
    });
    check(
        &fake,
        &["run", "-e", "1", "--persist"],
        &expect![[r#"
            3
            no end of line
            note: sandbox `5a5a` is kept
              isol8 session adopt 5a5a NAME   makes it a session; then
              isol8 session ls NAME:/sandbox  lists its files, and
              isol8 run --session NAME …      runs a program in it
              isol8 cleanup                   removes it
        "#]],
    );
    let done = isol8(&fake, &["run", "-e", "1", "--persist", "--json"]);
    assert_eq!(done.told(), "3\n");
    let value: serde_json::Value = serde_json::from_str(done.text()).expect("JSON");
    assert_eq!(value["sandboxId"], "sandbox-1");
    let both = ["run", "-e", "1", "--persist", "--persistent"];
    check(&fake, &both, &expect!["3\nno end of line"]);
}

#[test]
fn a_sandbox_that_could_not_be_kept_is_told() {
    let fake = Fake::new(|run: Run| run.simple(0));
    check(
        &fake,
        &["run", "-e", "1", "--persist"],
        &expect![[r"
        0
        warning: the sandbox was not kept: it did not outlive the run
    "]],
    );
}

#[test]
fn a_session_that_does_not_fit_is_no_wrong_request() {
    for kind in ["session_mismatch", "session_busy", "session_lost"] {
        let fake = Fake::new(move |run: Run| async move {
            run.note(run.start.session.clone().unwrap_or_default());
            run.fail(
                tonic::Code::FailedPrecondition,
                &failing(kind, "it is another"),
            )
            .await;
        });
        let expected = expect![[r"
            125
            error: it is another
            hint: type this
        "]];
        check(&fake, &["run", "-e", "1", "--session=work"], &expected);
        assert_eq!(fake.seen(), ["work"]);
    }
}
