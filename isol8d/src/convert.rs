//! The one gate from the wire to the domain: what passes here is complete and
//! checked, and nothing behind it checks again.

use std::{collections::BTreeMap, time::Duration};

use isol8_core::{
    config::{Config, Policy},
    failure::{Failure, FailureKind},
    mask::Secrets,
    quantity::{ByteSize, CpuMillis, Pids},
    request::{
        MAX_CODE_BYTES, MAX_ENV_BYTES, MAX_TIMEOUT, MIN_MEMORY, RunLimits, RunRequest, Secret,
        bytes_of_code::Code,
    },
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Network},
};
use isol8_proto::v1;

mod network;
mod packages;
mod session;

pub(crate) use network::{check_configured, useless_with};
pub(crate) use packages::{configured, packages};
pub(crate) use session::name as session_name;

/// More than any machine that this runs on, and far from where sums overflow.
const MAX_SIZE: ByteSize = ByteSize::mib(1 << 24);

/// The kernel refuses a longer `NAME=value` with its end (MAX_ARG_STRLEN).
const MAX_ENV_ENTRY_BYTES: usize = 128 << 10;

/// What a buffered run keeps in the daemon's memory, per stream.
const MAX_BUFFERED_BYTES: u64 = 64 << 20;

/// A longer piece of stdin than the wire's contract allows.
const MAX_STDIN_PIECE_BYTES: usize = 256 << 10;

/// Signals that a client may send: HUP, INT, QUIT, KILL, USR1, USR2, TERM.
const SIGNALS: [i32; 7] = [1, 2, 3, 9, 10, 12, 15];

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidRequest, message)
}

/// Checks a `Start` and fills in the daemon's defaults.
///
/// # Errors
/// `InvalidRequest` names the field, `Unsupported` what cannot be had, `Forbidden`
/// the rule of the operator.
pub fn run_request(start: v1::Start, config: &Config) -> Result<RunRequest, Failure> {
    let runtime = runtime(start.runtime)?;
    if start.code.len() > MAX_CODE_BYTES {
        let (has, most) = (start.code.len(), MAX_CODE_BYTES);
        return Err(invalid(format!(
            "the program has {has} bytes, the limit is {most}"
        )));
    }
    let given = engine(start.engine)?;
    let image = image(&start.image, given)?;
    let session = session::ask(&start, given, image.as_ref())?;
    let engine = match given {
        None => engine(start.default_engine)?,
        given => given,
    };
    // What the client has for defaults comes before the daemon's own.
    let defaults = limits(start.defaults.unwrap_or_default(), &config.defaults.limits)?;
    let defaults = within(&config.policy, defaults);
    let limits = limits(start.limits.unwrap_or_default(), &defaults)?;
    check_policy(&config.policy, &limits, image.as_ref())?;
    if start.buffered && limits.max_output > MAX_BUFFERED_BYTES {
        return Err(invalid(format!(
            "a buffered run keeps at most {} of each stream",
            ByteSize::bytes(MAX_BUFFERED_BYTES)
        ))
        .hint("lower `--max-output`, or let the output stream"));
    }
    let (env, secrets) = environment(start.env, start.secrets)?;
    let install = packages(runtime, &start.install)?;
    let dependencies = match image {
        None => packages::dependencies(runtime, start.dependencies.as_ref(), config)?,
        Some(_) => Vec::new(),
    };
    let network = network::network(start.network, !install.is_empty(), &config.policy)?;
    let log_network = start.log_network;
    let lists_for = match &session {
        // Which network it has, its session knows.
        Some(ask) if ask.given.network.is_none() => Network::Filtered,
        _ => network,
    };
    let lists = network::Lists {
        given: start.filter,
        default: start.default_filter,
    };
    let hosts = network::hosts(lists, log_network, lists_for, &config.network)?;
    Ok(RunRequest {
        runtime,
        code: Code::new(&start.code),
        extension: extension(start.extension, runtime)?,
        engine,
        network,
        limits,
        writable: start.writable || start.default_writable || !config.defaults.readonly_root,
        image,
        env,
        secrets,
        stdin: start.stdin,
        buffered: start.buffered,
        install,
        dependencies,
        no_install_cache: start.no_install_cache,
        hosts,
        log_network,
        session,
        persist: start.persist,
    })
}

/// The runtime of this number.
///
/// # Errors
/// `InvalidRequest` for 0 and for what no runtime has.
pub fn runtime(number: i32) -> Result<Runtime, Failure> {
    match v1::Runtime::try_from(number) {
        Ok(v1::Runtime::Python) => Ok(Runtime::Python),
        Ok(v1::Runtime::Node) => Ok(Runtime::Node),
        Ok(v1::Runtime::Bun) => Ok(Runtime::Bun),
        Ok(v1::Runtime::Deno) => Ok(Runtime::Deno),
        Ok(v1::Runtime::Bash) => Ok(Runtime::Bash),
        Ok(v1::Runtime::Unspecified) => Err(invalid("`runtime` is not given")),
        Err(_) => Err(invalid(format!("`{number}` is not a runtime"))),
    }
}

