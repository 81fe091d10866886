//! The command line as typed. Nothing here is checked beyond its shape: values
//! are judged in [`crate::plan`], where a message can say more than clap can,
//! and where a secret in a wrong place stays out of it.

mod key;
mod serve;
mod session;

use std::{ffi::OsString, io, path::PathBuf};

use clap::{
    Args as ClapArgs, Parser, Subcommand,
    error::{Error, ErrorKind},
};
use isol8_core::failure::{Failure, FailureKind};

use crate::{
    console::Console,
    exit::{EXIT_CODES, Exit},
};

pub(crate) use key::{AddArgs, KeyArgs, KeyCommand};
pub(crate) use serve::ServeArgs;
pub(crate) use session::SessionCommand;

/// Runs code you do not trust in a sandbox of its own, in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "isol8", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Say on stderr what isol8 is doing, in lines marked [DEBUG]
    #[arg(long, global = true)]
    pub(crate) debug: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program in a fresh sandbox, or in a session
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Build the base images of the Docker engine, and custom ones with packages
    Setup(SetupArgs),
    /// Build a custom image: a base image with packages in it
    Build(BuildArgs),
    /// List and remove sessions, and copy files into them and out of them
    #[command(subcommand)]
    Session(SessionCommand),
    /// Remove every sandbox that no run and no session in use needs
    ///
    /// Sessions that are idle go too, with the files in them. Shows what would
    /// go and asks first. Ends with 125 if something could not be removed.
    Cleanup(CleanupArgs),
    /// Serve the HTTP API to other programs and machines
    Serve(ServeArgs),
    /// Make, list and remove the keys that `isol8 serve` lets in
    Key(KeyArgs),
    /// Show the resolved configuration and where it came from
    Config(ConfigArgs),
    /// Show the daemon, its engines and its pool
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check everything that can stop a run, and say how to mend it
    ///
    /// Ends with 1 if a check failed.
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start, stop or watch the daemon
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Print shell completions
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder that is there
    #[command(hide = true)]
    Man {
        /// Where to
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Start the daemon, unless one answers
    Start,
    /// Stop the daemon and wait until it is gone
    Stop,
    /// Print the daemon's log
    Logs {
        /// Go on printing what is added
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    /// Print JSON
    #[arg(long, conflicts_with = "schema")]
    pub(crate) json: bool,
    /// Print the JSON Schema of the configuration file
    #[arg(long)]
    pub(crate) schema: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CleanupArgs {
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) force: bool,
    /// Remove the images of isol8 as well
    #[arg(long)]
    pub(crate) images: bool,
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupArgs {
    /// Build even where nothing changed
    #[arg(long)]
    pub(crate) force: bool,
    /// Packages for every python run, separated by commas: they are added to the
    /// configuration and to the custom image (repeatable, as the others)
    #[arg(long, value_name = "PACKAGES", allow_hyphen_values = true)]
    pub(crate) python: Vec<String>,
    /// Packages for every node run
    #[arg(long, value_name = "PACKAGES", allow_hyphen_values = true)]
    pub(crate) node: Vec<String>,
    /// Packages for every bun run
    #[arg(long, value_name = "PACKAGES", allow_hyphen_values = true)]
    pub(crate) bun: Vec<String>,
    /// Packages for every deno run, such as npm:chalk@5
    #[arg(long, value_name = "PACKAGES", allow_hyphen_values = true)]
    pub(crate) deno: Vec<String>,
    /// Packages of the system for every bash run
    #[arg(long, value_name = "PACKAGES", allow_hyphen_values = true)]
    pub(crate) bash: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BuildArgs {
    /// The runtime whose base image it is built on: python, node, bun, deno or bash
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) base: String,
    /// A package, or several with commas between them (repeatable)
    #[arg(
        long,
        value_name = "PACKAGES",
        allow_hyphen_values = true,
        required = true
    )]
    pub(crate) install: Vec<String>,
    /// Another name for the image; `:latest` is added where it has no tag
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: Option<String>,
    /// Build even where the image is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs, Default)]
pub(crate) struct RunArgs {
    /// The program; without it and without --eval, stdin is the program
    pub(crate) file: Option<PathBuf>,

    /// Inline code
    #[arg(short, long, value_name = "CODE", allow_hyphen_values = true)]
    pub(crate) eval: Option<String>,
    /// python, node, bun, deno or bash [default: by the file's extension, else python]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Data for the program's standard input
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) stdin: Option<String>,
    /// Stream our standard input to the program, even from a terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Install a package before the run (repeatable); brings `--net filtered`,
    /// open to the registry, unless --net is given
    #[arg(long, value_name = "PACKAGE", allow_hyphen_values = true)]
    pub(crate) install: Vec<String>,
    /// Install into the sandbox of this run alone: neither use nor fill the
    /// cache of packages
    #[arg(long)]
    pub(crate) no_install_cache: bool,

    /// What the program can reach: none, host or filtered (HTTP and HTTPS to
    /// the hosts that the lists let through) [default: none]
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    pub(crate) net: Option<String>,
    /// Hosts that `filtered` lets through: a regex that must match the whole
    /// name (repeatable) [default: the configuration's list]
    #[arg(
        long,
        value_name = "REGEX",
        allow_hyphen_values = true,
        help_heading = "Network"
    )]
    pub(crate) allow: Vec<String>,
    /// Hosts that `filtered` blocks: a regex that may match anywhere in the
    /// name (repeatable) [default: the configuration's list]
    #[arg(
        long,
        value_name = "REGEX",
        allow_hyphen_values = true,
        help_heading = "Network"
    )]
    pub(crate) deny: Vec<String>,
    /// Print the requests of `filtered`, allowed and blocked, as JSON lines on
    /// stderr at the end
    #[arg(long, help_heading = "Network")]
    pub(crate) log_network: bool,

    /// Milliseconds for the whole run [default: 30000]
    #[arg(
        long,
        value_name = "MS",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) timeout: Option<String>,
    /// Memory, files in tmpfs included [default: 512m]
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) memory: Option<String>,
    /// Cores, fractions allowed [default: 1]
    #[arg(
        long,
        value_name = "CORES",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) cpu: Option<String>,
    /// Processes and threads [default: 64]
    #[arg(
        long,
        value_name = "COUNT",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) pids_limit: Option<String>,
    /// Size of /sandbox [default: 512m]
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) sandbox_size: Option<String>,
    /// Size of /tmp [default: 256m]
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) tmp_size: Option<String>,
    /// Bytes kept of each output stream [default: 1048576]
    #[arg(
        long,
        value_name = "BYTES",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub(crate) max_output: Option<String>,

    /// Make the root filesystem writable for this run
    #[arg(long, help_heading = "Sandbox")]
    pub(crate) writable: bool,
    /// An image in place of the runtime's own (Docker engine)
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub(crate) image: Option<String>,
    /// auto, docker or native [default: the configuration's]
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub(crate) engine: Option<String>,
    /// An environment variable (repeatable)
    #[arg(
        long,
        value_name = "KEY=VALUE",
        allow_hyphen_values = true,
        help_heading = "Sandbox"
    )]
    pub(crate) env: Vec<String>,
    /// An environment variable whose value is masked in all output; KEY alone
    /// takes the value from our own environment (repeatable)
    #[arg(
        long,
        value_name = "KEY[=VALUE]",
        allow_hyphen_values = true,
        help_heading = "Sandbox"
    )]
    pub(crate) secret: Vec<String>,
    /// Run in a session: a sandbox that stays, with its files and background
    /// processes, until it is removed
    #[arg(long, help_heading = "Sandbox")]
    pub(crate) persistent: bool,
    /// Which session, brings `--persistent` [default: default]
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub(crate) session: Option<String>,
    /// Keep the sandbox after the run, to look into it; with a session, after it
    /// was removed
    #[arg(long, help_heading = "Sandbox")]
    pub(crate) persist: bool,

    /// Print after completion
    #[arg(long, conflicts_with = "stream", help_heading = "Output")]
    pub(crate) no_stream: bool,
    /// Print as it comes (the default)
    #[arg(long, help_heading = "Output")]
    pub(crate) stream: bool,
    /// Copy stdout to a file as well
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// Print the result as JSON, and nothing else
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// A remote `isol8 serve` to run on, http://… or https://… (proxies of the
    /// environment are not used)
    #[arg(long, value_name = "URL", help_heading = "Remote")]
    pub(crate) host: Option<String>,
    /// The key for --host [default: $ISOL8_API_KEY]
    #[arg(
        long,
        value_name = "KEY",
        allow_hyphen_values = true,
        help_heading = "Remote"
    )]
    pub(crate) key: Option<String>,
}

