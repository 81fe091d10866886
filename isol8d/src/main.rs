//! `isol8d`: makes a daemon of the parts and keeps it until a signal ends it.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use isol8_core::failure::{Failure, FailureKind};
use isol8d::{
    assembly,
    daemon::Daemon,
    doctor,
    egress::entrance,
    log,
    paths::{Paths, Wishes},
    signals,
    socket::{Socket, SocketError},
};

/// A live daemon has the socket already: no failure for whoever wanted one.
const ALREADY_RUNNING: u8 = 3;

/// Work on other threads that has not ended by then is left to the kernel.
const THREADS_GRACE: Duration = Duration::from_secs(1);

/// Runs programs in sandboxes for `isol8` and every other gRPC client.
#[derive(Debug, Parser)]
#[command(name = "isol8d", version, about)]
struct Args {
    /// Where clients dial
    #[arg(long, env = "ISOL8_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// Folder for what outlives a restart
    #[arg(long, env = "ISOL8_STATE_DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Configuration file, in place of the usual ones
    #[arg(long, env = "ISOL8_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Carries the traffic of filtered networks; the daemon starts it
    #[command(hide = true)]
    Egress {
        /// Go on as this user
        #[arg(long)]
        uid: Option<u32>,
        /// Try what must not be possible, and say what is
        #[arg(long)]
        self_check: bool,
        /// A path that must be out of reach, for the self-check
        #[arg(long, requires = "self_check")]
        hidden: Vec<PathBuf>,
    },
    /// Checks everything that can stop a run, without a running daemon
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    let looks = match args.command.take() {
        // Before any thread is started: it confines itself as a whole.
        Some(Verb::Egress {
            uid,
            self_check: true,
            hidden,
        }) => return entrance::check(uid, &hidden),
        Some(Verb::Egress { uid, .. }) => return entrance::carry(uid),
        Some(Verb::Doctor { json }) => Some(json),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = "cannot start the threads of the daemon";
            return explain(&Failure::new(FailureKind::HostLacks, message).because(&error));
        }
    };
    // On a worker, where what it accepts is served: no hand-over in between.
    let work = runtime.spawn(async move {
        match looks {
            Some(json) => look(args, json).await,
            None => serve(args).await,
        }
    });
    let code = runtime.block_on(work);
    runtime.shutdown_timeout(THREADS_GRACE);
    code.unwrap_or(ExitCode::FAILURE)
}

async fn serve(args: Args) -> ExitCode {
    let (config, source) = match assembly::configuration(args.config) {
        Ok(found) => found,
        Err(failure) => return explain(&failure),
    };
    log::start(config.debug);
    let ran = async {
        let paths = Paths::choose(Wishes {
            socket: args.socket,
            state_dir: args.state_dir,
        })?;
        paths.make()?;
        let signals = signals::Signals::listen().map_err(|error| {
            let message = "cannot listen for signals";
            Failure::new(FailureKind::HostLacks, message).because(&error)
        })?;
        // The lock comes before everything that two daemons must not do at once.
        let mut socket = Socket::open(&paths.socket).await?;
        let daemon = Daemon::new(assembly::assemble(config, source, paths)?)?;
        let incoming = socket.accept()?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");
        tokio::select! {
            served = isol8d::serve(std::sync::Arc::clone(&daemon), incoming) => served?,
            never = signals.stop(&daemon) => match never {},
        }
        tracing::info!("stopped");
        Ok(())
    };
    match ran.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(SocketError::Failed(failure)) => explain(&failure),
        Err(SocketError::AlreadyRunning(path)) => {
            tracing::info!(socket = %path.display(), "a daemon is already running");
            ExitCode::from(ALREADY_RUNNING)
        }
    }
}

async fn look(args: Args, json: bool) -> ExitCode {
    let wishes = Wishes {
        socket: args.socket,
        state_dir: args.state_dir,
    };
    let checks = assembly::examine(args.config, wishes).await;
    let text = if json {
        format!("{:#}\n", doctor::to_json(&checks))
    } else {
        doctor::to_text(&checks)
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) if doctor::all_well(&checks) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn explain(failure: &Failure) -> ExitCode {
    let mut text = format!("error: {}\n", failure.message);
    for cause in &failure.causes {
        text.push_str(&format!("cause: {cause}\n"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // With stderr gone there is nobody to tell.
    let _gone = io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}
