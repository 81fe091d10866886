//! The files of a fake sandbox: what is below one of its two roots.
//!
//! Nothing is ever looked up through a link, as with the real init.

use std::collections::BTreeMap;

use bytes::Bytes;

/// The names on the way to something, none of them special. Sorted, they are in
/// the order in which init reads a tree: parents first, then by name.
type Names = Vec<Vec<u8>>;

/// A number as the kernel gives it.
pub(super) type Errno = i32;

/// The longest target of a link.
const MOST_TARGET_BYTES: usize = 4095;

/// Something that has a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder { mode: u32 },
    File { mode: u32, data: Bytes },
    Link { target: Bytes },
}

/// Everything below a root. The root itself is always there.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree(BTreeMap<Names, Node>);

/// The names of a relative path.
///
/// # Errors
/// `EINVAL` for anything else.
fn names(path: &[u8]) -> Result<Names, Errno> {
    let names: Names = path
        .split(|byte| *byte == b'/')
        .map(<[u8]>::to_vec)
        .collect();
    let plain = |name: &Vec<u8>| !name.is_empty() && *name != b"." && *name != b"..";
    if names.iter().all(plain) && !path.contains(&0) {
        Ok(names)
    } else {
        Err(libc::EINVAL)
    }
}

/// What stands in the way below a thing that is no folder.
const fn not_a_folder(node: &Node) -> Errno {
    match node {
        Node::Link { .. } => libc::ELOOP,
        Node::Folder { .. } | Node::File { .. } => libc::ENOTDIR,
    }
}

