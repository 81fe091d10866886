//! HTTP/1.1 by hand, so that a test may also speak it badly: one connection, its
//! answers, the events of a stream, and a WebSocket.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::wait::seconds;

/// No answer of a test may take longer, whatever it does.
const PATIENCE: Duration = seconds(90);

/// A connection.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
    key: Option<String>,
}

/// An answer that came as a whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, by names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, whatever the status is.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.shown()))
    }

    /// The body of a 200.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is often all")]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.shown());
        self.json()
    }

    /// What the body of this status calls wrong.
    ///
    /// # Panics
    /// When it is another one, or says nothing.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.shown());
        let error = self.json()["error"].as_str().map(str::to_owned);
        error.unwrap_or_else(|| panic!("no error: {}", self.shown()))
    }

    /// For messages: the status and the beginning of the body.
    #[must_use]
    pub fn shown(&self) -> String {
        let text: String = self.text().chars().take(2000).collect();
        format!("{} {:?} {text}", self.status, self.headers)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self {
            reader: BufReader::new(stream),
            key: None,
        }
    }

    /// The same with a key in every request that [`Client::send`] makes.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(format!("Bearer {key}"));
        self
    }

    /// Writes these bytes.
    ///
    /// # Errors
    /// The gateway has closed the connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a request; a body of nothing is none.
    ///
    /// # Panics
    /// When the gateway does not take it.
    #[track_caller]
    pub fn send(&mut self, what: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = self.head(what, headers);
        if !body.is_empty() {
            let length = format!("Content-Length: {}\r\n", body.len());
            head.insert_str(head.len() - 2, &length);
        }
        self.write(head.as_bytes()).expect("the gateway takes it");
        self.write(body).expect("the gateway takes it");
    }

    /// The head of a request such as `GET /health`, with the key of this
    /// connection and without a length.
    #[must_use]
    pub fn head(&self, what: &str, headers: &[(&str, &str)]) -> String {
        let mut head = format!("{what} HTTP/1.1\r\n");
        let given = |wanted: &str| {
            let mut names = headers.iter().map(|(name, _)| name);
            names.any(|name| name.eq_ignore_ascii_case(wanted))
        };
        if !given("Host") {
            head += "Host: localhost\r\n";
        }
        if let Some(key) = &self.key
            && !given("Authorization")
        {
            head += &format!("Authorization: {key}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// The next answer.
    ///
    /// # Panics
    /// When the connection ends before.
    #[must_use]
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// The next answer; `None` where the connection is closed in place of one.
    ///
    /// # Panics
    /// When it breaks off in the middle.
    #[track_caller]
    pub fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.begun()?;
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().expect("a length")];
            let whole = self.reader.read_exact(&mut answer.body);
            whole.expect("the whole body");
        }
        Some(answer)
    }

    /// The head of the next answer, as one without a body.
    ///
    /// # Panics
    /// When it makes no sense.
    #[track_caller]
    pub fn begun(&mut self) -> Option<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').expect("a header");
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Some(Answer {
            status: status.expect("a status"),
            headers,
            body: Vec::new(),
        })
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        let is_there = read.is_ok_and(|bytes| bytes > 0);
        is_there.then(|| line.trim_end().to_owned())
    }

    /// The next chunk of a body; `None` at its end.
    ///
    /// # Panics
    /// When the connection breaks off before.
    #[track_caller]
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().expect("a chunk");
        let size = usize::from_str_radix(&size, 16).expect("a size");
        let chunk = self.exactly(size + 2).expect("the whole chunk");
        (size > 0).then(|| chunk[..size].to_vec())
    }

    /// The next event of a stream. Comments are passed over.
    ///
    /// # Panics
    /// When it is no JSON, or the connection breaks off before.
    #[track_caller]
    pub fn event(&mut self) -> Option<Value> {
        loop {
            // One in each chunk, or a large one in several.
            let mut event = self.chunk()?;
            while !event.ends_with(b"\n\n") {
                event.extend(self.chunk().expect("the rest of an event"));
            }
            let event = String::from_utf8(event).expect("it is text");
            let event = event.trim_end_matches('\n');
            if let Some(data) = event.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("it is JSON"));
            }
            assert!(event.starts_with(':'), "{event}");
        }
    }

    /// All events of a stream that is asked for here, to its end.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn events(mut self, body: &Value) -> Vec<Value> {
        self.send("POST /execute/stream", &[], body.to_string().as_bytes());
        let answer = self.begun().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.shown());
        std::iter::from_fn(|| self.event()).collect()
    }

    /// So many bytes.
    ///
    /// # Errors
    /// There are not so many.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads until the gateway closes the connection.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match self.reader.read_to_end(&mut all) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("the connection stays open: {error}")
            }
            _ => all,
        }
    }

    /// Says that nothing more comes; the answer still can.
    pub fn finish(&self) {
        // The gateway may have closed it.
        drop(self.reader.get_ref().shutdown(Shutdown::Write));
    }

    /// Goes without a goodbye: what was sent is thrown away, and the gateway
    /// gets an RST.
    ///
    /// # Panics
    /// Never: the socket is ours.
    pub fn reset(self) {
        let linger = set_socket_linger(self.reader.get_ref(), Some(Duration::ZERO));
        linger.expect("the socket is ours");
    }
}
