//! The body of an answer, and what is held until all of it is on its way.
//!
//! hyper lets go of a body when it has taken its last piece, however much of that
//! still waits for the client. So a large answer is handed over in small pieces: who
//! reads slowly, or not at all, holds what the answer takes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// As much again may wait with hyper.
const PIECE_BYTES: usize = 32 << 10;

/// A body that holds something.
#[derive(Debug)]
pub(crate) struct Answering<T> {
    body: Body,
    /// Of a piece that was too large.
    rest: Bytes,
    _held: T,
}

impl<T> Answering<T> {
    /// `held` is dropped with the body.
    pub(crate) fn new(body: Body, held: T) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            _held: held,
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(PIECE_BYTES);
        Frame::data(self.rest.split_to(bytes))
    }
}

impl<T: Unpin> HttpBody for Answering<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                self.piece()
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_large_body_comes_in_pieces_and_is_held_to_the_last() {
        let (held, is_held) = (std::sync::Arc::new(()), std::sync::Weak::upgrade);
        let weak = std::sync::Arc::downgrade(&held);
        let bytes = PIECE_BYTES * 2 + 1;
        let mut answer = Answering::new(Body::from(vec![7; bytes]), held);
        let mut left = bytes;
        for expected in [PIECE_BYTES, PIECE_BYTES, 1] {
            assert_eq!(answer.size_hint().exact(), Some(left as u64));
            assert!(!answer.is_end_stream() && is_held(&weak).is_some());
            let frame = answer.frame().await.expect("there is more");
            let data = frame.expect("it does not fail").into_data().expect("data");
            assert_eq!(data.len(), expected);
            left -= expected;
        }
        assert!(answer.is_end_stream() && answer.frame().await.is_none());
        drop(answer);
        assert!(is_held(&weak).is_none());
    }
}
