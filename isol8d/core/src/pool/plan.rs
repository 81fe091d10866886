//! What follows from the state rather than from one event: refills, surplus,
//! destroys, and when to look again.

use std::time::Duration;

use super::{
    Action, COLD_PATIENCE, PATIENCE, SETTLE,
    key::Key,
    state::{Life, Pool},
};
use crate::sandbox::SandboxKey;

/// How often surplus is looked for.
const SHRINK_EVERY: Duration = Duration::from_secs(15);

impl Pool {
    /// Everything that follows from the state rather than from one event.
    pub(super) fn plan(&mut self, now: Duration) {
        self.wake_at = None;
        if let Some(stop_at) = self.stop_at {
            self.abort(now, stop_at);
        } else {
            self.shrink(now);
            self.refill(now);
            self.tell_warmers();
        }
        self.destroy(now);
    }

    fn wake(&mut self, at: Duration) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn abort(&mut self, now: Duration, stop_at: Duration) {
        let mut waits = false;
        for (id, slot) in &mut self.slots {
            if let Life::Making { aborted, .. } = &mut slot.life
                && !*aborted
            {
                waits = true;
                if now >= stop_at {
                    *aborted = true;
                    self.actions.push(Action::Abort { id: id.clone() });
                }
            }
        }
        if waits && now < stop_at {
            self.wake(stop_at);
        }
    }

    fn shrink(&mut self, now: Duration) {
        if now >= self.next_shrink {
            self.next_shrink = now + SHRINK_EVERY;
            let mut surplus = Vec::new();
            for key in self.keys.values_mut() {
                let target = key.target(now, &self.policy);
                let over = key.stock().saturating_sub(target);
                surplus.extend(key.warm.drain(..over.min(key.warm.len())));
            }
            for id in surplus {
                self.doom(now, &id);
            }
        }
        if self.keys.values().any(|key| !key.warm.is_empty()) {
            self.wake(self.next_shrink);
        }
    }

    fn refill(&mut self, now: Duration) {
        let mut wants = false;
        for (name, share) in self.shares(now) {
            let key = &self.keys[&name];
            let missing = share.saturating_sub(key.stock());
            if missing == 0 {
                continue;
            }
            if now < key.not_before {
                let at = key.not_before;
                self.wake(at);
                continue;
            }
            wants = true;
            let pressed = key.warm.is_empty() && key.demand.is_high(now);
            let urgent = pressed || !key.warmers.is_empty();
            for _ in 0..missing {
                if !(urgent || self.is_quiet(now)) || !self.has_room(now) {
                    break;
                }
                self.make(now, &name, self.policy.limits);
            }
        }
        // What started just now is no longer missing, the rest goes on waiting.
        if !wants {
            self.wanting_since = None;
        } else if self.wanting_since.is_none() {
            self.wanting_since = Some(now);
        }
        self.wake_for_quiet(now);
    }

    /// How many each key may have in stock: its target, the key used last first,
    /// as far as the bound on all reaches.
    fn shares(&self, now: Duration) -> Vec<(SandboxKey, usize)> {
        let mut keys: Vec<_> = self.keys.values().collect();
        keys.sort_by_key(|key| std::cmp::Reverse((!key.warmers.is_empty(), key.demand.last_use)));
        let mut left = self.policy.most_warm as usize;
        let share = |key: &Key| {
            let target = key.target(now, &self.policy);
            let share = target.min(left);
            left -= share;
            (key.key.clone(), share)
        };
        keys.into_iter().map(share).collect()
    }

    /// No run is in front, or they have had their time.
    fn is_quiet(&self, now: Duration) -> bool {
        let settled = self.settled_at().is_some_and(|at| now >= at);
        settled || self.patience_ends().is_some_and(|at| now >= at)
    }

    /// When the client of the last run is done, if no run is under way.
    fn settled_at(&self) -> Option<Duration> {
        let idle = self.active == 0 && !self.somebody_waits();
        idle.then(|| self.stirred + SETTLE)
    }

    fn patience_ends(&self) -> Option<Duration> {
        let patience = if self.somebody_waits() {
            COLD_PATIENCE
        } else {
            PATIENCE
        };
        self.wanting_since.map(|since| since + patience)
    }

    fn somebody_waits(&self) -> bool {
        self.keys.values().any(|key| !key.waiters.is_empty())
    }

    fn wake_for_quiet(&mut self, now: Duration) {
        // Else it waits for a make to end, not for the clock.
        if self.wanting_since.is_some() && !self.is_quiet(now) {
            let times = self.patience_ends().into_iter().chain(self.settled_at());
            for at in times.collect::<Vec<_>>() {
                self.wake(at);
            }
        }
    }

    /// Room for one more refill; takes it from a key that has more than its
    /// share if it must.
    fn has_room(&mut self, now: Duration) -> bool {
        let making: usize = self.keys.values().map(|key| key.making.len()).sum();
        if making >= self.policy.most_making as usize {
            return false;
        }
        let stock: usize = self.keys.values().map(Key::stock).sum();
        if stock < self.policy.most_warm as usize {
            return true;
        }
        let shares = self.shares(now);
        let over = |(name, share): &(SandboxKey, usize)| self.keys[name].warm.len() > *share;
        // The last one is the one that was not used for longest.
        let Some((name, _)) = shares.into_iter().rev().find(over) else {
            return false;
        };
        let key = self.keys.get_mut(&name).expect("it has a share");
        let id = key.warm.pop_front().expect("more than its share is some");
        self.doom(now, &id);
        true
    }

    /// Once there are enough, and all that the key wants: whoever asked may be
    /// about to measure.
    fn tell_warmers(&mut self) {
        for key in self.keys.values_mut() {
            let (warm, idle) = (key.warm.len(), key.making.is_empty());
            let (there, waiting): (Vec<_>, Vec<_>) = key
                .warmers
                .drain(..)
                .partition(|warmer| idle && warm >= warmer.count as usize);
            key.warmers = waiting;
            self.actions
                .extend(there.iter().map(|warmer| Action::Warmed {
                    ticket: warmer.ticket,
                    count: u32::try_from(warm).unwrap_or(u32::MAX),
                }));
        }
    }

    fn destroy(&mut self, now: Duration) {
        let busy = self.slots.values();
        let busy = busy.filter(|slot| matches!(slot.life, Life::Destroying { .. }));
        let mut free = (self.policy.most_destroying as usize).saturating_sub(busy.count());
        let mut next = None;
        for (id, slot) in &mut self.slots {
            let Life::Doomed { failed, due } = slot.life else {
                continue;
            };
            if due > now {
                next = Some(next.map_or(due, |earlier: Duration| earlier.min(due)));
            } else if free > 0 {
                free -= 1;
                slot.life = Life::Destroying { failed };
                self.actions.push(Action::Destroy { id: id.clone() });
            }
        }
        if let Some(next) = next {
            self.wake(next);
        }
    }
}
