//! One run's share of the proxy: its rules, its counts, its tasks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use isol8_core::egress::{record::Record, rules::Rules};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{gate::Totals, limits::Limits};

/// Where records go. Called from many tasks; must not block.
pub(crate) type Log = Arc<dyn Fn(Record) + Send + Sync>;

/// The run's bytes are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the byte limit of the run is reached")]
pub(crate) struct OverBytes;

/// From one policy to its end. While nobody opened a policy there is one too:
/// it has no rules, and every request of it is refused.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) limits: Arc<Limits>,
    /// A new policy within the run is seen by what is under way.
    pub(crate) rules: watch::Sender<Option<Arc<Rules>>>,
    /// Ends every connection of the run.
    pub(crate) ended: CancellationToken,
    /// Every connection, and every exchange with an origin.
    pub(crate) tasks: TaskTracker,
    pub(crate) connections: Arc<Semaphore>,
    /// Its share of the lookups.
    pub(crate) lookups: Arc<Semaphore>,
    pub(crate) pipes: Arc<Semaphore>,
    requests: AtomicU64,
    blocked: AtomicU64,
    unlogged: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    log_bytes: AtomicU64,
    said_log_is_full: AtomicBool,
}

impl Session {
    pub(crate) fn new(rules: Option<Arc<Rules>>, limits: Arc<Limits>) -> Self {
        let tasks = TaskTracker::new();
        // Closed only means that `wait` ends when none is left; tasks may
        // still be added.
        tasks.close();
        Self {
            connections: Arc::new(Semaphore::new(limits.connections)),
            lookups: Arc::new(Semaphore::new(limits.lookups)),
            pipes: Arc::new(Semaphore::new(limits.pipes)),
            limits,
            rules: watch::Sender::new(rules),
            ended: CancellationToken::new(),
            tasks,
            requests: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            said_log_is_full: AtomicBool::new(false),
        }
    }

    pub(crate) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.borrow().clone()
    }

    /// Counts bytes that passed between the proxy and an origin.
    pub(crate) fn spend(&self, bytes_in: u64, bytes_out: u64) -> Result<(), OverBytes> {
        let total_in = self.bytes_in.fetch_add(bytes_in, Relaxed) + bytes_in;
        let total_out = self.bytes_out.fetch_add(bytes_out, Relaxed) + bytes_out;
        if total_in.saturating_add(total_out) > self.limits.bytes {
            Err(OverBytes)
        } else {
            Ok(())
        }
    }

    /// How much may still pass.
    pub(crate) fn bytes_left(&self) -> u64 {
        let total = self.bytes_in.load(Relaxed) + self.bytes_out.load(Relaxed);
        self.limits.bytes.saturating_sub(total)
    }

    pub(crate) fn is_over_bytes(&self) -> bool {
        self.spend(0, 0).is_err()
    }

    pub(crate) fn is_log_full(&self) -> bool {
        self.log_bytes.load(Relaxed) >= self.limits.log_bytes
    }

    /// Counts a request and logs it. When the log is full every new request is
    /// refused: one record says so, the rest are counted. What was allowed
    /// before is logged all the same.
    pub(crate) fn finish(&self, record: Record, was_blocked: bool, log: &Log) {
        self.requests.fetch_add(1, Relaxed);
        if was_blocked {
            self.blocked.fetch_add(1, Relaxed);
        }
        if was_blocked && self.is_log_full() && self.said_log_is_full.swap(true, Relaxed) {
            self.unlogged.fetch_add(1, Relaxed);
            return;
        }
        let size = record.to_json().len() as u64 + 1;
        self.log_bytes.fetch_add(size, Relaxed);
        log(record);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            requests: self.requests.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            unlogged: self.unlogged.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}
