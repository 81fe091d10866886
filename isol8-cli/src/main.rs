//! The isol8 command line.
//!
//! Reading order: what was typed ([`args`]), what it asks for ([`settings`],
//! [`plan`]) and keeps for later ([`dependencies`]), where the daemon is
//! ([`paths`]) and how to reach it ([`connect`], [`launch`]) or one on another
//! machine ([`remote`]), the run itself ([`run`]), how it ends ([`exit`],
//! [`report`]), how we speak ([`console`]), and one file per command ([`commands`]).
//!
//! stdout belongs to the program that runs; every word of ours goes to stderr,
//! except where the answer itself was asked for (`status`, `config`, …).

mod args;
mod dependencies;
mod plan;
mod settings;

mod connect;
mod launch;
mod logfile;
mod paths;

mod remote;
mod run;

mod exit;
mod report;

mod commands;
mod console;

use std::{
    env,
    ffi::OsString,
    process::{ExitCode, Termination},
};

use clap::Parser as _;

use crate::{args::Args, console::Console, exit::Exit};

fn main() -> ExitCode {
    let argv: Vec<OsString> = env::args_os().collect();
    if let Some(exit) = launch::as_detached(&argv) {
        return exit.report();
    }
    let exit = match Args::try_parse_from(&argv) {
        Ok(args) => {
            let console = Console::new(args.debug);
            commands::perform(args.command, args.debug, &console).unwrap_or_else(|failure| {
                console.failure(&failure);
                Exit::of(&failure)
            })
        }
        Err(error) => args::refuse(&error, &argv),
    };
    exit.report()
}
