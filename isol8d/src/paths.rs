//! The daemon's folders: where they are, who owns them, what mode they have.
//!
//! `R` (runtime: socket, sandboxes' sockets) goes with a reboot, `S` (state)
//! stays. Nothing is ever put into a folder that somebody else owns.

use std::{
    env,
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::DaemonId,
};

/// The name of the socket in `R`.
const SOCKET: &str = "isol8d.sock";

/// Where this daemon keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The socket that clients dial.
    pub socket: PathBuf,
    /// `R`, the socket's folder.
    pub runtime_dir: PathBuf,
    /// `S`.
    pub state_dir: PathBuf,
}

/// What decides where the folders are.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// `--socket`, else `ISOL8_SOCKET`.
    pub socket: Option<PathBuf>,
    /// `--state-dir`, else `ISOL8_STATE_DIR`.
    pub state_dir: Option<PathBuf>,
}

impl Paths {
    /// Decides from wishes and environment. Opens nothing.
    ///
    /// # Errors
    /// A relative path, or no home to put the state into.
    pub fn choose(wishes: Wishes) -> Result<Self, Failure> {
        let uid = rustix::process::geteuid();
        let root = uid.is_root();
        let from_env = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        // An empty variable counts as unset, as shells' users expect.
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        let socket = match wishes.socket.filter(set) {
            Some(socket) => absolute("socket", socket)?,
            None if root => PathBuf::from("/run/isol8").join(SOCKET),
            None => match from_env("XDG_RUNTIME_DIR") {
                Some(folder) => folder.join("isol8").join(SOCKET),
                None => PathBuf::from(format!("/tmp/isol8-{}", uid.as_raw())).join(SOCKET),
            },
        };
        let state_dir = match wishes.state_dir.filter(set) {
            Some(folder) => absolute("state folder", folder)?,
            None if root => PathBuf::from("/var/lib/isol8"),
            None => from_env("XDG_STATE_HOME")
                .or_else(|| from_env("HOME").map(|home| home.join(".local/state")))
                .map(|folder| folder.join("isol8"))
                .ok_or_else(|| {
                    Failure::new(FailureKind::HostLacks, "there is no home for the state")
                        .hint("set `ISOL8_STATE_DIR`")
                })?,
        };
        let runtime_dir = socket.parent().filter(|_| socket.file_name().is_some());
        let runtime_dir = runtime_dir.ok_or_else(|| {
            let shown = socket.display();
            Failure::new(
                FailureKind::InvalidRequest,
                format!("`{shown}` is no path for a socket"),
            )
        })?;
        Ok(Self {
            runtime_dir: runtime_dir.to_path_buf(),
            socket,
            state_dir,
        })
    }

    /// Makes the folders that are missing and checks those that are there.
    ///
    /// # Errors
    /// `Forbidden` for a folder of somebody else, a link, or one that others may
    /// write to; `NoSpace` and `HostLacks` when it cannot be made.
    pub fn make(&self) -> Result<(), Failure> {
        // Root's sandboxes have uids of their own, which must get through to
        // their sockets and stages: nobody but root can list or write.
        let root = rustix::process::geteuid().is_root();
        let runtime_mode = if root { 0o711 } else { 0o700 };
        own_folder(&self.runtime_dir, runtime_mode)?;
        own_folder(&self.runtime_dir.join("sb"), 0o711)?;
        own_folder(&self.state_dir, 0o711)
    }

    /// The id of the daemon that uses this state folder, made at the first start.
    ///
    /// # Errors
    /// `NoSpace` or `HostLacks` when it can be neither read nor written.
    pub fn daemon_id(&self) -> Result<DaemonId, Failure> {
        let path = self.state_dir.join("daemon-id");
        match fs::read_to_string(&path) {
            Ok(text) => {
                if let Some(id) = DaemonId::parse(text.trim()) {
                    return Ok(id);
                }
                tracing::warn!(path = %path.display(), "the daemon id was damaged, drawing a new one");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(&path, &error)),
        }
        let id = DaemonId::random();
        write_atomically(&path, id.as_str().as_bytes(), 0o600)
            .map_err(|error| unusable(&path, &error))?;
        Ok(id)
    }
}

fn absolute(what: &str, path: PathBuf) -> Result<PathBuf, Failure> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Failure::new(
        FailureKind::InvalidRequest,
        format!("the {what} `{}` is not an absolute path", path.display()),
    ))
}

