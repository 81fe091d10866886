//! Where a daemon and the init of one sandbox meet: a socket that takes exactly
//! one peer and is then gone. For a lasting sandbox it comes again in the same
//! folder, which is the one that the sandbox has mounted.
//!
//! Whoever can traverse the folder can dial, and so can every program inside: a
//! peer is taken only when the kernel says that it is the process that was
//! started, and under its uid.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{door, link::Link};

/// The socket's name in its folder.
const SOCKET: &str = "sock";
/// The longest path that a socket address holds, with its end.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Who dialled, as the kernel saw it at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id in the daemon's pid namespace.
    pub pid: i32,
    /// Host uid.
    pub uid: u32,
    /// Host gid.
    pub gid: u32,
}

/// What the one peer brought.
#[derive(Debug)]
pub struct Met {
    /// The stream of frames.
    pub link: Link,
    /// The listening socket of a filtered network, where one was expected.
    pub listener: Option<OwnedFd>,
    /// The socket's folder.
    pub folder: LinkFolder,
}

/// A bound socket that waits for one init. Dropping it removes the socket, and
/// the folder if that was made for it.
#[derive(Debug)]
pub struct Meeting {
    // Before the folder that it is in.
    socket: Socket,
    folder: LinkFolder,
}

/// A bound socket, removed on drop.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Everybody who can reach it may dial.
    fn bind(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        let socket = Self { path, listener };
        set_mode(&socket.path, 0o666)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that stays is stale, and is removed by the next.
        fs::remove_file(&self.path).ok();
    }
}

/// The folder of one sandbox's socket, removed with everything in it on drop,
/// unless the sandbox had it before.
#[derive(Debug)]
pub struct LinkFolder {
    path: PathBuf,
    keep: bool,
}

