//! `isol8 key`, and how `isol8 serve` takes keys.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    process::{Child, Stdio},
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    cli::{Done, command, finish, isol8, spawn, wait_for},
    fake::Fake,
    serve::{RUN, Server, serve},
};

/// A fake daemon that runs everything.
fn willing() -> Fake {
    Fake::new(|run| run.simple(0))
}

fn key(fake: &Fake, args: &[&str]) -> Done {
    let args: Vec<_> = ["key"].iter().chain(args).copied().collect();
    isol8(fake, &args)
}

/// The text that a key has got.
#[track_caller]
fn text(done: &Done) -> String {
    assert_eq!(done.code, 0, "{}", done.stderr);
    let text = done.text().strip_suffix('\n').expect("a line");
    assert!(text.starts_with("isol8_") && text.len() == 58, "{text}");
    text.to_owned()
}

fn listed(fake: &Fake) -> Vec<Value> {
    let done = key(fake, &["ls", "--json"]);
    let list: Value = serde_json::from_str(done.text()).expect("it is JSON");
    list["keys"].as_array().expect("a list").clone()
}

fn write(fake: &Fake, name: &str, text: &str) -> String {
    let path = fake.path(name);
    fs::write(&path, text).expect("it is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    path.to_str().expect("it is text").to_owned()
}

fn is_open(server: &Server, key: &str) -> bool {
    server
        .ask_as(key, "GET /openapi.json", "")
        .contains(" 200 ")
}

/// A gateway that says little: nobody reads it while the test asks again and again.
fn quiet(fake: &Fake, args: &[&str]) -> Server {
    let mut command = serve(fake, args);
    command.env("ISOL8_LOG", "error");
    Server::start(command)
}

#[test]
fn a_key_is_shown_once_and_listed_without_its_text() {
    let fake = Fake::silent();
    assert!(listed(&fake).is_empty());
    assert!(!fake.path("state").exists(), "looking makes nothing");
    let done = key(&fake, &["add", "ci"]);
    let ci = text(&done);
    assert_eq!(
        done.stderr,
        "made `ci`: keep the text, it is not shown again\n"
    );
    let done = key(
        &fake,
        &[
            "add",
            "b",
            "--admin",
            "--expires",
            "30d",
            "--max-memory",
            "64m",
            "--max-cpu",
            "0.5",
            "--max-timeout",
            "1500",
            "--no-host-network",
            "--image",
            "a",
            "--image",
            "b:1",
        ],
    );
    assert_ne!(text(&done), ci);
    let keys = listed(&fake);
    assert_eq!(keys[1]["name"], "ci");
    assert_eq!(keys[1]["policy"], json!({}));
    assert_eq!(keys[1]["expires"], Value::Null);
    assert_eq!(keys[0]["admin"], true);
    assert_eq!(
        keys[0]["policy"],
        json!({"maxMemory": "64m", "maxCpu": 0.5, "maxTimeoutMs": 1500,
            "allowHostNetwork": false, "images": ["a", "b:1"]})
    );
    let table = key(&fake, &["ls"]).text().to_owned();
    assert!(table.starts_with("key  admin  made"), "{table}");
    assert!(
        table.contains("in 29d 23h") && table.contains("never"),
        "{table}"
    );
    assert!(table.contains("images a b:1"), "{table}");
    assert!(!table.contains("isol8_"), "{table}");
    let file = fs::metadata(fake.path("state/keys.db")).expect("it is there");
    assert_eq!(file.mode() & 0o777, 0o600);
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let fake = Fake::silent();
    text(&key(&fake, &["add", "ci"]));
    let table: [(&[&str], i32, &str); 14] = [
        (&["add", "ci"], 2, "there is a key `ci` already"),
        (&["add", "a b"], 2, "`a b` is no name"),
        (&["add", ""], 2, "`` is no name"),
        (&["add", "x", "--expires", "soon"], 2, "`soon` is no time"),
        (
            &["add", "x", "--expires", "2001-01-01T00:00:00Z"],
            2,
            "is over",
        ),
        (&["add", "x", "--max-memory", "much"], 2, "`--max-memory`"),
        (
            &["add", "x", "--max-memory", "1k"],
            2,
            "no run has less than",
        ),
        (&["add", "x", "--max-cpu", "0"], 2, "`--max-cpu`"),
        (&["add", "x", "--max-timeout", "0"], 2, "`--max-timeout`"),
        (
            &["add", "x", "--no-image", "--image", "a"],
            2,
            "cannot be used with",
        ),
        (&["rm", "none"], 125, "there is no key `none`"),
        (&["rotate", "none"], 125, "there is no key `none`"),
        (&["rotate", "ci", "--keep", "long"], 2, "`--keep`"),
        (&["ls", "ci"], 2, "unexpected argument"),
    ];
    for (args, code, expected) in table {
        let done = key(&fake, args);
        assert_eq!(done.code, code, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{args:?}: {}", done.stderr);
        assert_eq!(done.text(), "");
    }
    assert_eq!(listed(&fake).len(), 1);
}

#[test]
fn a_text_that_could_not_be_printed_is_none() {
    let fake = willing();
    let full = || {
        Stdio::from(
            File::options()
                .write(true)
                .open("/dev/full")
                .expect("it is there"),
        )
    };
    let mut add = command(fake.folder.path(), &["key", "add", "ci"]);
    add.stdout(full());
    let done = finish(spawn(add));
    assert_eq!(done.code, 125);
    assert!(
        done.stderr.contains("cannot write to stdout"),
        "{}",
        done.stderr
    );
    assert!(listed(&fake).is_empty());
    let first = text(&key(&fake, &["add", "ci"]));
    let mut rotate = command(fake.folder.path(), &["key", "rotate", "ci"]);
    rotate.stdout(full());
    assert_eq!(finish(spawn(rotate)).code, 125);
    let server = Server::start(serve(&fake, &["-p", "0"]));
    assert!(is_open(&server, &first), "its text is the one from before");
}

#[test]
fn a_gateway_follows_the_database_while_it_serves() {
    let fake = willing();
    let empty = serve(&fake, &["-p", "0"]);
    assert_eq!(finish(spawn(empty)).code, 2);
    let first = text(&key(&fake, &["add", "ci"]));
    let mut server = quiet(&fake, &["-p", "0"]);
    assert_eq!(server.line(), "1 key: 1 in the key database\n");
    assert!(is_open(&server, &first));
    wait_for("the use to be noted", || {
        listed(&fake)[0]["lastUsed"].is_string()
    });

    let other = text(&key(&fake, &["add", "b", "--max-memory", "64m"]));
    wait_for("the new key", || is_open(&server, &other));
    let body = RUN.replace("}}", r#"},"options":{"memoryLimit":"65m"}}"#);
    let answer = server.ask_as(&other, "POST /execute", &body);
    assert!(
        answer.contains(" 403 ") && answer.contains("policy.maxMemory"),
        "{answer}"
    );

    let second = text(&key(&fake, &["rotate", "ci", "--keep", "1h"]));
    wait_for("the new text", || is_open(&server, &second));
    assert!(is_open(&server, &first), "it is kept");
    let third = text(&key(&fake, &["rotate", "ci"]));
    wait_for("the new text", || is_open(&server, &third));
    assert!(!is_open(&server, &first) && !is_open(&server, &second));

    let done = key(&fake, &["rm", "ci", "b"]);
    assert_eq!(done.stderr, "removed `ci`\nremoved `b`\n");
    wait_for("the removal", || !is_open(&server, &third));
    let answer = server.ask_as(&third, "GET /sessions", "");
    assert!(
        answer.contains(" 403 ") && answer.contains("Invalid API key"),
        "{answer}"
    );
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));

    let refused = finish(spawn(serve(&fake, &["-p", "0"])));
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("keys.db` has none"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("isol8 key add"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_hang_up_has_the_file_read_again() {
    let fake = willing();
    let (one, two) = ("the-text-of-one-key", "the-text-of-another");
    let entry = |name, key| format!(r#"{{"name":"{name}","key":"{key}"}}"#);
    let all = format!(
        r#"{{"keys":[{},{}]}}"#,
        entry("one", one),
        entry("two", two)
    );
    let path = write(&fake, "keys.json", &all);
    let args = ["-p", "0", "-k", "k", "--keys-file", &path];
    let mut server = quiet(&fake, &args);
    assert_eq!(server.line(), "3 keys: 1 given, 2 in the keys file\n");
    assert!(is_open(&server, one) && is_open(&server, two) && is_open(&server, "k"));

    write(&fake, "keys.json", &all.replace("name", "nom"));
    server.signal(Signal::HUP);
    let said = loop {
        let line = server.line();
        if line.contains("keys file") {
            break line;
        }
    };
    assert!(
        said.contains("was not taken") && said.contains("`keys[0].nom`"),
        "{said}"
    );
    assert!(is_open(&server, two), "the keys from before stay");

    write(
        &fake,
        "keys.json",
        &format!(r#"{{"keys":[{}]}}"#, entry("one", one)),
    );
    server.signal(Signal::HUP);
    wait_for("the removal", || !is_open(&server, two));
    assert!(is_open(&server, one) && is_open(&server, "k"));
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_file_that_makes_no_sense_is_refused_at_the_start() {
    let fake = Fake::silent();
    let path = write(
        &fake,
        "keys.json",
        r#"{"keys":[{"name":"a","key":"short"}]}"#,
    );
    let start = |credentials: Option<&str>| {
        let mut serve = serve(&fake, &["-p", "0", "--keys-file", &path]);
        serve.envs(credentials.map(|folder| ("CREDENTIALS_DIRECTORY", folder)));
        finish(spawn(serve))
    };
    let done = start(None);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("`keys[0].key`: a key has at least 16"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("short"), "{}", done.stderr);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).expect("it is ours");
    let done = start(None);
    assert_eq!(done.code, 125);
    assert!(done.stderr.contains("its mode is 0440"), "{}", done.stderr);
    // What systemd hands over may be readable by a group.
    let done = start(fake.folder.path().to_str());
    assert!(done.stderr.contains("`keys[0].key`"), "{}", done.stderr);
    let done = isol8(&fake, &["serve", "-p", "0", "-k", "ключ"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("can never come with a request"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let fake = willing();
    // Marked, so that no other child of these tests holds it open.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let terminal = posix_openpt(flags).expect("a terminal");
    grantpt(&terminal).expect("it is ours");
    unlockpt(&terminal).expect("it is ours");
    let path = ptsname_r(&terminal).expect("it has a name");
    let mut end = File::options();
    end.read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits());
    let mut command = serve(&fake, &["-p", "0", "-k", "k"]);
    command.stderr(end.open(path).expect("it is ours"));
    let mut child = spawn(command);
    let mut said = BufReader::new(File::from(OwnedFd::from(terminal)));
    let mut await_line = |part: &str| {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            said.read_line(&mut line).expect("it goes on");
        }
    };
    await_line("1 key: 1 given");
    let hang_up = |child: &Child| {
        kill_process(Pid::from_child(child), Signal::HUP).expect("it lives");
    };
    // With the terminal there, it is an order of an operator.
    hang_up(&child);
    await_line("no keys file");
    drop(said);
    hang_up(&child);
    let mut code = None;
    wait_for("its end", || {
        code = child.try_wait().expect("it is ours");
        code.is_some()
    });
    assert_eq!(code.and_then(|code| code.code()), Some(0));
}
