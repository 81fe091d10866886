//! A client's connection with the guard in front of hyper.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::{
    head::{Event, Fault, HeadGuard},
    lane::Lane,
    limits::Limits,
};

/// Room for what was read and not yet checked.
const READ_BYTES: usize = 32 << 10;

/// What the running timer would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    FirstHead,
    NextHead,
    RestOfHead,
    Body,
}

/// Reads only what the guard passed; writes through.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    guard: HeadGuard,
    /// Read from the stream, not yet checked.
    raw: BytesMut,
    /// Checked, not yet read by hyper.
    passed: Vec<u8>,
    taken: usize,
    lane: Arc<Lane>,
    limits: Arc<Limits>,
    waiting: Waiting,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    pub(crate) fn new(stream: S, lane: Arc<Lane>, limits: Arc<Limits>) -> Self {
        Self {
            stream,
            guard: HeadGuard::new(),
            raw: BytesMut::new(),
            passed: Vec::new(),
            taken: 0,
            lane,
            waiting: Waiting::FirstHead,
            timer: Box::pin(sleep(limits.head)),
            limits,
        }
    }

    /// The stream, and what was read from it but not yet checked: behind a
    /// CONNECT that is the beginning of the tunnel.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.raw)
    }

    /// The stream itself, to write to.
    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Begins anew for another hyper, which is given first what the one before
    /// had taken and not used.
    pub(crate) fn resume(&mut self, unused: &[u8]) {
        self.passed.splice(..self.taken, unused.iter().copied());
        self.taken = 0;
        self.wait_for(self.waiting);
    }

    /// Checks what was read. Ready when there is something for hyper.
    fn check(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        while !self.raw.is_empty() {
            if self.guard.is_at_head() {
                ready!(self.lane.poll_vacant(cx));
            }
            let was_idle = self.guard.is_idle();
            let fed = self.guard.feed(&self.raw, &mut self.passed);
            self.raw.advance(fed.consumed);
            match fed.event {
                Some(Event::Head(head)) => self.lane.put(Ok(head)),
                Some(Event::Refused(refused)) => self.lane.put(Err(refused)),
                Some(Event::BrokenBody(fault)) => return Poll::Ready(Err(self.broken(fault))),
                None => {}
            }
            self.note(was_idle);
            if !self.passed.is_empty() || self.guard.is_done() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Starts the timer that fits what is waited for now. The time of a head
    /// runs from its first byte, whatever trickles in.
    fn note(&mut self, was_idle: bool) {
        let waiting = if self.guard.is_idle() {
            Waiting::NextHead
        } else if self.guard.is_at_head() {
            Waiting::RestOfHead
        } else {
            Waiting::Body
        };
        if waiting != Waiting::RestOfHead || was_idle || self.waiting != Waiting::RestOfHead {
            self.wait_for(waiting);
        }
    }

    fn wait_for(&mut self, waiting: Waiting) {
        let time = match waiting {
            Waiting::FirstHead | Waiting::RestOfHead => self.limits.head,
            Waiting::NextHead => self.limits.idle,
            Waiting::Body => self.limits.stall,
        };
        self.waiting = waiting;
        self.timer.as_mut().reset(Instant::now() + time);
    }

    fn broken(&self, fault: Fault) -> io::Error {
        let error = io::Error::new(io::ErrorKind::InvalidData, fault.to_string());
        self.lane.break_body(fault);
        error
    }

    /// The stream ended; true when hyper should see the end.
    fn ended(&mut self, fault: Fault) -> bool {
        if self.guard.is_idle() || !self.guard.is_at_head() {
            return true;
        }
        let refused = self.guard.refuse(fault, &mut self.passed);
        self.lane.put(Err(refused));
        false
    }

    /// The timer rang; ready when hyper should see the end or an error.
    fn rang(&mut self) -> Poll<io::Result<()>> {
        match self.waiting {
            Waiting::NextHead if self.lane.is_busy() => self.wait_for(Waiting::NextHead),
            Waiting::FirstHead | Waiting::NextHead => return Poll::Ready(Ok(())),
            Waiting::RestOfHead => {
                self.ended(Fault::TooSlow);
            }
            Waiting::Body => return Poll::Ready(Err(self.broken(Fault::TooSlow))),
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.taken < this.passed.len() {
                let rest = &this.passed[this.taken..];
                let count = rest.len().min(out.remaining());
                out.put_slice(&rest[..count]);
                this.taken += count;
                if this.taken == this.passed.len() {
                    this.passed.clear();
                    this.taken = 0;
                }
                return Poll::Ready(Ok(()));
            }
            // Not the end: hyper would take it for a client that left.
            if this.guard.is_done() {
                return Poll::Pending;
            }
            ready!(this.check(cx))?;
            if !this.passed.is_empty() || this.guard.is_done() {
                continue;
            }
            this.raw.reserve(READ_BYTES);
            match tokio_util::io::poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.raw)? {
                Poll::Ready(0) => {
                    // A head whose predecessor is not even begun must wait.
                    ready!(this.lane.poll_vacant(cx));
                    if this.ended(Fault::Incomplete) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => this.lane.touch(),
                Poll::Pending => {
                    ready!(this.timer.as_mut().poll(cx));
                    if let Poll::Ready(result) = this.rang() {
                        return Poll::Ready(result);
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.lane.touch();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        // hyper asks for it when its own buffers are empty.
        this.lane.note_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, pieces))?;
        this.lane.touch();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
