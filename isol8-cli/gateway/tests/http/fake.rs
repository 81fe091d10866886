//! A daemon that does what the program's text says, and notes what it sees.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use isol8_proto::v1::{
    Accepted, CleanupItem, CleanupRequest, CleanupResponse, DoctorRequest, DoctorResponse, Engine,
    EngineStatus, ErrorDetail, Exited, NetworkAction, NetworkLog, NetworkRequest, Notice, Phase,
    PhaseChanged, PoolStatus, RunEvent, RunRequest, Runtime, ShutdownRequest, ShutdownResponse,
    Start, StatusRequest, StatusResponse, StdinTaken, Usage, Verdict, WarmRequest, WarmResponse,
    admin_service_server::{AdminService, AdminServiceServer},
    run_event::Event,
    run_request::Message as Sent,
    run_service_server::{RunService, RunServiceServer},
    session_service_server::SessionServiceServer,
};
use prost::Message as _;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

mod sessions;

/// What the fake daemon has and has seen.
#[derive(Debug, Default)]
pub(crate) struct World {
    notes: Mutex<Vec<String>>,
    starts: Mutex<Vec<Start>>,
    /// Sessions with their files.
    sessions: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// Lets programs go on that wait.
    pub(crate) release: CancellationToken,
}

impl World {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.notes.lock().expect("no panic").push(what.into());
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().expect("no panic").clone()
    }

    pub(crate) fn count(&self, note: &str) -> usize {
        self.notes().iter().filter(|seen| *seen == note).count()
    }

    /// Waits until this was noted.
    pub(crate) fn await_note(&self, note: &str) {
        crate::stage::wait_for(&format!("`{note}`"), || self.count(note) > 0);
    }

    pub(crate) fn last_start(&self) -> Start {
        let starts = self.starts.lock().expect("no panic");
        starts.last().cloned().expect("a run")
    }

    pub(crate) fn sessions(&self) -> Vec<String> {
        let sessions = self.sessions.lock().expect("no panic");
        sessions.keys().cloned().collect()
    }
}

/// Serves until `stop`, on a thread of its own.
pub(crate) fn serve(socket: &Path, world: Arc<World>, stop: CancellationToken) {
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("the socket is free");
    listener.set_nonblocking(true).expect("a socket");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = UnixListener::from_std(listener).expect("a listener");
            let services = Services(world);
            let serving = Server::builder()
                .add_service(
                    RunServiceServer::new(services.clone()).max_decoding_message_size(32 << 20),
                )
                .add_service(AdminServiceServer::new(services.clone()))
                .add_service(SessionServiceServer::new(services))
                .serve_with_incoming(UnixListenerStream::new(listener));
            tokio::select! {
                served = serving => served.expect("it serves"),
                () = stop.cancelled() => {}
            }
        });
    });
}

#[derive(Clone)]
pub(crate) struct Services(Arc<World>);

/// A failure as the daemon tells it.
pub(crate) fn failing(kind: &str) -> Status {
    let detail = ErrorDetail {
        kind: kind.to_owned(),
        message: format!("it is {kind}"),
        causes: vec!["a cause".to_owned()],
        hint: "type this".to_owned(),
        retry_after_ms: 2500,
    };
    let details = detail.encode_to_vec().into();
    Status::with_details(Code::Unknown, detail.message, details)
}

struct Run {
    world: Arc<World>,
    start: Start,
    requests: Streaming<RunRequest>,
    events: mpsc::Sender<Result<RunEvent, Status>>,
}

impl Run {
    async fn send(&self, event: Event) -> bool {
        let event = RunEvent { event: Some(event) };
        self.events.send(Ok(event)).await.is_ok()
    }

    async fn phase(&self, phase: Phase) {
        let phase = phase.into();
        self.send(Event::Phase(PhaseChanged { phase })).await;
    }

    async fn exit(&self, verdict: Verdict, code: Option<i32>, signal: Option<i32>) {
        let usage = Usage {
            wall_us: 1500,
            cpu_us: 250,
            peak_memory_bytes: 4096,
            network_bytes_in: 1,
            network_bytes_out: 2,
            ..Usage::default()
        };
        let exited = Exited {
            verdict: verdict.into(),
            code,
            signal,
            usage: Some(usage),
            ..Exited::default()
        };
        self.send(Event::Exited(exited)).await;
    }

    /// Waits until the client has gone.
    async fn gone(&mut self) {
        while let Ok(Some(_)) = self.requests.message().await {}
        self.world.note("gone");
    }