impl RunArgs {
    /// Whether the run is in a session, and not in a sandbox of its own.
    pub(crate) fn in_session(&self) -> bool {
        self.persistent || self.session.is_some()
    }
}

/// Answers `--help` and `--version`, and prints what clap found wrong.
pub(crate) fn refuse(error: &Error, argv: &[OsString]) -> Exit {
    if error.kind() == ErrorKind::InvalidUtf8 {
        Console::new(false).failure(&invalid_utf8(argv));
        return Exit::Usage;
    }
    match error.print() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::StdoutClosed,
        _ if error.use_stderr() => Exit::Usage,
        _ => Exit::Done,
    }
}

/// Names the place, not the value: it may be a secret.
fn invalid_utf8(argv: &[OsString]) -> Failure {
    let place = argv.iter().position(|argument| argument.to_str().is_none());
    let message = match place {
        Some(place) => format!("argument {place} is not valid UTF-8"),
        None => "an argument is not valid UTF-8".to_owned(),
    };
    let failure = Failure::new(FailureKind::InvalidRequest, message);
    let before = place
        .and_then(|place| argv.get(place.checked_sub(1)?)?.to_str())
        .filter(|before| before.starts_with('-') && !before.contains('='));
    let failure = match before {
        Some(flag) => failure.cause(format!("it follows `{flag}`")),
        None => failure,
    };
    failure.hint("put the program in a file: `isol8 run program.py`; data can come through stdin")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn invalid_utf8_is_named_by_its_place_alone() {
        let argv = ["isol8", "run", "--secret"]
            .map(OsString::from)
            .into_iter()
            .chain([OsString::from_vec(b"K=hunter2\xff".to_vec())])
            .collect::<Vec<_>>();
        let text = invalid_utf8(&argv).to_string();
        assert_eq!(text, "argument 3 is not valid UTF-8: it follows `--secret`");
    }
}
