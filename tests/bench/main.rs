//! The benchmark behind `make bench`: every figure is a ratio between two things
//! measured in the same run on the same machine, sample by sample in turn, so
//! that a noisy neighbour slows both sides alike.
//!
//! [`stage`] starts a daemon of the benchmark's own, [`sample`] times and
//! summarises, [`subjects`] are the things that are timed, [`figures`] says what
//! is compared with what and how far it may be ([`network`], [`install`],
//! [`session`] and [`http`] for what they are about), [`report`] prints.

mod figures;
mod http;
mod install;
mod network;
mod report;
mod sample;
mod session;
mod stage;
mod subjects;

use std::{path::PathBuf, process::ExitCode};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Samples of each quick thing; slow ones take fewer.
    pub(crate) samples: usize,
    /// Leave out what needs a Docker engine.
    pub(crate) docker: bool,
    /// Where the JSON goes.
    pub(crate) json: PathBuf,
    /// Only figures whose name contains this.
    pub(crate) only: Option<String>,
}

const USAGE: &str = "usage: isol8-bench [--samples N] [--no-docker] [--json FILE] [--only TEXT]";

fn options() -> Result<Options, String> {
    let mut options = Options {
        samples: 60,
        docker: true,
        json: PathBuf::from("target/bench.json"),
        only: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--samples" => options.samples = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--json" => options.json = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--no-docker" => options.docker = false,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

#[expect(clippy::print_stderr, reason = "the benchmark talks to a person")]
fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the kernel gives an event loop");
    match runtime.block_on(figures::measure(&options)) {
        Ok(figures) => match report::publish(&figures, &options.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
