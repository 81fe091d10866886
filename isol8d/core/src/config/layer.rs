//! A configuration file as it was written: every key optional, every value
//! checked, nothing unknown.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{
    error::ConfigError,
    search::Trust,
    shapes::{
        Cores, DestinationName, EngineName, Given, NetworkName, Object, RuntimeKey, SeccompName,
        Size, StrategyName, Whole,
    },
    values::{DockerHost, IpRange, Package, PathText, Pattern, ProxyUrl, RuntimeName},
};

/// The longest time that is taken, in milliseconds: 49 days.
const MAX_MS: u64 = u32::MAX as u64;

/// One file, read and checked.
#[derive(Debug, Clone)]
pub struct Layer {
    pub(super) path: PathBuf,
    pub(super) keys: Object<Keys>,
    /// Dotted paths of everything that the file sets.
    pub(super) given: Vec<String>,
}

impl Layer {
    /// Reads the text of the file at `path` (which is not opened).
    ///
    /// # Errors
    /// Not JSON, an unknown key, a wrong value, or a key that a file of this
    /// trust may not set. Each names key, file and line.
    pub fn parse(text: &str, path: PathBuf, trust: Trust) -> Result<Self, ConfigError> {
        let keys: Object<Keys> = read(text).map_err(|wrong| wrong.in_file(&path))?;
        if trust == Trust::WorkingDirectory {
            let allowed: Result<OnlyTrusted, Wrong> = read(text);
            allowed.map_err(|wrong| ConfigError::Untrusted {
                path: path.clone(),
                line: wrong.line,
                key: wrong.key,
            })?;
        }
        let tree: Value = read(text).map_err(|wrong| wrong.in_file(&path))?;
        let mut given = Vec::new();
        leaves("", &tree, &mut given);
        Ok(Self { path, keys, given })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

struct Wrong {
    key: String,
    line: usize,
    message: String,
}

impl Wrong {
    fn in_file(self, path: &std::path::Path) -> ConfigError {
        ConfigError::Invalid {
            path: path.to_owned(),
            line: self.line,
            key: self.key,
            message: self.message,
        }
    }
}

/// Reads straight from the text, so that the parser still knows the line.
fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Wrong> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A dot is the top, a question mark a place where no key was read yet.
        let path = error.path().to_string();
        let path = path.trim_end_matches('?').trim_end_matches('.');
        let key = path.to_owned();
        wrong(key, error.inner())
    })?;
    json.end().map_err(|error| wrong(String::new(), &error))?;
    Ok(value)
}

fn wrong(key: String, error: &serde_json::Error) -> Wrong {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    Wrong {
        key,
        // An empty file has no line 1 for the parser, but for people it has.
        line: error.line().max(1),
        message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
    }
}

fn leaves(at: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let dot = if at.is_empty() { "" } else { "." };
                leaves(&format!("{at}{dot}{key}"), value, found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

/// The keys that a working directory's file may not hold, whatever the value.
#[derive(Deserialize)]
#[serde(default)]
struct OnlyTrusted {
    #[serde(rename = "engine")]
    _engine: Refused,
    #[serde(rename = "security")]
    _security: Refused,
    #[serde(rename = "docker")]
    _docker: Refused,
    #[serde(rename = "policy")]
    _policy: Refused,
    #[serde(rename = "network")]
    _network: OnlyTrustedNetwork,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OnlyTrustedNetwork {
    #[serde(rename = "allowPrivate")]
    _allow_private: Refused,
}

impl Default for OnlyTrusted {
    fn default() -> Self {
        Self {
            _engine: Refused,
            _security: Refused,
            _docker: Refused,
            _policy: Refused,
            _network: OnlyTrustedNetwork::default(),
        }
    }
}

#[derive(Default)]
struct Refused;

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("not from here"))
    }
}

