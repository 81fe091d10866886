//! `isol8d egress` as a command: what the process is before it is confined.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use isol8_egress::process;
use tracing::Level;

/// Carries traffic for the daemon at the other end of descriptor 0. Must be
/// called before any thread is started.
#[must_use]
pub fn carry(uid: Option<u32>) -> ExitCode {
    // Its stderr is the daemon's log, which has the time.
    tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_level(false)
        .without_time()
        .init();
    match process::main(uid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Confines this process and prints what it can do all the same. Must be called
/// before any thread is started.
#[must_use]
pub fn check(uid: Option<u32>, hidden: &[PathBuf]) -> ExitCode {
    match process::self_check::run(uid, hidden) {
        Ok(findings) => match io::stdout().write_all(findings.to_string().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => fail(&error),
    }
}

/// On one line: the daemon shows the last one.
fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let colon = if line.is_empty() { "" } else { ": " };
        line.push_str(&format!("{colon}{error}"));
        next = error.source();
    }
    line.push('\n');
    // With stderr gone there is nobody to tell.
    let _gone = io::stderr().write_all(line.as_bytes());
    ExitCode::FAILURE
}
