//! Files below /sandbox.

use isol8_proto::init::{FailureKind, File, from_init, to_init};

use crate::rig::{Rig, bash};

#[test]
fn a_file_arrives_with_its_folders_and_mode() {
    let mut rig = Rig::start();
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    assert_eq!(rig.put("a/b/c.bin", &data), Ok(3_000_000));
    assert_eq!(rig.put("empty", b""), Ok(0));
    let outcome = rig.bash(
        "stat -c '%s %a %F' a/b/c.bin a/b empty; head -c 300 a/b/c.bin | tail -c 3 | od -An -tu1",
    );
    assert_eq!(
        outcome.stdout,
        "3000000 644 regular file\n60 755 directory\n0 644 regular empty file\n  44  45  46\n",
    );
}

#[test]
fn a_file_of_that_name_is_replaced_and_not_written_into() {
    let mut rig = Rig::start();
    rig.put("f", b"a long first text").expect("written");
    rig.bash("ln f other; chmod 0 f");
    rig.put("f", b"second").expect("written");
    assert_eq!(
        rig.bash("cat f; echo; chmod 644 other; cat other").stdout,
        "second\na long first text"
    );
}

#[track_caller]
fn check_refused(rig: &mut Rig, path: &str) {
    let failed = rig.put(path, b"x").expect_err(path);
    assert_eq!(failed.kind(), FailureKind::BadPath, "{path}: {failed:?}");
}

#[test]
fn no_path_leads_out_or_over_something_else() {
    let mut rig = Rig::start();
    rig.bash("ln -s /tmp link; ln -s /tmp/x dangling; mkdir folder; mkfifo fifo; ln -s . self; touch file");
    for path in [
        "",
        "/etc/x",
        "../x",
        "a/../../x",
        "./x",
        "x/",
        "link/x",
        "dangling",
        "folder",
        "fifo",
        "self/x",
        "file/x",
    ] {
        check_refused(&mut rig, path);
    }
    check_refused(&mut rig, &"n".repeat(256));
    assert_eq!(
        rig.bash("ls /tmp; readlink dangling; [ -p fifo ] && echo fifo")
            .stdout,
        "/tmp/x\nfifo\n"
    );
}

#[test]
fn names_are_taken_literally() {
    let mut rig = Rig::start();
    for name in ["$(touch pwn)", "x; id", "-rf", "new\nline", "ü", "a b"] {
        assert_eq!(rig.put(name, b"1"), Ok(1), "{name}");
    }
    assert_eq!(
        rig.bash("ls -A | wc -l; [ -e pwn ] || echo none").stdout,
        "7\nnone\n"
    );
}

#[test]
fn a_full_tmpfs_is_named_and_leaves_no_part() {
    let mut rig = Rig::start_with(&["--size", "1000000", "--tmpfs", "/sandbox"], &[]);
    let failed = rig.put("big", &[1; 3_000_000]).expect_err("no room");
    assert_eq!((failed.kind(), failed.errno), (FailureKind::NoSpace, 28));
    assert_eq!(rig.bash("ls -A").stdout, "");
    // To the brim, and init goes on.
    let outcome =
        rig.bash("head -c 2000000 /dev/zero > fill 2>/dev/null; df --output=avail . | tail -1");
    assert_eq!(outcome.stdout.trim(), "0");
    assert_eq!(
        rig.put("more", b"x").expect_err("no room").kind(),
        FailureKind::NoSpace
    );
    assert_eq!(rig.bash("rm fill; echo freed").stdout, "freed\n");
    assert_eq!(rig.put("more", b"x"), Ok(1));
}

#[test]
fn a_piece_without_a_beginning_is_refused() {
    let mut rig = Rig::start();
    rig.send(to_init::Message::File(File {
        path: "x".into(),
        data: "y".into(),
        append: true,
        last: true,
        mode: 0,
        root: 0,
    }));
    assert!(matches!(rig.recv(), from_init::Message::Failed(_)));
    assert_eq!(rig.bash("ls -A").stdout, "");
}

#[test]
fn a_reader_sees_the_old_file_or_the_whole_new_one() {
    let mut rig = Rig::start();
    rig.put("f", &[1; 100_000]).expect("written");
    rig.start_command(bash(
        "until [ -e stop ]; do
           case $(wc -c < f) in 100000|700000) ;; *) echo part;; esac
         done",
    ));
    for round in 0..40 {
        let size = if round % 2 == 0 { 700_000 } else { 100_000 };
        assert_eq!(rig.put("f", &vec![1; size]), Ok(size as u64));
    }
    rig.put("stop", b"").expect("written");
    let outcome = rig.outcome();
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
}

#[test]
fn a_file_that_is_not_finished_is_gone_with_the_next() {
    let mut rig = Rig::start();
    rig.put("f", b"old").expect("written");
    for path in ["f", "g"] {
        rig.send(to_init::Message::File(File {
            path: path.into(),
            data: "half".into(),
            ..File::default()
        }));
    }
    rig.put("h", b"whole").expect("written");
    assert_eq!(rig.bash("ls -A; cat f").stdout, "f\nh\nold");
}

#[test]
fn what_takes_the_place_of_a_file_meanwhile_is_not_replaced() {
    let mut rig = Rig::start();
    for make in ["mkdir f", "ln -s /etc/passwd f", "mkfifo f"] {
        let piece = |append| {
            to_init::Message::File(File {
                path: "f".into(),
                data: "piece".into(),
                append,
                last: append,
                ..File::default()
            })
        };
        rig.send(piece(false));
        rig.bash(make);
        rig.send(piece(true));
        match rig.recv() {
            from_init::Message::Failed(failed) => {
                assert_eq!((failed.kind(), failed.files), (FailureKind::BadPath, true));
            }
            other => panic!("{make}: expected Failed, got {other:?}"),
        }
        assert_eq!(rig.bash("ls -A; rm -r f").stdout, "f\n");
    }
}
