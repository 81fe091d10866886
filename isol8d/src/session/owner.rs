//! The task that owns one session.
//!
//! ```text
//!  nothing ──first turn makes a sandbox──▶ idle ◀──given back clean── lent
//!                                           │  └────────lent──────────▲
//!               stream lost, or given back  ▼                         │
//!                    in doubt ───▶ starting ──init dialled──▶ idle    │
//!                                     └──gone──▶ lost ──told once──▶ (over)
//! ```

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Sessions, Whose, busy,
    connect::{Unconnected, connect, settle},
    entry::{Doing, Entry, Order, Removed, bug, lost},
    kept::destroy,
    record::Record,
    shutting_down,
    turn::{Back, Seat, Turn},
};
use crate::files;

/// Runs and copies that wait for one session. More are refused.
const MOST_WAITING: usize = 64;

/// Between two tries to find a sandbox whose engine does not answer. It doubles.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What the owner has of the sandbox.
enum State {
    Nothing,
    /// Its stream is closed.
    Starting(Record),
    Unreachable {
        record: Record,
        failure: Failure,
        again: Instant,
        pause: Duration,
    },
    Idle(Box<Seat>),
    Lost(Record, String),
    /// The task ends.
    Over(Option<Removed>),
}

pub(super) struct Owner {
    sessions: Sessions,
    whose: Whose,
    entry: Arc<Entry>,
    inbox: mpsc::Receiver<Order>,
    queue: VecDeque<Order>,
    state: State,
}

impl Owner {
    pub(super) fn new(
        sessions: Sessions,
        whose: Whose,
        entry: Arc<Entry>,
        inbox: mpsc::Receiver<Order>,
        record: Option<Record>,
    ) -> Self {
        let state = match record {
            None => State::Nothing,
            Some(record) => match record.lost.clone() {
                Some(reason) => State::Lost(record, reason),
                None => State::Starting(record),
            },
        };
        Self {
            sessions,
            whose,
            entry,
            inbox,
            queue: VecDeque::new(),
            state,
        }
    }

    /// Serves until the session is removed or the daemon lets go of it.
    pub(super) async fn run(mut self) {
        let closing = self.sessions.0.closing.clone();
        let over = loop {
            let served = AssertUnwindSafe(self.serve()).catch_unwind();
            tokio::select! {
                biased;
                () = closing.cancelled() => break Err(shutting_down()),
                served = served => match served {
                    Ok(removed) => {
                        self.leave();
                        break removed;
                    }
                    Err(_) => self.recover(),
                }
            }
        };
        // Before the orders go that are left: see `Entry::remove`.
        let _only_here = self.entry.over.set(over);
    }

    async fn serve(&mut self) -> Removed {
        loop {
            if let State::Over(removed) = &mut self.state {
                return removed.take().unwrap_or(Ok(None));
            }
            self.step().await;
        }
    }

    /// After a panic: the sandbox is still there, and looked for in a while.
    fn recover(&mut self) {
        tracing::error!(session = %self.whose.1, "the task of a session panicked");
        match self.sessions.record_of(&self.whose) {
            Some(record) => self.later(record, bug(), LAST_RETRY),
            None => self.state = State::Over(Some(Err(bug()))),
        }
        self.show();
    }

    /// Takes the session out of the table, if this is it.
    fn leave(&mut self) {
        let mut table = self.sessions.table();
        let here = table.get(&self.whose);
        if here.is_some_and(|entry| Arc::ptr_eq(entry, &self.entry)) {
            table.remove(&self.whose);
        }
    }

    async fn step(&mut self) {
        self.show();
        match std::mem::replace(&mut self.state, State::Nothing) {
            State::Starting(record) => self.start(record, FIRST_RETRY).await,
            State::Nothing if self.is_alone() => self.state = State::Over(None),
            state => {
                self.state = state;
                if let Some(order) = self.next().await {
                    self.carry_out(order).await;
                }
            }
        }
    }

    /// A session without a sandbox that nobody wants is none.
    fn is_alone(&mut self) -> bool {
        let mut table = self.sessions.table();
        // In this order: who was expected and is no more has left its order.
        let expected = self.entry.is_expected();
        while let Ok(order) = self.inbox.try_recv() {
            self.queue.push_back(order);
        }
        self.queue.retain(|order| !order.is_stale());
        let alone = self.queue.is_empty() && !expected;
        if alone {
            table.remove(&self.whose);
        }
        alone
    }

    /// The next order; `None` where something else has changed.
    async fn next(&mut self) -> Option<Order> {
        if let Some(order) = self.queue.pop_front() {
            return Some(order);
        }
        let order = match &mut self.state {
            State::Idle(seat) => {
                tokio::select! {
                    // First, so that nobody is lent what is known to be gone.
                    biased;
                    // Nobody has asked it anything: it is gone, or out of order.
                    _ = seat.link.reader.recv() => {
                        let record = seat.record.clone();
                        self.state = State::Starting(record);
                        return None;
                    }
                    order = self.inbox.recv() => order,
                }
            }
            State::Nothing => {
                tokio::select! {
                    order = self.inbox.recv() => order,
                    () = self.entry.is_given_up() => return None,
                }
            }
            State::Unreachable {
                again,
                record,
                pause,
                ..
            } => {
                let (again, record, pause) = (*again, record.clone(), *pause);
                tokio::select! {
                    order = self.inbox.recv() => order,
                    () = sleep_until(again) => {
                        self.start(record, (pause * 2).min(LAST_RETRY)).await;
                        return None;
                    }
                }
            }
            _ => self.inbox.recv().await,
        };
        // The entry holds a sender, and this holds the entry.
        Some(order.expect("the inbox has a sender"))
    }

