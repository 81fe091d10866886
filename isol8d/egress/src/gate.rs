//! One sandbox's gate: closed until a run's policy opens it.
//!
//! ```text
//!          open(rules)            close()
//!  Closed ────────────▶ Open(run) ───────▶ Closed
//!                        │    ▲
//!                        └────┘ open(rules): the same run goes on under new rules
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isol8_core::egress::rules::Rules;
use tokio::time::timeout;

use crate::{limits::Limits, session::Session};

/// What a run used, in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests, allowed or blocked.
    pub requests: u64,
    /// Those that were blocked.
    pub blocked: u64,
    /// Those (all blocked) that came when the log was full.
    pub unlogged: u64,
    /// Bytes from origins.
    pub bytes_in: u64,
    /// Bytes to origins.
    pub bytes_out: u64,
}

/// The policy and the counters of one sandbox, shared by its connections.
#[derive(Debug)]
pub struct Gate {
    limits: Arc<Limits>,
    session: Mutex<Arc<Session>>,
}

impl Gate {
    /// A closed gate: every request is answered 403.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Arc::new(limits);
        let session = Mutex::new(Arc::new(Session::new(None, Arc::clone(&limits))));
        Self { limits, session }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the gate for a run, whose counts begin at zero and whose
    /// connections all come from now on. An open gate goes on with its counts
    /// under the new rules: what is under way to a place that they refuse is
    /// ended, the rest stays.
    pub fn open(&self, rules: Rules) {
        let rules = Some(Arc::new(rules));
        let mut session = self.lock();
        if session.rules().is_some() {
            session.rules.send_replace(rules);
        } else {
            session.ended.cancel();
            *session = Arc::new(Session::new(rules, Arc::clone(&self.limits)));
        }
    }

    /// Closes the gate and ends the run's connections, tunnels too. When it
    /// returns every request of the run was logged, once, and the totals are
    /// final. A closed gate has nothing to report.
    ///
    /// # Cancellation
    /// The gate is closed and everything told to end before the first await;
    /// a caller that stops waiting only misses the totals.
    pub async fn close(&self) -> Totals {
        let session = {
            let mut current = self.lock();
            let closed = Arc::new(Session::new(None, Arc::clone(&self.limits)));
            std::mem::replace(&mut *current, closed)
        };
        session.ended.cancel();
        if timeout(self.limits.close, session.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!(
                left = session.tasks.len(),
                "connections of a run did not end in time"
            );
        }
        if session.rules().is_none() {
            Totals::default()
        } else {
            session.totals()
        }
    }

    /// Runs `begin` with the current session; it cannot be closed meanwhile,
    /// so that a task begun inside is one that [`Gate::close`] waits for.
    pub(crate) fn enter<T>(&self, begin: impl FnOnce(&Arc<Session>) -> T) -> T {
        begin(&self.lock())
    }
}
