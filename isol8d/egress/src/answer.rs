//! What the program gets back: a line of ours, or an origin's body.

use std::{
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::{
    exchange::Exchange,
    lane::Lane,
    meter::Metered,
    origin::{Left, Origin},
    rest::{LEAST_BYTES, Onward, Rest},
};

/// The body of an answer. While it lives the connection is busy.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: Kind,
    lane: Arc<Lane>,
}

#[derive(Debug)]
enum Kind {
    Line(Option<Bytes>),
    Relay(Box<Relay>),
    /// The rest of the body is in the lane.
    Elsewhere,
}

/// An origin's body on its way to the program.
#[derive(Debug)]
struct Relay {
    body: Incoming,
    exchange: Exchange,
    is_over: bool,
    origin: Origin,
    /// How the body goes on without hyper, if it is to.
    onward: Option<Onward>,
    /// What hyper's body ended with before it was whole.
    ended: Option<Option<Result<Frame<Bytes>, hyper::Error>>>,
    /// The origin let go of this, and so many bytes are still to come.
    link: Option<(Metered<TcpStream>, u64)>,
}

/// What comes next of a body.
enum Next {
    Frame(Option<Result<Frame<Bytes>, hyper::Error>>),
    /// So many bytes, from this connection.
    Rest(Metered<TcpStream>, u64),
}

impl Answer {
    /// Nothing.
    pub(crate) fn empty(lane: &Arc<Lane>) -> Self {
        Self {
            kind: Kind::Line(None),
            lane: Arc::clone(lane),
        }
    }

    /// One line, and then the connection ends if `closes`.
    pub(crate) fn line(
        lane: &Arc<Lane>,
        status: StatusCode,
        text: impl Display,
        closes: bool,
    ) -> Response<Self> {
        let line = Bytes::from(format!("isol8: {text}\n"));
        let kind = Kind::Line(Some(line));
        let mut response = Response::new(Self {
            kind,
            lane: Arc::clone(lane),
        });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        if closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// An origin's body; the request is over when it is. A long one goes
    /// `onward` without hyper.
    pub(crate) fn relay(
        lane: &Arc<Lane>,
        body: Incoming,
        exchange: Exchange,
        mut origin: Origin,
        onward: Option<Onward>,
    ) -> Self {
        let is_long = body.size_hint().exact().is_some_and(|n| n >= LEAST_BYTES);
        let onward = onward.filter(|_| is_long);
        if onward.is_some() {
            origin.leave();
        }
        let is_over = body.is_end_stream();
        let relay = Relay {
            body,
            exchange,
            is_over,
            origin,
            onward,
            ended: None,
            link: None,
        };
        Self {
            kind: Kind::Relay(Box::new(relay)),
            lane: Arc::clone(lane),
        }
    }

    /// Puts the rest of the body into the lane.
    fn leave(&mut self, link: Metered<TcpStream>, bytes: u64) {
        let kind = std::mem::replace(&mut self.kind, Kind::Elsewhere);
        let Kind::Relay(relay) = kind else { return };
        let Some(onward) = relay.onward else { return };
        self.lane.put_rest(Rest {
            exchange: relay.exchange,
            link,
            bytes,
            onward,
        });
    }
}

impl Relay {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some((link, bytes)) = self.link.take() {
            return Poll::Ready(Next::Rest(link, bytes));
        }
        while self.ended.is_none() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.is_over = frame.is_none() || self.body.is_end_stream();
            match frame {
                // Trailers are between an origin and whoever asked for them.
                Some(Ok(frame)) if !frame.is_data() => {}
                None | Some(Err(_)) if self.onward.is_some() && self.missing() > 0 => {
                    self.is_over = false;
                    self.ended = Some(frame);
                }
                frame => return Poll::Ready(Next::Frame(frame)),
            }
        }
        let left = ready!(self.origin.poll_left(cx));
        let Some(Left { link, mut begun }) = left else {
            // It broke.
            return Poll::Ready(Next::Frame(self.ended.take().flatten()));
        };
        let Either::Left(stream) = link.stream else {
            return Poll::Ready(Next::Frame(self.ended.take().flatten()));
        };
        let link = Metered {
            stream,
            meter: link.meter,
        };
        // What an origin says behind its answer is nobody's.
        begun.truncate(usize::try_from(self.missing()).unwrap_or(usize::MAX));
        let bytes = self.missing() - begun.len() as u64;
        self.is_over = bytes == 0;
        if begun.is_empty() {
            return Poll::Ready(Next::Rest(link, bytes));
        }
        if bytes > 0 {
            self.link = Some((link, bytes));
        }
        Poll::Ready(Next::Frame(Some(Ok(Frame::data(begun)))))
    }

    /// How much hyper's body lacks.
    fn missing(&self) -> u64 {
        self.body.size_hint().exact().unwrap_or(0)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let next = match &mut self.kind {
            Kind::Line(line) => return Poll::Ready(line.take().map(|line| Ok(Frame::data(line)))),
            Kind::Relay(relay) => ready!(relay.poll_next(cx)),
            Kind::Elsewhere => return Poll::Pending,
        };
        match next {
            Next::Frame(frame) => Poll::Ready(frame),
            Next::Rest(link, bytes) => {
                self.leave(link, bytes);
                // The connection takes hyper apart; nobody is to be woken.
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Line(line) => line.is_none(),
            Kind::Relay(relay) => relay.body.is_end_stream(),
            Kind::Elsewhere => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Line(line) => SizeHint::with_exact(line.as_ref().map_or(0, |l| l.len() as u64)),
            Kind::Relay(relay) => relay.body.size_hint(),
            Kind::Elsewhere => SizeHint::default(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Kind::Relay(relay) = &mut self.kind
            && relay.is_over
        {
            relay.exchange.finish();
        }
        self.lane.finish();
    }
}
