//! The other end of a link.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use isol8_engine::link::{Link, MAX_FRAME_BYTES};
use isol8_proto::init::{
    Credit, Done, Entry, EntryKind, Failed, Fetch, FileWritten, FromInit, ToInit, from_init,
    to_init,
};
use prost::Message as _;
use rustix::io::Errno;
use tokio::{
    io::{DuplexStream, duplex},
    time::timeout,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// What a socket holds.
pub(super) const PIPE_BYTES: usize = 64 << 10;

/// An init that says what a test makes it say.
#[derive(Debug)]
pub(crate) struct Init {
    stream: Framed<DuplexStream, LengthDelimitedCodec>,
}

/// A link and its init.
pub(crate) fn pair() -> (Link, Init) {
    let (ours, theirs) = duplex(PIPE_BYTES);
    let (read, write) = tokio::io::split(ours);
    let mut codec = LengthDelimitedCodec::builder();
    codec.little_endian().max_frame_length(MAX_FRAME_BYTES);
    let init = Init {
        stream: codec.new_framed(theirs),
    };
    (Link::new(read, write), init)
}

pub(super) fn failed(errno: Errno) -> from_init::Message {
    use isol8_proto::init::FailureKind::{BadPath, NoSpace};
    let full = errno == Errno::NOSPC || errno == Errno::TOOBIG || errno == Errno::FBIG;
    from_init::Message::Failed(Failed {
        kind: if full { NoSpace } else { BadPath }.into(),
        message: "scripted".to_owned(),
        errno: errno.raw_os_error(),
        files: true,
    })
}

pub(super) fn entry(path: &str, kind: EntryKind, size: u64) -> from_init::Message {
    from_init::Message::Entry(Entry {
        path: path.to_owned().into(),
        kind: kind.into(),
        mode: 0o644,
        size,
        ..Entry::default()
    })
}

impl Init {
    /// The next command; `None` when the daemon has closed the link.
    pub(crate) async fn hear(&mut self) -> Option<to_init::Message> {
        let frame: BytesMut = self.stream.next().await?.ok()?;
        let message = ToInit::decode(frame.freeze()).expect("a message");
        Some(message.message.expect("of a known kind"))
    }

    /// What comes within a moment.
    pub(crate) async fn hear_soon(&mut self) -> Option<to_init::Message> {
        timeout(Duration::from_millis(100), self.hear())
            .await
            .ok()
            .flatten()
    }

    pub(crate) async fn say(&mut self, message: from_init::Message) {
        self.try_say(message).await.expect("the daemon listens");
    }

    pub(super) async fn try_say(
        &mut self,
        message: from_init::Message,
    ) -> Result<(), std::io::Error> {
        let message = FromInit {
            message: Some(message),
        };
        self.stream.send(Bytes::from(message.encode_to_vec())).await
    }

    /// The order of a `Fetch`.
    pub(super) async fn fetch(&mut self) -> Fetch {
        match self.hear().await {
            Some(to_init::Message::Fetch(fetch)) => fetch,
            other => panic!("no `Fetch`: {other:?}"),
        }
    }

    /// More credit for data.
    pub(super) async fn credit(&mut self) -> u64 {
        match self.hear().await {
            Some(to_init::Message::Credit(Credit { data, .. })) => data,
            other => panic!("no `Credit`: {other:?}"),
        }
    }
}

/// What an obedient init has written, by its path.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) folders: Vec<String>,
    unfinished: Option<(Bytes, Vec<u8>)>,
    answered: bool,
    fails: Option<(&'static str, Errno)>,
}

impl Disk {
    /// One on which the file of this name fails, at its second piece or its end.
    pub(super) fn with_bad(name: &'static str, errno: Errno) -> Self {
        Self {
            fails: Some((name, errno)),
            ..Self::default()
        }
    }

    /// Does as the real init does, and gives the answer that is due.
    pub(super) fn obey(&mut self, command: to_init::Message) -> Option<from_init::Message> {
        match command {
            to_init::Message::File(piece) => self.write(&piece),
            to_init::Message::Folder(folder) => {
                self.folders
                    .push(String::from_utf8_lossy(&folder.path).into_owned());
                Some(from_init::Message::Done(Done {}))
            }
            other => panic!("not for a disk: {other:?}"),
        }
    }

    /// A half file is on the disk, without its name.
    pub(super) fn has_half(&self) -> bool {
        self.unfinished.is_some()
    }

    fn write(&mut self, piece: &isol8_proto::init::File) -> Option<from_init::Message> {
        if !piece.append {
            self.answered = false;
            self.unfinished = None;
            if piece.path.is_empty() {
                return Some(failed(Errno::INVAL));
            }
            self.unfinished = Some((piece.path.clone(), Vec::new()));
        }
        if self.answered {
            return None;
        }
        let (path, content) = self.unfinished.as_mut().expect("a first piece came");
        assert_eq!(path, &piece.path, "a file goes on under its own name");
        content.extend_from_slice(&piece.data);
        let name = String::from_utf8_lossy(path).into_owned();
        if let Some((bad, errno)) = self.fails
            && bad == name
            && (piece.append || piece.last)
        {
            self.answered = true;
            self.unfinished = None;
            return Some(failed(errno));
        }
        if !piece.last {
            return None;
        }
        let (_, content) = self.unfinished.take().expect("it is there");
        let bytes = content.len() as u64;
        self.files.insert(name, content);
        Some(from_init::Message::FileWritten(FileWritten { bytes }))
    }
}

/// Obeys until the daemon has closed the link.
pub(super) async fn serve(mut init: Init, mut disk: Disk) -> Disk {
    while let Some(command) = init.hear().await {
        if let Some(answer) = disk.obey(command) {
            init.say(answer).await;
        }
    }
    disk
}
