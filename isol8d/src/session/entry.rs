//! A session as others see it: what it is doing, and its queue.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{record::Record, store::Store, turn::Turn};

/// Orders on their way to the owner, who is never long in taking them.
const INBOX: usize = 64;

/// For a run that has told its end and still holds the session.
const REST: Duration = Duration::from_millis(500);

/// What somebody wants of the owner of a session.
#[derive(Debug)]
pub(super) enum Order {
    Lend {
        /// A session that is lost is to be forgotten.
        forget: bool,
        reply: oneshot::Sender<Result<Turn, Failure>>,
    },
    /// In its turn.
    Remove {
        how: Removal,
        reply: oneshot::Sender<Removed>,
    },
    /// Like `Remove`, if nobody has used it for so long when its turn comes.
    Expire {
        after: Duration,
    },
    Size(oneshot::Sender<u64>),
}

/// How a session is to be removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removal {
    /// Its sandbox is kept, where its record says so.
    pub(super) keep: bool,
    /// Also for the end of what goes on in it; else that is left alone.
    pub(super) waits: bool,
}

impl Order {
    /// It is a caller's who wants to do something in the session.
    pub(super) const fn waits(&self) -> bool {
        matches!(self, Self::Lend { .. })
    }

    /// Nobody waits for it any more.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Lend { reply, .. } => reply.is_closed(),
            Self::Size(reply) => reply.is_closed(),
            // Whoever asked for it need not wait for it.
            Self::Remove { .. } | Self::Expire { .. } => false,
        }
    }
}

/// What a session is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    /// It has no sandbox yet.
    Nothing,
    /// Its sandbox is being looked for.
    Starting,
    /// The last try failed, and it goes on.
    Unreachable(Failure),
    Idle,
    Busy,
    Lost(String),
}

/// What is seen of it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) doing: Doing,
    pub(super) sandbox: Option<SandboxId>,
    /// Orders that wait.
    pub(super) waiting: u32,
}

/// How a removal ended: with the sandbox that is kept, if any.
pub(super) type Removed = Result<Option<SandboxId>, Failure>;

/// One session.
#[derive(Debug)]
pub(super) struct Entry {
    orders: mpsc::Sender<Order>,
    /// Callers that have found the session and whose order is not in the owner's
    /// hands: it does not end before.
    expected: AtomicU32,
    /// One of them has given up.
    given_up: Notify,
    pub(super) view: watch::Sender<View>,
    /// How it ended, for all who are still in its queue.
    pub(super) over: OnceLock<Removed>,
    /// Whatever goes on in it ends.
    pub(super) doomed: CancellationToken,
}

