//! Layers put over each other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer};

use super::{
    AuditDestination, Config, EngineChoice, Policy, PoolStrategy, Seccomp,
    error::ConfigError,
    layer::{
        AuditKeys, DefaultsKeys, DependenciesKeys, Keys, Layer, NetworkKeys, PolicyKeys,
        SecurityKeys,
    },
    search::Env,
    shapes::{
        DestinationName, EngineName, Given, NetworkName, Object, RuntimeKey, SeccompName,
        StrategyName, Whole,
    },
    values::PathText,
};
use crate::{
    quantity::Pids,
    runtime::Runtime,
    sandbox::{EngineKind, Network},
};

/// Beats the file's `engine`.
const ENGINE_VARIABLE: &str = "ISOL8_ENGINE";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(&'static str),
}

/// A configuration and where each value of it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    pub(super) sources: BTreeMap<String, Source>,
}

impl Resolved {
    /// Where the value of `key` (such as `defaults.timeoutMs`) comes from.
    #[must_use]
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }
}

impl Config {
    /// Puts the file's layer and the environment over the defaults. Objects
    /// merge key by key, lists replace.
    ///
    /// # Errors
    /// Keys of the file that do not go together; a wrong value in a variable.
    pub fn resolve(layer: Option<&Layer>, env: Env<'_>) -> Result<Resolved, ConfigError> {
        let mut config = Self::default();
        let mut sources = BTreeMap::new();
        if let Some(layer) = layer {
            let paths = Paths {
                file: &layer.path,
                home: env("HOME").filter(|home| home.starts_with('/')),
            };
            config.apply(&layer.keys, &paths)?;
            for key in &layer.given {
                sources.insert(key.clone(), Source::File(layer.path.clone()));
            }
        }
        if let Some(name) = env(ENGINE_VARIABLE).filter(|name| !name.is_empty()) {
            config.engine = engine_from_variable(&name)?;
            let source = Source::Environment(ENGINE_VARIABLE);
            sources.insert("engine".to_owned(), source);
        }
        Ok(Resolved {
            config,
            file: layer.map(|layer| layer.path.clone()),
            sources,
        })
    }

    fn apply(&mut self, keys: &Keys, paths: &Paths<'_>) -> Result<(), ConfigError> {
        put(&mut self.engine, &keys.engine, |name| match name {
            EngineName::Auto => EngineChoice::Auto,
            EngineName::Docker => EngineChoice::Only(EngineKind::Docker),
            EngineName::Native => EngineChoice::Only(EngineKind::Native),
        });
        put(&mut self.max_concurrent, &keys.max_concurrent, whole32);
        put(&mut self.debug, &keys.debug, |on| *on);
        put(
            &mut self.cleanup.auto_prune,
            &keys.cleanup.auto_prune,
            |on| *on,
        );
        let age = &keys.cleanup.max_container_age_ms;
        put(&mut self.cleanup.max_age, age, millis);
        put(
            &mut self.pool.strategy,
            &keys.pool_strategy,
            |name| match name {
                StrategyName::Secure => PoolStrategy::Secure,
                StrategyName::Fast => PoolStrategy::Fast,
            },
        );
        put(&mut self.pool.clean, &keys.pool_size.clean, whole32);
        put(&mut self.pool.dirty, &keys.pool_size.dirty, whole32);
        put(&mut self.pool.prewarm, &keys.prewarm, |names| {
            Some(names.iter().map(|name| runtime(*name)).collect())
        });
        let docker = &keys.docker;
        put(&mut self.docker.host, &docker.host, |host| {
            Some(host.0.clone())
        });
        put(&mut self.docker.runtime, &docker.runtime, |name| {
            Some(name.0.clone())
        });
        self.apply_defaults(&keys.defaults);
        self.apply_network(&keys.network, paths);
        self.apply_dependencies(&keys.dependencies);
        self.apply_audit(&keys.audit, paths);
        self.policy.apply(&keys.policy);
        self.apply_security(&keys.security, paths)
    }

    fn apply_defaults(&mut self, keys: &DefaultsKeys) {
        let limits = &mut self.defaults.limits;
        put(&mut limits.timeout, &keys.timeout_ms, millis);
        put(&mut limits.memory, &keys.memory_limit, |size| size.0);
        put(&mut limits.cpu, &keys.cpu_limit, |cores| cores.0);
        put(&mut limits.pids, &keys.pids_limit, |count| {
            Pids::new(whole32(count)).expect("the key has the same bounds")
        });
        put(&mut limits.sandbox_size, &keys.sandbox_size, |size| size.0);
        put(&mut limits.tmp_size, &keys.tmp_size, |size| size.0);
        put(&mut limits.max_output, &keys.max_output_size, |size| {
            size.0.as_bytes()
        });
        put(
            &mut self.defaults.network,
            &keys.network,
            |name| match name {
                NetworkName::None => Network::None,
                NetworkName::Host => Network::Host,
                NetworkName::Filtered => Network::Filtered,
            },
        );
        let readonly = &keys.readonly_root_fs;
        put(&mut self.defaults.readonly_root, readonly, |on| *on);
    }

    fn apply_network(&mut self, keys: &NetworkKeys, paths: &Paths<'_>) {
        let network = &mut self.network;
        put(&mut network.whitelist, &keys.whitelist, Clone::clone);
        put(&mut network.blacklist, &keys.blacklist, Clone::clone);
        put(
            &mut network.allow_private,
            &keys.allow_private,
            Clone::clone,
        );
        put(&mut network.ports, &keys.ports, |ports| {
            let port = |port: &Whole<1, 65_535>| {
                u16::try_from(port.0).expect("the key has the same bounds")
            };
            ports.iter().map(port).collect()
        });
        put(&mut network.ca_bundle, &keys.ca_bundle, |path| {
            Some(paths.find(path))
        });
        put(&mut network.upstream_proxy, &keys.upstream_proxy, |url| {
            Some(url.0.clone())
        });
    }

