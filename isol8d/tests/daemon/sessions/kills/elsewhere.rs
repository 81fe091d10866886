//! Engines whose sandboxes live in another runtime than the daemon that asks for
//! them.

use std::sync::Arc;

use async_trait::async_trait;
use isol8_core::{
    failure::Failure,
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    package::Package,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, SandboxKey, SandboxSpec},
};
use isol8_engine::{
    Adoption, Built, CustomOrder, Engine, Fit, Found, Health, ImageInfo, Probe, Progress, Sandbox,
    fake::FakeEngine,
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::stage::Ground;

pub(super) fn engines(ground: &Ground, home: &Handle) -> [Arc<dyn Engine>; 2] {
    [&ground.native, &ground.docker].map(|inner| {
        let engine = Elsewhere {
            inner: inner.clone(),
            home: home.clone(),
        };
        Arc::new(engine) as Arc<dyn Engine>
    })
}

#[derive(Debug)]
struct Elsewhere {
    inner: FakeEngine,
    home: Handle,
}

const UNASKED: &str = "nothing is installed or built in these tests";

#[async_trait]
impl Engine for Elsewhere {
    fn kind(&self) -> EngineKind {
        self.inner.kind()
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, Failure> {
        let (inner, spec) = (self.inner.clone(), spec.clone());
        let created = self.home.spawn(async move { inner.create(&spec).await });
        // It goes with who asked for it, wherever it is.
        AbortOnDropHandle::new(created).await.expect("no panic")
    }

    async fn adopt(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        self.inner.adopt(adoption).await
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        self.inner.set_limits(id, limits).await
    }

    async fn counters(&self, id: &SandboxId) -> Result<Counters, Failure> {
        self.inner.counters(id).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), Failure> {
        self.inner.destroy(id).await
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        self.inner.list().await
    }

    async fn daemon_is_alive(&self, daemon: &DaemonId) -> bool {
        self.inner.daemon_is_alive(daemon).await
    }

    async fn prepare(&self, _: &SandboxKey, _: Progress<'_>) -> Result<(), Failure> {
        unreachable!("{UNASKED}")
    }

    async fn identity(&self, _: &SandboxKey) -> Result<String, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn find_derived(
        &self,
        _: &SandboxKey,
        _: &[Package],
    ) -> Result<Option<ImageName>, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn derive_image(
        &self,
        _: &SandboxKey,
        _: &[Package],
        _: &Limits,
        _: Progress<'_>,
    ) -> Result<ImageName, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn build_image(&self, _: Runtime, _: bool, _: Progress<'_>) -> Result<Built, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn build_custom(&self, _: &CustomOrder, _: Progress<'_>) -> Result<Built, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn find_custom(
        &self,
        _: Runtime,
        _: &[Package],
        _: Fit,
    ) -> Result<Option<ImageName>, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn image_names(&self) -> Result<Vec<String>, Failure> {
        unreachable!("{UNASKED}")
    }

    async fn remove_image(&self, _: &str) -> Result<(), Failure> {
        unreachable!("{UNASKED}")
    }

    async fn doctor(&self) -> Vec<Probe> {
        unreachable!("{UNASKED}")
    }
}
