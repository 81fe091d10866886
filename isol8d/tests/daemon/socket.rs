//! The daemon on a real socket, on the real clock.

use std::{path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use isol8_core::{
    config::{Config, EngineChoice},
    ids::DaemonId,
    sandbox::EngineKind,
};
use isol8_engine::{Engine, fake::FakeEngine};
use isol8_proto::v1::{self, admin_service_client::AdminServiceClient};
use isol8d::{
    daemon::{Daemon, Parts},
    roster::Roster,
    socket::{Socket, SocketError},
};
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::stage::{Run, no_egress, python};

fn daemon(folder: &Path) -> (Arc<Daemon>, FakeEngine) {
    let id = DaemonId::random();
    let native = FakeEngine::new(EngineKind::Native, id.clone());
    let engine: Arc<dyn Engine> = Arc::new(native.clone());
    let parts = Parts {
        config: Config::default(),
        config_source: "a test".to_owned(),
        id,
        socket: folder.join("d.sock"),
        runtime_dir: folder.to_path_buf(),
        state_dir: folder.to_path_buf(),
        roster: Roster::new([engine], EngineChoice::Only(EngineKind::Native)),
        install_room: 5 << 30,
        egress: no_egress(),
        presence: None,
    };
    (Daemon::new(parts).expect("a good configuration"), native)
}

async fn dial(path: &Path) -> Channel {
    let path = path.to_path_buf();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://daemon");
    let dialled = endpoint.connect_with_connector(connector).await;
    dialled.expect("somebody answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_daemon_serves_a_socket_and_gives_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d.sock");
    let mut socket = Socket::open(&path).await.expect("the path is free");
    let incoming = socket.accept().expect("a listener");
    let second = Socket::open(&path).await.map(|_| ());
    assert_eq!(second, Err(SocketError::AlreadyRunning(path.clone())));

    let (daemon, native) = daemon(folder.path());
    let served = isol8d::serve(Arc::clone(&daemon), incoming);
    let client = async {
        let channel = dial(&path).await;
        let ran = Run::start(channel.clone(), python("out hello"))
            .await
            .end()
            .await;
        assert_eq!(ran.stdout, b"hello\n");
        let mut admin = AdminServiceClient::new(channel);
        admin
            .shutdown(v1::ShutdownRequest {})
            .await
            .expect("an answer");
    };
    let both = async { tokio::join!(served, client) };
    let (served, ()) = timeout(Duration::from_secs(20), both)
        .await
        .expect("in time");
    served.expect("without a failure");
    assert_eq!(native.live(), 0);
    // The next one starts while the old one still holds the lock, and gets it.
    let (next, ()) = tokio::join!(Socket::open(&path), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(socket);
    });
    assert!(next.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_daemons_that_start_at_once_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d.sock");
    let starts = (0..8).map(|_| async {
        let mut socket = Socket::open(&path).await?;
        let incoming = socket.accept()?;
        Ok::<_, SocketError>((socket, incoming))
    });
    let opened = timeout(
        Duration::from_secs(10),
        futures_util::future::join_all(starts),
    );
    let opened = opened.await.expect("all are told");
    let won = opened.iter().filter(|opened| opened.is_ok()).count();
    let lost = opened
        .iter()
        .filter(|opened| matches!(opened, Err(SocketError::AlreadyRunning(_))))
        .count();
    assert_eq!((won, lost), (1, 7));
}
