//! `isol8 status`.

use std::time::Duration;

use isol8_core::failure::Failure;
use isol8_proto::v1::{
    EgressStatus, EngineStatus, InstallCache, PoolStatus, StatusRequest, StatusResponse,
    admin_service_client::AdminServiceClient,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    answer_json, session,
    table::{print, span, table},
};
use crate::{
    connect::{self, ANSWER_TIMEOUT, Link, no_daemon, silent, unwanted},
    console::Console,
    exit::Exit,
    paths::Paths,
    report,
};

/// Shows what the daemon does. Starts none.
pub(super) async fn status(json: bool, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let link = connect::dial(paths, console).await?;
    let link = link.ok_or_else(|| no_daemon(paths))?;
    let status = ask(&link).await?;
    if let Some(warning) = version_warning(&status.version) {
        console.warning(&warning);
    }
    if json {
        return answer_json(&to_json(&status));
    }
    let mut parts = vec![summary(&status), engines(&status.engines)];
    if !status.pools.is_empty() {
        parts.push(pools(&status.pools));
    }
    if let Some(cache) = status.install_cache.filter(is_used) {
        parts.push(install_cache(&cache));
    }
    if let Some(egress) = status.egress.filter(was_started) {
        parts.push(egress_process(&egress));
    }
    if !status.sessions.is_empty() {
        parts.push(session::of(&status.sessions));
    }
    print(&parts)
}

/// Asks the daemon.
///
/// # Errors
/// It does not answer in time.
pub(super) async fn ask(link: &Link) -> Result<StatusResponse, Failure> {
    let mut client = AdminServiceClient::new(link.channel.clone());
    let answer = timeout(ANSWER_TIMEOUT, client.status(StatusRequest {})).await;
    let answer = answer.map_err(|_| silent(link))?;
    Ok(answer.map_err(|status| unwanted(&status))?.into_inner())
}

/// For a daemon that is not of our version.
pub(super) fn version_warning(daemon: &str) -> Option<String> {
    let own = env!("CARGO_PKG_VERSION");
    (daemon != own).then(|| {
        format!(
            "the daemon is version {daemon} and this is {own}; `isol8 daemon stop` ends the old one"
        )
    })
}

fn summary(status: &StatusResponse) -> String {
    let uptime = Duration::from_secs(status.uptime_ms / 1000);
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = vec![
        row("pid", status.pid.to_string()),
        row("up", span(uptime)),
        row("socket", status.socket.clone()),
        row("state", status.state_dir.clone()),
        row("configuration", status.config_source.clone()),
        row("memory", format!("{} MiB", status.rss_bytes >> 20)),
        row(
            "runs",
            format!(
                "{} of {} in flight, {} queued, {} so far",
                status.runs_in_flight, status.max_concurrent, status.runs_queued, status.runs_total
            ),
        ),
    ];
    table(&["isol8d", &status.version], rows)
}

fn engines(engines: &[EngineStatus]) -> String {
    let rows = engines
        .iter()
        .map(|engine| {
            let health = if engine.healthy {
                "healthy"
            } else {
                "unhealthy"
            };
            vec![
                report::engine(engine.engine()).to_owned(),
                health.to_owned(),
                if engine.chosen { "auto" } else { "" }.to_owned(),
                engine.sandboxes.to_string(),
                engine.detail.clone(),
            ]
        })
        .collect();
    table(&["engine", "health", "chosen", "sandboxes", "detail"], rows)
}

fn pools(pools: &[PoolStatus]) -> String {
    let rows = pools
        .iter()
        .map(|pool| {
            vec![
                report::engine(pool.engine()).to_owned(),
                report::runtime(pool.runtime()).to_owned(),
                pool.key.clone(),
                pool.warm.to_string(),
                pool.target.to_string(),
                pool.making.to_string(),
                pool.hits.to_string(),
                pool.misses.to_string(),
            ]
        })
        .collect();
    let header = [
        "pool", "runtime", "key", "warm", "target", "making", "hits", "misses",
    ];
    table(&header, rows)
}

fn is_used(cache: &InstallCache) -> bool {
    cache.layers > 0 || cache.hits > 0 || cache.misses > 0
}

fn install_cache(cache: &InstallCache) -> String {
    let row = vec![
        format!("{} layers", cache.layers),
        format!(
            "{} of {} MiB",
            cache.bytes.div_ceil(1 << 20),
            cache.limit_bytes >> 20
        ),
        cache.hits.to_string(),
        cache.misses.to_string(),
    ];
    table(&["install cache", "size", "hits", "misses"], vec![row])
}

fn was_started(egress: &EgressStatus) -> bool {
    egress.running || egress.restarts > 0
}

fn egress_process(egress: &EgressStatus) -> String {
    let state = if egress.running { "running" } else { "stopped" };
    let row = vec![
        state.to_owned(),
        egress.sandboxes.to_string(),
        egress.restarts.to_string(),
    ];
    table(&["egress", "sandboxes", "restarts"], vec![row])
}

fn to_json(status: &StatusResponse) -> Value {
    let engine = |engine: &EngineStatus| {
        json!({
            "engine": report::engine(engine.engine()),
            "healthy": engine.healthy,
            "detail": engine.detail,
            "chosen": engine.chosen,
            "sandboxes": engine.sandboxes,
        })
    };
    let pool = |pool: &PoolStatus| {
        json!({
            "engine": report::engine(pool.engine()),
            "runtime": report::runtime(pool.runtime()),
            "key": pool.key,
            "warm": pool.warm,
            "target": pool.target,
            "making": pool.making,
            "hits": pool.hits,
            "misses": pool.misses,
        })
    };
    let cache = |cache: &InstallCache| {
        json!({
            "layers": cache.layers,
            "bytes": cache.bytes,
            "limitBytes": cache.limit_bytes,
            "hits": cache.hits,
            "misses": cache.misses,
        })
    };
    let egress = |egress: &EgressStatus| {
        json!({
            "running": egress.running,
            "sandboxes": egress.sandboxes,
            "restarts": egress.restarts,
        })
    };
    json!({
        "version": status.version,
        "pid": status.pid,
        "uptimeMs": status.uptime_ms,
        "engines": status.engines.iter().map(engine).collect::<Vec<_>>(),
        "pools": status.pools.iter().map(pool).collect::<Vec<_>>(),
        "sessions": status.sessions.iter().map(session::to_json).collect::<Vec<_>>(),
        "installCache": status.install_cache.as_ref().map(cache),
        "egress": status.egress.as_ref().map(egress),
        "runsInFlight": status.runs_in_flight,
        "runsQueued": status.runs_queued,
        "maxConcurrent": status.max_concurrent,
        "runsTotal": status.runs_total,
        "rssBytes": status.rss_bytes,
        "socket": status.socket,
        "stateDir": status.state_dir,
        "configSource": status.config_source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_used_is_not_shown() {
        assert!(!is_used(&InstallCache::default()));
        let limit_bytes = 1;
        assert!(!is_used(&InstallCache {
            limit_bytes,
            ..InstallCache::default()
        }));
        assert!(!was_started(&EgressStatus::default()));
        let stopped = EgressStatus {
            restarts: 1,
            ..EgressStatus::default()
        };
        assert!(was_started(&stopped));
        assert!(egress_process(&stopped).contains("stopped"));
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(version_warning(env!("CARGO_PKG_VERSION")), None);
        let warning = version_warning("9.9.9").expect("it differs");
        assert!(warning.contains("9.9.9"), "{warning}");
    }
}
