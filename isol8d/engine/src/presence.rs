//! Which daemons live: each holds a lock under its id for as long as it runs.
//!
//! What carries the mark of a daemon whose lock is free may be removed by any
//! other. A daemon whose lock is not to be found is taken to live: it may be in
//! another container or belong to another user, and nothing of a live daemon is
//! ever removed by a stranger.
//!
//! In its lock a daemon says which sandboxes others must leave alone when it is
//! dead, and until when: they last, and their daemon may come back for them.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
};

/// Where root's daemons are announced. Readable by everybody.
const ROOTS: &str = "/run/isol8-daemons";
/// The locks of dead daemons are kept for so long, that others can learn of it.
const TOMBSTONE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The first byte of a lock in which what is spared stands, and of one in which
/// it is just being written.
const WHOLE: u8 = b'#';
const HALF: u8 = b'!';
/// The longest that is read of what a daemon spares: thousands of sandboxes.
const MAX_SPARED_BYTES: u64 = 1 << 20;

/// This daemon lives while a clone of this lives.
#[derive(Debug, Clone)]
pub struct Presence {
    lock: Arc<Lock>,
}

#[derive(Debug)]
struct Lock {
    file: File,
    /// One writes at a time.
    writing: Mutex<()>,
}

/// A sandbox that others must leave alone when its daemon is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spared {
    /// Which one.
    pub id: SandboxId,
    /// From then on it may be removed, to the second.
    pub until: SystemTime,
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
        static ANNOUNCED: Mutex<Option<HashMap<PathBuf, Weak<Lock>>>> = Mutex::new(None);

        let path = lock_path(folder, daemon);
        let mut announced = ANNOUNCED.lock().unwrap_or_else(PoisonError::into_inner);
        let announced = announced.get_or_insert_default();
        announced.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = announced.get(&path).and_then(Weak::upgrade) {
            return Ok(Self { lock });
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
        let lock = Arc::new(Lock {
            file: lock,
            writing: Mutex::new(()),
        });
        announced.insert(path, Arc::downgrade(&lock));
        Ok(Self { lock })
    }

    /// Says which sandboxes others must leave alone, and no others, when this
    /// daemon is dead. Until then, what an earlier process of it said holds.
    ///
    /// # Errors
    /// When it cannot be written: then all sandboxes of this daemon are spared.
    pub fn spare(&self, spared: &[Spared]) -> io::Result<()> {
        let mut text = String::from("\n");
        for Spared { id, until } in spared {
            let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
            let until = until.as_secs() + u64::from(until.subsec_nanos() > 0);
            writeln!(text, "{id} {until}").map_err(io::Error::other)?;
        }
        let writing = self.lock.writing.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        let file = &self.lock.file;
        // It may end at any point: what is half written spares all.
        file.write_all_at(&[HALF], 0)?;
        file.write_all_at(text.as_bytes(), 1)?;
        file.set_len(1 + text.len() as u64)?;
        file.write_all_at(&[WHOLE], 0)
    }
}

/// Whether a daemon wants one of its sandboxes to be left alone when it is dead:
/// [`is_alive`] tells, and is to be asked first. What cannot be read or understood
/// spares all of them; without a lock it never said so.
#[must_use]
pub fn spares(daemon: &DaemonId, sandbox: &SandboxId) -> bool {
    let folders = [PathBuf::from(ROOTS), own_folder()];
    spares_in(&folders, daemon, sandbox, SystemTime::now())
}

fn spares_in(folders: &[PathBuf], daemon: &DaemonId, sandbox: &SandboxId, now: SystemTime) -> bool {
    for folder in folders {
        let text = match File::open(lock_path(folder, daemon)) {
            Ok(lock) => read_spared(&lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error),
        };
        let spared = text.ok().and_then(|text| parse_spared(&text));
        let Some(spared) = spared else {
            return true;
        };
        if spared
            .iter()
            .any(|one| one.id == *sandbox && one.until > now)
        {
            return true;
        }
    }
    false
}

fn read_spared(lock: &File) -> io::Result<String> {
    let mut text = String::new();
    let read = lock.take(MAX_SPARED_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_SPARED_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// `None` for what no daemon of this kind has written whole.
fn parse_spared(text: &str) -> Option<Vec<Spared>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let lines = text.strip_prefix(char::from(WHOLE))?.strip_prefix('\n')?;
    if !lines.is_empty() && !lines.ends_with('\n') {
        return None;
    }
    let line = |line: &str| {
        let (id, until) = line.split_once(' ')?;
        Some(Spared {
            id: SandboxId::parse(id)?,
            until: UNIX_EPOCH.checked_add(Duration::from_secs(until.parse().ok()?))?,
        })
    };
    lines.lines().map(line).collect()
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
    fn a_dead_daemon_has_its_sandboxes_spared_for_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned(), folder.path().join("none")];
        let daemon = DaemonId::random();
        let [one, other, stranger] = [(); 3].map(|()| SandboxId::random());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let spares = |id: &SandboxId, now| spares_in(&folders, &daemon, id, now);
        assert!(!spares(&one, now), "nobody said so");

        let presence = Presence::announce_in(folder.path(), &daemon).unwrap();
        assert!(!spares(&one, now), "it never said so");
        let until = |id: &SandboxId, seconds: u64| Spared {
            id: id.clone(),
            until: now + Duration::from_millis(seconds * 1000 - 1),
        };
        presence
            .spare(&[until(&one, 10), until(&other, 99)])
            .unwrap();
        drop(presence);
        assert!(spares(&one, now) && spares(&other, now));
        assert!(!spares(&stranger, now));
        let later = now + Duration::from_secs(10);
        assert!(!spares(&one, later) && spares(&other, later));

        let presence = Presence::announce_in(folder.path(), &daemon).unwrap();
        assert!(spares(&one, now), "until it says otherwise");
        presence.spare(&[until(&other, 99)]).unwrap();
        assert!(!spares(&one, now) && spares(&other, now));
        presence.spare(&[]).unwrap();
        assert!(!spares(&other, now));
    }

    #[test]
    fn what_cannot_be_understood_spares_all() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let daemon = DaemonId::random();
        let id = SandboxId::random();
        let other = SandboxId::random();
        let path = lock_path(folder.path(), &daemon);
        let spares = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            spares_in(&folders, &daemon, &id, UNIX_EPOCH)
        };
        assert!(!spares(b""));
        assert!(!spares(b"#\n"));
        assert!(!spares(format!("#\n{other} 5\n").as_bytes()));
        let long = "x".repeat(2 << 20);
        for text in [
            format!("!\n{other} 5\n"),
            format!("#\n{other} 5"),
            format!("#\n{other}\n"),
            format!("#\n{other} x\n"),
            format!("#\n{other} 18446744073709551615\n"),
            format!("{other} 5\n"),
            "#\nsomething new\n".to_owned(),
            "#".to_owned(),
            long,
        ] {
            assert!(spares(text.as_bytes()), "{text:.80}");
        }
        assert!(spares(&[b'#', b'\n', 0xff]));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(spares_in(&folders, &daemon, &id, UNIX_EPOCH), "unreadable");
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
