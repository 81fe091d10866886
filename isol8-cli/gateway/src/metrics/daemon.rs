//! The daemon's status as Prometheus text.

use std::fmt::Display;

use isol8_proto::v1::{PoolStatus, StatusResponse};

use super::{family, gauge, line};
use crate::outcome::engine;

/// `None` where the daemon does not answer: that is a value as well.
pub(crate) fn of_daemon(status: Option<&StatusResponse>) -> String {
    let mut text = String::new();
    let up = i32::from(status.is_some());
    gauge(
        &mut text,
        "isol8_daemon_up",
        "Whether the daemon answers.",
        &up,
    );
    let Some(status) = status else { return text };
    let count = status
        .sessions
        .iter()
        .filter(|session| !session.name.is_empty())
        .count();
    let gauges: [(&str, &str, &dyn Display); 6] = [
        (
            "isol8_daemon_runs_in_flight",
            "Runs that go on.",
            &status.runs_in_flight,
        ),
        (
            "isol8_daemon_runs_queued",
            "Runs that wait.",
            &status.runs_queued,
        ),
        (
            "isol8_daemon_max_concurrent",
            "Runs that may go on at once.",
            &status.max_concurrent,
        ),
        (
            "isol8_daemon_sessions",
            "Sessions of the gateway's user.",
            &count,
        ),
        (
            "isol8_daemon_resident_bytes",
            "Resident memory.",
            &status.rss_bytes,
        ),
        (
            "isol8_daemon_uptime_milliseconds",
            "Since its start.",
            &status.uptime_ms,
        ),
    ];
    for (name, help, value) in gauges {
        gauge(&mut text, name, help, value);
    }
    family(
        &mut text,
        "isol8_daemon_runs_total",
        "counter",
        "Runs since its start.",
    );
    line(
        &mut text,
        "isol8_daemon_runs_total",
        &[],
        &status.runs_total,
    );
    family(
        &mut text,
        "isol8_daemon_engine_healthy",
        "gauge",
        "Whether an engine answers.",
    );
    for one in &status.engines {
        let labels = [("engine", engine(one.engine()))];
        line(
            &mut text,
            "isol8_daemon_engine_healthy",
            &labels,
            &i32::from(one.healthy),
        );
    }
    pools(&mut text, &status.pools);
    text
}

fn pools(text: &mut String, pools: &[PoolStatus]) {
    type Of = fn(&PoolStatus) -> u64;
    let families: [(&str, &str, &str, Of); 5] = [
        (
            "isol8_daemon_pool_warm",
            "gauge",
            "Warm sandboxes.",
            |pool| pool.warm.into(),
        ),
        (
            "isol8_daemon_pool_target",
            "gauge",
            "Wanted ones.",
            |pool| pool.target.into(),
        ),
        ("isol8_daemon_pool_making", "gauge", "Being made.", |pool| {
            pool.making.into()
        }),
        (
            "isol8_daemon_pool_hits_total",
            "counter",
            "Runs that found one.",
            |pool| pool.hits,
        ),
        (
            "isol8_daemon_pool_misses_total",
            "counter",
            "Runs that did not.",
            |pool| pool.misses,
        ),
    ];
    for (name, kind, help, of) in families {
        family(text, name, kind, help);
        for pool in pools {
            let runtime = pool
                .runtime()
                .as_str_name()
                .replace("RUNTIME_", "")
                .to_lowercase();
            let labels = [
                ("engine", engine(pool.engine())),
                ("runtime", &*runtime),
                ("key", &*pool.key),
            ];
            line(text, name, &labels, &of(pool));
        }
    }
}
