//! The connection to an engine: which socket, how long to wait, and what its
//! answers mean as failures of ours.

use std::{
    error::Error as _,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as Bollard};
use isol8_core::failure::{Failure, FailureKind};
use thiserror::Error;
use tokio::time::{Instant, timeout};

/// One word of the engine about itself.
pub(super) const PING: Duration = Duration::from_secs(2);
/// Facts that the engine has at hand.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// Making a container without starting it: writes to the engine's disk.
pub(super) const CREATE: Duration = Duration::from_secs(10);
/// Starting a container: about 0.1 s on a quiet host.
pub(super) const START: Duration = Duration::from_secs(15);
/// New bounds for a container.
pub(super) const UPDATE: Duration = Duration::from_secs(5);
/// Killing and removing a container, and waiting for another who does.
pub(super) const REMOVE: Duration = Duration::from_secs(20);

/// bollard's own limit, in seconds, beyond every one of ours.
const NEVER_S: u64 = 24 * 3600;
/// An engine's message in a failure: its first lines say it.
const MESSAGE_CHARS: usize = 400;

/// Where engines listen that nobody configured, best first.
const SOCKETS: [&str; 3] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
];
/// The same below `$XDG_RUNTIME_DIR`, for engines that run as a user.
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// What went wrong with one call.
#[derive(Debug, Error)]
pub(super) enum Reason {
    #[error("no such thing: {0}")]
    Missing(String),
    #[error("in conflict: {0}")]
    Conflict(String),
    #[error("status {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// A call that failed.
#[derive(Debug, Error)]
#[error("cannot {call}")]
pub(super) struct CallError {
    /// What was asked, as in "cannot …".
    pub(super) call: &'static str,
    socket: PathBuf,
    #[source]
    pub(super) reason: Reason,
}

impl CallError {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.reason, Reason::Missing(_))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let CallError {
            call,
            socket,
            reason,
        } = error;
        let socket = socket.display();
        let restart = "look at what it does with `docker ps`; restart it with \
                       `sudo systemctl restart docker`";
        match reason {
            Reason::Unreachable(error) => {
                let hint = unreachable_hint(error.kind());
                Self::new(
                    FailureKind::EngineUnreachable,
                    format!("no Docker engine answers at `{socket}`"),
                )
                .because(&error)
                .hint(hint)
            }
            Reason::Broken(cause) => Self::new(
                FailureKind::EngineUnreachable,
                format!("the Docker engine at `{socket}` broke off; cannot {call}"),
            )
            .cause(cause)
            .hint(restart),
            Reason::Late(limit) => Self::new(
                FailureKind::EngineTimeout,
                format!(
                    "the Docker engine at `{socket}` is late; cannot {call} in {} s",
                    limit.as_secs_f32()
                ),
            )
            .hint(restart),
            Reason::Missing(message) | Reason::Conflict(message) => {
                Self::new(FailureKind::EngineRefused, format!("cannot {call}")).cause(message)
            }
            // The engine has no code of its own for it.
            Reason::Refused { message, .. } if message.contains("no space left on device") => {
                Self::new(FailureKind::NoSpace, format!("cannot {call}"))
                    .cause(message)
                    .hint("see what fills it with `docker system df`")
            }
            Reason::Refused { message, .. } => {
                Self::new(FailureKind::EngineRefused, format!("cannot {call}")).cause(message)
            }
        }
    }
}

fn unreachable_hint(kind: io::ErrorKind) -> &'static str {
    if kind == io::ErrorKind::PermissionDenied {
        "join its group with `sudo usermod -aG docker $USER` and log in again, \
         or run without it: `--engine native`"
    } else {
        "start it with `sudo systemctl start docker`, or run without it: `--engine native`"
    }
}

/// Finds the engine and asks it things.
#[derive(Debug)]
pub(super) struct Client {
    configured: Option<String>,
    connected: Mutex<Option<(PathBuf, Docker)>>,
}

impl Client {
    /// Does not connect. `configured` is an address or a path.
    pub(super) fn new(configured: Option<String>) -> Self {
        Self {
            configured: configured.filter(|host| !host.is_empty()),
            connected: Mutex::new(None),
        }
    }

    /// The socket that would be used now.
    ///
    /// # Errors
    /// `Unsupported` for an address that is not a Unix socket.
    pub(super) fn socket(&self) -> Result<PathBuf, Failure> {
        match &self.configured {
            Some(host) => socket_of(host),
            None => Ok(usual_socket(Path::exists)),
        }
    }

    /// Asks the engine one thing.
    ///
    /// # Errors
    /// [`Asked::Call`] for what came of it, [`Asked::Setup`] when there is
    /// nobody to ask.
    pub(super) async fn ask<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, Asked>
    where
        F: Future<Output = Result<T, Bollard>>,
    {
        let docker = self.docker(call)?;
        let socket = self.socket()?;
        let reason = match timeout(limit, question(docker)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => reason_of(error, limit),
            Err(_) => Reason::Late(limit),
        };
        Err(Asked::Call(CallError {
            call,
            socket,
            reason,
        }))
    }

