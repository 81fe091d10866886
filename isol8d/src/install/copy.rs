//! Puts the packages of a layer into a sandbox that is there already: a session
//! is made before anybody knows what its runs will want, and nothing can be
//! mounted into it later.
//!
//! ```text
//!  tree on disk ──reader, a thread──▶ batches ──▶ frames ──▶ init
//!                                                  ▲  answers ──┘
//!                                                  └── so many at a time
//! ```
//! Frames go ahead of their answers, so that thousands of small files cost no
//! round trips. All that is in between is bounded: past the bounds, the reader
//! waits. What is in the sandbox stays there, and files of a name that the
//! packages have too are replaced, each as a whole.

mod reader;

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, path::Path, time::Duration};

use bytes::Bytes;
use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::{Link, LinkError};
use isol8_proto::init::{Failed, FailureKind as InitFailure, File, Folder, from_init, to_init};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use crate::files::memory::{Ahead, Memory};
use reader::{Batch, ReadError};

/// Bytes of frames that init has not taken, from which on no further batch is:
/// with the last one at most 1 MiB.
const MAX_UNSENT: usize = 512 << 10;

/// Entries that init has heard of and not answered, from which on no further
/// batch is taken.
const MAX_UNANSWERED: usize = 128;

/// Batches that have been read ahead, of 512 KiB at most.
const QUEUE: usize = 2;

/// How long init may do nothing at all while it has something to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// For init's last words about packages that it could not take.
const SETTLE: Duration = Duration::from_secs(5);

/// Copies everything below `tree`, a folder of the host, to `folder`, relative to
/// /sandbox. Files, folders and links come with the permission bits that they
/// have; folders that are there keep theirs. Nobody else uses the link meanwhile;
/// a program may run.
///
/// # Errors
/// A part of it is then there, each file whole or not at all.
/// - `NoSpace` when the sandbox or `memory` is full, `InstallFailed` where something else is
///   in the way or the tree cannot be read: init expects the next command.
/// - All others, such as `SessionLost` and `EngineTimeout`: nobody knows what
///   comes next on the link, and it is to be closed.
///
/// # Cancellation
/// Not cancel safe: the link is to be closed. The tree may be read for a moment
/// more.
pub(crate) async fn copy(
    link: &mut Link,
    memory: &Memory,
    tree: &Path,
    folder: &str,
) -> Result<(), Failure> {
    let (batches, queue) = mpsc::channel(QUEUE);
    let (tree, name) = (tree.to_owned(), folder.as_bytes().to_vec());
    let reader = spawn_blocking(move || reader::read(&tree, name, batches));
    let mut copying = Copying {
        link,
        ahead: Ahead::new(memory),
        unsent: 0,
        unanswered: VecDeque::new(),
    };
    // It takes the queue with it: a reader that nobody waits for ends.
    let sent = copying.all(queue).await;
    let read = reader.await.map_err(|error| {
        let message = "the reader of the packages broke";
        Failure::new(FailureKind::Internal, message).because(&error)
    });
    let failure = match (sent, read) {
        (Ok(()), Ok(Ok(()))) => return Ok(()),
        (Err(End::InDoubt(failure)), _) | (_, Err(failure)) => return Err(failure),
        (Err(End::Refused(failure)), _) => failure,
        (Ok(()), Ok(Err(error))) => unreadable(&error),
    };
    let failure = failure.cause(format!("a part of them may be in `/sandbox/{folder}` now"));
    Err(copying.settle(failure).await)
}

/// Why a copy does not go on.
enum End {
    /// The link is of no more use.
    InDoubt(Failure),
    /// Init still does as it is told.
    Refused(Failure),
}

/// An entry whose answer has not come.
#[derive(Debug)]
struct Unanswered {
    path: Bytes,
    /// Of a file, as far as it was sent; `None`: a folder or a link.
    size: Option<u64>,
    /// Init has all of it.
    is_due: bool,
}

#[derive(Debug)]
struct Copying<'a> {
    link: &'a mut Link,
    ahead: Ahead<'a>,
    /// Bytes that were pushed since the writer was last empty.
    unsent: usize,
    unanswered: VecDeque<Unanswered>,
}

