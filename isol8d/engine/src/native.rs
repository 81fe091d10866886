//! Jails of our own: bubblewrap for the namespaces, cgroups for the limits.
//!
//! Only this module knows bubblewrap and cgroups. What exists is written in the
//! cgroup tree ([`cgroup`]); what a jail is made of comes from [`jail`],
//! [`rootfs`] and [`interpreters`]; [`launch`] starts it and waits for its end;
//! [`ground`] is what all jails of a daemon share; [`doctor`] tells what is wrong.
//!
//! ```text
//!           create                          destroy
//! (nothing) ──────▶ group, folder, launcher ───────▶ killed ─▶ (nothing)
//!                          │ init dials                 ▲
//!                          ▼                            │ destroy
//!                        live ──────────────────────────┘
//! ```
//! A sandbox is doomed by the first `destroy`: a `create` that is still at work
//! then makes nothing more.

mod cgroup;
mod doctor;
mod ground;
mod interpreters;
mod jail;
mod launch;
mod rootfs;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    runtime::Runtime,
    sandbox::{EngineKind, Limits, SandboxKey, SandboxSpec},
};
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    Built, Engine, Found, Health, ImageInfo, Interpreter, Place, Probe, Progress, Sandbox,
    meet::{self, LinkFolder, Meeting},
    presence::{self, Presence},
    uids::{SlotUid, UidRange},
};

use cgroup::Cgroups;
use ground::Ground;
use interpreters::Installed;
use launch::Jail;

/// The longest wait for init to dial. A jail takes a few milliseconds; this is
/// for a host that has come to a halt, and is below `CREATE_DEADLINE` with room
/// for tidying up.
const DIAL_DEADLINE: Duration = Duration::from_secs(12);
/// The longest wait for a launcher to be buried after all of its group is dead.
const BURIAL_DEADLINE: Duration = Duration::from_secs(2);

/// The engine of native jails.
#[derive(Debug)]
pub struct NativeEngine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ground: Ground,
    live: Mutex<HashMap<SandboxId, Arc<Live>>>,
    tracker: TaskTracker,
    /// Keeps other daemons from tidying up after this one.
    _presence: Presence,
}

/// One sandbox of this process.
#[derive(Debug)]
struct Live {
    /// Its host uid, free again when the last reference to this is gone.
    uid: SlotUid,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Being made; or made, with this.
    Up {
        jail: Option<Jail>,
        limits: Option<Limits>,
    },
    /// Destroyed, or about to be.
    Doomed { jail: Option<Jail> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            shared: Arc::new(Shared {
                _presence: presence,
                ground: Ground::new(place, uids),
                live: Mutex::default(),
                tracker: TaskTracker::new(),
            }),
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

impl Shared {
    /// Makes everything of a sandbox up to its running launcher.
    fn start(
        &self,
        spec: &SandboxSpec,
        live: &Live,
    ) -> Result<(Meeting, Jail, Installed), Failure> {
        // Held to the end: `destroy` waits, and then finds whatever was made.
        let mut state = lock(&live.state);
        if matches!(*state, State::Doomed { .. }) {
            return Err(Failure::new(
                FailureKind::Internal,
                "the sandbox was given up",
            ));
        }
        let cgroups = self.ground.cgroups()?;
        let tools = self.ground.tools()?;
        let interpreter = self.ground.find_interpreter(spec.key.runtime)?;
        cgroups.create(&spec.id, &spec.limits).map_err(|error| {
            Failure::new(FailureKind::HostLacks, "cannot make the sandbox's cgroup").because(&error)
        })?;
        let place = self.ground.place();
        let meeting = Meeting::open(&place.runtime_dir, &spec.id)?;
        let order = jail::Order {
            bwrap: &tools.bwrap.path,
            disable_userns: tools.bwrap.disable_userns,
            join: &cgroups.join_files(&spec.id),
            uid: self.ground.is_root().then(|| live.uid.get()),
            stage: &tools.stage,
            seccomp: &tools.seccomp,
            kit: &place.kit,
            link: meeting.folder(),
            etc: &tools.etc,
            rootfs: &tools.rootfs,
            resolv_conf: tools.resolv_conf.as_deref(),
            interpreter: &interpreter,
            key: &spec.key,
        };
        let launcher = place.kit.join("init");
        let jail = Jail::start(&self.tracker, &launcher, &order.arguments()).map_err(|error| {
            let message = format!("cannot start `{}`", launcher.display());
            Failure::new(FailureKind::Internal, message).because(&error)
        })?;
        *state = State::Up {
            jail: Some(jail.clone()),
            limits: Some(spec.limits),
        };
        Ok((meeting, jail, interpreter))
    }

    /// Waits for init, or for the launcher to give up.
    async fn dialled(
        &self,
        spec: &SandboxSpec,
        live: &Live,
        meeting: Meeting,
        mut jail: Jail,
    ) -> Result<(crate::link::Link, LinkFolder), Failure> {
        let cgroups = self.ground.cgroups()?;
        let uid = live.uid.get();
        let is_init = |peer: &meet::Peer| peer.uid == uid && cgroups.holds(&spec.id, peer.pid);
        tokio::select! {
            accepted = meeting.accept(DIAL_DEADLINE, is_init) => accepted,
            ended = jail.ended() => {
                let oom = cgroups.counters(&spec.id).is_ok_and(|counters| counters.oom_kills > 0);
                Err(not_made(&spec.key, &ended, oom))
            }
        }
    }

    /// Kills and removes a sandbox. Blocks.
    fn destroy(&self, id: &SandboxId, runtime: &tokio::runtime::Handle) -> Result<(), Failure> {
        let live = lock(&self.live).get(id).cloned();
        let jail = live.as_ref().and_then(|live| live.doom());
        let failed = |error: std::io::Error| {
            Failure::new(
                FailureKind::Internal,
                format!("cannot remove sandbox `{id}`"),
            )
            .because(&error)
        };
        // Without cgroups nothing was ever made.
        if let Ok(cgroups) = self.ground.cgroups() {
            for found in self
                .groups_of(cgroups, id, live.is_some())
                .map_err(failed)?
            {
                cgroups.kill(&found).map_err(failed)?;
                meet::remove_folder(&self.ground.place().runtime_dir, id).map_err(failed)?;
                cgroups.remove(&found).map_err(failed)?;
            }
        }
        if let Some(mut jail) = jail {
            // The tasks of a runtime that is going down will not come back to it.
            let buried = runtime.block_on(timeout(BURIAL_DEADLINE, jail.ended()));
            if buried.is_err() {
                tracing::warn!(sandbox_id = %id, "a launcher was not buried in time");
            }
        }
        lock(&self.live).remove(id);
        Ok(())
    }

    /// The groups with this name: our own without a look at the others.
    fn groups_of(
        &self,
        cgroups: &Cgroups,
        id: &SandboxId,
        ours: bool,
    ) -> std::io::Result<Vec<Found>> {
        if ours {
            let daemon = self.ground.place().daemon.clone();
            let id = id.clone();
            return Ok(vec![Found { id, daemon }]);
        }
        let mut found = cgroups.list()?;
        found.retain(|one| one.id == *id);
        Ok(found)
    }

    fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        let live = lock(&self.live).get(id).cloned();
        let Some(live) = live else {
            return Err(no_such(id));
        };
        let mut state = lock(&live.state);
        let State::Up {
            limits: current, ..
        } = &mut *state
        else {
            return Err(no_such(id));
        };
        if *current == Some(*limits) {
            return Ok(());
        }
        // Unknown from here until all of it is written.
        *current = None;
        self.ground
            .cgroups()?
            .set_limits(id, limits)
            .map_err(|error| {
                Failure::new(
                    FailureKind::EngineRefused,
                    "cannot set the sandbox's limits",
                )
                .because(&error)
            })?;
        *current = Some(*limits);
        Ok(())
    }
}

impl Live {
    fn doom(&self) -> Option<Jail> {
        let mut state = lock(&self.state);
        let jail = match &mut *state {
            State::Up { jail, .. } | State::Doomed { jail } => jail.clone(),
        };
        *state = State::Doomed { jail: jail.clone() };
        jail
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(cgroups) = self.ground.cgroups_if_open() {
            cgroups.tidy(&self.ground.place().daemon);
        }
    }
}

fn no_such(id: &SandboxId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("no sandbox `{id}`"))
}

