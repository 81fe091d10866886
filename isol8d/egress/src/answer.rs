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
use tokio::task::AbortHandle;

use crate::{exchange::Exchange, lane::Lane};

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
}

/// An origin's body on its way to the program.
#[derive(Debug)]
struct Relay {
    body: Incoming,
    exchange: Exchange,
    is_over: bool,
    _task: Task,
}

/// The task that speaks with an origin; it ends with this value.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
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

    /// An origin's body; the request is over when it is.
    pub(crate) fn relay(lane: &Arc<Lane>, body: Incoming, exchange: Exchange, task: Task) -> Self {
        let is_over = body.is_end_stream();
        let relay = Relay {
            body,
            exchange,
            is_over,
            _task: task,
        };
        Self {
            kind: Kind::Relay(Box::new(relay)),
            lane: Arc::clone(lane),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relay = match &mut self.kind {
            Kind::Line(line) => return Poll::Ready(line.take().map(|line| Ok(Frame::data(line)))),
            Kind::Relay(relay) => relay,
        };
        loop {
            let frame = ready!(Pin::new(&mut relay.body).poll_frame(cx));
            relay.is_over = frame.is_none() || relay.body.is_end_stream();
            match frame {
                // Trailers are between an origin and whoever asked for them.
                Some(Ok(frame)) if !frame.is_data() => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Line(line) => line.is_none(),
            Kind::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Line(line) => SizeHint::with_exact(line.as_ref().map_or(0, |l| l.len() as u64)),
            Kind::Relay(relay) => relay.body.size_hint(),
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
