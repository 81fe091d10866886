//! Which daemons live: each holds a lock under its id for as long as it runs.
//!
//! What carries the mark of a daemon whose lock is free may be removed by any
//! other. A daemon whose lock is not to be found is taken to live: it may be in
//! another container or belong to another user, and nothing of a live daemon is
//! ever removed by a stranger.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::DaemonId,
};

/// Where root's daemons are announced. Readable by everybody.
const ROOTS: &str = "/run/isol8-daemons";
/// The locks of dead daemons are kept for so long, that others can learn of it.
const TOMBSTONE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// This daemon lives while a clone of this lives.
#[derive(Debug, Clone)]
pub struct Presence {
    _lock: Arc<File>,
}

impl Presence {
    /// Announces a daemon of this process. Announcing it again in the same
    /// process gives the same announcement.
    ///
    /// # Errors
    /// When another process has announced this id, which means that two daemons
    /// use one state folder, or when the lock cannot be made.
    pub fn announce(daemon: &DaemonId) -> Result<Self, Failure> {
        Self::announce_in(&own_folder(), daemon)
    }

    fn announce_in(folder: &Path, daemon: &DaemonId) -> Result<Self, Failure> {
        static ANNOUNCED: Mutex<Option<HashMap<PathBuf, Weak<File>>>> = Mutex::new(None);

        let path = lock_path(folder, daemon);
        let mut announced = ANNOUNCED.lock().unwrap_or_else(PoisonError::into_inner);
        let announced = announced.get_or_insert_default();
        announced.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = announced.get(&path).and_then(Weak::upgrade) {
            return Ok(Self { _lock: lock });
        }
        make_folder(folder).map_err(|error| unusable(folder).because(&error))?;
        bury_old(folder);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o644)
            .open(&path)
            .map_err(|error| unusable(&path).because(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    FailureKind::Forbidden,
                    format!("another daemon runs as `{daemon}`"),
                )
                .hint("give one of them another state folder with `ISOL8_STATE_DIR`"));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(&path).because(&error)),
        }
        let lock = Arc::new(lock);
        announced.insert(path, Arc::downgrade(&lock));
        Ok(Self { _lock: lock })
    }
}

/// Whether a daemon lives, or may live.
#[must_use]
pub fn is_alive(daemon: &DaemonId) -> bool {
    is_alive_in(&[PathBuf::from(ROOTS), own_folder()], daemon)
}

fn is_alive_in(folders: &[PathBuf], daemon: &DaemonId) -> bool {
    let mut found = false;
    for folder in folders {
        match File::open(lock_path(folder, daemon)) {
            Ok(lock) => {
                found = true;
                // Shared, so that two who ask do not meet each other's question.
                if lock.try_lock_shared().is_err() {
                    return true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It cannot be seen, so it may live.
            Err(_) => return true,
        }
    }
    !found
}

fn lock_path(folder: &Path, daemon: &DaemonId) -> PathBuf {
    folder.join(format!("{daemon}.lock"))
}

/// Where daemons of this user are announced.
fn own_folder() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return ROOTS.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if Path::new(&folder).is_absolute() => {
            Path::new(&folder).join("isol8-daemons")
        }
        _ => format!("/tmp/isol8-daemons-{}", uid.as_raw()).into(),
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(folder)?;
    if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(io::Error::other("it is not a folder of this user"))
    }
}

/// Removes locks that nobody holds and that are old. Best effort.
fn bury_old(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|modified| {
                SystemTime::now()
                    .duration_since(modified)
                    .is_ok_and(|age| age > TOMBSTONE_AGE)
            });
        let Ok(lock) = File::open(entry.path()) else {
            continue;
        };
        if old && lock.try_lock().is_ok() {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn unusable(path: &Path) -> Failure {
    Failure::new(
        FailureKind::HostLacks,
        format!("cannot announce this daemon at `{}`", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_lives_while_it_holds_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let daemon = DaemonId::random();
        assert!(is_alive_in(&folders, &daemon), "unknown: may live");

        let presence = Presence::announce_in(folder.path(), &daemon).unwrap();
        let again = Presence::announce_in(folder.path(), &daemon).unwrap();
        assert!(is_alive_in(&folders, &daemon));
        drop(presence);
        assert!(is_alive_in(&folders, &daemon), "the other one holds it");
        drop(again);
        assert!(!is_alive_in(&folders, &daemon));

        let _back = Presence::announce_in(folder.path(), &daemon).unwrap();
        assert!(is_alive_in(&folders, &daemon));
    }

    #[test]
    fn another_process_with_the_same_id_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = DaemonId::random();
        // As another process would: another open file description.
        let other = File::create(lock_path(folder.path(), &daemon)).unwrap();
        other.try_lock().unwrap();
        let failure = Presence::announce_in(folder.path(), &daemon).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Forbidden);
    }

    #[test]
    fn asking_does_not_take_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = DaemonId::random();
        drop(Presence::announce_in(folder.path(), &daemon).unwrap());
        assert!(!is_alive_in(&[folder.path().to_owned()], &daemon));
        let _mine = Presence::announce_in(folder.path(), &daemon).unwrap();
    }

    #[test]
    fn only_old_free_locks_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - TOMBSTONE_AGE * 2;
        let old = folder.path().join("old.lock");
        let held = folder.path().join("held.lock");
        let recent = folder.path().join("recent.lock");
        File::create(&old).unwrap().set_modified(long_ago).unwrap();
        let holder = File::create(&held).unwrap();
        holder.set_modified(long_ago).unwrap();
        holder.try_lock().unwrap();
        drop(File::create(&recent).unwrap());
        bury_old(folder.path());
        assert!(!old.exists() && held.exists() && recent.exists());
    }
}
