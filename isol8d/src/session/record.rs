//! What is known of a session's sandbox: enough to take it over after a restart.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use isol8_core::{
    ids::{Principal, SandboxId},
    layer::LayerId,
    package::Package,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network, SandboxKey, SandboxSpec},
    session::SessionName,
};
use isol8_engine::{Adoption, Interpreter};
use serde::{Deserialize, Serialize};

/// Bytes of the token that init tells, so that it is known again.
const TOKEN_BYTES: usize = 16;

/// One lasting sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: Principal,
    /// `None`: it was kept after its run or its session.
    pub(crate) name: Option<SessionName>,
    pub(crate) sandbox: SandboxId,
    pub(crate) token: Token,
    pub(crate) key: SandboxKey,
    pub(crate) limits: Limits,
    /// Host uid of its programs.
    pub(crate) uid: u32,
    pub(crate) interpreter: Interpreter,
    /// What was installed into it.
    pub(crate) packages: BTreeSet<Package>,
    /// It is kept when the session is removed.
    pub(crate) persist: bool,
    pub(crate) created: SystemTime,
    /// The end of its last run or copy.
    pub(crate) used: SystemTime,
    /// Why its sandbox is gone.
    pub(crate) lost: Option<String>,
}

/// What only this daemon and one init know.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Vec<u8>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(crate) fn random() -> Self {
        let mut bytes = vec![0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).expect("the kernel's random source answers");
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Record {
    pub(crate) fn adoption(&self) -> Adoption {
        Adoption {
            spec: self.spec(),
            uid: self.uid,
            interpreter: self.interpreter.clone(),
        }
    }

    pub(crate) fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            id: self.sandbox.clone(),
            key: self.key.clone(),
            limits: self.limits,
            lasting: true,
        }
    }

    /// How long nobody has used it.
    pub(crate) fn idle(&self) -> Duration {
        // A clock that was set back must not make it old.
        self.used.elapsed().unwrap_or_default()
    }
}

/// A [`Record`] as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    owner: u32,
    name: Option<String>,
    sandbox: String,
    token: String,
    engine: String,
    runtime: String,
    image: Option<String>,
    network: String,
    writable: bool,
    sandbox_bytes: u64,
    tmp_bytes: u64,
    layer: Option<String>,
    memory_bytes: u64,
    cpu_millis: u32,
    pids: u32,
    uid: u32,
    interpreter: WrittenInterpreter,
    packages: Vec<String>,
    persist: bool,
    created_ms: u64,
    used_ms: u64,
    lost: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenInterpreter {
    program: String,
    path: String,
    parkable: bool,
    authorities: Option<String>,
    deno_dir: Option<String>,
}

impl Written {
    pub(super) fn of(record: &Record) -> Self {
        let Record { key, limits, .. } = record;
        let interpreter = record.interpreter.clone();
        Self {
            owner: record.owner.0,
            name: record.name.as_ref().map(ToString::to_string),
            sandbox: record.sandbox.to_string(),
            token: data_encoding::HEXLOWER.encode(record.token.as_bytes()),
            engine: key.engine.to_string(),
            runtime: key.runtime.to_string(),
            image: key.image.as_ref().map(ToString::to_string),
            network: key.network.to_string(),
            writable: key.writable,
            sandbox_bytes: key.sandbox_size.as_bytes(),
            tmp_bytes: key.tmp_size.as_bytes(),
            layer: key.layer.as_ref().map(|layer| layer.as_str().to_owned()),
            memory_bytes: limits.memory.as_bytes(),
            cpu_millis: limits.cpu.as_millis(),
            pids: limits.pids.get(),
            uid: record.uid,
            interpreter: WrittenInterpreter {
                program: interpreter.program,
                path: interpreter.path,
                parkable: interpreter.parkable,
                authorities: interpreter.authorities,
                deno_dir: interpreter.deno_dir,
            },
            packages: record
                .packages
                .iter()
                .map(|package| package.as_str().to_owned())
                .collect(),
            persist: record.persist,
            created_ms: millis(record.created),
            used_ms: millis(record.used),
            lost: record.lost.clone(),
        }
    }

    /// The name of the field that makes no sense, where there is one.
    pub(super) fn read(self) -> Result<Record, &'static str> {
        let runtime = named(Runtime::ALL, Runtime::name, &self.runtime).ok_or("runtime")?;
        let engines = [EngineKind::Docker, EngineKind::Native];
        let networks = [Network::None, Network::Host, Network::Filtered];
        let packages = self.packages.iter();
        let key = SandboxKey {
            engine: named(engines, EngineKind::name, &self.engine).ok_or("engine")?,
            runtime,
            image: optional(
                self.image.as_deref(),
                |name| ImageName::parse(name).ok(),
                "image",
            )?,
            network: named(networks, Network::name, &self.network).ok_or("network")?,
            writable: self.writable,
            sandbox_size: ByteSize::bytes(self.sandbox_bytes),
            tmp_size: ByteSize::bytes(self.tmp_bytes),
            layer: optional(self.layer.as_deref(), LayerId::parse, "layer")?,
        };
        let limits = Limits {
            memory: ByteSize::bytes(self.memory_bytes),
            cpu: CpuMillis::new(self.cpu_millis).ok_or("cpuMillis")?,
            pids: Pids::new(self.pids).ok_or("pids")?,
        };
        let token = data_encoding::HEXLOWER.decode(self.token.as_bytes());
        let token = token.ok().filter(|token| token.len() == TOKEN_BYTES);
        Ok(Record {
            owner: Principal(self.owner),
            name: optional(
                self.name.as_deref(),
                |name| SessionName::parse(name).ok(),
                "name",
            )?,
            sandbox: SandboxId::parse(&self.sandbox).ok_or("sandbox")?,
            token: Token(token.ok_or("token")?),
            key,
            limits,
            uid: self.uid,
            interpreter: Interpreter {
                program: self.interpreter.program,
                path: self.interpreter.path,
                parkable: self.interpreter.parkable,
                authorities: self.interpreter.authorities,
                deno_dir: self.interpreter.deno_dir,
            },
            packages: packages
                .map(|package| Package::parse(runtime, package))
                .collect::<Result<_, _>>()
                .map_err(|_| "packages")?,
            persist: self.persist,
            created: moment(self.created_ms).ok_or("createdMs")?,
            used: moment(self.used_ms).ok_or("usedMs")?,
            lost: self.lost,
        })
    }
}

fn named<T: Copy>(
    all: impl IntoIterator<Item = T>,
    name: impl Fn(T) -> &'static str,
    text: &str,
) -> Option<T> {
    all.into_iter().find(|one| name(*one) == text)
}

fn optional<T>(
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Option<T>,
    field: &'static str,
) -> Result<Option<T>, &'static str> {
    text.map(|text| parse(text).ok_or(field)).transpose()
}

/// Milliseconds of Unix time.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn moment(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}
