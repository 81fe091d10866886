//! What one installation asks the network for, whatever becomes of it.
//!
//! ```text
//!  installation ──open, close──▶ Requests ◀──claim── run that began it ──settle──▶ its log
//!                                   ▲◀──claim── run that waits too    ──settle──▶ nothing, or
//!                                   └─ stays when the installation is given up     what the first left
//! ```
//! An installation that fails, or is dropped in the middle of a download, has
//! asked all the same. So what it asks is kept outside of it, and its open way
//! to the network too. Of the runs that wait for one installation the one that
//! came first has all requests in its log; where it goes before the end, the next
//! one has them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::egress::{Report, Traffic};

/// The requests of one installation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    report: Report,
    /// What is asked now.
    open: Option<Traffic>,
    /// What was asked through one is not known yet.
    closing: bool,
    /// Nothing more is asked.
    over: bool,
    /// The runs that want to know, in the order in which they came.
    claims: VecDeque<u64>,
    next: u64,
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an open way to the network. `false`: it is over, and the way is
    /// closed again.
    #[must_use]
    pub(crate) fn open(&self, traffic: Traffic) -> bool {
        let mut state = self.state();
        if !state.over {
            state.open = Some(traffic);
        }
        !state.over
    }

    /// Closes it. Gives what was asked through it, which is noted too.
    ///
    /// # Cancellation
    /// What was asked through it is lost, and the report says so.
    pub(crate) async fn close(&self) -> Report {
        let open = self.take_open();
        let Some(traffic) = open else {
            return Report::default();
        };
        let report = traffic.close().await;
        let mut state = self.state();
        state.closing = false;
        add(&mut state.report, report.clone());
        report
    }

    fn take_open(&self) -> Option<Traffic> {
        let mut state = self.state();
        state.closing |= state.open.is_some();
        state.open.take()
    }

    /// Nothing more is asked; [`Requests::close`] came before.
    pub(crate) fn end(&self) {
        self.state().over = true;
    }

    /// A run that wants to have them in its log.
    pub(crate) fn claim(&self) -> Claim {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.claims.push_back(id);
        drop(state);
        Claim {
            requests: self.clone(),
            id,
        }
    }
}

/// The claim of one run.
#[derive(Debug)]
pub(crate) struct Claim {
    requests: Requests,
    id: u64,
}

impl Claim {
    /// Gives the requests that belong to this run: all there are where it is the
    /// first, nothing else. Comes when the run no longer waits for the
    /// installation; where nobody else does, the installation reaches nothing
    /// from here on. Takes at most [`crate::egress::CLOSE_DEADLINE`].
    pub(crate) async fn settle(self) -> Report {
        {
            let mut state = self.requests.state();
            let first = state.claims.front() == Some(&self.id);
            if !first || (!state.over && state.claims.len() > 1) {
                return Report::default();
            }
            // Who comes later finds nothing, and opens nothing.
            state.over = true;
        }
        self.requests.close().await;
        let mut state = self.requests.state();
        let mut report = std::mem::take(&mut state.report);
        report.lost |= std::mem::take(&mut state.closing);
        report
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.requests.state();
        state.claims.retain(|other| *other != self.id);
    }
}

/// Adds what came later.
pub(crate) fn add(report: &mut Report, later: Report) {
    report.records.extend(later.records);
    report.bytes_in += later.bytes_in;
    report.bytes_out += later.bytes_out;
    report.lost |= later.lost;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An installation that has sent so many bytes.
    fn having(bytes: u64) -> Requests {
        let requests = Requests::default();
        send(&requests, bytes);
        requests
    }

    fn send(requests: &Requests, bytes: u64) {
        let later = Report {
            bytes_out: bytes,
            ..Report::default()
        };
        add(&mut requests.state().report, later);
    }

    async fn settled(claim: Claim) -> u64 {
        let report = claim.settle().await;
        assert!(!report.lost);
        report.bytes_out
    }

    #[tokio::test]
    async fn the_run_that_came_first_has_all_of_them() {
        for first_looks_first in [true, false] {
            let requests = having(7);
            let (first, second) = (requests.claim(), requests.claim());
            requests.end();
            let (first, second) = if first_looks_first {
                (settled(first).await, settled(second).await)
            } else {
                let second = settled(second).await;
                (settled(first).await, second)
            };
            assert_eq!((first, second), (7, 0));
        }
    }

    #[tokio::test]
    async fn a_run_that_leaves_early_leaves_them_to_the_next() {
        let requests = having(7);
        let (first, second) = (requests.claim(), requests.claim());
        let third = requests.claim();
        assert_eq!(settled(first).await, 0);
        drop(second);
        send(&requests, 1);
        requests.end();
        assert_eq!(settled(third).await, 8);
    }

    #[tokio::test]
    async fn the_last_run_that_leaves_ends_them() {
        let requests = having(7);
        let claim = requests.claim();
        assert_eq!(settled(claim).await, 7);
        assert!(requests.state().over);
        assert_eq!(settled(requests.claim()).await, 0);
    }

    #[tokio::test]
    async fn what_was_being_closed_when_it_was_given_up_is_missed() {
        let requests = having(7);
        requests.state().closing = true;
        let report = requests.claim().settle().await;
        assert!(report.lost);
        assert_eq!(report.bytes_out, 7);
    }
}
