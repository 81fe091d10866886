//! `isol8 run`.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
};

use isol8_core::{
    config::{Source, search::Trust},
    failure::{Failure, FailureKind},
};
use isol8_proto::v1::{Limits, Start};
use jiff::Timestamp;
use rustix::{fs::FileType, stdio};

use super::{answer, wait};
use crate::{
    args::RunArgs,
    connect,
    console::Console,
    exit::Exit,
    paths::Paths,
    plan::{self, Plan, StdinKind, World},
    report::{self, Asked},
    run::{
        self, Ended, Peer,
        output::{Output, OutputError, is_null},
    },
    settings,
};

/// Runs a program and ends as it ends.
pub(super) fn run(args: RunArgs, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let (settings, found) = settings::load_text()?;
    let mut world = World {
        stdin: stdin_kind(),
        read_stdin: &mut |most| read_stdin(most, console),
        env: &|name| env::var_os(name),
        config: &settings.config,
        configured: settings.file.is_some(),
        trust: found.map_or(Trust::Full, |found| found.trust),
        given: &|key| *settings.source(key) != Source::Default,
    };
    let plan = plan::plan(args, &mut world)?;
    for warning in &plan.warnings {
        console.warning(warning);
    }
    wait(execute(plan, paths, console))
}

async fn execute(mut plan: Plan, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let copy = match &plan.out {
        Some(path) => Some((path.clone(), create(path)?)),
        None => None,
    };
    let json = plan.json;
    let limits = in_force(&plan.start);
    // Who asks for JSON has the id in it, and wants nothing to read.
    let asked = (!json).then_some(Asked {
        persist: plan.start.persist,
        session: plan.start.session.is_some(),
        remote: plan.remote.is_some(),
    });
    let started = Timestamp::now();
    let peer = match plan.remote.take() {
        Some(remote) => Peer::Gateway(remote),
        None => Peer::Daemon(connect::dial_or_start(paths, console).await?),
    };
    let output = Output::new(json, copy);
    let finished = match run::carry_out(&peer, plan, output, console).await? {
        Ended::Exited(finished) => finished,
        Ended::Interrupted(signal) => {
            console.debug(format_args!("signal {signal} cancelled the run"));
            return Ok(Exit::Interrupted(u8::try_from(signal).unwrap_or(u8::MAX)));
        }
        Ended::Output(OutputError::StdoutClosed) => return Ok(Exit::StdoutClosed),
        Ended::Output(OutputError::Stdout(why)) => {
            return Err(Failure::new(FailureKind::NoSpace, "cannot write to stdout").cause(why));
        }
    };
    let mut conclusion = report::conclude(&finished.exited, &limits);
    if matches!(peer, Peer::Gateway(_)) {
        conclusion = conclusion.elsewhere();
    }
    if json {
        let object = report::result_object(&finished, &conclusion, started);
        if answer(&object)? == Exit::StdoutClosed {
            return Ok(Exit::StdoutClosed);
        }
    }
    Ok(report::tell(&finished, conclusion, asked, console))
}

/// What the run was bounded by, as far as it is known here.
fn in_force(start: &Start) -> Limits {
    let typed = start.limits.unwrap_or_default();
    let defaults = start.defaults.unwrap_or_default();
    let or = |typed: u64, default: u64| if typed > 0 { typed } else { default };
    Limits {
        timeout_ms: or(typed.timeout_ms, defaults.timeout_ms),
        memory_bytes: or(typed.memory_bytes, defaults.memory_bytes),
        ..typed
    }
}

fn create(path: &std::path::Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::new(
            FailureKind::InvalidRequest,
            format!("cannot write the copy of stdout to `{}`", path.display()),
        )
        .because(&error)
        .hint("give `--out` a file in a folder that you may write to")
    })
}

/// A terminal, nothing (`/dev/null`, or closed), or something to read.
fn stdin_kind() -> StdinKind {
    if rustix::termios::isatty(stdio::stdin()) {
        return StdinKind::Terminal;
    }
    match rustix::fs::fstat(stdio::stdin()) {
        Err(_) => StdinKind::Nothing,
        Ok(stat) => {
            let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
            if device && is_null(stat.st_rdev) {
                StdinKind::Nothing
            } else {
                StdinKind::Readable
            }
        }
    }
}

fn read_stdin(most: u64, console: &Console) -> io::Result<Vec<u8>> {
    if stdin_kind() == StdinKind::Terminal {
        console.note("reading the program from the terminal; Ctrl-D ends it");
    }
    let mut code = Vec::new();
    io::stdin().lock().take(most).read_to_end(&mut code)?;
    Ok(code)
}
