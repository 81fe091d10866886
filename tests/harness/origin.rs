//! Web servers of a test's own: HTTP and HTTPS on the same ports, every
//! connection and every request on record.
//!
//! What a request gets depends on its path:
//!
//! | path | answer |
//! |---|---|
//! | `/redirect?URL` | 302 to the URL |
//! | `/bytes/N`, `/chunked/N` | so many bytes, with and without a length |
//! | `/endless` | bytes for as long as somebody takes them |
//! | `/drip` | one byte now and then, for ever |
//! | `/hang` | nothing, until the other side goes |
//! | `/cut` | less than was promised |
//! | `/headers` | what was asked, as JSON |
//! | what was given to [`Origin::serve`] | what was given with it |
//! | any other | a line with the path |
//!
//! CONNECT opens a tunnel that ends here as well, so that an origin is a
//! corporate proxy too.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::net::Shutdown;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::authority::Authority;

/// Nobody is waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest head that is read.
const LONGEST_HEAD: usize = 1 << 20;

/// A request that reached an origin.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The address that was dialled.
    pub to: SocketAddr,
    /// Inside of TLS.
    pub tls: bool,
    /// The name that the client's TLS asked for.
    pub sni: Option<String>,
    /// As it was sent.
    pub method: String,
    /// As it was sent.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// The very bytes of the head.
    pub head: Vec<u8>,
}

impl Seen {
    /// A header's value, if it was sent once or more.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer of [`Origin::serve`].
#[derive(Debug, Clone)]
pub struct Reply {
    /// The type of the content.
    pub kind: &'static str,
    /// All of it.
    pub body: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<SocketAddr>,
    seen: Vec<Seen>,
    served: Vec<(String, Reply)>,
}

type Record = Arc<Mutex<State>>;

/// Servers at one or more addresses, until it is dropped.
#[derive(Debug)]
pub struct Origin {
    record: Record,
    listeners: Vec<TcpListener>,
}

impl Origin {
    /// Answers at every one of these addresses.
    ///
    /// # Errors
    /// One is taken.
    pub fn listen(at: &[SocketAddr], authority: &Arc<Authority>) -> io::Result<Self> {
        let record = Record::default();
        let tls = authority.server();
        let mut listeners = Vec::new();
        for address in at {
            let listener = TcpListener::bind(address)?;
            let (wire, record, tls) =
                (listener.try_clone()?, Arc::clone(&record), Arc::clone(&tls));
            thread::spawn(move || accept_all(&wire, &record, &tls));
            listeners.push(listener);
        }
        Ok(Self { record, listeners })
    }

    /// The address of the first listener.
    ///
    /// # Panics
    /// When it listens nowhere.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let first = self.listeners.first().expect("it listens somewhere");
        first.local_addr().expect("it is bound")
    }

    /// Answers every path that ends like this from now on, under every name.
    pub fn serve(&self, path: &str, reply: Reply) {
        lock(&self.record).served.push((path.to_owned(), reply));
    }

    /// Requests since the last call.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.record).seen)
    }

    /// Addresses that were dialled since the last call, by connection.
    #[must_use]
    pub fn take_connections(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut lock(&self.record).connections)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // Wakes whoever accepts, with an error.
            rustix::net::shutdown(listener, Shutdown::Both).ok();
        }
    }
}

fn lock(record: &Record) -> MutexGuard<'_, State> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_all(listener: &TcpListener, record: &Record, tls: &Arc<ServerConfig>) {
    while let Ok((stream, _)) = listener.accept() {
        let (record, tls) = (Arc::clone(record), Arc::clone(tls));
        thread::spawn(move || {
            // A client that goes is nothing to report.
            converse(stream, &record, tls).ok();
        });
    }
}

fn converse(stream: TcpStream, record: &Record, tls: Arc<ServerConfig>) -> io::Result<()> {
    let mut to = stream.local_addr()?;
    to.set_ip(to.ip().to_canonical());
    lock(record).connections.push(to);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    loop {
        let mut first = [0];
        if stream.peek(&mut first)? == 0 {
            return Ok(());
        }
        let tunnel = if first == [0x16] {
            let session = ServerConnection::new(tls).map_err(io::Error::other)?;
            let mut secure = StreamOwned::new(session, stream);
            // The name is known once the first bytes are through.
            while secure.conn.is_handshaking() {
                secure.conn.complete_io(&mut secure.sock)?;
            }
            let sni = secure.conn.server_name().map(str::to_owned);
            return serve(&mut secure, record, to, &Some(sni)).map(drop);
        } else {
            serve(&mut &stream, record, to, &None)?
        };
        if !tunnel {
            return Ok(());
        }
    }
}

