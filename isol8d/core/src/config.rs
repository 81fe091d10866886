//! What the operator wants: defaults ← one file ← environment.
//!
//! [`search`] says which files to look for, [`layer`] is a file as it was
//! written, [`Config::resolve`] puts a layer over the defaults. Nothing here
//! opens a file or reads the environment: callers hand both in.
//!
//! ```
//! use isol8_core::config::{Config, layer::Layer, search::Trust};
//!
//! let text = r#"{ "maxConcurrent": 4 }"#;
//! let layer = Layer::parse(text, "/etc/isol8/config.json".into(), Trust::Full)?;
//! let resolved = Config::resolve(Some(&layer), &|_| None)?;
//! assert_eq!(resolved.config.max_concurrent, 4);
//! # Ok::<(), isol8_core::config::error::ConfigError>(())
//! ```

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    quantity::{ByteSize, CpuMillis},
    request::RunLimits,
    runtime::Runtime,
    sandbox::{EngineKind, Network, SandboxKey},
};

pub mod error;
pub mod layer;
pub mod search;
pub mod values;

mod resolve;
mod schema;
mod shapes;
mod show;

#[cfg(test)]
mod tests;

pub use resolve::{Resolved, Source};
use values::{IpRange, Pattern};

/// The longest file that `network.caBundle` may name, for everybody who reads it:
/// a bundle of every public authority has a quarter of a megabyte.
pub const MAX_CA_BUNDLE_BYTES: u64 = 4 << 20;

/// Every setting, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which engine serves a run that names none.
    pub engine: EngineChoice,
    /// Runs at the same time; the others queue.
    pub max_concurrent: u32,
    /// What a run gets that does not say.
    pub defaults: Defaults,
    /// What `filtered` lets through.
    pub network: NetworkConfig,
    /// When sessions are removed.
    pub cleanup: Cleanup,
    /// Warm sandboxes.
    pub pool: PoolConfig,
    /// Packages of the custom image, by runtime.
    pub dependencies: BTreeMap<Runtime, Vec<String>>,
    /// `security.seccomp` and `security.customProfilePath`.
    pub seccomp: Seccomp,
    /// Where and how containers are made.
    pub docker: DockerConfig,
    /// The record of runs.
    pub audit: Audit,
    /// Ceilings for requests.
    pub policy: Policy,
    /// Our own log in detail.
    pub debug: bool,
}

/// `engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// Docker where it answers, else native.
    Auto,
    /// This one.
    Only(EngineKind),
}

/// `defaults`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Time, memory, processor, processes, sizes, output.
    pub limits: RunLimits,
    /// Network mode of requests that name none (the CLI's flag has its own).
    pub network: Network,
    /// The root filesystem is read-only.
    pub readonly_root: bool,
}

/// `network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Hosts that may be reached; empty means all.
    pub whitelist: Vec<Pattern>,
    /// Hosts that may not, whatever the whitelist says.
    pub blacklist: Vec<Pattern>,
    /// Private ranges that may be reached all the same.
    pub allow_private: Vec<IpRange>,
    /// Ports that may be reached.
    pub ports: Vec<u16>,
    /// Certificates for installers, programs and image builds, in a file of at
    /// most [`MAX_CA_BUNDLE_BYTES`].
    pub ca_bundle: Option<PathBuf>,
    /// The proxy that the daemon itself must go through.
    pub upstream_proxy: Option<String>,
}

/// `cleanup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleanup {
    /// Idle sessions are removed.
    pub auto_prune: bool,
    /// After this long without a run.
    pub max_age: Duration,
}

/// `poolStrategy`, `poolSize` and `prewarm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// What becomes of a used sandbox.
    pub strategy: PoolStrategy,
    /// Warm sandboxes that a key in use has at least; 0 turns the pool off.
    pub clean: u32,
    /// Used sandboxes that wait for their reset (`fast` alone).
    pub dirty: u32,
    /// Runtimes that are warm from the start. `None`: learned from use.
    pub prewarm: Option<Vec<Runtime>>,
}

/// `poolStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolStrategy {
    /// Every sandbox serves one run.
    Secure,
    /// A sandbox may be reset and serve the same caller again.
    Fast,
}

/// `security`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// Our allowlist.
    Strict,
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON format.
    Custom(PathBuf),
}

/// `docker`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerConfig {
    /// `unix:///…` or `tcp://…`; `None` is the usual socket.
    pub host: Option<String>,
    /// `runsc`, `kata`, …; `None` is the engine's default.
    pub runtime: Option<String>,
}

/// `audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Runs are recorded.
    pub enabled: bool,
    /// Where to.
    pub destination: AuditDestination,
    /// Folder of the records; `None` is the daemon's choice.
    pub log_dir: Option<PathBuf>,
    /// Records older than this many days are removed.
    pub retention_days: u32,
    /// The program's text is recorded.
    pub include_code: bool,
    /// The program's output is recorded.
    pub include_output: bool,
}

/// `audit.destination`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditDestination {
    /// Files below `logDir`.
    Filesystem,
    /// The daemon's own log.
    Log,
}

/// `policy`. `None` is the default of the door that the request comes through:
/// unlimited on the local socket, narrow at the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// `--net host` may be asked for.
    pub allow_host_network: Option<bool>,
    /// The most memory that a run may ask for.
    pub max_memory: Option<ByteSize>,
    /// The most processor share.
    pub max_cpu: Option<CpuMillis>,
    /// The longest time.
    pub max_timeout: Option<Duration>,
    /// The images that `--image` may name.
    pub images: Option<Vec<String>>,
}

impl Config {
    /// What a run of `runtime` needs that says nothing but its runtime.
    #[must_use]
    pub fn usual_key(&self, engine: EngineKind, runtime: Runtime) -> SandboxKey {
        SandboxKey {
            engine,
            runtime,
            image: None,
            // A request's own default, whatever `defaults.network` says.
            network: Network::None,
            writable: !self.defaults.readonly_root,
            sandbox_size: self.defaults.limits.sandbox_size,
            tmp_size: self.defaults.limits.tmp_size,
            layer: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            max_concurrent: 10,
            defaults: Defaults {
                limits: RunLimits::default(),
                network: Network::None,
                readonly_root: true,
            },
            network: NetworkConfig {
                whitelist: Vec::new(),
                blacklist: Vec::new(),
                allow_private: Vec::new(),
                ports: vec![80, 443],
                ca_bundle: None,
                upstream_proxy: None,
            },
            cleanup: Cleanup {
                auto_prune: true,
                max_age: Duration::from_secs(3600),
            },
            pool: PoolConfig {
                strategy: PoolStrategy::Secure,
                clean: 1,
                dirty: 1,
                prewarm: None,
            },
            dependencies: BTreeMap::new(),
            seccomp: Seccomp::Strict,
            docker: DockerConfig::default(),
            audit: Audit {
                enabled: false,
                destination: AuditDestination::Filesystem,
                log_dir: None,
                retention_days: 90,
                include_code: false,
                include_output: false,
            },
            policy: Policy::default(),
            debug: false,
        }
    }
}
