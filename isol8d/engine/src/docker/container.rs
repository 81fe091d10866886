//! One container from its creation to the first word of its init.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    models::ContainerState,
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, StartContainerOptions,
    },
};
use isol8_core::{
    failure::{Failure, FailureKind},
    outcome::Counters,
    sandbox::{Network, SandboxKey, SandboxSpec},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Facts, Inner,
    accounting::{self, Accounting},
    client::{ASK, Asked, Budget, CREATE, START, UPDATE},
    etc,
    image::Image,
    live::Live,
};
use crate::{
    CREATE_DEADLINE, Interpreter, Sandbox,
    hardening::{self, Bounds, Ground, container_name},
    link::Link,
    meet::{Meeting, Peer},
    seccomp,
    uids::SlotUid,
};

/// init dials within milliseconds of its start.
const ACCEPT: Duration = Duration::from_secs(10);
/// How often a container is looked at that does not dial.
pub(super) const LOOK: Duration = Duration::from_millis(300);
/// The longest that an engine takes to learn that a container has ended.
pub(super) const LEARN: Duration = Duration::from_secs(2);
/// The first uid inside where the engine maps uids: such a mapping holds 65536.
const FIRST_MAPPED: u32 = 10_000;

/// A container that answers.
struct Up {
    /// What it was made of in the end.
    image: Arc<Image>,
    link: Link,
    listener: Option<OwnedFd>,
    accounting: Accounting,
    bounds: Bounds,
}

/// What a container is made with.
struct Ready {
    facts: Facts,
    image: Arc<Image>,
    uid: u32,
    layer: Option<(PathBuf, &'static str)>,
    etc: Vec<(&'static str, PathBuf)>,
}

impl Inner {
    /// Makes a sandbox. On failure nothing is left, or the registry knows of it.
    pub(super) async fn make(
        &self,
        spec: &SandboxSpec,
        doomed: &CancellationToken,
    ) -> Result<Sandbox, Failure> {
        let prepared = self.prepare_ground(spec).await;
        let (ready, slot, meeting) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                self.live.drop_entry(&spec.id);
                return Err(failure);
            }
        };
        match self.come_up(spec, &ready, &slot, meeting, doomed).await {
            Ok(up) => {
                let uid = slot.get();
                let live = Live {
                    accounting: up.accounting,
                    bounds: Some(up.bounds),
                    counters: Counters::default(),
                    _uid: slot,
                };
                self.live.settle(&spec.id, live);
                Ok(Sandbox {
                    id: spec.id.clone(),
                    link: up.link,
                    interpreter: Interpreter {
                        authorities: self.place.authorities_inside(),
                        ..up.image.interpreter.clone()
                    },
                    listener: up.listener,
                    uid,
                })
            }
            Err(failure) => {
                self.undo(&spec.id, slot, &failure).await;
                Err(failure)
            }
        }
    }

    async fn prepare_ground(
        &self,
        spec: &SandboxSpec,
    ) -> Result<(Ready, SlotUid, Meeting), Failure> {
        let layer = self.layer(&spec.key)?;
        let facts = self.facts().await?;
        let image = self.images.resolve(&self.client, &spec.key).await?;
        let slot = self.uids.lease()?;
        let uid = if facts.maps_uids {
            FIRST_MAPPED + slot.get() - self.uids.bounds().0
        } else {
            slot.get()
        };
        let meeting = Meeting::open(&self.place.runtime_dir, &spec.id)?;
        let etc = etc::write(meeting.folder(), uid, spec.key.network).map_err(|error| {
            Failure::new(
                FailureKind::Internal,
                "cannot write the sandbox's own files",
            )
            .because(&error)
        })?;
        let ready = Ready {
            facts,
            image,
            uid,
            layer,
            etc,
        };
        Ok((ready, slot, meeting))
    }

    /// The packages of a sandbox and their folder below its own.
    fn layer(&self, key: &SandboxKey) -> Result<Option<(PathBuf, &'static str)>, Failure> {
        let Some(tree) = self.place.layer_of(key)? else {
            return Ok(None);
        };
        let folder = key.runtime.install_folder().ok_or_else(|| {
            Failure::new(
                FailureKind::Unsupported,
                format!("packages of {} are part of an image here", key.runtime),
            )
        })?;
        Ok(Some((tree, folder)))
    }

