//! Answers of an engine that come as a stream, and the pull of an image.

use std::{pin::pin, time::Duration};

use bollard::{errors::Error as Bollard, query_parameters::CreateImageOptionsBuilder};
use futures_util::{Stream, StreamExt};
use isol8_core::failure::{Failure, FailureKind};
use tokio::time::timeout;

use super::{
    client::{Asked, Budget, Client},
    image::OWN_NAME,
};
use crate::Progress;

/// Silence in a stream after which an engine is given up: a mirror may be slow.
pub(super) const SILENCE: Duration = Duration::from_secs(180);
/// The whole of a pull or a build.
pub(super) const WHOLE: Duration = Duration::from_secs(30 * 60);

/// Asks a registry for an image.
///
/// # Errors
/// `ImageMissing` when no registry has it or none can be reached.
pub(super) async fn pull(
    client: &Client,
    reference: &str,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    const CALL: &str = "pull an image";
    let lost = |cause: Failure| {
        let failure = Failure::new(
            FailureKind::ImageMissing,
            format!("the image `{reference}` is not there and cannot be pulled"),
        );
        let causes = [cause.message].into_iter().chain(cause.causes);
        causes
            .fold(failure, Failure::cause)
            .hint(format!("find out why with `docker pull {reference}`"))
    };
    if reference.starts_with("sha256:") || reference.starts_with(OWN_NAME) {
        // An id has no registry, and neither has what isol8 makes: whatever
        // somebody publishes under that name is not it.
        return Err(lost(Failure::new(
            FailureKind::ImageMissing,
            "it can only be made here",
        )));
    }
    let docker = client.docker(CALL)?;
    let (name, tag) = name_and_tag(reference);
    let options = CreateImageOptionsBuilder::new()
        .from_image(name)
        .tag(tag)
        .build();
    progress(&format!("pulling {reference}"));
    let stream = docker.create_image(Some(options), None, None);
    let mut last = String::new();
    follow(client, CALL, stream, |info| {
        if let Some(error) = info.error_detail.and_then(|detail| detail.message) {
            return Err(Bollard::DockerStreamError { error });
        }
        let moving = info
            .progress_detail
            .is_some_and(|detail| detail.total.is_some() || detail.current.is_some());
        let line = match (info.id, info.status) {
            (Some(id), Some(status)) => format!("{id}: {status}"),
            (None, Some(status)) => status,
            _ => return Ok(()),
        };
        if !moving && line != last {
            progress(&line);
            last = line;
        }
        Ok(())
    })
    .await
    .map_err(|asked| {
        let answered = asked.is_answer();
        let failure = Failure::from(asked);
        if answered { lost(failure) } else { failure }
    })
}

/// Without a tag an engine would pull every tag there is.
fn name_and_tag(reference: &str) -> (&str, &str) {
    if reference.contains('@') {
        return (reference, "");
    }
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

/// Takes the items of a stream until it ends, within [`SILENCE`] and [`WHOLE`].
pub(super) async fn follow<T>(
    client: &Client,
    call: &'static str,
    stream: impl Stream<Item = Result<T, Bollard>>,
    mut each: impl FnMut(T) -> Result<(), Bollard>,
) -> Result<(), Asked> {
    let budget = Budget::of(WHOLE);
    let mut stream = pin!(stream);
    loop {
        let item = match timeout(budget.at_most(SILENCE), stream.next()).await {
            Ok(Some(item)) => item,
            Ok(None) => return Ok(()),
            Err(_) => Err(Bollard::RequestTimeoutError),
        };
        item.and_then(&mut each)
            .map_err(|error| client.trouble(call, SILENCE, error))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_pulled() {
        let table = [
            ("node", ("node", "latest")),
            ("node:24", ("node", "24")),
            ("h:5000/node", ("h:5000/node", "latest")),
            ("h:5000/node:24", ("h:5000/node", "24")),
            ("node@sha256:1", ("node@sha256:1", "")),
        ];
        for (reference, expected) in table {
            assert_eq!(name_and_tag(reference), expected, "{reference}");
        }
    }
}
