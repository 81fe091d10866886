//! The engines of this daemon: which there are, how they are, which one serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use isol8_core::{
    config::EngineChoice,
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    layer::LayerId,
    outcome::Counters,
    package::Package,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, SandboxKey, SandboxSpec},
};
use isol8_engine::{
    Adoption, Built, CustomOrder, Engine, Fit, Found, Health, ImageInfo, Probe, Progress, Sandbox,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{convert::image_needs_docker, pool::Engines};

/// A healthy engine is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// An engine that does not answer is asked again sooner, then less and less.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// An engine bounds its own answer to 2 s; this holds if it does not.
const HEALTH_DEADLINE: Duration = Duration::from_secs(3);

/// Sandboxes that this process is making or has made and not yet tried to
/// destroy, with the layer that each mounts. What an engine shows beyond them is
/// nobody's.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<SandboxId, Option<LayerId>>>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Option<LayerId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells which layers sandboxes mount. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Mounted(Arc<Known>);

impl Mounted {
    /// Those of every sandbox that exists or is being made.
    #[must_use]
    pub fn layers(&self) -> BTreeSet<LayerId> {
        self.0.lock().values().flatten().cloned().collect()
    }
}

/// Every engine, with its health.
#[derive(Debug)]
pub struct Roster {
    engines: Engines,
    known: Arc<Known>,
    health: BTreeMap<EngineKind, watch::Sender<Option<Health>>>,
    absent: BTreeMap<EngineKind, Failure>,
    choice: EngineChoice,
    heard: Notify,
}

impl Roster {
    /// `choice` serves runs that name no engine.
    #[must_use]
    pub fn new(engines: impl IntoIterator<Item = Arc<dyn Engine>>, choice: EngineChoice) -> Self {
        let known = Arc::new(Known::default());
        let engines: Engines = engines
            .into_iter()
            .map(|inner| {
                let known = Arc::clone(&known);
                let noting: Arc<dyn Engine> = Arc::new(Noting { inner, known });
                (noting.kind(), noting)
            })
            .collect();
        Self {
            health: engines
                .keys()
                .map(|kind| (*kind, watch::Sender::new(None)))
                .collect(),
            engines,
            known,
            absent: BTreeMap::new(),
            choice,
            heard: Notify::new(),
        }
    }

    /// Remembers why there is no engine of this kind.
    #[must_use]
    pub fn without(mut self, kind: EngineKind, why: Failure) -> Self {
        self.absent.insert(kind, why);
        self
    }

    /// Engines that this daemon could not set up, and why.
    pub fn absent(&self) -> impl Iterator<Item = (EngineKind, &Failure)> {
        self.absent.iter().map(|(kind, why)| (*kind, why))
    }

    /// The engines, for the pool.
    #[must_use]
    pub fn engines(&self) -> &Engines {
        &self.engines
    }

    /// The engine of this kind.
    ///
    /// # Errors
    /// Why this daemon has none.
    pub fn engine(&self, kind: EngineKind) -> Result<&Arc<dyn Engine>, Failure> {
        self.engines.get(&kind).ok_or_else(|| {
            let why = self.absent.get(&kind).cloned();
            why.unwrap_or_else(|| {
                let message = format!("this daemon has no {kind} engine");
                Failure::new(FailureKind::Unsupported, message)
            })
        })
    }

    /// Whether this process answers for a sandbox.
    #[must_use]
    pub fn knows(&self, id: &SandboxId) -> bool {
        self.known.lock().contains_key(id)
    }

    /// Answers for a sandbox of an earlier process, which is going to be adopted.
    pub fn answer_for(&self, spec: &SandboxSpec) {
        let layer = spec.key.layer.clone();
        self.known.lock().insert(spec.id.clone(), layer);
    }

    /// Which layers are mounted, now and later.
    #[must_use]
    pub fn mounted(&self) -> Mounted {
        Mounted(Arc::clone(&self.known))
    }

    /// What was last heard from an engine; `None` before its first answer.
    #[must_use]
    pub fn health(&self, kind: EngineKind) -> Option<Health> {
        self.health.get(&kind)?.borrow().clone()
    }

    /// The engine that serves a request. Waits for an engine's first answer, and
    /// for nothing else.
    ///
    /// # Errors
    /// `Unsupported` when this daemon does not have it, `EngineUnreachable` when
    /// only Docker can serve and does not answer.
    pub async fn choose(
        &self,
        asked: Option<EngineKind>,
        image: bool,
    ) -> Result<EngineKind, Failure> {
        let only = match (asked, self.choice) {
            (Some(kind), _) | (None, EngineChoice::Only(kind)) => Some(kind),
            (None, EngineChoice::Auto) => None,
        };
        let kind = match only {
            Some(kind) => kind,
            None if image => EngineKind::Docker,
            None => self.auto().await,
        };
        if image && kind == EngineKind::Native {
            return Err(image_needs_docker());
        }
        self.engine(kind)?;
        Ok(kind)
    }

    /// Docker where it answers, else native.
    async fn auto(&self) -> EngineKind {
        let Some(docker) = self.health.get(&EngineKind::Docker) else {
            return EngineKind::Native;
        };
        if !self.engines.contains_key(&EngineKind::Native) {
            return EngineKind::Docker;
        }
        let mut docker = docker.subscribe();
        let heard = docker.wait_for(Option::is_some).await;
        match heard.as_deref() {
            Ok(Some(health)) if health.healthy => EngineKind::Docker,
            _ => EngineKind::Native,
        }
    }

    /// Whether a run that names no engine can be served; `None` while that is
    /// not known.
    #[must_use]
    pub fn can_serve(&self) -> Option<bool> {
        let healthy = |kind| self.health(kind).map(|health| health.healthy);
        match self.choice {
            EngineChoice::Only(kind) => healthy(kind).or_else(|| {
                let missing = !self.engines.contains_key(&kind);
                missing.then_some(false)
            }),
            EngineChoice::Auto => {
                let heard: Vec<_> = self.engines.keys().map(|kind| healthy(*kind)).collect();
                if heard.contains(&Some(true)) {
                    Some(true)
                } else if heard.contains(&None) {
                    None
                } else {
                    Some(false)
                }
            }
        }
    }

    /// Asks an engine how it is, now, and remembers the answer.
    pub async fn ask(&self, kind: EngineKind) -> Option<Health> {
        let engine = self.engines.get(&kind)?;
        let heard = timeout(HEALTH_DEADLINE, engine.health()).await;
        let heard = heard.unwrap_or_else(|_| Health {
            healthy: false,
            detail: "it does not answer".to_owned(),
        });
        let sender = self.health.get(&kind)?;
        let before = sender.send_replace(Some(heard.clone()));
        self.heard.notify_one();
        if before.is_none_or(|before| before.healthy != heard.healthy) {
            tracing::info!(engine = %kind, healthy = heard.healthy, detail = heard.detail, "engine health");
        }
        Some(heard)
    }

    /// Waits until an engine has answered since the last call. For one task.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }

    /// Keeps asking an engine how it is until `stop`.
    pub async fn watch(&self, kind: EngineKind, stop: &CancellationToken) {
        let mut pause = FIRST_RETRY;
        loop {
            let heard = self.ask(kind).await;
            pause = match heard {
                Some(Health { healthy: true, .. }) => ASK_AGAIN,
                _ => (pause * 2).min(ASK_AGAIN),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            if heard.is_some_and(|heard| heard.healthy) {
                pause = FIRST_RETRY;
            }
        }
    }
}

/// An engine whose sandboxes are noted before they are made.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Engine>,
    known: Arc<Known>,
}

/// Forgets a sandbox that did not come to be, also when its making is dropped.
struct Note<'a> {
    known: &'a Known,
    id: Option<SandboxId>,
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.known.lock().remove(id);
        }
    }
}

