//! What signals tell the gateway to do.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By the signal of this number.
    Stop(u8),
    /// The keys file is to be read again.
    ReadKeys,
}

#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    /// We speak to a terminal.
    at_terminal: bool,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            at_terminal: io::stderr().is_terminal(),
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.interrupt.recv() => Order::Stop(2),
            _ = self.terminate.recv() => Order::Stop(15),
            _ = self.hang_up.recv() => self.hung_up(),
        }
    }

    /// The signal says that a terminal was closed, or comes from an operator. In
    /// the first case the terminal is none any more.
    fn hung_up(&self) -> Order {
        match self.at_terminal && !io::stderr().is_terminal() {
            true => Order::Stop(1),
            false => Order::ReadKeys,
        }
    }

    /// The next one that stops.
    pub(super) async fn stop(&mut self) -> u8 {
        loop {
            if let Order::Stop(number) = self.next().await {
                return number;
            }
        }
    }
}
