//! Takes a folder out of a sandbox and puts it on disk as the tree of a layer.

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::Link;
use isol8_proto::init::{Failed, FailureKind as InitFailure, Fetch, to_init};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    retention::{MOST_LAYER_BYTES, MOST_LAYER_ENTRIES},
    store::{Draft, Store},
    tree::{Tree, TreeError, Written},
};
use crate::files::{
    WINDOW_BYTES,
    entries::{Entries, Piece, ReadError},
};

/// Entries and pieces that wait for the disk. Past it, nothing more is read from
/// init.
const QUEUE: usize = 16;

/// Copies `folder`, relative to /sandbox, from a sandbox in which nothing runs.
///
/// # Errors
/// `NoSpace` when the disk is full; `InstallFailed` for what cannot be kept;
/// `Internal` where the sandbox is gone.
///
/// # Cancellation
/// What was written is removed. The link is then of no further use.
pub(crate) async fn fetch(
    link: &mut Link,
    folder: &str,
    store: &Store,
) -> Result<(Draft, Written), Failure> {
    let (pieces, queue) = mpsc::channel(QUEUE);
    let store = store.clone();
    let writer = spawn_blocking(move || write(&store, queue));
    let received = receive(link, folder, pieces).await;
    // The writer ends when its queue does, with a better reason if it has one.
    let written = writer.await.map_err(|error| {
        Failure::new(FailureKind::Internal, "the writer of a layer broke").because(&error)
    })?;
    match (written, received) {
        (Ok(Some(done)), Ok(())) => Ok(done),
        (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
        (Ok(None), Ok(())) => Err(broken("ended early")),
    }
}

fn broken(how: &str) -> Failure {
    Failure::new(
        FailureKind::Internal,
        "the packages could not be taken out of their sandbox",
    )
    .cause(format!("init {how}"))
}

async fn receive(
    link: &mut Link,
    folder: &str,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), Failure> {
    let lost = |error: isol8_engine::link::LinkError| broken("is gone").because(&error);
    let order = Fetch {
        path: folder.as_bytes().to_vec().into(),
        max_bytes: MOST_LAYER_BYTES,
        max_entries: MOST_LAYER_ENTRIES,
        credit: WINDOW_BYTES,
        ..Fetch::default()
    };
    let mut entries = Entries::of(&order);
    let fetch = to_init::Message::Fetch(order);
    link.writer.send(fetch).await.map_err(lost)?;
    let mut taken = 0;
    loop {
        let piece = match entries.next(&mut link.reader).await {
            Ok(piece) => piece,
            Err(ReadError::Lost(error)) => return Err(lost(error)),
            Err(ReadError::Breach(how)) => return Err(broken(how)),
            Err(ReadError::Refused(failed)) => return Err(unfetched(&failed)),
        };
        let is_end = matches!(piece, Piece::End(_));
        if let Piece::Data(data) = &piece {
            taken += data.len() as u64;
        }
        // A writer that is gone has a reason of its own.
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
        if taken >= entries.step() {
            let credit = entries.taken(std::mem::take(&mut taken));
            link.writer.send(credit).await.map_err(lost)?;
        }
    }
}

fn unfetched(failed: &Failed) -> Failure {
    let failure = Failure::new(
        FailureKind::InstallFailed,
        "the packages cannot be kept for later runs",
    )
    .cause(failed.message.clone())
    .hint("`--no-install-cache` installs them for one run alone");
    match failed.kind() {
        InitFailure::NoSpace => failure.cause(format!(
            "a layer holds at most {} MiB in {MOST_LAYER_ENTRIES} files",
            MOST_LAYER_BYTES >> 20
        )),
        _ => failure,
    }
}

/// `None`: the end never came.
fn write(
    store: &Store,
    mut queue: mpsc::Receiver<Piece>,
) -> Result<Option<(Draft, Written)>, Failure> {
    let draft = store.draft()?;
    let mut tree = Tree::new(&draft.tree()).map_err(|error| unkept(&error))?;
    while let Some(piece) = queue.blocking_recv() {
        let taken = match piece {
            Piece::Entry(entry) => tree.entry(&entry),
            Piece::Data(data) => tree.data(&data),
            Piece::End(_) => {
                let written = tree.finish().map_err(|error| unkept(&error))?;
                return Ok(Some((draft, written)));
            }
        };
        taken.map_err(|error| unkept(&error))?;
    }
    Ok(None)
}

fn unkept(error: &TreeError) -> Failure {
    if error.is_full() {
        return Failure::new(FailureKind::NoSpace, "no room on the disk for the packages")
            .because(error)
            .hint("free some disk, or install for one run alone with `--no-install-cache`");
    }
    let kind = match error {
        TreeError::Protocol(_) => FailureKind::Internal,
        TreeError::Disk { .. } => FailureKind::HostLacks,
        TreeError::Refused { .. } | TreeError::TooMuch { .. } => FailureKind::InstallFailed,
    };
    Failure::new(kind, "the packages cannot be kept for later runs")
        .because(error)
        .hint("`--no-install-cache` installs them for one run alone")
}
