//! Bounded waiting on a state, never on time passed.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until there is something to see, and gives it.
///
/// # Panics
/// When `limit` is over.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(LOOK);
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When `limit` is over.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, limit, || holds().then_some(()));
}

/// Seconds, for tables of limits.
#[must_use]
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Milliseconds, for tables of limits.
#[must_use]
pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
