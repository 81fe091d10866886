//! Who is at what: two that remove the same thing must not both count it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Of every daemon in this process: what is claimed has a name of its own.
static CLAIMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn claimed() -> MutexGuard<'static, BTreeSet<String>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, nobody else in this process removes the thing. Whoever has it
/// looks once more whether the thing is there: it may have gone before.
#[derive(Debug)]
pub(crate) struct Claim(String);

impl Claim {
    /// `None` where somebody has it.
    pub(crate) fn on(name: String) -> Option<Self> {
        let free = claimed().insert(name.clone());
        free.then(|| Self(name))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_it() {
        let claim = || Claim::on("a thing of this test".to_owned());
        let first = claim();
        assert!(first.is_some());
        assert!(claim().is_none());
        assert!(claim().is_none(), "who did not get it gives nothing back");
        drop(first);
        assert!(claim().is_some());
    }
}
