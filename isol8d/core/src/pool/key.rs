//! What the pool knows of one key.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{Policy, Ticket, demand::Demand};
use crate::{failure::FailureKind, ids::SandboxId, sandbox::SandboxKey};

/// After a first failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// With its jitter still under ten seconds: that long after an engine is back
/// the pool is at work again.
const LONGEST_DELAY: Duration = Duration::from_secs(8);

/// After a failure that only a person can mend. Their next run shows that they
/// have, and ends the delay.
const LONG_DELAY: Duration = Duration::from_secs(60);

/// A warm sandbox that lived this long was well made.
const PROVEN: Duration = Duration::from_secs(60);

/// A person who waits for warm ones.
#[derive(Debug)]
pub(super) struct Warmer {
    pub(super) ticket: Ticket,
    pub(super) count: u32,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) key: SandboxKey,
    pub(super) demand: Demand,
    /// Ready, the oldest first.
    pub(super) warm: VecDeque<SandboxId>,
    pub(super) making: BTreeSet<SandboxId>,
    /// Leases that have no sandbox yet.
    pub(super) waiters: VecDeque<Ticket>,
    pub(super) warmers: Vec<Warmer>,
    pub(super) hits: u64,
    pub(super) misses: u64,
    /// No refill before.
    pub(super) not_before: Duration,
    failures: u32,
    losses: u32,
}

impl Key {
    pub(super) fn new(key: SandboxKey, now: Duration) -> Self {
        Self {
            key,
            demand: Demand::new(now),
            warm: VecDeque::new(),
            making: BTreeSet::new(),
            waiters: VecDeque::new(),
            warmers: Vec::new(),
            hits: 0,
            misses: 0,
            not_before: Duration::ZERO,
            failures: 0,
            losses: 0,
        }
    }

    /// How many should be warm: what use has taught, and at least what somebody
    /// waits for.
    pub(super) fn target(&self, now: Duration, policy: &Policy) -> usize {
        let waited_for = self.warmers.iter().map(|warmer| warmer.count).max();
        let learned = self.demand.target(now, policy);
        learned.max(waited_for.unwrap_or(0)) as usize
    }

    /// Being made for nobody.
    pub(super) fn spare(&self) -> usize {
        self.making.len().saturating_sub(self.waiters.len())
    }

    /// Warm, or will be.
    pub(super) fn stock(&self) -> usize {
        self.warm.len() + self.spare()
    }

    /// Nothing of it exists and nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.warm.is_empty()
            && self.making.is_empty()
            && self.waiters.is_empty()
            && self.warmers.is_empty()
    }

    /// One became ready.
    pub(super) fn made(&mut self, now: Duration, took: Duration) {
        if self.failures > 0 {
            self.failures = 0;
            self.not_before = now;
        }
        self.demand.made_in(took);
    }

    /// One was handed out in good order.
    pub(super) fn handed(&mut self) {
        self.losses = 0;
    }

    /// One could not be made.
    pub(super) fn failed(&mut self, now: Duration, id: &SandboxId, why: FailureKind) {
        self.failures = self.failures.saturating_add(1);
        self.back_off(now, id);
        if waits_for_a_person(why) {
            self.not_before = self.not_before.max(now + LONG_DELAY);
        }
    }

    /// A warm one died after this long. Without a pause, one that dies at once
    /// would be made again and again.
    pub(super) fn lost(&mut self, now: Duration, id: &SandboxId, lived: Duration) {
        if lived >= PROVEN {
            self.losses = 0;
        }
        self.losses = self.losses.saturating_add(1);
        self.back_off(now, id);
    }

    fn back_off(&mut self, now: Duration, id: &SandboxId) {
        let times = self.failures.saturating_add(self.losses);
        self.not_before = now + backoff(times, id);
    }
}

/// Whether trying again soon is as good as certain to fail.
fn waits_for_a_person(why: FailureKind) -> bool {
    matches!(
        why,
        FailureKind::ImageMissing
            | FailureKind::ImageBuild
            | FailureKind::InterpreterMissing
            | FailureKind::HostLacks
            | FailureKind::Unsupported
            | FailureKind::InvalidRequest
    )
}

/// The delay after so many failures in a row, at least one. The id's random
/// bits spread it by a fifth up and down.
pub(super) fn backoff(times: u32, id: &SandboxId) -> Duration {
    let doublings = times.saturating_sub(1).min(16);
    let delay = (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY);
    let spread = u32::from_str_radix(&id.as_str()[..4], 16).unwrap_or(0);
    delay * 4 / 5 + delay * 2 / 5 * spread / 0x1_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_are_spread() {
        for (times, exact_ms) in [(1, 250), (2, 500), (4, 2000), (6, 8000), (u32::MAX, 8000)] {
            for end in ["0000", "ffff"] {
                let id = SandboxId::parse(&format!("{end}{}", "0".repeat(28))).unwrap();
                let exact = Duration::from_millis(exact_ms);
                let delay = backoff(times, &id);
                assert!(
                    delay >= exact * 4 / 5 && delay <= exact * 6 / 5,
                    "{delay:?}"
                );
            }
        }
    }
}
