//! Frames in both directions: a 32-bit little-endian length and one message.
//!
//! Both buffers are bounded. Output of programs is read straight into the
//! buffer that is written to the daemon, behind a header made by hand.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use isol8_proto::init::{FromInit, ToInit, from_init, to_init};
use prost::Message as _;

/// The longest frame that we take and send.
const MAX_FRAME_BYTES: usize = 1 << 20;

/// The most that one frame of output carries.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Frames for the daemon that it has not taken yet. When full of output, no
/// more output is read from programs; the last part is for answers alone.
const OUTBOX_BYTES: usize = (1 << 20) + ANSWER_BYTES;
const ANSWER_BYTES: usize = 64 << 10;

/// Length, field tag, and the payload's length as a varint of three bytes.
const HEADER_BYTES: usize = 8;

/// Why the stream to the daemon cannot go on. There is nobody to tell: init
/// ends, and with it the sandbox, unless it is to last.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// The daemon closed it.
    Closed,
    Io(io::Error),
    /// The daemon sent what is no message.
    Malformed,
    /// The daemon takes no answers, or sends more than it may.
    Overrun,
    /// No daemon came back.
    Orphaned,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the daemon closed the stream"),
            Self::Io(error) => write!(f, "the stream to the daemon broke: {error}"),
            Self::Malformed => f.write_str("the daemon sent what is no message"),
            Self::Overrun => f.write_str("the daemon does not keep to the credit"),
            Self::Orphaned => f.write_str("no daemon came back"),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Frames from the daemon.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Room for what is usual; a longer frame grows the buffer once.
    const USUAL_BYTES: usize = 64 << 10;

    /// Reads once. False: nothing there now.
    pub(crate) fn fill(&mut self, mut stream: &UnixStream) -> Result<bool, LinkError> {
        self.make_room()?;
        match stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn make_room(&mut self) -> Result<(), LinkError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = match self.frame_length()? {
            Some(length) => (4 + length).max(Self::USUAL_BYTES),
            None => Self::USUAL_BYTES,
        };
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        Ok(())
    }

    /// The length of the next frame, once its head is here.
    fn frame_length(&self) -> Result<Option<usize>, LinkError> {
        let Some(head) = self.buffer[self.start..self.end].first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(LinkError::Malformed);
        }
        Ok(Some(length))
    }

    /// The next command that is here whole.
    pub(crate) fn take(&mut self) -> Result<Option<to_init::Message>, LinkError> {
        while let Some(length) = self.frame_length()? {
            let body = self.start + 4;
            if self.end < body + length {
                return Ok(None);
            }
            self.start = body + length;
            let frame = &self.buffer[body..self.start];
            let message = ToInit::decode(frame)
                .map_err(|_| LinkError::Malformed)?
                .message;
            // What a newer daemon knows and we do not is passed over.
            if message.is_some() {
                return Ok(message);
            }
        }
        Ok(None)
    }
}

/// What bytes for the daemon are of: an output stream of a program, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
    Data,
}

impl Stream {
    /// The tag of `FromInit.stdout`, `.stderr` and `.entry_data`: fields 4, 5 and
    /// 11, of bytes.
    const fn tag(self) -> u8 {
        match self {
            Self::Stdout => (4 << 3) | 2,
            Self::Stderr => (5 << 3) | 2,
            Self::Data => (11 << 3) | 2,
        }
    }
}