impl LinkFolder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is: from now on [`remove_folder`] removes it.
    pub fn keep(mut self) -> PathBuf {
        self.keep = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for LinkFolder {
    fn drop(&mut self) {
        if !self.keep {
            // What stays is found by its name when the sandbox is destroyed.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// The folder of a sandbox's socket: it is mounted into the sandbox.
#[must_use]
pub fn folder_of(runtime_dir: &Path, id: &SandboxId) -> PathBuf {
    runtime_dir.join("sb").join(id.as_str())
}

/// Removes the folder of a sandbox. Does nothing where there is none.
///
/// # Errors
/// What the file system says.
pub fn remove_folder(runtime_dir: &Path, id: &SandboxId) -> io::Result<()> {
    match fs::remove_dir_all(folder_of(runtime_dir, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the folders that were made before the host started: no sandbox of that
/// time lives, and nothing else tells of them. A clock that was set later makes a
/// folder look old: one that a process has mounted stays. Best effort.
pub fn sweep(runtime_dir: &Path) {
    let Some(boot) = boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default()) else {
        return;
    };
    let Ok(entries) = fs::read_dir(runtime_dir.join("sb")) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let named = entry.file_name().to_str().and_then(SandboxId::parse);
        let old = modified.is_ok_and(|modified| modified < boot);
        if named.is_some_and(|id| old && !is_mounted(&id)) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Whether a process that can be seen has the folder of a sandbox mounted.
fn is_mounted(id: &SandboxId) -> bool {
    let folder = format!("/sb/{id} ");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read_to_string(process.path().join("mountinfo")).ok())
        .any(|mounts| mounts.contains(&folder))
}

/// When the host started, less a minute for a clock that was set later.
fn boot_time(stat: &str) -> Option<SystemTime> {
    let seconds: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds.saturating_sub(60)))
}

impl Meeting {
    /// Makes the folder (0711) and the socket (0666) of a sandbox. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// When the folder is there already, or the path is too long for a socket.
    pub fn open(runtime_dir: &Path, id: &SandboxId) -> Result<Self, Failure> {
        let path = folder_of(runtime_dir, id);
        let failed = |error: io::Error| {
            Failure::new(
                FailureKind::Internal,
                format!("cannot make the sandbox's socket in `{}`", path.display()),
            )
            .because(&error)
        };
        let socket = path.join(SOCKET);
        if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(Failure::new(
                FailureKind::HostLacks,
                format!("the path `{}` is too long for a socket", socket.display()),
            )
            .hint("set `ISOL8_SOCKET` to a shorter path"));
        }
        let parent = path.parent().expect("the folder is below the runtime dir");
        make_folder(parent).map_err(failed)?;
        fs::DirBuilder::new()
            .mode(0o711)
            .create(&path)
            .map_err(failed)?;
        let folder = LinkFolder {
            path: path.clone(),
            keep: false,
        };
        // The umask may have taken bits away.
        set_mode(&path, 0o711).map_err(failed)?;
        let socket = Socket::bind(socket).map_err(failed)?;
        Ok(Self { socket, folder })
    }

    /// Makes the socket of a lasting sandbox anew, in the folder that is there and
    /// that stays. Only one at a time may do so for a sandbox. Must be called in a
    /// tokio runtime.
    ///
    /// # Errors
    /// `Internal`, above all when there is no such folder: then the sandbox has no
    /// way to dial any more.
    pub fn reopen(runtime_dir: &Path, id: &SandboxId) -> Result<Self, Failure> {
        let path = folder_of(runtime_dir, id);
        let bind = || {
            if !fs::symlink_metadata(&path)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            let socket = path.join(SOCKET);
            match fs::remove_file(&socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            Socket::bind(socket)
        };
        let socket = bind().map_err(|error| {
            let message = format!("cannot make a socket again in `{}`", path.display());
            Failure::new(FailureKind::Internal, message).because(&error)
        })?;
        let folder = LinkFolder { path, keep: true };
        Ok(Self { socket, folder })
    }

    /// The folder to mount into the sandbox.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits for the one peer that `is_init` knows, then removes the socket so
    /// that nobody else can dial. Others are turned away. With `filtered` the
    /// peer hands over a listening socket before its first frame.
    ///
    /// # Errors
    /// `EngineTimeout` when nobody came in time; `Unsupported` when the peer came
    /// without a listener that was expected.
    ///
    /// # Cancellation
    /// Dropping the future does what dropping the meeting does.
    pub async fn accept(
        self,
        deadline: Duration,
        filtered: bool,
        is_init: impl FnMut(&Peer) -> bool,
    ) -> Result<Met, Failure> {
        let Ok(met) = timeout(deadline, self.meet(filtered, is_init)).await else {
            return Err(Failure::new(
                FailureKind::EngineTimeout,
                format!(
                    "the sandbox did not come up in {} s",
                    deadline.as_secs_f32()
                ),
            ));
        };
        let (stream, listener) = met?;
        drop(self.socket);
        let (read, write) = stream.into_split();
        Ok(Met {
            link: Link::new(read, write),
            listener,
            folder: self.folder,
        })
    }

    async fn meet(
        &self,
        filtered: bool,
        is_init: impl FnMut(&Peer) -> bool,
    ) -> Result<(UnixStream, Option<OwnedFd>), Failure> {
        let stream = self.first(is_init).await.map_err(|error| {
            Failure::new(FailureKind::Internal, "cannot take the sandbox's call").because(&error)
        })?;
        let listener = if filtered {
            Some(door::receive(&stream).await?)
        } else {
            None
        };
        Ok((stream, listener))
    }

    async fn first(&self, mut is_init: impl FnMut(&Peer) -> bool) -> io::Result<UnixStream> {
        let mut strangers = 0_u64;
        loop {
            let (stream, _) = self.socket.listener.accept().await?;
            let credentials = stream.peer_cred()?;
            let peer = Peer {
                pid: credentials.pid().unwrap_or(0),
                uid: credentials.uid(),
                gid: credentials.gid(),
            };
            if is_init(&peer) {
                return Ok(stream);
            }
            // A program inside may dial as often as it likes.
            if strangers == 0 {
                tracing::warn!(
                    pid = peer.pid,
                    uid = peer.uid,
                    "a stranger dialled a sandbox's socket and was turned away"
                );
            }
            strangers += 1;
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Ok(()) => set_mode(path, 0o711),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use isol8_proto::init::{FromInit, Hello, from_init};
    use prost::Message;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn own(peer: &Peer) -> bool {
        peer.pid == i32::try_from(std::process::id()).unwrap()
    }

    #[tokio::test]
    async fn the_first_known_peer_is_taken_and_the_socket_goes() {
        let place = tempfile::tempdir().unwrap();
        let id = SandboxId::random();
        let meeting = Meeting::open(place.path(), &id).unwrap();
        let socket = meeting.folder().join("sock");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(meeting.folder()), 0o711);
        assert_eq!(mode(&socket), 0o666);

        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let hello = from_init::Message::Hello(Hello {
            protocol: 1,
            version: "x".into(),
            ..Hello::default()
        });
        let frame = FromInit {
            message: Some(hello.clone()),
        }
        .encode_to_vec();
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        stream.write_all(&length).await.unwrap();
        stream.write_all(&frame).await.unwrap();

        let met = meeting.accept(Duration::from_secs(5), false, own).await;
        let Met {
            mut link,
            listener,
            folder,
        } = met.unwrap();
        assert!(listener.is_none());
        assert_eq!(link.reader.recv().await.unwrap(), hello);
        assert!(!socket.exists(), "nobody else can dial");
        assert!(folder.path().exists());
        drop(folder);
        assert!(!folder_of(place.path(), &id).exists());
    }

    #[tokio::test]
    async fn a_stranger_is_turned_away() {
        let place = tempfile::tempdir().unwrap();
        let meeting = Meeting::open(place.path(), &SandboxId::random()).unwrap();
        let folder = meeting.folder().to_owned();
        let _stream = UnixStream::connect(folder.join("sock")).await.unwrap();
        let failure = meeting
            .accept(Duration::from_millis(50), false, |_| false)
            .await
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::EngineTimeout);
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_peer_that_owes_its_listener_has_the_same_deadline() {
        let place = tempfile::tempdir().unwrap();
        let meeting = Meeting::open(place.path(), &SandboxId::random()).unwrap();
        let _silent = UnixStream::connect(meeting.folder().join("sock"))
            .await
            .unwrap();
        let deadline = Duration::from_millis(50);
        let failure = meeting.accept(deadline, true, own).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::EngineTimeout);
    }

    #[tokio::test]
    async fn a_lasting_sandbox_is_met_again_in_its_own_folder() {
        let place = tempfile::tempdir().unwrap();
        let id = SandboxId::random();
        let failure = Meeting::reopen(place.path(), &id).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal, "there is no folder");
        let first = Meeting::open(place.path(), &id).unwrap();
        let folder = first.folder().to_owned();
        let socket = folder.join("sock");
        let _early = UnixStream::connect(&socket).await.unwrap();
        let met = first.accept(Duration::from_secs(5), false, own).await;
        met.unwrap().folder.keep();
        fs::write(folder.join("passwd"), "x").unwrap();
        // As a daemon leaves it that was killed while it waited.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());

        for _ in 0..2 {
            let again = Meeting::reopen(place.path(), &id).unwrap();
            let mode = fs::metadata(&socket).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o666);
            let deadline = Duration::from_millis(20);
            let failure = again.accept(deadline, false, own).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::EngineTimeout);
            assert!(!socket.exists() && folder.join("passwd").exists());
        }
        let again = Meeting::reopen(place.path(), &id).unwrap();
        let _stranger = UnixStream::connect(&socket).await.unwrap();
        let _init = UnixStream::connect(&socket).await.unwrap();
        let mut dialled = 0;
        let second = |_: &Peer| {
            dialled += 1;
            dialled == 2
        };
        let met = again.accept(Duration::from_secs(5), false, second).await;
        drop(met.unwrap());
        assert!(!socket.exists() && folder.join("passwd").exists());

        fs::create_dir(&socket).unwrap();
        let failure = Meeting::reopen(place.path(), &id).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal, "not a socket of ours");
    }

    #[tokio::test]
    async fn a_folder_that_exists_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let id = SandboxId::random();
        let first = Meeting::open(place.path(), &id).unwrap();
        assert_eq!(
            Meeting::open(place.path(), &id).unwrap_err().kind,
            FailureKind::Internal
        );
        assert!(
            first.folder().join("sock").exists(),
            "the first is untouched"
        );
    }

    #[test]
    fn folders_from_before_the_host_started_are_swept() {
        let place = tempfile::tempdir().unwrap();
        let [old, young] = [SandboxId::random(), SandboxId::random()];
        for id in [&old, &young] {
            fs::create_dir_all(folder_of(place.path(), id)).unwrap();
        }
        let other = place.path().join("sb/not-ours");
        fs::create_dir(&other).unwrap();
        for path in [&folder_of(place.path(), &old), &other] {
            let folder = fs::File::open(path).unwrap();
            folder.set_modified(UNIX_EPOCH).unwrap();
        }
        sweep(place.path());
        assert!(!folder_of(place.path(), &old).exists());
        assert!(folder_of(place.path(), &young).exists());
        assert!(other.exists());
        assert_eq!(
            boot_time("cpu 1\nbtime 1060\n"),
            Some(UNIX_EPOCH + Duration::from_secs(1000))
        );
        assert_eq!(boot_time("cpu 1\n"), None);
    }

    #[tokio::test]
    async fn removal_of_what_is_not_there_is_no_error() {
        let place = tempfile::tempdir().unwrap();
        remove_folder(place.path(), &SandboxId::random()).unwrap();
    }
}