#[async_trait]
impl Engine for Noting {
    fn kind(&self) -> EngineKind {
        self.inner.kind()
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure> {
        let layer = spec.key.layer.clone();
        self.known.lock().insert(spec.id.clone(), layer);
        let mut note = Note {
            known: &self.known,
            id: Some(spec.id.clone()),
        };
        let sandbox = self.inner.create(spec).await?;
        note.id = None;
        Ok(sandbox)
    }

    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        // Answered for until it is destroyed, also where it cannot be had now.
        let layer = adoption.spec.key.layer.clone();
        self.known.lock().insert(adoption.spec.id.clone(), layer);
        self.inner.adopt(adoption).await
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        self.inner.set_limits(id, limits).await
    }

    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure> {
        self.inner.counters(id).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure> {
        // Forgotten whatever comes out: where this fails or is dropped, the sweep
        // tries again.
        let _note = Note {
            known: &self.known,
            id: Some(id.clone()),
        };
        self.inner.destroy(id).await
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        self.inner.list().await
    }

    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool {
        self.inner.daemon_is_alive(daemon).await
    }

    async fn prepare(&self, key: &SandboxKey, progress: Progress<'_>) -> Result<(), Failure> {
        self.inner.prepare(key, progress).await
    }

    async fn identity(&self, key: &SandboxKey) -> Result<String, Failure> {
        self.inner.identity(key).await
    }

    async fn find_derived(
        &self,
        key: &SandboxKey,
        packages: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        self.inner.find_derived(key, packages).await
    }

    async fn derive_image(
        &self,
        key: &SandboxKey,
        packages: &[Package],
        limits: &Limits,
        progress: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        self.inner
            .derive_image(key, packages, limits, progress)
            .await
    }

    async fn build_image(
        &self,
        runtime: Runtime,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.inner.build_image(runtime, force, progress).await
    }

    async fn build_custom(
        &self,
        order: &CustomOrder,
        progress: Progress<'_>,
    ) -> Result<Built, Failure> {
        self.inner.build_custom(order, progress).await
    }

    async fn find_custom(
        &self,
        runtime: Runtime,
        packages: &[Package],
        fit: Fit,
    ) -> Result<Option<ImageName>, Failure> {
        self.inner.find_custom(runtime, packages, fit).await
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        self.inner.images().await
    }

    async fn image_names(&self) -> Result<Vec<String>, Failure> {
        self.inner.image_names().await
    }

    async fn remove_image(&self, name: &str) -> Result<(), Failure> {
        self.inner.remove_image(name).await
    }

    async fn doctor(&self) -> Vec<Probe> {
        self.inner.doctor().await
    }
}

#[cfg(test)]
mod tests {
    use isol8_engine::fake::{FakeEngine, Fault, Step};

