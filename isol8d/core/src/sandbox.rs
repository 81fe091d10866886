//! What a sandbox is made of: the part that must be right when it is made
//! ([`SandboxKey`]) and the part that can still change ([`Limits`]).

use std::fmt;

use thiserror::Error;

use crate::{
    ids::SandboxId,
    layer::LayerId,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
};

/// What makes sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EngineKind {
    /// Containers.
    Docker,
    /// Jails of our own.
    Native,
}

impl EngineKind {
    /// The name in flags and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a program can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// Loopback alone.
    None,
    /// The host's network.
    Host,
    /// Loopback, and a filtering proxy on it.
    Filtered,
}

impl Network {
    /// The name in flags and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Filtered => "filtered",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An image reference such as `python:3.13-slim` or `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an image name")]
pub struct InvalidImageName(pub String);

impl ImageName {
    /// Takes letters, digits and `._-/:@`, 255 at most, beginning with a letter
    /// or digit, so that a name is never taken for an option or a mount.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidImageName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= 255 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidImageName(text.to_owned()))
        }
    }

    /// The reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What must be right when a sandbox is made. Two runs with the same key can use
/// each other's warm sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxKey {
    /// What makes it.
    pub engine: EngineKind,
    /// What is parked in it.
    pub runtime: Runtime,
    /// `None` is the runtime's own image, and always so for native jails.
    pub image: Option<ImageName>,
    /// What it can reach.
    pub network: Network,
    /// Writable root filesystem.
    pub writable: bool,
    /// tmpfs at /sandbox.
    pub sandbox_size: ByteSize,
    /// tmpfs at /tmp.
    pub tmp_size: ByteSize,
    /// Packages that are mounted read-only.
    pub layer: Option<LayerId>,
}

/// What can change while the sandbox lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Memory, tmpfs included; swap is none.
    pub memory: ByteSize,
    /// Processor share.
    pub cpu: CpuMillis,
    /// Processes and threads of the program; engines add room for init.
    pub pids: Pids,
}

/// An order for one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Chosen by the daemon before anything is made, so that a guard exists first.
    pub id: SandboxId,
    /// What kind.
    pub key: SandboxKey,
    /// Bounds it starts with.
    pub limits: Limits,
    /// It outlives the stream to its daemon, which can take it over again.
    pub lasting: bool,
}
