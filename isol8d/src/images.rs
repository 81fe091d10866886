//! Which image a run gets.
//!
//! The image that it names; else the custom image with what it depends on, where
//! that is there; else the base image. Where it also installs packages, a custom
//! image that holds all of them serves, and nothing is installed.

use isol8_core::{
    failure::Failure, package::sorted, request::RunRequest, runtime::Runtime, sandbox::EngineKind,
};
use isol8_engine::{Engine, Fit};
use isol8_proto::v1::{self, run_event::Event};

use crate::{daemon::Daemon, outbox::Outbox};

/// What became of a run's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Those that it installs are still to be installed.
    AsAsked,
    /// All are in the image that the request now names.
    Served,
}

/// Puts the image of a run into its request.
///
/// # Errors
/// Whatever asking the engine ends in. That an image is missing is none.
pub(crate) async fn choose(
    daemon: &Daemon,
    engine: EngineKind,
    request: &mut RunRequest,
    outbox: &Outbox,
) -> Result<Choice, Failure> {
    let nothing = request.dependencies.is_empty() && request.install.is_empty();
    if request.image.is_some() || nothing {
        return Ok(Choice::AsAsked);
    }
    let images = daemon.roster.engine(engine)?;
    let runtime = request.runtime;
    let dependencies = request.dependencies.clone();
    let together = || sorted(dependencies.iter().chain(&request.install).cloned());
    if !request.install.is_empty()
        && let Some(image) = images
            .find_custom(runtime, &together(), Fit::AtLeast)
            .await?
    {
        request.image = Some(image);
        return Ok(Choice::Served);
    }
    if dependencies.is_empty() {
        return Ok(Choice::AsAsked);
    }
    let custom = images.find_custom(runtime, &dependencies, Fit::Exactly);
    match custom.await? {
        // Deno knows one folder of modules: what a run installs and what is in an
        // image cannot both be in it.
        Some(_) if runtime == Runtime::Deno && !request.install.is_empty() => {
            request.install = together();
            Ok(Choice::AsAsked)
        }
        Some(image) => {
            request.image = Some(image);
            Ok(Choice::AsAsked)
        }
        None => {
            outbox.event(missing(engine, runtime));
            serve_what_is_installed(images.as_ref(), request).await
        }
    }
}

/// Without its dependencies a run may still find what it installs.
async fn serve_what_is_installed(
    images: &dyn Engine,
    request: &mut RunRequest,
) -> Result<Choice, Failure> {
    if request.install.is_empty() {
        return Ok(Choice::AsAsked);
    }
    let install = &request.install;
    let found = images.find_custom(request.runtime, install, Fit::AtLeast);
    let Some(image) = found.await? else {
        return Ok(Choice::AsAsked);
    };
    request.image = Some(image);
    Ok(Choice::Served)
}

fn missing(engine: EngineKind, runtime: Runtime) -> Event {
    let why = match engine {
        EngineKind::Docker => "their image is not there, `isol8 setup` builds it",
        EngineKind::Native => "only the docker engine has custom images",
    };
    Event::Notice(v1::Notice {
        message: format!("this run is without the packages of `dependencies.{runtime}`: {why}"),
    })
}
