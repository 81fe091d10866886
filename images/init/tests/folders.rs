//! Folders that are made, and what is removed.

use std::time::{Duration, Instant};

use isol8_proto::init::{
    Failed, FailureKind, Fetch, File, Folder, KillAll, Remove, Root, Signal, from_init, to_init,
};

use crate::{
    fetch,
    rig::{Rig, bash},
};

fn make(rig: &mut Rig, path: &str, mode: u32) -> Result<(), Failed> {
    rig.order(to_init::Message::Folder(Folder {
        root: Root::Sandbox.into(),
        path: path.to_owned().into(),
        mode,
    }))
}

fn remove(rig: &mut Rig, path: &str, recursive: bool) -> Result<(), Failed> {
    rig.order(to_init::Message::Remove(Remove {
        root: Root::Sandbox.into(),
        path: path.to_owned().into(),
        recursive,
    }))
}

#[track_caller]
fn refused(end: Result<(), Failed>, kind: FailureKind, errno: i32) {
    let failed = end.expect_err("refused");
    assert_eq!((failed.kind(), failed.errno), (kind, errno), "{failed:?}");
}

#[test]
fn a_folder_is_made_with_those_above_it_or_is_there() {
    let mut rig = Rig::start();
    make(&mut rig, "a/b", 0).expect("made");
    make(&mut rig, "a/c", 0o700).expect("made");
    // It keeps its mode, even one that lets nobody look.
    rig.bash("mkdir closed; chmod 0 closed");
    make(&mut rig, "closed", 0o755).expect("there");
    make(&mut rig, "a", 0o700).expect("there");
    make(&mut rig, "", 0o700).expect("there");
    let outcome = rig.bash("stat -c '%a %n' a a/b a/c closed");
    assert_eq!(outcome.stdout, "755 a\n755 a/b\n700 a/c\n0 closed\n");
}

#[test]
fn a_folder_takes_no_other_place_and_no_way_out() {
    let mut rig = Rig::start();
    rig.bash("ln -s /tmp link; touch file; mkfifo fifo");
    for path in [
        "link", "link/x", "file", "file/x", "fifo", "..", "/tmp/x", "a/",
    ] {
        let failed = make(&mut rig, path, 0).expect_err(path);
        assert_eq!(failed.kind(), FailureKind::BadPath, "{path}: {failed:?}");
    }
    assert_eq!(rig.bash("ls /tmp; ls").stdout, "fifo\nfile\nlink\n");
}

#[test]
fn what_is_removed_is_what_has_the_name() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir -p t/a/b keep; touch t/a/f keep/f; ln -s ../../keep t/a/l; mkfifo t/p
         ln -s keep link; touch file; mkdir folder",
    );
    remove(&mut rig, "file", false).expect("removed");
    remove(&mut rig, "link", true).expect("removed");
    refused(
        remove(&mut rig, "folder", false),
        FailureKind::BadPath,
        libc::EISDIR,
    );
    refused(
        remove(&mut rig, "none", true),
        FailureKind::BadPath,
        libc::ENOENT,
    );
    remove(&mut rig, "t/p", true).expect("removed");
    remove(&mut rig, "t", true).expect("removed");
    for path in ["", "..", "/sandbox/keep", "keep/", "keep/../keep"] {
        refused(
            remove(&mut rig, path, true),
            FailureKind::BadPath,
            libc::EINVAL,
        );
    }
    assert_eq!(
        rig.bash("find . | sort").stdout,
        ".\n./folder\n./keep\n./keep/f\n"
    );
}

#[test]
fn nothing_behind_a_link_is_removed() {
    let mut rig = Rig::start();
    rig.bash("mkdir /tmp/keep; touch /tmp/keep/f; ln -s /tmp/keep out");
    refused(
        remove(&mut rig, "out/f", false),
        FailureKind::BadPath,
        libc::ENOTDIR,
    );
    remove(&mut rig, "out", true).expect("removed");
    assert_eq!(rig.bash("ls /tmp/keep; ls").stdout, "f\n");
}

#[test]
fn closed_folders_are_opened_first() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir -p t/a/b t/c; touch t/a/b/f t/c/f; chmod 0 t/a/b t/a; chmod 500 t/c; chmod 0 t",
    );
    remove(&mut rig, "t", true).expect("removed");
    assert_eq!(rig.bash("ls -A").stdout, "");
}

#[test]
fn a_root_that_a_program_closed_is_opened_again() {
    let mut rig = Rig::start();
    for (root, folder) in [(Root::Sandbox, "/sandbox"), (Root::Tmp, "/tmp")] {
        let close = format!("cd /; chmod 0 {folder}");
        rig.bash(&close);
        rig.put_below(root, "d/f", b"x").expect("written");
        rig.bash(&close);
        let listing = Fetch {
            root: root.into(),
            ..fetch::order("d/f")
        };
        let (_, end) = fetch::fetch(&mut rig, listing);
        assert_eq!(end.expect("all of it").entries, 1);
        rig.bash(&close);
        let order = Remove {
            root: root.into(),
            path: "d".into(),
            recursive: true,
        };
        rig.order(to_init::Message::Remove(order)).expect("removed");
    }
    // A program starts in it. Rights that are not needed for that stay away.
    rig.bash("chmod 500 .");
    assert_eq!(rig.bash("stat -c %a .; chmod 0 .").stdout, "500\n");
    assert_eq!(rig.bash("stat -c %a .").stdout, "700\n");
}

