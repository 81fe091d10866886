//! What a fake sandbox holds apart from its stream: it stays when the stream
//! ends, for as long as its init lives.

use std::collections::BTreeSet;

use bytes::Bytes;
use isol8_proto::init::{Failed, FailureKind, Root};

use super::{
    fetch::Leavings,
    tree::{Errno, Tree},
};

/// Files, background processes, and what init was told to remember.
#[derive(Debug, Default)]
pub(super) struct Insides {
    sandbox: Tree,
    tmp: Tree,
    /// Most bytes in the two.
    rooms: [u64; 2],
    pub(super) leavings: Leavings,
    /// Names of the processes that go on in the background.
    pub(super) background: BTreeSet<String>,
    pub(super) token: Bytes,
    /// An interpreter is parked.
    pub(super) parked: bool,
}

impl Insides {
    /// Of a new sandbox whose two roots hold so many bytes.
    pub(super) fn new(rooms: [u64; 2]) -> Self {
        Self {
            rooms,
            ..Self::default()
        }
    }

    /// The files below a root.
    ///
    /// # Errors
    /// `EINVAL` for a root that init does not know.
    pub(super) fn tree(&self, root: i32) -> Result<&Tree, Errno> {
        match Root::try_from(root) {
            Ok(Root::Sandbox) => Ok(&self.sandbox),
            Ok(Root::Tmp) => Ok(&self.tmp),
            Err(_) => Err(libc::EINVAL),
        }
    }

    pub(super) fn tree_mut(&mut self, root: i32) -> Result<&mut Tree, Errno> {
        match Root::try_from(root) {
            Ok(Root::Sandbox) => Ok(&mut self.sandbox),
            Ok(Root::Tmp) => Ok(&mut self.tmp),
            Err(_) => Err(libc::EINVAL),
        }
    }

    /// Whether so many more bytes fit below a root.
    pub(super) fn has_room(&self, root: i32, bytes: u64) -> bool {
        let room = self.rooms[usize::from(root == i32::from(Root::Tmp))];
        let used = self.tree(root).map_or(0, Tree::size);
        used.saturating_add(bytes) <= room
    }

    /// Puts a file there as a program does.
    pub(super) fn write(&mut self, path: &str, data: Bytes) -> Result<(), Errno> {
        let (root, path) = rooted(path);
        if !self.has_room(root, data.len() as u64) {
            return Err(libc::ENOSPC);
        }
        self.tree_mut(root)?.put(path.as_bytes(), 0o644, data)
    }

    /// Makes a link as a program does, if nothing but a file is in its way.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        let (root, path) = rooted(path);
        let target = Bytes::copy_from_slice(target.as_bytes());
        if let Ok(tree) = self.tree_mut(root) {
            // The next to look sees what is there.
            tree.link(path.as_bytes(), target).ok();
        }
    }

    /// What a program finds in a file.
    pub(super) fn read(&self, path: &str) -> Option<Bytes> {
        let (root, path) = rooted(path);
        self.tree(root).ok()?.read(path.as_bytes()).cloned()
    }
}

/// The root of a path as a program names it, from its own folder.
fn rooted(path: &str) -> (i32, &str) {
    if let Some(below) = path.strip_prefix("/tmp/") {
        return (Root::Tmp.into(), below);
    }
    let below = path.strip_prefix("/sandbox/").unwrap_or(path);
    (Root::Sandbox.into(), below)
}

/// What init answers to an order about files that it cannot carry out.
pub(super) fn refusal(errno: Errno, path: &[u8]) -> Failed {
    let path = String::from_utf8_lossy(path);
    let (kind, message) = match errno {
        libc::ENOSPC => (
            FailureKind::NoSpace,
            format!("there is no room left for `{path}`"),
        ),
        libc::ENOENT => (
            FailureKind::BadPath,
            format!("there is no file or folder `{path}`"),
        ),
        libc::EISDIR => (
            FailureKind::BadPath,
            format!("`{path}` is a folder, and only a file was to be removed"),
        ),
        _ => (FailureKind::BadPath, format!("`{path}` cannot be used")),
    };
    Failed {
        kind: kind.into(),
        message,
        errno,
        files: true,
    }
}
