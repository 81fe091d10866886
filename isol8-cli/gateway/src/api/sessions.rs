//! Sessions, their files, and the cleanup.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The body of `POST /file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "PutFileRequest")]
pub(crate) struct PutFileBody {
    #[schemars(regex(pattern = schema::SESSION_ID))]
    pub(crate) session_id: String,
    /// Below `/sandbox` or `/tmp`.
    #[schemars(regex(pattern = schema::PATH))]
    pub(crate) path: String,
    /// In base64.
    #[schemars(regex(pattern = schema::BASE64))]
    pub(crate) content: String,
}

/// A file, in base64.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "File")]
pub(crate) struct FileResult {
    pub(crate) content: String,
}

/// It is done.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Done {
    pub(crate) ok: bool,
}

/// The caller's sessions.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SessionList {
    pub(crate) sessions: Vec<SessionEntry>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Session")]
pub(crate) struct SessionEntry {
    pub(crate) id: String,
    pub(crate) runtime: String,
    /// A run or a copy goes on in it.
    pub(crate) is_active: bool,
    /// RFC 3339.
    pub(crate) last_accessed_at: String,
}

/// The body of `POST /cleanup`, which may be empty.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(rename = "CleanupRequest")]
pub(crate) struct CleanupBody {
    /// The images of isol8 too.
    pub(crate) images: bool,
}

/// How much was removed, and how much could not be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CleanupResult {
    pub(crate) removed: usize,
    pub(crate) failed: usize,
}
