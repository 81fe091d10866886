//! A client's connection with the answer to "who is this?".

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use isol8_core::ids::Principal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::server::authority::Authority;

/// A byte stream and the host uid at its other end. The principal travels with
/// every request in its extensions.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    principal: Principal,
    authority: Authority,
}

impl<S> Connection<S> {
    /// `principal` must come from the kernel, never from the client.
    pub fn new(stream: S, principal: Principal) -> Self {
        Self {
            stream,
            principal,
            authority: Authority::default(),
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Principal;

    fn connect_info(&self) -> Principal {
        self.principal
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.authority.mend(&mut buffer.filled_mut()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
