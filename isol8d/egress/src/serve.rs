//! Accepts a sandbox's connections.

use std::{io, sync::Arc, time::Duration};

use isol8_core::egress::record::Record;
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{drive, linger},
    exchange::Exchange,
    gate::Gate,
    net::Net,
    session::{Log, Session},
};

/// How long nothing is accepted when the process or the machine has no file or
/// memory left: connections wait in the backlog until some were closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// How long after any other failure, such as a connection that was aborted
/// before we took it. Short, but never a busy loop.
const FAILED_PAUSE: Duration = Duration::from_millis(5);

/// How many connections over the limit are told so at a time. Further ones are
/// closed without a word.
const TURNED_AWAY: usize = 32;

/// Serves the connections of one listener until `stop`. Every request of every
/// connection goes to `log` exactly once; `log` must not block.
///
/// # Cancellation
/// Cancel `stop` and await: connections are then ended and waited for. A future
/// that is dropped instead leaves its connections to the next
/// [`Gate::close`].
pub async fn serve<L>(
    listener: TcpListener,
    gate: Arc<Gate>,
    net: Arc<Net>,
    log: L,
    stop: CancellationToken,
) where
    L: Fn(Record) + Send + Sync + 'static,
{
    let log: Log = Arc::new(log);
    let doormen = Arc::new(tokio::sync::Semaphore::new(TURNED_AWAY));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => gate.enter(|session| {
                let (Some(seat), Some(place)) = (seat(session), place(&net)) else {
                    turn_away(
                        stream,
                        session,
                        &log,
                        doormen.clone().try_acquire_owned().ok(),
                    );
                    return;
                };
                let drive = drive(
                    stream,
                    Arc::clone(session),
                    Arc::clone(&net),
                    Arc::clone(&log),
                    stop.clone(),
                );
                session.tasks.spawn(async move {
                    drive.await;
                    drop((seat, place));
                });
            }),
            Err(error) => {
                let pause = if is_exhausted(&error) {
                    EXHAUSTED_PAUSE
                } else {
                    FAILED_PAUSE
                };
                tracing::warn!(%error, "a connection was not accepted");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(pause) => {}
                }
            }
        }
    }
    drop(listener);
    let (tasks, limit) = gate.enter(|session| (session.tasks.clone(), session.limits.close));
    if timeout(limit, tasks.wait()).await.is_err() {
        tracing::error!(left = tasks.len(), "connections did not end in time");
    }
}

fn seat(session: &Session) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&session.connections).try_acquire_owned().ok()
}

fn place(net: &Net) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&net.connections).try_acquire_owned().ok()
}

/// One connection too many: told so if there is somebody to do it.
fn turn_away(
    stream: TcpStream,
    session: &Arc<Session>,
    log: &Log,
    doorman: Option<OwnedSemaphorePermit>,
) {
    const ANSWER: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\n\
        content-type: text/plain; charset=utf-8\r\ncontent-length: 28\r\n\r\n\
        isol8: too many connections\n";
    Exchange::turned_away(session, log, "too many connections");
    let Some(doorman) = doorman else { return };
    let ended = session.ended.clone();
    session.tasks.spawn(async move {
        let tell = async {
            if stream.writable().await.is_ok() && stream.try_write(ANSWER).is_ok() {
                linger(stream).await;
            }
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = tell => {}
        }
        drop(doorman);
    });
}

fn is_exhausted(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(
        error,
        Some(Errno::NOMEM | Errno::NFILE | Errno::MFILE | Errno::NOBUFS)
    )
}
