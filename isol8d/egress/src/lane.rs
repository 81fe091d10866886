//! What the two ends of one client connection tell each other.
//!
//! The guarded stream puts each checked head here before hyper can see its
//! plain form; the service takes it when hyper calls. There is never more than
//! one, so that a pipelining client cannot pile them up.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use isol8_core::egress::{host::Host, rules::Rules};
use tokio::time::Instant;

use crate::{
    head::{Fault, Head, Refused},
    rest::Rest,
    tunnel::Tunnel,
};

/// Where the request under way goes, as far as it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// What is dialled, or was; empty before it is known.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Heading {
    /// Whether these rules let it go on.
    pub(crate) fn fits(&self, rules: &Rules) -> bool {
        rules.judge_host(&self.host, self.port).is_ok()
            && self
                .addresses
                .iter()
                .all(|address| rules.judge_address(*address).is_ok())
    }
}

/// Set when new rules refuse what is under way on a connection, which ends it.
/// Apart from the lane, since an exchange may lie in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revoked(Arc<AtomicBool>);

impl Revoked {
    pub(crate) fn set(&self) {
        self.0.store(true, Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct Lane(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    next: Option<Result<Box<Head>, Refused>>,
    waiting: Option<Waker>,
    is_busy: bool,
    broken_body: Option<Fault>,
    heading: Option<Heading>,
    tunnel: Option<Tunnel>,
    rest: Option<Box<Rest>>,
    /// Everything before the rest is with the kernel.
    is_rest_due: bool,
    active: Instant,
    revoked: Revoked,
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner {
            next: None,
            waiting: None,
            is_busy: false,
            broken_body: None,
            heading: None,
            tunnel: None,
            rest: None,
            is_rest_due: false,
            active: Instant::now(),
            revoked: Revoked::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the head before was taken.
    pub(crate) fn poll_vacant(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.next.is_none() {
            return Poll::Ready(());
        }
        inner.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Only when [`Lane::poll_vacant`] was ready.
    pub(crate) fn put(&self, head: Result<Box<Head>, Refused>) {
        let before = self.lock().next.replace(head);
        debug_assert!(before.is_none(), "a head that nobody took was lost");
    }

    /// Takes the head of the request that hyper begins to serve.
    pub(crate) fn take(&self) -> Option<Result<Box<Head>, Refused>> {
        let mut inner = self.lock();
        inner.is_busy = true;
        inner.heading = None;
        if let Some(waker) = inner.waiting.take() {
            waker.wake();
        }
        inner.next.take()
    }

    /// Takes a head that nobody came to serve.
    pub(crate) fn take_unserved(&self) -> Option<Result<Box<Head>, Refused>> {
        self.lock().next.take()
    }

    /// The answer to the request was handed to hyper whole, or given up. A
    /// tunnel or a rest that is still to begin goes where the request went.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        inner.is_busy = false;
        if inner.tunnel.is_none() && inner.rest.is_none() {
            inner.heading = None;
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.lock().is_busy
    }

    pub(crate) fn break_body(&self, fault: Fault) {
        self.lock().broken_body = Some(fault);
    }

    pub(crate) fn broken_body(&self) -> Option<Fault> {
        self.lock().broken_body.clone()
    }

    pub(crate) fn head_for(&self, heading: Heading) {
        self.lock().heading = Some(heading);
    }

    pub(crate) fn heading(&self) -> Option<Heading> {
        self.lock().heading.clone()
    }

    /// Whether new rules have refused what is under way.
    pub(crate) fn revoked(&self) -> Revoked {
        self.lock().revoked.clone()
    }

    pub(crate) fn put_tunnel(&self, tunnel: Tunnel) {
        self.lock().tunnel = Some(tunnel);
    }

    pub(crate) fn take_tunnel(&self) -> Option<Tunnel> {
        self.lock().tunnel.take()
    }

    /// The rest of the body that hyper sends comes from elsewhere.
    pub(crate) fn put_rest(&self, rest: Rest) {
        self.lock().rest = Some(Box::new(rest));
    }

    /// hyper has written all that it had.
    pub(crate) fn note_flushed(&self) {
        let mut inner = self.lock();
        inner.is_rest_due = inner.rest.is_some();
    }

    pub(crate) fn is_rest_due(&self) -> bool {
        self.lock().is_rest_due
    }

    /// Takes the rest if it is due. One that never was is given up.
    pub(crate) fn take_rest(&self) -> Option<Box<Rest>> {
        let mut inner = self.lock();
        let is_due = std::mem::take(&mut inner.is_rest_due);
        inner.rest.take().filter(|_| is_due)
    }

    /// A byte passed on the client's side.
    pub(crate) fn touch(&self) {
        self.lock().active = Instant::now();
    }

    pub(crate) fn active(&self) -> Instant {
        self.lock().active
    }
}
