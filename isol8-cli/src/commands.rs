//! One file per command.

mod build;
mod cleanup;
mod completions;
mod config;
mod daemon;
mod doctor;
mod key;
mod man;
mod progress;
mod run;
mod serve;
mod session;
mod setup;
mod status;
mod table;

use std::{future::Future, io::Write as _};

use isol8_core::failure::{Failure, FailureKind};

use crate::{args::Command, console::Console, exit::Exit, paths::Paths};

/// Does what was typed.
///
/// # Errors
/// What the person is told.
pub(crate) fn perform(command: Command, debug: bool, console: &Console) -> Result<Exit, Failure> {
    let paths = Paths::from_env();
    match command {
        Command::Run(args) => run::run(*args, &paths, console),
        Command::Setup(args) => wait(setup::setup(&args, &paths, console)),
        Command::Build(args) => wait(build::build(&args, &paths, console)),
        Command::Session(command) => wait(session::session(command, &paths, console)),
        Command::Cleanup(args) => wait(cleanup::cleanup(&args, &paths, console)),
        Command::Key(args) => key::key(args, &paths, console),
        Command::Serve(args) => serve::serve(args, debug, &paths, console),
        Command::Config(args) => config::config(&args),
        Command::Status { json } => wait(status::status(json, &paths, console)),
        Command::Doctor { json } => wait(doctor::doctor(json, &paths, console)),
        Command::Daemon(command) => wait(daemon::daemon(&command, &paths, console)),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { folder } => man::man(&folder),
    }
}

/// Runs one command to its end. One thread: with more, a message from the
/// daemon would take two to three times as long to reach us.
fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(FailureKind::Internal, "cannot start").because(&error))?;
    let result = runtime.block_on(work);
    // A thread that reads stdin may never end; the process does not wait for it.
    runtime.shutdown_background();
    result
}

/// Prints what was asked for on stdout. A reader who has seen enough is no error.
fn answer(text: &[u8]) -> Result<Exit, Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::StdoutClosed),
        Err(error) => {
            Err(Failure::new(FailureKind::NoSpace, "cannot write to stdout").because(&error))
        }
    }
}

/// As [`answer`], for JSON.
fn answer_json(value: &impl serde::Serialize) -> Result<Exit, Failure> {
    let mut text = serde_json::to_vec_pretty(value).expect("our own values are JSON");
    text.push(b'\n');
    answer(&text)
}
