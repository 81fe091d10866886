//! The socket that clients dial: at most one daemon on it, and only its own
//! user can connect, from its first instant. One that the service manager passes
//! is for whom its file is for, such as a group; it stays when the daemon ends.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::Stream;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::Principal,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

use crate::connection::Connection;

mod passed;

/// `sockaddr_un` holds 108 bytes with the NUL.
const MAX_PATH_BYTES: usize = 107;

/// A daemon that is going down holds the lock while it drains: longer than its
/// own grace.
const WAIT_FOR_LOCK: Duration = Duration::from_secs(15);

const LOCK_POLL: Duration = Duration::from_millis(50);

/// How long to leave the listener alone when descriptors have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why there is no socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketError {
    /// A live daemon has it: not a failure for whoever only wants one to run.
    AlreadyRunning(PathBuf),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for SocketError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A bound socket. Dropping it removes the file and frees the lock.
#[derive(Debug)]
pub struct Socket {
    listener: Option<StdListener>,
    path: PathBuf,
    /// The file that is ours to remove.
    file: Option<PathBuf>,
    admits: Admits,
    _lock: File,
}

/// Who may speak, of those who could connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admits {
    /// This uid, and root.
    Own(u32),
    /// Whom the socket's file lets in: it is the operator's, and not for all.
    WhoConnects,
}

impl Admits {
    fn admits(self, uid: u32) -> bool {
        match self {
            Self::Own(own) => uid == own || uid == 0,
            Self::WhoConnects => true,
        }
    }
}

impl Socket {
    /// Takes the socket that the service manager passed, else binds one that gets
    /// its path by [`Socket::accept`]: nobody dials a daemon that is not there yet
    /// and may not come to be.
    ///
    /// # Errors
    /// [`SocketError::AlreadyRunning`] when a daemon answers there; `Forbidden`
    /// when something that is not ours is in the way.
    pub async fn open(path: &Path) -> Result<Self, SocketError> {
        check_length(path)?;
        if let Some(listener) = passed::take(path)? {
            // Somebody always listens there: the service manager.
            let lock = lock(path, |_| false).await?;
            return Ok(Self {
                listener: Some(listener),
                path: path.to_path_buf(),
                file: None,
                admits: Admits::WhoConnects,
                _lock: lock,
            });
        }
        let lock = lock(path, |path| StdStream::connect(path).is_ok()).await?;
        clear(path)?;
        let (listener, hidden) = bind(path).map_err(|error| unusable(path, &error))?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_path_buf(),
            file: Some(hidden),
            admits: Admits::Own(rustix::process::geteuid().as_raw()),
            _lock: lock,
        })
    }

    /// The connections of this socket, each from a uid that may speak. From here on
    /// it can be dialled.
    ///
    /// # Errors
    /// When the runtime takes no more descriptors, or the path cannot be used.
    pub fn accept(
        &mut self,
    ) -> Result<impl Stream<Item = Result<Connection<UnixStream>, io::Error>> + use<>, Failure>
    {
        if let Some(hidden) = &self.file {
            let published = fs::rename(hidden, &self.path);
            published.map_err(|error| unusable(&self.path, &error))?;
            self.file = Some(self.path.clone());
        }
        let listener = self.listener.take();
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            UnixListener::from_std(listener).ok()
        });
        let listener = listener.ok_or_else(|| {
            Failure::new(FailureKind::Internal, "the socket cannot be listened on")
        })?;
        let admits = self.admits;
        Ok(futures_util::stream::unfold(
            listener,
            move |listener| async move {
                let connection = accept_one(&listener, admits).await;
                Some((Ok(connection), listener))
            },
        ))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Still under the lock: whoever waits for it finds the path free.
            let _gone = fs::remove_file(file);
        }
    }
}

/// The next connection of a uid that may speak.
async fn accept_one(listener: &UnixListener, admits: Admits) -> Connection<UnixStream> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if admits.admits(peer.uid()) => {
                return Connection::new(stream, Principal(peer.uid()));
            }
            Ok(peer) => tracing::warn!(uid = peer.uid(), "turned away a stranger"),
            Err(error) => tracing::warn!(%error, "a connection without credentials"),
        }
    }
}

fn check_length(path: &Path) -> Result<(), Failure> {
    let bytes = path.as_os_str().len();
    if bytes <= MAX_PATH_BYTES {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::InvalidRequest,
        format!(
            "the socket path `{}` has {bytes} bytes, the limit is {MAX_PATH_BYTES}",
            path.display()
        ),
    )
    .hint("set `ISOL8_SOCKET` to a shorter path"))
}

