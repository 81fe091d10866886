//! A daemon that does what the test says, on a socket of its own.

mod session;

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
};

use isol8_proto::v1::{
    Accepted, BuildRequest, Check, CheckStatus, CleanupRequest, CleanupResponse, DoctorRequest,
    DoctorResponse, EgressStatus, Engine, EngineStatus, ErrorDetail, Exited, ImageReady,
    InstallCache, ListImagesRequest, ListImagesResponse, NetworkLog, NetworkRequest, Notice, Phase,
    PhaseChanged, RunEvent, RunRequest, Runtime, SetupDone, SetupEvent, SetupRequest,
    ShutdownRequest, ShutdownResponse, Start, StatusRequest, StatusResponse, StdinTaken, Verdict,
    WarmRequest, WarmResponse,
    admin_service_server::{AdminService, AdminServiceServer},
    image_service_server::{ImageService, ImageServiceServer},
    run_event::Event,
    run_request::Message as Sent,
    run_service_server::{RunService, RunServiceServer},
    session_service_server::SessionServiceServer,
    setup_event,
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

pub(crate) use session::{Answers, Step, entry, failing};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = Arc<dyn Fn(Run) -> Work + Send + Sync>;

/// A daemon that answers every run with a script.
pub(crate) struct Fake {
    /// The socket's folder, and a place for the test's files.
    pub(crate) folder: TempDir,
    script: Script,
    answers: Arc<Answers>,
    version: Option<&'static str>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// One run, from the daemon's side.
pub(crate) struct Run {
    pub(crate) start: Start,
    requests: Streaming<RunRequest>,
    events: mpsc::Sender<Result<RunEvent, Status>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Listens at once.
    pub(crate) fn new<F, W>(script: F) -> Self
    where
        F: Fn(Run) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::prepared(script, None).listening()
    }

    /// As [`Fake::new`], of another version than the command line.
    pub(crate) fn of_version<F, W>(version: &'static str, script: F) -> Self
    where
        F: Fn(Run) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::prepared(script, Some(version)).listening()
    }

    /// As [`Fake::new`], with sessions and a cleanup that answer so.
    pub(crate) fn answering(answers: Answers) -> Self {
        let mut fake = Self::silent();
        fake.answers = Arc::new(answers);
        fake.listening()
    }

    /// Does not listen yet.
    pub(crate) fn silent() -> Self {
        Self::prepared(|run: Run| run.simple(0), None)
    }

    fn prepared<F, W>(script: F, version: Option<&'static str>) -> Self
    where
        F: Fn(Run) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let script = Arc::new(move |run| -> Work { Box::pin(script(run)) });
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            script,
            answers: Arc::default(),
            version,
            seen: Arc::default(),
        }
    }

    pub(crate) fn listening(self) -> Self {
        self.listen();
        self
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What scripts noted, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no script panics").clone()
    }

    /// Waits until a script has noted this.
    pub(crate) fn await_note(&self, note: &str) {
        crate::cli::wait_for(&format!("the daemon to see `{note}`"), || {
            self.seen().iter().any(|seen| seen == note)
        });
    }

    /// Binds the socket and serves on a thread that ends with the tests.
    pub(crate) fn listen(&self) {
        let services = Services {
            script: Arc::clone(&self.script),
            answers: Arc::clone(&self.answers),
            version: self.version,
            seen: Arc::clone(&self.seen),
        };
        let listener = bind(&self.socket());
        thread::spawn(move || serve(listener, services));
    }
}

fn bind(path: &Path) -> std::os::unix::net::UnixListener {
    let listener = std::os::unix::net::UnixListener::bind(path).expect("the socket is free");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

fn serve(listener: std::os::unix::net::UnixListener, services: Services) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let listener = UnixListener::from_std(listener).expect("a listener");
        let incoming = UnixListenerStream::new(listener);
        Server::builder()
            .add_service(
                RunServiceServer::new(services.clone()).max_decoding_message_size(32 << 20),
            )
            .add_service(AdminServiceServer::new(services.clone()))
            .add_service(SessionServiceServer::new(services.clone()))
            .add_service(ImageServiceServer::new(services))
            .serve_with_incoming(incoming)
            .await
            .expect("it serves for ever");
    });
}

