//! The state machine: see the diagram in [`super`].

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    Action, Event, KeyStatus, Policy, PoolStatus, SETTLE, STOP_PATIENCE, Ticket,
    key::{Key, Warmer, backoff},
};
use crate::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    sandbox::{Limits, SandboxKey},
};

/// Keys that are remembered while nothing of them exists.
const MOST_KEYS: usize = 64;

/// One sandbox, from the order to the end of its destroy.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: SandboxKey,
    pub(super) limits: Limits,
    pub(super) life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Making {
        since: Duration,
        aborted: bool,
    },
    Warm {
        since: Duration,
    },
    Leased,
    /// To be destroyed when this time has come.
    Doomed {
        failed: u32,
        due: Duration,
    },
    Destroying {
        failed: u32,
    },
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    pub(super) policy: Policy,
    pub(super) slots: HashMap<SandboxId, Slot>,
    pub(super) keys: BTreeMap<SandboxKey, Key>,
    /// Runs that want the machine for themselves.
    pub(super) active: u32,
    /// The last time that a run began or ended.
    pub(super) stirred: Duration,
    /// Since when something is to be refilled.
    pub(super) wanting_since: Option<Duration>,
    pub(super) next_shrink: Duration,
    pub(super) stop_at: Option<Duration>,
    pub(super) wake_at: Option<Duration>,
    pub(super) actions: Vec<Action>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            slots: HashMap::new(),
            keys: BTreeMap::new(),
            active: 0,
            stirred: Duration::ZERO,
            wanting_since: None,
            next_shrink: Duration::ZERO,
            stop_at: None,
            wake_at: None,
            actions: Vec::new(),
        }
    }

    /// Takes one event. `now` counts from any fixed moment and never goes back.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        match event {
            Event::Lease {
                ticket,
                key,
                limits,
            } => self.lease(now, ticket, key, limits),
            Event::Warm { ticket, key, count } => self.warm(now, ticket, key, count),
            Event::Prewarm { key } => self.key(now, &key).demand.prewarm(),
            Event::Forget { layers } => self.forget(now, &layers),
            Event::Empty => self.empty(now),
            Event::Cancel { ticket } => self.cancel(ticket),
            Event::Made { id, result } => self.made(now, id, result),
            Event::Lost { id } => self.lost(now, &id),
            Event::Release { id } => self.release(now, &id),
            Event::Destroyed { id, gone } => self.destroyed(now, &id, gone),
            Event::RunStarted => self.active += 1,
            Event::RunEnded => {
                self.active = self.active.saturating_sub(1);
                self.stirred = now;
            }
            Event::Wake => {}
            Event::Shutdown => self.shut_down(now),
        }
        self.plan(now);
        std::mem::take(&mut self.actions)
    }

    /// When to send [`Event::Wake`], unless something else happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.wake_at
    }

    /// Sandboxes that exist or may exist.
    #[must_use]
    pub fn live(&self) -> usize {
        self.slots.len()
    }

    /// Whether this one exists or may exist.
    #[must_use]
    pub fn knows(&self, id: &SandboxId) -> bool {
        self.slots.contains_key(id)
    }

    /// It was shut down and nothing is left.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop_at.is_some() && self.slots.is_empty()
    }

    /// What there is.
    #[must_use]
    pub fn status(&self, now: Duration) -> PoolStatus {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut status = PoolStatus::default();
        for slot in self.slots.values() {
            *status.live.entry(slot.key.engine).or_default() += 1;
        }
        status.keys.extend(self.keys.values().map(|key| KeyStatus {
            key: key.key.clone(),
            warm: count(key.warm.len()),
            target: count(key.target(now, &self.policy)),
            making: count(key.making.len()),
            hits: key.hits,
            misses: key.misses,
        }));
        status
    }

    fn life(&self, id: &SandboxId) -> Option<Life> {
        self.slots.get(id).map(|slot| slot.life)
    }

    fn key(&mut self, now: Duration, key: &SandboxKey) -> &mut Key {
        if !self.keys.contains_key(key) {
            self.forget_a_key();
            self.keys.insert(key.clone(), Key::new(key.clone(), now));
        }
        self.keys.get_mut(key).expect("it was just put in")
    }

    /// Somebody who tries every size must not fill the memory with keys. One
    /// with sandboxes stays: the bounds on those bound it too.
    fn forget_a_key(&mut self) {
        if self.keys.len() < MOST_KEYS {
            return;
        }
        let idle = self.keys.values().filter(|key| key.is_empty());
        let oldest = idle.min_by_key(|key| (key.demand.prewarmed, key.demand.last_use));
        if let Some(key) = oldest.map(|key| key.key.clone()) {
            self.keys.remove(&key);
        }
    }

    fn lease(&mut self, now: Duration, ticket: Ticket, key: SandboxKey, limits: Limits) {
        if self.stop_at.is_some() {
            return self.refuse(ticket);
        }
        let slots = &self.slots;
        let fits = |id: &SandboxId| slots.get(id).is_some_and(|slot| slot.limits == limits);
        let place = self.keys.get(&key).and_then(|key| {
            let right = key.warm.iter().position(fits);
            right.or((!key.warm.is_empty()).then_some(0))
        });
        let most = self.policy.most_per_key;
        let entry = self.key(now, &key);
        entry.demand.leased(now, most);
        if let Some(id) = place.and_then(|place| entry.warm.remove(place)) {
            entry.hits += 1;
            entry.handed();
            return self.hand(now, ticket, id, true);
        }
        entry.misses += 1;
        entry.waiters.push_back(ticket);
        if entry.making.len() < entry.waiters.len() {
            self.make(now, &key, limits);
        }
    }

    fn warm(&mut self, now: Duration, ticket: Ticket, key: SandboxKey, count: u32) {
        if self.stop_at.is_some() {
            return self.refuse(ticket);
        }
        let most = self.policy.most_warm;
        let policy = self.policy.clone();
        let entry = self.key(now, &key);
        entry.demand.touched(now);
        entry.demand.floor = entry.demand.floor.max(count.min(most));
        // A person asks: the delay after earlier failures is over.
        entry.not_before = now;
        let count = match count {
            0 => entry.demand.target(now, &policy).min(most),
            count => count.min(most),
        };
        entry.warmers.push(Warmer { ticket, count });
    }

    fn cancel(&mut self, ticket: Ticket) {
        for key in self.keys.values_mut() {
            key.waiters.retain(|waiter| *waiter != ticket);
            key.warmers.retain(|warmer| warmer.ticket != ticket);
        }
    }

    fn made(&mut self, now: Duration, id: SandboxId, result: Result<(), Failure>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Life::Making { since, .. } = slot.life else {
            return;
        };
        let name = slot.key.clone();
        let entry = self.keys.get_mut(&name).expect("it has a make");
        entry.making.remove(&id);
        if let Err(failure) = result {
            entry.failed(now, &id, failure.kind);
            self.fail_those_who_wait(&name, &failure);
            return self.doom(now, &id);
        }
        entry.made(now, now.saturating_sub(since));
        if let Some(ticket) = entry.waiters.pop_front() {
            entry.handed();
            return self.hand(now, ticket, id, false);
        }
        let target = entry.target(now, &self.policy);
        let most = self.policy.most_warm as usize;
        let all_warm: usize = self.keys.values().map(|key| key.warm.len()).sum();
        let entry = self.keys.get_mut(&name).expect("it had a make");
        if self.stop_at.is_some() || entry.warm.len() >= target || all_warm >= most {
            return self.doom(now, &id);
        }
        entry.warm.push_back(id.clone());
        self.set(&id, Life::Warm { since: now });
    }

    /// One make less: whoever counted on it hears why.
    fn fail_those_who_wait(&mut self, key: &SandboxKey, failure: &Failure) {
        let entry = self.keys.get_mut(key).expect("it had a make");
        while entry.waiters.len() > entry.making.len() {
            let ticket = entry.waiters.pop_front().expect("the length says so");
            let failure = failure.clone();
            self.actions.push(Action::Fail { ticket, failure });
        }
        let warm = entry.warm.len();
        // Those who asked for no more than there is hear that.
        let missing = |warmer: &mut Warmer| warmer.count as usize > warm;
        for warmer in entry.warmers.extract_if(.., missing) {
            self.actions.push(Action::Fail {
                ticket: warmer.ticket,
                failure: failure.clone(),
            });
        }
    }

    fn lost(&mut self, now: Duration, id: &SandboxId) {
        let Some(Life::Warm { since }) = self.life(id) else {
            return;
        };
        let entry = self.keys_of(id);
        entry.warm.retain(|other| other != id);
        entry.lost(now, id, now.saturating_sub(since));
        self.doom(now, id);
    }

    fn keys_of(&mut self, id: &SandboxId) -> &mut Key {
        let key = &self.slots[id].key;
        let key = self.keys.get_mut(key);
        key.expect("a key stays while it has sandboxes in stock")
    }

    /// Destroys it once the client of its run has had time to go.
    fn release(&mut self, now: Duration, id: &SandboxId) {
        if self.life(id) != Some(Life::Leased) {
            return;
        }
        let delay = if self.stop_at.is_some() {
            Duration::ZERO
        } else {
            SETTLE
        };
        let due = now + delay;
        self.set(id, Life::Doomed { failed: 0, due });
    }

    fn destroyed(&mut self, now: Duration, id: &SandboxId, gone: bool) {
        let Some(Life::Destroying { failed }) = self.life(id) else {
            return;
        };
        if gone {
            self.slots.remove(id);
            return;
        }
        let failed = failed.saturating_add(1);
        let due = now + backoff(failed, id);
        self.set(id, Life::Doomed { failed, due });
    }

    fn shut_down(&mut self, now: Duration) {
        if self.stop_at.is_some() {
            return;
        }
        self.stop_at = Some(now + STOP_PATIENCE);
        let mut waiting = Vec::new();
        let mut warm = Vec::new();
        for key in self.keys.values_mut() {
            waiting.extend(key.waiters.drain(..));
            waiting.extend(key.warmers.drain(..).map(|warmer| warmer.ticket));
            warm.extend(key.warm.drain(..));
        }
        for ticket in waiting {
            self.refuse(ticket);
        }
        for id in warm {
            self.doom(now, &id);
        }
    }

    fn refuse(&mut self, ticket: Ticket) {
        let failure = Failure::new(FailureKind::ShuttingDown, "the daemon is going down");
        self.actions.push(Action::Fail { ticket, failure });
    }

    pub(super) fn make(&mut self, now: Duration, key: &SandboxKey, limits: Limits) {
        let id = SandboxId::random();
        let life = Life::Making {
            since: now,
            aborted: false,
        };
        self.slots.insert(
            id.clone(),
            Slot {
                key: key.clone(),
                limits,
                life,
            },
        );
        self.key(now, key).making.insert(id.clone());
        self.actions.push(Action::Make {
            id,
            key: key.clone(),
            limits,
        });
    }

    fn hand(&mut self, now: Duration, ticket: Ticket, id: SandboxId, warm: bool) {
        let slot = self.slots.get_mut(&id).expect("it is in stock");
        slot.life = Life::Leased;
        self.actions.push(Action::Hand {
            ticket,
            id,
            limits: slot.limits,
            warm,
        });
        self.stirred = now;
        if !warm {
            // The run begins only now: refills are patient from here.
            self.wanting_since = None;
        }
    }

    pub(super) fn doom(&mut self, now: Duration, id: &SandboxId) {
        self.set(
            id,
            Life::Doomed {
                failed: 0,
                due: now,
            },
        );
    }

    fn set(&mut self, id: &SandboxId, life: Life) {
        let slot = self.slots.get_mut(id).expect("only live ones change");
        slot.life = life;
    }
}
