//! Host uids for sandboxes: one for each that lives, from a range of this
//! daemon's own.
//!
//! The kernel counts inotify watches, pending signals and more per host uid, so
//! two sandboxes with one uid could starve each other. A range belongs to one
//! process for as long as it holds the lock of the range.
//!
//! Lasting sandboxes outlive their daemon, and the range may be another's by then:
//! a uid under which something runs when the range is taken is never handed out.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use isol8_core::failure::{Failure, FailureKind};

/// Uids of one range. More sandboxes at a time than any host of ours can hold.
pub const RANGE: u32 = 4096;
/// The first uid of the first range. Above what distributions hand to people
/// and services, and above the subordinate uids of the first user.
const FIRST: u32 = 200_000;
/// Ranges of root's daemons.
const RANGES: u32 = 256;
/// Where the ranges of unprivileged daemons begin: far from root's.
const FIRST_UNPRIVILEGED: u32 = 200_000_000;
/// Ranges of unprivileged daemons: the last ends below 2^31.
const RANGES_UNPRIVILEGED: u32 = 100_000;
/// Where the locks of root's ranges are.
const LOCKS: &str = "/run/isol8-uids";

/// A range of host uids. Clones share it.
#[derive(Debug, Clone)]
pub struct UidRange(Arc<Range>);

#[derive(Debug)]
struct Range {
    first: u32,
    taken: Mutex<Taken>,
    /// Held until the last clone and the last lease are gone.
    _lock: Option<File>,
}

#[derive(Debug)]
struct Taken {
    /// How many hold each uid.
    slots: Vec<u32>,
    /// Where the search begins: a uid that was given back rests for a whole
    /// round before it is used again.
    next: usize,
}

/// The host uid (and gid) of one live sandbox. Dropping it gives it back: do so
/// when every process of the sandbox is gone.
#[derive(Debug)]
pub struct SlotUid {
    uid: u32,
    range: Option<Arc<Range>>,
}

impl SlotUid {
    /// The uid, which is also the gid.
    #[must_use]
    pub const fn get(&self) -> u32 {
        self.uid
    }

    /// A uid that is not from a range, such as the daemon's own.
    #[must_use]
    pub const fn fixed(uid: u32) -> Self {
        Self { uid, range: None }
    }
}

impl Drop for SlotUid {
    fn drop(&mut self) {
        if let Some(range) = &self.range {
            let slot = (self.uid - range.first) as usize;
            range.taken().slots[slot] -= 1;
        }
    }
}

impl Range {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        // The table is whole after every statement that changes it.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UidRange {
    /// The range of this process: the same one for both engines.
    ///
    /// Root takes the first range that no live daemon holds. Anybody else gets
    /// the range that belongs to their uid.
    ///
    /// # Errors
    /// When every range is taken, or the locks cannot be made.
    pub fn of_this_process() -> Result<Self, Failure> {
        static SHARED: Mutex<Weak<Range>> = Mutex::new(Weak::new());

        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = shared.upgrade() {
            return Ok(Self(range));
        }
        let uid = rustix::process::geteuid();
        let range = if uid.is_root() {
            Self::claim(Path::new(LOCKS))?
        } else {
            Self::of_user(uid.as_raw())
        };
        *shared = Arc::downgrade(&range.0);
        Ok(range)
    }

