//! The task that speaks HTTP with an origin, and how it lets go of it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, task::AbortHandle};
use tokio_util::task::TaskTracker;

use crate::{meter::Metered, net::Link};

/// A connection that speaks HTTP.
pub(crate) type Speaking = http1::Connection<TokioIo<Metered<Link>>, Incoming>;

/// The task that speaks with an origin; it ends with this value.
#[derive(Debug)]
pub(crate) struct Origin {
    task: AbortHandle,
    leave: Option<oneshot::Sender<()>>,
    left: oneshot::Receiver<Left>,
}

/// What there is when it let go.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) link: Metered<Link>,
    /// Read from the link and not yet part of the body that hyper gave.
    pub(crate) begun: Bytes,
}

impl Origin {
    pub(crate) fn speak(mut connection: Speaking, tasks: &TaskTracker) -> Self {
        let (leave, asked) = oneshot::channel();
        let (give, left) = oneshot::channel();
        let speak = async move {
            tokio::select! {
                Ok(()) = asked => {
                    let parts = connection.into_parts();
                    // Whoever asked may have gone meanwhile.
                    let _gone = give.send(Left {
                        link: parts.io.into_inner(),
                        begun: parts.read_buf,
                    });
                }
                ended = &mut connection => if let Err(error) = ended {
                    tracing::debug!(%error, "an origin's connection broke");
                },
            }
        };
        Self {
            task: tasks.spawn(speak).abort_handle(),
            leave: Some(leave),
            left,
        }
    }

    /// Tells it to let go. What hyper has read of the body by then still comes
    /// out of it, and then an error, because it is not whole.
    pub(crate) fn leave(&mut self) {
        if let Some(leave) = self.leave.take() {
            // It has ended by itself.
            let _ended = leave.send(());
        }
    }

    /// Once it has let go: the connection, or none if it ended instead.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Option<Left>> {
        if self.leave.is_some() {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(self.left.poll_unpin(cx)).ok())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}