impl Entry {
    pub(super) fn new(record: Option<&Record>) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(INBOX);
        let doing = match record {
            None => Doing::Nothing,
            Some(Record {
                lost: Some(reason), ..
            }) => Doing::Lost(reason.clone()),
            Some(_) => Doing::Starting,
        };
        let view = View {
            doing,
            sandbox: record.map(|record| record.sandbox.clone()),
            waiting: 0,
        };
        let entry = Self {
            orders,
            expected: AtomicU32::new(0),
            given_up: Notify::new(),
            view: watch::Sender::new(view),
            over: OnceLock::new(),
            doomed: CancellationToken::new(),
        };
        (Arc::new(entry), inbox)
    }

    /// It has or had a sandbox.
    pub(super) fn exists(&self) -> bool {
        self.view.borrow().sandbox.is_some()
    }

    /// Something goes on in it or waits for it.
    pub(super) fn is_busy(&self) -> bool {
        let view = self.view.borrow();
        view.doing == Doing::Busy || view.waiting > 0
    }

    /// Waits a moment for its rest: a run whose client knows the end gives the
    /// session back only then.
    pub(super) async fn rests(&self) {
        let mut view = self.view.subscribe();
        let rest = view.wait_for(|view| view.doing != Doing::Busy && view.waiting == 0);
        // Whoever asked sees for himself.
        let _in_time = timeout(REST, rest).await;
    }

    pub(super) fn record_of(&self, store: &Store) -> Option<Record> {
        store.get(self.view.borrow().sandbox.as_ref()?)
    }

    /// Ends what goes on in it, and then the session.
    pub(super) fn doom(&self) {
        self.doomed.cancel();
    }

    /// An order of the caller will come. With the table locked, so that the owner
    /// does not end in between.
    pub(super) fn expect(&self) {
        self.expected.fetch_add(1, Ordering::Relaxed);
    }

    /// With the table locked. Where not, the order of whoever was is in the inbox,
    /// or never comes.
    pub(super) fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Acquire) > 0
    }

    /// Waits until somebody who was expected does not come any more.
    pub(super) async fn is_given_up(&self) {
        self.given_up.notified().await;
    }

    /// Waits for its turn. The caller was [`Entry::expect`]ed.
    pub(super) async fn borrow(&self, forget: bool) -> Result<Turn, Failure> {
        let (reply, answer) = oneshot::channel();
        {
            // Also where this is dropped before the order is sent.
            let _expected = Expected(self);
            let order = Order::Lend { forget, reply };
            let sent = self.orders.send(order).await;
            sent.map_err(|_| self.unanswered())?;
        }
        answer.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// Why there is no answer.
    fn unanswered(&self) -> Failure {
        match self.over.get() {
            Some(Err(failure)) if failure.kind == FailureKind::ShuttingDown => failure.clone(),
            Some(_) => gone(),
            None => bug(),
        }
    }

    /// Ends the session when it is its turn.
    ///
    /// # Errors
    /// `SessionBusy` where it is not to wait; why it does not go.
    ///
    /// # Cancellation
    /// It ends all the same.
    pub(super) async fn remove(&self, how: Removal) -> Removed {
        let (reply, answer) = oneshot::channel();
        let order = Order::Remove { how, reply };
        if self.orders.send(order).await.is_ok()
            && let Ok(removed) = answer.await
        {
            return removed;
        }
        // It ended some other way before.
        self.over.get().cloned().unwrap_or_else(|| Err(bug()))
    }

    /// Asks without waiting for an answer.
    pub(super) fn ask(&self, order: Order) {
        // A queue that is full has other things to do.
        let _full = self.orders.try_send(order);
    }

    /// Bytes of its files, in its turn.
    pub(super) async fn size(&self) -> Option<u64> {
        if self.view.borrow().doing != Doing::Idle {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Size(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Waits until its sandbox was found or not.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) async fn settled(&self, patience: Duration) -> Result<(), Failure> {
        let mut view = self.view.subscribe();
        let settled = view.wait_for(|view| view.doing != Doing::Starting);
        let doing = match timeout(patience, settled).await {
            Ok(Ok(view)) => view.doing.clone(),
            Ok(Err(_)) | Err(_) => Doing::Starting,
        };
        match doing {
            Doing::Idle | Doing::Busy | Doing::Nothing => Ok(()),
            Doing::Unreachable(failure) => Err(failure),
            Doing::Lost(reason) => Err(lost(&reason)),
            Doing::Starting => Err(Failure::new(
                FailureKind::EngineTimeout,
                "its sandbox does not answer yet",
            )),
        }
    }
}

struct Expected<'a>(&'a Entry);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.expected.fetch_sub(1, Ordering::Release);
        self.0.given_up.notify_one();
    }
}

/// The session ended while somebody waited for it.
pub(super) fn gone() -> Failure {
    Failure::new(
        FailureKind::SessionLost,
        "the session was removed meanwhile",
    )
}

pub(super) fn bug() -> Failure {
    let message = "the daemon has a bug: the task of a session panicked";
    Failure::new(FailureKind::Internal, message).hint("`isol8 daemon logs` shows where")
}

pub(super) fn lost(reason: &str) -> Failure {
    let message = "the session is lost, with its files and its background processes";
    Failure::new(FailureKind::SessionLost, message)
        .cause(reason)
        .hint("the next run begins a new one")
}
