//! Symbolic links that are made.

use isol8_proto::init::{Failed, FailureKind, File, Root, Symlink, from_init, to_init};

use crate::rig::{Rig, bash};

fn order(path: &str, target: &[u8]) -> to_init::Message {
    to_init::Message::Symlink(Symlink {
        root: Root::Sandbox.into(),
        path: path.to_owned().into(),
        target: target.to_vec().into(),
    })
}

fn link(rig: &mut Rig, path: &str, target: &str) -> Result<(), Failed> {
    rig.order(order(path, target.as_bytes()))
}

#[track_caller]
fn refused(end: Result<(), Failed>, errno: i32) {
    let failed = end.expect_err("refused");
    let found = (failed.kind(), failed.errno);
    assert_eq!(found, (FailureKind::BadPath, errno), "{failed:?}");
}

#[test]
fn a_link_is_made_with_the_folders_above_it() {
    let mut rig = Rig::start();
    rig.put("a/tool", b"there\n").expect("written");
    link(&mut rig, "a/bin/tool", "../tool").expect("made");
    link(&mut rig, "dangling", "no/where").expect("made");
    link(&mut rig, "out", "/etc/passwd").expect("made");
    rig.order(to_init::Message::Symlink(Symlink {
        root: Root::Tmp.into(),
        path: "x/l".into(),
        target: "y".into(),
    }))
    .expect("made");
    let outcome = rig.bash("readlink a/bin/tool dangling out /tmp/x/l; cat a/bin/tool; ls -A");
    assert_eq!(
        outcome.stdout,
        "../tool\nno/where\n/etc/passwd\ny\nthere\na\ndangling\nout\n"
    );
}

#[test]
fn a_file_or_link_of_that_name_is_replaced_and_not_what_it_leads_to() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir keep; echo kept > keep/f; ln -s keep link; ln -s keep/f to-file; echo old > file",
    );
    for path in ["link", "to-file", "file"] {
        link(&mut rig, path, "new").expect(path);
    }
    let outcome = rig.bash("readlink link to-file file; cat keep/f; ls -A . keep");
    assert_eq!(
        outcome.stdout,
        "new\nnew\nnew\nkept\n.:\nfile\nkeep\nlink\nto-file\n\nkeep:\nf\n"
    );
}

#[test]
fn a_link_takes_no_other_place_and_no_way_out() {
    let mut rig = Rig::start();
    rig.bash("mkdir folder; mkfifo fifo; touch file; ln -s /tmp link; ln -s . self");
    for (path, errno) in [
        ("folder", libc::EEXIST),
        ("fifo", libc::EEXIST),
        ("link/x", libc::ENOTDIR),
        ("self/x", libc::ENOTDIR),
        ("file/x", libc::ENOTDIR),
        ("", libc::EINVAL),
        ("..", libc::EINVAL),
        ("folder/../x", libc::EINVAL),
        ("/tmp/x", libc::EINVAL),
        ("x/", libc::EINVAL),
    ] {
        refused(link(&mut rig, path, "new"), errno);
    }
    refused(link(&mut rig, &"n".repeat(256), "new"), libc::ENAMETOOLONG);
    assert_eq!(
        rig.bash("ls -A . /tmp folder; readlink link").stdout,
        ".:\nfifo\nfile\nfolder\nlink\nself\n\n/tmp:\n\nfolder:\n/tmp\n"
    );
}

#[test]
fn a_target_is_what_the_kernel_takes() {
    let mut rig = Rig::start();
    for target in ["", "a\0b", &"t".repeat(4096)] {
        refused(link(&mut rig, "l", target), libc::EINVAL);
    }
    assert_eq!(rig.bash("ls -A").stdout, "");
    let longest = "t".repeat(4095);
    link(&mut rig, "l", &longest).expect("made");
    let strange = b"\xff \n$(x)";
    rig.order(order("m", strange)).expect("made");
    let outcome = rig.bash("readlink l; readlink -n m | od -An -tx1; ls -A");
    assert_eq!(
        outcome.stdout,
        format!("{longest}\n ff 20 0a 24 28 78 29\nl\nm\n")
    );
}

#[test]
fn a_reader_sees_the_old_link_or_the_new_one() {
    let mut rig = Rig::start();
    link(&mut rig, "l", "1").expect("made");
    rig.start_command(bash(
        "until [ -e stop ]; do
           [ -L l ] || echo gone
         done",
    ));
    for round in 0..200 {
        let end = link(&mut rig, "l", if round % 2 == 0 { "2" } else { "1" });
        end.expect("made");
    }
    rig.put("stop", b"").expect("written");
    let outcome = rig.outcome();
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    assert_eq!(rig.bash("ls -A").stdout, "l\nstop\n");
}

#[test]
fn a_link_that_finds_its_place_taken_leaves_nothing() {
    let mut rig = Rig::start();
    rig.start_command(bash(
        "until [ -e stop ]; do mkdir l; rm -rf l; done 2>/dev/null",
    ));
    for _ in 0..300 {
        if let Err(failed) = link(&mut rig, "l", "new") {
            assert_eq!(failed.kind(), FailureKind::BadPath, "{failed:?}");
        }
    }
    rig.put("stop", b"").expect("written");
    rig.outcome();
    assert_eq!(rig.bash("rm -rf l; ls -A").stdout, "stop\n");
}

#[test]
fn a_full_file_system_is_named_and_keeps_what_was_there() {
    let mut rig = Rig::start_with(&["--size", "1000000", "--tmpfs", "/sandbox"], &[]);
    rig.bash("ln -s old l; head -c 2000000 /dev/zero > fill 2>/dev/null");
    // A short target is kept in the inode, which is there as long as one is free.
    let failed = link(&mut rig, "l", &"t".repeat(4000)).expect_err("no room");
    assert_eq!(failed.kind(), FailureKind::NoSpace, "{failed:?}");
    assert_eq!(rig.bash("ls -A; readlink l").stdout, "fill\nl\nold\n");
}

#[test]
fn links_and_files_that_come_together_are_answered_in_their_order() {
    let mut rig = Rig::start();
    let file = |last: bool| {
        to_init::Message::File(File {
            path: "f".into(),
            data: "half".into(),
            append: last,
            last,
            ..File::default()
        })
    };
    // A link between two pieces of a file does not end the file.
    rig.send_together([
        order("a", b"1"),
        file(false),
        order("f/x", b"2"),
        file(true),
        order("b", b"3"),
        order("..", b"4"),
    ]);
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(match rig.recv() {
            from_init::Message::Done(_) => "done".to_owned(),
            from_init::Message::FileWritten(written) => format!("{}", written.bytes),
            from_init::Message::Failed(failed) if failed.files => format!("{:?}", failed.kind()),
            other => panic!("{other:?}"),
        });
    }
    // The folder `f` was made for the link, so that the file has no place.
    assert_eq!(said, ["done", "done", "BadPath", "done", "BadPath"]);
    assert_eq!(rig.bash("ls -A . f").stdout, ".:\na\nb\nf\n\nf:\nx\n");
}
