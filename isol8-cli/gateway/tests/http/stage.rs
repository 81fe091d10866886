//! A gateway and a fake daemon, each on a thread of its own.

use std::{
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use isol8_gateway::{Bounds, Daemon, Dial, Gateway, Key, Keys, Policy, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Answer, Client},
    fake::{self, World},
};

/// Far more than anything here takes; nobody waits longer for what never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const KEY: &str = "the-key";
pub(crate) const OTHER_KEY: &str = "the-other-key";

pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) world: Arc<World>,
    pub(crate) stop: CancellationToken,
    /// Those of the gateway, to be changed.
    pub(crate) keys: Keys,
    daemon_stop: CancellationToken,
    over: Arc<AtomicBool>,
    folder: TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
        self.daemon_stop.cancel();
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With bounds that the test needs.
    pub(crate) fn with(change: impl FnOnce(&mut Bounds)) -> Self {
        let keys = Keys::new(vec![
            Key::new("one", KEY, true),
            Key::new("two", OTHER_KEY, false),
        ]);
        Self::start(keys, change)
    }

    /// As [`Stage::with`], with one key and no other.
    pub(crate) fn alone(change: impl FnOnce(&mut Bounds)) -> Self {
        Self::start(Keys::new(vec![Key::new("one", KEY, true)]), change)
    }

    /// With keys of the test's own.
    pub(crate) fn with_keys(keys: Keys) -> Self {
        Self::start(keys, |_| {})
    }

    fn start(keys: Keys, change: impl FnOnce(&mut Bounds)) -> Self {
        let mut bounds = Bounds {
            grace: PATIENCE,
            ..Bounds::default()
        };
        change(&mut bounds);
        let folder = tempfile::tempdir().expect("a folder");
        let stop = CancellationToken::new();
        let (ready, address) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let socket = folder.path().join("d.sock");
        let settings = Settings {
            version: "1.2.3".to_owned(),
            keys: keys.clone(),
            policy: Policy::default(),
            hosts: vec!["gateway.example".to_owned()],
            bounds,
        };
        let stopped = stop.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                ready
                    .send(listener.local_addr().expect("it is bound"))
                    .expect("the test waits");
                let dial: Dial = Arc::new(move || UnixStream::connect(&socket));
                let gateway = Gateway::new(settings, Daemon::new(dial));
                gateway.serve(listener, stopped).await;
            });
            ended.store(true, Ordering::Release);
        });
        let stage = Self {
            address: address.recv().expect("the gateway listens"),
            world: Arc::default(),
            stop,
            keys,
            daemon_stop: CancellationToken::new(),
            over,
            folder,
        };
        fake::serve(
            &stage.socket(),
            Arc::clone(&stage.world),
            stage.daemon_stop.clone(),
        );
        stage
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    /// Ends the daemon.
    pub(crate) fn kill_daemon(&mut self) {
        std::fs::remove_file(self.socket()).expect("it was there");
        std::mem::take(&mut self.daemon_stop).cancel();
    }

    /// Starts another one.
    pub(crate) fn start_daemon(&self) {
        fake::serve(
            &self.socket(),
            Arc::clone(&self.world),
            self.daemon_stop.clone(),
        );
    }

    /// Waits until the gateway has ended by itself.
    pub(crate) fn await_end(&self) {
        wait_for("the gateway to end", || self.over.load(Ordering::Acquire));
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request with the key.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_as(KEY, method, path, body)
    }

    pub(crate) fn ask_as(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let mut client = self.client();
        client.send(
            method,
            path,
            &[("Authorization", &format!("Bearer {key}"))],
            body,
        );
        client.answer()
    }

    /// Runs this program.
    pub(crate) fn execute(&self, code: &str) -> Answer {
        self.ask("POST", "/execute", &program(code, ""))
    }
}

/// The body of `/execute`; `rest` is more of the request's fields.
pub(crate) fn program(code: &str, rest: &str) -> String {
    let code = serde_json::to_string(code).expect("it is text");
    format!(r#"{{"request":{{"code":{code},"runtime":"python"{rest}}}}}"#)
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn wait_for(what: &str, is_true: impl Fn() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !is_true() {
        assert!(
            std::time::Instant::now() < until,
            "waited in vain for {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
