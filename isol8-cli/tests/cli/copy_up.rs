//! `isol8 session cp` into a session.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
};

use expect_test::{Expect, expect};
use isol8_proto::v1::FileKind;
use rustix::process::Signal;

use crate::{
    cli::{command, finish, isol8, isol8_with_stdin, signal, spawn},
    fake::{Answers, Fake, Step, entry, failing},
};

/// A session in which `/sandbox/there` is a folder, and `/sandbox/a.txt` a file.
fn session() -> Fake {
    let folder = vec![
        entry(b"", FileKind::Folder, 0),
        entry(b"x", FileKind::File, 1),
        Step::Done,
    ];
    let file = vec![entry(b"", FileKind::File, 1), Step::Done];
    let files = [
        ("/sandbox", folder.clone()),
        ("/sandbox/there", folder),
        ("/sandbox/a.txt", file),
    ];
    let fake = Fake::answering(Answers {
        files: files.into(),
        ..Answers::default()
    });
    write(&fake, "data.csv", "1,2");
    fake
}

fn write(fake: &Fake, name: &str, text: &str) {
    let path = fake.path(name);
    fs::create_dir_all(path.parent().expect("it has one")).expect("room");
    fs::write(&path, text).expect("room");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
}

/// A file of a size that takes longer than any test.
fn huge(fake: &Fake) -> fs::File {
    write(fake, "huge", "");
    let file = fs::OpenOptions::new().write(true).open(fake.path("huge"));
    let file = file.expect("it is ours");
    file.set_len(1 << 40).expect("a sparse file");
    file
}

/// What the daemon has seen, then what we were told.
#[track_caller]
fn check(fake: &Fake, argv: &[&str], expected: &Expect) {
    let before = fake.seen().len();
    let argv: Vec<&str> = ["session", "cp"].iter().chain(argv).copied().collect();
    let done = isol8(fake, &argv);
    assert_eq!(done.text(), "");
    let seen = fake.seen()[before..]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    expected.assert_eq(&(seen + &done.told()));
}