    /// Takes the first free range of those whose locks are in `locks`.
    ///
    /// # Errors
    /// When every range is taken, or the locks cannot be made.
    pub fn claim(locks: &Path) -> Result<Self, Failure> {
        lock_folder(locks)?;
        for index in 0..RANGES {
            let path = locks.join(format!("{index}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| unusable(&path).because(&error))?;
            match file.try_lock() {
                Ok(()) => return Ok(Self::new(FIRST + index * RANGE, Some(file))),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(unusable(&path).because(&error)),
            }
        }
        Err(Failure::new(
            FailureKind::HostLacks,
            format!("{RANGES} daemons already hold all ranges of sandbox uids"),
        )
        .hint(format!("stop some of them: `fuser {}/*`", locks.display())))
    }

    /// The range that belongs to an unprivileged user: the same at every start,
    /// another for every uid below 100000.
    #[must_use]
    pub fn of_user(uid: u32) -> Self {
        let index = uid % RANGES_UNPRIVILEGED;
        Self::new(FIRST_UNPRIVILEGED + index * RANGE, None)
    }

    fn new(first: u32, lock: Option<File>) -> Self {
        let mut slots = vec![0; RANGE as usize];
        for uid in uids_at_work() {
            if let Some(slot) = slot_of(first, uid) {
                // Held by nobody who could give it back.
                slots[slot] = 1;
            }
        }
        // A restarted daemon begins elsewhere, so that it does not meet what its
        // predecessor left. A hasher's random key is random enough for that.
        let random = RandomState::new().hash_one(first) % u64::from(RANGE);
        let next = usize::try_from(random).expect("below 4096");
        Self(Arc::new(Range {
            first,
            taken: Mutex::new(Taken { slots, next }),
            _lock: lock,
        }))
    }

    /// Takes a uid that no live sandbox of this daemon has.
    ///
    /// # Errors
    /// `AtCapacity` when all 4096 are taken.
    pub fn lease(&self) -> Result<SlotUid, Failure> {
        let mut taken = self.0.taken();
        let size = taken.slots.len();
        let free = (0..size)
            .map(|offset| (taken.next + offset) % size)
            .find(|slot| taken.slots[*slot] == 0);
        let Some(slot) = free else {
            return Err(Failure::new(
                FailureKind::AtCapacity,
                format!("all {RANGE} sandbox uids are in use"),
            ));
        };
        taken.slots[slot] = 1;
        taken.next = (slot + 1) % size;
        let offset = u32::try_from(slot).expect("a range has 4096 slots");
        Ok(SlotUid {
            uid: self.0.first + offset,
            range: Some(Arc::clone(&self.0)),
        })
    }

    /// Keeps a uid that a sandbox has already from being leased, for as long as
    /// what is given lives. One of another range is [`SlotUid::fixed`].
    #[must_use]
    pub fn reserve(&self, uid: u32) -> SlotUid {
        let Some(slot) = slot_of(self.0.first, uid) else {
            return SlotUid::fixed(uid);
        };
        self.0.taken().slots[slot] += 1;
        SlotUid {
            uid,
            range: Some(Arc::clone(&self.0)),
        }
    }

    /// The first and the last uid.
    #[must_use]
    pub fn bounds(&self) -> (u32, u32) {
        (self.0.first, self.0.first + RANGE - 1)
    }
}

fn slot_of(first: u32, uid: u32) -> Option<usize> {
    let offset = uid.checked_sub(first)?;
    (offset < RANGE).then_some(offset as usize)
}

/// The uids of all processes that can be seen. What has ended meanwhile is passed
/// over.
fn uids_at_work() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    // Not the owner of the folder: that of an init, which is not dumpable, is root.
    let status = processes.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    status.flat_map(|status| uids_in(&status)).collect()
}

/// Real, effective, saved and file system uid.
fn uids_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let words = line.unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Makes the folder of the locks and refuses one that somebody else could have
/// prepared.
fn lock_folder(locks: &Path) -> Result<(), Failure> {
    match fs::DirBuilder::new().mode(0o755).create(locks) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unusable(locks).because(&error)),
    }
    let meta = fs::symlink_metadata(locks).map_err(|error| unusable(locks).because(&error))?;
    let ours = meta.is_dir()
        && meta.uid() == rustix::process::geteuid().as_raw()
        && meta.mode() & 0o022 == 0;
    if ours {
        Ok(())
    } else {
        Err(unusable(locks).cause("it is not a folder that only this user can change"))
    }
}

