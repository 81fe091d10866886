//! How many sandboxes may last, and how many calls may wait for sessions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use isol8_core::{
    admission::MAX_WAITING_EACH,
    failure::{Failure, FailureKind},
    ids::Principal,
};

use super::Shared;

/// Lasting sandboxes of one daemon, of all callers. Each costs memory and a uid
/// while nobody uses it. Past it nobody gets another.
const MOST_SESSIONS: usize = 256;

/// What is counted apart from the records.
#[derive(Debug, Default)]
pub(super) struct Bounds(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    making: usize,
    waiting: BTreeMap<Principal, usize>,
}

impl Bounds {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // The counts are whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox that is made and has no record yet.
#[derive(Debug)]
pub(super) struct Making(Arc<Shared>);

impl Making {
    /// # Errors
    /// `AtCapacity`.
    pub(super) fn begin(shared: &Arc<Shared>) -> Result<Self, Failure> {
        let mut counts = shared.bounds.counts();
        if shared.store.all().len() + counts.making >= MOST_SESSIONS {
            let message = format!("there are {MOST_SESSIONS} sessions and kept sandboxes");
            return Err(Failure::new(FailureKind::AtCapacity, message)
                .hint("remove some: `isol8 session ls`, `isol8 session rm <name>`"));
        }
        counts.making += 1;
        Ok(Self(Arc::clone(shared)))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.bounds.counts().making -= 1;
    }
}

/// A call that waits for its turn. As many as may wait for a slot: they hold their
/// programs meanwhile, and anybody can think of names for sessions.
#[derive(Debug)]
pub(super) struct Waiting {
    shared: Arc<Shared>,
    who: Principal,
}

impl Waiting {
    /// # Errors
    /// `AtCapacity`.
    pub(super) fn begin(shared: &Arc<Shared>, who: Principal) -> Result<Self, Failure> {
        let mut counts = shared.bounds.counts();
        let waiting = counts.waiting.entry(who).or_default();
        if *waiting >= MAX_WAITING_EACH {
            let message = format!("{MAX_WAITING_EACH} calls of yours wait for sessions already");
            let failure = Failure::new(FailureKind::AtCapacity, message);
            return Err(failure.retry_after(Duration::from_secs(1)));
        }
        *waiting += 1;
        Ok(Self {
            shared: Arc::clone(shared),
            who,
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.shared.bounds.counts();
        if let Some(waiting) = counts.waiting.get_mut(&self.who) {
            *waiting -= 1;
            if *waiting == 0 {
                counts.waiting.remove(&self.who);
            }
        }
    }
}
