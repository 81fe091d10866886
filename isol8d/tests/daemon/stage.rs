//! A whole daemon in memory: real gRPC over pipes, scripted engines.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future;
use hyper_util::rt::TokioIo;
use isol8_core::{
    config::Config,
    failure::Failure,
    ids::{DaemonId, Principal},
    sandbox::EngineKind,
};
use isol8_engine::{Engine, fake::FakeEngine};
use isol8_proto::v1::{
    self, ErrorDetail, RunEvent, run_event::Event, run_request::Message,
    run_service_client::RunServiceClient,
};
use isol8d::{
    connection::Connection,
    daemon::{Daemon, Parts},
    egress::EgressSettings,
    roster::Roster,
};
use prost::Message as _;
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// The uid that tests speak as.
pub(crate) const ME: Principal = Principal(1000);

type Incoming = mpsc::Sender<Connection<DuplexStream>>;

/// A daemon with its engines.
pub(crate) struct Stage {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) native: FakeEngine,
    pub(crate) docker: FakeEngine,
    incoming: Incoming,
    server: AbortOnDropHandle<Result<(), Failure>>,
    ground: Ground,
}

/// What outlives a daemon.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) id: DaemonId,
    pub(crate) native: FakeEngine,
    pub(crate) docker: FakeEngine,
    folder: Arc<tempfile::TempDir>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let id = DaemonId::random();
        let docker = FakeEngine::new(EngineKind::Docker, id.clone());
        // Most tests look at one engine.
        docker.plan_always(
            isol8_engine::fake::Step::Health,
            isol8_engine::fake::Fault::refuse(),
        );
        Self {
            native: FakeEngine::new(EngineKind::Native, id.clone()),
            docker,
            id,
            folder: Arc::new(tempfile::tempdir().expect("a folder")),
        }
    }

    /// As a daemon has them.
    pub(crate) fn engines(&self) -> [Arc<dyn Engine>; 2] {
        [Arc::new(self.native.clone()), Arc::new(self.docker.clone())]
    }

    /// The state folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// An egress process that never starts: a paused clock does not wait for one.
pub(crate) fn no_egress() -> EgressSettings {
    EgressSettings {
        program: "/nonexistent/isol8d".into(),
        ..EgressSettings::default()
    }
}

