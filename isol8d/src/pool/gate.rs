//! [`Admission`] for async callers: wait for a slot, hold it, give it back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use isol8_core::{
    admission::{Admission, Answer, Ticket},
    failure::{Failure, FailureKind},
    ids::{Lane, Principal},
};
use tokio::sync::oneshot;

/// The door that every run goes through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    admission: Admission,
    /// Who is to be told about a slot. A closed gate has none.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    closed: bool,
}

/// A slot. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Pass {
    ticket: Ticket,
    gate: Gate,
}

impl Gate {
    /// `slots` passes exist at the same time.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(State {
            admission: Admission::new(slots),
            waiting: HashMap::new(),
            closed: false,
        })))
    }

    /// Waits for a slot. `queued` is called once, at once, if there is none.
    ///
    /// # Errors
    /// `AtCapacity` when too many wait, `ShuttingDown` once the gate is closed.
    ///
    /// # Cancellation
    /// Cancel safe: the place in the queue is given up, a slot that was just
    /// granted goes to the next.
    pub async fn enter(
        &self,
        who: Principal,
        lane: &Lane,
        queued: impl FnOnce() + Send,
    ) -> Result<Pass, Failure> {
        let (ticket, turn) = {
            let mut state = self.lock();
            if state.closed {
                return Err(closed());
            }
            match state.admission.ask(who, lane) {
                Answer::Run(ticket) => (ticket, None),
                Answer::Wait(ticket) => {
                    let (tell, turn) = oneshot::channel();
                    state.waiting.insert(ticket, tell);
                    (ticket, Some(turn))
                }
                Answer::Refused(refusal) => return Err(refusal.into()),
            }
        };
        // From here on its drop gives everything back.
        let pass = Pass {
            ticket,
            gate: self.clone(),
        };
        if let Some(turn) = turn {
            queued();
            turn.await.map_err(|_| closed())?;
        }
        Ok(pass)
    }

    /// Refuses everybody who comes or waits from now on. Passes stay good.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
    }

    /// Passes that are out.
    #[must_use]
    pub fn running(&self) -> usize {
        self.lock().admission.running()
    }

    /// Callers that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().admission.waiting()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.0.lock().expect("the gate's lock is never poisoned")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.waiting.remove(&self.ticket);
        let mut next = state.admission.leave(self.ticket);
        // One that has just gone away leaves by its own drop: its slot is
        // passed on then.
        if let Some(tell) = next.take().and_then(|next| state.waiting.remove(&next)) {
            let _gone = tell.send(());
        }
    }
}

fn closed() -> Failure {
    Failure::new(FailureKind::ShuttingDown, "the daemon is going down")
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    const ME: Principal = Principal(7);

    async fn enter(gate: &Gate) -> Result<Pass, Failure> {
        gate.enter(ME, &Lane::default(), || {}).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_goes_in_when_a_pass_is_dropped() {
        let gate = Gate::new(1);
        let first = enter(&gate).await.unwrap();
        let queued = AtomicBool::new(false);
        let lane = Lane::default();
        let mut second = Box::pin(gate.enter(ME, &lane, || queued.store(true, Ordering::Relaxed)));
        assert!(timeout(Duration::from_secs(9), &mut second).await.is_err());
        assert_eq!((gate.running(), gate.waiting()), (1, 1));
        drop(first);
        let second = second.await.unwrap();
        assert!(queued.load(Ordering::Relaxed));
        drop(second);
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_granted_to_somebody_who_left_goes_to_the_next() {
        let gate = Gate::new(1);
        let first = enter(&gate).await.unwrap();
        let mut gone = Box::pin(enter(&gate));
        let mut stays = Box::pin(enter(&gate));
        for waiter in [&mut gone, &mut stays] {
            assert!(timeout(Duration::ZERO, waiter).await.is_err());
        }
        drop(first); // grants the slot to `gone`, which never looks
        drop(gone);
        let last = timeout(Duration::from_secs(1), stays).await;
        assert!(last.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_sends_everybody_away() {
        let gate = Gate::new(1);
        let first = enter(&gate).await.unwrap();
        let lane = Lane::default();
        let mut waits = Box::pin(gate.enter(ME, &lane, || {}));
        assert!(timeout(Duration::ZERO, &mut waits).await.is_err());
        gate.close();
        let refused = waits.await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::ShuttingDown);
        let refused = enter(&gate).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::ShuttingDown);
        assert_eq!((gate.running(), gate.waiting()), (1, 0));
        drop(first);
        assert_eq!(gate.running(), 0);
    }
}
