//! What passes between the proxy and origins is counted, and comes to an end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::session::Session;

/// Bytes of one request between the proxy and its origin.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// Counts for one request and for its run.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub(crate) tally: Arc<Tally>,
    pub(crate) session: Arc<Session>,
}

impl Meter {
    /// Counts what has passed; an error when the run has used up its bytes.
    pub(crate) fn spend(&self, bytes_in: usize, bytes_out: usize) -> io::Result<()> {
        let (bytes_in, bytes_out) = (bytes_in as u64, bytes_out as u64);
        self.tally.bytes_in.fetch_add(bytes_in, Relaxed);
        self.tally.bytes_out.fetch_add(bytes_out, Relaxed);
        self.session
            .spend(bytes_in, bytes_out)
            .map_err(io::Error::other)
    }

    /// How much of `most` may pass at a time: no more than the run has left,
    /// and one byte over it, by which the end is noticed.
    pub(crate) fn room(&self, most: usize) -> usize {
        let left = self.session.bytes_left().saturating_add(1);
        usize::try_from(left).map_or(most, |left| left.min(most))
    }

    pub(crate) fn on<S>(&self, stream: S) -> Metered<S> {
        Metered {
            stream,
            meter: self.clone(),
        }
    }
}

/// A stream to an origin whose bytes are counted and limited.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    pub(crate) stream: S,
    pub(crate) meter: Meter,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
        Poll::Ready(this.meter.spend(out.filled().len() - before, 0))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        Poll::Ready(this.meter.spend(0, count).map(|()| count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
