//! A session in the hands of a caller: how it gets there, and what comes back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use isol8_core::failure::{Failure, FailureKind};
use tokio::sync::oneshot;

use super::{Owner, State};
use crate::session::{
    busy,
    connect::settle,
    entry::{Doing, Order, lost},
    record::Record,
    turn::{Back, Seat, Turn},
};

/// Runs and copies that wait for one session. More are refused.
const MOST_WAITING: usize = 64;

impl Owner {
    pub(super) async fn lend(
        &mut self,
        forget: bool,
        reply: oneshot::Sender<Result<Turn, Failure>>,
    ) {
        if let State::Unreachable { record, pause, .. } = &self.state {
            // Somebody waits: it is worth a try.
            let (record, pause) = (record.clone(), *pause);
            self.start(record, pause).await;
        }
        let seat = match std::mem::replace(&mut self.state, State::Nothing) {
            State::Idle(seat) => Some(*seat),
            State::Nothing => None,
            State::Lost(record, reason) => {
                let failure = lost(&reason);
                if forget {
                    self.sessions.forget(&record).await;
                    // Whoever hears of it may begin another one of that name.
                    self.leave();
                    self.state = State::Over(None);
                    self.tell_all(&failure);
                } else {
                    self.state = State::Lost(record, reason);
                }
                let _gone = reply.send(Err(failure));
                return;
            }
            state => {
                if let State::Unreachable { failure, .. } = &state {
                    let failure = failure.clone();
                    // One try was enough for all who waited for it.
                    self.tell_all(&failure);
                    let _gone = reply.send(Err(failure));
                }
                self.state = state;
                return;
            }
        };
        self.wait_for_return(seat, reply).await;
    }

    /// Everybody who waits wants what is not to be had.
    fn tell_all(&mut self, failure: &Failure) {
        while let Ok(order) = self.inbox.try_recv() {
            self.queue.push_back(order);
        }
        for order in std::mem::take(&mut self.queue) {
            match order {
                Order::Lend { reply, .. } => {
                    let _gone = reply.send(Err(failure.clone()));
                }
                // Its turn comes, or it hears how the session ended.
                other => self.queue.push_back(other),
            }
        }
    }

    async fn wait_for_return(
        &mut self,
        seat: Option<Seat>,
        reply: oneshot::Sender<Result<Turn, Failure>>,
    ) {
        let record = seat.as_ref().map(|seat| seat.record.clone());
        let (back, mut returned) = oneshot::channel();
        let turn = Turn::new(
            self.sessions.0.store.clone(),
            Arc::clone(&self.entry),
            seat,
            back,
        );
        if let Err(Ok(turn)) = reply.send(Ok(turn)) {
            // Whoever waited has gone in this moment.
            turn.give_back();
        }
        self.show_as(&Doing::Busy, record.as_ref());
        let doomed = self.entry.doomed.clone();
        let back = loop {
            tokio::select! {
                biased;
                // A turn sends when it is dropped, so there always is one.
                back = &mut returned => break back.unwrap_or(Back::Nothing),
                () = doomed.cancelled() => {
                    self.kill(record).await;
                    return;
                }
                order = self.inbox.recv() => {
                    self.enqueue(order.expect("the inbox has a sender"), record.as_ref());
                    self.show_as(&Doing::Busy, record.as_ref());
                }
            }
        };
        self.state = match back {
            Back::Clean(mut seat) => {
                self.used(&seat.record);
                match settle(&mut seat.link).await {
                    true => State::Idle(seat),
                    false => State::Starting(seat.record),
                }
            }
            Back::Doubtful(mut record) => {
                record.used = SystemTime::now();
                self.used(&record);
                State::Starting(*record)
            }
            Back::Nothing => State::Nothing,
        };
    }

    fn used(&self, record: &Record) {
        let used = |record: &mut Record| record.used = SystemTime::now();
        self.sessions.0.store.change(&record.sandbox, used);
    }

    /// Takes an order while a caller has the session.
    fn enqueue(&mut self, order: Order, record: Option<&Record>) {
        self.queue.retain(|order| !order.is_stale());
        match order {
            Order::Remove { how, reply } if !how.waits => {
                let keeps = how.keep && record.is_some_and(|record| record.persist);
                let _gone = reply.send(Err(busy(&self.whose.1, keeps)));
            }
            // Somebody does use it.
            Order::Expire { .. } => {}
            // A list of sessions is not held up by what goes on in one of them.
            Order::Size(_) => {}
            Order::Lend { reply, .. } if self.queue.len() >= MOST_WAITING => {
                let message = format!("{MOST_WAITING} runs wait for this session already");
                let failure = Failure::new(FailureKind::AtCapacity, message);
                let _gone = reply.send(Err(failure.retry_after(Duration::from_secs(1))));
            }
            order => self.queue.push_back(order),
        }
    }

    /// Ends a session while its run goes on, which sees its sandbox go.
    async fn kill(&mut self, before: Option<Record>) {
        // Its first run may have made it by now.
        let record = before.or_else(|| self.sessions.record_of(&self.whose));
        let removed = match record {
            Some(record) => self.sessions.destroy(&record).await,
            None => Ok(None),
        };
        self.state = State::Over(Some(removed));
    }
}
