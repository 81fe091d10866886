//! PID 1 of every sandbox, and outside of it the launcher of native jails.
//!
//! As PID 1 (`isol8-init SOCKET`) it dials the daemon and does what it is told
//! until the stream ends; the kernel then ends every process of the sandbox. With
//! `--egress` it first opens the [`door`] to the filtered network. With `--lasting`
//! the end of the stream ends only what runs at that moment, and it dials again,
//! until there has been no daemon for a day (or for `--orphan-ms N`). It
//! runs as the sandbox's own user, so the program may send it signals and look
//! for it in /proc: it takes none of the signals, and is not dumpable.
//!
//! Reading order: [`supervisor`] is the one loop; [`line`](mod@line) the stream to
//! the daemon and [`wire`] its frames; [`program`] the pipes and the end of what
//! runs, [`offspring`] what it has started, [`leftovers`] what writes on after it;
//! [`command`] how it starts; [`parked`] the interpreter that waits; [`place`] where
//! files may be, [`file`](mod@file) what is put there, [`fetch`] what is taken from
//! there, [`remove`] what is removed; [`door`] the way to the proxy; [`sys`] the
//! kernel.

mod line;
mod supervisor;
mod wire;

mod command;
mod leftovers;
mod offspring;
mod parked;
mod program;

mod door;
mod fetch;
mod file;
mod place;
mod remove;

mod launch;
mod sys;

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use door::Door;
use line::{Line, ORPHANED};
use supervisor::Supervisor;
use wire::LinkError;

/// Exit code for a command line that makes no sense (`EX_USAGE`).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(mode) if mode == "launch" => launch::main(&args.collect::<Vec<OsString>>()),
        Some(socket) => match Options::parse(args) {
            Some(options) => supervise(Path::new(&socket), &options),
            None => usage(),
        },
        None => usage(),
    }
}

fn usage() -> ExitCode {
    complain(
        "usage: isol8-init SOCKET [--egress] [--lasting [--orphan-ms N]] | isol8-init launch …",
    );
    ExitCode::from(USAGE)
}

/// What PID 1 is told when it is started.
#[derive(Debug, Default)]
struct Options {
    egress: bool,
    lasting: bool,
    orphaned: Option<Duration>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut options = Self::default();
        while let Some(option) = args.next() {
            match option.to_str()? {
                "--egress" => options.egress = true,
                "--lasting" => options.lasting = true,
                "--orphan-ms" => {
                    let number = args.next()?.to_str()?.parse().ok()?;
                    options.orphaned = Some(Duration::from_millis(number));
                }
                _ => return None,
            }
        }
        (options.lasting || options.orphaned.is_none()).then_some(options)
    }

    /// How long it may go without a daemon; `None`: not at all.
    fn alone(&self) -> Option<Duration> {
        self.lasting.then(|| self.orphaned.unwrap_or(ORPHANED))
    }
}

fn supervise(socket: &Path, options: &Options) -> ExitCode {
    match run(socket, options) {
        LinkError::Closed | LinkError::Orphaned => ExitCode::SUCCESS,
        error => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &Path, options: &Options) -> LinkError {
    let start = || {
        sys::reserve_stdio()?;
        sys::harden()?;
        // Before anybody else runs here.
        let door = options.egress.then(Door::open).transpose()?;
        let children = sys::child_signals()?;
        let line = Line::dial(socket, door, options.alone())?;
        let mut supervisor = Supervisor::new(line, children);
        supervisor.greet()?;
        Ok(supervisor)
    };
    start().map_or_else(|error| error, Supervisor::serve)
}

/// A last word for whoever looks at the sandbox from outside.
fn complain(what: &str) {
    let _nobody_may_listen = writeln!(io::stderr(), "isol8-init: {what}");
}