#[test]
fn a_file_keeps_its_name_in_a_folder_and_gets_one_elsewhere() {
    let fake = session();
    // As it is written it can only be a folder: nobody is asked.
    check(
        &fake,
        &["data.csv", "work:/tmp/new/"],
        &expect![[r"
        put work:/tmp/new/data.csv
        data of file `` 640
        file `` 640: 1,2
        whole
        0
    "]],
    );
    check(
        &fake,
        &["data.csv", "work:there"],
        &expect![[r"
        names of work:/sandbox/there
        get is over
        put work:/sandbox/there/data.csv
        data of file `` 640
        file `` 640: 1,2
        whole
        0
    "]],
    );
    check(
        &fake,
        &["./data.csv", "work:a.txt"],
        &expect![[r"
        names of work:/sandbox/a.txt
        get is over
        put work:/sandbox/a.txt
        data of file `` 640
        file `` 640: 1,2
        whole
        0
    "]],
    );
    check(
        &fake,
        &["data.csv", "work:/tmp/new"],
        &expect![[r"
        names of work:/tmp/new
        put work:/tmp/new
        data of file `` 640
        file `` 640: 1,2
        whole
        0
    "]],
    );
    check(
        &fake,
        &["data.csv", "work:"],
        &expect![[r"
        put work:/sandbox/data.csv
        data of file `` 640
        file `` 640: 1,2
        whole
        0
    "]],
    );
}

#[test]
fn an_empty_file_is_a_file() {
    let fake = session();
    write(&fake, "empty", "");
    check(
        &fake,
        &["empty", "work:x/"],
        &expect![[r"
        put work:/sandbox/x/empty
        file `` 640: 
        whole
        0
    "]],
    );
}

#[test]
fn several_go_into_a_folder() {
    let fake = session();
    write(&fake, "b.txt", "b");
    check(
        &fake,
        &["data.csv", "b.txt", "work:there"],
        &expect![[r"
        names of work:/sandbox/there
        get is over
        put work:/sandbox/there/data.csv
        data of file `` 640
        file `` 640: 1,2
        whole
        put work:/sandbox/there/b.txt
        data of file `` 640
        file `` 640: b
        whole
        0
    "]],
    );
    check(
        &fake,
        &["data.csv", "b.txt", "work:new"],
        &expect![[r"
        names of work:/sandbox/new
        2
        error: `work:/sandbox/new` is not a folder
        cause: several things are to be copied to it
        hint: `work:/sandbox/new/`, with a `/` at its end, makes it one
    "]],
    );
}

/// `tree` with a file of each kind.
fn tree(fake: &Fake) {
    write(fake, "tree/b/c.txt", "c");
    write(fake, "tree/a.txt", "a");
    let path = fake.path("tree/b");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).expect("it is ours");
    std::os::unix::fs::symlink("/etc", fake.path("tree/link")).expect("room");
    std::os::unix::fs::symlink("a.txt", fake.path("tree/z")).expect("room");
    drop(UnixListener::bind(fake.path("tree/sock\x1b")).expect("room"));
}

#[test]
fn a_tree_goes_with_its_files_and_folders_and_no_link_is_followed() {
    let fake = session();
    tree(&fake);
    let folder = fs::Permissions::from_mode(0o750);
    fs::set_permissions(fake.path("tree"), folder).expect("it is ours");
    check(
        &fake,
        &["-r", "tree", "work:there"],
        &expect![[r"
        names of work:/sandbox/there
        get is over
        put work:/sandbox/there/tree
        folder `` 750
        data of file `a.txt` 640
        file `a.txt` 640: a
        folder `b` 700
        data of file `b/c.txt` 640
        file `b/c.txt` 640: c
        whole
        0
        note: passed over: tree/link is a link
        note: passed over: tree/sock\u{1b} is a socket
        note: passed over: tree/z is a link
    "]],
    );
    // What is in it, not the folder.
    let argv = ["-r", "tree/b/.", "work:/tmp/new"];
    check(
        &fake,
        &argv,
        &expect![[r"
        put work:/tmp/new
        folder `` 700
        data of file `c.txt` 640
        file `c.txt` 640: c
        whole
        0
    "]],
    );
    let argv = ["-r", "tree/.", "work:/tmp/new"];
    let done = isol8(&fake, &[&["session", "cp"], &argv[..]].concat());
    assert!(
        done.told()
            .starts_with("0\nnote: passed over: tree/link is")
    );
    // A link that is typed is followed.
    std::os::unix::fs::symlink("tree/b", fake.path("way")).expect("room");
    check(
        &fake,
        &["-r", "way", "work:x/"],
        &expect![[r"
        put work:/sandbox/x/way
        folder `` 700
        data of file `c.txt` 640
        file `c.txt` 640: c
        whole
        0
    "]],
    );
}

#[test]
fn many_links_are_counted() {
    let fake = session();
    fs::create_dir(fake.path("links")).expect("room");
    for number in 10..35 {
        let link = fake.path(&format!("links/{number}"));
        std::os::unix::fs::symlink("x", link).expect("room");
    }
    let done = isol8(&fake, &["session", "cp", "-r", "links", "work:x/"]);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!((done.code, lines.len()), (0, 21));
    assert_eq!(lines[0], "note: passed over: links/10 is a link");
    assert_eq!(lines[20], "note: passed over: 5 more");
}

#[test]
fn stdin_is_a_file_too() {
    let fake = session();
    let argv = ["session", "cp", "-", "work:a.txt"];
    let done = isol8_with_stdin(&fake, &argv, b"piped");
    assert_eq!(done.told(), "0\n");
    assert!(
        fake.seen().contains(&"file `` 0: piped".to_owned()),
        "{:?}",
        fake.seen()
    );
    // What is left of a file that somebody has begun to read.
    write(&fake, "input", "read, left");
    let mut input = fs::File::open(fake.path("input")).expect("it is there");
    std::io::Read::read_exact(&mut input, &mut [0; 6]).expect("it is long enough");
    let mut rest = command(fake.folder.path(), &argv);
    rest.stdin(input);
    assert_eq!(finish(spawn(rest)).told(), "0\n");
    assert!(
        fake.seen().contains(&"file `` 0: left".to_owned()),
        "{:?}",
        fake.seen()
    );
    for destination in ["work:there", "work:there/"] {
        let done = isol8_with_stdin(&fake, &["session", "cp", "-", destination], b"piped");
        let told = "2\nerror: stdin has no name that it could keep\n\
                    hint: name the file: `work:/sandbox/there/data.csv`\n";
        assert_eq!(done.told(), told);
    }
}

#[test]
fn what_cannot_be_sent_is_told_before_a_daemon_is_asked() {
    let fake = Fake::silent();
    write(&fake, "data.csv", "x");
    fs::create_dir(fake.path("folder")).expect("room");
    let fifo = rustix::fs::CWD;
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(fifo, fake.path("fifo"), rustix::fs::FileType::Fifo, mode, 0)
        .expect("room");
    let wrong: [(&[&str], &str); 8] = [
        (&["nosuch", "work:"], "cannot read `nosuch`"),
        (&["folder", "work:"], "`folder` is a folder"),
        (&["fifo", "work:"], "`fifo` is neither a file nor a folder"),
        (&["data.csv/", "work:"], "cannot read `data.csv/`"),
        (
            &["data.csv", "folder"],
            "one side of a copy is in a session, the other is here",
        ),
        (
            &["-", "-"],
            "one side of a copy is in a session, the other is here",
        ),
        (
            &["work:a", "other:b"],
            "nothing is copied from a session to a session",
        ),
        (
            &["-", "data.csv", "work:x"],
            "stdin is not copied along with others",
        ),
    ];
    for (argv, message) in wrong {
        let argv: Vec<&str> = ["session", "cp"].iter().chain(argv).copied().collect();
        let done = isol8(&fake, &argv);
        let first = done.stderr.lines().next().unwrap_or_default();
        let expected = format!("error: {message}");
        assert_eq!((done.code, first), (2, expected.as_str()), "{argv:?}");
    }
    assert!(!fake.socket().exists(), "no daemon was started");
}

#[test]
fn a_file_that_has_no_size_or_shrinks_is_not_half_sent() {
    let fake = session();
    // Its size is told as 0.
    let done = isol8(&fake, &["session", "cp", "/proc/version", "work:x/"]);
    let told = "125\nerror: `/proc/version` became longer while it was copied\n";
    assert!(done.told().starts_with(told), "{}", done.told());

    let file = huge(&fake);
    let argv = ["session", "cp", "huge", "work:y/"];
    let child = spawn(command(fake.folder.path(), &argv));
    fake.await_note("data of file `` 640");
    file.set_len(0).expect("it is ours");
    let done = finish(child);
    let told = "125\nerror: `huge` became shorter while it was copied\n";
    assert!(done.told().starts_with(told), "{}", done.told());
    fake.await_note("cut off");
    assert!(!fake.seen().contains(&"whole".to_owned()));
}

#[test]
fn a_refusal_ends_the_copy() {
    let fake = Fake::answering(Answers {
        failures: [("put", failing("no_space", "there is no room left"))].into(),
        ..Answers::default()
    });
    huge(&fake);
    write(&fake, "other", "x");
    check(
        &fake,
        &["huge", "other", "work:x/"],
        &expect![[r"
        put work:/sandbox/x/huge
        125
        error: there is no room left
        hint: type this
    "]],
    );
}

#[test]
fn ctrl_c_ends_a_copy_and_completes_nothing() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let fake = session();
        huge(&fake);
        let argv = ["session", "cp", "huge", "work:x/"];
        let child = spawn(command(fake.folder.path(), &argv));
        fake.await_note("data of file `` 640");
        signal(&child, number);
        assert_eq!(finish(child).told(), format!("{code}\n"));
        fake.await_note("cut off");
    }
}

#[test]
fn ctrl_c_is_heard_while_stdin_gives_nothing() {
    let fake = session();
    let mut command = command(fake.folder.path(), &["session", "cp", "-", "work:a.txt"]);
    command.stdin(std::process::Stdio::piped());
    let mut child = spawn(command);
    let stdin = child.stdin.take();
    fake.await_note("get is over");
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
    drop(stdin);
}
