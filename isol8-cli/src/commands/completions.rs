//! `isol8 completions`.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use isol8_core::failure::Failure;

use super::answer;
use crate::{args::Args, exit::Exit};

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), "isol8", &mut script);
    answer(&script)
}
