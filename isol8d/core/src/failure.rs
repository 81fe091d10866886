//! isol8's own failures: what happened, why, and what to type next.
//!
//! A failure is not a verdict: the program did not run, or its end is not known
//! to be its own. It crosses gRPC as a status with an `ErrorDetail`.

use std::{error::Error, fmt, time::Duration};

/// A stable class of failure. Its name is part of the wire surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request itself is wrong.
    InvalidRequest,
    /// The request is right, and this version does not do it yet.
    NotYet,
    /// The request is right, and this host or engine cannot do it.
    Unsupported,
    /// A rule of the operator forbids it.
    Forbidden,
    /// Nothing of that name.
    NotFound,
    /// Queue full: try again later.
    AtCapacity,
    /// The daemon is going down.
    ShuttingDown,
    /// No engine answers.
    EngineUnreachable,
    /// The engine answered too late.
    EngineTimeout,
    /// The engine said no.
    EngineRefused,
    /// The image is not there.
    ImageMissing,
    /// The image cannot be built.
    ImageBuild,
    /// The image or host has no such interpreter.
    InterpreterMissing,
    /// Something the host must have is not there, such as bubblewrap.
    HostLacks,
    /// Packages could not be installed.
    InstallFailed,
    /// The process that filters the network is not there.
    EgressUnavailable,
    /// The session was made with something else.
    SessionMismatch,
    /// A run goes on in the session.
    SessionBusy,
    /// The session's sandbox is gone, with all that was in it.
    SessionLost,
    /// No room on the daemon's disk or in the sandbox.
    NoSpace,
    /// A bug or a surprise.
    Internal,
}

impl FailureKind {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotYet => "not_yet",
            Self::Unsupported => "unsupported",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::AtCapacity => "at_capacity",
            Self::ShuttingDown => "shutting_down",
            Self::EngineUnreachable => "engine_unreachable",
            Self::EngineTimeout => "engine_timeout",
            Self::EngineRefused => "engine_refused",
            Self::ImageMissing => "image_missing",
            Self::ImageBuild => "image_build",
            Self::InterpreterMissing => "interpreter_missing",
            Self::HostLacks => "host_lacks",
            Self::InstallFailed => "install_failed",
            Self::EgressUnavailable => "egress_unavailable",
            Self::SessionMismatch => "session_mismatch",
            Self::SessionBusy => "session_busy",
            Self::SessionLost => "session_lost",
            Self::NoSpace => "no_space",
            Self::Internal => "internal",
        }
    }
}

/// What happened, why, and what to type next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub kind: FailureKind,
    /// One lower-case phrase, values in backticks.
    pub message: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// What to type.
    pub hint: Option<String>,
    /// For what is worth trying again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without cause or hint.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            retry_after: None,
        }
    }

    /// Adds what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds one cause below those already there.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and everything below it as causes.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Says after how long it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}
