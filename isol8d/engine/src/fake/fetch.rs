//! What the daemon takes out of a fake sandbox: its files, and in place of
//! packages a folder with a file that tells which errands were run, and whatever
//! a script has placed.

use bytes::Bytes;
use isol8_proto::init::{Entry, EntryKind, Failed, FailureKind, Fetch, Fetched, from_init};

use super::{
    init::{Gone, Init},
    insides::refusal,
    tree::{Errno, Node},
};

/// Where the command lines of all errands are, one a line.
const RECORD: &str = "record/errands";

/// What was left behind in the folder that is fetched.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    errands: Vec<String>,
    placed: Vec<String>,
}

impl Leavings {
    /// An errand was run.
    pub(super) fn ran(&mut self, command_line: String) {
        self.errands.push(command_line);
    }

    /// A script placed a file, which holds its own name.
    pub(super) fn place(&mut self, name: &str) {
        if !self.placed.iter().any(|placed| placed == name) {
            self.placed.push(name.to_owned());
            self.placed.sort();
        }
    }

    fn files(&self) -> Vec<(String, String)> {
        let record = (RECORD.to_owned(), self.errands.join("\n") + "\n");
        let placed = self.placed.iter().map(|name| (name.clone(), name.clone()));
        [record].into_iter().chain(placed).collect()
    }

    fn is_empty(&self) -> bool {
        self.errands.is_empty() && self.placed.is_empty()
    }
}

/// One thing on its way to the daemon.
fn entry(path: Bytes, node: &Node) -> Entry {
    let mut entry = Entry {
        path,
        ..Entry::default()
    };
    match node {
        Node::Folder { mode } => {
            entry.kind = EntryKind::Folder.into();
            entry.mode = *mode;
        }
        Node::File { mode, data } => {
            entry.kind = EntryKind::File.into();
            entry.mode = *mode;
            entry.size = data.len() as u64;
        }
        Node::Link { target } => {
            entry.kind = EntryKind::Link.into();
            entry.mode = 0o777;
            entry.target = target.clone();
        }
    }
    entry
}

/// The most data in one frame, as from the real init.
const PIECE_BYTES: usize = 256 << 10;

fn limit(errno: Errno) -> Failed {
    let (kind, message) = match errno {
        libc::EXDEV => (FailureKind::BadPath, "a link leads out"),
        _ => (FailureKind::NoSpace, "the files are more than wanted"),
    };
    Failed {
        kind: kind.into(),
        message: message.to_owned(),
        errno,
        files: true,
    }
}

impl Init {
    /// What an order is for, with paths relative to it. Packages that errands
    /// have left are in whatever folder they are looked for.
    fn wanted(&self, order: &Fetch) -> Result<Vec<(Bytes, Node)>, Errno> {
        let insides = self.insides();
        let tree = insides.tree(order.root)?;
        let leavings = &insides.leavings;
        if leavings.is_empty() || order.path.is_empty() || order.names_only {
            return tree.below(&order.path, order.depth);
        }
        let mut tree = tree.clone();
        for (name, text) in leavings.files() {
            let path = [&order.path[..], name.as_bytes()].join(&b'/');
            tree.put(&path, 0o644, text.into())?;
        }
        tree.below(&order.path, order.depth)
    }

    /// Sends a tree, against credit.
    pub(super) async fn fetch(&self, order: &Fetch) -> Result<Result<Fetched, Failed>, Gone> {
        let wanted = match self.wanted(order) {
            Ok(wanted) => wanted,
            Err(errno) => return Ok(Err(refusal(errno, &order.path))),
        };
        // Without their names, only a file and a folder can be asked for.
        if matches!(wanted.first(), Some((_, Node::Link { .. }))) && !order.names_only {
            return Ok(Err(refusal(libc::EINVAL, &order.path)));
        }
        let mut sent = Fetched::default();
        for (path, node) in wanted {
            if sent.entries == order.max_entries {
                return Ok(Err(limit(libc::E2BIG)));
            }
            let entry = entry(path, &node);
            sent.entries += 1;
            sent.bytes += entry.size;
            if !order.names_only && sent.bytes > order.max_bytes {
                return Ok(Err(limit(libc::EFBIG)));
            }
            if !order.names_only && !order.any_kind && entry.target.starts_with(b"/") {
                return Ok(Err(limit(libc::EXDEV)));
            }
            self.send(from_init::Message::Entry(entry)).await?;
            if let (Node::File { data, .. }, false) = (node, order.names_only) {
                self.data(&data).await?;
            }
        }
        Ok(Ok(sent))
    }

    async fn data(&self, mut rest: &[u8]) -> Result<(), Gone> {
        while !rest.is_empty() {
            let wanted = rest.len();
            let granted = self
                .wait(|inbox| {
                    let most = usize::try_from(inbox.data_credit).unwrap_or(usize::MAX);
                    let granted = wanted.min(most).min(PIECE_BYTES);
                    inbox.data_credit -= granted as u64;
                    (granted > 0).then_some(granted)
                })
                .await;
            let (now, later) = rest.split_at(granted);
            let data = from_init::Message::EntryData(Bytes::copy_from_slice(now));
            self.send(data).await?;
            rest = later;
        }
        Ok(())
    }
}