impl Copying<'_> {
    /// Sends what comes out of the queue, until it ends and all that is whole has
    /// been answered.
    async fn all(&mut self, mut queue: mpsc::Receiver<Batch>) -> Result<(), End> {
        let mut ended = false;
        let mut until = Instant::now() + PATIENCE;
        loop {
            let is_due = self.is_due();
            if ended && self.unsent == 0 && !is_due {
                return Ok(());
            }
            let can_take =
                !ended && self.unsent < MAX_UNSENT && self.unanswered.len() < MAX_UNANSWERED;
            tokio::select! {
                biased;
                sent = self.link.writer.flush(), if self.unsent > 0 => {
                    sent.map_err(|error| lost(&error))?;
                    self.unsent = 0;
                }
                said = self.link.reader.recv() => self.answer(said)?,
                batch = queue.recv(), if can_take => match batch {
                    Some(batch) => self.take(batch).await?,
                    None => ended = true,
                },
                () = sleep_until(until), if self.unsent > 0 || is_due => return Err(silent()),
            }
            until = Instant::now() + PATIENCE;
        }
    }

    async fn take(&mut self, batch: Batch) -> Result<(), End> {
        for frame in batch {
            let fits = match &frame {
                to_init::Message::File(piece) if piece.append => {
                    self.ahead.data(piece.data.len()).await
                }
                to_init::Message::File(piece) => {
                    let begins = self.ahead.entry(piece.data.len() as u64).await;
                    match begins {
                        Ok(()) => self.ahead.data(piece.data.len()).await,
                        full => full,
                    }
                }
                _ => self.ahead.entry(0).await,
            };
            fits.map_err(|full| End::Refused(full.of("the packages")))?;
            self.push(frame);
        }
        Ok(())
    }

    /// An answer must come.
    fn is_due(&self) -> bool {
        self.unanswered.front().is_some_and(|entry| entry.is_due)
    }

    fn push(&mut self, frame: to_init::Message) {
        let begin = |path: &Bytes, size, is_due| Unanswered {
            path: path.clone(),
            size,
            is_due,
        };
        match &frame {
            to_init::Message::File(piece) => {
                let size = piece.data.len() as u64;
                if !piece.append {
                    let begun = begin(&piece.path, Some(size), piece.last);
                    self.unanswered.push_back(begun);
                } else if let Some(file) = self.unanswered.back_mut() {
                    file.size = file.size.map(|before| before + size);
                    file.is_due = piece.last;
                }
            }
            to_init::Message::Folder(order) => {
                self.unanswered.push_back(begin(&order.path, None, true));
            }
            to_init::Message::Symlink(order) => {
                self.unanswered.push_back(begin(&order.path, None, true));
            }
            _ => {}
        }
        self.send(frame);
    }

    fn send(&mut self, frame: to_init::Message) {
        self.unsent += reader::frame_bytes(&frame);
        self.link.writer.push(frame);
    }

    /// Takes the answer to the first entry that has none.
    fn answer(&mut self, said: Result<from_init::Message, LinkError>) -> Result<(), End> {
        use from_init::Message;
        let said = said.map_err(|error| lost(&error))?;
        let Some(first) = self.unanswered.front() else {
            return Err(breach("answered what it was not asked"));
        };
        match (said, first.size) {
            (Message::FileWritten(written), Some(size))
                if first.is_due && written.bytes == size => {}
            (Message::Done(_), None) => {}
            (Message::Failed(failed), _) if failed.files => {
                let failure = refused(&failed, &first.path);
                self.unanswered.pop_front();
                return Err(End::Refused(failure));
            }
            _ => return Err(breach("spoke out of turn")),
        }
        self.unanswered.pop_front();
        Ok(())
    }

    /// Has init forget a file that is not whole, and waits for all that it still
    /// has to say.
    async fn settle(&mut self, failure: Failure) -> Failure {
        // No file can be here. One that begins is what ends another, and this one
        // is refused. The folder is there: its answer is the last.
        self.send(to_init::Message::File(File {
            last: true,
            ..File::default()
        }));
        self.send(to_init::Message::Folder(Folder::default()));
        match timeout(SETTLE, self.last_words()).await {
            Ok(true) => failure,
            Ok(false) | Err(_) => {
                let message = "the session's sandbox no longer does as it is told";
                Failure::new(FailureKind::SessionLost, message).cause(failure.to_string())
            }
        }
    }

    /// Whether init came to the end of what it was told.
    async fn last_words(&mut self) -> bool {
        use from_init::Message;
        loop {
            let said = tokio::select! {
                biased;
                sent = self.link.writer.flush(), if self.unsent > 0 => {
                    self.unsent = 0;
                    match sent {
                        Ok(()) => continue,
                        Err(_) => return false,
                    }
                }
                said = self.link.reader.recv() => said,
            };
            let is_due = self.is_due();
            match said {
                Ok(Message::FileWritten(_)) if is_due => {}
                Ok(Message::Done(_)) if is_due => {}
                Ok(Message::Done(_)) => return self.unsent == 0,
                // Also of a half file, before it was given up, and of the one that
                // ends it.
                Ok(Message::Failed(failed)) if failed.files => {}
                _ => return false,
            }
            if is_due {
                self.unanswered.pop_front();
            }
        }
    }
}

/// Init could not make what has this path. What it says is about names that
/// anybody may have chosen: nothing in it may move a cursor.
fn refused(failed: &Failed, path: &[u8]) -> Failure {
    let why = failed.message.escape_debug().to_string();
    if failed.kind() == InitFailure::NoSpace {
        let message = "no room in /sandbox for the packages";
        return Failure::new(FailureKind::NoSpace, message).cause(why).hint(
            "make a session with a larger `--sandbox-size`, and a `--memory` that holds it, \
                 or make room in this one with `isol8 session rm`",
        );
    }
    let path = String::from_utf8_lossy(path);
    let message = format!(
        "the packages cannot be put into /sandbox: `{}` cannot be made",
        path.escape_debug()
    );
    let failure = Failure::new(FailureKind::InstallFailed, message).cause(why);
    if failed.kind() == InitFailure::BadPath {
        return failure.hint(
            "something else has its place, or that of a folder above it: remove that in the session",
        );
    }
    failure
}

fn unreadable(error: &ReadError) -> Failure {
    let message = "the packages cannot be read from the daemon's disk";
    Failure::new(FailureKind::InstallFailed, message)
        .because(error)
        .hint("`isol8 daemon logs` may say more")
}

fn lost(error: &LinkError) -> End {
    let message = "the session's sandbox went away while packages were put into it";
    End::InDoubt(
        Failure::new(FailureKind::SessionLost, message)
            .because(error)
            .hint("`isol8 session ls` shows whether it is still there"),
    )
}

fn breach(how: &'static str) -> End {
    let message = "the session's sandbox does not answer as it must";
    End::InDoubt(Failure::new(FailureKind::Internal, message).cause(format!("init {how}")))
}

fn silent() -> End {
    let message = "the session's sandbox does not answer";
    let waited = format!("nothing came from it within {} s", PATIENCE.as_secs());
    End::InDoubt(
        Failure::new(FailureKind::EngineTimeout, message)
            .cause(waited)
            .hint("a program in it may take all of its processor time: try again"),
    )
}
