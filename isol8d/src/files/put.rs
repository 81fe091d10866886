//! Files of a client, written by init.
//!
//! Frames go ahead of their answers, so that many small files cost no round
//! trips; both are bounded, and past the bounds the client is not read. The
//! first refusal ends the call. What init was told before may be there then,
//! each file whole or not at all.

mod upload;

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::{Link, LinkError};
use isol8_proto::{
    init::{File, Folder, from_init, to_init},
    v1,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    MAX_PIECE_BYTES, PATIENCE, Trouble, WINDOW_BYTES, breach, lost,
    memory::{Ahead, Full, Memory},
    place::Place,
    refusal, silent, stopped,
};
use upload::{Begun, Step, Upload};

/// Bytes of frames that init has not taken, from which on nothing more is taken
/// from the client: one piece more, and the one that is held back, still fit
/// into the window.
const MAX_UNSENT: u64 = WINDOW_BYTES - 2 * MAX_PIECE_BYTES as u64;

/// Entries that init has heard of and not answered.
const MAX_UNANSWERED: usize = 256;

/// What a frame takes beside its data.
const FRAME_BYTES: usize = 64;

/// For init's last words about a copy that has ended early. Less than the daemon
/// gives a call that it ends.
const SETTLE: Duration = Duration::from_secs(1);

/// Writes what the client sends below `base`, until the client's stream ends.
///
/// # Errors
/// `InvalidRequest` for what the client may not send; `NoSpace` for what does not
/// fit into `memory`; what init could not do, with its path; `SessionLost`, `EngineTimeout`, `Internal` where init is at
/// fault; `ShuttingDown` when `stop` fires.
///
/// # Cancellation
/// Not cancel safe: the stream to init must then be closed, and an unfinished
/// file is gone. `stop` is the way to end it early.
pub(crate) async fn put<S>(
    link: &mut Link,
    memory: &Memory,
    base: Place,
    client: &mut S,
    stop: &CancellationToken,
) -> Result<v1::PutResponse, Trouble>
where
    S: Stream<Item = Result<v1::PutRequest, Status>> + Unpin,
{
    let mut writing = Writing {
        link,
        upload: Upload::new(base),
        ahead: Ahead::new(memory),
        unsent: 0,
        unanswered: VecDeque::new(),
    };
    match writing.all(client, stop).await {
        Ok(()) => Ok(writing.upload.total),
        Err(End::InDoubt(trouble)) => Err(trouble),
        Err(End::Early(failure)) => Err(writing.settle(failure).await),
    }
}

/// Why a copy does not go on.
enum End {
    /// The stream to init is of no more use.
    InDoubt(Trouble),
    /// Init still does as it is told.
    Early(Failure),
}

/// An entry whose answer has not come.
#[derive(Debug)]
struct Unanswered {
    entry: Begun,
    /// Init has all of it.
    is_due: bool,
}

struct Writing<'a> {
    link: &'a mut Link,
    upload: Upload,
    ahead: Ahead<'a>,
    /// Bytes that were pushed since the writer was last empty.
    unsent: u64,
    unanswered: VecDeque<Unanswered>,
}

