//! Real trees on disk, and an init of the tests' own making.

mod disk;

use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::fs::symlink, path::Path};

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::Link;
use isol8_proto::init::{FailureKind as InitFailure, FileWritten, Folder, from_init, to_init};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::{MAX_UNANSWERED, copy};
use crate::files::{
    memory::{
        Memory,
        tests::{holding, unknown},
    },
    tests::init::{Init, pair},
};
use disk::{Disk, done, failed, serve};

/// Enough for some pieces, and none of them full at the end.
const LARGE: usize = (3 << 20) + 17;

fn tree() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn put(tree: &TempDir, path: &str, data: &[u8], mode: u32) {
    let path = tree.path().join(path);
    let above = path.parent().expect("a name");
    fs::create_dir_all(above).expect("folders");
    fs::write(&path, data).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn large() -> Vec<u8> {
    (0..=250_u8).cycle().take(LARGE).collect()
}

/// Copies to an init that does as it is told, and checks that the link is as
/// before.
async fn copy_to(disk: Disk, tree: &Path) -> (Result<(), Failure>, Disk) {
    copy_within(&unknown(), disk, tree).await
}

async fn copy_within(memory: &Memory, disk: Disk, tree: &Path) -> (Result<(), Failure>, Disk) {
    let (mut link, init) = pair();
    let copied = async move {
        let copied = copy(&mut link, memory, tree, ".local").await;
        let next = to_init::Message::Folder(Folder {
            path: "next".into(),
            ..Folder::default()
        });
        link.writer.send(next).await.expect("init listens");
        let said = link.reader.recv().await.expect("init answers");
        assert_eq!(said, done(), "{copied:?}");
        copied
    };
    let (copied, mut disk) = tokio::join!(copied, serve(init, disk));
    assert_eq!(disk.nodes.remove("next").as_deref(), Some("folder 0"));
    assert!(!disk.has_half(), "a half file is left");
    (copied, disk)
}

#[tokio::test]
async fn packages_that_the_memory_does_not_hold_are_refused() {
    let tree = tree();
    put(&tree, "a/large", &large(), 0o644);
    let (_fake, memory) = holding(116);
    let (copied, _) = copy_within(&memory, Disk::default(), tree.path()).await;
    copied.expect("it fits");
    let (_fake, memory) = holding(120);
    let (copied, disk) = copy_within(&memory, Disk::default(), tree.path()).await;
    let failure = copied.expect_err("it is too much");
    assert_eq!(failure.kind, FailureKind::NoSpace);
    let told = failure.to_string();
    assert!(told.contains("memory limit of 128m"), "{told}");
    assert!(!disk.nodes.contains_key(".local/a/large"));
}

#[tokio::test]
async fn a_tree_arrives_as_it_is() {
    let tree = tree();
    put(&tree, "bin/tool", b"#!/bin/sh\n", 0o755);
    put(&tree, "lib/empty", b"", 0o644);
    put(&tree, "lib/a/b/secret", b"x", 0o600);
    put(&tree, "lib/large", &large(), 0o644);
    put(&tree, "lib/exact", &[7; 512 << 10], 0o444);
    put(&tree, "lib/set-uid", b"x", 0o4755);
    fs::create_dir(tree.path().join("nothing")).expect("a folder");
    symlink("../bin/tool", tree.path().join("lib/again")).expect("a link");
    let (copied, disk) = copy_to(Disk::default(), tree.path()).await;
    copied.expect("all of it");
    let root = fs::metadata(tree.path()).expect("it is there");
    let root = format!(".local folder {:o}", root.permissions().mode() & 0o777);
    let shown = disk.shown();
    let shown: Vec<_> = shown.iter().map(String::as_str).collect();
    assert_eq!(
        shown,
        [
            root.as_str(),
            ".local/bin folder 755",
            ".local/bin/tool 755 of 10",
            ".local/lib folder 755",
            ".local/lib/a folder 755",
            ".local/lib/a/b folder 755",
            ".local/lib/a/b/secret 600 of 1",
            ".local/lib/again -> ../bin/tool",
            ".local/lib/empty 644 of 0",
            ".local/lib/exact 444 of 524288",
            ".local/lib/large 644 of 3145745",
            ".local/lib/set-uid 755 of 1",
            ".local/nothing folder 755",
        ]
    );
    assert_eq!(disk.longest, large(), "byte for byte");
}

#[tokio::test]
async fn thousands_of_files_arrive() {
    let tree = tree();
    for number in 0..2000 {
        put(&tree, &format!("{}/{number}", number % 7), b"data", 0o644);
    }
    let (copied, disk) = copy_to(Disk::default(), tree.path()).await;
    copied.expect("all of it");
    assert_eq!(disk.nodes.len(), 2000 + 7 + 1);
}

#[tokio::test]
async fn a_deep_tree_arrives() {
    let tree = tree();
    let path = "d/".repeat(1000);
    put(&tree, &format!("{path}f"), b"deep", 0o644);
    let (copied, disk) = copy_to(Disk::default(), tree.path()).await;
    copied.expect("all of it");
    let deepest = format!(".local/{path}f");
    assert_eq!(
        disk.nodes.get(&deepest).map(String::as_str),
        Some("644 of 4")
    );
}

#[tokio::test]
async fn nothing_is_read_through_a_link() {
    let (outside, tree) = (tree(), tree());
    put(&outside, "secret", b"secret", 0o644);
    symlink(outside.path(), tree.path().join("folder")).expect("a link");
    symlink(outside.path().join("secret"), tree.path().join("file")).expect("a link");
    let (copied, disk) = copy_to(Disk::default(), tree.path()).await;
    copied.expect("both links");
    assert_eq!(disk.nodes.len(), 3, "{:?}", disk.nodes);
    let links = disk.nodes.values().filter(|node| node.starts_with("->"));
    assert_eq!(links.count(), 2);
    // Nor is the tree itself looked for behind one.
    let (copied, disk) = copy_to(Disk::default(), &tree.path().join("folder")).await;
    let failure = copied.expect_err("no tree");
    assert_eq!(failure.kind, FailureKind::InstallFailed, "{failure}");
    assert!(disk.nodes.is_empty(), "{:?}", disk.nodes);
}

#[tokio::test]
async fn a_tree_that_is_none_is_said_to_be_unreadable() {
    let tree = tree();
    let (copied, _) = copy_to(Disk::default(), &tree.path().join("none")).await;
    let failure = copied.expect_err("nothing there");
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    assert!(failure.hint.is_some(), "{failure}");
    // What a reader could wait for without end.
    let pipe = tree.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe");
    let (copied, _) = copy_to(Disk::default(), tree.path()).await;
    let failure = copied.expect_err("a pipe");
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    let told = failure.to_string();
    assert!(told.contains("`.local/pipe` is neither"), "{told}");
}

#[tokio::test]
async fn a_full_sandbox_is_named_wherever_it_became_full() {
    for (bad, at) in [("a", 0), ("large", 1), ("large", 5), ("large", 12)] {
        let tree = tree();
        put(&tree, "large", &large(), 0o644);
        put(&tree, "a", b"small", 0o644);
        for number in 0..500 {
            put(&tree, &format!("more/{number}"), b"more", 0o644);
        }
        let disk = Disk::with_bad(format!(".local/{bad}"), at, InitFailure::NoSpace);
        let (copied, disk) = copy_to(disk, tree.path()).await;
        let failure = copied.expect_err("no room");
        assert_eq!(failure.kind, FailureKind::NoSpace, "{failure}");
        assert!(failure.message.contains("no room in /sandbox"), "{failure}");
        let causes = failure.causes.join("\n");
        assert_eq!(
            causes,
            "scripted\na part of them may be in `/sandbox/.local` now"
        );
        let hint = failure.hint.expect("what to do");
        assert!(hint.contains("--sandbox-size") && hint.contains("--memory"));
        assert!(!disk.nodes.contains_key(&format!(".local/{bad}")));
    }
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let tree = tree();
    put(&tree, "lib/\u{1b}[31mred", b"x", 0o644);
    let bad = ".local/lib/\u{1b}[31mred".to_owned();
    let disk = Disk::with_bad(bad, 0, InitFailure::BadPath);
    let (copied, _) = copy_to(disk, tree.path()).await;
    let failure = copied.expect_err("in the way");
    assert_eq!(failure.kind, FailureKind::InstallFailed);
    let told = failure.to_string();
    assert!(told.contains("`.local/lib/\\u{1b}[31mred`"), "{told}");
    assert!(failure.hint.is_some());
    let disk = Disk::with_bad(".local".to_owned(), 0, InitFailure::BadPath);
    let (copied, _) = copy_to(disk, tree.path()).await;
    let told = copied.expect_err("in the way").to_string();
    assert!(told.contains("`.local`"), "{told}");
}

/// The first answer is late and bad, while a file is on its way.
#[tokio::test]
async fn a_half_file_is_given_up_when_something_before_it_fails() {
    let tree = tree();
    put(&tree, "large", &large(), 0o644);
    let (mut link, mut init) = pair();
    let memory = unknown();
    let copying = copy(&mut link, &memory, tree.path(), ".local");
    let serving = async {
        let mut disk = Disk::default();
        let first = init.hear().await.expect("a folder");
        assert!(matches!(first, to_init::Message::Folder(_)));
        for _ in 0..3 {
            let piece = init.hear().await.expect("a piece");
            assert_eq!(disk.obey(&piece), None);
        }
        assert!(disk.has_half());
        init.say(failed(InitFailure::Other)).await;
        while let Some(command) = init.hear().await {
            let is_marker = matches!(&command, to_init::Message::Folder(_));
            if let Some(answer) = disk.obey(&command) {
                init.say(answer).await;
            }
            if is_marker {
                break;
            }
        }
        (disk, init)
    };
    let (copied, (disk, mut init)) = tokio::join!(copying, serving);
    let failure = copied.expect_err("refused");
    assert_eq!(failure.kind, FailureKind::InstallFailed, "{failure}");
    assert!(!disk.has_half());
    assert!(!disk.nodes.contains_key(".local/large"));
    assert!(init.hear_soon().await.is_none(), "nothing comes after it");
}

#[tokio::test]
async fn what_goes_ahead_of_its_answers_is_bounded() {
    let tree = tree();
    for number in 0..400 {
        put(&tree, &number.to_string(), b"x", 0o644);
    }
    let (mut link, mut init) = pair();
    let memory = unknown();
    let copying = copy(&mut link, &memory, tree.path(), ".local");
    let serving = async {
        let mut disk = Disk::default();
        let (mut owed, mut most) = (Vec::new(), 0);
        while disk.nodes.len() < 401 {
            while let Some(command) = init.hear_soon().await {
                owed.extend(disk.obey(&command));
            }
            most = most.max(owed.len());
            for answer in owed.drain(..) {
                init.say(answer).await;
            }
        }
        most
    };
    let (copied, most) = tokio::join!(copying, serving);
    copied.expect("all of it");
    assert!((64..MAX_UNANSWERED + 32).contains(&most), "{most}");
}

async fn broken(say: impl AsyncFnOnce(&mut Init)) -> Failure {
    let tree = tree();
    put(&tree, "a", b"x", 0o644);
    let (mut link, mut init): (Link, Init) = pair();
    let memory = unknown();
    let copying = copy(&mut link, &memory, tree.path(), ".local");
    let serving = async {
        init.hear().await;
        init.hear().await;
        say(&mut init).await;
        // Time passes by itself only where nobody can do anything.
        while init.hear().await.is_some() {}
    };
    tokio::select! {
        copied = copying => copied.expect_err("init is broken"),
        () = serving => panic!("the daemon does not close it"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_does_not_do_as_it_must_is_left() {
    let lie = from_init::Message::FileWritten(FileWritten { bytes: 2 });
    let failure = broken(async |init| {
        init.say(done()).await;
        init.say(lie).await;
    });
    assert_eq!(failure.await.kind, FailureKind::Internal);
    let failure = broken(async |init| {
        for _ in 0..2 {
            init.say(done()).await;
        }
    });
    assert_eq!(failure.await.kind, FailureKind::Internal);
    let failure = broken(async |_| {});
    assert_eq!(failure.await.kind, FailureKind::EngineTimeout);
    // It refuses, and says nothing more.
    let failure = broken(async |init| init.say(failed(InitFailure::NoSpace)).await).await;
    assert_eq!(failure.kind, FailureKind::SessionLost);
    let told = failure.to_string();
    assert!(told.contains("no room in /sandbox"), "{told}");
}

#[tokio::test]
async fn a_sandbox_that_goes_away_is_lost() {
    let tree = tree();
    put(&tree, "large", &large(), 0o644);
    let (mut link, mut init) = pair();
    let memory = unknown();
    let copying = copy(&mut link, &memory, tree.path(), ".local");
    let serving = async {
        init.hear().await;
        init.say(done()).await;
        init.hear().await;
        drop(init);
    };
    let (copied, ()) = tokio::join!(copying, serving);
    assert_eq!(copied.expect_err("gone").kind, FailureKind::SessionLost);
}
