//! From here into a session.

use std::{fs::Metadata, os::unix::ffi::OsStrExt as _, path::PathBuf, pin::pin, sync::Arc};

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{
    FileKind, GetRequest, PutRequest, PutStart, get_response, put_request::Message,
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Client, Ended, PIECES, interrupts::Interrupts, is_a_folder, look, means_contents, meter::Meter,
    read, shown, skipped::Skipped, stdio,
};
use crate::{
    commands::session::{place::Inside, wrong},
    connect::unwanted,
    console::Console,
};

/// Something here that is to be copied.
#[derive(Debug)]
pub(in crate::commands::session) enum Source {
    Stdin,
    Here {
        path: PathBuf,
        folder: bool,
        /// What is in the folder, not the folder.
        contents: bool,
    },
}

impl Source {
    pub(super) fn stdin(destination: &Inside) -> Result<Self, Failure> {
        match destination.folder {
            true => Err(no_name(destination)),
            false => Ok(Self::Stdin),
        }
    }

    /// A link that is typed is followed, as by `cp`.
    pub(super) fn here(path: PathBuf, recursive: bool) -> Result<Self, Failure> {
        let name = shown(&path);
        let found = look(&path).map_err(|error| {
            wrong(format!("cannot read `{name}`"))
                .because(&error)
                .hint("check the path; a file in a session is written `NAME:PATH`")
        })?;
        let folder = found.is_dir();
        if folder && !recursive {
            return Err(is_a_folder(&name));
        }
        if !folder && !found.is_file() {
            return Err(neither(&name, &found));
        }
        let contents = means_contents(&path) || path.file_name().is_none();
        Ok(Self::Here {
            path,
            folder,
            contents,
        })
    }

    pub(super) fn is_stdin(&self) -> bool {
        matches!(self, Self::Stdin)
    }

    /// The path that it gets, where `into` says that the destination is a folder.
    fn path_in(&self, destination: &Inside, into: bool) -> Vec<u8> {
        match self {
            Self::Here {
                path,
                contents: false,
                ..
            } if into => {
                let name = path.file_name().unwrap_or_default();
                destination.join(name.as_bytes())
            }
            _ => destination.path.clone(),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::Here { path, .. } => shown(path),
        }
    }
}

fn neither(name: &str, found: &Metadata) -> Failure {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = found.file_type();
    let failure = wrong(format!("`{name}` is neither a file nor a folder"));
    match kind.is_fifo() || kind.is_char_device() {
        true => failure.hint("what can be read goes through stdin: `isol8 session cp - …`"),
        false => failure.hint("copy a file, or a folder with `-r`"),
    }
}

fn no_name(destination: &Inside) -> Failure {
    let folder = destination.shown();
    wrong("stdin has no name that it could keep")
        .hint(format!("name the file: `{folder}/data.csv`"))
}

/// All sources, one after the other.
pub(super) struct Upload<'a> {
    pub(super) client: &'a mut Client,
    pub(super) interrupts: &'a mut Interrupts,
    pub(super) skipped: &'a mut Skipped,
    pub(super) console: &'a Console,
}