/// Frames to the daemon.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Fresh pages of the kernel until used.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; OUTBOX_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Forgets what the daemon has not taken.
    pub(crate) const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether a whole chunk of output fits.
    pub(crate) const fn has_room(&self) -> bool {
        self.end + HEADER_BYTES + CHUNK_BYTES <= OUTBOX_BYTES - ANSWER_BYTES
    }

    /// Adds an answer.
    ///
    /// # Errors
    /// [`LinkError::Overrun`] when the daemon has left too many lying.
    pub(crate) fn push(&mut self, message: from_init::Message) -> Result<(), LinkError> {
        let message = FromInit {
            message: Some(message),
        };
        let length = message.encoded_len();
        let end = self.end + 4 + length;
        let Some(mut room) = self.buffer.get_mut(self.end..end) else {
            return Err(LinkError::Overrun);
        };
        let head = u32::try_from(length).map_err(|_| LinkError::Overrun)?;
        room[..4].copy_from_slice(&head.to_le_bytes());
        room = &mut room[4..];
        message.encode(&mut room).map_err(|_| LinkError::Overrun)?;
        self.end = end;
        Ok(())
    }

    /// Reads once from a program or file, at most `most` bytes and [`CHUNK_BYTES`], into
    /// a frame. The caller has asked [`Outbox::has_room`].
    ///
    /// # Errors
    /// As read gives them, `WouldBlock` among them. Nothing is added then, nor
    /// at the end (0).
    pub(crate) fn read_output(
        &mut self,
        stream: Stream,
        mut pipe: &File,
        most: usize,
    ) -> io::Result<usize> {
        let body = self.end + HEADER_BYTES;
        let most = most.min(CHUNK_BYTES);
        let count = pipe.read(&mut self.buffer[body..body + most])?;
        if count > 0 {
            let header = output_header(stream, count);
            self.buffer[self.end..body].copy_from_slice(&header);
            self.end = body + count;
        }
        Ok(count)
    }

    /// Writes as much as the stream takes now.
    pub(crate) fn flush(&mut self, mut stream: &UnixStream) -> Result<(), LinkError> {
        while !self.is_empty() {
            match stream.write(&self.buffer[self.start..self.end]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.start += count,
                Err(error) if is_temporary(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.start = 0;
        self.end = 0;
        Ok(())
    }
}

/// `FromInit` with one bytes field is its tag, the length and the bytes. The
/// varint is padded to three bytes, which decoders accept, so that its place is
/// known before the read.
fn output_header(stream: Stream, count: usize) -> [u8; HEADER_BYTES] {
    let count = u32::try_from(count).expect("a chunk is far below 2 MiB");
    let [a, b, c, d] = (count + 4).to_le_bytes();
    let seven_bits = |shift: u32| u8::try_from((count >> shift) & 0x7f).expect("seven bits");
    [
        a,
        b,
        c,
        d,
        stream.tag(),
        seven_bits(0) | 0x80,
        seven_bits(7) | 0x80,
        seven_bits(14),
    ]
}

/// Nothing there now, or a signal came in between: poll again.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_by_hand_is_what_the_decoder_reads() {
        for count in [1, 127, 128, 16_383, 16_384, CHUNK_BYTES] {
            for stream in [Stream::Stdout, Stream::Stderr, Stream::Data] {
                let header = output_header(stream, count);
                let mut frame = header.to_vec();
                frame.resize(HEADER_BYTES + count, b'x');
                let (head, body) = frame.split_first_chunk::<4>().expect("a head");
                assert_eq!(u32::from_le_bytes(*head) as usize, body.len());
                let payload = vec![b'x'; count].into();
                let expected = match stream {
                    Stream::Stdout => from_init::Message::Stdout(payload),
                    Stream::Stderr => from_init::Message::Stderr(payload),
                    Stream::Data => from_init::Message::EntryData(payload),
                };
                let decoded = FromInit::decode(body).expect("a message");
                assert_eq!(decoded.message, Some(expected));
            }
        }
    }

    #[test]
    fn a_frame_over_the_limit_ends_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs
            .write_all(&(1_u32 << 20 | 1).to_le_bytes())
            .expect("sent");
        let mut inbox = Inbox::default();
        assert!(inbox.fill(&ours).expect("read"));
        assert!(matches!(inbox.take(), Err(LinkError::Malformed)));
    }

    #[test]
    fn answers_that_nobody_takes_end_the_stream() {
        let mut outbox = Outbox::new();
        let answer = || from_init::Message::Ready(isol8_proto::init::Ready { parked: true });
        let refused = (0..OUTBOX_BYTES).find(|_| outbox.push(answer()).is_err());
        assert!(refused.is_some());
    }
}
