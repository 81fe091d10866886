//! Every key of a gateway while it serves, and what goes on under each.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use isol8_core::config;
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Digest, Key, digest_of};
use crate::refusal::Refusal;

/// How late what a key runs may hear that it has expired. Requests hear at once.
const EXPIRY_TICK: Duration = Duration::from_millis(500);

/// All keys. A clone is the same keys: they change for every holder.
#[derive(Clone, Default)]
pub struct Keys(Arc<RwLock<Ring>>);

#[derive(Default)]
struct Ring {
    callers: Vec<Arc<Caller>>,
    /// What one key may run at once.
    runs: usize,
}

impl Keys {
    /// The keys that open the gateway; without any it stays shut.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        let new = Self::default();
        new.replace(keys);
        new
    }

    /// From now on these and no others. What runs under a key that stays goes on,
    /// and counts as before; what runs under one that is gone ends.
    pub fn replace(&self, keys: Vec<Key>) {
        self.change(|ring| {
            let next = renewed(&ring.callers, keys, ring.runs);
            std::mem::replace(&mut ring.callers, next)
        });
    }

    /// How many may run at once under one key. For a gateway that begins.
    pub(crate) fn allow_runs(&self, runs: usize) {
        self.change(|ring| {
            ring.runs = runs;
            let keys = ring.callers.iter().map(|caller| caller.key.clone());
            let next = renewed(&[], keys.collect(), runs);
            std::mem::replace(&mut ring.callers, next)
        });
    }

    fn change(&self, change: impl FnOnce(&mut Ring) -> Vec<Arc<Caller>>) {
        let mut ring = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = change(&mut ring);
        let stay: HashSet<_> = ring.callers.iter().map(|caller| caller.id()).collect();
        for gone in before.iter().filter(|caller| !stay.contains(&caller.id())) {
            gone.revoked.cancel();
        }
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose key this is. Every key is looked at, so that time tells nothing.
    pub(crate) fn find(&self, text: &str, now: Timestamp) -> Option<Arc<Caller>> {
        let digest = digest_of(text);
        let mut found = None;
        for caller in &self.ring().callers {
            if bool::from(caller.key.digest.ct_eq(&digest)) {
                found = Some(Arc::clone(caller));
            }
        }
        let found = found.filter(|caller| !caller.key.is_expired(now))?;
        found
            .used_ms
            .fetch_max(now.as_millisecond(), Ordering::Relaxed);
        Some(found)
    }

    /// When each was last used, by the owner of its sessions. Those that never were
    /// are left out.
    pub(super) fn used(&self) -> HashMap<String, i64> {
        let ring = self.ring();
        let used = ring.callers.iter().map(|caller| {
            let used = caller.used_ms.load(Ordering::Relaxed);
            (caller.key.owner.clone(), used)
        });
        used.filter(|(_, used)| *used > i64::MIN).collect()
    }

    /// Ends what runs under keys that have expired.
    fn end_expired(&self, now: Timestamp) {
        for caller in &self.ring().callers {
            if caller.key.is_expired(now) {
                caller.revoked.cancel();
            }
        }
    }

    /// Goes on ending what runs under keys that expire, until `stop` fires.
    pub(crate) async fn watch_expiry(self, stop: CancellationToken) {
        let mut tick = interval(EXPIRY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.end_expired(Timestamp::now()),
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn into_callers(self, runs: usize) -> Vec<Arc<Caller>> {
        self.allow_runs(runs);
        self.ring().callers.clone()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        f.debug_list()
            .entries(ring.callers.iter().map(|caller| &caller.key))
            .finish()
    }
}

/// The callers of these keys. What is counted for a key, and what runs under a
/// text of it, stays with it.
fn renewed(before: &[Arc<Caller>], keys: Vec<Key>, runs: usize) -> Vec<Arc<Caller>> {
    let mut counts: HashMap<String, _> = HashMap::new();
    for caller in before {
        let count = (Arc::clone(&caller.runs), Arc::clone(&caller.used_ms));
        counts.insert(caller.key.owner.clone(), count);
    }
    let owners: HashSet<_> = keys.iter().map(|key| &key.owner).collect();
    let is_alone = owners.len() <= 1;
    let live = before
        .iter()
        .filter(|caller| !caller.revoked.is_cancelled());
    let live: HashMap<_, _> = live
        .map(|caller| (caller.id(), caller.revoked.clone()))
        .collect();
    let caller = |key: Key| {
        // Two texts of one key share what is counted.
        let count = counts.entry(key.owner.clone()).or_insert_with(|| {
            let unused = Arc::new(AtomicI64::new(i64::MIN));
            (Arc::new(Semaphore::new(runs)), unused)
        });
        let (runs, used_ms) = count.clone();
        let id = (key.owner.as_str(), key.digest);
        let revoked = live.get(&id).cloned().unwrap_or_default();
        Arc::new(Caller {
            key,
            runs,
            used_ms,
            revoked,
            is_alone,
        })
    };
    keys.into_iter().map(caller).collect()
}

/// A key in use. A key with two texts, one of them on its way out, is two.
#[derive(Debug)]
pub(crate) struct Caller {
    key: Key,
    /// What it may run at once.
    pub(crate) runs: Arc<Semaphore>,
    /// When it was last used; `i64::MIN` before.
    used_ms: Arc<AtomicI64>,
    revoked: CancellationToken,
    is_alone: bool,
}

impl Caller {
    fn id(&self) -> (&str, Digest) {
        (&self.key.owner, self.key.digest)
    }

    pub(crate) fn name(&self) -> &str {
        &self.key.name
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.key.is_admin
    }

    /// What the key may ask for of what the gateway allows.
    pub(crate) fn policy(&self) -> &config::Policy {
        &self.key.policy
    }

    /// There is no other key.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Stands for the key in the names of its sessions.
    pub(crate) fn owner(&self) -> &str {
        &self.key.owner
    }

    /// Fires when the key is removed or has expired: what it runs ends.
    pub(crate) fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

/// What goes on under a key that is no more ends with this.
pub(crate) fn revoked() -> Refusal {
    Refusal::forbidden("the API key was removed or has expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn name(keys: &Keys, text: &str) -> Option<String> {
        keys.find(text, NOW).map(|caller| caller.name().to_owned())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("it is in range")
    }

    #[test]
    fn only_the_whole_key_opens() {
        let keys = Keys::new(vec![
            Key::new("a", "first", true),
            Key::new("b", "second", false),
        ]);
        assert_eq!(name(&keys, "first").as_deref(), Some("a"));
        assert_eq!(name(&keys, "second").as_deref(), Some("b"));
        for wrong in ["", "firs", "first ", "First", "third"] {
            assert_eq!(name(&keys, wrong), None, "{wrong:?}");
        }
        assert!(Keys::default().find("", NOW).is_none());
    }

    #[test]
    fn a_key_opens_until_the_moment_it_expires() {
        let keys = Keys::new(vec![Key::new("a", "first", true).until(at(10))]);
        assert!(keys.find("first", at(9)).is_some());
        assert!(keys.find("first", at(10)).is_none());
        assert!(keys.find("first", at(11)).is_none());
    }

    #[test]
    fn what_runs_under_a_key_that_stays_goes_on() {
        let first = || Key::new("a", "first", true);
        let keys = Keys::new(vec![first(), Key::new("b", "second", true)]);
        keys.allow_runs(1);
        let caller = |text| keys.find(text, NOW).expect("it opens");
        let (stays, goes) = (caller("first"), caller("second"));
        let place = Arc::clone(&stays.runs).try_acquire_owned();
        keys.replace(vec![first().with_policy(config::Policy {
            max_timeout: Some(Duration::from_secs(1)),
            ..config::Policy::default()
        })]);
        assert!(goes.revoked().is_cancelled() && !stays.revoked().is_cancelled());
        assert_eq!(name(&keys, "second"), None);
        let again = caller("first");
        assert!(again.policy().max_timeout.is_some(), "it is the new one");
        assert!(again.runs.try_acquire().is_err(), "its run still counts");
        drop(place);
        assert!(again.runs.try_acquire().is_ok());
        keys.replace(Vec::new());
        assert!(stays.revoked().is_cancelled() && again.revoked().is_cancelled());
    }

    #[test]
    fn two_texts_of_one_key_share_its_runs_and_end_on_their_own() {
        let text = |text: &str| Key::of_digest("a".into(), digest_of(text), "owner".into());
        let keys = Keys::new(vec![text("old"), text("new")]);
        keys.allow_runs(1);
        let (old, new) = (keys.find("old", NOW), keys.find("new", NOW));
        let (old, new) = (old.expect("it opens"), new.expect("it opens"));
        let place = old.runs.try_acquire();
        assert!(place.is_ok() && new.runs.try_acquire().is_err());
        keys.replace(vec![text("new")]);
        assert!(old.revoked().is_cancelled() && !new.revoked().is_cancelled());
    }

    #[test]
    fn what_runs_ends_when_its_key_expires_and_a_longer_life_is_a_new_one() {
        let key = |until| Key::new("a", "first", true).until(at(until));
        let keys = Keys::new(vec![key(10)]);
        let caller = keys.find("first", NOW).expect("it opens");
        keys.end_expired(at(9));
        assert!(!caller.revoked().is_cancelled());
        keys.end_expired(at(10));
        assert!(caller.revoked().is_cancelled());
        keys.replace(vec![key(20)]);
        let caller = keys.find("first", at(10)).expect("it opens again");
        assert!(!caller.revoked().is_cancelled());
    }

    #[test]
    fn use_is_noted_by_the_owner_and_outlives_a_change() {
        let key = || Key::new("a", "first", true);
        let keys = Keys::new(vec![key(), Key::new("b", "second", true)]);
        assert!(keys.used().is_empty());
        assert!(keys.find("first", at(7)).is_some());
        assert!(keys.find("none", at(8)).is_none());
        keys.replace(vec![key()]);
        assert_eq!(keys.used(), HashMap::from([(key().owner, 7000)]));
    }
}
