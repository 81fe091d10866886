//! One traffic, as the owner of the process knows it.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isol8_core::{egress::rules::Filter, failure::Failure, ids::SandboxId};
use isol8_egress::control::{Order, TrafficId};
use tokio::{sync::oneshot, time::Instant};

use super::ledger::Ledger;

/// Where the answer to an order goes.
pub(super) type Reply = oneshot::Sender<Result<(), Failure>>;

/// What handles ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Open {
        traffic: TrafficId,
        sandbox: SandboxId,
        listener: OwnedFd,
        filter: Filter,
        ledger: Arc<Mutex<Ledger>>,
        reply: Reply,
    },
    Set {
        traffic: TrafficId,
        filter: Filter,
        reply: Reply,
    },
    Close {
        traffic: TrafficId,
        reply: Option<oneshot::Sender<()>>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// From `Open` until `Closed`, through any number of processes.
#[derive(Debug)]
pub(super) struct Entry {
    sandbox: SandboxId,
    listener: OwnedFd,
    filter: Filter,
    ledger: Arc<Mutex<Ledger>>,
    /// Who waits for the answer to each order, oldest first. While there is no
    /// process it has one element: all wait for the same `Open`.
    awaited: VecDeque<Vec<Reply>>,
    /// A process has taken it before.
    was_open: bool,
    /// `Close` was sent; who waits for its answer.
    closing: Option<Vec<oneshot::Sender<()>>>,
    /// Since when the process owes the next answer.
    asked: Option<Instant>,
}

impl Entry {
    pub(super) fn new(
        sandbox: SandboxId,
        listener: OwnedFd,
        filter: Filter,
        ledger: Arc<Mutex<Ledger>>,
        reply: Reply,
    ) -> Self {
        Self {
            sandbox,
            listener,
            filter,
            ledger,
            awaited: VecDeque::from([vec![reply]]),
            was_open: false,
            closing: None,
            asked: None,
        }
    }

    pub(super) fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    pub(super) fn was_open(&self) -> bool {
        self.was_open
    }

    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order that gives it to a process. [`Entry::new`] and
    /// [`Entry::lose`] have left who waits for the answer.
    pub(super) fn open(&mut self, traffic: TrafficId) -> Order<BorrowedFd<'_>> {
        self.asked.get_or_insert_with(Instant::now);
        Order::Open {
            traffic,
            listener: self.listener.as_fd(),
            filter: self.filter.clone(),
        }
    }

    /// Changes the filter; the order that says so where a process has it.
    pub(super) fn set(
        &mut self,
        traffic: TrafficId,
        filter: Filter,
        reply: Reply,
        is_running: bool,
    ) -> Option<Order<BorrowedFd<'_>>> {
        self.filter.clone_from(&filter);
        if !is_running {
            // The `Open` to come has it.
            match self.awaited.back_mut() {
                Some(waiting) => waiting.push(reply),
                None => self.awaited.push_back(vec![reply]),
            }
            return None;
        }
        self.awaited.push_back(vec![reply]);
        self.asked.get_or_insert_with(Instant::now);
        Some(Order::Set { traffic, filter })
    }

    /// Notes that it is to be closed; the order, unless it was sent before.
    pub(super) fn close(
        &mut self,
        traffic: TrafficId,
        reply: Option<oneshot::Sender<()>>,
    ) -> Option<Order<BorrowedFd<'_>>> {
        let is_first = self.closing.is_none();
        self.closing.get_or_insert_default().extend(reply);
        self.asked.get_or_insert_with(Instant::now);
        is_first.then_some(Order::Close { traffic })
    }

    /// Passes on the answer to the oldest order. The time of the next one, if
    /// there is one, runs from now: orders of one traffic are answered in turn.
    ///
    /// # Errors
    /// No order waits for one.
    pub(super) fn acknowledge(&mut self, result: &Result<(), Failure>) -> Result<(), &'static str> {
        let waiting = self.awaited.pop_front();
        let waiting = waiting.ok_or("it answered an order that was not given")?;
        self.was_open |= result.is_ok();
        answer(waiting, result);
        let owes_more = !self.awaited.is_empty() || self.closing.is_some();
        self.asked = owes_more.then(Instant::now);
        Ok(())
    }

    /// The process is gone. What it owed is asked of the next one.
    pub(super) fn lose(&mut self) {
        // Before it was taken there was nothing to lose.
        if self.was_open {
            self.ledger().lose();
        }
        self.asked = None;
        let waiting = std::mem::take(&mut self.awaited).into_iter().flatten();
        self.awaited = VecDeque::from([waiting.collect()]);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Tells everybody who still waits for an answer.
    pub(super) fn refuse(&mut self, failure: &Failure) {
        for waiting in std::mem::take(&mut self.awaited) {
            answer(waiting, &Err(failure.clone()));
        }
    }

    /// Nothing more comes of it.
    pub(super) fn closed(self) {
        for reply in self.closing.into_iter().flatten() {
            // Who gave up has gone on with what there was.
            let _gone = reply.send(());
        }
    }
}

fn answer(waiting: Vec<Reply>, result: &Result<(), Failure>) {
    for reply in waiting {
        // Who gave up closes it anyway.
        let _gone = reply.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_a_time_of_its_own() {
        let reply = || oneshot::channel().0;
        let listener = File::open("/dev/null").expect("it is there").into();
        let (sandbox, ledger) = (SandboxId::random(), Arc::default());
        let mut entry = Entry::new(sandbox, listener, Filter::default(), ledger, reply());
        assert_eq!(entry.asked(), None);
        drop(entry.open(1));
        let begun = Instant::now();
        advance(Duration::from_secs(1)).await;
        drop(entry.set(1, Filter::default(), reply(), true));
        assert_eq!(entry.asked(), Some(begun), "the oldest counts");

        advance(Duration::from_secs(1)).await;
        entry.acknowledge(&Ok(())).expect("of `Open`");
        assert_eq!(entry.asked(), Some(Instant::now()), "`Set` is next");
        drop(entry.close(1, None));
        advance(Duration::from_secs(1)).await;
        entry.acknowledge(&Ok(())).expect("of `Set`");
        assert_eq!(entry.asked(), Some(Instant::now()), "`Close` is next");
        assert!(entry.acknowledge(&Ok(())).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_answered_owes_nothing() {
        let listener = File::open("/dev/null").expect("it is there").into();
        let (sandbox, ledger) = (SandboxId::random(), Arc::default());
        let (reply, mut answer) = oneshot::channel();
        let mut entry = Entry::new(sandbox, listener, Filter::default(), ledger, reply);
        drop(entry.open(1));
        entry.acknowledge(&Ok(())).expect("of `Open`");
        assert_eq!(entry.asked(), None);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    }
}