impl Tree {
    /// All bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let sizes = self.0.values().map(|node| match node {
            Node::File { data, .. } => data.len() as u64,
            Node::Folder { .. } | Node::Link { .. } => 0,
        });
        sizes.sum()
    }

    /// What is in a file.
    pub(super) fn read(&self, path: &[u8]) -> Option<&Bytes> {
        match self.0.get(&names(path).ok()?)? {
            Node::File { data, .. } => Some(data),
            Node::Folder { .. } | Node::Link { .. } => None,
        }
    }

    /// Whether a file may be written here: only another file or nothing may have
    /// the name. The folders above it are made.
    pub(super) fn make_way(&mut self, path: &[u8]) -> Result<(), Errno> {
        let names = names(path)?;
        self.make_parents(&names)?;
        match self.0.get(&names) {
            None | Some(Node::File { .. }) => Ok(()),
            Some(Node::Folder { .. } | Node::Link { .. }) => Err(libc::EEXIST),
        }
    }

    /// Puts a file there.
    pub(super) fn put(&mut self, path: &[u8], mode: u32, data: Bytes) -> Result<(), Errno> {
        self.make_way(path)?;
        self.0.insert(names(path)?, Node::File { mode, data });
        Ok(())
    }

    /// Makes a link, in place of a file, a link or nothing.
    pub(super) fn link(&mut self, path: &[u8], target: Bytes) -> Result<(), Errno> {
        let names = names(path)?;
        if target.is_empty() || target.contains(&0) || target.len() > MOST_TARGET_BYTES {
            return Err(libc::EINVAL);
        }
        self.make_parents(&names)?;
        if let Some(Node::Folder { .. }) = self.0.get(&names) {
            return Err(libc::EEXIST);
        }
        self.0.insert(names, Node::Link { target });
        Ok(())
    }

    /// Makes a folder, unless there is one.
    pub(super) fn make_folder(&mut self, path: &[u8], mode: u32) -> Result<(), Errno> {
        if path.is_empty() {
            return Ok(());
        }
        let names = names(path)?;
        self.make_parents(&names)?;
        match self.0.entry(names).or_insert(Node::Folder { mode }) {
            Node::Folder { .. } => Ok(()),
            other => Err(not_a_folder(other)),
        }
    }

    fn make_parents(&mut self, names: &[Vec<u8>]) -> Result<(), Errno> {
        for length in 1..names.len() {
            let folder = Node::Folder { mode: 0o755 };
            match self.0.entry(names[..length].to_vec()).or_insert(folder) {
                Node::Folder { .. } => {}
                other => return Err(not_a_folder(other)),
            }
        }
        Ok(())
    }

    /// What is at a path, when all above it are folders.
    fn find(&self, names: &[Vec<u8>]) -> Result<&Node, Errno> {
        for length in 1..names.len() {
            match self.0.get(&names[..length]) {
                Some(Node::Folder { .. }) => {}
                Some(other) => return Err(not_a_folder(other)),
                None => return Err(libc::ENOENT),
            }
        }
        self.0.get(names).ok_or(libc::ENOENT)
    }

    /// Removes a thing; a folder, with all that is in it, only when `recursive`.
    pub(super) fn remove(&mut self, path: &[u8], recursive: bool) -> Result<(), Errno> {
        let names = names(path)?;
        if matches!(self.find(&names)?, Node::Folder { .. }) && !recursive {
            return Err(libc::EISDIR);
        }
        self.0.retain(|other, _| !other.starts_with(&names));
        Ok(())
    }

    /// A thing and what is below it, with paths relative to it. `depth`: levels
    /// below it, 0 for all.
    pub(super) fn below(&self, path: &[u8], depth: u32) -> Result<Vec<(Bytes, Node)>, Errno> {
        let from = if path.is_empty() {
            Names::new()
        } else {
            names(path)?
        };
        let root = Node::Folder { mode: 0o755 };
        let first = if from.is_empty() {
            &root
        } else {
            self.find(&from)?
        };
        let mut found = vec![(Bytes::new(), first.clone())];
        let within = |levels: usize| depth == 0 || levels <= depth as usize;
        for (names, node) in &self.0 {
            let Some(rest) = names.strip_prefix(from.as_slice()) else {
                continue;
            };
            if !rest.is_empty() && within(rest.len()) {
                found.push((rest.join(&b'/').into(), node.clone()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &mut Tree, path: &str, text: &'static str) -> Result<(), Errno> {
        tree.put(path.as_bytes(), 0o644, text.into())
    }

    fn paths(tree: &Tree, path: &str, depth: u32) -> Vec<String> {
        let below = tree.below(path.as_bytes(), depth).unwrap();
        let text = |(path, _): &(Bytes, Node)| String::from_utf8_lossy(path).into_owned();
        below.iter().map(text).collect()
    }

    #[test]
    fn a_tree_is_read_parents_first_and_by_name() {
        let mut tree = Tree::default();
        for path in ["b", "a/y/z", "a-b", "a/x"] {
            file(&mut tree, path, "1").unwrap();
        }
        let all = ["", "a", "a/x", "a/y", "a/y/z", "a-b", "b"];
        assert_eq!(paths(&tree, "", 0), all);
        assert_eq!(paths(&tree, "", 1), ["", "a", "a-b", "b"]);
        assert_eq!(paths(&tree, "a", 1), ["", "x", "y"]);
        assert_eq!(paths(&tree, "b", 1), [""]);
        assert_eq!(tree.size(), 4);
    }

    #[test]
    fn nothing_but_a_file_is_replaced_and_no_link_followed() {
        let mut tree = Tree::default();
        file(&mut tree, "a/file", "old").unwrap();
        file(&mut tree, "a/file", "new").unwrap();
        assert_eq!(tree.read(b"a/file").unwrap(), "new");
        for target in ["b", "a"] {
            tree.link(b"link", target.into()).unwrap();
        }
        assert_eq!(tree.link(b"a", "x".into()), Err(libc::EEXIST));
        assert_eq!(tree.link(b"link", Bytes::new()), Err(libc::EINVAL));
        assert_eq!(file(&mut tree, "link", "x"), Err(libc::EEXIST));
        assert_eq!(file(&mut tree, "a", "x"), Err(libc::EEXIST));
        assert_eq!(file(&mut tree, "a/file/x", "x"), Err(libc::ENOTDIR));
        assert_eq!(file(&mut tree, "link/file", "x"), Err(libc::ELOOP));
        assert_eq!(tree.below(b"link/file", 0), Err(libc::ELOOP));
        assert_eq!(tree.make_folder(b"a/file", 0o755), Err(libc::ENOTDIR));
        assert_eq!(tree.make_folder(b"a", 0o700), Ok(()));
        for path in ["", "/x", "x/", "../x", "a/./x", "a\0"] {
            assert_eq!(file(&mut tree, path, "x"), Err(libc::EINVAL));
        }
    }

    #[test]
    fn a_folder_goes_only_when_all_of_it_may_go() {
        let mut tree = Tree::default();
        file(&mut tree, "a/x", "1").unwrap();
        file(&mut tree, "a-b", "1").unwrap();
        assert_eq!(tree.remove(b"a", false), Err(libc::EISDIR));
        assert_eq!(tree.remove(b"a", true), Ok(()));
        assert_eq!(tree.remove(b"a", true), Err(libc::ENOENT));
        assert_eq!(paths(&tree, "", 0), ["", "a-b"]);
    }
}
