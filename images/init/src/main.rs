//! PID 1 of every sandbox, and outside of it the launcher of native jails.
//!
//! As PID 1 (`isol8-init SOCKET`) it dials the daemon and does what it is told
//! until the stream ends; the kernel then ends every process of the sandbox. With
//! `--egress` it first opens the [`door`] to the filtered network. It
//! runs as the sandbox's own user, so the program may send it signals and look
//! for it in /proc: it takes none of the signals, and is not dumpable.
//!
//! Reading order: [`supervisor`] is the one loop; [`wire`] the frames;
//! [`program`] the pipes and the end of what runs; [`command`] how it starts;
//! [`parked`] the interpreter that waits; [`file`] what is put into /sandbox;
//! [`fetch`] what is taken out of it; [`door`] the way to the proxy; [`sys`] the kernel.

mod supervisor;
mod wire;

mod command;
mod door;
mod fetch;
mod file;
mod parked;
mod program;

mod launch;
mod sys;

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use door::Door;
use supervisor::Supervisor;
use wire::LinkError;

/// Exit code for a command line that makes no sense (`EX_USAGE`).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match (args.next(), args.len()) {
        (Some(mode), _) if mode == "launch" => launch::main(&args.collect::<Vec<OsString>>()),
        (Some(socket), 0) => supervise(Path::new(&socket), false),
        (Some(socket), 1) if args.next().is_some_and(|option| option == "--egress") => {
            supervise(Path::new(&socket), true)
        }
        _ => {
            complain("usage: isol8-init SOCKET [--egress] | isol8-init launch …");
            ExitCode::from(USAGE)
        }
    }
}

fn supervise(socket: &Path, egress: bool) -> ExitCode {
    match run(socket, egress) {
        LinkError::Closed => ExitCode::SUCCESS,
        error => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &Path, egress: bool) -> LinkError {
    let start = || {
        sys::reserve_stdio()?;
        sys::harden()?;
        // Before anybody else runs here.
        let door = egress.then(Door::open).transpose()?;
        let mut supervisor = Supervisor::dial(socket, door)?;
        supervisor.greet()?;
        Ok(supervisor)
    };
    start().map_or_else(|error| error, Supervisor::serve)
}

/// A last word for whoever looks at the sandbox from outside.
fn complain(what: &str) {
    let _nobody_may_listen = writeln!(io::stderr(), "isol8-init: {what}");
}
