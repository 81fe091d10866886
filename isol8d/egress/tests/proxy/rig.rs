//! A proxy, origins, and a client that says exactly what it is told.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use isol8_core::egress::{
    record::{Action, Record},
    rules::{Filter, Rules},
};
use isol8_egress::{Gate, Limits, Net, Resolver, serve};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Far longer than anything here takes; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything is allowed, if it is on loopback and on one of these ports.
pub(crate) fn open(ports: &[u16]) -> Filter {
    Filter {
        allow_private: vec!["127.0.0.0/8".parse().unwrap()],
        ports: ports.to_vec(),
        ..Filter::default()
    }
}

/// Only hosts that match this pattern.
pub(crate) fn only(pattern: &str, ports: &[u16]) -> Filter {
    Filter {
        allow: vec![pattern.to_owned()],
        ..open(ports)
    }
}

pub(crate) fn names(table: &[(&str, &[&str])]) -> Resolver {
    let table: HashMap<String, Vec<IpAddr>> = table
        .iter()
        .map(|(name, addresses)| {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            ((*name).to_owned(), addresses)
        })
        .collect();
    Resolver::with(move |name| {
        let found = table.get(&name).cloned();
        async move { found.ok_or_else(|| io::Error::other("no such name")) }.boxed()
    })
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Proxy {
    /// A proxy with an open gate. `origin.test` is 127.0.0.1.
    pub(crate) async fn start(filter: Filter) -> Self {
        let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
        Self::with(net, Limits::default(), Some(filter)).await
    }

    pub(crate) async fn with(net: Net, limits: Limits, filter: Option<Filter>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::new(limits));
        if let Some(filter) = filter {
            gate.open(Rules::compile(&filter).unwrap());
        }
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let log = Arc::clone(&records);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(serve(
            listener,
            Arc::clone(&gate),
            Arc::new(net),
            move |record| log.lock().unwrap().push(record),
            stop.clone(),
        ));
        Self {
            address,
            gate,
            stop,
            tasks,
            records,
        }
    }

    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes on a connection of their own and reads to its end.
    pub(crate) async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.dial().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_all(&mut stream).await
    }

    /// A plain GET for an absolute URL, the connection to be closed.
    pub(crate) async fn get(&self, url: &str) -> String {
        self.say(format!(
            "GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// A CONNECT; the stream and the head of the answer.
    pub(crate) async fn connect(&self, target: &str) -> (TcpStream, String) {
        let mut stream = self.dial().await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        (stream, answer)
    }

    /// The records once there are so many, and never more.
    pub(crate) async fn records(&self, count: usize) -> Vec<Record> {
        let enough = async {
            while self.records.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, enough).await.is_err() {
            panic!("only {:?}", self.records.lock().unwrap());
        }
        let records = self.records.lock().unwrap().clone();
        assert_eq!(records.len(), count, "{records:#?}");
        for record in &records {
            let line = record.to_json();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value.as_object().unwrap().len(), 10, "{line}");
            assert!(!record.reason.is_empty(), "{line}");
        }
        records
    }

    /// The only record.
    pub(crate) async fn record(&self) -> Record {
        self.records(1).await.remove(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn read_all<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut bytes)).await {
        // A reset after the answer is an end too.
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => panic!(
            "the connection stays open after {:?}",
            String::from_utf8_lossy(&bytes)
        ),
    }
}

/// Up to and including the empty line, or the end.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    let head = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => break,
            }
        }
    };
    timeout(PATIENCE, head).await.expect("a head comes");
    String::from_utf8(bytes).unwrap()
}

/// An answer with a Content-Length, and nothing behind it.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> String {
    let head = read_head(stream).await;
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut body))
        .await
        .expect("a body comes")
        .unwrap();
    head + &String::from_utf8_lossy(&body)
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let so = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(PATIENCE, so).await.is_ok(), "never so: {place}");
    }
}

/// The first line's number.
#[track_caller]
pub(crate) fn status(answer: &str) -> u16 {
    let number = answer
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// A server that answers each connection's first request and closes.
pub(crate) struct Origin {
    pub(crate) port: u16,
    /// Every connection's bytes, as far as they were read.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Origin {
    /// Answers every request with these bytes.
    pub(crate) async fn answering(answer: &str) -> Self {
        Self::answering_at("127.0.0.1:0", answer).await
    }

    pub(crate) async fn answering_at(address: &str, answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::run(address, move |mut stream, seen: Arc<Mutex<Vec<String>>>| {
            let answer = answer.clone();
            async move {
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                // A proxy that was told to stop may be gone.
                let _gone = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await
    }

    /// `200` and a short body.
    pub(crate) async fn hello() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await
    }

    /// Sends back whatever comes, to the end.
    pub(crate) async fn echo() -> Self {
        Self::run(
            "127.0.0.1:0",
            |mut stream, seen: Arc<Mutex<Vec<String>>>| async move {
                seen.lock().unwrap().push("connected".to_owned());
                let (mut read, mut write) = stream.split();
                let _gone = tokio::io::copy(&mut read, &mut write).await;
                let _gone = write.shutdown().await;
            },
        )
        .await
    }

    pub(crate) async fn run<F, R>(address: &str, handle: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (inner_stop, inner_tasks, inner_seen) = (stop.clone(), tasks.clone(), seen.clone());
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = inner_stop.cancelled() => break,
                    accepted = listener.accept() => accepted,
                };
                let handled = handle(accepted.unwrap().0, Arc::clone(&inner_seen));
                let stop = inner_stop.clone();
                inner_tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = handled => {}
                    }
                });
            }
        });
        Self { port, seen, stop }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// A head, and the body that its Content-Length or its chunks announce.
pub(crate) async fn read_request(stream: &mut TcpStream) -> String {
    let head = read_head(stream).await;
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if let Some(length) = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
    {
        body.resize(length.parse().unwrap(), 0);
        let _cut = stream.read_exact(&mut body).await;
    } else if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => body.push(byte),
                Err(_) => break,
            }
        }
    }
    head + &String::from_utf8_lossy(&body)
}

#[track_caller]
pub(crate) fn assert_blocked(record: &Record, why: &str) {
    assert_eq!(record.action, Action::Block, "{record:?}");
    assert!(
        record.reason.contains(why),
        "`{}` lacks `{why}`",
        record.reason
    );
}

#[track_caller]
pub(crate) fn assert_allowed(record: &Record, why: &str) {
    assert_eq!(record.action, Action::Allow, "{record:?}");
    assert!(
        record.reason.contains(why),
        "`{}` lacks `{why}`",
        record.reason
    );
}
