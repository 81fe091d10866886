//! Which layers go: a decision over values, without a disk.

use std::time::Duration;

use isol8_core::layer::LayerId;

/// Bytes of all layers together. Past it, those that were used longest ago go.
pub(crate) const MOST_BYTES: u64 = 5 << 30;

/// Bytes of one layer: no single run may push all others out.
pub(crate) const MOST_LAYER_BYTES: u64 = 1 << 30;

/// Files, folders and links of one layer: a disk also runs out of inodes.
pub(crate) const MOST_LAYER_ENTRIES: u32 = 200_000;

/// Names without a version stand for other files after some time; a layer of
/// them is installed anew after this.
pub(crate) const UNPINNED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the decision needs to know of a layer. Times are those since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: LayerId,
    pub(crate) bytes: u64,
    pub(crate) created: Duration,
    pub(crate) last_used: Duration,
    /// Every package names one version.
    pub(crate) pinned: bool,
    /// A sandbox mounts it, or a run is about to.
    pub(crate) in_use: bool,
}

impl Held {
    /// It no longer stands for what its names stand for.
    pub(crate) fn is_expired(&self, now: Duration) -> bool {
        // A clock that was set back must not keep a layer for ever: what was
        // made in the future is as good as old.
        let future = self.created > now + UNPINNED_AGE;
        !self.pinned && (future || now.saturating_sub(self.created) >= UNPINNED_AGE)
    }
}

/// The layers to remove so that `wanted` more bytes fit: whatever has expired,
/// then those that were used longest ago, never one that is in use. `None` when
/// that does not make enough room; nothing needs to go then.
pub(crate) fn to_remove(
    held: &[Held],
    now: Duration,
    wanted: u64,
    most: u64,
) -> Option<Vec<LayerId>> {
    let mut total: u64 = held.iter().map(|held| held.bytes).sum();
    let mut free: Vec<&Held> = held.iter().filter(|held| !held.in_use).collect();
    free.sort_by(|a, b| {
        let key = |held: &Held| (!held.is_expired(now), held.last_used, held.id.clone());
        key(a).cmp(&key(b))
    });
    let mut going = Vec::new();
    for held in free {
        let fits = total.saturating_add(wanted) <= most;
        if fits && !held.is_expired(now) {
            break;
        }
        total -= held.bytes;
        going.push(held.id.clone());
    }
    (total.saturating_add(wanted) <= most).then_some(going)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;

    fn layer(name: u8, bytes: u64, used_day: u64) -> Held {
        Held {
            id: LayerId::new(&[name; 32]),
            bytes,
            created: Duration::from_secs(0),
            last_used: Duration::from_secs(used_day * DAY),
            pinned: true,
            in_use: false,
        }
    }

    fn ids(names: &[u8]) -> Vec<LayerId> {
        names
            .iter()
            .map(|name| LayerId::new(&[*name; 32]))
            .collect()
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_more_than_needed() {
        let held = [layer(1, 40, 3), layer(2, 40, 1), layer(3, 20, 2)];
        let now = Duration::from_secs(4 * DAY);
        assert_eq!(to_remove(&held, now, 0, 100), Some(vec![]));
        assert_eq!(to_remove(&held, now, 40, 100), Some(ids(&[2])));
        assert_eq!(to_remove(&held, now, 41, 100), Some(ids(&[2, 3])));
        assert_eq!(to_remove(&held, now, 101, 100), None);
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut held = [layer(1, 50, 1), layer(2, 50, 2)];
        held[0].in_use = true;
        let now = Duration::from_secs(3 * DAY);
        assert_eq!(to_remove(&held, now, 10, 100), Some(ids(&[2])));
        held[1].in_use = true;
        assert_eq!(to_remove(&held, now, 10, 100), None);
    }

    #[test]
    fn unpinned_layers_expire_also_when_there_is_room() {
        let mut held = [layer(1, 1, 6), layer(2, 1, 6), layer(3, 1, 6)];
        held[0].pinned = false;
        held[1].pinned = false;
        held[1].created = Duration::from_secs(DAY);
        let now = Duration::from_secs(7 * DAY);
        assert_eq!(to_remove(&held, now, 0, 100), Some(ids(&[1])));
        // Made by a clock that was far ahead.
        held[1].created = Duration::from_secs(1000 * DAY);
        assert_eq!(to_remove(&held, now, 0, 100), Some(ids(&[1, 2])));
    }

    fn any_layers() -> impl Strategy<Value = Vec<Held>> {
        let one = (
            0..2000_u64,
            0..30_u64,
            0..30_u64,
            any::<bool>(),
            any::<bool>(),
        );
        prop::collection::vec(one, 0..40).prop_map(|layers| {
            let made = layers.into_iter().zip(0_u8..);
            let held = made.map(|((bytes, created, used, pinned, in_use), name)| Held {
                created: Duration::from_secs(created * DAY),
                pinned,
                in_use,
                ..layer(name, bytes, used)
            });
            held.collect()
        })
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_nothing_goes_in_vain(
            held in any_layers(),
            wanted in 0..3000_u64,
        ) {
            const MOST: u64 = 10_000;
            let now = Duration::from_secs(30 * DAY);
            let sum = |layers: &mut dyn Iterator<Item = &Held>| -> u64 {
                layers.map(|held| held.bytes).sum()
            };
            let Some(going) = to_remove(&held, now, wanted, MOST) else {
                let kept = sum(&mut held.iter().filter(|held| held.in_use));
                prop_assert!(kept + wanted > MOST);
                return Ok(());
            };
            let goes = |held: &Held| going.contains(&held.id);
            prop_assert!(sum(&mut held.iter().filter(|held| !goes(held))) + wanted <= MOST);
            prop_assert!(held.iter().all(|held| !(goes(held) && held.in_use)));
            // Everything that is stale and free goes.
            for held in &held {
                if held.is_expired(now) && !held.in_use {
                    prop_assert!(goes(held));
                }
            }
            // The last fresh one that goes was needed, and is older than all
            // that stay.
            let fresh = |held: &&Held| !held.in_use && !held.is_expired(now);
            let newest = held.iter().filter(fresh).filter(|held| goes(held)).max_by_key(|held| held.last_used);
            if let Some(newest) = newest {
                let others = sum(&mut held.iter().filter(|held| !goes(held)));
                let needed = others + newest.bytes + wanted > MOST;
                let mut twins = held.iter().filter(fresh).filter(|held| goes(held));
                let has_twin = twins.any(|other| {
                    other.id != newest.id && other.last_used == newest.last_used
                });
                prop_assert!(needed || has_twin);
                for stays in held.iter().filter(fresh).filter(|held| !goes(held)) {
                    prop_assert!(stays.last_used >= newest.last_used);
                }
            }
        }
    }
}
