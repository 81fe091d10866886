//! The engine's own calls.

use std::{io, net::TcpListener, os::fd::OwnedFd, time::Duration};

use async_trait::async_trait;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    package::Package,
    quantity::ByteSize,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network, SandboxKey, SandboxSpec},
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    FakeEngine, Fault, Live, LivingInit, Step,
    init::{self, Birth, Call},
};
use crate::{
    Adoption, Built, CustomOrder, Engine, Fit, Found, Health, ImageInfo, Interpreter, Probe,
    ProbeStatus, Progress, Sandbox, link::Link,
};

/// Bytes that the pipe to an init holds, about as a Unix socket does.
const PIPE_BYTES: usize = 64 << 10;

/// As real engines wait for an init that is alive and does not dial.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

fn link(stream: DuplexStream) -> Link {
    let (read, write) = tokio::io::split(stream);
    Link::new(read, write)
}

fn gone(id: &SandboxId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("no sandbox `{id}`"))
}

impl FakeEngine {
    /// Opens the door of a new filtered sandbox.
    fn open_door(&self, spec: &SandboxSpec) -> Result<Option<OwnedFd>, Failure> {
        let mut state = self.state();
        if !state.listening || spec.key.network != Network::Filtered {
            return Ok(None);
        }
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| no_loopback(&error))?;
        listener
            .set_nonblocking(true)
            .map_err(|error| no_loopback(&error))?;
        let copy = listener.try_clone().map_err(|error| no_loopback(&error))?;
        if let Some(live) = state.live.get_mut(&spec.id) {
            live.door = Some(listener);
        }
        Ok(Some(copy.into()))
    }

    fn start(&self, spec: &SandboxSpec) -> Link {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (calls, to_init) = mpsc::channel(1);
        let key = &spec.key;
        let birth = Birth {
            engine: self.clone(),
            id: spec.id.clone(),
            lasting: spec.lasting,
            rooms: [key.sandbox_size, key.tmp_size].map(ByteSize::as_bytes),
            calls: to_init,
        };
        let init = LivingInit {
            calls,
            _task: AbortOnDropHandle::new(self.tasks.spawn(init::run(birth, theirs))),
        };
        let live = Live {
            daemon: self.daemon.clone(),
            spec: Some(spec.clone()),
            limits: Some(spec.limits),
            counters: Counters::default(),
            door: None,
            init: Some(init),
        };
        let mut state = self.state();
        let twice = state.live.insert(spec.id.clone(), live);
        assert!(twice.is_none(), "sandbox {} was made twice", spec.id);
        state.created_total += 1;
        state.most_live = state.most_live.max(state.live.len());
        link(ours)
    }

    /// Calls an init that has no stream, and waits until it takes the new one.
    async fn call_init(&self, id: &SandboxId) -> Result<Link, Failure> {
        let calls = {
            let state = self.state();
            let live = state.live.get(id);
            let live = live.filter(|live| live.daemon == self.daemon);
            let init = live.and_then(|live| live.init.as_ref());
            init.map(|init| init.calls.clone())
        };
        let calls = calls.ok_or_else(|| gone(id))?;
        let (ours, stream) = tokio::io::duplex(PIPE_BYTES);
        let (taken, answer) = oneshot::channel();
        let call = async {
            calls.send(Call { stream, taken }).await.ok()?;
            answer.await.ok()
        };
        match timeout(ADOPT_DEADLINE, call).await {
            Ok(Some(())) => Ok(link(ours)),
            Ok(None) => Err(gone(id)),
            Err(_) => Err(Failure::new(
                FailureKind::EngineTimeout,
                format!("sandbox `{id}` did not dial"),
            )),
        }
    }
}

fn no_loopback(error: &io::Error) -> Failure {
    Failure::new(FailureKind::Internal, "no loopback for a test").because(error)
}