/// Why a jail ended before its init dialled, in its own words.
fn not_made(key: &SandboxKey, ended: &launch::Ended, oom: bool) -> Failure {
    if oom {
        return Failure::new(
            FailureKind::InvalidRequest,
            "the memory limit leaves no room for the sandbox itself",
        )
        .hint("raise it with `--memory`");
    }
    let status = ended
        .status
        .map_or("lost".to_owned(), |status| status.to_string());
    let mut failure = if key.writable {
        Failure::new(
            FailureKind::Unsupported,
            "this host cannot make a jail with a writable root",
        )
        .hint("leave `--writable` out, or use `--engine docker`")
    } else {
        Failure::new(FailureKind::HostLacks, "this host cannot make a jail")
            .hint("`isol8 doctor` tells what is missing; `--engine docker` needs none of it")
    };
    for line in ended.words.lines().take(5) {
        failure = failure.cause(line);
    }
    failure.cause(format!("the launcher ended with {status}"))
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
            return Err(
                Failure::new(FailureKind::Unsupported, "the native engine has no images")
                    .hint("use `--engine docker`"),
            );
        }
        let live = Arc::new(Live {
            uid: self.shared.ground.lease_uid()?,
            state: Mutex::new(State::Up {
                jail: None,
                limits: None,
            }),
        });
        match lock(&self.shared.live).entry(spec.id.clone()) {
            // What follows would take the other one for a failed attempt.
            Entry::Occupied(_) => {
                let message = format!("there is a sandbox `{}` already", spec.id);
                return Err(Failure::new(FailureKind::Internal, message));
            }
            Entry::Vacant(free) => drop(free.insert(Arc::clone(&live))),
        }
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
        let runtime = tokio::runtime::Handle::current();
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

    async fn build_image(
        &self,
        runtime: Runtime,
        _force: bool,
        _progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        Err(
            Failure::new(FailureKind::Unsupported, "the native engine has no images")
                .hint(format!("`isol8 build --engine docker {runtime}`")),
        )
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
        let (link, folder) = self.shared.dialled(spec, live, meeting, jail).await?;
        // `destroy` removes it.
        folder.keep();
        let ground = &self.shared.ground;
        Ok(Sandbox {
            id: spec.id.clone(),
            link,
            interpreter: Interpreter {
                parkable: ground.has_hook(spec.key.runtime),
                path: installed.search_path(),
                program: installed.program.to_string_lossy().into_owned(),
            },
        })
    }
}