/// The engine of this number; `None` is the configured one.
///
/// # Errors
/// `InvalidRequest` for what no engine has.
pub fn engine(number: i32) -> Result<Option<EngineKind>, Failure> {
    match v1::Engine::try_from(number) {
        Ok(v1::Engine::Unspecified) => Ok(None),
        Ok(v1::Engine::Docker) => Ok(Some(EngineKind::Docker)),
        Ok(v1::Engine::Native) => Ok(Some(EngineKind::Native)),
        Err(_) => Err(invalid(format!("`{number}` is not an engine"))),
    }
}

fn extension(asked: String, runtime: Runtime) -> Result<String, Failure> {
    if asked.is_empty() {
        return Ok(runtime.extension().to_owned());
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if asked.len() <= 8 && asked.bytes().all(allowed) {
        return Ok(asked);
    }
    Err(invalid(format!(
        "`{}` is not a file extension; use up to 8 lower-case letters and digits",
        asked.escape_debug()
    )))
}

fn image(name: &str, engine: Option<EngineKind>) -> Result<Option<ImageName>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    let image = ImageName::parse(name).map_err(|error| invalid(error.to_string()))?;
    if engine == Some(EngineKind::Native) {
        return Err(image_needs_docker());
    }
    Ok(Some(image))
}

pub(crate) fn image_needs_docker() -> Failure {
    Failure::new(FailureKind::Unsupported, "the native engine runs no images")
        .hint("add `--engine docker`")
}

fn limits(asked: v1::Limits, defaults: &RunLimits) -> Result<RunLimits, Failure> {
    let timeout = match asked.timeout_ms {
        0 => defaults.timeout,
        ms => Duration::from_millis(ms),
    };
    if timeout > MAX_TIMEOUT {
        return Err(invalid(format!(
            "a timeout of {} ms is too long; the longest is {} ms",
            timeout.as_millis(),
            MAX_TIMEOUT.as_millis()
        )));
    }
    let memory = size("memory", asked.memory_bytes, defaults.memory)?;
    if memory < MIN_MEMORY {
        return Err(invalid(format!(
            "memory of {memory} is too little; the least is {MIN_MEMORY}"
        )));
    }
    let cpu = match asked.cpu_millis {
        0 => defaults.cpu,
        millis => CpuMillis::new(millis).ok_or_else(|| {
            invalid(format!(
                "{millis} thousandths of a core are out of range; use {} to {}",
                CpuMillis::MIN,
                CpuMillis::MAX
            ))
        })?,
    };
    let pids = match asked.pids {
        0 => defaults.pids,
        count => Pids::new(count).ok_or_else(|| {
            invalid(format!(
                "{count} processes are too many; the most is {}",
                Pids::MAX
            ))
        })?,
    };
    Ok(RunLimits {
        timeout,
        memory,
        cpu,
        pids,
        sandbox_size: size("sandbox-size", asked.sandbox_bytes, defaults.sandbox_size)?,
        tmp_size: size("tmp-size", asked.tmp_bytes, defaults.tmp_size)?,
        max_output: match asked.max_output_bytes {
            0 => defaults.max_output,
            bytes => bytes,
        },
    })
}

fn size(name: &str, asked_bytes: u64, default: ByteSize) -> Result<ByteSize, Failure> {
    let size = match asked_bytes {
        0 => default,
        bytes => ByteSize::bytes(bytes),
    };
    if size > MAX_SIZE {
        return Err(invalid(format!(
            "{name} of {size} is too large; the most is {MAX_SIZE}"
        )));
    }
    Ok(size)
}

/// The defaults, lowered where the operator's ceiling is below them: a request
/// that asks for nothing is not refused.
fn within(policy: &Policy, defaults: RunLimits) -> RunLimits {
    RunLimits {
        timeout: defaults
            .timeout
            .min(policy.max_timeout.unwrap_or(MAX_TIMEOUT)),
        memory: defaults.memory.min(policy.max_memory.unwrap_or(MAX_SIZE)),
        cpu: policy
            .max_cpu
            .map_or(defaults.cpu, |most| defaults.cpu.min(most)),
        ..defaults
    }
}

