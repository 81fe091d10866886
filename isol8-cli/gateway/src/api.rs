//! The JSON of the HTTP API: every type here is also a schema of `/openapi.json`.

mod events;
mod execute;
mod object;
mod result;
pub(crate) mod schema;
mod sessions;
mod socket;
mod variables;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use events::{StreamEvent, StreamEventType, StreamPhase};
pub(crate) use execute::{ExecuteBody, FileContent, NetworkName, Options};
pub(crate) use object::Object;
pub(crate) use result::{ExecutionResult, ResourceUsage, Verdict};
pub(crate) use sessions::{
    CleanupBody, CleanupResult, Done, FileResult, PutFileBody, SessionEntry, SessionList,
};
pub(crate) use socket::{SocketInput, SocketStart};

/// Every error.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    /// What happened; it names the field that is wrong.
    pub(crate) error: String,
    /// A stable name of its class, such as `session_busy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Causes, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// The answer of `/health`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) version: String,
}

/// An answer with this value.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("our own values are JSON");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
