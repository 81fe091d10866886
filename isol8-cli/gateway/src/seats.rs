//! Places for connections. When there is none left, the connection that has waited
//! for a request the longest gives its place to the next one: who opens many and
//! asks for nothing keeps nobody out. A connection with a request keeps its place
//! to the last byte of the answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Body;
use tokio_util::sync::CancellationToken;

use crate::answering::Answering;

/// All places of a gateway.
#[derive(Debug)]
pub(crate) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    free: usize,
    turns: u64,
    /// Who waits for a request, by turn.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A connection's place. Dropped, it is free.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// Fires when it has to go.
    lost: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: usize,
    turn: u64,
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Seat>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// So many places.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Taken {
            free: count,
            ..Taken::default()
        })))
    }

    /// A place, be it that of who has waited the longest. `None` where everybody
    /// has a request.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut taken = lock(&self.0);
        if taken.free > 0 {
            taken.free -= 1;
        } else {
            let (_, lost) = taken.waiting.pop_first()?;
            lost.cancel();
        }
        let lost = CancellationToken::new();
        let turn = taken.wait(lost.clone());
        let seats = Arc::clone(self);
        let state = Mutex::new(State { requests: 0, turn });
        Some(Arc::new(Seat { seats, lost, state }))
    }
}

impl Taken {
    fn wait(&mut self, lost: CancellationToken) -> u64 {
        self.turns += 1;
        self.waiting.insert(self.turns, lost);
        self.turns
    }
}

impl Seat {
    /// Waits until it has to go.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// A request has come.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        let mut state = lock(&self.state);
        state.requests += 1;
        lock(&self.seats.0).waiting.remove(&state.turn);
        Busy(Arc::clone(self))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let turn = lock(&self.state).turn;
        let mut taken = lock(&self.seats.0);
        taken.waiting.remove(&turn);
        // What was lost is another one's by now.
        if !self.lost.is_cancelled() {
            taken.free += 1;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let seat = &self.0;
        let mut state = lock(&seat.state);
        state.requests -= 1;
        if state.requests == 0 && !seat.lost.is_cancelled() {
            state.turn = lock(&seat.seats.0).wait(seat.lost.clone());
        }
    }
}

impl Busy {
    /// Goes on as long as this body.
    pub(crate) fn until_end_of(self, body: Body) -> Answering<Self> {
        Answering::new(body, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_the_longest_goes_first() {
        let seats = Seats::new(2);
        let first = seats.take().expect("free");
        let second = seats.take().expect("free");
        drop(first.enter());
        // The first one has asked for something since.
        let third = seats.take().expect("the second one's");
        assert!(second.lost.is_cancelled() && !first.lost.is_cancelled());
        drop(second);
        let fourth = seats.take().expect("the first one's");
        assert!(first.lost.is_cancelled() && !third.lost.is_cancelled());
        drop((first, third, fourth));
        assert_eq!(lock(&seats.0).free, 2);
        assert!(lock(&seats.0).waiting.is_empty());
    }

    #[test]
    fn who_has_a_request_stays() {
        let seats = Seats::new(1);
        let seat = seats.take().expect("free");
        let (one, other) = (seat.enter(), seat.enter());
        assert!(seats.take().is_none());
        drop(one);
        assert!(seats.take().is_none());
        let answering = other.until_end_of(Body::empty());
        assert!(seats.take().is_none());
        drop(answering);
        let next = seats.take().expect("it waits");
        assert!(seat.lost.is_cancelled());
        // A request of who has lost its place changes nothing.
        drop(seat.enter());
        drop(seat);
        assert!(!next.lost.is_cancelled());
        drop(next);
        assert_eq!(lock(&seats.0).free, 1);
        assert!(lock(&seats.0).waiting.is_empty());
    }
}
