//! `isol8 serve`: the HTTP gateway, until a signal ends it.

mod log;
mod manager;
mod port;

use std::{env, io, net::TcpListener, sync::Arc};

use isol8_core::failure::{Failure, FailureKind};
use isol8_gateway::{Bounds, Daemon, Dial, Gateway, Key, Keys, Policy, Settings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    args::ServeArgs,
    connect,
    console::Console,
    exit::Exit,
    paths::{Paths, Socket},
    settings,
};

const KEY: &str = "ISOL8_API_KEY";

/// Serves. Ends with 0 after a first signal, when all runs are over; a second one
/// ends it at once.
pub(super) fn serve(
    args: ServeArgs,
    debug: bool,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    if args.update {
        console.note("nothing is downloaded: the server is a part of this program");
    }
    let key = key(args.key.as_deref())?;
    let policy = Policy::of(&settings::load()?.config);
    let Some(listener) = port::listen(args.bind, args.port, console)? else {
        return Ok(Exit::Done);
    };
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: Keys::new(vec![Key::new("default", &key, true)]),
        policy,
        hosts: args.allow_host,
        bounds: Bounds::default(),
    };
    log::start(debug);
    // Unlike the other commands it does many things at once.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Internal, "cannot start").because(&error))?;
    runtime.block_on(until_signal(settings, listener, paths, console))
}

/// The flag, else the variable.
fn key(flag: Option<&str>) -> Result<String, Failure> {
    let key = flag.map(str::to_owned).or_else(|| env::var(KEY).ok());
    key.filter(|key| !key.is_empty()).ok_or_else(|| {
        Failure::new(FailureKind::InvalidRequest, "API key required")
            .hint(format!("give it with `--key <key>`, or set {KEY}"))
    })
}

async fn until_signal(
    settings: Settings,
    listener: TcpListener,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    let cannot =
        |error: io::Error| Failure::new(FailureKind::Internal, "cannot serve").because(&error);
    let mut signals = Signals::new().map_err(cannot)?;
    let link = connect::dial_or_start(paths, console).await?;
    let sockets = paths.sockets()?;
    let socket = sockets
        .into_iter()
        .find(|socket| socket.path == link.socket);
    let socket = socket.expect("it was found among these");
    drop(link);
    let address = listener.local_addr().map_err(cannot)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
    let stop = CancellationToken::new();
    let gateway = Gateway::new(settings, Daemon::new(dial(socket)));
    let serving = tokio::spawn(gateway.serve(listener, stop.clone()));
    let informed = tokio::spawn(manager::keep_informed(address, stop.clone()));
    console.say(&format!("isol8 serves http://{address}"));
    if !address.ip().is_loopback() {
        console.warning("keys and programs travel in the clear: put a TLS proxy before it");
    }
    signals.next().await;
    console.say("stopping; once more to stop at once");
    stop.cancel();
    let _told = informed.await;
    tokio::select! {
        ended = serving => ended.map(|()| Exit::Done).map_err(|error| cannot(error.into())),
        number = signals.next() => Ok(Exit::Interrupted(number)),
    }
}

/// Each connection is checked as the first one was: who listens there is us or
/// root.
fn dial(socket: Socket) -> Dial {
    Arc::new(move || match connect::try_socket(&socket) {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => Err(io::ErrorKind::ConnectionRefused.into()),
        Err(failure) => Err(io::Error::other(failure)),
    })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hang_up.recv() => 1,
        }
    }
}
