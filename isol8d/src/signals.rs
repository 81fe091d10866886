//! Signals to the daemon, and what it tells the service manager.

use std::io;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::Daemon;

/// Stops the daemon at SIGTERM, SIGINT and SIGHUP, and hurries it at the second.
///
/// # Errors
/// When signals cannot be listened for; it does not end otherwise.
pub async fn stop_on(daemon: &Daemon) -> io::Result<std::convert::Infallible> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
            _ = hang_up.recv() => "SIGHUP",
        };
        tracing::info!(signal = name, "stopping");
        notify(NotifyState::Stopping);
        daemon.stop();
    }
}

/// Tells the service manager, where there is one.
pub fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
