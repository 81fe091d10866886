//! The task that owns one session.
//!
//! ```text
//!  nothing ──first turn makes a sandbox──▶ idle ◀──given back clean── lent
//!                                           │  └────────lent──────────▲
//!               stream lost, or given back  ▼                         │
//!                    in doubt ───▶ starting ──init dialled──▶ idle    │
//!                                     └──gone──▶ lost ──told once──▶ (over)
//! ```

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Duration};

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
    Sessions, Whose,
    connect::{Unconnected, connect},
    entry::{Doing, Entry, Order, Removed, bug},
    kept::destroy,
    record::Record,
    shutting_down,
    turn::Seat,
};
use crate::files::{self, Memory};

mod lending;

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
        let memory = Memory::of(&seat.engine, &seat.record);
        match memory.lend(files::size(&mut seat.link)).await {
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
