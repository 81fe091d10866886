//! A WebSocket, by hand.

use serde_json::Value;

use super::http::Client;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The example of RFC 6455, with the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The client's end of a WebSocket. Dropped, it goes without a goodbye.
#[derive(Debug)]
pub struct WebSocket(Client);

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A text, as JSON.
    Event(Value),
    /// The other side says goodbye with this code.
    Close(u16),
}

impl WebSocket {
    /// Asks for one, on a connection with a key.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    #[track_caller]
    pub fn open(mut client: Client) -> Self {
        client.send("GET /execute/ws", &Self::headers(), b"");
        let answer = client.begun().expect("an answer");
        assert_eq!(answer.status, 101, "{}", answer.shown());
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        Self(client)
    }

    /// What a request needs to become a WebSocket.
    #[must_use]
    pub const fn headers() -> [(&'static str, &'static str); 4] {
        [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ]
    }

    /// Sends a message.
    ///
    /// # Panics
    /// When the gateway does not take it.
    #[track_caller]
    pub fn send(&mut self, message: &Value) {
        self.text(message.to_string().as_bytes());
    }

    /// Sends a text of any bytes.
    ///
    /// # Panics
    /// When the gateway does not take it.
    #[track_caller]
    pub fn text(&mut self, payload: &[u8]) {
        self.frame(TEXT, payload);
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// When the gateway does not take it.
    #[track_caller]
    pub fn frame(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | kind, 0x80 | 127];
        frame.extend((payload.len() as u64).to_be_bytes());
        // A mask of zeros leaves the payload as it is.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write(&frame).expect("the gateway takes it");
    }

    /// The next message; pings are answered.
    ///
    /// # Panics
    /// When the connection is cut before.
    #[must_use]
    #[track_caller]
    pub fn message(&mut self) -> Message {
        loop {
            let head = self.bytes(2);
            let length = match head[1] {
                126 => u16::from_be_bytes(self.bytes(2).try_into().expect("two")).into(),
                127 => u64::from_be_bytes(self.bytes(8).try_into().expect("eight")),
                short => u64::from(short),
            };
            let payload = self.bytes(usize::try_from(length).expect("it fits"));
            match head[0] & 0xf {
                PING => self.frame(PONG, &payload),
                CLOSE => {
                    let code = payload.first_chunk().copied().expect("a code");
                    self.frame(CLOSE, &code);
                    return Message::Close(u16::from_be_bytes(code));
                }
                TEXT => {
                    let event = serde_json::from_slice(&payload);
                    return Message::Event(event.expect("it is JSON"));
                }
                kind => panic!("a frame of kind {kind}"),
            }
        }
    }

    #[track_caller]
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.0.exactly(count).expect("the connection goes on")
    }

    /// The next event.
    ///
    /// # Panics
    /// When it is a goodbye.
    #[must_use]
    #[track_caller]
    pub fn event(&mut self) -> Value {
        match self.message() {
            Message::Event(event) => event,
            Message::Close(code) => panic!("closed with {code}"),
        }
    }

    /// Every event to the goodbye, and its code.
    ///
    /// # Panics
    /// When the connection is cut before.
    #[must_use]
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<Value>, u16) {
        let mut events = Vec::new();
        loop {
            match self.message() {
                Message::Event(event) => events.push(event),
                Message::Close(code) => return (events, code),
            }
        }
    }

    /// The connection below it.
    #[must_use]
    pub fn into_client(self) -> Client {
        self.0
    }
}
