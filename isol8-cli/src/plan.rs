//! From what was typed to what is asked: every value is checked here, once, and
//! what comes out is complete.
//!
//! Values are judged first, and only then the program is read: a wrong flag never
//! waits for stdin.

mod limits;
mod network;
mod packages;
mod remote;
mod source;
mod variables;

use std::{ffi::OsString, io, path::PathBuf};

use bytes::Bytes;
use isol8_core::{
    config::{Config, EngineChoice, search::Trust},
    failure::{Failure, FailureKind},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName},
    session::SessionName,
};
use isol8_proto::v1::{Dependencies, Engine, Runtime as WireRuntime, Start};

use crate::{args::RunArgs, remote::Remote};

pub(crate) use packages::{Written, listed, parsed};

/// The session of `--persistent`.
const DEFAULT_SESSION: &str = "default";

/// One run, ready to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) start: Start,
    pub(crate) stdin: Stdin,
    /// Where it takes place, if it is not here.
    pub(crate) remote: Option<Box<Remote>>,
    pub(crate) json: bool,
    pub(crate) out: Option<PathBuf>,
    /// What the person should hear before the run.
    pub(crate) warnings: Vec<String>,
}

/// What the program reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// Nothing: end of file from the start.
    Closed,
    /// These bytes, then end of file.
    Data(Bytes),
    /// Whatever comes on our own standard input.
    Stream,
}

/// What our own standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StdinKind {
    /// A person may type there.
    Terminal,
    /// There is nothing to read, as in `/dev/null`.
    Nothing,
    /// A pipe, a file, a socket.
    Readable,
}

/// What a plan depends on besides the arguments.
pub(crate) struct World<'a> {
    pub(crate) stdin: StdinKind,
    /// Reads our standard input up to this many bytes.
    pub(crate) read_stdin: &'a mut dyn FnMut(u64) -> io::Result<Vec<u8>>,
    pub(crate) env: &'a dyn Fn(&str) -> Option<OsString>,
    pub(crate) config: &'a Config,
    /// The configuration was found in a file, so its values beat the daemon's.
    pub(crate) configured: bool,
    /// Where its file is: the working directory's may come from anybody.
    pub(crate) trust: Trust,
    /// Whether that file has this dotted key.
    pub(crate) given: &'a dyn Fn(&str) -> bool,
}

/// Checks everything and reads the program.
///
/// # Errors
/// `InvalidRequest` for whatever was typed wrong.
pub(crate) fn plan(args: RunArgs, world: &mut World<'_>) -> Result<Plan, Failure> {
    let source = source::choose(&args)?;
    let runtime = source::runtime(&source, args.runtime.as_deref())?;
    let stdin = stdin(&args, &source, world.stdin)?;
    let limits = limits::typed(&args)?;
    let session = session(&args)?;
    let (engine, default_engine) = engines(&args, world.config)?;
    let read_write = !world.config.defaults.readonly_root;
    let image = image(args.image.as_deref())?;
    let env = variables::plain(&args.env)?;
    let secrets = variables::secret(&args.secret, world.env)?;
    let install = packages::packages(&args, runtime)?;
    let mut reach = network::reach(&args, world)?;
    let remote = remote::remote(&args, world)?;
    reach.warnings.extend(
        remote
            .iter()
            .flat_map(|remote| remote::warnings(remote, world)),
    );
    let program = source::read(&source, runtime, world)?;
    let start = Start {
        runtime: wire(runtime).into(),
        code: program.code,
        extension: program.extension,
        engine: engine.into(),
        default_engine: default_engine.into(),
        default_writable: args.in_session() && read_write,
        network: reach.mode.into(),
        limits: Some(limits),
        defaults: limits::configured(world),
        writable: args.writable || (!args.in_session() && read_write),
        image,
        env,
        secrets,
        stdin: stdin != Stdin::Closed,
        buffered: args.no_stream || args.json,
        install,
        no_install_cache: args.no_install_cache,
        filter: reach.filter,
        default_filter: reach.default_filter,
        log_network: args.log_network,
        dependencies: dependencies(runtime, world),
        session,
        persist: args.persist,
        lane: String::new(),
    };
    Ok(Plan {
        start,
        stdin,
        remote: remote.map(Box::new),
        json: args.json,
        out: args.out,
        warnings: reach.warnings,
    })
}