    /// A client for calls that stream. Their deadlines are the caller's.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(super) fn docker(&self, call: &'static str) -> Result<Docker, Asked> {
        let socket = self.socket()?;
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((at, docker)) = connected.as_ref()
            && *at == socket
        {
            return Ok(docker.clone());
        }
        let path = socket.to_string_lossy();
        let docker = match Docker::connect_with_unix(&path, NEVER_S, API_DEFAULT_VERSION) {
            Ok(docker) => docker,
            Err(error) => {
                let reason = reason_of(error, Duration::ZERO);
                return Err(Asked::Call(CallError {
                    call,
                    socket,
                    reason,
                }));
            }
        };
        *connected = Some((socket, docker.clone()));
        Ok(docker)
    }

    /// What a call that streams ended with.
    pub(super) fn trouble(&self, call: &'static str, limit: Duration, error: Bollard) -> Asked {
        match self.socket() {
            Ok(socket) => Asked::Call(CallError {
                call,
                socket,
                reason: reason_of(error, limit),
            }),
            Err(failure) => Asked::Setup(failure),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Asked {
    /// The engine or the way to it.
    Call(CallError),
    /// The configuration.
    Setup(Failure),
}

impl Asked {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_missing())
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Call(error) if matches!(error.reason, Reason::Conflict(_)))
    }

    /// The engine looked at it and said no.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Call(error) if matches!(
            error.reason,
            Reason::Missing(_) | Reason::Conflict(_) | Reason::Refused { .. }
        ))
    }
}

impl From<Failure> for Asked {
    fn from(failure: Failure) -> Self {
        Self::Setup(failure)
    }
}

impl From<Asked> for Failure {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Call(error) => error.into(),
            Asked::Setup(failure) => failure,
        }
    }
}

fn reason_of(error: Bollard, limit: Duration) -> Reason {
    match error {
        Bollard::DockerResponseServerError {
            status_code,
            message,
        } => {
            let message = shorten(&message);
            match status_code {
                404 => Reason::Missing(message),
                409 => Reason::Conflict(message),
                status => Reason::Refused { status, message },
            }
        }
        Bollard::DockerStreamError { error } => Reason::Refused {
            status: 200,
            message: shorten(&error),
        },
        Bollard::SocketNotFoundError(_) => Reason::Unreachable(io::ErrorKind::NotFound.into()),
        Bollard::RequestTimeoutError => Reason::Late(limit),
        Bollard::HyperLegacyError { err } if err.is_connect() => {
            Reason::Unreachable(io_kind(&err).into())
        }
        error => Reason::Broken(shorten(&chain(&error))),
    }
}

/// The kind of the I/O error at the bottom of a chain.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> io::ErrorKind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind();
        }
        next = error.source();
    }
    io::ErrorKind::Other
}

fn chain(error: &Bollard) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

pub(super) fn shorten(message: &str) -> String {
    let message = message.trim();
    match message.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn socket_of(host: &str) -> Result<PathBuf, Failure> {
    let path = host.strip_prefix("unix://").unwrap_or(host);
    if path.starts_with('/') {
        return Ok(path.into());
    }
    // Folders of this host are mounted into every container.
    Err(Failure::new(
        FailureKind::Unsupported,
        format!("`{host}` is not the socket of an engine on this host"),
    )
    .hint("write `docker.host` (or `DOCKER_HOST`) like `unix:///var/run/docker.sock`"))
}

fn usual_socket(exists: impl Fn(&Path) -> bool) -> PathBuf {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let users = user
        .iter()
        .flat_map(|folder| USER_SOCKETS.map(|name| folder.join(name)));
    SOCKETS
        .into_iter()
        .map(PathBuf::from)
        .chain(users)
        .find(|path| exists(path))
        .unwrap_or_else(|| SOCKETS[0].into())
}

/// What is left of the time for several calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(Instant);

impl Budget {
    pub(super) fn of(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// `limit`, or what is left where that is less.
    pub(super) fn at_most(self, limit: Duration) -> Duration {
        limit.min(self.0.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_on_this_host() {
        let path = |text| socket_of(text).ok();
        assert_eq!(path("unix:///a/b.sock"), Some("/a/b.sock".into()));
        assert_eq!(path("/a/b.sock"), Some("/a/b.sock".into()));
        for host in ["tcp://10.0.0.1:2375", "ssh://x", "docker.sock", "unix://x"] {
            let failure = socket_of(host).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unsupported, "{host}");
        }
    }

    #[test]
    fn the_first_socket_that_exists_is_used() {
        let only = |path: &'static str| usual_socket(move |p| p == Path::new(path));
        assert_eq!(
            only("/run/podman/podman.sock"),
            Path::new("/run/podman/podman.sock")
        );
        assert_eq!(only("/nowhere"), Path::new("/var/run/docker.sock"));
        assert_eq!(usual_socket(|_| true), Path::new("/var/run/docker.sock"));
    }

    #[test]
    fn an_answer_is_a_typed_failure() {
        let failure = |status_code, message: &str| {
            let error = Bollard::DockerResponseServerError {
                status_code,
                message: message.into(),
            };
            Failure::from(CallError {
                call: "make a container",
                socket: "/s".into(),
                reason: reason_of(error, Duration::ZERO),
            })
        };
        let refused = failure(400, "bad");
        assert_eq!(refused.kind, FailureKind::EngineRefused);
        assert_eq!(refused.to_string(), "cannot make a container: bad");
        let full = failure(500, "mkdir /x: no space left on device");
        assert_eq!(full.kind, FailureKind::NoSpace);
        let long = failure(500, &"é".repeat(5000));
        assert_eq!(long.causes[0].chars().count(), MESSAGE_CHARS + 1);
    }

    #[tokio::test]
    async fn an_absent_engine_is_unreachable_and_says_what_to_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.sock");
        let client = Client::new(Some(path.to_string_lossy().into_owned()));
        let asked = client.ask("ask", PING, |docker| async move { docker.version().await });
        let failure = Failure::from(asked.await.unwrap_err());
        assert_eq!(failure.kind, FailureKind::EngineUnreachable);
        assert!(failure.hint.unwrap().contains("--engine native"));
    }
}