impl Run {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.seen
            .lock()
            .expect("no script panics")
            .push(what.into());
    }

    async fn send(&self, event: Event) {
        let event = RunEvent { event: Some(event) };
        if self.events.send(Ok(event)).await.is_err() {
            self.note("gone");
        }
    }

    pub(crate) async fn accept(&self) {
        self.send(Event::Accepted(Accepted {
            run_id: "run-1".to_owned(),
            sandbox_id: "sandbox-1".to_owned(),
            engine: Engine::Native.into(),
            warm: true,
            runtime: Runtime::Python.into(),
        }))
        .await;
    }

    pub(crate) async fn stdout(&self, bytes: impl Into<bytes::Bytes>) {
        self.send(Event::Stdout(bytes.into())).await;
    }

    pub(crate) async fn stderr(&self, bytes: impl Into<bytes::Bytes>) {
        self.send(Event::Stderr(bytes.into())).await;
    }

    pub(crate) async fn notice(&self, message: &str) {
        let message = message.to_owned();
        self.send(Event::Notice(Notice { message })).await;
    }

    pub(crate) async fn phase(&self, phase: Phase) {
        let phase = phase.into();
        self.send(Event::Phase(PhaseChanged { phase })).await;
    }

    pub(crate) async fn network(&self, requests: Vec<NetworkRequest>) {
        self.send(Event::Network(NetworkLog { requests })).await;
    }

    pub(crate) async fn exit(&self, exited: Exited) {
        self.send(Event::Exited(exited)).await;
    }

    pub(crate) async fn code(&self, code: i32) {
        self.exit(Exited {
            verdict: Verdict::Exited.into(),
            code: Some(code),
            ..Exited::default()
        })
        .await;
    }

    pub(crate) async fn signalled(&self, signal: i32) {
        self.exit(Exited {
            verdict: Verdict::Signalled.into(),
            signal: Some(signal),
            ..Exited::default()
        })
        .await;
    }

    /// Ends the run with a failure of the daemon.
    pub(crate) async fn fail(&self, code: Code, detail: &ErrorDetail) {
        let details = detail.encode_to_vec().into();
        let status = Status::with_details(code, detail.message.clone(), details);
        drop(self.events.send(Err(status)).await);
    }

    /// The next request; `None` when the client is gone.
    pub(crate) async fn request(&mut self) -> Option<Sent> {
        match self.requests.message().await {
            Ok(Some(request)) => request.message,
            Ok(None) | Err(_) => {
                self.note("gone");
                None
            }
        }
    }

    /// Waits for a signal, whatever else comes.
    pub(crate) async fn signal(&mut self) -> Option<i32> {
        while let Some(request) = self.request().await {
            if let Sent::Signal(signal) = request {
                self.note(format!("signal {}", signal.number));
                return Some(signal.number);
            }
        }
        None
    }

    /// All of stdin, to its end.
    pub(crate) async fn stdin(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(request) = self.request().await {
            match request {
                Sent::Stdin(bytes) => {
                    all.extend_from_slice(&bytes);
                    let bytes = u64::try_from(bytes.len()).expect("it is small");
                    self.send(Event::StdinTaken(StdinTaken { bytes })).await;
                }
                Sent::CloseStdin(_) => return all,
                Sent::Start(_) | Sent::Signal(_) => panic!("not on this stream"),
            }
        }
        all
    }

    /// Whether the client takes no more events.
    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(mut self) {
        while self.request().await.is_some() {}
    }

    pub(crate) async fn simple(self, code: i32) {
        self.accept().await;
        self.code(code).await;
    }
}

#[derive(Clone)]
struct Services {
    script: Script,
    answers: Arc<Answers>,
    version: Option<&'static str>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Services {
    fn note(&self, what: &str) {
        self.seen
            .lock()
            .expect("no script panics")
            .push(what.to_owned());
    }
}

#[tonic::async_trait]
impl RunService for Services {
    type RunStream = ReceiverStream<Result<RunEvent, Status>>;

