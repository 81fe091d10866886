//! Makes sandboxes and hands over the byte stream to the init inside.
//!
//! [`Engine`] is the one seam of the daemon: everything above it is written
//! once. [`link`] is the protocol that both sides of the stream speak,
//! [`docker`] makes containers, [`native`] makes jails, [`fake`] makes neither
//! and is what tests drive.

use std::{collections::BTreeMap, fmt, os::fd::OwnedFd, path::PathBuf, time::Duration};

use async_trait::async_trait;
use isol8_core::{
    env::{self, Surroundings},
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    package::Package,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network, SandboxKey, SandboxSpec},
};

pub mod docker;
mod door;
pub mod fake;
pub mod hardening;
pub mod link;
pub mod meet;
pub mod native;
pub mod presence;
pub mod seccomp;
pub mod uids;

use link::Link;

/// Where an engine finds and puts things on the host. The folders exist.
#[derive(Debug, Clone)]
pub struct Place {
    /// Marks what this daemon made.
    pub daemon: DaemonId,
    /// For sockets and stages: `R`, on a tmpfs where there is one.
    pub runtime_dir: PathBuf,
    /// For what outlives a restart: `S`.
    pub state_dir: PathBuf,
    /// The read-only folder with `init` and `park/` that every sandbox mounts.
    pub kit: PathBuf,
    /// The kit holds `ca-bundle.crt`, to which programs are pointed.
    pub authorities: bool,
    /// Installed packages: `<layer>/tree` is mounted read-only where the
    /// runtime's packages land.
    pub layers: PathBuf,
    /// Without a daemon for so long, a lasting sandbox ends by itself.
    pub orphaned: Duration,
}

impl Place {
    /// The file of certificate authorities as sandboxes see it.
    #[must_use]
    pub fn authorities_inside(&self) -> Option<String> {
        self.authorities
            .then(|| "/isol8/kit/ca-bundle.crt".to_owned())
    }

    /// The folder of the packages that a sandbox of this key has, if any.
    ///
    /// # Errors
    /// `NotFound` where the layer is gone.
    pub fn layer_of(&self, key: &SandboxKey) -> Result<Option<PathBuf>, Failure> {
        let Some(layer) = &key.layer else {
            return Ok(None);
        };
        let tree = self.layers.join(layer.as_str()).join("tree");
        if tree.is_dir() {
            return Ok(Some(tree));
        }
        let message = format!("the installed packages `{layer}` are not there");
        Err(Failure::new(FailureKind::NotFound, message))
    }
}

/// A sandbox that exists, whose init has dialled.
#[derive(Debug)]
pub struct Sandbox {
    /// Its name, as ordered.
    pub id: SandboxId,
    /// The stream to its init. Dropping it ends an ephemeral sandbox.
    pub link: Link,
    /// How programs start in it.
    pub interpreter: Interpreter,
    /// In a filtered network: the listening socket on the port of the proxy, in
    /// the sandbox's own network namespace. Nobody has accepted on it.
    pub listener: Option<OwnedFd>,
    /// The host uid of its programs.
    pub uid: u32,
}

/// What has to be known of a lasting sandbox to take it over.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// As it was ordered, with the limits that it has now.
    pub spec: SandboxSpec,
    /// The host uid of its programs.
    pub uid: u32,
    /// How programs start in it.
    pub interpreter: Interpreter,
}

/// The interpreter of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// A path inside the sandbox, or a bare name to be searched on `path`.
    pub program: String,
    /// The folders of the PATH that the image or host gives, colon-separated.
    pub path: String,
    /// The hooks in the kit fit it, so that it can be parked.
    pub parkable: bool,
    /// The file of certificate authorities inside, where one is configured.
    pub authorities: Option<String>,
    /// Where an image of ours has modules for deno.
    pub deno_dir: Option<String>,
}

impl Interpreter {
    /// What every program in such a sandbox finds in its environment.
    #[must_use]
    pub fn environment(&self, network: Network) -> BTreeMap<String, String> {
        env::base(&Surroundings {
            path: &self.path,
            network,
            authorities: self.authorities.as_deref(),
            deno_dir: self.deno_dir.as_deref(),
        })
    }
}

/// Something of ours that was found on an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The sandbox.
    pub id: SandboxId,
    /// The daemon that made it.
    pub daemon: DaemonId,
}

/// Whether an engine can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// It can.
    pub healthy: bool,
    /// Its version, or why it cannot.
    pub detail: String,
}

/// How one probe of [`Engine::doctor`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStatus {
    /// As it should be.
    Ok,
    /// Runs work, but something is less than it could be.
    Warning,
    /// Runs cannot work.
    Failed,
}

/// One probe of what can stop a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub status: ProbeStatus,
    /// What was found.
    pub found: String,
    /// The command that mends it; empty where nothing is to mend.
    pub fix: String,
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// For whom.
    pub runtime: Runtime,
    /// `isol8:python`.
    pub tag: String,
    /// The engine's own id.
    pub id: String,
    /// Size on disk.
    pub size_bytes: u64,
    /// Of a custom image, sorted; none in a base image.
    pub packages: Vec<Package>,
}