    async fn come_up(
        &self,
        spec: &SandboxSpec,
        ready: &Ready,
        slot: &SlotUid,
        meeting: Meeting,
        doomed: &CancellationToken,
    ) -> Result<Up, Failure> {
        let budget = Budget::of(CREATE_DEADLINE);
        let (container, image) = self
            .create_container(spec, ready, meeting.folder(), budget)
            .await?;
        stop_if(doomed)?;
        let (name, limit) = (container.clone(), budget.at_most(START));
        self.client
            .ask("start a container", limit, |docker| async move {
                docker
                    .start_container(&name, None::<StartContainerOptions>)
                    .await
            })
            .await?;
        stop_if(doomed)?;
        let state = self.state(&container, budget.at_most(ASK)).await?;
        let pid = state.pid.unwrap_or(0);
        if pid <= 0 {
            return Err(ended_early(&state));
        }
        let accounting = match Accounting::of(pid, &container) {
            Ok(accounting) => accounting,
            Err(error) => return Err(self.unseen_yet(&container, &error).await),
        };
        let expected = Expected {
            pid,
            uid: (!ready.facts.maps_uids).then(|| slot.get()),
            other_runtime: self.settings.runtime.is_some(),
            container: &container,
        };
        let filtered = spec.key.network == Network::Filtered;
        let accept = meeting.accept(budget.at_most(ACCEPT), filtered, |peer| expected.is(peer));
        let met = tokio::select! {
            met = accept => met.map_err(|failure| self.blame_runtime(failure))?,
            failure = self.ended(&container) => return Err(failure),
        };
        let cores = ready.facts.cores;
        let bounds = Bounds::of(&spec.limits, cores);
        if !ready.facts.podman && hardening::starting_limits(&spec.limits, cores) != bounds {
            self.update(&container, bounds, budget.at_most(UPDATE))
                .await?;
        }
        stop_if(doomed)?;
        met.folder.keep();
        Ok(Up {
            image,
            link: met.link,
            listener: met.listener,
            accounting,
            bounds,
        })
    }

    /// A runtime with a kernel of its own for each sandbox passes no descriptors
    /// to the host's.
    pub(super) fn blame_runtime(&self, failure: Failure) -> Failure {
        match &self.settings.runtime {
            Some(runtime) if failure.kind == FailureKind::Unsupported => failure
                .cause(format!(
                    "the OCI runtime `{runtime}` may not pass descriptors to the host"
                ))
                .hint("leave `docker.runtime` out, or use `--net none`"),
            _ => failure,
        }
    }

    /// Creates the container. Returns the engine's id for it, and its image.
    async fn create_container(
        &self,
        spec: &SandboxSpec,
        ready: &Ready,
        link: &Path,
        budget: Budget,
    ) -> Result<(String, Arc<Image>), Failure> {
        let mut image = Arc::clone(&ready.image);
        let mut again = true;
        loop {
            let created = self.ask_to_create(spec, ready, &image, link, budget).await;
            match created {
                Ok(container) => return Ok((container, image)),
                // The image was removed or built anew since it was looked up.
                Err(asked) if asked.is_missing() && again => {
                    again = false;
                    self.images.forget();
                    image = self.images.resolve(&self.client, &spec.key).await?;
                }
                Err(asked) => return Err(asked.into()),
            }
        }
    }

