//! A configuration as JSON: what `isol8 config --json` prints.

use serde_json::{Map, Value, json};

use super::{
    Audit, AuditDestination, Config, Defaults, EngineChoice, Policy, PoolStrategy, Resolved,
    Seccomp, Source,
    values::{IpRange, Pattern},
};
use crate::{quantity::CpuMillis, runtime::Runtime};

impl Resolved {
    /// `{config, file, sources}`; `sources` names each value that is not a
    /// default, by its dotted key.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let name = |source: &Source| match source {
            Source::Default => "default".to_owned(),
            Source::File(path) => path.display().to_string(),
            Source::Environment(name) => format!("environment variable {name}"),
        };
        let sources: Map<_, _> = self
            .sources
            .iter()
            .map(|(key, source)| (key.clone(), name(source).into()))
            .collect();
        json!({
            "config": self.config.to_json(),
            "file": self.file.as_ref().map(|path| path.display().to_string()),
            "sources": sources,
        })
    }
}

impl Config {
    /// Every value under the key that a file sets it with; null where there is
    /// none.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let runtimes =
            |list: &Vec<Runtime>| -> Value { list.iter().map(|runtime| runtime.name()).collect() };
        let dependencies: Map<_, _> = self
            .dependencies
            .iter()
            .map(|(runtime, packages)| (runtime.name().to_owned(), json!(packages)))
            .collect();
        json!({
            "engine": match self.engine {
                EngineChoice::Auto => "auto",
                EngineChoice::Only(kind) => kind.name(),
            },
            "maxConcurrent": self.max_concurrent,
            "defaults": defaults(&self.defaults),
            "network": {
                "whitelist": patterns(&self.network.whitelist),
                "blacklist": patterns(&self.network.blacklist),
                "allowPrivate": ranges(&self.network.allow_private),
                "ports": self.network.ports,
                "caBundle": self.network.ca_bundle,
                "upstreamProxy": self.network.upstream_proxy,
            },
            "cleanup": {
                "autoPrune": self.cleanup.auto_prune,
                "maxContainerAgeMs": millis(self.cleanup.max_age),
            },
            "poolStrategy": match self.pool.strategy {
                PoolStrategy::Secure => "secure",
                PoolStrategy::Fast => "fast",
            },
            "poolSize": { "clean": self.pool.clean, "dirty": self.pool.dirty },
            "prewarm": self.pool.prewarm.as_ref().map(runtimes),
            "dependencies": dependencies,
            "security": security(&self.seccomp),
            "docker": { "host": self.docker.host, "runtime": self.docker.runtime },
            "audit": audit(&self.audit),
            "policy": self.policy.to_json(),
            "debug": self.debug,
        })
    }
}

impl Policy {
    /// Every value under its key in a configuration; null where there is none.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "allowHostNetwork": self.allow_host_network,
            "maxMemory": self.max_memory.map(|size| size.to_string()),
            "maxCpu": self.max_cpu.map(cores),
            "maxTimeoutMs": self.max_timeout.map(millis),
            "images": self.images,
        })
    }

    /// As [`Policy::to_json`] without the nulls: what can be read again.
    #[must_use]
    pub fn given(&self) -> Map<String, Value> {
        match self.to_json() {
            Value::Object(mut keys) => {
                keys.retain(|_, value| !value.is_null());
                keys
            }
            _ => Map::new(),
        }
    }
}

fn defaults(defaults: &Defaults) -> Value {
    let limits = &defaults.limits;
    json!({
        "timeoutMs": millis(limits.timeout),
        "memoryLimit": limits.memory.to_string(),
        "cpuLimit": cores(limits.cpu),
        "pidsLimit": limits.pids.get(),
        "network": defaults.network.name(),
        "sandboxSize": limits.sandbox_size.to_string(),
        "tmpSize": limits.tmp_size.to_string(),
        "maxOutputSize": limits.max_output,
        "readonlyRootFs": defaults.readonly_root,
    })
}

fn security(seccomp: &Seccomp) -> Value {
    let (name, path) = match seccomp {
        Seccomp::Strict => ("strict", None),
        Seccomp::Unconfined => ("unconfined", None),
        Seccomp::Custom(path) => ("custom", Some(path)),
    };
    json!({ "seccomp": name, "customProfilePath": path })
}

fn audit(audit: &Audit) -> Value {
    json!({
        "enabled": audit.enabled,
        "destination": match audit.destination {
            AuditDestination::Filesystem => "filesystem",
            AuditDestination::Log => "log",
        },
        "logDir": audit.log_dir,
        "retentionDays": audit.retention_days,
        "includeCode": audit.include_code,
        "includeOutput": audit.include_output,
    })
}

fn patterns(list: &[Pattern]) -> Value {
    list.iter().map(Pattern::as_str).collect()
}

fn ranges(list: &[IpRange]) -> Value {
    list.iter().map(IpRange::to_string).collect()
}

/// Whole cores as integers, as people write them.
fn cores(cpu: CpuMillis) -> Value {
    let millis = cpu.as_millis();
    if millis.is_multiple_of(1000) {
        (millis / 1000).into()
    } else {
        (f64::from(millis) / 1000.0).into()
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