/// Answers requests until the client goes. Gives `true` when a tunnel begins.
fn serve(
    wire: &mut (impl Read + Write),
    record: &Record,
    to: SocketAddr,
    tls: &Option<Option<String>>,
) -> io::Result<bool> {
    let mut pending = Vec::new();
    while let Some(mut seen) = request(wire, &mut pending)? {
        seen.to = to;
        seen.tls = tls.is_some();
        seen.sni = tls.clone().flatten();
        let served = {
            let mut state = lock(record);
            state.seen.push(seen.clone());
            let found = state
                .served
                .iter()
                .rev()
                .find(|(path, _)| seen.path().ends_with(path.as_str()));
            found.map(|(_, reply)| reply.clone())
        };
        if seen.method == "CONNECT" {
            wire.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            return Ok(true);
        }
        match served {
            Some(reply) => whole(wire, &seen, reply.kind, &reply.body)?,
            None => usual(wire, &seen)?,
        }
        wire.flush()?;
    }
    Ok(false)
}

impl Seen {
    /// The target without what may stand before the path.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => &self.target,
        }
    }
}

fn usual(wire: &mut (impl Read + Write), seen: &Seen) -> io::Result<()> {
    let path = seen.path();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let piece = vec![b'.'; 64 << 10];
    let count = |prefix: &str| -> Option<usize> { path.strip_prefix(prefix)?.parse().ok() };
    if path.ends_with("/redirect") {
        return write!(
            wire,
            "HTTP/1.1 302 Found\r\nLocation: {query}\r\nContent-Length: 0\r\n\r\n"
        );
    }
    if let Some(bytes) = count("/bytes/") {
        return sized(wire, bytes, &piece);
    }
    if let Some(mut left) = count("/chunked/") {
        begin_chunks(wire)?;
        while left > 0 {
            let length = left.min(piece.len());
            chunk(wire, &piece[..length])?;
            left -= length;
        }
        return wire.write_all(b"0\r\n\r\n");
    }
    match path {
        "/endless" => {
            begin_chunks(wire)?;
            loop {
                chunk(wire, &piece)?;
            }
        }
        "/drip" => {
            begin_chunks(wire)?;
            loop {
                chunk(wire, b".")?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        "/hang" => wire.read(&mut [0]).map(drop),
        "/cut" => {
            wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")?;
            wire.flush()?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        "/headers" => {
            let shown = json!({"method": seen.method, "target": seen.target, "headers": seen.headers, "body": seen.body.len()});
            whole(wire, seen, "application/json", shown.to_string().as_bytes())
        }
        _ => whole(
            wire,
            seen,
            "text/plain",
            format!("origin {}\n", seen.path()).as_bytes(),
        ),
    }
}

fn whole(wire: &mut impl Write, seen: &Seen, kind: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let mut reply =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes();
    if seen.method != "HEAD" {
        reply.extend_from_slice(body);
    }
    wire.write_all(&reply)
}

fn sized(wire: &mut impl Write, bytes: usize, piece: &[u8]) -> io::Result<()> {
    write!(wire, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
    let mut left = bytes;
    while left > 0 {
        let length = left.min(piece.len());
        wire.write_all(&piece[..length])?;
        left -= length;
    }
    Ok(())
}

fn begin_chunks(wire: &mut impl Write) -> io::Result<()> {
    wire.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn chunk(wire: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(wire, "{:x}\r\n", bytes.len())?;
    wire.write_all(bytes)?;
    wire.write_all(b"\r\n")?;
    wire.flush()
}

/// Reads one request; `None` when the client has no more.
fn request(wire: &mut impl Read, pending: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if pending.len() > LONGEST_HEAD || !more(wire, pending)? {
            return Ok(None);
        }
    };
    let head: Vec<u8> = pending.drain(..end).collect();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let mut seen = Seen {
        to: SocketAddr::from(([0, 0, 0, 0], 0)),
        tls: false,
        sni: None,
        method,
        target,
        headers: headers.collect(),
        body: Vec::new(),
        head,
    };
    seen.body = body(wire, pending, &seen)?;
    Ok(Some(seen))
}

fn more(wire: &mut impl Read, pending: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 64 << 10];
    let length = wire.read(&mut piece)?;
    pending.extend_from_slice(&piece[..length]);
    Ok(length > 0)
}

fn take(wire: &mut impl Read, pending: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while pending.len() < length {
        if !more(wire, pending)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(pending.drain(..length).collect())
}

fn body(wire: &mut impl Read, pending: &mut Vec<u8>, seen: &Seen) -> io::Result<Vec<u8>> {
    if seen.header("transfer-encoding").is_some() {
        let mut whole = Vec::new();
        loop {
            let line = line(wire, pending)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while !self::line(wire, pending)?.is_empty() {}
                return Ok(whole);
            }
            whole.extend(take(wire, pending, size)?);
            take(wire, pending, 2)?;
        }
    }
    let length = seen
        .header("content-length")
        .and_then(|value| value.parse().ok());
    take(wire, pending, length.unwrap_or(0))
}

fn line(wire: &mut impl Read, pending: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(at) = pending.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = pending.drain(..at + 2).collect();
            return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
        }
        if !more(wire, pending)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