    async fn run(
        &self,
        request: Request<Streaming<RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.message);
        let Some(Sent::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        // One event waits: a client that does not read is felt at once.
        let (events, receiver) = mpsc::channel(1);
        let run = Run {
            start,
            requests,
            events,
            seen: Arc::clone(&self.seen),
        };
        tokio::spawn((self.script)(run));
        let mut response = Response::new(ReceiverStream::new(receiver));
        if let Some(version) = self.version {
            let version = version.parse().expect("it is ASCII");
            response.metadata_mut().insert("isol8-version", version);
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl AdminService for Services {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            version: self.version.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned(),
            pid: 4711,
            uptime_ms: 61_000,
            engines: vec![EngineStatus {
                engine: Engine::Native.into(),
                healthy: true,
                detail: "bubblewrap 0.8.0".to_owned(),
                chosen: true,
                sandboxes: 2,
            }],
            socket: "/x.sock".to_owned(),
            sessions: self.answers.sessions.clone(),
            install_cache: Some(InstallCache {
                layers: 3,
                bytes: 300 << 20,
                limit_bytes: 5 << 30,
                hits: 12,
                misses: 4,
            }),
            egress: Some(EgressStatus {
                running: true,
                sandboxes: 2,
                restarts: 1,
            }),
            ..StatusResponse::default()
        }))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorResponse>, Status> {
        let check = |name: &str, status: CheckStatus, fix: &str| Check {
            name: name.to_owned(),
            status: status.into(),
            found: format!("what {name} found"),
            fix: fix.to_owned(),
        };
        Ok(Response::new(DoctorResponse {
            checks: vec![
                check("cgroups", CheckStatus::Ok, ""),
                check("docker", CheckStatus::Warning, "systemctl start docker"),
                check("bwrap", CheckStatus::Failed, "apt-get install bubblewrap"),
            ],
        }))
    }

    async fn warm(&self, _: Request<WarmRequest>) -> Result<Response<WarmResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        self.clean(&request.into_inner())
    }

    async fn shutdown(
        &self,
        _: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        self.note("shutdown");
        Err(Status::unimplemented("it is a part of the test itself"))
    }
}

#[tonic::async_trait]
impl ImageService for Services {
    type SetupStream = tokio_stream::Iter<std::vec::IntoIter<Result<SetupEvent, Status>>>;
    type BuildStream = Self::SetupStream;

    async fn setup(
        &self,
        request: Request<SetupRequest>,
    ) -> Result<Response<Self::SetupStream>, Status> {
        let request = request.into_inner();
        let built = request.force;
        let lists = request.dependencies.iter().map(|list| {
            let name = list.runtime().as_str_name().replace("RUNTIME_", "");
            format!("{}: {}", name.to_lowercase(), list.packages.join(" "))
        });
        self.note(&format!("setup {}", lists.collect::<Vec<_>>().join("; ")));
        let image = setup_event::Event::Image(ImageReady {
            runtime: Runtime::Python.into(),
            tag: "isol8:python".to_owned(),
            id: "sha256:1".to_owned(),
            built,
            elapsed_ms: 1500,
        });
        let done = setup_event::Event::Done(SetupDone {
            built: built.into(),
            unchanged: (!built).into(),
        });
        let events = [image, done].map(|event| Ok(SetupEvent { event: Some(event) }));
        Ok(Response::new(tokio_stream::iter(events.to_vec())))
    }

    async fn build(
        &self,
        request: Request<BuildRequest>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        let asked = request.into_inner();
        let tag = asked.tag;
        self.note(&format!("build {} {tag}", asked.packages.join(" ")));
        let image = setup_event::Event::Image(ImageReady {
            runtime: asked.base,
            tag: "isol8:python-custom-0123456789ab".to_owned(),
            id: "sha256:2".to_owned(),
            built: asked.force,
            elapsed_ms: 2500,
        });
        let done = setup_event::Event::Done(SetupDone {
            built: asked.force.into(),
            unchanged: (!asked.force).into(),
        });
        let events = [image, done].map(|event| Ok(SetupEvent { event: Some(event) }));
        Ok(Response::new(tokio_stream::iter(events.to_vec())))
    }

    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}
