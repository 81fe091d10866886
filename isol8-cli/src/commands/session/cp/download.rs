//! Out of a session, to here.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{FileEntry, FileKind, GetRequest, GetResponse, get_response::Message};
use rustix::stdio;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tonic::Streaming;

use super::{
    Client, Ended, PIECES,
    destination::Destination,
    interrupts::Interrupts,
    is_a_folder,
    meter::{Counted, Meter},
    skipped::Skipped,
    write::{Writer, senseless},
};
use crate::{
    commands::session::{place::Inside, wrong},
    connect::unwanted,
};

/// How long the end of a stream is waited for that is not wanted: there may be
/// gigabytes before it.
const NEAR: Duration = Duration::from_millis(500);

/// All sources, one after the other.
pub(super) struct Download<'a> {
    pub(super) client: &'a mut Client,
    pub(super) interrupts: &'a mut Interrupts,
    pub(super) skipped: &'a mut Skipped,
    pub(super) recursive: bool,
}

/// How the stream ended, where it did not fail.
enum Fed {
    Whole,
    /// The thread takes no more; it knows why.
    Untaken,
    Interrupted(i32),
}

/// Why the thread stops before the end.
enum Stop {
    Failed(Failure),
    StdoutClosed,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Download<'_> {
    pub(super) async fn run(
        mut self,
        sources: Vec<Inside>,
        destination: &Destination,
    ) -> Result<Ended, Failure> {
        for source in sources {
            let ended = self.one(&source, destination).await?;
            if !matches!(ended, Ended::Whole) {
                return Ok(ended);
            }
        }
        Ok(Ended::Whole)
    }

    async fn one(&mut self, source: &Inside, destination: &Destination) -> Result<Ended, Failure> {
        let request = GetRequest {
            session: source.session.as_str().to_owned(),
            path: source.path.clone().into(),
            // A file is one entry. Of a folder the first one shows what it is.
            max_entries: u32::from(!self.recursive),
            ..GetRequest::default()
        };
        let mut meter = Meter::new(source.shown());
        let answer = match self.interrupts.during(self.client.get(request)).await {
            Ok(answer) => answer,
            Err(signal) => return Ok(Ended::Interrupted(signal)),
        };
        let mut stream = answer.map_err(|status| unwanted(&status))?.into_inner();
        let sink = match destination.landing(source) {
            Some(landing) => Sink::Disk(Box::new(Writer::new(
                landing,
                source.shown(),
                self.recursive,
            ))),
            None => Sink::stdout(source.shown())?,
        };
        let to_stdout = matches!(sink, Sink::Stdout(_));
        let (sender, receiver) = mpsc::channel(PIECES);
        let counted = Arc::clone(&meter.counted);
        let writer = spawn_blocking(move || write(receiver, sink, &counted));
        // With its sender the thread ends too, and has removed what is not whole.
        let fed = feed(&mut stream, sender, self.interrupts, &mut meter).await;
        if let (Ok(Fed::Interrupted(signal)), true) = (&fed, to_stdout) {
            // Whoever reads our stdout may never read on.
            return Ok(Ended::Interrupted(*signal));
        }
        let written = writer.await.map_err(|error| {
            Failure::new(FailureKind::Internal, "the thread that writes is gone").because(&error)
        })?;
        drop(meter);
        match written {
            Err(Stop::StdoutClosed) => return Ok(Ended::StdoutClosed),
            Err(Stop::Failed(failure)) => {
                if !self.recursive {
                    self.end_of(&mut stream).await;
                }
                return Err(failure);
            }
            Ok(Some(skipped)) => self.skipped.append(skipped),
            Ok(None) => {}
        }
        match fed? {
            Fed::Whole => Ok(Ended::Whole),
            Fed::Interrupted(signal) => Ok(Ended::Interrupted(signal)),
            Fed::Untaken => Err(senseless("more than an end")),
        }
    }

    /// Reads on where nothing is wanted any more: as a rule the end is near, and a
    /// stream that is dropped costs the session more.
    async fn end_of(&mut self, stream: &mut Streaming<GetResponse>) {
        let rest = async { while matches!(stream.message().await, Ok(Some(_))) {} };
        let _near_or_not = timeout(NEAR, self.interrupts.during(rest)).await;
    }
}

