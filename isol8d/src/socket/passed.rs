//! The socket that the service manager passes: bound by it, and its own to close.

use std::{
    fmt, fs,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixListener},
    },
    path::Path,
};

use isol8_core::failure::{Failure, FailureKind};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The socket that was passed, if one was.
///
/// # Errors
/// `HostLacks` when it cannot be taken; `InvalidRequest` when it is not at `path`,
/// where clients dial; `Forbidden` when everybody could connect to it.
pub(super) fn take(path: &Path) -> Result<Option<UnixListener>, Failure> {
    let mut passed = sd_notify::listen_fds().map_err(|error| unusable(&error))?;
    let Some(fd) = passed.next() else {
        return Ok(None);
    };
    if passed.next().is_some() {
        return Err(unusable(&"there is more than one"));
    }
    // Asking the kernel for a copy needs no promise about who owns the number.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|error| unusable(&error))?;
    let copy = pidfd_getfd(own.as_fd(), fd, PidfdGetfdFlags::empty());
    let listener = UnixListener::from(copy.map_err(|error| unusable(&error))?);
    check(&listener, path).map(|()| Some(listener))
}

fn check(listener: &UnixListener, path: &Path) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(|error| unusable(&error))?;
    if address.as_pathname() != Some(path) {
        let message = format!(
            "the service manager listens at {address:?}, and the socket is `{}`",
            path.display()
        );
        return Err(Failure::new(FailureKind::InvalidRequest, message)
            .hint("give `ListenStream=` and ISOL8_SOCKET the same path"));
    }
    let mode = fs::symlink_metadata(path)
        .map_err(|error| unusable(&error))?
        .mode();
    // Who connects is not looked at any more: the file decides.
    if mode & 0o002 != 0 {
        let message = format!("everybody on this host could use `{}`", path.display());
        return Err(Failure::new(FailureKind::Forbidden, message)
            .hint("set `SocketMode=0660` and `SocketGroup=` in the socket's unit"));
    }
    Ok(())
}

fn unusable(cause: &dyn fmt::Display) -> Failure {
    let message = "cannot take the socket from the service manager";
    Failure::new(FailureKind::HostLacks, message).cause(cause.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_for_everybody_or_elsewhere_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.sock");
        let listener = UnixListener::bind(&path).expect("the path is free");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        mode(0o660).expect("it is ours");
        check(&listener, &path).expect("a group's");
        let elsewhere = check(&listener, &folder.path().join("e.sock"));
        let kind = elsewhere.expect_err("nobody dials there").kind;
        assert_eq!(kind, FailureKind::InvalidRequest);
        mode(0o666).expect("it is ours");
        let kind = check(&listener, &path).expect_err("it is open").kind;
        assert_eq!(kind, FailureKind::Forbidden);
    }
}
