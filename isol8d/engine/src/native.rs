//! Jails of our own: bubblewrap for the namespaces, cgroups for the limits.
//!
//! Only this module knows bubblewrap and cgroups. What exists is written in the
//! cgroup tree (`cgroup`); what a jail is made of comes from `jail`,
//! `rootfs` and `interpreters`; `launch` starts it and waits for its end; `adopt`
//! takes over one that lasts;
//! `ground` is what all jails of a daemon share; `doctor` tells what is wrong;
//! `live` holds the sandboxes of this process.

mod adopt;
mod cgroup;
mod doctor;
mod ground;
mod interpreters;
mod jail;
mod launch;
mod live;
mod rootfs;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    package::Package,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, SandboxKey, SandboxSpec},
};
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

use crate::{
    Adoption, Built, CustomOrder, Engine, Fit, Found, Health, ImageInfo, Interpreter, Place, Probe,
    Progress, Sandbox,
    presence::{self, Presence},
    uids::UidRange,
};

use ground::Ground;
use live::{Live, Shared, no_such};

/// The engine of native jails.
#[derive(Debug)]
pub struct NativeEngine {
    shared: Arc<Shared>,
}

impl NativeEngine {
    /// An engine for this place. What the host lacks is found when the first
    /// jail is made, and by [`Engine::doctor`].
    ///
    /// # Errors
    /// When no range of uids can be had, or another daemon runs on the same state.
    pub fn new(place: Place) -> Result<Self, Failure> {
        let uids = if rustix::process::geteuid().is_root() {
            Some(UidRange::of_this_process()?)
        } else {
            None
        };
        let presence = Presence::announce(&place.daemon)?;
        Ok(Self {
            shared: Arc::new(Shared::new(Ground::new(place, uids), presence)),
        })
    }
}

/// Runs what blocks away from the async threads. It goes on when the caller is
/// dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::new(FailureKind::Internal, "the native engine broke").because(&error))
    })
}

fn no_images() -> Failure {
    Failure::new(FailureKind::Unsupported, "the native engine has no images")
        .hint("`isol8 setup` and `isol8 build` need the Docker engine")
}

#[async_trait]
impl Engine for NativeEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Native
    }

    async fn health(&self) -> Health {
        let shared = Arc::clone(&self.shared);
        let checked = blocking(move || {
            let cgroups = shared.ground.cgroups()?.describe();
            let bwrap = &shared.ground.tools()?.bwrap;
            // What was found once may be gone.
            let init = shared.ground.place().kit.join("init");
            for needed in [&bwrap.path, &init] {
                if !needed.is_file() {
                    let message = format!("`{}` is gone", needed.display());
                    return Err(Failure::new(FailureKind::HostLacks, message));
                }
            }
            Ok(format!("bubblewrap {}, {cgroups}", bwrap.version))
        });
        match timeout(Duration::from_secs(2), checked).await {
            Ok(Ok(detail)) => Health {
                healthy: true,
                detail,
            },
            Ok(Err(failure)) => Health {
                healthy: false,
                detail: failure.to_string(),
            },
            Err(_) => Health {
                healthy: false,
                detail: "the host does not answer".to_owned(),
            },
        }
    }

    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure> {
        if spec.key.image.is_some() {
            return Err(no_images().hint("use `--engine docker`"));
        }
        let live = self.shared.note(&spec.id)?;
        let failure = match self.make(spec, &live).await {
            Ok(sandbox) => return Ok(sandbox),
            Err(failure) => failure,
        };
        Err(match self.destroy(&spec.id).await {
            Ok(()) => failure,
            // `list` finds it.
            Err(left) => failure.cause(left.to_string()),
        })
    }

    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        self.take_over(adoption).await
    }

    async fn image_names(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _name: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        let (shared, id, limits) = (Arc::clone(&self.shared), id.clone(), *limits);
        blocking(move || shared.set_limits(&id, &limits)).await
    }

    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure> {
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        blocking(move || {
            shared
                .ground
                .cgroups()?
                .counters(&id)
                .map_err(|error| no_such(&id).because(&error))
        })
        .await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure> {
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        let runtime = Handle::current();
        blocking(move || shared.destroy(&id, &runtime)).await
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let Ok(cgroups) = shared.ground.cgroups() else {
                return Ok(Vec::new());
            };
            for daemon in cgroups.daemons() {
                if daemon != shared.ground.place().daemon && !presence::is_alive(&daemon) {
                    cgroups.tidy(&daemon);
                }
            }
            cgroups.list().map_err(|error| {
                Failure::new(FailureKind::Internal, "cannot list the sandboxes").because(&error)
            })
        })
        .await
    }

    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool {
        presence::is_alive(daemon)
    }

    async fn prepare(&self, key: &SandboxKey, _progress: Progress<'_>) -> Result<(), Failure> {
        let (shared, runtime) = (Arc::clone(&self.shared), key.runtime);
        blocking(move || {
            shared.ground.cgroups()?;
            shared.ground.tools()?;
            shared.ground.find_interpreter(runtime).map(drop)
        })
        .await
    }

    async fn identity(&self, key: &SandboxKey) -> Result<String, Failure> {
        let (shared, runtime) = (Arc::clone(&self.shared), key.runtime);
        blocking(move || {
            let installed = shared.ground.find_interpreter(runtime)?;
            installed.identity().map_err(|error| {
                let message = format!("cannot look at the {runtime} of this host");
                Failure::new(FailureKind::InterpreterMissing, message).because(&error)
            })
        })
        .await
    }

    async fn find_derived(
        &self,
        _key: &SandboxKey,
        _packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        Ok(None)
    }

    async fn derive_image(
        &self,
        _key: &SandboxKey,
        _packages: &[Package],
        _limits: &Limits,
        _progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        Err(no_images())
    }

    async fn build_image(
        &self,
        _runtime: Runtime,
        _force: bool,
        _progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        Err(no_images())
    }

    async fn build_custom(
        &self,
        _order: &CustomOrder,
        _progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        Err(no_images())
    }

    async fn find_custom(
        &self,
        _runtime: Runtime,
        _packages: &[Package],
        _fit: Fit,
    ) -> Result<Option<ImageName>, Failure> {
        Ok(None)
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        Ok(Vec::new())
    }

    async fn doctor(&self) -> Vec<Probe> {
        doctor::examine(self).await
    }
}

impl NativeEngine {
    async fn make(&self, spec: &SandboxSpec, live: &Arc<Live>) -> Result<Sandbox, Failure> {
        let started = {
            let (shared, spec, live) = (Arc::clone(&self.shared), spec.clone(), Arc::clone(live));
            blocking(move || shared.start(&spec, &live))
        };
        let (meeting, jail, installed) = started.await?;
        let met = self.shared.dialled(spec, live, meeting, jail).await?;
        // `destroy` removes it.
        met.folder.keep();
        let ground = &self.shared.ground;
        Ok(Sandbox {
            id: spec.id.clone(),
            link: met.link,
            interpreter: Interpreter {
                parkable: ground.has_hook(spec.key.runtime),
                path: installed.search_path(),
                program: installed.program.to_string_lossy().into_owned(),
                authorities: ground.place().authorities_inside(),
                deno_dir: None,
            },
            listener: met.listener,
            uid: live.uid(),
        })
    }
}
