//! Reads every request head of a connection before hyper does.
//!
//! hyper repairs what two readers may understand differently: it takes lines
//! that end in a bare LF, and forgets `Content-Length` when there is a
//! `Transfer-Encoding`. A filter must not repair. [`HeadGuard`] takes the bytes
//! of a connection, checks every head strictly, knows from its framing where
//! the next one begins, and hands on a head of its own making that carries the
//! framing and nothing else; what was asked travels beside it as [`Head`].
//!
//! ```text
//!           ┌──────────── body over ────────────┐
//!           ▼                                   │
//!  bytes ─▶ Head ──passed──▶ Length │ Chunked ──┘
//!            ├──CONNECT────▶ Tunnel   (no further byte is taken)
//!            └──refused────▶ Dead     (every further byte is thrown away)
//! ```
//!
//! No I/O and no clock, so that it can be fuzzed.

mod chunked;
mod fault;
mod request;
mod target;

pub use fault::Fault;
pub(crate) use request::strip_hop_by_hop;
pub use request::{Framing, Head, Refused};
pub use target::Target;

use chunked::{Chunked, Progress};
use hyper::Method;

/// The largest head, request line and headers together. Cookies and tokens of
/// real clients stay below 16 KiB.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// The most header fields of one head.
pub const MAX_HEADERS: usize = 100;

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    Tunnel,
    Dead,
}

/// What was met in the input.
#[derive(Debug)]
pub enum Event {
    /// A head that passed. Its body, if any, follows in the output.
    Head(Box<Head>),
    /// A head that did not. The output holds one that closes the connection.
    Refused(Refused),
    /// The body of the head before is malformed; the output must end here.
    BrokenBody(Fault),
}

/// What one call did.
#[derive(Debug)]
pub struct Fed {
    /// So many bytes of the input were used up.
    pub consumed: usize,
    /// Why it stopped before the end of the input, if it did.
    pub event: Option<Event>,
}

/// The state of one connection.
#[derive(Debug)]
pub struct HeadGuard {
    state: State,
    head: Vec<u8>,
}

impl Default for HeadGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl HeadGuard {
    /// Before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Head,
            head: Vec::new(),
        }
    }

    /// Between two requests: not a byte of the next head was seen.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }

    /// Inside a head, or before one.
    #[must_use]
    pub fn is_at_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Nothing more will be handed on: a tunnel begins, or all is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Tunnel | State::Dead)
    }

    /// Takes bytes up to the next event, or to the end of a body, and appends
    /// what is safe to `out`. What follows a body is not looked at in the same
    /// call, so that a caller can wait before it lets the next head in.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Fed {
        let mut consumed = 0;
        while consumed < input.len() {
            let rest = &input[consumed..];
            let (used, event) = match &mut self.state {
                State::Head => self.take_head(rest, out),
                State::Length(left) => {
                    let used =
                        usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    out.extend_from_slice(&rest[..used]);
                    *left -= used as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    (used, None)
                }
                State::Chunked(chunked) => match chunked.feed(rest, out) {
                    Ok(Progress::More) => (rest.len(), None),
                    Ok(Progress::Done(used)) => {
                        self.state = State::Head;
                        (used, None)
                    }
                    Err(fault) => {
                        self.state = State::Dead;
                        (rest.len(), Some(Event::BrokenBody(fault)))
                    }
                },
                State::Tunnel => {
                    return Fed {
                        consumed,
                        event: None,
                    };
                }
                State::Dead => (rest.len(), None),
            };
            consumed += used;
            if event.is_some() || self.is_idle() {
                return Fed { consumed, event };
            }
        }
        Fed {
            consumed,
            event: None,
        }
    }

    /// Refuses the head under way for a reason that is not in its bytes: time,
    /// or the end of the connection.
    pub fn refuse(&mut self, fault: Fault, out: &mut Vec<u8>) -> Refused {
        self.state = State::Dead;
        out.extend_from_slice(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n");
        Refused::new(fault, &std::mem::take(&mut self.head))
    }

    fn take_head(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Event>) {
        for (index, &byte) in input.iter().enumerate() {
            let after_cr = self.head.last() == Some(&b'\r');
            let fault = match byte {
                // An empty line before a request, which others skip.
                b'\r' if self.head.is_empty() => Some(Fault::RequestLine),
                b'\n' if !after_cr => Some(Fault::BareNewline),
                b'\n' => None,
                _ if after_cr => Some(Fault::BareNewline),
                b'\t' | b'\r' | 0x20..=0x7e | 0x80.. => None,
                _ => Some(Fault::ControlByte),
            };
            self.head.push(byte);
            if let Some(fault) = fault {
                return (input.len(), Some(Event::Refused(self.refuse(fault, out))));
            }
            if self.head.ends_with(b"\r\n\r\n") {
                return self.end_head(index + 1, out);
            }
            if self.head.len() >= MAX_HEAD_BYTES {
                return (
                    input.len(),
                    Some(Event::Refused(self.refuse(Fault::TooLarge, out))),
                );
            }
        }
        (input.len(), None)
    }

    fn end_head(&mut self, used: usize, out: &mut Vec<u8>) -> (usize, Option<Event>) {
        match request::parse(&self.head) {
            Ok(head) => {
                // A long head must not cost its room for as long as the
                // connection lives.
                self.head = Vec::new();
                self.state = match (&head.target, head.framing) {
                    (Target::Tunnel { .. }, _) => State::Tunnel,
                    (_, Framing::Length(0)) => State::Head,
                    (_, Framing::Length(length)) => State::Length(length),
                    (_, Framing::Chunked) => State::Chunked(Chunked::new()),
                };
                write_plain(&head, out);
                (used, Some(Event::Head(Box::new(head))))
            }
            Err(fault) => (used, Some(Event::Refused(self.refuse(fault, out)))),
        }
    }
}

/// The head that hyper sees: the method, which decides how an answer is
/// framed, and how the body and the connection end.
fn write_plain(head: &Head, out: &mut Vec<u8>) {
    let is_connect = head.method == Method::CONNECT;
    let target = if is_connect { "tunnel:443" } else { "/" };
    let minor = u8::from(head.is_http11 || is_connect);
    let mut text = format!("{} {target} HTTP/1.{minor}\r\n", head.method);
    match head.framing {
        Framing::Length(0) => {}
        Framing::Length(length) => text.push_str(&format!("content-length: {length}\r\n")),
        Framing::Chunked => text.push_str("transfer-encoding: chunked\r\n"),
    }
    if head.expects_continue {
        text.push_str("expect: 100-continue\r\n");
    }
    text.push_str(match (head.is_http11, head.keep_alive) {
        (true, true) | (false, false) => "\r\n",
        (true, false) => "connection: close\r\n\r\n",
        (false, true) => "connection: keep-alive\r\n\r\n",
    });
    out.extend_from_slice(text.as_bytes());
}