    async fn ask_to_create(
        &self,
        spec: &SandboxSpec,
        ready: &Ready,
        image: &Image,
        link: &Path,
        budget: Budget,
    ) -> Result<String, Asked> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let profile = if ready.facts.podman {
            self.profile().to_string_lossy().into_owned()
        } else {
            seccomp::PROFILE.to_owned()
        };
        let layer = ready.layer.as_ref();
        let ground = Ground {
            daemon: &self.place.daemon,
            created: now.unwrap_or_default().as_secs(),
            image: &image.id,
            volumes: &image.volumes,
            uid: ready.uid,
            kit: &self.place.kit,
            link,
            layer: layer.map(|(tree, folder)| (tree.as_path(), *folder)),
            etc: &ready.etc,
            seccomp: &profile,
            podman: ready.facts.podman,
            runtime: self.settings.runtime.as_deref(),
            orphaned: self.place.orphaned,
            cgroup_v1: self.cgroup_v1,
            cores: ready.facts.cores,
        };
        let body = hardening::create_body(spec, &ground);
        let options = CreateContainerOptionsBuilder::new()
            .name(&container_name(&spec.id))
            .build();
        let created = self
            .client
            .ask(
                "create a container",
                budget.at_most(CREATE),
                |docker| async move { docker.create_container(Some(options), body).await },
            )
            .await?;
        Ok(created.id)
    }

    /// Tells the engine new bounds.
    pub(super) async fn update(
        &self,
        container: &str,
        bounds: Bounds,
        limit: Duration,
    ) -> Result<(), Failure> {
        let container = container.to_owned();
        self.client
            .ask(
                "set the limits of a container",
                limit,
                |docker| async move {
                    docker
                        .update_container(&container, bounds.update_body())
                        .await
                },
            )
            .await
            .map_err(|asked| {
                let missing = asked.is_missing();
                let failure = Failure::from(asked);
                // The container, or the question itself.
                let hint = "see whether it is there with `docker ps -a`; \
                            older releases of Podman cannot do this at all";
                if missing { failure.hint(hint) } else { failure }
            })
    }

    /// The engine's view of a container, by name or id.
    pub(super) async fn state(
        &self,
        container: &str,
        limit: Duration,
    ) -> Result<ContainerState, Asked> {
        let container = container.to_owned();
        let inspected = self
            .client
            .ask("look at a container", limit, |docker| async move {
                docker
                    .inspect_container(&container, None::<InspectContainerOptions>)
                    .await
            })
            .await?;
        Ok(inspected.state.unwrap_or_default())
    }

    /// Why the cgroup of a container is not found: it has ended since, or the
    /// engine's processes cannot be seen from here.
    async fn unseen_yet(&self, container: &str, error: &io::Error) -> Failure {
        // The engine learns of the end of a process a moment after the kernel.
        let ended = timeout(LEARN, self.ended(container)).await;
        ended.unwrap_or_else(|_| unaccounted(error))
    }

    /// Ends when a container has ended. Cancel safe.
    async fn ended(&self, container: &str) -> Failure {
        loop {
            sleep(LOOK).await;
            match self.state(container, ASK).await {
                Ok(state) if state.running == Some(true) => {}
                Ok(state) => return ended_early(&state),
                Err(asked) if asked.is_answer() => return asked.into(),
                // Whoever waits for the call has a deadline of its own.
                Err(_) => {}
            }
        }
    }
}

/// The engine's processes cannot be seen from here.
pub(super) fn unaccounted(error: &io::Error) -> Failure {
    Failure::new(
        FailureKind::HostLacks,
        "cannot see the cgroup of a container: its limits cannot be watched",
    )
    .because(error)
    .hint("run isol8d on the engine's own host, outside of any container")
}

/// Who may take the socket.
pub(super) struct Expected<'a> {
    pub(super) pid: i64,
    /// `None` where the engine maps uids.
    pub(super) uid: Option<u32>,
    /// Where no program runs yet, any process of the container may call.
    pub(super) other_runtime: bool,
    pub(super) container: &'a str,
}

impl Expected<'_> {
    pub(super) fn is(&self, peer: &Peer) -> bool {
        let init = i64::from(peer.pid) == self.pid;
        let owner = self.uid.is_none_or(|uid| uid == peer.uid);
        // A runtime such as gVisor dials from a helper beside its process.
        let helper = self.other_runtime && accounting::is_in(peer.pid, self.container);
        init && owner || helper
    }
}

fn stop_if(doomed: &CancellationToken) -> Result<(), Failure> {
    if doomed.is_cancelled() {
        return Err(Failure::new(
            FailureKind::Internal,
            "the sandbox was destroyed while it was being made",
        ));
    }
    Ok(())
}

fn ended_early(state: &ContainerState) -> Failure {
    let failure = Failure::new(
        FailureKind::EngineRefused,
        "the sandbox ended before it came up",
    );
    let failure = match state.error.as_deref() {
        Some(error) if !error.is_empty() => failure.cause(error),
        _ => failure,
    };
    let failure = match (state.oom_killed, state.exit_code) {
        (Some(true), _) => failure.cause("its memory limit is too small to start in"),
        (_, Some(code)) => failure.cause(format!("its init ended with code {code}")),
        _ => failure,
    };
    failure.hint("find out what is wrong with `isol8 doctor`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(uid: Option<u32>, other_runtime: bool) -> Expected<'static> {
        Expected {
            pid: 42,
            uid,
            other_runtime,
            container: "c0ffee",
        }
    }

    #[test]
    fn only_init_under_its_own_uid_is_taken() {
        let peer = |pid, uid| Peer { pid, uid, gid: uid };
        let check = |expected: Expected<'_>, pid, uid, taken| {
            assert_eq!(expected.is(&peer(pid, uid)), taken, "{pid} {uid}");
        };
        check(expected(Some(7), false), 42, 7, true);
        check(expected(Some(7), false), 42, 0, false);
        check(expected(Some(7), false), 43, 7, false);
        check(expected(None, false), 42, 9, true);
        check(expected(None, false), 43, 9, false);
        let own = i32::try_from(std::process::id()).unwrap();
        check(expected(Some(7), true), own, 7, false);
    }
}
