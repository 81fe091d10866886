//! `isol8 cleanup`: what it shows, asks, and did.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Stdio,
};

use expect_test::{Expect, expect};
use isol8_proto::v1::{CleanupItem, CleanupKind, Engine};
use nix::pty::openpty;

use crate::{
    cli::{command, finish, isol8, spawn},
    fake::{Answers, Fake},
};

fn item(kind: CleanupKind, engine: Engine, id: &str) -> CleanupItem {
    CleanupItem {
        kind: kind.into(),
        engine: engine.into(),
        id: id.to_owned(),
        ..CleanupItem::default()
    }
}

fn session(name: &str, error: &str) -> CleanupItem {
    CleanupItem {
        name: name.to_owned(),
        error: error.to_owned(),
        ..item(CleanupKind::Session, Engine::Native, "5a5a")
    }
}

fn everything() -> Vec<CleanupItem> {
    vec![
        item(CleanupKind::Warm, Engine::Native, "1"),
        item(CleanupKind::Warm, Engine::Docker, "2"),
        item(CleanupKind::Warm, Engine::Native, "3"),
        session("default", ""),
        session("work", ""),
        item(CleanupKind::Kept, Engine::Docker, "9c9c"),
        item(CleanupKind::Left, Engine::Docker, "4"),
        item(CleanupKind::Image, Engine::Docker, "isol8:python"),
    ]
}

fn fake(found: Vec<CleanupItem>, cleaned: Vec<CleanupItem>) -> Fake {
    Fake::answering(Answers {
        found,
        cleaned,
        ..Answers::default()
    })
}

#[track_caller]
fn check(fake: &Fake, argv: &[&str], expected: &Expect) {
    let argv: Vec<&str> = ["cleanup"].iter().chain(argv).copied().collect();
    let done = isol8(fake, &argv);
    expected.assert_eq(&format!("{}{}", done.text(), done.told()));
}

