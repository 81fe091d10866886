//! `isol8 session cp` out of a session.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use expect_test::{Expect, expect};
use isol8_proto::v1::{FileEntry, FileKind};
use nix::pty::{Winsize, openpty};
use rustix::process::Signal;

use crate::{
    cli::{command, finish, isol8, signal, spawn, wait_for},
    fake::{Answers, Fake, Step, entry, failing},
};

fn with_mode(path: &[u8], mode: u32, size: u64) -> Step {
    let Step::Entry(entry) = entry(path, FileKind::File, size) else {
        unreachable!("it is an entry");
    };
    Step::Entry(FileEntry { mode, ..entry })
}

fn session() -> Fake {
    let link = entry(b"link", FileKind::Link, 0);
    let tree = vec![
        entry(b"", FileKind::Folder, 0),
        entry(b"a.txt", FileKind::File, 1),
        Step::Data(b"a"),
        entry(b"b", FileKind::Folder, 0),
        with_mode(b"b/run", 0o6755, 3),
        Step::Data(b"r"),
        Step::Data(b"un"),
        entry(b"empty", FileKind::File, 0),
        link,
        Step::Done,
    ];
    let file = |data: &'static [u8]| {
        vec![
            entry(b"", FileKind::File, data.len() as u64),
            Step::Data(data),
            Step::Done,
        ]
    };
    let large = vec![
        entry(b"", FileKind::File, 5 << 20),
        Step::Zeros(5 << 20),
        Step::Done,
    ];
    let lost = vec![
        entry(b"", FileKind::Folder, 0),
        entry(b"whole", FileKind::File, 1),
        Step::Data(b"w"),
        entry(b"half", FileKind::File, 8),
        Step::Data(b"half"),
        Step::Fail(failing("session_lost", "the sandbox is gone")),
    ];
    let slow = vec![
        entry(b"", FileKind::File, 8),
        Step::Data(b"half"),
        Step::Hang,
    ];
    let files = [
        ("/sandbox/tree", tree),
        ("/sandbox/a.txt", file(b"of a")),
        ("/tmp/b.txt", file(b"of b")),
        ("/sandbox/large", large),
        ("/sandbox/lost", lost),
        ("/sandbox/slow", slow),
        (
            "/sandbox/link",
            vec![entry(b"", FileKind::Link, 0), Step::Done],
        ),
    ];
    Fake::answering(Answers {
        files: files.into(),
        ..Answers::default()
    })
}

/// Everything below a folder: names, modes, and what is in files.
fn below(folder: &Path) -> String {
    let mut lines = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for found in fs::read_dir(next).expect("a folder") {
            let path = found.expect("a name").path();
            let name = path.strip_prefix(folder).expect("below").display();
            let stat = path.symlink_metadata().expect("it is there");
            // What is left of the rest is the umask of whoever runs the tests.
            let mode = stat.permissions().mode() & 0o7700;
            if stat.is_dir() {
                lines.push(format!("{name}/ {mode:o}\n"));
                folders.push(path);
            } else if stat.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                lines.push(format!("{name} -> {}\n", target.display()));
            } else {
                let text = fs::read_to_string(&path).expect("text");
                lines.push(format!("{name} {mode:o}: {text}\n"));
            }
        }
    }
    lines.sort();
    lines.concat()
}

fn cp(fake: &Fake, argv: &[&str]) -> String {
    let argv: Vec<&str> = ["session", "cp"].iter().chain(argv).copied().collect();
    let mut command = command(fake.folder.path(), &argv);
    command.current_dir(fake.path("here"));
    let done = finish(spawn(command));
    assert_eq!(done.text(), "");
    done.told()
}

/// In a folder made by `prepare`: what we were told, then what is there.
#[track_caller]
fn check(prepare: impl Fn(&Path), argv: &[&str], expected: &Expect) {
    let fake = session();
    let here = fake.path("here");
    fs::create_dir(&here).expect("room");
    prepare(&here);
    let told = cp(&fake, argv);
    expected.assert_eq(&format!("{told}{}", below(&here)));
}

fn nothing(_: &Path) {}