    async fn stdin(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Some(request)) = self.requests.message().await {
            match request.message {
                Some(Sent::Stdin(bytes)) => {
                    all.extend_from_slice(&bytes);
                    let bytes = bytes.len() as u64;
                    self.send(Event::StdinTaken(StdinTaken { bytes })).await;
                }
                _ => break,
            }
        }
        all
    }

    async fn accept(&self) {
        self.send(Event::Accepted(Accepted {
            run_id: "run-1".to_owned(),
            sandbox_id: "sandbox-1".to_owned(),
            engine: Engine::Native.into(),
            warm: true,
            runtime: Runtime::Python.into(),
        }))
        .await;
    }

    async fn perform(mut self) {
        let code = String::from_utf8(self.start.code.to_vec()).expect("it is text");
        if let Some(kind) = code.strip_prefix("refuse ") {
            let _gone = self.events.send(Err(failing(kind))).await;
            return;
        }
        self.accept().await;
        if code.starts_with("install") {
            self.phase(Phase::Install).await;
            self.send(Event::Stderr("installing\n".into())).await;
            self.phase(Phase::Code).await;
        }
        for line in code.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "print" => drop(self.send(Event::Stdout(rest.to_owned().into())).await),
                "complain" => drop(self.send(Event::Stderr(rest.to_owned().into())).await),
                "binary" => drop(self.send(Event::Stdout(vec![b'a', 0xff].into())).await),
                "halves" => {
                    self.send(Event::Stdout(vec![0xc3].into())).await;
                    self.send(Event::Stdout(vec![0xa9].into())).await;
                }
                "notice" => {
                    let message = rest.to_owned();
                    self.send(Event::Notice(Notice { message })).await;
                }
                "network" => self.network().await,
                "echo" => {
                    let stdin = self.stdin().await;
                    self.send(Event::Stdout(stdin.into())).await;
                }
                "write" => {
                    let mut sessions = self.world.sessions.lock().expect("no panic");
                    let session = self.start.session.clone().expect("a session");
                    let files = sessions.entry(session).or_default();
                    files.insert(rest.to_owned(), b"written".to_vec());
                }
                "cat" => {
                    // Stdin as it comes, and the signal that ends it.
                    while let Ok(Some(request)) = self.requests.message().await {
                        match request.message {
                            Some(Sent::Stdin(bytes)) => {
                                let taken = bytes.len() as u64;
                                self.send(Event::Stdout(bytes)).await;
                                self.send(Event::StdinTaken(StdinTaken { bytes: taken }))
                                    .await;
                            }
                            Some(Sent::Signal(signal)) => {
                                let number = Some(signal.number);
                                return self.exit(Verdict::Signalled, None, number).await;
                            }
                            _ => break,
                        }
                    }
                }
                "deaf" => {
                    // Hears signals, and takes nothing of its stdin.
                    while let Ok(Some(request)) = self.requests.message().await {
                        if let Some(Sent::Signal(signal)) = request.message {
                            let number = Some(signal.number);
                            return self.exit(Verdict::Signalled, None, number).await;
                        }
                    }
                    return self.world.note("gone");
                }
                "wait" => {
                    self.world.note("waiting");
                    let release = self.world.release.clone();
                    tokio::select! {
                        () = release.cancelled() => {}
                        () = self.gone() => return,
                    }
                }
                "flood" => {
                    self.world.note("flooding");
                    while self.send(Event::Stdout(vec![b'x'; 256 << 10].into())).await {}
                    self.world.note("gone");
                    return;
                }
                "mismatch" => {
                    let session = self.start.session.clone().expect("a session");
                    let detail = ErrorDetail {
                        kind: "session_mismatch".to_owned(),
                        message: format!("session `{session}` is another"),
                        causes: vec![format!("of {session}")],
                        hint: format!("remove {session}"),
                        ..ErrorDetail::default()
                    };
                    let details = detail.encode_to_vec().into();
                    let status = Status::with_details(Code::Unknown, "", details);
                    let _gone = self.events.send(Err(status)).await;
                    return;
                }
                "fail" => {
                    let _gone = self.events.send(Err(failing(rest))).await;
                    return;
                }
                "break" => return,
                "verdict" => {
                    let name = format!("VERDICT_{}", rest.to_ascii_uppercase());
                    let verdict = Verdict::from_str_name(&name).expect("a verdict");
                    let signal = (verdict == Verdict::Signalled).then_some(11);
                    return self.exit(verdict, None, signal).await;
                }
                "exit" => {
                    let code = rest.parse().expect("a code");
                    return self.exit(Verdict::Exited, Some(code), None).await;
                }
                _ => {}
            }
        }
        self.exit(Verdict::Exited, Some(0), None).await;
    }

    async fn network(&self) {
        let request = NetworkRequest {
            timestamp_ms: 1_700_000_000_123,
            method: "GET".to_owned(),
            host: "example.com".to_owned(),
            port: 80,
            path: Some("/".to_owned()),
            action: NetworkAction::Allow.into(),
            ..NetworkRequest::default()
        };
        let requests = vec![request];
        self.send(Event::Network(NetworkLog { requests })).await;
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
        let world = Arc::clone(&self.0);
        world.starts.lock().expect("no panic").push(start.clone());
        if let Some(session) = &start.session {
            let mut sessions = world.sessions.lock().expect("no panic");
            sessions.entry(session.clone()).or_default();
        }
        let (events, receiver) = mpsc::channel(1);
        let run = Run {
            world,
            start,
            requests,
            events,
        };
        tokio::spawn(run.perform());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl AdminService for Services {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            runs_in_flight: 3,
            runs_total: 17,
            engines: vec![EngineStatus {
                engine: Engine::Native.into(),
                healthy: true,
                ..EngineStatus::default()
            }],
            pools: vec![PoolStatus {
                engine: Engine::Native.into(),
                runtime: Runtime::Python.into(),
                key: "512m".to_owned(),
                warm: 2,
                hits: 9,
                ..PoolStatus::default()
            }],
            ..StatusResponse::default()
        }))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn warm(&self, _: Request<WarmRequest>) -> Result<Response<WarmResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn shutdown(
        &self,
        _: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn cleanup(
        &self,
        request: Request<CleanupRequest>,
    ) -> Result<Response<CleanupResponse>, Status> {
        let CleanupRequest { dry_run, images } = request.into_inner();
        self.0.note(format!("cleanup {dry_run} {images}"));
        let item = |error: &str| CleanupItem {
            error: error.to_owned(),
            ..CleanupItem::default()
        };
        let items = vec![item(""), item("in use"), item("")];
        Ok(Response::new(CleanupResponse { items }))
    }
}
