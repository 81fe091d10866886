//! What a run asks for, complete and checked. Nothing behind this checks again.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    package::Package,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Network},
    session::SessionAsk,
};

/// The longest program that is taken, in bytes.
pub const MAX_CODE_BYTES: usize = 16 << 20;

/// The longest time that a run may ask for. Longer than any, and far from where
/// the clock overflows.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Less does not hold an interpreter; Docker takes no less than 6 MiB.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(6);

/// The most bytes that all environment variables of a run take together: well
/// under what the kernel accepts for argv and environment.
pub const MAX_ENV_BYTES: usize = 512 << 10;

/// One run, with every default already filled in.
#[derive(Clone)]
pub struct RunRequest {
    /// Who runs the program.
    pub runtime: Runtime,
    /// The program's text.
    pub code: bytes_of_code::Code,
    /// Extension of its file, without the dot; `[a-z0-9]{1,8}`.
    pub extension: String,
    /// The engine to use; `None` is the daemon's configured one.
    pub engine: Option<EngineKind>,
    /// What the program can reach.
    pub network: Network,
    /// Bounds.
    pub limits: RunLimits,
    /// A writable root filesystem.
    pub writable: bool,
    /// An image in place of the runtime's own.
    pub image: Option<ImageName>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values never leave in clear.
    pub secrets: BTreeMap<String, Secret>,
    /// Standard input will follow; else it is empty.
    pub stdin: bool,
    /// Send the output only when the program has ended.
    pub buffered: bool,
    /// Packages to install first, sorted and without repeats.
    pub install: Vec<Package>,
    /// Packages that it looks for in a custom image, sorted and without repeats.
    /// None where `image` says which image it is.
    pub dependencies: Vec<Package>,
    /// Neither use nor fill the install cache.
    pub no_install_cache: bool,
    /// Which hosts a filtered network lets through.
    pub hosts: Hosts,
    /// The client wants to know of every request through the filter.
    pub log_network: bool,
    /// The session to run in.
    pub session: Option<SessionAsk>,
    /// The sandbox is kept after the run, or after its session.
    pub persist: bool,
}

/// Patterns over host names; both lists are known to compile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts {
    /// If not empty, one must match the whole name.
    pub allow: Vec<String>,
    /// None may match anywhere in the name.
    pub deny: Vec<String>,
}

/// The program's text, kept out of every log.
pub mod bytes_of_code {
    use std::{fmt, sync::Arc};

    /// Shared bytes whose `Debug` shows the length alone.
    #[derive(Clone)]
    pub struct Code(Arc<[u8]>);

    impl Code {
        /// Wraps the bytes.
        #[must_use]
        pub fn new(bytes: &[u8]) -> Self {
            Self(bytes.into())
        }

        /// The bytes.
        #[must_use]
        pub fn as_bytes(&self) -> &[u8] {
            &self.0
        }
    }

    impl fmt::Debug for Code {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} bytes", self.0.len())
        }
    }
}

/// A value that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for RunRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunRequest")
            .field("runtime", &self.runtime)
            .field("code", &self.code)
            .field("engine", &self.engine)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Install, setup and run together, from the moment the run leaves the queue.
    pub timeout: Duration,
    /// Memory, tmpfs included; there is no swap.
    pub memory: ByteSize,
    /// Processor share.
    pub cpu: CpuMillis,
    /// Processes and threads of the program.
    pub pids: Pids,
    /// tmpfs at /sandbox.
    pub sandbox_size: ByteSize,
    /// tmpfs at /tmp.
    pub tmp_size: ByteSize,
    /// Bytes of each output stream that are kept.
    pub max_output: u64,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            memory: ByteSize::mib(512),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).expect("64 is in range"),
            sandbox_size: ByteSize::mib(512),
            tmp_size: ByteSize::mib(256),
            max_output: 1 << 20,
        }
    }
}
