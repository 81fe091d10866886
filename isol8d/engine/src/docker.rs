//! The Docker engine: a container for each sandbox, through the engine's own
//! API. This module and [`hardening`](crate::hardening) alone know bollard.
//!
//! Reading order: how an engine is asked ([`client`]), what a container is from
//! its creation to its removal ([`container`]), who is responsible for it
//! meanwhile ([`live`]), how one that lasts is taken over ([`adopt`]), what it has
//! used ([`accounting`]); then images
//! ([`image`], [`pull`], [`builder`], [`build`], [`packed`], [`derive`], [`custom`],
//! [`removal`]) and what can be wrong ([`doctor`]).
//!
//! A sandbox is made by a task of its own, which a dropped future does not
//! stop: it sees that nobody wants its work, and undoes it. The engine has no
//! way to take back a request, so this is the only one that leaves nothing.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bollard::{models::SystemVersion, query_parameters::ListContainersOptionsBuilder};
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    package::Package,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, SandboxKey, SandboxSpec},
};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    Adoption, Built, CREATE_DEADLINE, CustomOrder, Engine, Fit, Found, Health, ImageInfo, Place,
    Probe, Progress, Sandbox,
    hardening::{Bounds, LABEL_DAEMON, LABEL_MANAGED, LABEL_SANDBOX, container_name},
    presence::{self, Presence},
    seccomp,
    uids::UidRange,
};

mod accounting;
mod adopt;
mod build;
mod builder;
mod client;
mod container;
mod custom;
mod derive;
mod doctor;
mod end;
mod etc;
mod image;
mod live;
mod packed;
mod pull;
mod removal;

use client::{ASK, Client, PING, REMOVE, UPDATE};
pub use custom::alias;
use derive::leftovers::Builds;
use image::Images;
use live::{Making, Registry};

/// What containers of all releases of isol8 are built on unless configured.
pub const DEFAULT_BASE_IMAGE: &str = "debian:trixie-slim";

/// The oldest API with everything that a sandbox needs.
const MIN_API: (u32, u32) = (1, 41);

/// What the operator says about the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSettings {
    /// `docker.host`: `unix:///path` or a path. `None` is `DOCKER_HOST`, else
    /// the usual socket of Docker, else that of Podman.
    pub host: Option<String>,
    /// `docker.runtime`, such as `runsc`. `None` is the engine's default.
    pub runtime: Option<String>,
    /// `network.caBundle`: authorities for base images, in PEM.
    pub ca_bundle: Option<PathBuf>,
    /// What base images are built on.
    pub base_image: String,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            host: None,
            runtime: None,
            ca_bundle: None,
            base_image: DEFAULT_BASE_IMAGE.into(),
        }
    }
}

/// Sandboxes as containers. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct DockerEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    settings: DockerSettings,
    client: Client,
    images: Images,
    live: Registry,
    builds: Builds,
    facts: Mutex<Option<Facts>>,
    uids: UidRange,
    cgroup_v1: bool,
    tasks: TaskTracker,
    _presence: Presence,
}

/// What does not change while an engine runs.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// It refuses a processor share of more.
    cores: u32,
    /// Uids inside are not those of the host: `userns-remap` or rootless.
    maps_uids: bool,
    /// It is Podman, which wants the path of a seccomp profile, not its text.
    podman: bool,
}

impl DockerEngine {
    /// Asks the engine nothing yet: it may be absent and come later.
    ///
    /// # Errors
    /// When the daemon cannot announce itself or gets no uids on this host.
    pub fn new(place: Place, settings: DockerSettings) -> Result<Self, Failure> {
        let presence = Presence::announce(&place.daemon)?;
        let uids = UidRange::of_this_process()?;
        let host = settings.host.clone();
        let host = host.or_else(|| std::env::var("DOCKER_HOST").ok());
        Ok(Self(Arc::new(Inner {
            client: Client::new(host),
            images: Images::default(),
            live: Registry::default(),
            builds: Builds::default(),
            facts: Mutex::new(None),
            uids,
            cgroup_v1: accounting::is_v1(),
            tasks: TaskTracker::new(),
            _presence: presence,
            place,
            settings,
        })))
    }
}