fn check_policy(
    policy: &Policy,
    limits: &RunLimits,
    image: Option<&ImageName>,
) -> Result<(), Failure> {
    let forbidden = |rule: &str, what: String| {
        Err(Failure::new(
            FailureKind::Forbidden,
            format!("{what} is over the operator's `policy.{rule}`"),
        ))
    };
    match policy {
        Policy {
            max_memory: Some(most),
            ..
        } if limits.memory > *most => {
            forbidden("maxMemory", format!("memory of {}", limits.memory))
        }
        Policy {
            max_cpu: Some(most),
            ..
        } if limits.cpu > *most => forbidden("maxCpu", format!("cpu of {}", limits.cpu)),
        Policy {
            max_timeout: Some(most),
            ..
        } if limits.timeout > *most => forbidden(
            "maxTimeoutMs",
            format!("a timeout of {} ms", limits.timeout.as_millis()),
        ),
        Policy {
            images: Some(allowed),
            ..
        } => match image {
            Some(image) if !allowed.iter().any(|allowed| allowed == image.as_str()) => {
                Err(Failure::new(
                    FailureKind::Forbidden,
                    format!("image `{image}` is not in the operator's `policy.images`"),
                ))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether what a session was made with is below the ceiling of today. Its image may
/// be one that nobody named, and is not looked at.
///
/// # Errors
/// `Forbidden` names the rule.
pub(crate) fn check_session(request: &RunRequest, policy: &Policy) -> Result<(), Failure> {
    network::check_policy(request.network, policy)?;
    check_policy(policy, &request.limits, None)
}

type Environment = (BTreeMap<String, String>, BTreeMap<String, Secret>);

fn environment(
    env: impl IntoIterator<Item = (String, String)>,
    secrets: impl IntoIterator<Item = (String, String)>,
) -> Result<Environment, Failure> {
    let env: BTreeMap<_, _> = env.into_iter().collect();
    let secrets: BTreeMap<_, _> = secrets
        .into_iter()
        .map(|(name, value)| (name, Secret(value)))
        .collect();
    let hidden = secrets.iter().map(|(name, value)| (name, &value.0));
    let mut bytes = 0_usize;
    for (name, value) in env.iter().chain(hidden) {
        check_variable(name, value)?;
        // The `=` and the NUL count too.
        bytes = bytes.saturating_add(name.len() + value.len() + 2);
    }
    if bytes > MAX_ENV_BYTES {
        return Err(invalid(format!(
            "the environment has {bytes} bytes, the limit is {MAX_ENV_BYTES}"
        )));
    }
    Secrets::new(&secrets).map_err(|error| invalid(error.to_string()))?;
    Ok((env, secrets))
}

fn check_variable(name: &str, value: &str) -> Result<(), Failure> {
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let shown: String = name.chars().take(64).collect();
        return Err(invalid(format!(
            "`{}` is not a variable name; use letters, digits and `_`, not a digit first",
            shown.escape_debug()
        )));
    }
    // The value is never shown: it may be a secret.
    if value.contains('\0') {
        return Err(invalid(format!(
            "the value of `{name}` has a NUL byte in it"
        )));
    }
    if name.len() + value.len() + 2 > MAX_ENV_ENTRY_BYTES {
        return Err(invalid(format!(
            "the value of `{name}` is too long; the limit is {MAX_ENV_ENTRY_BYTES} bytes with the name"
        )));
    }
    Ok(())
}

/// Something that a client says after `Start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Stdin(bytes::Bytes),
    CloseStdin,
    Signal(i32),
}

/// Checks a message after the first.
///
/// # Errors
/// `InvalidRequest`: a second start, a signal that may not be sent, a message of
/// a kind that this daemon does not know.
pub(crate) fn said(message: v1::RunRequest) -> Result<Said, Failure> {
    use v1::run_request::Message;
    match message.message {
        Some(Message::Stdin(data)) if data.len() > MAX_STDIN_PIECE_BYTES => {
            let has = data.len();
            Err(invalid(format!(
                "a piece of stdin has {has} bytes, the limit is {MAX_STDIN_PIECE_BYTES}"
            )))
        }
        Some(Message::Stdin(data)) => Ok(Said::Stdin(data)),
        Some(Message::CloseStdin(_)) => Ok(Said::CloseStdin),
        Some(Message::Signal(signal)) if SIGNALS.contains(&signal.number) => {
            Ok(Said::Signal(signal.number))
        }
        Some(Message::Signal(signal)) => Err(invalid(format!(
            "signal {} cannot be sent to a program",
            signal.number
        ))),
        Some(Message::Start(_)) => Err(invalid("a run has one `start`, this is the second")),
        None => Err(
            invalid("a message of a kind that this daemon does not know")
                .hint("client and daemon are of different versions: restart the daemon"),
        ),
    }
}

/// Takes the `Start` out of a run's first message.
///
/// # Errors
/// `InvalidRequest` for everything else.
pub(crate) fn first(message: Option<v1::RunRequest>) -> Result<v1::Start, Failure> {
    match message.map(|message| message.message) {
        Some(Some(v1::run_request::Message::Start(start))) => Ok(start),
        Some(_) => Err(invalid("the first message of a run must be `start`")),
        None => Err(invalid("the stream ended before `start`")),
    }
}

/// The number of a runtime on the wire.
#[must_use]
pub const fn runtime_to_wire(runtime: Runtime) -> v1::Runtime {
    match runtime {
        Runtime::Python => v1::Runtime::Python,
        Runtime::Node => v1::Runtime::Node,
        Runtime::Bun => v1::Runtime::Bun,
        Runtime::Deno => v1::Runtime::Deno,
        Runtime::Bash => v1::Runtime::Bash,
    }
}

/// The number of an engine on the wire.
#[must_use]
pub const fn engine_to_wire(engine: EngineKind) -> v1::Engine {
    match engine {
        EngineKind::Docker => v1::Engine::Docker,
        EngineKind::Native => v1::Engine::Native,
    }
}

#[cfg(test)]
mod tests;