#[async_trait]
impl Engine for FakeEngine {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    async fn health(&self) -> Health {
        match self.call(Step::Health).await {
            Ok(()) => Health {
                healthy: true,
                detail: "fake 1.0".to_owned(),
            },
            Err(failure) => Health {
                healthy: false,
                detail: failure.to_string(),
            },
        }
    }

    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure> {
        self.call(Step::Create).await?;
        let link = self.start(spec);
        match self.step(Step::Created).await {
            Some(Fault::Fail(failure)) => {
                self.state().live.remove(&spec.id);
                return Err(failure);
            }
            Some(Fault::FailAndLeave(failure)) => return Err(failure),
            _ => {}
        }
        Ok(Sandbox {
            id: spec.id.clone(),
            link,
            interpreter: Interpreter {
                program: spec.key.runtime.executable().to_owned(),
                path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
                // The hooks fit our own images alone.
                parkable: self.state().parkable && spec.key.image.is_none(),
                authorities: None,
                deno_dir: None,
            },
            listener: self.open_door(spec)?,
            uid: 0,
        })
    }

    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        self.call(Step::Adopt).await?;
        let id = &adoption.spec.id;
        let link = self.call_init(id).await?;
        let listener = {
            let state = self.state();
            let door = state.live.get(id).and_then(|live| live.door.as_ref());
            door.map(TcpListener::try_clone).transpose()
        };
        Ok(Sandbox {
            id: id.clone(),
            link,
            interpreter: adoption.interpreter.clone(),
            listener: listener
                .map_err(|error| no_loopback(&error))?
                .map(OwnedFd::from),
            uid: adoption.uid,
        })
    }

    async fn image_names(&self) -> Result<Vec<String>, Failure> {
        self.call(Step::Images).await?;
        Ok(self.own_names())
    }

    async fn remove_image(&self, name: &str) -> Result<(), Failure> {
        self.call(Step::RemoveImage).await?;
        self.remove_own(name)
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        self.call(Step::SetLimits).await?;
        let mut state = self.state();
        let Some(live) = state.live.get_mut(id) else {
            return Err(Failure::new(FailureKind::EngineRefused, "no such sandbox"));
        };
        if live.limits.replace(*limits) != Some(*limits) {
            state.set_limits_total += 1;
        }
        Ok(())
    }

    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure> {
        self.call(Step::Counters).await?;
        let state = self.state();
        let live = state.live.get(id);
        live.map(|live| live.counters)
            .ok_or_else(|| Failure::new(FailureKind::EngineRefused, "no such sandbox"))
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure> {
        self.call(Step::Destroy).await?;
        {
            let mut state = self.state();
            if state.live.remove(id).is_some() {
                state.destroyed_total += 1;
            }
        }
        self.call(Step::Destroyed).await
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        self.call(Step::List).await?;
        let state = self.state();
        let found = state.live.iter().map(|(id, live)| Found {
            id: id.clone(),
            daemon: live.daemon.clone(),
        });
        Ok(found.collect())
    }

    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool {
        !self.state().dead_daemons.contains(daemon)
    }

    async fn prepare(&self, _key: &SandboxKey, progress: Progress<'_>) -> Result<(), Failure> {
        self.call(Step::Prepare).await?;
        progress("nothing to build");
        Ok(())
    }

    async fn identity(&self, key: &SandboxKey) -> Result<String, Failure> {
        Ok(format!("{} {:?}", key.runtime, key.image))
    }

    async fn find_derived(
        &self,
        key: &SandboxKey,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        let name = derived_name(key, packages)?;
        let there = self.state().derived.contains(&name);
        Ok(there.then_some(name))
    }

    async fn derive_image(
        &self,
        key: &SandboxKey,
        packages: &[Package],
        _limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        self.call(Step::BuildImage).await?;
        progress("deriving");
        let name = derived_name(key, packages)?;
        self.state().derived.insert(name.clone());
        Ok(name)
    }

    async fn build_image(
        &self,
        runtime: Runtime,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.call(Step::BuildImage).await?;
        progress("step 1");
        let missing = self.state().removed.remove(&runtime);
        Ok(Built {
            image: image(runtime),
            built: force || missing,
        })
    }

    async fn build_custom(
        &self,
        order: &CustomOrder,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.call(Step::BuildImage).await?;
        progress("step 1");
        let mut image = image(order.runtime);
        image.tag += &format!("-custom-{}", self.state().customs.len());
        image.packages.clone_from(&order.packages);
        self.state().customs.push(image.clone());
        Ok(Built { image, built: true })
    }

    async fn find_custom(
        &self,
        runtime: Runtime,
        packages: &[Package],
        fit: Fit,
    ) -> Result<Option<ImageName>, Failure> {
        self.call(Step::Images).await?;
        let state = self.state();
        let found = state.customs.iter().find(|image| {
            let holds = |package: &Package| package.is_met_by(runtime, &image.packages);
            image.runtime == runtime
                && match fit {
                    Fit::Exactly => image.packages == packages,
                    Fit::AtLeast => packages.iter().all(holds),
                }
        });
        Ok(found.map(|image| ImageName::parse(&image.tag).expect("our own names are names")))
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        self.call(Step::Images).await?;
        let bases = Runtime::ALL.into_iter().map(image);
        Ok(bases.chain(self.state().customs.clone()).collect())
    }

    async fn doctor(&self) -> Vec<Probe> {
        vec![Probe {
            name: "fake engine".to_owned(),
            status: ProbeStatus::Ok,
            found: "nothing to look at".to_owned(),
            fix: String::new(),
        }]
    }
}

fn derived_name(key: &SandboxKey, packages: &[Package]) -> Result<ImageName, Failure> {
    let names: Vec<&str> = packages.iter().map(Package::as_str).collect();
    let name = format!("isol8:{}-{}", key.runtime, names.join("-"));
    ImageName::parse(&name).map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
}

fn image(runtime: Runtime) -> ImageInfo {
    ImageInfo {
        runtime,
        tag: format!("isol8:{runtime}"),
        id: format!("sha256:{runtime}"),
        size_bytes: 1 << 20,
        packages: Vec::new(),
    }
}
