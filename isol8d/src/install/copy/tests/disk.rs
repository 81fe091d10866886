//! What an obedient init has made.

use std::collections::BTreeMap;

use bytes::Bytes;
use isol8_proto::init::{Done, Failed, FailureKind, File, FileWritten, from_init, to_init};

use crate::files::tests::init::Init;

pub(super) fn done() -> from_init::Message {
    from_init::Message::Done(Done {})
}

pub(super) fn failed(kind: FailureKind) -> from_init::Message {
    from_init::Message::Failed(Failed {
        kind: kind.into(),
        message: "scripted".to_owned(),
        errno: 1,
        files: true,
    })
}

/// Obeys until the daemon has closed the link.
pub(super) async fn serve(mut init: Init, mut disk: Disk) -> Disk {
    while let Some(command) = init.hear().await {
        if let Some(answer) = disk.obey(&command) {
            init.say(answer).await;
        }
    }
    disk
}

/// What an obedient init has made.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// By its path: what it is.
    pub(super) nodes: BTreeMap<String, String>,
    /// The longest file.
    pub(super) longest: Vec<u8>,
    half: Option<Half>,
    bad: Option<Bad>,
}

#[derive(Debug)]
struct Half {
    path: Bytes,
    data: Vec<u8>,
    pieces: usize,
    /// It has failed: its other pieces are passed over.
    answered: bool,
}

#[derive(Debug)]
struct Bad {
    path: String,
    piece: usize,
    kind: FailureKind,
}

impl Disk {
    /// One on which what has this path fails; a file, at this piece.
    pub(super) fn with_bad(path: String, piece: usize, kind: FailureKind) -> Self {
        Self {
            bad: Some(Bad { path, piece, kind }),
            ..Self::default()
        }
    }

    /// A half file is on the disk, without its name.
    pub(super) fn has_half(&self) -> bool {
        self.half.as_ref().is_some_and(|half| !half.answered)
    }

    pub(super) fn shown(&self) -> Vec<String> {
        let nodes = self.nodes.iter();
        nodes.map(|(path, node)| format!("{path} {node}")).collect()
    }

    /// Does as the real init does, and gives the answer that is due.
    pub(super) fn obey(&mut self, command: &to_init::Message) -> Option<from_init::Message> {
        match command {
            to_init::Message::File(piece) => self.write(piece),
            to_init::Message::Folder(order) => {
                // Sent where the root is meant, which is there.
                let is_root = order.path.is_empty();
                let node = format!("folder {:o}", order.mode);
                Some(if is_root {
                    done()
                } else {
                    self.make(&order.path, node)
                })
            }
            to_init::Message::Symlink(order) => {
                let target = String::from_utf8_lossy(&order.target);
                Some(self.make(&order.path, format!("-> {target}")))
            }
            other => panic!("not for a disk: {other:?}"),
        }
    }

    fn make(&mut self, path: &[u8], node: String) -> from_init::Message {
        let path = String::from_utf8_lossy(path).into_owned();
        self.check_above(&path);
        if let Some(failed) = self.fails(&path, 0) {
            return failed;
        }
        self.nodes.insert(path, node);
        done()
    }

    /// What a folder holds comes after it. Where something fails, what is in it
    /// may be on its way.
    fn check_above(&self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/')
            && self.bad.is_none()
        {
            let above = self.nodes.get(above).map(String::as_str);
            let is_folder = above.is_some_and(|node| node.starts_with("folder"));
            assert!(is_folder, "no folder for `{path}`");
        }
    }

    fn fails(&self, path: &str, piece: usize) -> Option<from_init::Message> {
        let bad = self.bad.as_ref()?;
        (bad.path == path && bad.piece == piece).then(|| failed(bad.kind))
    }

    fn write(&mut self, piece: &File) -> Option<from_init::Message> {
        if !piece.append {
            self.half = Some(Half {
                path: piece.path.clone(),
                data: Vec::new(),
                pieces: 0,
                answered: false,
            });
        }
        let mut half = self.half.take().expect("a first piece came");
        assert_eq!(half.path, piece.path, "a file goes on under its own name");
        let path = String::from_utf8_lossy(&half.path).into_owned();
        let failed = if path.is_empty() {
            Some(failed(FailureKind::BadPath))
        } else {
            self.fails(&path, half.pieces)
        };
        half.pieces += 1;
        half.data.extend_from_slice(&piece.data);
        let answered = half.answered;
        if !piece.last {
            half.answered |= failed.is_some();
            self.half = Some(half);
            return failed.filter(|_| !answered);
        }
        if answered {
            return None;
        }
        if failed.is_some() {
            return failed;
        }
        let bytes = half.data.len();
        self.nodes
            .insert(path, format!("{:o} of {bytes}", piece.mode));
        if bytes > self.longest.len() {
            self.longest = half.data;
        }
        Some(from_init::Message::FileWritten(FileWritten {
            bytes: bytes as u64,
        }))
    }
}
