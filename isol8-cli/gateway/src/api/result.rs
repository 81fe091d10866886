//! What a run ends with.

use std::collections::BTreeMap;

use isol8_core::egress::record::Record;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecutionResult {
    /// Not in the `exit` event of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout: Option<String>,
    /// All of stdout, where it was not valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_base64: Option<String>,
    /// Not in the `exit` event of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr: Option<String>,
    /// The program's own; 128+n for signal n, 137 for `timed_out` and
    /// `oom_killed`, 125 where it has none.
    pub(crate) exit_code: i32,
    pub(crate) verdict: Verdict,
    pub(crate) duration_ms: f64,
    pub(crate) truncated: bool,
    /// Empty, as `sandboxId`, where its time was over before it had a sandbox.
    pub(crate) execution_id: String,
    pub(crate) runtime: &'static str,
    /// When the run was asked for, RFC 3339.
    pub(crate) timestamp: String,
    pub(crate) sandbox_id: String,
    /// `unknown` where it had no sandbox.
    pub(crate) engine: &'static str,
    pub(crate) warm: bool,
    pub(crate) resource_usage: ResourceUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<NetworkLogEntry>>")]
    pub(crate) network_logs: Option<Vec<Record>>,
    /// What `outputPaths` named, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<BTreeMap<String, String>>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Exited,
    Signalled,
    TimedOut,
    OomKilled,
    Cancelled,
    SandboxLost,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceUsage {
    pub(crate) cpu_ms: f64,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) network_bytes_in: u64,
    pub(crate) network_bytes_out: u64,
}

/// One request of a filtered network.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "the schema of a type of isol8-core, which knows no schemas"
)]
pub(crate) struct NetworkLogEntry {
    timestamp: String,
    method: String,
    host: String,
    port: u16,
    path: Option<String>,
    action: String,
    reason: String,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: u64,
}