/// The usual configuration, changed.
pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), |_, _| {})
    }

    /// `before` plans what goes wrong while the daemon starts.
    pub(crate) fn with(config: Config, before: impl FnOnce(&FakeEngine, &DaemonId)) -> Self {
        Self::with_room(config, 5 << 30, before)
    }

    /// With room for so many bytes of installed packages.
    pub(crate) fn with_room(
        config: Config,
        install_room: u64,
        before: impl FnOnce(&FakeEngine, &DaemonId),
    ) -> Self {
        let ground = Ground::new();
        before(&ground.native, &ground.id);
        let engines = ground.engines();
        Self::on(ground, engines, config, install_room)
    }

    /// Another daemon where an earlier one was, which has ended.
    pub(crate) fn after(ground: &Ground, config: Config) -> Self {
        Self::on(ground.clone(), ground.engines(), config, 5 << 30)
    }

    pub(crate) fn on(
        ground: Ground,
        engines: [Arc<dyn Engine>; 2],
        config: Config,
        install_room: u64,
    ) -> Self {
        let folder = ground.folder().to_path_buf();
        let parts = Parts {
            roster: Roster::new(engines, config.engine),
            config,
            config_source: "a test".to_owned(),
            id: ground.id.clone(),
            socket: folder.join("isol8d.sock"),
            runtime_dir: folder.clone(),
            state_dir: folder,
            install_room,
            egress: no_egress(),
            presence: None,
        };
        let daemon = Daemon::new(parts).expect("a good configuration");
        let (incoming, connections) = mpsc::channel(64);
        let connections = future_ok(ReceiverStream::new(connections));
        #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
        let server = tokio::spawn(isol8d::serve(Arc::clone(&daemon), connections));
        Self {
            daemon,
            native: ground.native.clone(),
            docker: ground.docker.clone(),
            incoming,
            server: AbortOnDropHandle::new(server),
            ground,
        }
    }

    /// The daemon's state folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.ground.folder()
    }

    /// For a daemon that comes after this one.
    pub(crate) fn ground(&self) -> Ground {
        self.ground.clone()
    }

    /// Names of what is in the folder of the install cache.
    pub(crate) fn layers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder().join("layers")).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// A connection of its own.
    pub(crate) fn channel(&self, principal: Principal) -> Channel {
        let incoming = self.incoming.clone();
        let connector = service_fn(move |_: Uri| {
            let incoming = incoming.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(256 << 10);
                let connection = Connection::new(theirs, principal);
                let sent = incoming.send(connection).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://daemon").connect_with_connector_lazy(connector)
    }

    /// A connection over a wire that can be cut: nobody hears of it, nothing
    /// passes any more.
    pub(crate) fn breakable_channel(&self, principal: Principal) -> (Channel, CancellationToken) {
        let cut = CancellationToken::new();
        let (incoming, wire) = (self.incoming.clone(), cut.clone());
        let connector = service_fn(move |_: Uri| {
            let (incoming, wire) = (incoming.clone(), wire.clone());
            async move {
                let (ours, mut near) = tokio::io::duplex(64 << 10);
                let (mut far, theirs) = tokio::io::duplex(64 << 10);
                #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = wire.cancelled() => future::pending().await,
                    }
                });
                let connection = Connection::new(theirs, principal);
                let sent = incoming.send(connection).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        let endpoint = Endpoint::from_static("http://daemon");
        (endpoint.connect_with_connector_lazy(connector), cut)
    }

    /// Starts a run on a connection of its own.
    pub(crate) async fn start(&self, start: v1::Start) -> Run {
        Run::start(self.channel(ME), start).await
    }

    /// A run of python code to its end.
    pub(crate) async fn run(&self, code: &str) -> Ran {
        self.start(python(code)).await.end().await
    }

    /// Waits until a condition holds, in steps of the (paused) clock.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) {
        let until = Instant::now() + limit;
        while !holds(self) {
            assert!(Instant::now() < until, "not in time: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops the daemon and looks that no sandbox is left.
    pub(crate) async fn stop(self) {
        self.daemon.stop();
        let (native, docker) = (self.native.clone(), self.docker.clone());
        self.ended().await;
        assert_eq!(native.live(), 0, "sandboxes are left: {:?}", native.steps());
        assert_eq!(docker.live(), 0, "containers are left");
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(self) {
        let ended = timeout(Duration::from_secs(60), self.server).await;
        let ended = ended.expect("the server ends").expect("without a panic");
        ended.expect("without a failure");
    }
}

fn future_ok<S: futures_util::Stream>(
    stream: S,
) -> impl futures_util::Stream<Item = Result<S::Item, io::Error>> {
    futures_util::StreamExt::then(stream, |item| future::ready(Ok(item)))
}

/// A start of python code.
pub(crate) fn python(code: &str) -> v1::Start {
    v1::Start {
        runtime: v1::Runtime::Python.into(),
        code: code.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

/// The same with these limits.
pub(crate) fn limited(code: &str, change: impl FnOnce(&mut v1::Limits)) -> v1::Start {
    let mut start = python(code);
    change(start.limits.get_or_insert_default());
    start
}

/// A run that goes on.
pub(crate) struct Run {
    pub(crate) says: mpsc::UnboundedSender<v1::RunRequest>,
    pub(crate) events: Result<Streaming<RunEvent>, Status>,
}

impl Run {
    pub(crate) async fn start(channel: Channel, start: v1::Start) -> Self {
        let (says, said) = mpsc::unbounded_channel();
        let run = |message| v1::RunRequest {
            message: Some(message),
        };
        says.send(run(Message::Start(start))).expect("it listens");
        let events = RunServiceClient::new(channel)
            .max_encoding_message_size(32 << 20)
            .run(UnboundedReceiverStream::new(said))
            .await;
        Self {
            says,
            events: events.map(tonic::Response::into_inner),
        }
    }

    pub(crate) fn say(&self, message: Message) {
        let message = Some(message);
        // A run that has ended takes nothing more.
        let _ended = self.says.send(v1::RunRequest { message });
    }

    pub(crate) fn signal(&self, number: i32) {
        self.say(Message::Signal(v1::Signal { number }));
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, Status>> {
        let events = match &mut self.events {
            Ok(events) => events,
            Err(status) => return Some(Err(status.clone())),
        };
        match events.message().await {
            Ok(Some(event)) => Some(Ok(event.event.expect("an event has a kind"))),
            Ok(None) => None,
            Err(status) => Some(Err(status)),
        }
    }

    /// Waits for the event that says that a sandbox is there.
    pub(crate) async fn accepted(&mut self) -> v1::Accepted {
        loop {
            match self.next().await {
                Some(Ok(Event::Accepted(accepted))) => return accepted,
                Some(Ok(Event::Phase(_) | Event::Notice(_))) => {}
                other => panic!("no `Accepted`: {other:?}"),
            }
        }
    }

    /// Reads to the end, and looks that there is exactly one.
    pub(crate) async fn end(mut self) -> Ran {
        let mut ran = Ran::default();
        while let Some(event) = self.next().await {
            assert!(ran.end.is_none(), "something came after the end: {event:?}");
            match event {
                Ok(Event::Stdout(bytes)) => ran.stdout.extend_from_slice(&bytes),
                Ok(Event::Stderr(bytes)) => ran.stderr.extend_from_slice(&bytes),
                Ok(Event::Accepted(accepted)) => ran.accepted = Some(accepted),
                Ok(Event::Notice(notice)) => ran.notices.push(notice.message),
                Ok(Event::Phase(phase)) => ran.phases.push(phase.phase()),
                Ok(Event::StdinTaken(taken)) => ran.stdin_taken += taken.bytes,
                Ok(Event::Network(log)) => ran.network.extend(log.requests),
                Ok(Event::Exited(exited)) => ran.end = Some(Ok(exited)),
                Err(status) => {
                    ran.end = Some(Err(status));
                    break;
                }
            }
        }
        assert!(
            ran.end.is_some(),
            "the stream ended without a terminal event"
        );
        ran
    }
}

/// A run that has ended.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) accepted: Option<v1::Accepted>,
    pub(crate) notices: Vec<String>,
    pub(crate) phases: Vec<v1::Phase>,
    pub(crate) stdin_taken: u64,
    pub(crate) network: Vec<v1::NetworkRequest>,
    pub(crate) end: Option<Result<v1::Exited, Status>>,
}

impl Ran {
    #[track_caller]
    pub(crate) fn exited(&self) -> &v1::Exited {
        let end = self.end.as_ref().expect("it has ended");
        end.as_ref().expect("it ended with a verdict")
    }

    #[track_caller]
    pub(crate) fn verdict(&self) -> v1::Verdict {
        self.exited().verdict()
    }

    #[track_caller]
    pub(crate) fn failure(&self) -> (&Status, ErrorDetail) {
        let end = self.end.as_ref().expect("it has ended");
        let status = end.as_ref().expect_err("it failed");
        let detail = ErrorDetail::decode(status.details()).expect("an ErrorDetail");
        (status, detail)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Who came first, second, third.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order(Arc<Mutex<Vec<&'static str>>>);

impl Order {
    pub(crate) fn add(&self, who: &'static str) {
        self.0.lock().expect("no panic").push(who);
    }

    pub(crate) fn list(&self) -> Vec<&'static str> {
        self.0.lock().expect("no panic").clone()
    }
}