    fn apply_dependencies(&mut self, keys: &DependenciesKeys) {
        let lists = [
            (Runtime::Python, &keys.python),
            (Runtime::Node, &keys.node),
            (Runtime::Bun, &keys.bun),
            (Runtime::Deno, &keys.deno),
            (Runtime::Bash, &keys.bash),
        ];
        for (runtime, list) in lists {
            if let Some(packages) = &list.0 {
                let names = packages.iter().map(|package| package.0.clone());
                self.dependencies.insert(runtime, names.collect());
            }
        }
    }

    fn apply_audit(&mut self, keys: &AuditKeys, paths: &Paths<'_>) {
        let audit = &mut self.audit;
        put(&mut audit.enabled, &keys.enabled, |on| *on);
        put(
            &mut audit.destination,
            &keys.destination,
            |name| match name {
                DestinationName::Filesystem => AuditDestination::Filesystem,
                DestinationName::Log => AuditDestination::Log,
            },
        );
        put(&mut audit.log_dir, &keys.log_dir, |path| {
            Some(paths.find(path))
        });
        put(&mut audit.retention_days, &keys.retention_days, whole32);
        put(&mut audit.include_code, &keys.include_code, |on| *on);
        put(&mut audit.include_output, &keys.include_output, |on| *on);
    }

    fn apply_security(
        &mut self,
        keys: &SecurityKeys,
        paths: &Paths<'_>,
    ) -> Result<(), ConfigError> {
        let inconsistent = |key: &str, message: &str| {
            Err(ConfigError::Inconsistent {
                path: paths.file.to_owned(),
                key: key.to_owned(),
                message: message.to_owned(),
            })
        };
        self.seccomp = match (&keys.seccomp.0, &keys.custom_profile_path.0) {
            (Some(SeccompName::Custom), Some(path)) => Seccomp::Custom(paths.find(path)),
            (Some(SeccompName::Custom), None) => {
                let message = "`custom` needs `security.customProfilePath`";
                return inconsistent("security.seccomp", message);
            }
            (_, Some(_)) => {
                let message = "only `security.seccomp: \"custom\"` uses it";
                return inconsistent("security.customProfilePath", message);
            }
            (Some(SeccompName::Unconfined), None) => Seccomp::Unconfined,
            (Some(SeccompName::Strict) | None, None) => Seccomp::Strict,
        };
        Ok(())
    }
}

impl Policy {
    fn apply(&mut self, keys: &PolicyKeys) {
        put(
            &mut self.allow_host_network,
            &keys.allow_host_network,
            |on| Some(*on),
        );
        put(&mut self.max_memory, &keys.max_memory, |size| Some(size.0));
        put(&mut self.max_cpu, &keys.max_cpu, |cores| Some(cores.0));
        put(&mut self.max_timeout, &keys.max_timeout_ms, |ms| {
            Some(millis(ms))
        });
        put(&mut self.images, &keys.images, |images| {
            Some(images.clone())
        });
    }
}

/// Reads what `policy` of a configuration takes, and refuses the same.
impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Object::<PolicyKeys>::deserialize(deserializer)?;
        let mut policy = Self::default();
        policy.apply(&keys);
        Ok(policy)
    }
}

fn put<T, G>(slot: &mut T, given: &Given<G>, convert: impl FnOnce(&G) -> T) {
    if let Some(value) = &given.0 {
        *slot = convert(value);
    }
}

fn millis<const MIN: u64, const MAX: u64>(whole: &Whole<MIN, MAX>) -> Duration {
    Duration::from_millis(whole.0)
}

fn whole32<const MIN: u64, const MAX: u64>(whole: &Whole<MIN, MAX>) -> u32 {
    const { assert!(MAX <= u32::MAX as u64) };
    u32::try_from(whole.0).expect("the key's bound is below 2^32")
}

fn runtime(key: RuntimeKey) -> Runtime {
    match key {
        RuntimeKey::Python => Runtime::Python,
        RuntimeKey::Node => Runtime::Node,
        RuntimeKey::Bun => Runtime::Bun,
        RuntimeKey::Deno => Runtime::Deno,
        RuntimeKey::Bash => Runtime::Bash,
    }
}

fn engine_from_variable(name: &str) -> Result<EngineChoice, ConfigError> {
    match name {
        "auto" => Ok(EngineChoice::Auto),
        "docker" => Ok(EngineChoice::Only(EngineKind::Docker)),
        "native" => Ok(EngineChoice::Only(EngineKind::Native)),
        _ => Err(ConfigError::Environment {
            name: ENGINE_VARIABLE,
            message: format!("`{name}` is not an engine; choose auto, docker or native"),
        }),
    }
}

/// What paths of a file are relative to.
struct Paths<'a> {
    file: &'a Path,
    home: Option<String>,
}

impl Paths<'_> {
    fn find(&self, path: &PathText) -> PathBuf {
        if let (Some(rest), Some(home)) = (path.0.strip_prefix("~/"), &self.home) {
            return Path::new(home).join(rest);
        }
        let beside = self.file.parent().unwrap_or(Path::new("/"));
        beside.join(&path.0)
    }
}
