//! What is recorded, before it is a line. Everything is owned: the thread makes
//! the lines, so that masking and hashing 16 MiB of program keep no run waiting.

use isol8_core::{
    egress::record::Record,
    failure::Failure,
    ids::{Principal, RunId, SandboxId},
    mask::Secrets,
    outcome::Outcome,
    request::RunRequest,
    sandbox::EngineKind,
};

use super::head::Heads;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) run: RunId,
    pub(super) secrets: Secrets,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Started(Box<Started>),
    Network(Vec<Record>),
    Ended(Box<Ended>),
    Failed(Principal, Failure),
}

#[derive(Debug)]
pub(super) struct Started {
    pub(super) principal: Principal,
    pub(super) engine: EngineKind,
    pub(super) request: RunRequest,
    pub(super) with_code: bool,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) sandbox: Option<SandboxId>,
    pub(super) outcome: Outcome,
    pub(super) output: Heads,
}

impl Entry {
    /// The program has not started yet and must not, if this is not written.
    pub(super) fn is_condition(&self) -> bool {
        matches!(self.body, Body::Started(_))
    }
}