impl Writing<'_> {
    async fn all<S>(&mut self, client: &mut S, stop: &CancellationToken) -> Result<(), End>
    where
        S: Stream<Item = Result<v1::PutRequest, Status>> + Unpin,
    {
        let mut ended = false;
        let mut until = Instant::now() + PATIENCE;
        while !ended || !self.unanswered.is_empty() {
            let can_hear =
                !ended && self.unsent < MAX_UNSENT && self.unanswered.len() < MAX_UNANSWERED;
            let is_due = self.unanswered.front().is_some_and(|entry| entry.is_due);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(End::Early(stopped())),
                sent = self.link.writer.flush(), if self.unsent > 0 => {
                    sent.map_err(|error| End::InDoubt(lost(&error)))?;
                    self.unsent = 0;
                }
                said = self.link.reader.recv() => self.answer(said)?,
                said = client.next(), if can_hear => {
                    ended = said.is_none();
                    self.hear(said).await?;
                }
                () = sleep_until(until), if self.unsent > 0 || is_due => {
                    return Err(End::InDoubt(silent(PATIENCE)));
                }
            }
            until = Instant::now() + PATIENCE;
        }
        Ok(())
    }

    async fn hear(&mut self, said: Option<Result<v1::PutRequest, Status>>) -> Result<(), End> {
        let steps = match said {
            Some(Ok(request)) => self.upload.take(request.message),
            Some(Err(status)) => Err(cut_off(&status)),
            None => self.upload.end().map(|step| step.into_iter().collect()),
        };
        for step in steps.map_err(End::Early)? {
            let fits = match &step.frame {
                to_init::Message::File(file) => self.ahead.data(file.data.len()).await,
                _ => self.ahead.entry(0).await,
            };
            let begins = step.begins.as_ref();
            let place = begins.or(self.unanswered.back().map(|last| &last.entry));
            fits.map_err(|full| no_room(&full, place.map(|entry| &entry.place)))?;
            self.push(step);
        }
        // One that has just begun: nothing of it has gone yet.
        if let Some((place, bytes)) = self.upload.begun() {
            let fits = self.ahead.entry(bytes).await;
            fits.map_err(|full| no_room(&full, Some(place)))?;
        }
        Ok(())
    }

    fn push(&mut self, step: Step) {
        if let Some(entry) = step.begins {
            self.unanswered.push_back(Unanswered {
                entry,
                is_due: false,
            });
        }
        if let Some(last) = self.unanswered.back_mut() {
            last.is_due = step.is_last;
        }
        self.send(step.frame);
    }

    fn send(&mut self, frame: to_init::Message) {
        let bytes = match &frame {
            to_init::Message::File(file) => file.path.len() + file.data.len(),
            to_init::Message::Folder(folder) => folder.path.len(),
            _ => 0,
        };
        self.unsent += (bytes + FRAME_BYTES) as u64;
        self.link.writer.push(frame);
    }

    /// Takes the answer to the first entry that has none.
    fn answer(&mut self, said: Result<from_init::Message, LinkError>) -> Result<(), End> {
        use from_init::Message;
        let said = said.map_err(|error| End::InDoubt(lost(&error)))?;
        let Some(first) = self.unanswered.pop_front() else {
            return Err(End::InDoubt(breach("answered what it was not asked")));
        };
        match (said, first.entry.size) {
            (Message::FileWritten(written), Some(size))
                if first.is_due && written.bytes == size =>
            {
                Ok(())
            }
            (Message::Done(_), None) => Ok(()),
            (Message::Failed(failed), size) if failed.files => {
                let place = &first.entry.place;
                Err(End::Early(refusal::of_put(&failed, place, size.is_none())))
            }
            _ => Err(End::InDoubt(breach("spoke out of turn"))),
        }
    }

    /// Has init forget a half file, and waits for all that it still has to say.
    async fn settle(mut self, failure: Failure) -> Trouble {
        // No file can be here. A file that begins is what ends another, and this
        // one is refused. The folder is there: its answer is the last one.
        self.send(to_init::Message::File(File {
            path: Bytes::new(),
            last: true,
            ..File::default()
        }));
        self.send(to_init::Message::Folder(Folder::default()));
        match timeout(SETTLE, self.last_words()).await {
            Ok(true) => Trouble::Refused(failure),
            Ok(false) | Err(_) => Trouble::InDoubt(failure),
        }
    }

    /// Whether init came to the end of what it was told.
    async fn last_words(&mut self) -> bool {
        use from_init::Message;
        let mut is_sent = false;
        loop {
            let said = tokio::select! {
                sent = self.link.writer.flush(), if !is_sent => match sent {
                    Ok(()) => {
                        is_sent = true;
                        continue;
                    }
                    Err(_) => return false,
                },
                said = self.link.reader.recv() => said,
            };
            // A half file may have been refused before it was given up.
            let due = self.unanswered.front().filter(|entry| entry.is_due);
            let due = due.map(|entry| entry.entry.size.is_some());
            match (said, due) {
                (Ok(Message::Done(_)), None) => return is_sent,
                (Ok(Message::FileWritten(_)), Some(true)) | (Ok(Message::Done(_)), Some(false)) => {
                }
                (Ok(Message::Failed(failed)), _) if failed.files => {}
                _ => return false,
            }
            if due.is_some() {
                self.unanswered.pop_front();
            }
        }
    }
}

fn no_room(full: &Full, place: Option<&Place>) -> End {
    let what = place.map_or_else(|| "the files".to_owned(), |place| format!("`{place}`"));
    End::Early(full.of(&what))
}

/// The client did not say that this is all: its last file is not taken for whole.
fn cut_off(status: &Status) -> Failure {
    let message = "the copy was cut off: what was not whole is not there";
    Failure::new(FailureKind::InvalidRequest, message).cause(status.message())
}
