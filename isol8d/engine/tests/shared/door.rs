//! The listening socket of a filtered sandbox.

use std::{
    fs,
    net::TcpListener as StdListener,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    time::{Duration, Instant},
};

use isol8_core::{
    ids::SandboxId,
    runtime::Runtime,
    sandbox::{Network, SandboxSpec},
};
use isol8_engine::Engine;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::{PATIENCE, Ready};

fn filtered(spec: &SandboxSpec) -> SandboxSpec {
    let mut spec = spec.clone();
    spec.id = SandboxId::random();
    spec.key.runtime = Runtime::Python;
    spec.key.network = Network::Filtered;
    spec
}

/// Who listens is outside, and what is inside talks to it over the port that its
/// environment names, and to nothing else.
pub(crate) async fn leads_outside(engine: &dyn Engine, spec: &SandboxSpec) {
    let spec = filtered(spec);
    let mut sandbox = engine.create(&spec).await.unwrap();
    let listener: OwnedFd = sandbox.listener.take().expect("a listener");
    let flags = rustix::io::fcntl_getfd(&listener).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let listener = TcpListener::from_std(StdListener::from(listener)).unwrap();
    let mut ready = Ready::of(sandbox, &spec.key, false).await;
    let program = r#"
import os, socket, urllib.parse
to = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
door = socket.create_connection((to.hostname, to.port))
door.sendall(b"ping")
print("heard", door.recv(10).decode())
print("interfaces", *[name for _, name in socket.if_nameindex()])
for host in ["192.0.2.1", "127.0.0.1"]:
    try:
        socket.create_connection((host, 80), 5)
        print("connected to", host)
    except OSError as error:
        print(error.strerror)
"#;
    ready.start("py", program).await;
    let answer = async {
        let (mut stream, peer) = listener.accept().await.unwrap();
        assert!(peer.ip().is_loopback());
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"ping");
        stream.write_all(b"pong").await.unwrap();
    };
    timeout(PATIENCE, answer).await.unwrap();
    assert_eq!(
        ready.output().await,
        "heard pong\ninterfaces lo\nNetwork is unreachable\nConnection refused\n"
    );
    engine.destroy(&spec.id).await.unwrap();
}

/// Nobody inside can stand where the proxy is expected: neither while somebody
/// holds the listener outside nor afterwards.
pub(crate) async fn is_nobody_elses(engine: &dyn Engine, spec: &SandboxSpec) {
    let program = r#"
import errno, os, socket
for fd in os.listdir("/proc/self/fd"):
    try:
        if os.readlink("/proc/self/fd/" + fd).startswith("socket:"):
            print("has a socket")
    except OSError:
        pass
for family, host in [(2, "127.0.0.1"), (2, "0.0.0.0"), (10, "::"), (10, "::ffff:127.0.0.1")]:
    for option in [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT]:
        own = socket.socket(family)
        if option is not None:
            own.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            own.bind((host, 8118))
            own.listen()
            print("took the port", host, option)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                print(host, error)
waits = socket.create_connection(("127.0.0.1", 8118))
waits.settimeout(0.2)
try:
    print("heard", waits.recv(1))
except TimeoutError:
    print("nobody answers")
"#;
    for held in [true, false] {
        let spec = filtered(spec);
        let mut sandbox = engine.create(&spec).await.unwrap();
        let listener = sandbox.listener.take().filter(|_| held);
        let mut ready = Ready::of(sandbox, &spec.key, false).await;
        assert_eq!(ready.run(program).await, "nobody answers\n", "held: {held}");
        engine.destroy(&spec.id).await.unwrap();
        drop(listener);
    }
}

/// Without a filtered network there is no listener, and with it nothing stays of
/// the namespace when the sandbox and its listener are gone.
pub(crate) async fn goes_with_the_sandbox(engine: &dyn Engine, spec: &SandboxSpec) {
    let mut plain = spec.clone();
    plain.key.network = Network::None;
    let sandbox = engine.create(&plain).await.unwrap();
    assert!(sandbox.listener.is_none());
    engine.destroy(&plain.id).await.unwrap();
    if !rustix::process::geteuid().is_root() {
        // What follows looks into every process.
        return;
    }
    let spec = filtered(spec);
    let sandbox = engine.create(&spec).await.unwrap();
    let listener = sandbox.listener.as_ref().expect("a listener").as_raw_fd();
    let listener = fs::read_link(format!("/proc/self/fd/{listener}")).unwrap();
    let holders = holders_of(&listener);
    assert_eq!(holders.len(), 2, "init and this process: {holders:?}");
    let init = holders.iter().find(|pid| **pid != std::process::id());
    let namespace = format!("/proc/{}/ns/net", init.unwrap());
    let namespace = fs::metadata(namespace).unwrap().ino();
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert_ne!(namespace, own);
    engine.destroy(&spec.id).await.unwrap();
    drop(sandbox);
    let before = Instant::now();
    loop {
        let holders = [holders_of(&listener), members_of(namespace)].concat();
        if holders.is_empty() {
            break;
        }
        assert!(before.elapsed() < PATIENCE, "{holders:?} hold it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Processes with a descriptor of a socket.
fn holders_of(socket: &Path) -> Vec<u32> {
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
        let mut descriptors = descriptors.flatten().flatten();
        descriptors.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
    };
    processes().filter(holds).collect()
}

fn members_of(namespace: u64) -> Vec<u32> {
    let is_in = |pid: &u32| {
        let own = fs::metadata(format!("/proc/{pid}/ns/net"));
        own.is_ok_and(|own| own.ino() == namespace)
    };
    processes().filter(is_in).collect()
}