/// Takes the lock beside the socket, waiting for a daemon that is going down.
/// `answers` tells whether it is one that serves.
async fn lock(path: &Path, answers: impl Fn(&Path) -> bool) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |error: &io::Error| {
        Failure::new(
            FailureKind::HostLacks,
            format!("cannot lock `{}`", name.display()),
        )
        .because(error)
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&name)
        .map_err(|error| failed(&error))?;
    let patience = Instant::now() + WAIT_FOR_LOCK;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(&error).into()),
            Err(TryLockError::WouldBlock) => {}
        }
        // Locked and answering: alive. Locked and silent: starting or ending.
        if answers(path) {
            return Err(SocketError::AlreadyRunning(path.to_path_buf()));
        }
        if Instant::now() >= patience {
            return Err(Failure::new(
                FailureKind::Forbidden,
                format!(
                    "another daemon holds `{}` and does not answer",
                    name.display()
                ),
            )
            .hint("look for a hanging `isol8d` and end it")
            .into());
        }
        sleep(LOCK_POLL).await;
    }
}

/// Removes a dead socket, and nothing else.
fn clear(path: &Path) -> Result<(), SocketError> {
    let refuse = |why: String| {
        Err(Failure::new(
            FailureKind::Forbidden,
            format!("will not replace `{}`: {why}", path.display()),
        )
        .hint("remove it, or set `ISOL8_SOCKET` to another path")
        .into())
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return refuse(error.to_string()),
    };
    if !found.file_type().is_socket() {
        return refuse("it is not a socket".to_owned());
    }
    let uid = rustix::process::geteuid().as_raw();
    if found.uid() != uid {
        return refuse(format!("it belongs to uid {}, not to {uid}", found.uid()));
    }
    match StdStream::connect(path) {
        // A daemon that took no lock: another version, or another program.
        Ok(_) => Err(SocketError::AlreadyRunning(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).or_else(|error| refuse(error.to_string()))
        }
        Err(error) => refuse(error.to_string()),
    }
}

/// Binds under a name that nobody dials, and closes it to others.
fn bind(path: &Path) -> io::Result<(StdListener, PathBuf)> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let hidden = path.with_file_name(&name);
    // Of one that was killed while it started: the lock is ours.
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // By way of its folder: the name may be one byte longer than an address takes.
    let folder = File::open(hidden.parent().unwrap_or_else(|| Path::new("/")))?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    let listener = StdListener::bind(short.join(&name))?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).inspect_err(|_| {
        let _gone = fs::remove_file(&hidden);
    })?;
    Ok((listener, hidden))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot listen at `{}`", path.display());
    Failure::new(FailureKind::HostLacks, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_daemon_is_told_that_one_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.sock");
        let mut first = Socket::open(&path).await.expect("the path is free");
        assert!(!path.exists(), "nobody serves it yet");
        let _incoming = first.accept().expect("a listener");
        let mode = fs::metadata(&path).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::open(&path).await.map(|_| ());
        assert_eq!(second, Err(SocketError::AlreadyRunning(path.clone())));
        drop(first);
        assert!(!path.exists());
        drop(Socket::open(&path).await.expect("the path is free"));
        let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(left.len(), 1, "the lock alone: {left:?}");
    }

    #[tokio::test]
    async fn what_a_killed_start_left_goes_and_the_longest_path_serves() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = MAX_PATH_BYTES - folder.path().as_os_str().len() - "//d.sock".len();
        let deep = folder.path().join("x".repeat(room));
        fs::create_dir(&deep).expect("a folder");
        let (path, left) = (deep.join("d.sock"), deep.join(".d.sock"));
        assert_eq!(path.as_os_str().len(), MAX_PATH_BYTES);
        fs::write(&left, "left").expect("the path is free");
        let mut socket = Socket::open(&path).await.expect("the path is free");
        let _incoming = socket.accept().expect("a listener");
        assert!(!left.exists() && StdStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.sock");
        drop(StdListener::bind(&path).expect("the path is free"));
        assert!(path.exists());
        assert!(Socket::open(&path).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.sock");
        fs::write(&path, "mine").expect("the path is free");
        let Err(SocketError::Failed(failure)) = Socket::open(&path).await.map(|_| ()) else {
            panic!("it must be refused");
        };
        assert_eq!(failure.kind, FailureKind::Forbidden);
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "mine");
    }

    #[tokio::test]
    async fn a_long_path_is_named() {
        let path = PathBuf::from(format!("/tmp/{}/d.sock", "x".repeat(120)));
        let Err(SocketError::Failed(failure)) = Socket::open(&path).await.map(|_| ()) else {
            panic!("it must be refused");
        };
        assert!(failure.message.contains("the limit is 107"), "{failure}");
    }
}
