//! What a stream is made of.

use schemars::JsonSchema;
use serde::Serialize;

use super::{ErrorBody, ExecutionResult};

/// One event of `/execute/stream`. The last one is `exit` or `error`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamEvent {
    #[serde(rename = "type")]
    pub(crate) kind: StreamEventType,
    /// A piece of output, the exit code, or what went wrong.
    pub(crate) data: String,
    /// The piece, where it is not valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_base64: Option<String>,
    pub(crate) phase: StreamPhase,
    /// Of `exit`: the result, without the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Box<ExecutionResult>>,
    /// Of `error`: what an answer without a stream would have had as its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Box<ErrorBody>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StreamEventType {
    Stdout,
    Stderr,
    Exit,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StreamPhase {
    Install,
    Setup,
    Code,
}