#[test]
fn a_deep_tree_is_removed_with_few_descriptors() {
    let mut rig = Rig::start_with(&[], &["/usr/bin/prlimit", "--nofile=64"]);
    let python = "import os\nfor i in range(3000): os.mkdir('d'); os.chdir('d'); open('f', 'w')";
    assert_eq!(rig.bash(&format!("python3 -c \"{python}\"")).stderr, "");
    remove(&mut rig, "d", true).expect("removed");
    assert_eq!(rig.bash("ls -A").stdout, "");
}

#[test]
fn a_wide_tree_is_removed_between_other_commands() {
    let mut rig = Rig::start();
    let python = "import os\nfor i in range(300): os.mkdir(f'{i}')\n\
         for i in range(20000): open(f'{i % 300}/{i}', 'w')";
    assert_eq!(
        rig.bash(&format!("mkdir t; cd t; python3 -c \"{python}\""))
            .stderr,
        ""
    );
    rig.start_command(bash("exec sleep 60"));
    rig.send_together([
        to_init::Message::Remove(Remove {
            path: "t".into(),
            recursive: true,
            ..Remove::default()
        }),
        to_init::Message::Signal(Signal { number: 9 }),
    ]);
    // The program's end is told while much is still there.
    assert!(matches!(rig.recv(), from_init::Message::Exited(_)));
    let start = Instant::now();
    assert!(matches!(rig.recv(), from_init::Message::Done(_)));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(rig.bash("ls -A").stdout, "");
}

#[test]
fn kill_all_stops_a_removal() {
    let mut rig = Rig::start();
    rig.bash("mkdir -p t; touch t/{1..1000}");
    rig.send_together([
        to_init::Message::Remove(Remove {
            path: "t".into(),
            recursive: true,
            ..Remove::default()
        }),
        to_init::Message::KillAll(KillAll {}),
    ]);
    match rig.recv() {
        from_init::Message::Failed(failed) => {
            assert_eq!((failed.errno, failed.files), (libc::ECANCELED, true));
            assert_eq!(failed.message, "stopped before all was removed");
        }
        other => panic!("expected Failed, got {other:?}"),
    }
    assert_eq!(rig.bash("ls").stdout, "t\n");
    remove(&mut rig, "t", true).expect("removed");
    assert_eq!(rig.bash("ls").stdout, "");
}

#[test]
fn two_trees_at_a_time_are_refused() {
    let mut rig = Rig::start();
    rig.bash("mkdir -p t u; touch t/{1..1000}");
    rig.send_together(["t", "u"].map(|path| {
        to_init::Message::Remove(Remove {
            path: path.into(),
            recursive: true,
            ..Remove::default()
        })
    }));
    match rig.recv() {
        from_init::Message::Failed(failed) => {
            assert_eq!((failed.errno, failed.files), (libc::EBUSY, true));
        }
        other => panic!("expected Failed, got {other:?}"),
    }
    remove(&mut rig, "t", true).expect("removed");
    assert_eq!(rig.bash("ls").stdout, "u\n");
}

#[test]
fn tmp_is_another_root_and_there_is_no_third() {
    let mut rig = Rig::start();
    rig.put_below(Root::Tmp, "a/b", b"there").expect("written");
    assert_eq!(rig.bash("cat /tmp/a/b; ls -A").stdout, "there");
    rig.order(to_init::Message::Remove(Remove {
        root: Root::Tmp.into(),
        path: "a".into(),
        recursive: true,
    }))
    .expect("removed");
    assert_eq!(rig.bash("ls -A /tmp").stdout, "");
    rig.send(to_init::Message::File(File {
        path: "x".into(),
        last: true,
        root: 2,
        ..File::default()
    }));
    match rig.recv() {
        from_init::Message::Failed(failed) => assert_eq!(failed.kind(), FailureKind::BadPath),
        other => panic!("expected Failed, got {other:?}"),
    }
}

#[test]
fn a_full_tmpfs_can_be_emptied() {
    let mut rig = Rig::start_with(&["--size", "1000000", "--tmpfs", "/sandbox"], &[]);
    rig.bash("mkdir t; head -c 100000 /dev/zero > t/f; head -c 2000000 /dev/zero > fill");
    let failed = rig.put("new/file", b"x").expect_err("no room");
    assert_eq!(failed.kind(), FailureKind::NoSpace);
    let (_, end) = fetch::fetch(&mut rig, fetch::order("t"));
    assert_eq!(end.expect("all of it").bytes, 100_000);
    let names = crate::names::names(&mut rig, "", 1);
    assert!(
        names.starts_with("fill of 90") && names.ends_with("\nnew/\nt/\n"),
        "{names}"
    );
    remove(&mut rig, "t", true).expect("removed");
    remove(&mut rig, "fill", false).expect("removed");
    rig.put("new/file", b"x").expect("room");
}