/// Makes a folder with its parents, or checks that the one that is there is
/// ours and that nobody else can put anything into it.
///
/// A folder that was there keeps its mode (a person may have named `/tmp`), but
/// for the right to pass through that sandboxes need.
fn own_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| unusable(path, &error))?;
    }
    let set_mode = |mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| unusable(path, &error))
    };
    match DirBuilder::new().mode(mode).create(path) {
        // The umask may have taken bits away.
        Ok(()) => return set_mode(mode),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unusable(path, &error)),
    }
    let found = fs::symlink_metadata(path).map_err(|error| unusable(path, &error))?;
    let refuse = |why: String| {
        Err(Failure::new(
            FailureKind::Forbidden,
            format!("will not use `{}`: {why}", path.display()),
        )
        .hint("set `ISOL8_SOCKET` and `ISOL8_STATE_DIR` to folders of your own"))
    };
    if !found.is_dir() {
        return refuse("it is not a folder".to_owned());
    }
    let uid = rustix::process::geteuid().as_raw();
    if found.uid() != uid {
        return refuse(format!("it belongs to uid {}, not to {uid}", found.uid()));
    }
    let has = found.mode() & 0o7777;
    let sticky = has & 0o1000 != 0;
    if has & 0o022 != 0 && !sticky {
        return refuse(format!("others may write to it (mode {has:o})"));
    }
    let pass = mode & 0o011;
    if has & pass != pass {
        set_mode(has | pass)?;
    }
    Ok(())
}

/// Writes beside, syncs, renames: what stood there stays whole until the new
/// content is on disk.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        // The error to tell is the first one.
        let _gone = fs::remove_file(&beside);
    })
}

/// The failure for a path that cannot be used.
pub(crate) fn unusable(path: &Path, error: &io::Error) -> Failure {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let path = path.display();
    if full {
        Failure::new(FailureKind::NoSpace, format!("no room for `{path}`"))
            .because(error)
            .hint("free some disk, or set `ISOL8_STATE_DIR` to a folder with room")
    } else {
        Failure::new(FailureKind::HostLacks, format!("cannot use `{path}`")).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &Path) -> Paths {
        Paths::choose(Wishes {
            socket: Some(folder.join("run/isol8d.sock")),
            state_dir: Some(folder.join("a/b/state")),
        })
        .expect("absolute paths")
    }

    #[test]
    fn folders_are_made_with_their_modes() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = paths(folder.path());
        paths.make().expect("they can be made");
        paths.make().expect("they are there");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!(mode(&paths.state_dir), 0o711);
        assert_eq!(mode(&paths.runtime_dir.join("sb")), 0o711);
        assert_eq!(mode(&paths.runtime_dir) & 0o066, 0);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = paths(folder.path());
        paths.make().expect("they can be made");
        let open = |mode| {
            fs::set_permissions(&paths.state_dir, fs::Permissions::from_mode(mode))
                .expect("it is ours");
        };
        open(0o777);
        let failure = paths.make().expect_err("it is open");
        assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
        // As /tmp is: nobody can replace what is ours.
        open(0o1777);
        paths.make().expect("sticky is enough");
        let mode = fs::metadata(&paths.state_dir).expect("it is there").mode();
        assert_eq!(mode & 0o7777, 0o1777, "it is not ours to close");
    }

    #[test]
    fn a_link_or_file_in_place_of_a_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = paths(folder.path());
        std::os::unix::fs::symlink("/tmp", folder.path().join("run")).expect("a link");
        let failure = paths.make().expect_err("a link is not followed");
        assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
    }

    #[test]
    fn the_id_survives_and_damage_is_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = paths(folder.path());
        paths.make().expect("they can be made");
        let id = paths.daemon_id().expect("a new one");
        assert_eq!(paths.daemon_id().expect("the same"), id);
        fs::write(paths.state_dir.join("daemon-id"), "half").expect("it is ours");
        assert_ne!(paths.daemon_id().expect("another"), id);
    }

    #[test]
    fn relative_paths_are_refused() {
        let wishes = Wishes {
            socket: Some("x.sock".into()),
            state_dir: None,
        };
        assert!(Paths::choose(wishes).is_err());
    }
}
