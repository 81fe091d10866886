//! Files and folders of a session, removed by init.

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::{Link, LinkError};
use isol8_proto::init::{Remove, from_init, to_init};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Trouble, breach, lost, place::Place, refusal, stopped};
use crate::convert::invalid;

/// A million files go in a few seconds; a program that takes all of the
/// sandbox's processor time makes it longer.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// Removes what has this path, never what a link leads to.
///
/// # Errors
/// `InvalidRequest` for a root, and for a folder unless `recursive`; `NotFound`;
/// what init could not do, which may have removed a part; `SessionLost`,
/// `EngineTimeout`, `Internal` where init is at fault; `ShuttingDown` when `stop`
/// fires.
///
/// # Cancellation
/// Not cancel safe: the stream to init must then be closed.
pub(crate) async fn delete(
    link: &mut Link,
    place: &Place,
    recursive: bool,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    if place.is_root() {
        let failure = invalid(format!("`{place}` itself cannot be removed"));
        return Err(Trouble::Refused(failure.hint("name what is in it")));
    }
    let answer = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Trouble::InDoubt(stopped())),
        answer = timeout(LIMIT, ask(link, place, recursive)) => answer,
    };
    match answer {
        Ok(Ok(from_init::Message::Done(_))) => Ok(()),
        Ok(Ok(from_init::Message::Failed(failed))) if failed.files => {
            Err(Trouble::Refused(refusal::of_delete(&failed, place)))
        }
        Ok(Ok(_)) => Err(breach("spoke out of turn")),
        Ok(Err(error)) => Err(lost(&error)),
        Err(_) => Err(Trouble::InDoubt(
            Failure::new(
                FailureKind::EngineTimeout,
                format!("`{place}` was not removed within {} s", LIMIT.as_secs()),
            )
            .hint("a part of it may be gone: try again"),
        )),
    }
}

async fn ask(
    link: &mut Link,
    place: &Place,
    recursive: bool,
) -> Result<from_init::Message, LinkError> {
    let remove = to_init::Message::Remove(Remove {
        root: place.root(),
        path: place.path(),
        recursive,
    });
    link.writer.send(remove).await?;
    link.reader.recv().await
}
