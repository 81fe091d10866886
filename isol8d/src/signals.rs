//! Signals to the daemon.

use std::{convert::Infallible, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::daemon::Daemon;

/// The signals that end a daemon: SIGTERM, SIGINT and SIGHUP.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on: before anything is made that a sudden end would
    /// leave behind.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Stops the daemon at the first signal and hurries it at the second. Goes on
    /// for ever.
    pub async fn stop(mut self, daemon: &Daemon) -> Infallible {
        loop {
            let name = tokio::select! {
                _ = self.term.recv() => "SIGTERM",
                _ = self.int.recv() => "SIGINT",
                _ = self.hang_up.recv() => "SIGHUP",
            };
            tracing::info!(signal = name, "stopping");
            daemon.stop();
        }
    }
}