fn unusable(path: &Path) -> Failure {
    let path: PathBuf = path.to_owned();
    Failure::new(
        FailureKind::HostLacks,
        format!(
            "cannot lock a range of sandbox uids at `{}`",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, os::unix::fs::PermissionsExt};

    use super::*;

    /// The first uid of ranges that no daemon takes: on this host there may be
    /// some at work, with sandboxes of theirs.
    const QUIET: u32 = FIRST_UNPRIVILEGED + RANGES_UNPRIVILEGED * RANGE;

    #[test]
    fn two_daemons_never_share_a_range() {
        let locks = tempfile::tempdir().unwrap();
        let one = UidRange::claim(locks.path()).unwrap();
        let two = UidRange::claim(locks.path()).unwrap();
        assert_eq!(one.bounds(), (200_000, 204_095));
        assert_eq!(two.bounds(), (204_096, 208_191));
        drop(one);
        assert_eq!(
            UidRange::claim(locks.path()).unwrap().bounds(),
            (200_000, 204_095)
        );
    }

    #[test]
    fn a_lease_keeps_the_range_alive() {
        let locks = tempfile::tempdir().unwrap();
        let range = UidRange::claim(locks.path()).unwrap();
        let slot = range.lease().unwrap();
        drop(range);
        let other = UidRange::claim(locks.path()).unwrap();
        assert!(slot.get() < other.bounds().0);
    }

    #[test]
    fn every_live_sandbox_has_its_own_uid() {
        let range = UidRange::new(QUIET, None);
        let slots: Vec<SlotUid> = (0..RANGE).map(|_| range.lease().unwrap()).collect();
        let uids: HashSet<u32> = slots.iter().map(SlotUid::get).collect();
        assert_eq!(uids.len(), RANGE as usize);
        assert_eq!(
            range.lease().unwrap_err().kind,
            FailureKind::AtCapacity,
            "the range is exhausted"
        );
        let freed = slots[7].get();
        drop(slots.into_iter().nth(7));
        assert!(range.lease().is_ok(), "{freed} and the others are free");
    }

    #[test]
    fn a_uid_that_a_sandbox_has_already_is_not_leased() {
        let range = UidRange::new(QUIET, None);
        let (first, last) = range.bounds();
        let reserved = range.reserve(last);
        let again = range.reserve(last);
        let leases = || (1..RANGE).map(|_| range.lease()).collect::<Vec<_>>();
        let others = leases();
        assert!(others.iter().flatten().all(|slot| slot.get() != last));
        assert_eq!(range.lease().unwrap_err().kind, FailureKind::AtCapacity);
        drop(reserved);
        assert!(range.lease().is_err(), "the other one holds it");
        drop(again);
        assert_eq!(range.lease().unwrap().get(), last);
        for outside in [first - 1, last + 1, 0] {
            assert_eq!(range.reserve(outside).get(), outside);
        }
        drop(others);
        assert_eq!(leases().iter().flatten().count(), RANGE as usize - 1);
    }

    /// Only root has processes of other uids.
    #[test]
    fn a_uid_under_which_something_runs_is_never_leased() {
        use std::os::unix::process::CommandExt;

        // Another for each process that tests.
        let first = QUIET + (1 + std::process::id() % 1000) * RANGE;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut left = std::process::Command::new("sleep")
            .arg("600")
            .uid(first + 5)
            .spawn()
            .unwrap();
        let range = UidRange::new(first, None);
        left.kill().unwrap();
        left.wait().unwrap();
        let adopted = range.reserve(first + 5);
        let leases: Vec<SlotUid> = (1..RANGE).map(|_| range.lease().unwrap()).collect();
        assert!(leases.iter().all(|slot| slot.get() != first + 5));
        drop(adopted);
        assert!(range.lease().is_err(), "it stays taken in this process");
    }

    #[test]
    fn every_uid_of_a_process_counts() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t7\nGid:\t5\t5\t5\t5\n";
        assert_eq!(uids_in(status), [1000, 0, 0, 7]);
        assert_eq!(uids_in("Name:\tx\n"), [0_u32; 0]);
    }

    #[test]
    fn a_uid_that_was_given_back_rests() {
        let range = UidRange::new(QUIET, None);
        let first = range.lease().unwrap().get();
        let second = range.lease().unwrap().get();
        assert_ne!(first, second);
    }

    #[test]
    fn users_have_ranges_apart_from_root_and_each_other() {
        let (first, last) = UidRange::of_user(1000).bounds();
        assert!(first >= FIRST + RANGES * RANGE);
        assert!(UidRange::of_user(1001).bounds().0 > last);
        assert!(i32::try_from(UidRange::of_user(99_999).bounds().1).is_ok());
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let locks = tempfile::tempdir().unwrap();
        fs::set_permissions(locks.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let failure = UidRange::claim(locks.path()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::HostLacks);
    }
}
