//! What a client sends over a WebSocket.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ExecuteBody, Options, execute::Program, object, schema};

/// The first message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SocketStart {
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "it is read by being there")]
    kind: StartType,
    /// Without `stdin`, it comes in messages.
    #[serde(deserialize_with = "object::only")]
    request: Program,
    #[serde(default, deserialize_with = "object::only")]
    options: Options,
    #[schemars(regex(pattern = schema::SESSION_ID))]
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StartType {
    Execute,
}

impl SocketStart {
    /// What it asks for, and whether stdin comes in messages.
    pub(crate) fn split(self) -> (ExecuteBody, bool) {
        let is_live = self.request.stdin.is_none();
        let body = ExecuteBody {
            request: self.request,
            options: self.options,
            session_id: self.session_id,
        };
        (body, is_live)
    }
}

/// Every other message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum SocketInput {
    /// A piece of stdin.
    Stdin {
        #[serde(default)]
        data: String,
        /// Nothing comes after it.
        #[serde(default)]
        end: bool,
    },
    /// A signal for the program.
    Signal { signal: SocketSignal },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum SocketSignal {
    #[serde(rename = "SIGINT")]
    Interrupt,
    #[serde(rename = "SIGTERM")]
    Terminate,
}

impl SocketSignal {
    /// Its Linux number.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}