/// Gives the thread all that comes, until the stream says that it is whole.
async fn feed(
    stream: &mut Streaming<GetResponse>,
    sender: mpsc::Sender<Message>,
    interrupts: &mut Interrupts,
    meter: &mut Meter,
) -> Result<Fed, Failure> {
    loop {
        let next = tokio::select! {
            biased;
            signal = interrupts.next() => return Ok(Fed::Interrupted(signal)),
            () = sender.closed() => return Ok(Fed::Untaken),
            next = stream.message() => next.map_err(|status| unwanted(&status))?,
            () = meter.tick() => continue,
        };
        let Some(next) = next else {
            return Err(no_end());
        };
        let Some(message) = next.message else {
            return Err(senseless("something that this version does not know"));
        };
        let last = matches!(message, Message::Done(_));
        match interrupts.during(sender.send(message)).await {
            Ok(Ok(())) if last => return Ok(Fed::Whole),
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(Fed::Untaken),
            Err(signal) => return Ok(Fed::Interrupted(signal)),
        }
    }
}

fn no_end() -> Failure {
    let message = "the copy ended without saying that it is whole";
    Failure::new(FailureKind::Internal, message).hint("`isol8 daemon logs` may say more")
}

/// The thread: writes all that comes. `None`: it was cut off.
fn write(
    mut pieces: mpsc::Receiver<Message>,
    mut sink: Sink,
    counted: &Counted,
) -> Result<Option<Skipped>, Stop> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Message::Entry(entry) => {
                sink.entry(&entry)?;
                if entry.kind() == FileKind::File {
                    counted.add_file();
                }
                if entry.path.is_empty() {
                    counted.set_total(entry.size_bytes);
                }
            }
            Message::Data(data) => {
                sink.data(&data)?;
                counted.add_bytes(data.len());
            }
            Message::Done(_) => return Ok(Some(sink.finish()?)),
        }
    }
    Ok(None)
}

enum Sink {
    Disk(Box<Writer>),
    Stdout(Stdout),
}

impl Sink {
    fn stdout(source: String) -> Result<Self, Failure> {
        let file = rustix::io::dup(stdio::stdout());
        let file = file.map_err(|errno| no_stdout(&errno.into()))?;
        Ok(Self::Stdout(Stdout {
            source,
            file: file.into(),
            left: None,
        }))
    }

    fn entry(&mut self, entry: &FileEntry) -> Result<(), Stop> {
        match self {
            Self::Disk(writer) => Ok(writer.entry(entry)?),
            Self::Stdout(stdout) => Ok(stdout.entry(entry)?),
        }
    }

    fn data(&mut self, data: &bytes::Bytes) -> Result<(), Stop> {
        match self {
            Self::Disk(writer) => Ok(writer.data(data)?),
            Self::Stdout(stdout) => stdout.data(data),
        }
    }

    fn finish(self) -> Result<Skipped, Failure> {
        match self {
            Self::Disk(writer) => writer.finish(),
            Self::Stdout(Stdout { left: Some(0), .. }) => Ok(Skipped::default()),
            Self::Stdout(_) => Err(senseless("an end within a file")),
        }
    }
}

/// One file for stdout.
struct Stdout {
    source: String,
    file: File,
    /// Of the file, when it has come.
    left: Option<u64>,
}

impl Stdout {
    fn entry(&mut self, entry: &FileEntry) -> Result<(), Failure> {
        if self.left.is_some() || !entry.path.is_empty() {
            return Err(senseless("an entry below a file"));
        }
        match entry.kind() {
            FileKind::File => {
                self.left = Some(entry.size_bytes);
                Ok(())
            }
            FileKind::Folder => {
                let failure = is_a_folder(&self.source);
                Err(failure.hint("folders go to a folder, not to stdout"))
            }
            FileKind::Link | FileKind::Other | FileKind::Unspecified => {
                Err(wrong(format!("`{}` is not a file", self.source)))
            }
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<(), Stop> {
        let left = self
            .left
            .and_then(|left| left.checked_sub(data.len() as u64));
        let left = left.ok_or_else(|| senseless("more data than a file has"))?;
        self.left = Some(left);
        self.file
            .write_all(data)
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Stop::StdoutClosed,
                _ => Stop::Failed(no_stdout(&error)),
            })
    }
}

fn no_stdout(error: &io::Error) -> Failure {
    Failure::new(FailureKind::NoSpace, "cannot write to stdout").because(error)
}
