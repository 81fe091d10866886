//! HTTP by hand.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::stage::{KEY, PATIENCE};

pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("it is text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The error of the body, with this status.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        self.json()["error"].as_str().expect("an error").to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// Writes these bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the gateway takes it");
    }

    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        self.write(head(method, path, headers, Some(body.len())).as_bytes());
        self.write(body.as_bytes());
    }

    /// Sends a request with the key.
    pub(crate) fn post(&mut self, path: &str, body: &str) {
        self.send(
            "POST",
            path,
            &[("Authorization", &format!("Bearer {KEY}"))],
            body,
        );
    }

    /// So many bytes, or less where the connection is closed before.
    pub(crate) fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = Vec::new();
        let limited = (&mut self.reader).take(bytes as u64).read_to_end(&mut read);
        limited.expect("the gateway goes on");
        read
    }

    /// The whole answer.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.head()?;
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().expect("a length")];
            self.reader
                .read_exact(&mut answer.body)
                .expect("the whole body");
        }
        Some(answer)
    }

    /// The head of an answer; `None` where the connection is closed.
    pub(crate) fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first
            .split(' ')
            .nth(1)
            .expect("a status")
            .parse()
            .expect("a number");
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some((status, headers));
            }
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        let is_there = read.is_ok_and(|bytes| bytes > 0);
        is_there.then(|| line.trim_end().to_owned())
    }

    /// The next chunk of a body; `None` at its end.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().expect("a chunk");
        let size = usize::from_str_radix(&size, 16).expect("a size");
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).expect("the whole chunk");
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    /// The next event of a stream; comments are events without data.
    pub(crate) fn event(&mut self) -> Option<String> {
        // One in each chunk, or a large one in several.
        let mut event = self.chunk()?;
        while !event.ends_with(b"\n\n") {
            event.extend(self.chunk().expect("the rest of an event"));
        }
        Some(String::from_utf8(event).expect("it is text"))
    }

    /// Waits until the gateway closes the connection, whatever it says before.
    pub(crate) fn await_close(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }
}

/// A request's head. Without a length it has no body.
pub(crate) fn head(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let given = |name: &str| {
        headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    if !given("Host") {
        head += "Host: localhost\r\n";
    }
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}