    async fn carry_out(&mut self, order: Order) {
        self.show();
        match order {
            Order::Lend { forget, reply } => {
                if !reply.is_closed() {
                    self.lend(forget, reply).await;
                }
            }
            Order::Remove { how, reply } => {
                let removed = self.remove(how.keep).await;
                // Whoever hears of it may begin another one of that name.
                self.leave();
                let _gone = reply.send(removed);
            }
            Order::Expire { after } => {
                let idle = match &self.state {
                    State::Idle(seat) => seat.record.idle(),
                    State::Starting(record)
                    | State::Unreachable { record, .. }
                    | State::Lost(record, _) => record.idle(),
                    State::Nothing | State::Over(_) => return,
                };
                if idle >= after && self.queue.is_empty() {
                    // Nobody waits for the answer, and the sweep is next.
                    let _removed = self.remove(false).await;
                }
            }
            Order::Size(reply) => self.tell_size(reply).await,
        }
    }

    /// Looks for the sandbox.
    async fn start(&mut self, record: Record, pause: Duration) {
        let Some(engine) = self.sessions.0.engines.get(&record.key.engine) else {
            let message = format!("this daemon has no {} engine", record.key.engine);
            let failure = Failure::new(FailureKind::Unsupported, message);
            self.later(record, failure, LAST_RETRY);
            return;
        };
        match connect(engine, &record).await {
            Ok(seat) => self.state = State::Idle(Box::new(seat)),
            Err(Unconnected::Later(failure)) => self.later(record, failure, pause),
            Err(Unconnected::Lost(reason)) => {
                let name = &self.whose.1;
                tracing::warn!(session = %name, sandbox_id = %record.sandbox, reason, "a session is lost");
                let record = Record {
                    lost: Some(reason.clone()),
                    ..record
                };
                let store = &self.sessions.0.store;
                store.change(&record.sandbox, |written| {
                    written.lost = Some(reason.clone())
                });
                let written = store.write().await;
                // Whatever is left of it.
                let destroyed = destroy(engine, &record.sandbox).await;
                if let Err(error) = written.and(destroyed) {
                    tracing::warn!(%error, "a lost session leaves something");
                }
                self.state = State::Lost(record, reason);
            }
        }
        self.show();
    }

    fn later(&mut self, record: Record, failure: Failure, pause: Duration) {
        tracing::debug!(session = %self.whose.1, error = %failure, "a session is not found yet");
        self.state = State::Unreachable {
            record,
            failure,
            again: Instant::now() + pause,
            pause,
        };
    }

    async fn lend(&mut self, forget: bool, reply: oneshot::Sender<Result<Turn, Failure>>) {
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
                    let _gone = reply.send(Err(failure.clone()));
                }
                self.state = state;
                return;
            }
        };
        self.wait_for_return(seat, reply).await;
    }

    /// Everybody who waits wanted what is not there any more.
    fn tell_all(&mut self, failure: &Failure) {
        while let Ok(order) = self.inbox.try_recv() {
            self.queue.push_back(order);
        }
        for order in std::mem::take(&mut self.queue) {
            match order {
                Order::Lend { reply, .. } => {
                    let _gone = reply.send(Err(failure.clone()));
                }
                // They hear how it ended.
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

    async fn remove(&mut self, keep: bool) -> Removed {
        let record = match std::mem::replace(&mut self.state, State::Nothing) {
            State::Nothing => {
                self.state = State::Over(None);
                return Ok(None);
            }
            State::Idle(seat) => seat.record.clone(),
            State::Starting(record)
            | State::Unreachable { record, .. }
            | State::Lost(record, _) => record,
            State::Over(over) => {
                let removed = over.clone().unwrap_or(Ok(None));
                self.state = State::Over(over);
                return removed;
            }
        };
        let removed = if keep && record.persist && record.lost.is_none() {
            Ok(Some(self.sessions.keep(&record).await))
        } else {
            self.sessions.destroy(&record).await
        };
        self.state = State::Over(Some(removed.clone()));
        removed
    }

    async fn tell_size(&mut self, reply: oneshot::Sender<u64>) {
        let State::Idle(seat) = &mut self.state else {
            return;
        };
        match files::size(&mut seat.link).await {
            Ok(bytes) => {
                let _gone = reply.send(bytes);
            }
            Err(error) => {
                tracing::debug!(%error, "a session does not tell its size");
                let record = seat.record.clone();
                self.state = State::Starting(record);
            }
        }
    }

    fn show(&self) {
        let (doing, record) = match &self.state {
            State::Nothing | State::Over(_) => (Doing::Nothing, None),
            State::Starting(record) => (Doing::Starting, Some(record)),
            State::Unreachable {
                record, failure, ..
            } => (Doing::Unreachable(failure.clone()), Some(record)),
            State::Idle(seat) => (Doing::Idle, Some(&seat.record)),
            State::Lost(record, reason) => (Doing::Lost(reason.clone()), Some(record)),
        };
        self.show_as(&doing, record);
    }

    fn show_as(&self, doing: &Doing, record: Option<&Record>) {
        let sandbox: Option<SandboxId> = record.map(|record| record.sandbox.clone());
        let waiting = self.queue.iter().filter(|order| order.waits()).count();
        self.entry.view.send_modify(|view| {
            view.doing = doing.clone();
            view.sandbox = sandbox.or_else(|| match doing {
                // Made by the run that goes on in it.
                Doing::Busy => view.sandbox.clone(),
                _ => None,
            });
            view.waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        });
    }
}