/// An order for a custom image: a base image with packages in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomOrder {
    /// Whose base image.
    pub runtime: Runtime,
    /// One at least.
    pub packages: Vec<Package>,
    /// Another name that the image gets, with its tag.
    pub alias: Option<ImageName>,
    /// Build even where it is there.
    pub force: bool,
}

/// Which custom image is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// One with these packages and no others.
    Exactly,
    /// One with these packages among others.
    AtLeast,
}

/// What [`Engine::build_image`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The image as it is now.
    pub image: ImageInfo,
    /// False: it was there with the same inputs.
    pub built: bool,
}

/// Takes the lines of an image build as they come. Must not block.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Makes and destroys sandboxes.
///
/// Every call has a deadline of its own inside the engine and ends in an error
/// rather than hang. Every future may be dropped at any point: what was begun
/// is then found again by [`Engine::list`] and undone by [`Engine::destroy`].
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Which one it is.
    fn kind(&self) -> EngineKind;

    /// Asks the engine itself, now. At most 2 seconds.
    async fn health(&self) -> Health;

    /// Makes a sandbox and waits until its init has dialled (no frame read yet).
    ///
    /// # Errors
    /// Typed: image or interpreter missing, engine unreachable or late, host
    /// lacking something. Nothing of a failed attempt stays behind, unless the
    /// engine is gone: then [`Engine::list`] finds it later.
    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure>;

    /// Takes over a lasting sandbox whose init has no stream: one that an earlier
    /// process of this daemon made, or one of this process whose link was dropped.
    /// Waits until its init has dialled again (no frame read yet); only the process
    /// that is PID 1 of that very sandbox is taken.
    ///
    /// # Errors
    /// `NotFound`: it is gone, or nothing in it lives. Anything else: it may be
    /// there. Nothing of it is touched.
    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure>;

    /// Sets the bounds of a live sandbox; does nothing where they are as asked.
    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure>;

    /// Reads the sandbox's counters. Works until [`Engine::destroy`], also when
    /// every process of the sandbox is gone.
    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure>;

    /// Kills everything inside from outside and removes every trace. Does
    /// nothing to a sandbox that is not there.
    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure>;

    /// Every sandbox of isol8 on this engine, also those of other daemons.
    async fn list(&self) -> Result<Vec<Found>, Failure>;

    /// Whether the daemon that made something still lives, for
    /// [`Engine::list`]'s strangers: they may be removed when it does not.
    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool;

    /// Makes sure that what `key` needs (its image) is there, building it with
    /// progress where it can be built.
    async fn prepare(&self, key: &SandboxKey, progress: Progress<'_>) -> Result<(), Failure>;

    /// What decides how packages for `key` turn out: the image's id, or the
    /// host's interpreter and its version. Changes when it does.
    async fn identity(&self, key: &SandboxKey) -> Result<String, Failure>;

    /// The image that [`Engine::derive_image`] would find. To be looked for counts
    /// as use. `None` where there is none, and always on an engine without images.
    ///
    /// # Errors
    /// `ImageMissing` when the image of `key` is not there.
    async fn find_derived(
        &self,
        key: &SandboxKey,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure>;

    /// Makes, or finds again, the image of `key` with packages of its own system
    /// in it. The build is bound by `limits`.
    ///
    /// # Errors
    /// `Unsupported` where there are no images.
    async fn derive_image(
        &self,
        key: &SandboxKey,
        packages: &[Package],
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure>;

    /// Builds a runtime's base image, or finds that nothing changed.
    async fn build_image(
        &self,
        runtime: Runtime,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure>;

    /// Builds a custom image on the base image that is there, or finds it.
    ///
    /// # Errors
    /// `Unsupported` where there are no images; `ImageMissing` without the base.
    async fn build_custom(
        &self,
        order: &CustomOrder,
        progress: Progress<'_>,
    ) -> Result<Built, Failure>;

    /// A custom image on the base image that is there now. `None` where there is
    /// none, and always on an engine without images.
    async fn find_custom(
        &self,
        runtime: Runtime,
        packages: &[Package],
        fit: Fit,
    ) -> Result<Option<ImageName>, Failure>;

    /// The images of ours.
    async fn images(&self) -> Result<Vec<ImageInfo>, Failure>;

    /// Every name of an image of ours, derived and custom ones with them, and the
    /// ids of those that have none: what [`Engine::remove_image`] takes. What is
    /// built on others comes before them.
    async fn image_names(&self) -> Result<Vec<String>, Failure>;

    /// Removes one of [`Engine::image_names`]. Does nothing to one that is not
    /// there.
    ///
    /// # Errors
    /// `EngineRefused` where something still uses it.
    async fn remove_image(&self, name: &str) -> Result<(), Failure>;

    /// Probes everything on this engine that can stop a run.
    async fn doctor(&self) -> Vec<Probe>;
}

/// The longest that any engine may take for one sandbox before it gives up.
pub const CREATE_DEADLINE: Duration = Duration::from_secs(20);
