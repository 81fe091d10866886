//! What all keys have together, such as places for connections. The last quarter of
//! it is for keys that have little: nobody keeps all others out.
//!
//! Of one key alone nothing is held back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use crate::keys::Caller;

/// This part of the whole is held back.
const HELD_BACK: usize = 4;
/// For keys that have less than this part.
const LITTLE: usize = 16;

/// Who may have how much of `most`.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By owner. Who has nothing is not in it.
    each: HashMap<String, usize>,
}

/// What one key has taken. Dropped, it is free.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    owner: String,
    count: usize,
}

/// What nobody holds back from this caller.
fn open(most: usize, caller: &Caller) -> usize {
    match caller.is_alone() {
        true => most,
        false => most - most / HELD_BACK,
    }
}

/// Whether a caller that has `own` of `all` that are taken may have `count` more.
pub(crate) fn allows(most: usize, all: usize, own: usize, count: usize, caller: &Caller) -> bool {
    let has_little = own + count <= (most / LITTLE).max(1);
    all + count <= open(most, caller) || (has_little && all + count <= most)
}

impl Shares {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// So many for this caller, if they are there for it.
    pub(crate) fn try_take(self: &Arc<Self>, caller: &Caller, count: usize) -> Option<Share> {
        // Who wants more than anybody can have waits for that.
        let count = count.min(open(self.most, caller));
        let mut taken = self.taken();
        let own = taken.each.get(caller.owner()).copied().unwrap_or_default();
        if count > 0 && !allows(self.most, taken.all, own, count, caller) {
            return None;
        }
        taken.all += count;
        *taken.each.entry(caller.owner().to_owned()).or_default() += count;
        Some(Share {
            shares: Arc::clone(self),
            owner: caller.owner().to_owned(),
            count,
        })
    }

    /// As [`Shares::try_take`], and waits for so long.
    ///
    /// # Cancellation
    /// Nothing is taken.
    pub(crate) async fn take(
        self: &Arc<Self>,
        caller: &Caller,
        count: usize,
        time: Duration,
    ) -> Option<Share> {
        let share = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // From before we look.
                freed.as_mut().enable();
                if let Some(share) = self.try_take(caller, count) {
                    return share;
                }
                freed.await;
            }
        };
        timeout(time, share).await.ok()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here panics.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Both are one from now on.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.count += std::mem::take(&mut other.count);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= self.count;
        if let Some(own) = taken.each.get_mut(&self.owner) {
            *own -= self.count;
            if *own == 0 {
                taken.each.remove(&self.owner);
            }
        }
        drop(taken);
        self.shares.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Key, Keys};

    fn callers(count: usize) -> Vec<Arc<Caller>> {
        let key = |n: usize| Key::new(n.to_string(), &format!("text {n}"), false);
        Keys::new((0..count).map(key).collect()).into_callers(1)
    }

    #[test]
    fn the_last_quarter_is_for_who_has_little() {
        let callers = callers(3);
        let shares = Shares::new(64);
        let mut greedy = shares.try_take(&callers[0], 40).expect("there is room");
        greedy.merge(shares.try_take(&callers[0], 8).expect("there is room"));
        assert!(shares.try_take(&callers[0], 1).is_none());
        let four = |caller| shares.try_take(caller, 4).expect("it is held back");
        let (second, third) = (four(&callers[1]), four(&callers[2]));
        assert!(shares.try_take(&callers[1], 1).is_none(), "it has a few");
        drop(greedy);
        assert!(shares.try_take(&callers[1], 40).is_some());
        drop((second, third));
        let taken = shares.taken();
        assert!(taken.all == 0 && taken.each.is_empty());
    }

    #[test]
    fn one_key_alone_has_all() {
        let callers = callers(1);
        let shares = Shares::new(64);
        let _all = shares.try_take(&callers[0], 64).expect("nobody else comes");
        assert!(shares.try_take(&callers[0], 1).is_none());
        assert!(shares.try_take(&callers[0], 0).is_some());
    }

    #[test]
    fn little_places_are_shared_too() {
        let callers = callers(2);
        let shares = Shares::new(1);
        let one = shares.try_take(&callers[0], 1).expect("there is room");
        assert!(shares.try_take(&callers[1], 1).is_none());
        drop(one);
        assert!(shares.try_take(&callers[1], 1).is_some());
    }

    #[tokio::test]
    async fn who_waits_has_what_becomes_free() {
        let callers = callers(2);
        let shares = Shares::new(16);
        let first = shares.try_take(&callers[0], 12).expect("there is room");
        let long = Duration::from_secs(3600);
        let next = shares.take(&callers[1], 12, long);
        tokio::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(first);
        let all = next.await.expect("it is free");
        assert!(shares.take(&callers[0], 4, Duration::ZERO).await.is_none());
        drop(all);
        // Who wants more than there is gets what there is.
        assert!(shares.take(&callers[0], 17, Duration::ZERO).await.is_some());
    }
}
