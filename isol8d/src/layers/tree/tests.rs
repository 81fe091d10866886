use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec().into(),
        kind: kind.into(),
        ..Entry::default()
    }
}

fn file(path: &str, size: u64, mode: u32) -> Entry {
    Entry {
        size,
        mode,
        ..entry(path, EntryKind::File)
    }
}

fn link(path: &str, target: &str) -> Entry {
    Entry {
        target: target.as_bytes().to_vec().into(),
        ..entry(path, EntryKind::Link)
    }
}

fn tree() -> (tempfile::TempDir, Tree) {
    let folder = tempfile::tempdir().expect("a folder");
    let tree = Tree::new(folder.path()).expect("it is there");
    (folder, tree)
}

#[test]
fn a_tree_is_written_with_plain_modes() {
    let (folder, mut tree) = tree();
    tree.entry(&entry("", EntryKind::Folder)).expect("the root");
    tree.entry(&entry("bin", EntryKind::Folder))
        .expect("a folder");
    tree.entry(&file("bin/tool", 6, 0o6775)).expect("a file");
    tree.data(&Bytes::from_static(b"abc")).expect("a piece");
    tree.data(&Bytes::from_static(b"def")).expect("the rest");
    tree.entry(&file("empty", 0, 0o600)).expect("a file");
    tree.entry(&link("bin/again", "../bin/tool"))
        .expect("a link");
    let written = tree.finish().expect("all has come");
    assert_eq!(
        written,
        Written {
            bytes: 5 * BLOCK_BYTES,
            entries: 5
        }
    );
    let mode = |path: &str| {
        let path = folder.path().join(path);
        path.metadata().expect("it is there").permissions().mode() & 0o7777
    };
    assert_eq!(mode("bin"), 0o755);
    assert_eq!(mode("bin/tool"), 0o755);
    assert_eq!(mode("empty"), 0o644);
    let again = std::fs::read(folder.path().join("bin/again"));
    assert_eq!(again.expect("the link leads to it"), b"abcdef");
}

#[test]
fn nothing_leads_out() {
    let (folder, mut tree) = tree();
    for path in [
        "/etc/x",
        "../x",
        "a/../../x",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        "..",
    ] {
        let failed = tree.entry(&file(path, 0, 0o644));
        assert!(
            matches!(failed, Err(TreeError::Refused { .. })),
            "{path}: {failed:?}"
        );
    }
    for target in ["/etc/passwd", "../x", "a/../../x", ""] {
        let failed = tree.entry(&link("link", target));
        assert!(
            matches!(failed, Err(TreeError::Refused { .. })),
            "{target}: {failed:?}"
        );
    }
    tree.entry(&entry("sub", EntryKind::Folder))
        .expect("a folder");
    tree.entry(&link("sub/up", "../sub")).expect("inside");
    let failed = tree.entry(&file("sub/up/x", 0, 0o644));
    assert!(matches!(failed, Err(TreeError::Disk { .. })), "{failed:?}");
    // Not even through a link that stands there already.
    symlink("/tmp", folder.path().join("out")).expect("a link");
    let failed = tree.entry(&file("out/x", 0, 0o644));
    assert!(matches!(failed, Err(TreeError::Disk { .. })), "{failed:?}");
    let failed = tree.entry(&file("out", 0, 0o644));
    assert!(matches!(failed, Err(TreeError::Disk { .. })), "{failed:?}");
}

#[test]
fn data_is_counted() {
    let (_folder, mut tree) = tree();
    assert!(tree.data(&Bytes::from_static(b"x")).is_err(), "no file");
    tree.entry(&file("a", 2, 0o644)).expect("a file");
    let failed = tree.entry(&file("b", 0, 0o644));
    assert!(matches!(failed, Err(TreeError::Protocol(_))), "{failed:?}");
    assert!(tree.data(&Bytes::from_static(b"xyz")).is_err(), "too much");
}

#[test]
fn a_layer_has_a_bound() {
    let (_folder, mut tree) = tree();
    let failed = tree.entry(&file("a", MOST_LAYER_BYTES + 1, 0o644));
    assert!(
        matches!(failed, Err(TreeError::TooMuch { .. })),
        "{failed:?}"
    );
    let (_folder, mut tree) = self::tree();
    tree.entry(&file("a", 1, 0o644)).expect("a file");
    assert!(tree.finish().is_err(), "it has not come");
}

#[test]
fn only_files_have_a_size() {
    let (_folder, mut tree) = tree();
    let huge = |entry: Entry| Entry {
        size: u64::MAX,
        ..entry
    };
    for entry in [
        entry("", EntryKind::Folder),
        entry("bin", EntryKind::Folder),
        link("bin/again", "tool"),
    ] {
        tree.entry(&huge(entry)).expect("it has none");
    }
    let written = tree.finish().expect("all has come");
    assert_eq!(written.bytes, 3 * BLOCK_BYTES);
}
