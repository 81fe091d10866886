//! How many warm sandboxes of a key are worth having, learned from its use.

use std::{collections::VecDeque, time::Duration};

use super::{FORGET, IDLE, Policy};

/// Leases that are looked at. More than any target.
const MEMORY: usize = 64;

/// Leases count together when they come within the time of this many makes:
/// about what has to be ready to meet them.
const MAKES: u32 = 3;

/// Bounds on that time: below, a scheduler's hiccup would count as demand.
const SHORTEST_WINDOW: Duration = Duration::from_millis(250);
const LONGEST_WINDOW: Duration = Duration::from_secs(5);

/// A burst is half forgotten after this long.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Before the first make is over.
const FIRST_GUESS: Duration = Duration::from_millis(100);

/// The use of one key.
#[derive(Debug)]
pub(super) struct Demand {
    /// The last use of any kind.
    pub(super) last_use: Duration,
    /// Warm even without use.
    pub(super) prewarmed: bool,
    /// Asked for by a person, until nobody uses the key any more.
    pub(super) floor: u32,
    /// Nothing of it is wanted until somebody uses it again.
    resting: bool,
    recent: VecDeque<Duration>,
    /// The most leases that came within a window, and when that was.
    peak: f64,
    peak_at: Duration,
    make_time: Duration,
}

impl Demand {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            last_use: now,
            prewarmed: false,
            floor: 0,
            resting: false,
            recent: VecDeque::new(),
            peak: 0.0,
            peak_at: now,
            make_time: FIRST_GUESS,
        }
    }

    /// Somebody takes one. More than `most` at once count as so many: they could
    /// not be met, and should not be remembered for longer.
    pub(super) fn leased(&mut self, now: Duration, most: u32) {
        self.touched(now);
        if self.recent.len() == MEMORY {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let together = f64::from(self.together(now).min(most));
        if together >= self.peak_now(now) {
            self.peak = together;
            self.peak_at = now;
        }
    }

    /// The key is of use to somebody.
    pub(super) fn touched(&mut self, now: Duration) {
        if now.saturating_sub(self.last_use) > IDLE {
            self.floor = 0;
        }
        self.last_use = now;
        self.resting = false;
    }

    /// Warm from now on, also without use.
    pub(super) fn prewarm(&mut self) {
        self.prewarmed = true;
        self.resting = false;
    }

    /// Nothing is worth having until the next use, which finds all forgotten that
    /// earlier use has taught.
    pub(super) fn rest(&mut self, now: Duration) {
        self.resting = true;
        self.floor = 0;
        self.recent.clear();
        self.peak = 0.0;
        self.peak_at = now;
    }

    /// Nothing is worth having any more.
    pub(super) fn forget(&mut self) {
        self.resting = true;
        self.prewarmed = false;
        self.floor = 0;
    }

    /// A make took this long.
    pub(super) fn made_in(&mut self, took: Duration) {
        self.make_time = (self.make_time * 3 + took) / 4;
    }

    /// One lease follows the other faster than sandboxes are made.
    pub(super) fn is_high(&self, now: Duration) -> bool {
        self.together(now) > 1
    }

    /// Leases within the time that counts.
    fn together(&self, now: Duration) -> u32 {
        let window = (self.make_time * MAKES).clamp(SHORTEST_WINDOW, LONGEST_WINDOW);
        let since = now.saturating_sub(window);
        let together = self.recent.iter().filter(|at| **at >= since).count();
        u32::try_from(together).unwrap_or(u32::MAX)
    }

    /// How many should be warm.
    pub(super) fn target(&self, now: Duration, policy: &Policy) -> u32 {
        let idle = now.saturating_sub(self.last_use);
        let always = if self.prewarmed { policy.clean } else { 0 };
        if self.resting || (policy.clean == 0 && self.floor == 0) {
            return 0;
        }
        let wanted = if idle <= IDLE {
            let learned = if policy.clean == 0 {
                0
            } else {
                self.learned(now)
            };
            let learned = learned.clamp(policy.clean, policy.most_per_key);
            learned.max(self.floor)
        } else if idle <= FORGET {
            policy.clean.min(1)
        } else {
            0
        };
        wanted.max(always).min(policy.most_warm)
    }

    fn learned(&self, now: Duration) -> u32 {
        // A little less than a whole one is none: decay would else never end.
        let whole = (self.peak_now(now) - 0.25).ceil().clamp(0.0, 1024.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small range"
        )]
        let whole = whole as u32;
        whole
    }

    fn peak_now(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.peak_at);
        self.peak * 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        quantity::{ByteSize, CpuMillis, Pids},
        sandbox::Limits,
    };

    fn policy(clean: u32) -> Policy {
        Policy {
            clean,
            most_per_key: 4,
            most_warm: 8,
            most_making: 2,
            most_destroying: 4,
            limits: Limits {
                memory: ByteSize::mib(512),
                cpu: CpuMillis::ONE,
                pids: Pids::new(64).unwrap(),
            },
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_run_now_and_then_wants_the_configured_number() {
        let mut demand = Demand::new(ms(0));
        for second in 0..10 {
            demand.leased(ms(second * 1000), 4);
        }
        assert_eq!(demand.target(ms(9000), &policy(1)), 1);
        assert_eq!(demand.target(ms(9000), &policy(3)), 3);
    }

    #[test]
    fn a_burst_wants_more_up_to_the_bound_and_is_forgotten() {
        let mut demand = Demand::new(ms(0));
        for at in 0..3 {
            demand.leased(ms(at), 4);
        }
        assert_eq!(demand.target(ms(10), &policy(1)), 3);
        for at in 10..60 {
            demand.leased(ms(at), 4);
        }
        assert_eq!(demand.target(ms(60), &policy(1)), 4);
        assert_eq!(demand.target(ms(59) + HALF_LIFE, &policy(1)), 2);
        assert_eq!(demand.target(ms(59) + HALF_LIFE * 2, &policy(1)), 1);
    }

    #[test]
    fn slow_makes_want_more_ahead() {
        let mut demand = Demand::new(ms(0));
        for _ in 0..20 {
            demand.made_in(ms(1000));
        }
        for at in [0, 900, 1800, 2700] {
            demand.leased(ms(at), 4);
        }
        assert_eq!(demand.target(ms(2700), &policy(1)), 4);
    }

    #[test]
    fn an_idle_key_shrinks_to_one_and_then_to_none() {
        let mut demand = Demand::new(ms(0));
        demand.leased(ms(0), 4);
        demand.floor = 4;
        let policy = policy(3);
        assert_eq!(demand.target(IDLE, &policy), 4);
        assert_eq!(demand.target(IDLE + ms(1), &policy), 1);
        assert_eq!(demand.target(FORGET + ms(1), &policy), 0);
        demand.prewarmed = true;
        assert_eq!(demand.target(FORGET + ms(1), &policy), 3);
    }

    #[test]
    fn without_a_pool_only_what_was_asked_for_is_warm() {
        let mut demand = Demand::new(ms(0));
        demand.leased(ms(0), 4);
        demand.prewarmed = true;
        assert_eq!(demand.target(ms(0), &policy(0)), 0);
        demand.floor = 2;
        assert_eq!(demand.target(ms(0), &policy(0)), 2);
    }

    #[test]
    fn what_was_asked_for_ends_with_the_use() {
        let mut demand = Demand::new(ms(0));
        demand.floor = 4;
        demand.leased(IDLE + ms(1), 4);
        assert_eq!(demand.target(IDLE + ms(1), &policy(1)), 1);
    }
}