#[test]
fn a_file_keeps_its_name_in_a_folder_and_gets_one_elsewhere() {
    check(
        nothing,
        &["work:a.txt", "."],
        &expect![[r"
        0
        a.txt 600: of a
    "]],
    );
    check(
        nothing,
        &["work:a.txt", "new"],
        &expect![[r"
        0
        new 600: of a
    "]],
    );
    check(
        nothing,
        &["work:a.txt", "new/"],
        &expect![[r"
        0
        new/ 700
        new/a.txt 600: of a
    "]],
    );
    let folder = |here: &Path| fs::create_dir(here.join("there")).expect("room");
    check(
        folder,
        &["work:a.txt", "there"],
        &expect![[r"
        0
        there/ 700
        there/a.txt 600: of a
    "]],
    );
    check(
        folder,
        &["work:a.txt", "work:/tmp/b.txt", "there"],
        &expect![[r"
        0
        there/ 700
        there/a.txt 600: of a
        there/b.txt 600: of b
    "]],
    );
}

#[test]
fn a_file_that_is_there_is_replaced() {
    let old = |here: &Path| {
        fs::write(here.join("a.txt"), "old and longer").expect("room");
        fs::hard_link(here.join("a.txt"), here.join("other")).expect("room");
    };
    check(
        old,
        &["work:a.txt", "."],
        &expect![[r"
        0
        a.txt 600: of a
        other 600: old and longer
    "]],
    );
    // A link that is typed is followed, and stays.
    let link = |here: &Path| {
        old(here);
        symlink("other", here.join("link")).expect("room");
    };
    check(
        link,
        &["work:a.txt", "link"],
        &expect![[r"
        0
        a.txt 600: old and longer
        link -> other
        other 600: of a
    "]],
    );
}

#[test]
fn a_tree_is_made_or_merged_and_its_modes_are_plain() {
    check(
        nothing,
        &["-r", "work:tree", "new"],
        &expect![[r"
        0
        note: passed over: work:/sandbox/tree/link is a link
        new/ 700
        new/a.txt 600: a
        new/b/ 700
        new/b/run 700: run
        new/empty 600: 
    "]],
    );
    let merged = |here: &Path| {
        fs::create_dir_all(here.join("there/tree/b")).expect("room");
        fs::write(here.join("there/tree/a.txt"), "old").expect("room");
        fs::write(here.join("there/tree/b/mine"), "mine").expect("room");
        symlink("there", here.join("way")).expect("room");
    };
    check(
        merged,
        &["-r", "work:tree", "way"],
        &expect![[r"
        0
        note: passed over: work:/sandbox/tree/link is a link
        there/ 700
        there/tree/ 700
        there/tree/a.txt 600: a
        there/tree/b/ 700
        there/tree/b/mine 600: mine
        there/tree/b/run 700: run
        there/tree/empty 600: 
        way -> there
    "]],
    );
    check(
        nothing,
        &["-r", "work:tree/.", "."],
        &expect![[r"
        0
        note: passed over: work:/sandbox/tree/link is a link
        a.txt 600: a
        b/ 700
        b/run 700: run
        empty 600: 
    "]],
    );
}

#[test]
fn stdout_takes_one_file() {
    let fake = session();
    let done = isol8(&fake, &["session", "cp", "work:a.txt", "-"]);
    assert_eq!((done.text(), done.told().as_str()), ("of a", "0\n"));
    let done = isol8(&fake, &["session", "cp", "work:large", "-"]);
    assert_eq!((done.stdout.len(), done.code), (5 << 20, 0));
    let done = isol8(&fake, &["session", "cp", "-r", "work:tree", "-"]);
    assert_eq!(
        done.told(),
        "2\nerror: `work:/sandbox/tree` is a folder\nhint: folders go to a folder, not to stdout\n"
    );
    let mut closed = command(fake.folder.path(), &["session", "cp", "work:large", "-"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    closed.stdout(writer);
    assert_eq!(finish(spawn(closed)).told(), "141\n");
}

#[test]
fn what_cannot_be_fetched_is_told_and_leaves_nothing() {
    check(
        nothing,
        &["work:tree", "new/"],
        &expect![[r"
        2
        error: `work:/sandbox/tree` is a folder
        hint: `isol8 session cp -r` copies folders, with everything in them
    "]],
    );
    check(
        nothing,
        &["work:nosuch", "new/"],
        &expect![[r"
        125
        error: there is no such file
        hint: type this
    "]],
    );
    check(
        nothing,
        &["work:link", "new/"],
        &expect![[r"
        2
        error: `work:/sandbox/link` is neither a file nor a folder
        hint: `isol8 session ls` shows what is there
    "]],
    );
    check(
        nothing,
        &["-r", "work:a.txt/.", "."],
        &expect![[r"
        2
        error: `work:/sandbox/a.txt` is a file, not a folder
        hint: leave the `/.` at its end out
    "]],
    );
}

#[test]
fn a_place_that_cannot_take_it_is_told_before_a_daemon_is_asked() {
    let fake = Fake::silent();
    fs::write(fake.path("file"), "").expect("room");
    symlink("nowhere", fake.path("link")).expect("room");
    let wrong: [(&[&str], &str); 7] = [
        (
            &["work:a", "/dev/null"],
            "`/dev/null` is neither a file nor a folder",
        ),
        (&["work:a", "link"], "`link` is a link that leads nowhere"),
        (&["work:a", "x/y"], "cannot write `x/y`"),
        (&["work:a", "file/"], "cannot write `file/`"),
        (&["work:a", "work:b", "file"], "`file` is not a folder"),
        (&["work:a", "work:b", "new"], "`new` is not a folder"),
        (
            &["work:a", "work:b", "-"],
            "only one file is copied to stdout",
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
fn only_regular_files_are_replaced_and_only_folders_merged() {
    let file = |here: &Path| fs::write(here.join("tree"), "mine").expect("room");
    check(
        file,
        &["-r", "work:tree", "."],
        &expect![[r"
        125
        error: cannot write `./tree`
        cause: what is there is not a folder
        hint: remove it, or copy to another folder
        tree 600: mine
    "]],
    );
    let folder = |here: &Path| fs::create_dir(here.join("a.txt")).expect("room");
    check(
        folder,
        &["work:a.txt", "."],
        &expect![[r"
        125
        error: cannot write `./a.txt`
        cause: what is there is a folder
        hint: remove it, or copy to another folder
        a.txt/ 700
    "]],
    );
    // Below what was typed, no link of ours is followed either.
    let links = |here: &Path| {
        fs::create_dir_all(here.join("tree")).expect("room");
        fs::create_dir_all(here.join("mine")).expect("room");
        symlink("../mine", here.join("tree/b")).expect("room");
    };
    check(
        links,
        &["-r", "work:tree", "."],
        &expect![[r"
        125
        error: cannot write `./tree/b`
        cause: what is there is not a folder
        hint: remove it, or copy to another folder
        mine/ 700
        tree/ 700
        tree/a.txt 600: a
        tree/b -> ../mine
    "]],
    );
    let link = |here: &Path| {
        fs::create_dir_all(here.join("tree")).expect("room");
        fs::write(here.join("mine"), "mine").expect("room");
        symlink("../mine", here.join("tree/a.txt")).expect("room");
    };
    check(
        link,
        &["-r", "work:tree", "."],
        &expect![[r"
        125
        error: cannot write `./tree/a.txt`
        cause: what is there is a link
        hint: remove it, or copy to another folder
        mine 600: mine
        tree/ 700
        tree/a.txt -> ../mine
    "]],
    );
}

#[test]
fn what_is_in_the_way_is_told_before_all_has_come() {
    let fake = session();
    fs::create_dir_all(fake.path("here/slow")).expect("room");
    let told = cp(&fake, &["work:slow", "."]);
    assert!(told.contains("what is there is a folder"), "{told}");
}

#[test]
fn a_session_that_is_lost_leaves_no_half_file() {
    check(
        nothing,
        &["-r", "work:lost", "."],
        &expect![[r"
        125
        error: the sandbox is gone
        hint: type this
        lost/ 700
        lost/whole 600: w
    "]],
    );
}

#[test]
fn ctrl_c_leaves_no_half_file() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let fake = session();
        let here = fake.path("here");
        fs::create_dir(&here).expect("room");
        fs::write(here.join("slow"), "old").expect("room");
        let argv = ["session", "cp", "work:slow", "here"];
        let child = spawn(command(fake.folder.path(), &argv));
        let has_half = || {
            let mut names = fs::read_dir(&here).expect("a folder").flatten();
            names.any(|found| fs::read(found.path()).is_ok_and(|data| data == b"half"))
        };
        wait_for("half a file", has_half);
        signal(&child, number);
        assert_eq!(finish(child).told(), format!("{code}\n"));
        assert_eq!(below(&here), "slow 600: old\n");
        fake.await_note("get is over");
    }
}

#[test]
fn ctrl_c_is_heard_while_nobody_reads_our_stdout() {
    let fake = session();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = command(fake.folder.path(), &["session", "cp", "work:large", "-"]);
    command.stdout(writer);
    let child = spawn(command);
    wait_for("a pipe that is full", || {
        use rustix::io::ioctl_fionread;
        ioctl_fionread(&reader).is_ok_and(|bytes| bytes >= 64 << 10)
    });
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
}

#[test]
fn a_person_at_a_terminal_sees_how_far_it_is() {
    let fake = session();
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&size), None).expect("Linux has them");
    let mut command = command(fake.folder.path(), &["session", "cp", "work:slow", "new"]);
    command.env("TERM", "xterm").stderr(terminal.slave);
    let child = spawn(command);
    let mut master = File::from(terminal.master);
    rustix::io::ioctl_fionbio(&master, true).expect("a terminal");
    let mut shown = Vec::new();
    wait_for("a line of progress", || {
        let mut some = [0; 4096];
        let count = master.read(&mut some).unwrap_or_default();
        shown.extend_from_slice(&some[..count]);
        String::from_utf8_lossy(&shown).contains("work:/sandbox/slow: 4 B of 8 B, ")
    });
    signal(&child, Signal::INT);
    assert_eq!(finish(child).code, 130);
}
