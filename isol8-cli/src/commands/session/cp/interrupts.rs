//! Ctrl-C and its kin: the first one ends a copy.

use std::{future::Future, pin::pin};

use isol8_core::failure::{Failure, FailureKind};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for signals as long as it lives.
#[derive(Debug)]
pub(super) struct Interrupts([(i32, Signal); 3]);

impl Interrupts {
    /// Takes the signals over from the default, which is to die of them and to
    /// leave half a file.
    ///
    /// # Errors
    /// The kernel refuses a pipe for them.
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind: SignalKind| -> Result<(i32, Signal), Failure> {
            let signal = signal(kind).map_err(|error| {
                Failure::new(FailureKind::Internal, "cannot listen for signals").because(&error)
            })?;
            Ok((kind.as_raw_value(), signal))
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// The number of the next one. Nothing is lost when it is dropped.
    pub(super) async fn next(&mut self) -> i32 {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
            _ = hang_up.1.recv() => hang_up.0,
        }
    }

    /// Waits for `work`.
    ///
    /// # Errors
    /// The number of the signal that came first.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, i32> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            number = self.next() => Err(number),
        }
    }
}
