//! Reaching the daemon: one Unix socket, one HTTP/2 connection.

use std::{
    error::Error as _,
    fs, io,
    os::unix::{fs::MetadataExt as _, net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::ErrorDetail;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use prost::Message as _;
use rustix::process::getuid;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    console::Console,
    launch,
    paths::{Paths, Socket},
};

/// Bytes of output that may be on their way to us: enough that a program which
/// floods never waits for a window update, little enough to hold in memory.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The daemon's pieces of output arrive as one frame each.
const MAX_FRAME: u32 = 1 << 20;
/// For questions that a healthy daemon answers at once.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Link {
    /// To make clients of.
    pub(crate) channel: Channel,
    /// Where it answered.
    pub(crate) socket: PathBuf,
    /// The daemon's process, as the kernel reports it.
    pub(crate) pid: Option<i32>,
}

/// Connects to the daemon, and starts one where none answers.
///
/// # Errors
/// No daemon answers and none can be started.
pub(crate) async fn dial_or_start(paths: &Paths, console: &Console) -> Result<Link, Failure> {
    let sockets = paths.sockets()?;
    if let Some((stream, socket)) = search(&sockets, console)? {
        return link(stream, &socket.path).await;
    }
    let own = sockets.last().expect("there is always a socket of our own");
    let stream = launch::start(paths, own, console).await?;
    link(stream, &own.path).await
}

/// Connects to the daemon that answers now; `None` if none does.
///
/// # Errors
/// A socket is there that we cannot use.
pub(crate) async fn dial(paths: &Paths, console: &Console) -> Result<Option<Link>, Failure> {
    let sockets = paths.sockets()?;
    match search(&sockets, console)? {
        Some((stream, socket)) => link(stream, &socket.path).await.map(Some),
        None => Ok(None),
    }
}

/// What a command says that needs a daemon and does not start one.
pub(crate) fn no_daemon(paths: &Paths) -> Failure {
    let place = match paths.sockets() {
        Ok(sockets) => sockets
            .last()
            .map(|socket| format!(" at `{}`", socket.path.display())),
        Err(failure) => return failure,
    };
    let message = format!("no isol8 daemon answers{}", place.unwrap_or_default());
    Failure::new(FailureKind::EngineUnreachable, message).hint("start it with `isol8 daemon start`")
}

fn search<'a>(
    sockets: &'a [Socket],
    console: &Console,
) -> Result<Option<(StdStream, &'a Socket)>, Failure> {
    for (index, socket) in sockets.iter().enumerate() {
        let shown = socket.path.display();
        match try_socket(socket) {
            Ok(Some(stream)) => {
                console.debug(format_args!("connected to {shown}"));
                return Ok(Some((stream, socket)));
            }
            Ok(None) => console.debug(format_args!("no daemon answers at {shown}")),
            // The system's daemon may be there for others only.
            Err(failure) if index + 1 < sockets.len() => {
                console.debug(format_args!("passing {shown} by: {failure}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// Connects once. `None` means that nobody listens there.
///
/// # Errors
/// Somebody may listen there, but not for us, or not somebody to trust.
pub(crate) fn try_socket(socket: &Socket) -> Result<Option<StdStream>, Failure> {
    let shown = socket.path.display();
    let unusable = || {
        Failure::new(
            FailureKind::EngineUnreachable,
            format!("cannot reach the isol8 daemon at `{shown}`"),
        )
    };
    match StdStream::connect(&socket.path) {
        Ok(stream) => {
            if socket.private {
                check_owner(&socket.path)
                    .and_then(|()| check_peer(&stream))
                    .map_err(|cause| {
                        unusable()
                            .cause(cause)
                            .hint("set ISOL8_SOCKET to a path in a folder of your own")
                    })?;
            }
            Ok(Some(stream))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            io::ErrorKind::PermissionDenied => Err(unusable().because(&error).hint(
                "run as the user who owns the socket, or set ISOL8_SOCKET to one of your own",
            )),
            _ => Err(unusable().because(&error)),
        },
    }
}

/// A socket that somebody else made, and may listen at again.
fn check_owner(path: &Path) -> Result<(), String> {
    let socket = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if socket.uid() == getuid().as_raw() || socket.uid() == 0 {
        return Ok(());
    }
    let owner = socket.uid();
    Err(format!("the socket is owned by uid {owner}, not by you"))
}

/// In a folder that is only ours nobody but us and root can listen. `/tmp` is
/// not such a folder: somebody else may have been there first.
fn check_peer(stream: &StdStream) -> Result<(), String> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|errno| errno.to_string())?;
    if peer.uid() == getuid().as_raw() || peer.uid() == 0 {
        return Ok(());
    }
    Err(format!(
        "the process that listens there belongs to uid {}, not to you",
        peer.uid()
    ))
}

async fn link(stream: StdStream, path: &Path) -> Result<Link, Failure> {
    let cannot = |error: &(dyn std::error::Error + 'static)| {
        let message = format!("cannot talk to the isol8 daemon at `{}`", path.display());
        Failure::new(FailureKind::EngineUnreachable, message).because(error)
    };
    let peer = getsockopt(&stream, PeerCredentials);
    let pid = peer.ok().map(|peer| peer.pid()).filter(|pid| *pid > 0);
    stream
        .set_nonblocking(true)
        .map_err(|error| cannot(&error))?;
    let stream = UnixStream::from_std(stream).map_err(|error| cannot(&error))?;
    // One connection, made already. A second one would mean that the first was
    // lost, and with it the run.
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::other("the connection was lost")) }
    });
    let channel = Endpoint::from_static("http://isol8")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .connect_with_connector(connector)
        .await
        .map_err(|error| cannot(&error))?;
    Ok(Link {
        channel,
        socket: path.to_path_buf(),
        pid,
    })
}