    use super::*;

    fn roster(choice: EngineChoice) -> (Roster, FakeEngine, FakeEngine) {
        let daemon = DaemonId::random();
        let docker = FakeEngine::new(EngineKind::Docker, daemon.clone());
        let native = FakeEngine::new(EngineKind::Native, daemon);
        let engines: [Arc<dyn Engine>; 2] = [Arc::new(docker.clone()), Arc::new(native.clone())];
        (Roster::new(engines, choice), docker, native)
    }

    #[tokio::test(start_paused = true)]
    async fn auto_is_docker_where_it_answers() {
        let (roster, docker, _) = roster(EngineChoice::Auto);
        assert_eq!(roster.can_serve(), None);
        roster.ask(EngineKind::Docker).await;
        assert_eq!(roster.choose(None, false).await, Ok(EngineKind::Docker));
        docker.plan(Step::Health, Fault::Hang);
        roster.ask(EngineKind::Docker).await;
        assert_eq!(roster.choose(None, false).await, Ok(EngineKind::Native));
        assert_eq!(roster.can_serve(), None, "native has not answered");
        let asked = Some(EngineKind::Docker);
        assert_eq!(roster.choose(asked, false).await, Ok(EngineKind::Docker));
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_is_dockers() {
        let (auto, ..) = roster(EngineChoice::Auto);
        assert_eq!(auto.choose(None, true).await, Ok(EngineKind::Docker));
        let (native, ..) = roster(EngineChoice::Only(EngineKind::Native));
        let failure = native
            .choose(None, true)
            .await
            .expect_err("it has no images");
        assert_eq!(failure.kind, FailureKind::Unsupported);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_is_asked_until_it_answers() {
        let (roster, docker, _) = roster(EngineChoice::Only(EngineKind::Docker));
        docker.plan_always(Step::Health, Fault::refuse());
        let stop = CancellationToken::new();
        let watch = roster.watch(EngineKind::Docker, &stop);
        let _stopped = timeout(Duration::from_secs(60), watch).await;
        let asked = docker.steps().len();
        assert_eq!(roster.can_serve(), Some(false));
        assert!((7..=12).contains(&asked), "{asked} questions in a minute");
    }
}