/// Configuration of isol8.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Keys {
    /// The schema that an editor checks this file with.
    #[serde(rename = "$schema")]
    pub(super) schema: Given<String>,
    /// Which engine serves a run that names none; `auto` is docker where it
    /// answers, else native.
    pub(super) engine: Given<EngineName>,
    /// Runs at the same time; the others queue.
    pub(super) max_concurrent: Given<Whole<1, 1024>>,
    /// What a run gets that does not say.
    pub(super) defaults: Object<DefaultsKeys>,
    /// What `--net filtered` lets through.
    pub(super) network: Object<NetworkKeys>,
    /// When idle sessions are removed.
    pub(super) cleanup: Object<CleanupKeys>,
    /// What becomes of a used sandbox: `secure` destroys it.
    pub(super) pool_strategy: Given<StrategyName>,
    /// Sandboxes kept ready.
    pub(super) pool_size: Object<PoolSizeKeys>,
    /// Runtimes that are warm from the start; without it, learned from use.
    pub(super) prewarm: Given<Vec<RuntimeKey>>,
    /// Packages of the custom image of each runtime.
    pub(super) dependencies: Object<DependenciesKeys>,
    /// The system call filter.
    pub(super) security: Object<SecurityKeys>,
    /// Where and how containers are made.
    pub(super) docker: Object<DockerKeys>,
    /// The record of runs.
    pub(super) audit: Object<AuditKeys>,
    /// Ceilings for requests.
    pub(super) policy: Object<PolicyKeys>,
    /// isol8's own log in detail.
    pub(super) debug: Given<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct DefaultsKeys {
    /// Milliseconds for install, setup and run together.
    pub(super) timeout_ms: Given<Whole<1, MAX_MS>>,
    /// Memory, tmpfs included; there is no swap.
    pub(super) memory_limit: Given<Size>,
    /// Cores, fractions allowed.
    pub(super) cpu_limit: Given<Cores>,
    /// Processes and threads.
    pub(super) pids_limit: Given<Whole<1, 32_768>>,
    /// Network mode of requests that name none.
    pub(super) network: Given<NetworkName>,
    /// tmpfs at /sandbox.
    pub(super) sandbox_size: Given<Size>,
    /// tmpfs at /tmp.
    pub(super) tmp_size: Given<Size>,
    /// Bytes of each output stream that are kept.
    pub(super) max_output_size: Given<Size>,
    /// The root filesystem is read-only.
    pub(super) readonly_root_fs: Given<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct NetworkKeys {
    /// Regular expressions; a host must match one as a whole. Empty: every host.
    pub(super) whitelist: Given<Vec<Pattern>>,
    /// Regular expressions; a host that holds a match is refused.
    pub(super) blacklist: Given<Vec<Pattern>>,
    /// Private ranges that may be reached all the same.
    pub(super) allow_private: Given<Vec<IpRange>>,
    /// Ports that may be reached.
    pub(super) ports: Given<Vec<Whole<1, 65_535>>>,
    /// Certificates for installers, programs and image builds.
    pub(super) ca_bundle: Given<PathText>,
    /// The proxy that the daemon itself must go through.
    pub(super) upstream_proxy: Given<ProxyUrl>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct CleanupKeys {
    /// Idle sessions are removed.
    pub(super) auto_prune: Given<bool>,
    /// After this many milliseconds without a run.
    pub(super) max_container_age_ms: Given<Whole<1, { 1 << 53 }>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct PoolSizeKeys {
    /// Warm sandboxes of each kind in use; 0 turns the pool off.
    pub(super) clean: Given<Whole<0, 256>>,
    /// Used sandboxes that wait for their reset (`fast` alone).
    pub(super) dirty: Given<Whole<0, 256>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct DependenciesKeys {
    /// For pip.
    pub(super) python: Given<Vec<Package>>,
    /// For npm.
    pub(super) node: Given<Vec<Package>>,
    /// For bun.
    pub(super) bun: Given<Vec<Package>>,
    /// For deno.
    pub(super) deno: Given<Vec<Package>>,
    /// For the image's own package manager.
    pub(super) bash: Given<Vec<Package>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct SecurityKeys {
    /// `custom` needs `customProfilePath`.
    pub(super) seccomp: Given<SeccompName>,
    /// A profile in Docker's JSON format.
    pub(super) custom_profile_path: Given<PathText>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct DockerKeys {
    /// Where the engine listens; without it, the usual socket.
    pub(super) host: Given<DockerHost>,
    /// The container runtime; without it, the engine's default.
    pub(super) runtime: Given<RuntimeName>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct AuditKeys {
    /// Runs are recorded.
    pub(super) enabled: Given<bool>,
    /// Where to.
    pub(super) destination: Given<DestinationName>,
    /// Folder of the records.
    pub(super) log_dir: Given<PathText>,
    /// Records older than this many days are removed.
    pub(super) retention_days: Given<Whole<1, 36_500>>,
    /// The program's text is recorded.
    pub(super) include_code: Given<bool>,
    /// The program's output is recorded.
    pub(super) include_output: Given<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct PolicyKeys {
    /// `--net host` may be asked for.
    pub(super) allow_host_network: Given<bool>,
    /// The most memory that a run may ask for.
    pub(super) max_memory: Given<Size>,
    /// The most cores.
    pub(super) max_cpu: Given<Cores>,
    /// The longest time in milliseconds.
    pub(super) max_timeout_ms: Given<Whole<1, MAX_MS>>,
    /// The images that `--image` may name, word for word.
    pub(super) images: Given<Vec<String>>,
}
