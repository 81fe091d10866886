//! PID 1 of every sandbox, and outside of it the launcher of native jails.

mod launch;

use std::{env, ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(mode) if mode == "launch" => launch::main(&args.collect::<Vec<OsString>>()),
        _ => ExitCode::from(64),
    }
}
