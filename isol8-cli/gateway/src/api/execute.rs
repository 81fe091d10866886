//! What `/execute` takes.

use std::collections::BTreeMap;

use isol8_core::quantity::Pids;
use isol8_proto::v1::Runtime;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::{object, schema, variables};

/// The body of `/execute` and `/execute/stream`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ExecuteRequest")]
pub(crate) struct ExecuteBody {
    #[serde(deserialize_with = "object::only")]
    pub(crate) request: Program,
    #[serde(default, deserialize_with = "object::only")]
    pub(crate) options: Options,
    /// Run in the caller's session of this id, which is made if it is not there:
    /// 1 to 46 letters, digits and `._-`.
    #[schemars(regex(pattern = schema::SESSION_ID))]
    pub(crate) session_id: Option<String>,
}

/// The program, and what it finds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Program {
    pub(crate) code: String,
    pub(crate) runtime: RuntimeName,
    /// Milliseconds for install, setup and run together; before that of `options`.
    #[schemars(range(min = 1, max = schema::MAX_TIMEOUT_MS))]
    pub(crate) timeout_ms: Option<u64>,
    #[serde(default, deserialize_with = "variables::read")]
    #[schemars(extend("propertyNames" = {"pattern": variables::NAME}))]
    pub(crate) env: BTreeMap<String, String>,
    /// Extension of the program's file, with or without the dot.
    #[schemars(regex(pattern = schema::EXTENSION))]
    pub(crate) file_extension: Option<String>,
    pub(crate) stdin: Option<String>,
    /// Files to write before the program starts, by their path below `/sandbox` or
    /// `/tmp`.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"pattern": schema::PATH}))]
    pub(crate) files: BTreeMap<String, FileContent>,
    /// Files and folders to send back when it has ended. What is not there is left
    /// out.
    #[serde(default)]
    #[schemars(inner(regex(pattern = schema::PATH)))]
    pub(crate) output_paths: Vec<String>,
    #[serde(default)]
    pub(crate) install_packages: Vec<String>,
    /// The caller's own notes. They stand in the gateway's log, with the run's id.
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
}

/// What is in a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or {\"base64\": …}")]
pub(crate) enum FileContent {
    Text(String),
    Bytes(#[serde(deserialize_with = "object::only")] Base64Content),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base64Content {
    #[schemars(regex(pattern = schema::BASE64))]
    pub(crate) base64: String,
}

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Runtime")]
pub(crate) enum RuntimeName {
    Python,
    Node,
    Bun,
    Deno,
    Bash,
}

impl RuntimeName {
    pub(crate) const fn wire(self) -> Runtime {
        match self {
            Self::Python => Runtime::Python,
            Self::Node => Runtime::Node,
            Self::Bun => Runtime::Bun,
            Self::Deno => Runtime::Deno,
            Self::Bash => Runtime::Bash,
        }
    }
}

/// How it runs. What is left out is the daemon's default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Options {
    pub(crate) network: Option<NetworkName>,
    #[serde(deserialize_with = "object::maybe")]
    pub(crate) network_filter: Option<NetworkFilter>,
    /// Cores, fractions allowed.
    #[schemars(range(min = 0.01, max = 1024.0))]
    pub(crate) cpu_limit: Option<Number>,
    /// Such as `512m`; 6m is the least.
    #[schemars(regex(pattern = schema::SIZE))]
    pub(crate) memory_limit: Option<String>,
    #[schemars(range(min = 1, max = Pids::MAX))]
    pub(crate) pids_limit: Option<u32>,
    pub(crate) readonly_root_fs: Option<bool>,
    /// Bytes per stream.
    #[schemars(range(min = 1, max = schema::MAX_OUTPUT_BYTES))]
    pub(crate) max_output_size: Option<u64>,
    /// Environment variables whose values are masked in everything that leaves.
    #[serde(deserialize_with = "variables::read")]
    #[schemars(extend("propertyNames" = {"pattern": variables::NAME}))]
    pub(crate) secrets: BTreeMap<String, String>,
    #[schemars(range(min = 1, max = schema::MAX_TIMEOUT_MS))]
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) image: Option<String>,
    #[schemars(regex(pattern = schema::SIZE))]
    pub(crate) sandbox_size: Option<String>,
    #[schemars(regex(pattern = schema::SIZE))]
    pub(crate) tmp_size: Option<String>,
    /// Keep the sandbox after the run.
    pub(crate) persist: bool,
    /// Tell the requests of a filtered network in `networkLogs`.
    pub(crate) log_network: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Network")]
pub(crate) enum NetworkName {
    None,
    Host,
    Filtered,
}

/// Regular expressions over host names. A list that is left out is the daemon's.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct NetworkFilter {
    /// If not empty, one must match the whole name.
    pub(crate) whitelist: Option<Vec<String>>,
    /// None may match anywhere in the name.
    pub(crate) blacklist: Option<Vec<String>>,
}