impl Inner {
    async fn facts(&self) -> Result<Facts, Failure> {
        let known = *self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = known {
            return Ok(facts);
        }
        let info = self
            .client
            .ask("ask for its facts", ASK, |docker| async move {
                docker.info().await
            });
        let version = self
            .client
            .ask("ask for its version", ASK, |docker| async move {
                docker.version().await
            });
        let (info, version) = tokio::try_join!(info, version)?;
        let cores = info.ncpu.and_then(|cores| u32::try_from(cores).ok());
        let mut options = info.security_options.iter().flatten();
        let facts = Facts {
            cores: cores.unwrap_or(1),
            maps_uids: options.any(|option| {
                option.starts_with("name=userns") || option.starts_with("name=rootless")
            }),
            podman: product(&version).starts_with("Podman"),
        };
        if facts.podman {
            self.write_profile()?;
        }
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
        Ok(facts)
    }

    /// Where Podman finds the seccomp profile.
    fn profile(&self) -> PathBuf {
        self.place.state_dir.join("seccomp.json")
    }

    fn write_profile(&self) -> Result<(), Failure> {
        let path = self.profile();
        let new = path.with_extension("new");
        let written = fs::write(&new, seccomp::PROFILE).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            Failure::new(
                FailureKind::Internal,
                format!("cannot write `{}`", path.display()),
            )
            .because(&error)
        })
    }

    /// Another engine may answer next time.
    fn forget(&self) {
        self.images.forget();
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    async fn health(&self) -> Health {
        let asked = self
            .0
            .client
            .ask("ask for its version", PING, |docker| async move {
                docker.version().await
            })
            .await;
        match asked {
            Ok(version) => Health {
                healthy: is_new_enough(&version),
                detail: describe(&version),
            },
            Err(asked) => {
                self.0.forget();
                Health {
                    healthy: false,
                    detail: Failure::from(asked).to_string(),
                }
            }
        }
    }

    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure> {
        let making = Making::default();
        self.0.live.begin(&spec.id, making.clone())?;
        let (inner, spec) = (Arc::clone(&self.0), spec.clone());
        let (tell, told) = oneshot::channel();
        let span = tracing::debug_span!("create", sandbox = %spec.id);
        let task = async move {
            let done = making.done.drop_guard();
            let made = inner.make(&spec, &making.doomed).await;
            if let Err(Ok(unwanted)) = tell.send(made) {
                drop(unwanted);
                if let Err(error) = inner.remove(&spec.id).await {
                    tracing::warn!(sandbox = %spec.id, %error, "an unwanted container stays");
                }
            }
            drop(done);
            inner.chase(&spec.id).await;
        };
        self.0.tasks.spawn(task.instrument(span));
        let died = |_| {
            Err(Failure::new(
                FailureKind::Internal,
                "the making of a sandbox died",
            ))
        };
        told.await.unwrap_or_else(died)
    }

    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        self.0.take_over(adoption).await
    }

    async fn image_names(&self) -> Result<Vec<String>, Failure> {
        self.0.own_names().await
    }

    async fn remove_image(&self, name: &str) -> Result<(), Failure> {
        self.0.remove_own(name).await
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        let inner = &self.0;
        let bounds = Bounds::of(limits, inner.facts().await?.cores);
        if inner.live.with(id, |live| live.bounds)? == Some(bounds) {
            return Ok(());
        }
        inner.live.with(id, |live| live.bounds = None)?;
        inner.update(&container_name(id), bounds, UPDATE).await?;
        inner.live.with(id, |live| live.bounds = Some(bounds))
    }

    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure> {
        let inner = &self.0;
        let (read, mut last) = inner.live.with(id, |live| {
            let read = live.accounting.read();
            if let Ok(counters) = read {
                live.counters = counters;
            }
            (read, live.counters)
        })?;
        if read.is_ok() {
            return Ok(last);
        }
        // The container has ended and its cgroup is gone with it. Whether it was
        // the memory limit, the engine has seen as well.
        let state = inner.state(&container_name(id), ASK).await;
        let oom = state.is_ok_and(|state| state.oom_killed == Some(true));
        last.oom_kills = last.oom_kills.max(u64::from(oom));
        Ok(last)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure> {
        if let Some(making) = self.0.live.making(id) {
            making.doomed.cancel();
            // The task has deadlines that sum up to less.
            let _ = timeout(CREATE_DEADLINE + REMOVE * 2, making.done.cancelled()).await;
        }
        self.0.remove(id).await
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        let filters = HashMap::from([("label", vec![format!("{LABEL_MANAGED}=1")])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&image::own_keys(&filters))
            .build();
        let containers = self
            .0
            .client
            .ask("list containers", ASK, |docker| async move {
                docker.list_containers(Some(options)).await
            })
            .await?;
        let found: Vec<Found> = containers
            .into_iter()
            .filter_map(|container| {
                // An engine may list what it has removed, until it restarts: by
                // then it has taken the name away.
                container.names?.first()?;
                let labels = container.labels?;
                Some(Found {
                    id: SandboxId::parse(labels.get(LABEL_SANDBOX)?)?,
                    daemon: DaemonId::parse(labels.get(LABEL_DAEMON)?)?,
                })
            })
            .collect();
        self.0.clear_abandoned();
        let there: HashSet<&SandboxId> = found.iter().map(|found| &found.id).collect();
        self.0.live.listed(&there);
        Ok(found)
    }

    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool {
        *daemon == self.0.place.daemon || presence::is_alive(daemon)
    }

    async fn prepare(&self, key: &SandboxKey, progress: Progress<'_>) -> Result<(), Failure> {
        let inner = &self.0;
        match inner.images.resolve(&inner.client, key).await {
            Err(failure) if failure.kind == FailureKind::ImageMissing => {}
            there => return there.map(drop),
        }
        if key.image.is_none() {
            return inner.build(key.runtime, false, progress).await.map(drop);
        }
        let reference = image::reference_of(key.runtime, key.image.as_ref())?;
        let pull = async {
            // Whoever was here before may have got it.
            if image::inspect(&inner.client, &reference).await.is_ok() {
                return Ok(());
            }
            pull::pull(&inner.client, &reference, progress).await
        };
        inner.images.alone(&reference, progress, pull).await?;
        inner.images.resolve(&inner.client, key).await.map(drop)
    }

    async fn identity(&self, key: &SandboxKey) -> Result<String, Failure> {
        let inner = &self.0;
        let image = inner.images.resolve(&inner.client, key).await?;
        Ok(image.id.clone())
    }

    async fn find_derived(
        &self,
        key: &SandboxKey,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        self.0.find_derived(key, packages).await
    }

    async fn derive_image(
        &self,
        key: &SandboxKey,
        packages: &[Package],
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        self.0.derive(key, packages, limits, progress).await
    }

    async fn build_image(
        &self,
        runtime: Runtime,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.0.build(runtime, force, progress).await
    }

    async fn build_custom(
        &self,
        order: &CustomOrder,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.0.build_custom(order, progress).await
    }

    async fn find_custom(
        &self,
        runtime: Runtime,
        packages: &[Package],
        fit: Fit,
    ) -> Result<Option<ImageName>, Failure> {
        match fit {
            Fit::Exactly => self.0.custom_with(runtime, packages).await,
            Fit::AtLeast => self.0.custom_holding(runtime, packages).await,
        }
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        image::list(&self.0.client).await
    }

    async fn doctor(&self) -> Vec<Probe> {
        self.examine().await
    }
}

/// `Docker Engine 20.10.24, API 1.41`.
fn describe(version: &SystemVersion) -> String {
    // Podman serves the same API and says so here.
    let product = match product(version) {
        "Engine" => "Docker Engine",
        other => other,
    };
    let number = version.version.as_deref().unwrap_or("of no version");
    let api = version.api_version.as_deref().unwrap_or("unknown");
    let old = if is_new_enough(version) {
        String::new()
    } else {
        format!(", which is too old: 1.{} is needed", MIN_API.1)
    };
    format!("{product} {number}, API {api}{old}")
}

fn product(version: &SystemVersion) -> &str {
    let first = version.components.iter().flatten().next();
    first.map_or("Engine", |component| component.name.as_str())
}

fn is_new_enough(version: &SystemVersion) -> bool {
    let api = version.api_version.as_deref().and_then(|api| {
        let (major, minor) = api.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    api.is_some_and(|api| api >= MIN_API)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_says_what_it_is() {
        let version = |api: &str| SystemVersion {
            version: Some("20.10.24".into()),
            api_version: Some(api.into()),
            ..SystemVersion::default()
        };
        assert_eq!(
            describe(&version("1.41")),
            "Docker Engine 20.10.24, API 1.41"
        );
        assert!(describe(&version("1.40")).ends_with("too old: 1.41 is needed"));
        for (api, enough) in [
            ("1.41", true),
            ("1.53", true),
            ("2.0", true),
            ("1.9", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(&version(api)), enough, "{api}");
        }
    }
}