#[test]
fn without_a_terminal_nothing_goes_without_force() {
    let fake = fake(everything(), everything());
    check(
        &fake,
        &[],
        &expect![[r"
        2
        error: `isol8 cleanup` asks before it removes anything, and nobody can answer here
        cause: stdin and stderr are not both a terminal
        hint: `isol8 cleanup --force` does not ask; `--dry-run` shows what would go
    "]],
    );
    assert_eq!(isol8(&fake, &["cleanup", "--json"]).code, 2);
    assert_eq!(fake.seen(), [""; 0]);
}

#[test]
fn force_removes_and_counts_exactly() {
    let fake = fake(Vec::new(), everything());
    check(
        &fake,
        &["--force", "--images"],
        &expect![[r"
        removed 2 sessions, 1 kept sandbox, 3 warm sandboxes, 1 sandbox left over, 1 image
        0
    "]],
    );
    assert_eq!(fake.seen(), ["cleanup dry_run=false images=true"]);
}

#[test]
fn what_could_not_be_removed_is_told_each() {
    let mut cleaned = vec![session("work", "a run goes on in it")];
    let mut image = item(CleanupKind::Image, Engine::Docker, "isol8:bash");
    image.error = "a container uses it".to_owned();
    cleaned.push(image);
    cleaned.push(item(CleanupKind::Warm, Engine::Native, "1"));
    let fake = fake(Vec::new(), cleaned);
    check(
        &fake,
        &["--force"],
        &expect![[r"
        removed 1 warm sandbox; 2 failed
        125
        error: cannot remove session work (native)
        cause: a run goes on in it
        error: cannot remove image isol8:bash
        cause: a container uses it
    "]],
    );
    let json = isol8(&fake, &["cleanup", "--force", "--json"]);
    assert_eq!(json.code, 125);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(value["removed"].as_array().map(Vec::len), Some(1));
    assert_eq!(value["failed"][0]["name"], "work");
    assert_eq!(value["failed"][1]["error"], "a container uses it");
}

#[test]
fn a_dry_run_shows_and_removes_nothing() {
    let mut found = everything();
    found.push(session("busy", "a run goes on in it"));
    let dry = fake(found, Vec::new());
    check(
        &dry,
        &["--dry-run"],
        &expect![[r"
        session busy (native) stays: a run goes on in it
        2 sessions: default (native), work (native)
        1 kept sandbox: 9c9c (docker)
        3 warm sandboxes (1 docker, 2 native)
        1 sandbox left over (1 docker)
        1 image: isol8:python
        0
    "]],
    );
    let json = isol8(&dry, &["cleanup", "--dry-run", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(value["wouldRemove"].as_array().map(Vec::len), Some(8));
    assert_eq!(value["stays"][0]["name"], "busy");
    assert_eq!(dry.seen(), ["cleanup dry_run=true images=false"; 2]);
    assert_eq!(isol8(&dry, &["cleanup", "--dry-run", "--force"]).code, 2);
}

#[test]
fn nothing_to_remove_is_said() {
    let fake = fake(Vec::new(), Vec::new());
    let nothing = expect!["nothing to remove\n0\n"];
    check(&fake, &["--force"], &nothing);
    check(&fake, &["--dry-run"], &nothing);
}

/// Runs it at a terminal where this is typed. What the terminal shows, the code
/// and stdout.
fn typed(fake: &Fake, text: &str, argv: &[&str]) -> (String, i32, String) {
    let terminal = openpty(None, None).expect("Linux has them");
    let argv: Vec<&str> = ["cleanup"].iter().chain(argv).copied().collect();
    let mut command = command(fake.folder.path(), &argv);
    command.stdin(Stdio::from(terminal.slave.try_clone().expect("a file")));
    command.stderr(Stdio::from(terminal.slave));
    let child = spawn(command);
    let mut master = File::from(terminal.master);
    master.write_all(text.as_bytes()).expect("it takes it");
    let done = finish(child);
    // The other end is closed with the process: then reading fails.
    let mut shown = Vec::new();
    let _end = master.read_to_end(&mut shown);
    let shown = String::from_utf8(shown).expect("text").replace('\r', "");
    (shown, done.code, done.text().to_owned())
}

#[test]
fn at_a_terminal_it_shows_and_asks_first() {
    for (answer, goes) in [
        ("y\n", true),
        ("YES\n", true),
        ("n\n", false),
        ("\n", false),
        ("\x04", false),
    ] {
        let fake = fake(everything(), everything());
        let (shown, code, stdout) = typed(&fake, answer, &[]);
        assert_eq!(code, 0, "{shown}");
        assert!(
            shown.contains("2 sessions: default (native), work (native)\n"),
            "{shown}"
        );
        assert!(shown.contains("Remove these 8 things? [y/N] "), "{shown}");
        let asked = fake.seen();
        assert_eq!(asked.len(), 1 + usize::from(goes), "{answer:?} {asked:?}");
        assert_eq!(stdout.starts_with("removed 2 sessions"), goes, "{stdout}");
        assert_eq!(shown.contains("nothing was removed"), !goes, "{shown}");
    }
}

#[test]
fn at_a_terminal_nothing_is_asked_where_nothing_would_go() {
    let fake = fake(vec![session("busy", "a run goes on in it")], Vec::new());
    let (shown, code, stdout) = typed(&fake, "", &[]);
    assert_eq!((shown.as_str(), code), ("", 0));
    let stays = "session busy (native) stays: a run goes on in it\nnothing to remove\n";
    assert_eq!(stdout, stays);
}

#[test]
fn one_thing_is_one_thing() {
    let fake = fake(vec![session("work", "")], vec![session("work", "")]);
    let (shown, _, stdout) = typed(&fake, "y\n", &["--json"]);
    assert!(shown.contains("Remove this thing? [y/N] "), "{shown}");
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(value["removed"][0]["name"], "work");
}
