//! `isol8 serve`: the HTTP gateway, until a signal ends it.

mod keys;
mod log;
mod manager;
mod port;
mod signals;

use std::{io, net::TcpListener, sync::Arc};

use isol8_core::failure::{Failure, FailureKind};
use isol8_gateway::{Bounds, Daemon, Dial, Gateway, Keeper, Policy, Settings};
use tokio_util::sync::CancellationToken;

use crate::{
    args::ServeArgs,
    connect,
    console::Console,
    exit::Exit,
    paths::{Paths, Socket},
    settings,
};

use keys::Keeping;
use signals::{Order, Signals};

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
    let keeper = keys::read(&args, paths)?;
    let policy = Policy::of(&settings::load_as_daemon()?.config);
    let Some(listener) = port::listen(args.bind, args.port, console)? else {
        return Ok(Exit::Done);
    };
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: keeper.keys(),
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
    runtime.block_on(until_signal(settings, keeper, listener, paths, console))
}

async fn until_signal(
    settings: Settings,
    keeper: Keeper,
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
    let summary = keeper.summary();
    let mut keeping = Keeping::start(keeper).map_err(cannot)?;
    let gateway = Gateway::new(settings, Daemon::new(dial(socket)));
    let serving = tokio::spawn(gateway.serve(listener, stop.clone()));
    let informed = tokio::spawn(manager::keep_informed(address, stop.clone()));
    console.say(&format!("isol8 serves http://{address}"));
    if !address.ip().is_loopback() {
        console.warning("keys and programs travel in the clear: put a TLS proxy before it");
    }
    console.say(&summary);
    let kept = until_stop(&mut signals, &mut keeping).await;
    console.say("stopping; once more to stop at once");
    stop.cancel();
    let _told = informed.await;
    let ended = tokio::select! {
        ended = serving => ended.map(|()| Exit::Done).map_err(|error| cannot(error.into())),
        number = signals.stop() => Ok(Exit::Interrupted(number)),
    };
    keeping.end();
    kept.and(ended)
}

/// Until a signal comes that stops.
async fn until_stop(signals: &mut Signals, keeping: &mut Keeping) -> Result<(), Failure> {
    loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop(_) => return Ok(()),
                Order::ReadKeys => keeping.read_again(),
            },
            () = keeping.failed() => {
                let message = "the keys cannot be looked after any more";
                return Err(Failure::new(FailureKind::Internal, message));
            }
        }
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
