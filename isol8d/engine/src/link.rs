//! The daemon's end of the stream to an init: frames in both directions.
//!
//! A frame is a 32-bit little-endian length and one protobuf message. The two
//! halves are used by different tasks, so that a command overtakes output.

use std::{fmt, io, pin::Pin};

use bytes::{BufMut, Bytes, BytesMut};
use isol8_proto::init::{FromInit, ToInit, from_init, to_init};
use prost::Message;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame: init refuses a longer one, and so do we.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// What this daemon and its init must agree on.
pub const PROTOCOL: u32 = 1;

/// Room to read ahead: one full piece of output and the head of the next.
const READ_BUFFER_BYTES: usize = 260 << 10;

/// Why the stream cannot go on.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The other side closed it, or it broke.
    #[error("the stream to init broke")]
    Broken(#[source] io::Error),
    /// The other side closed it between two frames.
    #[error("init closed the stream")]
    Closed,
    /// A frame over the limit.
    #[error("init sent a frame of {0} bytes, over the limit")]
    TooLong(usize),
    /// Not a message.
    #[error("init sent something that is no message")]
    Malformed(#[source] prost::DecodeError),
}

/// Both halves of the stream.
#[derive(Debug)]
pub struct Link {
    /// From init.
    pub reader: LinkReader,
    /// To init.
    pub writer: LinkWriter,
}

impl Link {
    /// Wraps the two directions of one stream.
    pub fn new(
        read: impl AsyncRead + Send + 'static,
        write: impl AsyncWrite + Send + 'static,
    ) -> Self {
        Self {
            reader: LinkReader {
                stream: Box::pin(read),
                buffer: BytesMut::with_capacity(READ_BUFFER_BYTES),
            },
            writer: LinkWriter {
                stream: Box::pin(write),
                buffer: BytesMut::new(),
            },
        }
    }
}

/// Receives from init.
pub struct LinkReader {
    stream: Pin<Box<dyn AsyncRead + Send>>,
    buffer: BytesMut,
}

impl fmt::Debug for LinkReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkReader").finish_non_exhaustive()
    }
}

impl LinkReader {
    /// The next message.
    ///
    /// # Errors
    /// [`LinkError::Closed`] at a clean end.
    ///
    /// # Cancellation
    /// Cancel safe: what was read stays in the buffer.
    pub async fn recv(&mut self) -> Result<from_init::Message, LinkError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                let message = FromInit::decode(frame).map_err(LinkError::Malformed)?;
                // A newer init may say what we do not know: pass over it.
                if let Some(message) = message.message {
                    return Ok(message);
                }
                continue;
            }
            self.buffer.reserve(READ_BUFFER_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(LinkError::Closed),
                Ok(_) => {}
                Err(error) => return Err(LinkError::Broken(error)),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>, LinkError> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(LinkError::TooLong(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length);
        Ok(Some(frame.split_off(4).freeze()))
    }
}

/// Sends to init.
pub struct LinkWriter {
    stream: Pin<Box<dyn AsyncWrite + Send>>,
    buffer: BytesMut,
}

impl fmt::Debug for LinkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkWriter").finish_non_exhaustive()
    }
}

impl LinkWriter {
    /// Adds a message to the next [`LinkWriter::flush`].
    pub fn push(&mut self, message: to_init::Message) {
        let message = ToInit {
            message: Some(message),
        };
        let length = message.encoded_len();
        debug_assert!(length <= MAX_FRAME_BYTES, "a frame of {length} bytes");
        self.buffer.reserve(4 + length);
        self.buffer
            .put_u32_le(u32::try_from(length).expect("a frame is at most 1 MiB"));
        message
            .encode(&mut self.buffer)
            .expect("the room was reserved");
    }

    /// Sends what was pushed.
    ///
    /// # Errors
    /// [`LinkError::Broken`] when init is gone.
    ///
    /// # Cancellation
    /// Cancel safe: a frame is never sent twice or cut, the rest goes with the
    /// next flush.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.buffer.is_empty() {
            let written = self.stream.write_buf(&mut self.buffer).await;
            match written {
                Ok(0) => return Err(LinkError::Broken(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) => return Err(LinkError::Broken(error)),
            }
        }
        self.stream.flush().await.map_err(LinkError::Broken)
    }

    /// [`LinkWriter::push`] and [`LinkWriter::flush`].
    ///
    /// # Errors
    /// As [`LinkWriter::flush`].
    pub async fn send(&mut self, message: to_init::Message) -> Result<(), LinkError> {
        self.push(message);
        self.flush().await
    }
}
