//! Where the daemon listens, and where its log and its executable are.

use std::{
    env,
    ffi::OsString,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use isol8_core::failure::{Failure, FailureKind};
use rustix::process::{Uid, getuid};

/// The kernel's `sun_path` holds 108 bytes, one of them the closing NUL.
const MAX_SOCKET_BYTES: usize = 107;
const SOCKET_NAME: &str = "isol8d.sock";
const SYSTEM_SOCKET: &str = "/run/isol8/isol8d.sock";
const SYSTEM_STATE: &str = "/var/lib/isol8";
/// Where packages put the executables that no person types.
const LIBEXEC: &str = "/usr/lib/isol8";

/// A place where a daemon may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    /// The socket's path.
    pub(crate) path: PathBuf,
    /// Only we and root can be trusted behind it, so the peer is checked.
    pub(crate) private: bool,
}

/// What the environment says, read once.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    uid: Uid,
    socket: Option<PathBuf>,
    state: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
    search: Option<OsString>,
}

impl Paths {
    /// Reads the environment of this process.
    pub(crate) fn from_env() -> Self {
        let path = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            uid: getuid(),
            socket: path("ISOL8_SOCKET"),
            state: path("ISOL8_STATE_DIR"),
            runtime_dir: path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()),
            state_home: path("XDG_STATE_HOME").filter(|path| path.is_absolute()),
            home: path("HOME"),
            search: env::var_os("PATH"),
        }
    }

    /// Whether we are root.
    pub(crate) fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Where to look for a daemon, in this order. The last one is where a daemon
    /// of our own listens.
    ///
    /// # Errors
    /// A path that the kernel cannot take, or that is relative.
    pub(crate) fn sockets(&self) -> Result<Vec<Socket>, Failure> {
        let socket = |path: PathBuf, private| Socket { path, private };
        let sockets = match &self.socket {
            Some(path) => vec![socket(path.clone(), path != Path::new(SYSTEM_SOCKET))],
            None if self.is_root() => vec![socket(SYSTEM_SOCKET.into(), false)],
            None => vec![
                socket(SYSTEM_SOCKET.into(), false),
                socket(self.runtime_dir().join(SOCKET_NAME), true),
            ],
        };
        for socket in &sockets {
            check_socket(&socket.path)?;
        }
        Ok(sockets)
    }

    fn runtime_dir(&self) -> PathBuf {
        match &self.runtime_dir {
            Some(path) => path.join("isol8"),
            None => format!("/tmp/isol8-{}", self.uid.as_raw()).into(),
        }
    }

    /// The state folder of a daemon that we start.
    ///
    /// # Errors
    /// When the environment names no home.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        let below_home = || Some(self.home.as_ref()?.join(".local/state"));
        if let Some(path) = &self.state {
            return Ok(path.clone());
        }
        if self.is_root() {
            return Ok(SYSTEM_STATE.into());
        }
        self.state_home
            .clone()
            .or_else(below_home)
            .map(|path| path.join("isol8"))
            .ok_or_else(|| {
                Failure::new(FailureKind::HostLacks, "no folder for the daemon's state")
                    .cause("neither ISOL8_STATE_DIR, XDG_STATE_HOME nor HOME is set")
                    .hint("set ISOL8_STATE_DIR to a folder of your own")
            })
    }

    /// The log of a daemon that we start.
    ///
    /// # Errors
    /// As [`Paths::state_dir`].
    pub(crate) fn log(&self) -> Result<PathBuf, Failure> {
        Ok(self.state_dir()?.join("isol8d.log"))
    }

    /// The daemon's executable: next to our own, on the PATH, where packages
    /// put it.
    ///
    /// # Errors
    /// When it is in none of these places.
    pub(crate) fn daemon(&self) -> Result<PathBuf, Failure> {
        let own = env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        let on_path = self.search.as_ref().map(|search| env::split_paths(search));
        beside
            .into_iter()
            .chain(
                on_path
                    .into_iter()
                    .flatten()
                    .filter(|path| path.is_absolute()),
            )
            .chain([LIBEXEC.into()])
            .map(|folder| folder.join("isol8d"))
            .find(|path| is_executable(path))
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::HostLacks,
                    "the daemon `isol8d` is not installed",
                )
                .cause(format!(
                    "it is neither next to `isol8`, nor on the PATH, nor in `{LIBEXEC}`"
                ))
                .hint("put `isol8d` next to `isol8`")
            })
    }

    /// An executable on the PATH.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        env::split_paths(self.search.as_ref()?)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path))
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn check_socket(path: &Path) -> Result<(), Failure> {
    let length = path.as_os_str().as_bytes().len();
    let wrong = if length > MAX_SOCKET_BYTES {
        format!("it has {length} bytes, and the kernel takes {MAX_SOCKET_BYTES}")
    } else if path.is_relative() {
        "it is not an absolute path".to_owned()
    } else {
        return Ok(());
    };
    let shown = path.display();
    Err(Failure::new(
        FailureKind::HostLacks,
        format!("`{shown}` cannot be a socket's path"),
    )
    .cause(wrong)
    .hint("set ISOL8_SOCKET to a short absolute path, such as `/tmp/me/isol8d.sock`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uid: u32) -> Paths {
        Paths {
            uid: Uid::from_raw(uid),
            socket: None,
            state: None,
            runtime_dir: None,
            state_home: None,
            home: Some("/home/me".into()),
            search: None,
        }
    }

    #[track_caller]
    fn check(paths: &Paths, expected: &[&str]) {
        let found = paths.sockets().expect("the paths are short");
        let found: Vec<_> = found.iter().map(|socket| socket.path.clone()).collect();
        assert_eq!(
            found,
            expected.iter().map(PathBuf::from).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_system_daemon_comes_first_then_our_own() {
        check(&paths(0), &["/run/isol8/isol8d.sock"]);
        check(
            &paths(7),
            &["/run/isol8/isol8d.sock", "/tmp/isol8-7/isol8d.sock"],
        );
        let mut here = paths(7);
        here.runtime_dir = Some("/run/user/7".into());
        check(
            &here,
            &["/run/isol8/isol8d.sock", "/run/user/7/isol8/isol8d.sock"],
        );
        here.socket = Some("/x/y.sock".into());
        check(&here, &["/x/y.sock"]);
    }

    #[test]
    fn a_path_that_the_kernel_cannot_take_is_refused() {
        let mut here = paths(7);
        here.socket = Some(format!("/{}", "x".repeat(106)).into());
        assert!(here.sockets().is_ok());
        here.socket = Some(format!("/{}", "x".repeat(107)).into());
        let failure = here.sockets().expect_err("too long");
        assert!(failure.to_string().contains("108 bytes"), "{failure}");
        here.socket = Some("relative.sock".into());
        assert!(here.sockets().is_err());
    }

    #[test]
    fn state_lives_where_the_environment_says() {
        let state = |paths: &Paths| paths.state_dir().expect("there is a home");
        assert_eq!(state(&paths(0)), Path::new("/var/lib/isol8"));
        let mut here = paths(7);
        assert_eq!(state(&here), Path::new("/home/me/.local/state/isol8"));
        here.state_home = Some("/s".into());
        assert_eq!(state(&here), Path::new("/s/isol8"));
        here.state = Some("/mine".into());
        assert_eq!(state(&here), Path::new("/mine"));
        here = paths(7);
        here.home = None;
        assert!(here.state_dir().is_err());
    }
}
