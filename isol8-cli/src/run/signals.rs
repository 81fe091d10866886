//! Ctrl-C and its kin.
//!
//! The first signal goes to the program, which may tidy up and end by itself.
//! The second one, or the end of the grace after SIGTERM and SIGHUP, cancels
//! the run. Before there is a program, the first one cancels.

use std::{future::Future, pin::pin, time::Duration};

use isol8_core::failure::{Failure, FailureKind};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::requests::SignalSender;

/// Whoever sends SIGTERM goes on to SIGKILL before long; the run should have
/// ended in order by then.
const TERM_GRACE: Duration = Duration::from_secs(5);

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Listens for signals as long as it lives.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    sender: SignalSender,
    accepted: bool,
    /// The signal that the program got, and when its patience ends.
    told: Option<(i32, Option<Instant>)>,
}

impl Signals {
    /// Takes the signals over from the default, which is to die of them.
    ///
    /// # Errors
    /// The kernel refuses a pipe for them.
    pub(super) fn new(sender: SignalSender) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(FailureKind::Internal, "cannot listen for signals").because(&error)
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            sender,
            accepted: false,
            told: None,
        })
    }

    /// From now on there is a program to tell.
    pub(super) fn accepted(&mut self) {
        self.accepted = true;
    }

    /// The program has ended: the next signal is for us.
    pub(super) fn over(&mut self) {
        self.accepted = false;
        self.told = None;
    }

    /// Waits for `work`.
    ///
    /// # Errors
    /// The number of the signal that cancels the run.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, i32> {
        let mut work = pin!(work);
        loop {
            let deadline = self.told.and_then(|(_, deadline)| deadline);
            let number = tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                _ = self.interrupt.recv() => SIGINT,
                _ = self.terminate.recv() => SIGTERM,
                _ = self.hang_up.recv() => SIGHUP,
                () = expired(deadline) => return Err(self.told.map_or(SIGTERM, |(first, _)| first)),
            };
            self.heard(number)?;
        }
    }

    fn heard(&mut self, number: i32) -> Result<(), i32> {
        if !self.accepted || self.told.is_some() {
            return Err(number);
        }
        let (forwarded, deadline) = match number {
            SIGINT => (SIGINT, None),
            _ => (SIGTERM, Some(Instant::now() + TERM_GRACE)),
        };
        self.sender.send(forwarded);
        self.told = Some((number, deadline));
        Ok(())
    }
}

async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
