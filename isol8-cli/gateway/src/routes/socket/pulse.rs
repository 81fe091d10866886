//! Whether a client is still there.
//!
//! A link that was cut says nothing, and TCP alone finds out after a quarter of an
//! hour. So a client that is not heard of for a time is gone: it answers our pings,
//! if it does not speak by itself.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// When the client was heard of.
#[derive(Debug)]
pub(super) struct Pulse {
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    heard: Instant,
    /// We do not listen, or do not speak, as often; and since when.
    pauses: usize,
    paused: Instant,
}

/// Time does not count while it lives.
#[derive(Debug)]
pub(super) struct Pause<'a>(&'a Pulse);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.pauses -= 1;
        if state.pauses == 0 && state.heard < state.paused {
            let silent = state.paused - state.heard;
            state.heard = Instant::now() - silent;
        }
    }
}

impl Pulse {
    pub(super) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            patience,
            state: Mutex::new(State {
                heard: now,
                pauses: 0,
                paused: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was heard of now.
    pub(super) fn beat(&self) {
        self.state().heard = Instant::now();
    }

    /// It cannot be heard of for now, and that is not its fault.
    pub(super) fn pause(&self) -> Pause<'_> {
        let mut state = self.state();
        if state.pauses == 0 {
            state.paused = Instant::now();
        }
        state.pauses += 1;
        Pause(self)
    }

    /// Ends when the client has been silent for too long.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub(super) async fn stops(&self) {
        loop {
            let (heard, is_paused) = {
                let state = self.state();
                (state.heard, state.pauses > 0)
            };
            let now = Instant::now();
            let from = if is_paused { now } else { heard };
            let until = from + self.patience;
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn it_stops_after_silence_alone() {
        pause();
        let pulse = Pulse::new(PATIENCE);
        let begun = Instant::now();
        let silence = pulse.stops();
        tokio::pin!(silence);
        tokio::select! {
            biased;
            () = &mut silence => panic!("it was not silent"),
            () = async {
                for _ in 0..10 {
                    advance(PATIENCE / 2).await;
                    pulse.beat();
                }
                advance(PATIENCE / 4).await;
                let paused = pulse.pause();
                advance(PATIENCE * 3).await;
                let twice = pulse.pause();
                drop(paused);
                advance(PATIENCE).await;
                drop(twice);
            } => {}
        }
        // What was silence before counts.
        silence.await;
        // The clock of tests has milliseconds.
        assert_eq!(begun.elapsed().as_secs(), 20 * (5 + 4 + 1));
    }
}
