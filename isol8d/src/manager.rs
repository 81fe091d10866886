//! What the service manager is told, where there is one: that the daemon answers,
//! that it still does, what it is doing, and that it stops.
//!
//! Behind each word is the daemon's own socket: it is dialled as by any client,
//! and the pool is asked. A daemon that does not get to either says nothing, and
//! the watchdog of the service manager ends it.

use std::{env, io, path::Path, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::daemon::Daemon;

/// How long the daemon may take to answer itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Until it answers for the first time.
const RETRY: Duration = Duration::from_millis(50);

/// How often the status is looked at where no watchdog asks for more.
const USUAL_PACE: Duration = Duration::from_secs(10);

/// The preface of HTTP/2 with empty settings. The server's first frame is its own
/// settings, sent by the task of the connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FRAME_HEAD_BYTES: usize = 9;
const SETTINGS: u8 = 4;

/// Tells the service manager, from the first answer on until the daemon is told
/// to stop. Without one it does nothing.
pub(crate) async fn keep_informed(daemon: &Daemon) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let stop = daemon.stopping();
    tokio::select! {
        () = stop.cancelled() => {}
        () = report(daemon) => {}
    }
    let left = daemon.runs.len();
    let status = format!("stopping, {left} runs and calls have to end");
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

async fn report(daemon: &Daemon) {
    while let Err(error) = answer(daemon).await {
        tracing::debug!(%error, "does not answer itself yet");
        sleep(RETRY).await;
    }
    let mut said = status(daemon);
    tell(&[NotifyState::Ready, NotifyState::Status(&said)]);
    let watchdog = sd_notify::watchdog_enabled();
    // A third, so that one answer may be late.
    let pace = watchdog.map_or(USUAL_PACE, |limit| limit / 3);
    loop {
        sleep(pace).await;
        if watchdog.is_some() {
            match answer(daemon).await {
                Ok(()) => tell(&[NotifyState::Watchdog]),
                Err(error) => tracing::warn!(%error, "does not answer itself"),
            }
        }
        let now = status(daemon);
        if now != said {
            tell(&[NotifyState::Status(&now)]);
            said = now;
        }
    }
}

/// A turn of the runtime, the accept loop, a connection, and the pool's task.
async fn answer(daemon: &Daemon) -> io::Result<()> {
    let turn = async {
        dial(&daemon.socket).await?;
        let _warm = daemon.pool().idle().await;
        Ok(())
    };
    timeout(PATIENCE, turn).await?
}

async fn dial(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(PREFACE).await?;
    let mut head = [0; FRAME_HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    match head[3] {
        SETTINGS => Ok(()),
        other => Err(io::Error::other(format!("a frame of type {other}"))),
    }
}

fn status(daemon: &Daemon) -> String {
    let engines = match daemon.roster.can_serve() {
        Some(true) => "serving",
        Some(false) => "no engine answers",
        None => "waiting for an engine",
    };
    let (running, waiting) = (daemon.gate.running(), daemon.gate.waiting());
    format!("{engines}; {running} runs in flight, {waiting} waiting")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
