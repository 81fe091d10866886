//! What a run does about its packages before its program starts.
//!
//! ```text
//!  none ─────────────────────────────────────────────────▶ program
//!  layer there ──────────────────────▶ sandbox with it ──▶ program
//!  layer not there ──▶ it is built ──▶ sandbox with it ──▶ program
//!  bash on docker ──▶ image is made ─▶ sandbox of it ────▶ program
//!  without the cache ─▶ sandbox ──▶ installed in there ──▶ program
//! ```
//! Packages of bash are the system's: they are mounted over the root, which
//! nothing inside of a sandbox can change, and so they always come from a layer
//! or an image.

use std::{path::Path, sync::Arc};

use isol8_core::{
    failure::{Failure, FailureKind},
    request::RunRequest,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Network, SandboxKey},
};
use isol8_proto::v1::{self, run_event::Event};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use super::{intake::Intake, lease::limits_of, phase, pump::Stops, seat::Seat, verdict::Seen};
use crate::{
    daemon::Daemon,
    install::{
        self, Job,
        apt::Apt,
        registry::World,
        requests::{Claim, Requests},
        site::Site,
        sources::Sources,
        transcript::Transcript,
    },
    layers::{Use, Waiting, Wish},
    outbox::Outbox,
};

/// Where the packages of a run are.
#[derive(Debug)]
pub(super) enum Packages {
    /// It has none.
    None,
    /// In a layer, which is kept while this lives.
    Layer { _layer: Use, identity: String },
    /// In the image that the key now names; nothing is opened for them.
    Image,
    /// The same, made for them from an image with this identity.
    Derived { identity: String },
    /// In the session already.
    InSession { identity: String },
    /// Still to be installed in the run's own sandbox.
    Own { identity: String },
}

impl Packages {
    /// The hosts that they came from.
    pub(super) fn registries(&self, daemon: &Daemon, request: &RunRequest) -> Vec<String> {
        match self {
            Self::None | Self::Image => Vec::new(),
            Self::Layer { identity, .. }
            | Self::InSession { identity }
            | Self::Own { identity }
            | Self::Derived { identity } => {
                daemon
                    .layers
                    .hosts(identity, request.runtime, &request.install)
            }
        }
    }
}

/// Something that has to be over by a time, and sooner when nobody wants it any
/// more. `Err`: it was given up.
pub(super) async fn bounded<T>(
    work: impl Future<Output = T>,
    deadline: Instant,
    stops: &Stops,
) -> Result<T, Seen> {
    tokio::select! {
        biased;
        () = stops.cancel.cancelled() => Err(stops.seen()),
        done = work => Ok(done),
        () = sleep_until(deadline) => Err(Seen::Deadline),
    }
}

/// What `work` needs to be told.
pub(super) struct Place<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) request: &'a RunRequest,
    pub(super) outbox: &'a Outbox,
}

