//! A WebSocket, by hand.

use serde_json::Value;

use crate::{
    client::{Client, head},
    stage::{KEY, Stage},
};

/// Goes on with a message.
pub(crate) const MORE: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

pub(crate) struct Socket(pub(crate) Client);

impl Socket {
    pub(crate) fn open(stage: &Stage) -> Self {
        Self::open_as(stage, KEY, None)
    }

    /// With a subprotocol, which must be taken.
    pub(crate) fn open_as(stage: &Stage, key: &str, protocol: Option<&str>) -> Self {
        let mut client = stage.client();
        upgrade(&mut client, key, protocol);
        let (status, headers) = client.head().expect("a head");
        assert_eq!(status, 101);
        let mut headers = headers.iter();
        let taken = headers.find(|(name, _)| name == "sec-websocket-protocol");
        assert_eq!(taken.map(|(_, taken)| taken.as_str()), protocol);
        Self(client)
    }

    /// As [`Socket::open`], with the first message.
    pub(crate) fn start(stage: &Stage, code: &str, rest: &str) -> Self {
        let mut socket = Self::open(stage);
        let code = serde_json::to_string(code).expect("it is text");
        socket.send(&format!(
            r#"{{"type":"execute","request":{{"code":{code},"runtime":"python"{rest}}}}}"#
        ));
        socket
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    pub(crate) fn frame(&mut self, kind: u8, payload: &[u8]) {
        self.head_of(kind, payload.len());
        self.0.write(payload);
    }

    /// The head of a frame of this length. Control frames are short.
    pub(crate) fn head_of(&mut self, kind: u8, length: usize) {
        self.head_with(0x80 | kind, length);
    }

    /// As [`Socket::head_of`], of a message that goes on behind the frame.
    pub(crate) fn begin_of(&mut self, kind: u8, length: usize) {
        self.head_with(kind, length);
    }

    fn head_with(&mut self, first: u8, length: usize) {
        let mut head = vec![first];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..126), _) => head.push(0x80 | short),
            (_, Ok(length)) => {
                head.push(0x80 | 126);
                head.extend(length.to_be_bytes());
            }
            _ => {
                head.push(0x80 | 127);
                head.extend((length as u64).to_be_bytes());
            }
        }
        // A mask of zeros leaves the payload as it is.
        head.extend([0; 4]);
        self.0.write(&head);
    }

    /// The next frame: its kind and what is in it.
    pub(crate) fn frame_of_theirs(&mut self) -> (u8, Vec<u8>) {
        let head = self.0.read(2);
        assert_eq!(head.len(), 2, "the connection was cut");
        let length = match head[1] {
            126 => u16::from_be_bytes(self.0.read(2).try_into().expect("two")).into(),
            127 => {
                let length = u64::from_be_bytes(self.0.read(8).try_into().expect("eight"));
                usize::try_from(length).expect("it is in memory")
            }
            short => usize::from(short),
        };
        (head[0] & 0xf, self.0.read(length))
    }

    /// The next message that is no ping: its kind and what is in it.
    pub(crate) fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            match self.frame_of_theirs() {
                (PING | PONG, _) => {}
                message => return message,
            }
        }
    }

    pub(crate) fn event(&mut self) -> Value {
        let (kind, payload) = self.next();
        assert_eq!(kind, TEXT, "{payload:?}");
        serde_json::from_slice(&payload).expect("it is JSON")
    }

    /// The code of the gateway's goodbye.
    pub(crate) fn goodbye(&mut self) -> u16 {
        let (kind, payload) = self.next();
        assert_eq!(kind, CLOSE, "{payload:?}");
        // One that could not read on does not wait for ours.
        let _gone = self
            .0
            .try_write(&[0x80 | CLOSE, 0x82, 0, 0, 0, 0, payload[0], payload[1]]);
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

pub(crate) fn upgrade(client: &mut Client, key: &str, protocol: Option<&str>) {
    let key = format!("Bearer {key}");
    let mut headers = vec![
        ("Authorization", key.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    headers.extend(protocol.map(|protocol| ("Sec-WebSocket-Protocol", protocol)));
    client.write(head("GET", "/execute/ws", &headers, None).as_bytes());
}