/// The failure of a daemon that took the connection and says nothing.
pub(crate) fn silent(link: &Link) -> Failure {
    let shown = link.socket.display();
    let process = link
        .pid
        .map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let seconds = ANSWER_TIMEOUT.as_secs();
    let message = format!("the isol8 daemon{process} at `{shown}` is silent for {seconds} s");
    Failure::new(FailureKind::EngineTimeout, message).hint("`isol8 daemon logs` may say why")
}

/// What the daemon said in place of an answer.
pub(crate) fn unwanted(status: &Status) -> Failure {
    if !status.details().is_empty()
        && let Ok(detail) = ErrorDetail::decode(status.details())
    {
        return detailed(detail);
    }
    if let Some(error) = status.source() {
        let failure = Failure::new(
            FailureKind::EngineUnreachable,
            "the connection to the isol8 daemon was lost",
        );
        return failure
            .because(error)
            .hint("`isol8 daemon logs` says what became of it");
    }
    if status.code() == Code::Unimplemented {
        return Failure::new(
            FailureKind::Unsupported,
            "the daemon does not know this request",
        )
        .cause("it is of another version than this command line")
        .hint("`isol8 daemon stop` ends it; the next run starts the installed one");
    }
    Failure::new(FailureKind::Internal, "the daemon refused the request")
        .cause(format!("{}: {}", status.code(), status.message()))
        .hint("`isol8 daemon logs` may say more")
}

/// The failure that a daemon or a gateway told.
pub(crate) fn detailed(detail: ErrorDetail) -> Failure {
    let kind = FAILURE_KINDS
        .into_iter()
        .find(|kind| kind.name() == detail.kind)
        .unwrap_or(FailureKind::Internal);
    Failure {
        kind,
        message: detail.message,
        causes: detail.causes,
        hint: Some(detail.hint).filter(|hint| !hint.is_empty()),
        retry_after: Some(Duration::from_millis(detail.retry_after_ms))
            .filter(|delay| !delay.is_zero()),
    }
}

/// The kinds that can come over the wire. One that is not here is of a newer
/// daemon and counts as `Internal`.
const FAILURE_KINDS: [FailureKind; 21] = [
    FailureKind::InvalidRequest,
    FailureKind::NotYet,
    FailureKind::Unsupported,
    FailureKind::Forbidden,
    FailureKind::NotFound,
    FailureKind::AtCapacity,
    FailureKind::ShuttingDown,
    FailureKind::EngineUnreachable,
    FailureKind::EngineTimeout,
    FailureKind::EngineRefused,
    FailureKind::ImageMissing,
    FailureKind::ImageBuild,
    FailureKind::InterpreterMissing,
    FailureKind::HostLacks,
    FailureKind::InstallFailed,
    FailureKind::EgressUnavailable,
    FailureKind::SessionMismatch,
    FailureKind::SessionBusy,
    FailureKind::SessionLost,
    FailureKind::NoSpace,
    FailureKind::Internal,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_becomes_the_failure_that_the_daemon_meant() {
        let detail = ErrorDetail {
            kind: "at_capacity".to_owned(),
            message: "the queue is full".to_owned(),
            causes: vec!["32 runs wait".to_owned()],
            hint: String::new(),
            retry_after_ms: 250,
        };
        let bytes = detail.encode_to_vec().into();
        let status = Status::with_details(Code::ResourceExhausted, "x", bytes);
        let expected = Failure::new(FailureKind::AtCapacity, "the queue is full")
            .cause("32 runs wait")
            .retry_after(Duration::from_millis(250));
        assert_eq!(unwanted(&status), expected);
    }

    #[test]
    fn a_daemon_that_does_not_know_the_call_is_of_another_version() {
        let failure = unwanted(&Status::unimplemented("x"));
        assert!(failure.to_string().contains("another version"), "{failure}");
    }
}