impl Place<'_> {
    /// Sees to it that the packages are there, as far as that can be done before
    /// the run has its sandbox. Changes `key` to a sandbox that has them, and
    /// adds to `claims` what is to be settled whatever comes out.
    ///
    /// # Errors
    /// Why they cannot be installed.
    ///
    /// # Cancellation
    /// An installation that nobody else waits for is given up.
    pub(super) async fn ready(
        &self,
        key: &mut SandboxKey,
        intake: &mut Intake<'_>,
        claims: &mut Vec<Claim>,
    ) -> Result<Packages, Failure> {
        let request = self.request;
        if request.install.is_empty() {
            return Ok(Packages::None);
        }
        if request.runtime == Runtime::Bash && key.engine == EngineKind::Docker {
            let engine = self.daemon.roster.engine(key.engine)?;
            let identity = engine.identity(key).await?;
            key.image = Some(self.image(key, &identity, intake).await?);
            return Ok(match request.network {
                Network::Filtered => Packages::Derived { identity },
                Network::None | Network::Host => Packages::Image,
            });
        }
        let engine = self.daemon.roster.engine(key.engine)?;
        let mut identity = engine.identity(key).await?;
        let mut apt = None;
        if request.runtime == Runtime::Bash {
            let (found, fingerprint) = system_packages().await?;
            identity = format!("{identity} {fingerprint}");
            apt = Some(Arc::new(found));
        } else if request.no_install_cache {
            return Ok(Packages::Own { identity });
        }
        let wish = Wish {
            key: key.clone(),
            limits: limits_of(request),
            packages: request.install.clone(),
            hosts: request.hosts.clone(),
            identity: identity.clone(),
            apt,
        };
        let layer = self.layer(wish, intake, claims).await?;
        key.layer = Some(layer.id.clone());
        Ok(Packages::Layer {
            _layer: layer,
            identity,
        })
    }

    async fn layer(
        &self,
        wish: Wish,
        intake: &mut Intake<'_>,
        claims: &mut Vec<Claim>,
    ) -> Result<Use, Failure> {
        let layers = &self.daemon.layers;
        let mut missed = false;
        loop {
            if let Some(found) = layers.find(&wish, !missed) {
                return Ok(found);
            }
            if !missed {
                self.outbox.event(phase(v1::Phase::Install));
                missed = true;
            }
            let (mut waiting, claim) = layers.join(wish.clone());
            claims.push(claim);
            if waiting.joined {
                self.notice("waiting for another run that installs the same packages");
            }
            let Waiting { text, outcome, .. } = &mut waiting;
            let built = intake.follow(text, outcome.wait()).await;
            match built {
                // What failed with the bounds of another run may do with ours.
                Err(_) if !waiting.same_terms => {}
                built => return built,
            }
        }
    }

    async fn image(
        &self,
        key: &SandboxKey,
        identity: &str,
        intake: &mut Intake<'_>,
    ) -> Result<ImageName, Failure> {
        let (daemon, request) = (self.daemon, self.request);
        let engine = daemon.roster.engine(key.engine)?;
        let registries = daemon.layers.registries();
        let found = engine.find_derived(key, &request.install).await?;
        if found.is_none() {
            self.outbox.event(phase(v1::Phase::Install));
        }
        let known = found.is_some() && registries.get(identity, World::Apt).is_some();
        if request.network == Network::Filtered && !known {
            let sources = self.sources(key).await?;
            if found.is_none() {
                let filter = install::filter(&request.hosts, &daemon.config.network);
                sources.judge(&filter, &request.install)?;
            }
            registries.put(identity, World::Apt, sources.hosts());
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let text = Transcript::new();
        let progress = |line: &str| {
            text.add(line.as_bytes());
            text.add(b"\n");
        };
        let limits = limits_of(request);
        let derived = engine.derive_image(key, &request.install, &limits, &progress);
        intake.follow(&mut text.reader(), derived).await
    }

    /// Where the image of `key` has packages from.
    async fn sources(&self, key: &SandboxKey) -> Result<Sources, Failure> {
        let daemon = self.daemon;
        let limits = limits_of(self.request);
        let mut lease = daemon.pool.lease(key.clone(), limits).await?;
        let requests = Requests::default();
        let mut site = Site::new(lease.room(), key.network, &daemon.egress, &requests);
        let asked = Sources::ask(&mut site).await;
        // Nobody needs to wait for its end.
        drop(lease);
        asked
    }

    /// Installs into the run's own sandbox.
    ///
    /// # Errors
    /// Why they cannot be installed.
    ///
    /// # Cancellation
    /// Not cancel safe: the sandbox is to be destroyed.
    pub(super) async fn install_here(
        &self,
        identity: &str,
        seat: &mut Seat,
        intake: &mut Intake<'_>,
        requests: &Requests,
    ) -> Result<(), Failure> {
        let (daemon, request) = (self.daemon, self.request);
        self.outbox.event(phase(v1::Phase::Install));
        let text = Transcript::new();
        let filter = install::filter(&request.hosts, &daemon.config.network);
        let job = Job {
            runtime: request.runtime,
            packages: &request.install,
            for_layer: false,
            of_host: seat.holder.engine().kind() == EngineKind::Native,
            identity,
            apt: None,
            filter: &filter,
            registries: daemon.layers.registries(),
            text: &text,
        };
        let mut site = Site::new(seat.room(), request.network, &daemon.egress, requests);
        let installed = install::install(&mut site, &job);
        intake.follow(&mut text.reader(), installed).await
    }

    fn notice(&self, message: &str) {
        self.outbox.event(Event::Notice(v1::Notice {
            message: message.to_owned(),
        }));
    }
}

/// What the host's own package manager has, and the fingerprint of it: a host's
/// status alone is many megabytes to hash.
async fn system_packages() -> Result<(Apt, String), Failure> {
    let look = || {
        let found = Apt::look(Path::new("/"))?;
        let fingerprint = found.fingerprint();
        Ok((found, fingerprint))
    };
    let looked = spawn_blocking(look).await;
    looked.unwrap_or_else(|error| {
        Err(Failure::new(FailureKind::Internal, "cannot look at apt").because(&error))
    })
}

/// Whether the failure is that the base image is not there, which can be built.
pub(super) fn lacks_base(failure: &Failure, request: &RunRequest) -> bool {
    failure.kind == FailureKind::ImageMissing && request.image.is_none()
}
