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

/// Of one caller, so that nobody takes them all.
const MOST_EACH: usize = 64;

/// What is counted apart from the records.
#[derive(Debug, Default)]
pub(super) struct Bounds(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    making: BTreeMap<Principal, usize>,
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
pub(super) struct Making {
    shared: Arc<Shared>,
    who: Principal,
}

impl Making {
    /// # Errors
    /// `AtCapacity`.
    pub(super) fn begin(shared: &Arc<Shared>, who: Principal) -> Result<Self, Failure> {
        let mut counts = shared.bounds.counts();
        let records = shared.store.all();
        let own = records.iter().filter(|record| record.owner == who).count();
        let own = own + counts.making.get(&who).copied().unwrap_or_default();
        let all = records.len() + counts.making.values().sum::<usize>();
        let full = if own >= MOST_EACH {
            format!("you have {MOST_EACH} sessions and kept sandboxes")
        } else if all >= MOST_SESSIONS {
            format!("there are {MOST_SESSIONS} sessions and kept sandboxes on this daemon")
        } else {
            *counts.making.entry(who).or_default() += 1;
            return Ok(Self {
                shared: Arc::clone(shared),
                who,
            });
        };
        Err(Failure::new(FailureKind::AtCapacity, full)
            .hint("remove some: `isol8 session ls`, `isol8 session rm <name>`"))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        take_one(&mut self.shared.bounds.counts().making, self.who);
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
        take_one(&mut self.shared.bounds.counts().waiting, self.who);
    }
}

/// Whoever has none is not remembered.
fn take_one(counts: &mut BTreeMap<Principal, usize>, who: Principal) {
    if let Some(count) = counts.get_mut(&who) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&who);
        }
    }
}
