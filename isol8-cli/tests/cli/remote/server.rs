//! A server that does what the test says, on a port of its own.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
};

use futures_util::{SinkExt as _, StreamExt as _};
use isol8_proto::v1::{
    Accepted, Engine, ErrorDetail, Exited, GatewayEvent, RunEvent, RunRequest, Runtime, Start,
    Verdict, gateway_event, run_event::Event, run_request::Message as Sent,
};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = Arc<dyn Fn(Guest) -> Work + Send + Sync>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Answers every connection with a script.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

/// One connection whose request was read.
pub(crate) struct Guest {
    /// The head of it.
    pub(crate) head: String,
    stream: Box<dyn Io>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// One run, from the gateway's side.
pub(crate) struct Run {
    pub(crate) start: Start,
    pub(crate) socket: WebSocketStream<Box<dyn Io>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Speaks HTTP, as far as the script does.
    pub(crate) fn plain<F, W>(script: F) -> Self
    where
        F: Fn(Guest) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::start(Arc::new(move |guest| Box::pin(script(guest))), None)
    }

    /// The same in TLS for `localhost`; the authority's certificate is written
    /// there.
    pub(crate) fn secure<F, W>(authority: &Path, script: F) -> Self
    where
        F: Fn(Guest) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |guest| Box::pin(script(guest)));
        Self::start(script, Some(acceptor(authority)))
    }

    /// Welcomes everybody, and answers each run with a script.
    pub(crate) fn running<F, W>(script: F) -> Self
    where
        F: Fn(Run) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let script = Arc::new(script);
        Self::plain(move |guest| {
            let script = Arc::clone(&script);
            async move { script(guest.welcome().await).await }
        })
    }

    /// The same text for everybody.
    pub(crate) fn saying(answer: &'static str) -> Self {
        Self::plain(move |guest| guest.say(answer))
    }

    fn start(script: Script, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::default();
        let server = Self {
            address,
            seen: Arc::clone(&seen),
        };
        thread::spawn(move || serve(listener, &script, acceptor.as_ref(), &seen));
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What scripts noted, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no script panics").clone()
    }

    /// Waits until a script has noted this.
    pub(crate) fn await_note(&self, note: &str) {
        crate::cli::wait_for(&format!("the server to see `{note}`"), || {
            self.seen().iter().any(|seen| seen == note)
        });
    }
}

fn serve(
    listener: std::net::TcpListener,
    script: &Script,
    acceptor: Option<&TlsAcceptor>,
    seen: &Arc<Mutex<Vec<String>>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let stream: Box<dyn Io> = match acceptor {
                None => Box::new(stream),
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    // Who does not trust us goes.
                    Err(_) => continue,
                },
            };
            let (script, seen) = (Arc::clone(script), Arc::clone(seen));
            tokio::spawn(async move {
                if let Some(guest) = Guest::of(stream, seen).await {
                    script(guest).await;
                }
            });
        }
    });
}

fn acceptor(authority: &Path) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Of two authorities with one name, the wrong one would be asked.
    let name = authority.display().to_string();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("there is randomness");
    let root = params.self_signed(&key).expect("the parameters are whole");
    let text = data_encoding::BASE64.encode(root.der());
    let text = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(authority, text).expect("the folder is ours");
    let issuer = Issuer::new(params, key);
    let names = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("there is randomness");
    let certificate = names.signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the library knows its own versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

impl Guest {
    async fn of(mut stream: Box<dyn Io>, seen: Arc<Mutex<Vec<String>>>) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        Some(Self { head, stream, seen })
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        let mut seen = self.seen.lock().expect("no script panics");
        seen.push(what.into());
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// Says this and no more.
    pub(crate) async fn say(mut self, text: impl AsRef<[u8]>) {
        // Who went meanwhile does not hear it.
        drop(self.stream.write_all(text.as_ref()).await);
        drop(self.stream.shutdown().await);
    }

    /// Waits for the other end to go, and says nothing.
    pub(crate) async fn wait(mut self) {
        let mut rest = Vec::new();
        drop(self.stream.read_to_end(&mut rest).await);
        self.note("gone");
    }

    /// What belongs to the key of the request.
    pub(crate) fn accept_key(&self) -> String {
        let key = self.header("sec-websocket-key").expect("a key");
        derive_accept_key(key.as_bytes())
    }

    /// The head of a welcome.
    pub(crate) fn switching(accept: &str, protocol: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        )
    }

    /// As a gateway does; waits for the `Start`.
    pub(crate) async fn welcome(mut self) -> Run {
        let protocol = "Sec-WebSocket-Protocol: isol8.v1\r\n";
        let head = Self::switching(&self.accept_key(), protocol);
        let written = self.stream.write_all(head.as_bytes()).await;
        written.expect("the client is there");
        let socket = WebSocketStream::from_raw_socket(self.stream, Role::Server, None).await;
        let mut run = Run {
            start: Start::default(),
            socket,
            seen: self.seen,
        };
        match run.request().await {
            Some(Sent::Start(start)) => run.start = start,
            other => panic!("no `Start`: {other:?}"),
        }
        run
    }
}

impl Run {
    pub(crate) fn note(&self, what: impl Into<String>) {
        let mut seen = self.seen.lock().expect("no script panics");
        seen.push(what.into());
    }

    /// The next request; `None` when the client is gone.
    pub(crate) async fn request(&mut self) -> Option<Sent> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    return RunRequest::decode(bytes).expect("a request").message;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => {
                    self.note("gone");
                    return None;
                }
            }
        }
    }

    pub(crate) async fn message(&mut self, message: Message) {
        if self.socket.send(message).await.is_err() {
            self.note("gone");
        }
    }

    async fn say(&mut self, event: gateway_event::Event) {
        let event = Some(event);
        let bytes = GatewayEvent { event }.encode_to_vec();
        self.message(Message::Binary(bytes.into())).await;
    }

    pub(crate) async fn send(&mut self, event: Event) {
        let event = Some(event);
        self.say(gateway_event::Event::Run(RunEvent { event }))
            .await;
    }

    pub(crate) async fn accept(&mut self) {
        self.send(Event::Accepted(Accepted {
            run_id: "run-1".to_owned(),
            sandbox_id: "sandbox-1".to_owned(),
            engine: Engine::Native.into(),
            warm: true,
            runtime: Runtime::Python.into(),
        }))
        .await;
    }

    pub(crate) async fn stdout(&mut self, bytes: impl Into<bytes::Bytes>) {
        self.send(Event::Stdout(bytes.into())).await;
    }

    /// The last event.
    pub(crate) async fn exit(mut self, exited: Exited) {
        self.send(Event::Exited(exited)).await;
        drop(self.socket.close(None).await);
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    pub(crate) async fn code(self, code: i32) {
        self.exit(Exited {
            verdict: Verdict::Exited.into(),
            code: Some(code),
            ..Exited::default()
        })
        .await;
    }

    pub(crate) async fn fail(mut self, detail: ErrorDetail) {
        self.say(gateway_event::Event::Failed(detail)).await;
        drop(self.socket.close(None).await);
    }

    /// The next signal, whatever else comes.
    pub(crate) async fn signal(&mut self) -> Option<i32> {
        loop {
            if let Sent::Signal(signal) = self.request().await? {
                self.note(format!("signal {}", signal.number));
                return Some(signal.number);
            }
        }
    }
}