impl Upload<'_> {
    pub(super) async fn run(
        mut self,
        sources: Vec<Source>,
        destination: Inside,
    ) -> Result<Ended, Failure> {
        let into = match self.keeps_names(&sources, &destination).await? {
            Ok(into) => into,
            Err(signal) => return Ok(Ended::Interrupted(signal)),
        };
        for source in sources {
            let ended = self.one(source, &destination, into).await?;
            if !matches!(ended, Ended::Whole) {
                return Ok(ended);
            }
        }
        Ok(Ended::Whole)
    }

    /// Whether copies keep their name, below the destination.
    async fn keeps_names(
        &mut self,
        sources: &[Source],
        destination: &Inside,
    ) -> Result<Result<bool, i32>, Failure> {
        let named = |source: &Source| {
            matches!(
                source,
                Source::Stdin
                    | Source::Here {
                        contents: false,
                        ..
                    }
            )
        };
        if destination.folder || !sources.iter().any(named) {
            return Ok(Ok(true));
        }
        let asked = is_folder(self.client, destination);
        let folder = match self.interrupts.during(asked).await {
            Ok(folder) => folder?,
            Err(signal) => return Ok(Err(signal)),
        };
        if folder && sources.iter().any(Source::is_stdin) {
            return Err(no_name(destination));
        }
        if !folder && sources.len() > 1 {
            let shown = destination.shown();
            return Err(wrong(format!("`{shown}` is not a folder"))
                .cause("several things are to be copied to it")
                .hint(format!("`{shown}/`, with a `/` at its end, makes it one")));
        }
        Ok(Ok(folder))
    }

    async fn one(
        &mut self,
        source: Source,
        destination: &Inside,
        into: bool,
    ) -> Result<Ended, Failure> {
        let path = source.path_in(destination, into);
        let mut meter = Meter::new(source.shown());
        if source.is_stdin() && stdio::is_typed() {
            self.console.note("copying what is typed; Ctrl-D ends it");
        }
        let opened = spawn_blocking(move || read::Opened::new(&source));
        let opened = match self.interrupts.during(opened).await {
            Ok(opened) => opened.map_err(|error| vanished(&error))??,
            Err(signal) => return Ok(Ended::Interrupted(signal)),
        };
        let (sender, receiver) = mpsc::channel(PIECES);
        let start = PutStart {
            session: destination.session.as_str().to_owned(),
            path: path.into(),
        };
        // The stream ends when both senders are gone: this one stays as long as
        // it is not sure that all was read. Its end would complete the last file.
        let held_open = sender.clone();
        drop(sender.try_send(PutRequest {
            message: Some(Message::Start(start)),
        }));
        let counted = Arc::clone(&meter.counted);
        let reader = spawn_blocking(move || opened.send(&sender, &counted));
        let mut reader = pin!(reader);
        let mut put = pin!(self.client.put(ReceiverStream::new(receiver)));
        let mut held_open = Some(held_open);
        loop {
            tokio::select! {
                biased;
                signal = self.interrupts.next() => return Ok(Ended::Interrupted(signal)),
                answer = &mut put => {
                    answer.map_err(|status| unwanted(&status))?;
                    break;
                }
                done = &mut reader, if held_open.is_some() => {
                    let skipped = done.map_err(|error| vanished(&error))??;
                    self.skipped.append(skipped);
                    held_open = None;
                }
                () = meter.tick() => {}
            }
        }
        match held_open {
            None => Ok(Ended::Whole),
            Some(_) => Err(early()),
        }
    }
}

fn vanished(error: &tokio::task::JoinError) -> Failure {
    Failure::new(FailureKind::Internal, "the thread that reads is gone").because(error)
}

fn early() -> Failure {
    let message = "the daemon took the copy for whole before all of it was sent";
    Failure::new(FailureKind::Internal, message).hint("`isol8 daemon logs` may say more")
}

/// Whether a folder has this path. What is not there is none; the copy itself
/// will be told what is wrong.
async fn is_folder(client: &mut Client, place: &Inside) -> Result<bool, Failure> {
    let request = GetRequest {
        session: place.session.as_str().to_owned(),
        path: place.path.clone().into(),
        names_only: true,
        depth: 1,
        // What is in it need not be sent: the first entry says what it is.
        max_entries: 1,
        ..GetRequest::default()
    };
    let absent = |failure: Failure| match failure.kind {
        FailureKind::NotFound | FailureKind::InvalidRequest => Ok(false),
        _ => Err(failure),
    };
    let mut stream = match client.get(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return absent(unwanted(&status)),
    };
    let first = match stream.message().await {
        Ok(first) => first.and_then(|first| first.message),
        Err(status) => return absent(unwanted(&status)),
    };
    // To its end, which is near: a stream that is dropped costs the session more.
    while let Ok(Some(_)) = stream.message().await {}
    Ok(match first {
        Some(get_response::Message::Entry(entry)) => entry.kind() == FileKind::Folder,
        _ => false,
    })
}
