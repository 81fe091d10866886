//! The result object that `--json` prints and the gateway will answer with.

use data_encoding::BASE64;
use isol8_core::{egress::record::Record, runtime::Runtime};
use isol8_proto::v1::{Engine, Runtime as WireRuntime, Verdict};
use jiff::Timestamp;
use serde::Serialize;

use super::Conclusion;
use crate::run::Finished;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultObject<'a> {
    stdout: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    stderr: &'a str,
    exit_code: u8,
    verdict: &'static str,
    duration_ms: f64,
    truncated: bool,
    execution_id: &'a str,
    runtime: &'static str,
    timestamp: String,
    sandbox_id: &'a str,
    engine: &'static str,
    warm: bool,
    resource_usage: ResourceUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_logs: Option<&'a [Record]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceUsage {
    cpu_ms: f64,
    peak_memory_bytes: u64,
    network_bytes_in: u64,
    network_bytes_out: u64,
}

/// One line of JSON. `started` is when the run was sent.
pub(crate) fn result_object(
    finished: &Finished,
    conclusion: &Conclusion,
    started: Timestamp,
) -> Vec<u8> {
    let Finished {
        accepted,
        exited,
        written,
        network,
    } = finished;
    let usage = exited.usage.unwrap_or_default();
    let stdout = String::from_utf8_lossy(&written.stdout);
    let valid = matches!(stdout, std::borrow::Cow::Borrowed(_));
    let object = ResultObject {
        stdout: &stdout,
        stdout_base64: (!valid).then(|| BASE64.encode(&written.stdout)),
        stderr: &String::from_utf8_lossy(&written.stderr),
        exit_code: conclusion.exit.code(),
        verdict: verdict(exited.verdict()),
        duration_ms: milliseconds(usage.wall_us),
        truncated: exited.stdout_truncated || exited.stderr_truncated,
        execution_id: &accepted.run_id,
        runtime: runtime(accepted.runtime()),
        timestamp: format!("{started:.3}"),
        sandbox_id: &accepted.sandbox_id,
        engine: engine(accepted.engine()),
        warm: accepted.warm,
        resource_usage: ResourceUsage {
            cpu_ms: milliseconds(usage.cpu_us),
            peak_memory_bytes: usage.peak_memory_bytes,
            // Through the filter: with the host's network nobody counts.
            network_bytes_in: usage.network_bytes_in,
            network_bytes_out: usage.network_bytes_out,
        },
        network_logs: network.as_deref(),
    };
    let mut text = serde_json::to_vec(&object).expect("strings and numbers are JSON");
    text.push(b'\n');
    text
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a run of 285 years would be rounded to the microsecond"
)]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "unknown",
        Verdict::Exited => "exited",
        Verdict::Signalled => "signalled",
        Verdict::TimedOut => "timed_out",
        Verdict::OomKilled => "oom_killed",
        Verdict::Cancelled => "cancelled",
        Verdict::SandboxLost => "sandbox_lost",
    }
}

/// The runtime's name, for people and JSON alike.
pub(crate) fn runtime(runtime: WireRuntime) -> &'static str {
    match runtime {
        WireRuntime::Unspecified => "unknown",
        WireRuntime::Python => Runtime::Python.name(),
        WireRuntime::Node => Runtime::Node.name(),
        WireRuntime::Bun => Runtime::Bun.name(),
        WireRuntime::Deno => Runtime::Deno.name(),
        WireRuntime::Bash => Runtime::Bash.name(),
    }
}

/// The engine's name, for people and JSON alike.
pub(crate) fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::Unspecified => "unknown",
        Engine::Docker => "docker",
        Engine::Native => "native",
    }
}