/// The number of a runtime on the wire.
pub(crate) const fn wire(runtime: Runtime) -> WireRuntime {
    match runtime {
        Runtime::Python => WireRuntime::Python,
        Runtime::Node => WireRuntime::Node,
        Runtime::Bun => WireRuntime::Bun,
        Runtime::Deno => WireRuntime::Deno,
        Runtime::Bash => WireRuntime::Bash,
    }
}

/// What our file says in place of the daemon's own.
fn dependencies(runtime: Runtime, world: &World<'_>) -> Option<Dependencies> {
    if !(world.given)(&format!("dependencies.{runtime}")) {
        return None;
    }
    let packages = world.config.dependencies.get(&runtime).cloned();
    Some(Dependencies {
        packages: packages.unwrap_or_default(),
    })
}

/// A usage error.
fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidRequest, message)
}

fn stdin(args: &RunArgs, source: &source::Source, kind: StdinKind) -> Result<Stdin, Failure> {
    if let Some(data) = &args.stdin {
        if args.interactive {
            return Err(
                wrong("`--stdin` and `--interactive` are two sources for one stdin")
                    .hint("leave one of them out"),
            );
        }
        return Ok(match data.as_str() {
            "" => Stdin::Closed,
            data => Stdin::Data(Bytes::copy_from_slice(data.as_bytes())),
        });
    }
    match source {
        source::Source::Stdin if args.interactive => Err(wrong(
            "`--interactive` cannot stream stdin: the program itself is read from it",
        )
        .hint("give the program as a file or with `-e`")),
        source::Source::Stdin => Ok(Stdin::Closed),
        _ if args.interactive || kind == StdinKind::Readable => Ok(Stdin::Stream),
        _ => Ok(Stdin::Closed),
    }
}

/// The session that the run is in. It must have been made with what is typed
/// now; what nobody typed is the configuration's wish for a sandbox that is made,
/// and the daemon's own file says that.
fn session(args: &RunArgs) -> Result<Option<String>, Failure> {
    if !args.in_session() {
        return Ok(None);
    }
    let name = args.session.as_deref().unwrap_or(DEFAULT_SESSION);
    session_name(name, "--session work").map(|name| Some(name.as_str().to_owned()))
}

/// The name of a session. `example` is how one is written in that place.
///
/// # Errors
/// `InvalidRequest` for what is none.
pub(crate) fn session_name(text: &str, example: &str) -> Result<SessionName, Failure> {
    SessionName::parse(text).map_err(|error| {
        wrong(error.to_string())
            .cause("a name has 1 to 64 letters, digits and `._-`, a letter or digit first")
            .hint(format!("write it like `{example}`"))
    })
}

/// What is typed, and what the environment or the file says: one that is there
/// must have been made with the first, and a new session gets the second.
fn engines(args: &RunArgs, config: &Config) -> Result<(Engine, Engine), Failure> {
    let typed = match args.engine.as_deref() {
        // They speak of this machine.
        None if args.host.is_some() => return Ok((Engine::Unspecified, Engine::Unspecified)),
        None => return Ok(default_engine(args, wire_engine(config.engine))),
        Some("auto") => EngineChoice::Auto,
        Some("docker") => EngineChoice::Only(EngineKind::Docker),
        Some("native") => EngineChoice::Only(EngineKind::Native),
        Some(other) => {
            return Err(wrong(format!("`{other}` is not an engine"))
                .hint("choose `--engine auto`, `docker` or `native`"));
        }
    };
    Ok((wire_engine(typed), Engine::Unspecified))
}

fn default_engine(args: &RunArgs, engine: Engine) -> (Engine, Engine) {
    match args.in_session() {
        true => (Engine::Unspecified, engine),
        false => (engine, Engine::Unspecified),
    }
}

const fn wire_engine(choice: EngineChoice) -> Engine {
    match choice {
        EngineChoice::Auto => Engine::Unspecified,
        EngineChoice::Only(EngineKind::Docker) => Engine::Docker,
        EngineChoice::Only(EngineKind::Native) => Engine::Native,
    }
}

fn image(flag: Option<&str>) -> Result<String, Failure> {
    let Some(name) = flag else {
        return Ok(String::new());
    };
    let name = ImageName::parse(name).map_err(|error| {
        wrong(error.to_string()).hint("write it like `--image python:3.13-slim`")
    })?;
    Ok(name.as_str().to_owned())
}

#[cfg(test)]
mod tests;
