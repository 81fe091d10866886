//! A session as others see it: what it is doing, and its queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{record::Record, shutting_down, store::Store, turn::Turn};

/// Orders on their way to the owner, who is never long in taking them.
const INBOX: usize = 64;

/// What somebody wants of the owner of a session.
#[derive(Debug)]
pub(super) enum Order {
    Lend {
        /// A session that is lost is to be forgotten.
        forget: bool,
        reply: oneshot::Sender<Result<Turn, Failure>>,
    },
    /// In its turn; the answer is the [`Entry::removed`].
    Remove {
        /// Where its record says so.
        keep: bool,
    },
    /// Like `Remove`, if nobody has used it for so long when its turn comes.
    Expire { after: Duration },
    Size(oneshot::Sender<u64>),
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
    pub(super) view: watch::Sender<View>,
    pub(super) removed: watch::Sender<Option<Removed>>,
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
            view: watch::Sender::new(view),
            removed: watch::Sender::new(None),
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

    /// With the table locked.
    pub(super) fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Relaxed) > 0
    }

    /// Waits for its turn. The caller was [`Entry::expect`]ed.
    pub(super) async fn borrow(&self, forget: bool) -> Result<Turn, Failure> {
        let (reply, answer) = oneshot::channel();
        {
            // Also where this is dropped before the order is sent.
            let _expected = Expected(&self.expected);
            let order = Order::Lend { forget, reply };
            let sent = self.orders.send(order).await;
            sent.map_err(|_| self.over())?;
        }
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// Why nobody answers any more.
    fn over(&self) -> Failure {
        match &*self.removed.borrow() {
            Some(Err(failure)) if failure.kind == FailureKind::ShuttingDown => failure.clone(),
            _ => gone(),
        }
    }

    /// Sends an order that ends the session, and waits for the end.
    pub(super) async fn removed(&self, order: Order) -> Removed {
        let mut removed = self.removed.subscribe();
        // Whose task is over has an outcome, or goes on with the next daemon.
        let _over = self.orders.send(order).await;
        match removed.wait_for(Option::is_some).await {
            Ok(removed) => removed.clone().unwrap_or(Ok(None)),
            Err(_) => Err(shutting_down()),
        }
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

struct Expected<'a>(&'a AtomicU32);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The session ended while somebody waited for it.
pub(super) fn gone() -> Failure {
    Failure::new(FailureKind::SessionLost, "the session was removed meanwhile")
}

pub(super) fn lost(reason: &str) -> Failure {
    let message = "the session is lost, with its files and its background processes";
    Failure::new(FailureKind::SessionLost, message)
        .cause(reason)
        .hint("the next run begins a new one")
}
