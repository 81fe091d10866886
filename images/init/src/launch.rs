//! `isol8-init launch …`: makes a native jail, outside of any sandbox.

use std::{ffi::OsString, process::ExitCode};

/// Exit code for a command line that makes no sense (`EX_USAGE`).
const USAGE: u8 = 64;

pub(crate) fn main(_args: &[OsString]) -> ExitCode {
    ExitCode::from(USAGE)
}
