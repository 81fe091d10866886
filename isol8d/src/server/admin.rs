//! `AdminService`: what the daemon is doing, and its end.

use std::{fs, sync::Arc, sync::atomic::Ordering};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::Principal,
    sandbox::EngineKind,
};
use isol8_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::principal;
use crate::{
    cleanup,
    convert::{self, engine_to_wire, runtime_to_wire},
    daemon::Daemon,
    doctor,
    pool::{KeyStatus, PoolStatus},
    status,
};

/// Warm sandboxes that one call may ask for.
const MAX_WARM: u32 = 64;

pub(super) struct Admin(pub(super) Arc<Daemon>);

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Resident memory of this process, in bytes; 0 where the kernel does not say.
fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

impl Admin {
    async fn status(&self, who: Principal) -> v1::StatusResponse {
        let daemon = &self.0;
        let pool = daemon.pool.status();
        let chosen = daemon.roster.choose(None, false).await.ok();
        let mut engines: Vec<_> = daemon
            .roster
            .engines()
            .keys()
            .map(|kind| self.engine_status(*kind, chosen, &pool))
            .collect();
        engines.extend(daemon.roster.absent().map(|(kind, why)| v1::EngineStatus {
            engine: engine_to_wire(kind).into(),
            detail: why.to_string(),
            ..Default::default()
        }));
        v1::StatusResponse {
            install_cache: Some(daemon.layers.status()),
            egress: Some(daemon.egress.status()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(daemon.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            engines,
            pools: pool.keys.iter().map(pool_status).collect(),
            sessions: daemon.sessions.list(who, false).await,
            runs_in_flight: count(daemon.gate.running()),
            runs_queued: count(daemon.gate.waiting()),
            max_concurrent: daemon.config.max_concurrent,
            runs_total: daemon.runs_total.load(Ordering::Relaxed),
            rss_bytes: rss_bytes(),
            socket: daemon.socket.display().to_string(),
            state_dir: daemon.state_dir.display().to_string(),
            config_source: daemon.config_source.clone(),
        }
    }

    fn engine_status(
        &self,
        kind: EngineKind,
        chosen: Option<EngineKind>,
        pool: &PoolStatus,
    ) -> v1::EngineStatus {
        let health = self.0.roster.health(kind);
        let (healthy, detail) = match health {
            Some(health) => (health.healthy, health.detail),
            None => (false, "it has not answered yet".to_owned()),
        };
        v1::EngineStatus {
            engine: engine_to_wire(kind).into(),
            healthy,
            detail,
            chosen: chosen == Some(kind),
            sandboxes: pool.live.get(&kind).copied().unwrap_or_default()
                + count(self.0.sessions.sandboxes(kind)),
        }
    }

    async fn warm(&self, asked: &v1::WarmRequest) -> Result<u32, Failure> {
        let daemon = &self.0;
        daemon.check_open()?;
        let runtime = convert::runtime(asked.runtime)?;
        let engine = convert::engine(asked.engine)?;
        if asked.count > MAX_WARM {
            return Err(convert::invalid(format!(
                "{} warm sandboxes are too many; the most is {MAX_WARM}",
                asked.count
            )));
        }
        let engine = daemon.roster.choose(engine, false).await?;
        let key = daemon.config.usual_key(engine, runtime);
        daemon.pool.warm(key, asked.count).await
    }
}

fn pool_status(status: &KeyStatus) -> v1::PoolStatus {
    let key = &status.key;
    let mut parts = vec![
        format!("net {}", key.network),
        format!("sandbox {}", key.sandbox_size),
        format!("tmp {}", key.tmp_size),
    ];
    parts.extend(key.image.iter().map(|image| format!("image {image}")));
    parts.extend(key.writable.then(|| "writable".to_owned()));
    let layer = key.layer.as_ref().map(|layer| &layer.as_str()[..8]);
    parts.extend(layer.map(|layer| format!("packages {layer}")));
    v1::PoolStatus {
        engine: engine_to_wire(key.engine).into(),
        runtime: runtime_to_wire(key.runtime).into(),
        key: parts.join(", "),
        warm: status.warm,
        target: status.target,
        making: status.making,
        hits: status.hits,
        misses: status.misses,
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let who = principal(&request).map_err(|failure| status::from_failure(&failure))?;
        Ok(Response::new(self.status(who).await))
    }

    async fn doctor(
        &self,
        request: Request<v1::DoctorRequest>,
    ) -> Result<Response<v1::DoctorResponse>, Status> {
        principal(&request).map_err(|failure| status::from_failure(&failure))?;
        let daemon = &self.0;
        let mut checks = doctor::host(
            &daemon.runtime_dir,
            &daemon.state_dir,
            &daemon.config_source,
        );
        checks.push(doctor::egress(daemon.egress.settings(), &daemon.state_dir).await);
        checks.extend(doctor::engines(&daemon.roster).await);
        Ok(Response::new(v1::DoctorResponse { checks }))
    }

    async fn warm(
        &self,
        request: Request<v1::WarmRequest>,
    ) -> Result<Response<v1::WarmResponse>, Status> {
        let warm = match principal(&request) {
            Ok(_) => self.warm(request.get_ref()).await,
            Err(failure) => Err(failure),
        };
        warm.map(|warm| Response::new(v1::WarmResponse { warm }))
            .map_err(|failure| status::from_failure(&failure))
    }

    async fn cleanup(
        &self,
        request: Request<v1::CleanupRequest>,
    ) -> Result<Response<v1::CleanupResponse>, Status> {
        let items = match principal(&request) {
            Ok(who) => cleanup::clean_up(&self.0, who, *request.get_ref()).await,
            Err(failure) => Err(failure),
        };
        items
            .map(|items| Response::new(v1::CleanupResponse { items }))
            .map_err(|failure| status::from_failure(&failure))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownResponse>, Status> {
        let principal = principal(&request).map_err(|failure| status::from_failure(&failure))?;
        if !cleanup::may_remove_everything(principal) {
            let message = "only root and the user of the daemon may stop it";
            let failure = Failure::new(FailureKind::Forbidden, message).hint("use `sudo`");
            return Err(status::from_failure(&failure));
        }
        tracing::info!(uid = principal.0, "a client asked to stop");
        self.0.stop();
        Ok(Response::new(v1::ShutdownResponse {}))
    }
}
