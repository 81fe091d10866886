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
/// `InvalidRequest` names the field, `NotYet` and `Unsupported` what cannot be
/// had, `Forbidden` the rule of the operator.
pub fn run_request(start: v1::Start, config: &Config) -> Result<RunRequest, Failure> {
    let runtime = runtime(start.runtime)?;
    if start.code.len() > MAX_CODE_BYTES {
        let (has, most) = (start.code.len(), MAX_CODE_BYTES);
        return Err(invalid(format!(
            "the program has {has} bytes, the limit is {most}"
        )));
    }
    let engine = engine(start.engine)?;
    let image = image(&start.image, engine)?;
    let defaults = within(&config.policy, config.defaults.limits);
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
    Ok(RunRequest {
        runtime,
        code: Code::new(&start.code),
        extension: extension(start.extension, runtime)?,
        engine,
        network: network(start.network)?,
        limits,
        writable: start.writable || !config.defaults.readonly_root,
        image,
        env,
        secrets,
        stdin: start.stdin,
        buffered: start.buffered,
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

fn network(number: i32) -> Result<Network, Failure> {
    let not_yet = |network: Network| {
        Failure::new(
            FailureKind::NotYet,
            format!("network `{network}` is not there yet"),
        )
        .hint("run it with `--net none`")
    };
    match v1::NetworkMode::try_from(number) {
        Ok(v1::NetworkMode::Unspecified | v1::NetworkMode::None) => Ok(Network::None),
        Ok(v1::NetworkMode::Host) => Err(not_yet(Network::Host)),
        Ok(v1::NetworkMode::Filtered) => Err(not_yet(Network::Filtered)),
        Err(_) => Err(invalid(format!("`{number}` is not a network mode"))),
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
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn start() -> v1::Start {
        v1::Start {
            runtime: v1::Runtime::Python.into(),
            code: bytes::Bytes::from_static(b"out hello"),
            ..Default::default()
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut v1::Start), message: Expect) {
        let mut start = start();
        change(&mut start);
        let failure = run_request(start, &Config::default()).expect_err("it is refused");
        message.assert_eq(&format!("{}: {}", failure.kind.name(), failure.message));
    }

    #[test]
    fn an_empty_request_gets_the_defaults() {
        let request = run_request(start(), &Config::default()).expect("a good request");
        assert_eq!(request.limits, RunLimits::default());
        assert_eq!(request.extension, "py");
        assert_eq!(request.engine, None);
        assert_eq!(request.network, Network::None);
        assert!(!request.writable);
    }

    #[test]
    fn runtimes_and_engines_must_be_known() {
        refused(
            |start| start.runtime = 0,
            expect!["invalid_request: `runtime` is not given"],
        );
        refused(
            |start| start.runtime = 99,
            expect!["invalid_request: `99` is not a runtime"],
        );
        refused(
            |start| start.engine = -1,
            expect!["invalid_request: `-1` is not an engine"],
        );
        refused(
            |start| start.network = 7,
            expect!["invalid_request: `7` is not a network mode"],
        );
    }

    #[test]
    fn networks_of_later_versions_are_said_to_be_missing() {
        refused(
            |start| start.network = v1::NetworkMode::Filtered.into(),
            expect!["not_yet: network `filtered` is not there yet"],
        );
        refused(
            |start| start.network = v1::NetworkMode::Host.into(),
            expect!["not_yet: network `host` is not there yet"],
        );
    }

    #[test]
    fn an_extension_is_never_a_path() {
        for bad in ["../x", "PY", "a.b", "123456789", "é", "p\ny", "\0", " "] {
            let start = v1::Start {
                extension: bad.to_owned(),
                ..start()
            };
            assert!(run_request(start, &Config::default()).is_err(), "{bad:?}");
        }
        refused(
            |start| start.extension = "p/y".to_owned(),
            expect![
                "invalid_request: `p/y` is not a file extension; use up to 8 lower-case letters and digits"
            ],
        );
    }

    #[test]
    fn environment_names_follow_the_grammar() {
        for bad in ["", "1A", "A-B", "A=B", "A B", "É", "A\0"] {
            let mut start = start();
            start.env.insert(bad.to_owned(), "x".to_owned());
            assert!(run_request(start, &Config::default()).is_err(), "{bad:?}");
        }
        refused(
            |start| {
                start.env.insert("A".to_owned(), "x\0y".to_owned());
            },
            expect!["invalid_request: the value of `A` has a NUL byte in it"],
        );
        refused(
            |start| {
                start.env.insert("A".to_owned(), "x".repeat(128 << 10));
            },
            expect![
                "invalid_request: the value of `A` is too long; the limit is 131072 bytes with the name"
            ],
        );
        refused(
            |start| {
                for n in 0..5 {
                    start.env.insert(format!("A{n}"), "x".repeat(120 << 10));
                }
            },
            expect!["invalid_request: the environment has 614420 bytes, the limit is 524288"],
        );
    }

    #[test]
    fn a_refusal_never_shows_a_secret() {
        let mut start = start();
        start.secrets.insert("KEY".to_owned(), "abc".to_owned());
        let failure = run_request(start, &Config::default()).expect_err("too short");
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert!(!format!("{failure:?}").contains("abc"), "{failure:?}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        refused(
            |start| start.limits.get_or_insert_default().timeout_ms = u64::MAX,
            expect![
                "invalid_request: a timeout of 18446744073709551615 ms is too long; the longest is 2592000000 ms"
            ],
        );
        refused(
            |start| start.limits.get_or_insert_default().memory_bytes = 1,
            expect!["invalid_request: memory of 1 is too little; the least is 6m"],
        );
        refused(
            |start| start.limits.get_or_insert_default().sandbox_bytes = u64::MAX,
            expect![
                "invalid_request: sandbox-size of 18446744073709551615 is too large; the most is 16t"
            ],
        );
        refused(
            |start| start.limits.get_or_insert_default().cpu_millis = 1,
            expect!["invalid_request: 1 thousandths of a core are out of range; use 10 to 1024000"],
        );
        refused(
            |start| start.limits.get_or_insert_default().pids = 40_000,
            expect!["invalid_request: 40000 processes are too many; the most is 32768"],
        );
        refused(
            |start| {
                start.buffered = true;
                start.limits.get_or_insert_default().max_output_bytes = 1 << 40;
            },
            expect!["invalid_request: a buffered run keeps at most 64m of each stream"],
        );
    }

    #[test]
    fn a_program_has_a_largest_size() {
        refused(
            |start| start.code = vec![b'#'; MAX_CODE_BYTES + 1].into(),
            expect!["invalid_request: the program has 16777217 bytes, the limit is 16777216"],
        );
        let largest = v1::Start {
            code: vec![b'#'; MAX_CODE_BYTES].into(),
            ..start()
        };
        assert!(run_request(largest, &Config::default()).is_ok());
    }

    #[test]
    fn images_need_a_name_and_docker() {
        refused(
            |start| start.image = "-v/:/host".to_owned(),
            expect!["invalid_request: `-v/:/host` is not an image name"],
        );
        refused(
            |start| {
                start.image = "alpine".to_owned();
                start.engine = v1::Engine::Native.into();
            },
            expect!["unsupported: the native engine runs no images"],
        );
    }

    #[test]
    fn the_operators_ceilings_hold() {
        let config = Config {
            policy: Policy {
                max_memory: Some(ByteSize::mib(256)),
                images: Some(vec!["alpine".to_owned()]),
                ..Policy::default()
            },
            ..Config::default()
        };
        let lowered = run_request(start(), &config).expect("it asks for nothing");
        assert_eq!(lowered.limits.memory, ByteSize::mib(256));
        let mut greedy = start();
        greedy.limits.get_or_insert_default().memory_bytes = 512 << 20;
        let failure = run_request(greedy, &config).expect_err("it is over it");
        assert_eq!(
            failure.message,
            "memory of 512m is over the operator's `policy.maxMemory`"
        );
        let mut other = start();
        other.limits.get_or_insert_default().memory_bytes = 64 << 20;
        other.image = "debian".to_owned();
        let failure = run_request(other, &config).expect_err("not allowed");
        assert_eq!(failure.kind, FailureKind::Forbidden);
    }

    #[test]
    fn messages_after_the_first_are_checked() {
        use v1::run_request::Message;
        let say = |message| said(v1::RunRequest { message });
        assert!(say(Some(Message::Start(start()))).is_err());
        assert!(say(None).is_err());
        for number in [-1, 0, 11, 17, 19, 64, 1000] {
            assert!(say(Some(Message::Signal(v1::Signal { number }))).is_err());
        }
        let int = say(Some(Message::Signal(v1::Signal { number: 2 })));
        assert_eq!(int, Ok(Said::Signal(2)));
        assert!(first(None).is_err());
        let close = Message::CloseStdin(v1::CloseStdin {});
        assert!(
            first(Some(v1::RunRequest {
                message: Some(close)
            }))
            .is_err()
        );
    }
}
