//! A daemon's handle, doors of sandboxes, and a server to reach.

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, time::Duration};

use isol8_core::{egress::rules::Filter, failure::Failure, ids::SandboxId};
use isol8d::egress::{Egress, EgressSettings, Traffic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Far longer than anything here takes; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the origin answers.
pub(crate) const BODY: &str = "from the origin";

pub(crate) fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_isol8d").into()
}

pub(crate) fn settings() -> EgressSettings {
    EgressSettings {
        program: program(),
        any_port: true,
        ..EgressSettings::default()
    }
}

pub(crate) fn start(settings: EgressSettings) -> Egress {
    Egress::start(settings, &TaskTracker::new())
}

/// Hosts of loopback that match a pattern, on one port.
pub(crate) fn only(pattern: &str, port: u16) -> Filter {
    Filter {
        allow: vec![pattern.to_owned()],
        allow_private: vec!["127.0.0.0/8".parse().expect("a range")],
        ports: vec![port],
        ..Filter::default()
    }
}

/// Waits until a condition holds.
pub(crate) async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A server on 127.0.0.1. Asked for `/slow` it sends half an answer and waits.
pub(crate) struct Origin {
    pub(crate) port: u16,
    _task: AbortOnDropHandle<()>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let task = async move {
            let tasks = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(answer(stream));
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        Self { port, _task: task }
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }
}

async fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let length = BODY.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{BODY}");
    let slow = head.windows(5).any(|five| five == b"/slow");
    let end = if slow { answer.len() - 5 } else { answer.len() };
    if stream.write_all(&answer.as_bytes()[..end]).await.is_ok() && slow {
        // Until the other side has had enough.
        let _end = stream.read_to_end(&mut head).await;
    }
}

/// The listener that init would have made, and the test's own end of it.
pub(crate) struct Door {
    listener: std::net::TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) id: SandboxId,
}

impl Door {
    pub(crate) fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        Self {
            address: listener.local_addr().expect("an address"),
            listener,
            id: SandboxId::random(),
        }
    }

    pub(crate) fn fd(&self) -> OwnedFd {
        self.listener.try_clone().expect("a descriptor").into()
    }

    pub(crate) async fn open(&self, egress: &Egress, filter: &Filter) -> Result<Traffic, Failure> {
        egress.open(&self.id, self.fd(), filter).await
    }

    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// The whole answer to a plain request, or what came of it.
    pub(crate) async fn get(&self, url: &str) -> String {
        let mut stream = self.dial().await;
        ask(&mut stream, url).await;
        read_all(&mut stream).await
    }

    /// Looks that nobody else accepts here: every one of these connections
    /// comes to us.
    pub(crate) async fn assert_nobody_accepts(&self) {
        let ours = self.listener.try_clone().expect("a descriptor");
        let ours = TcpListener::from_std(ours).expect("a runtime");
        for _ in 0..20 {
            let dialled = self.dial().await;
            let from = dialled.local_addr().expect("an address");
            let accepted = timeout(PATIENCE, ours.accept()).await;
            let (_, by) = accepted.expect("nobody took it").expect("a connection");
            assert_eq!(by, from);
        }
    }
}

pub(crate) async fn ask(stream: &mut TcpStream, url: &str) {
    let head = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream
        .write_all(head.as_bytes())
        .await
        .expect("it takes it");
}

/// Everything until the end, also if that is a reset.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async { while matches!(stream.read_buf(&mut answer).await, Ok(1..)) {} };
    timeout(PATIENCE, read)
        .await
        .expect("the answer has an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
pub(crate) fn assert_passed(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with(BODY), "{answer}");
}

#[track_caller]
pub(crate) fn assert_blocked(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("blocked by network filter"), "{answer}");
}

/// Sends a signal to the egress process.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("it is ours");
}

/// Whether the process is there, were it only as a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}
