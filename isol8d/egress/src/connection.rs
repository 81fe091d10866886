//! One connection of a program, from accept to close.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::FutureExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    exchange::Exchange,
    guarded::Guarded,
    lane::Lane,
    net::Net,
    rest::Rest,
    service::{MAX_HYPER_BUFFER_BYTES, Service},
    session::{Log, Session},
};

/// How long a connection that we ended is read from, so that the kernel does
/// not answer late bytes with a reset that destroys the last answer unread.
const LINGER: Duration = Duration::from_secs(1);

/// How much is read from it.
const MAX_LINGER_BYTES: u64 = 1 << 20;

/// Serves one connection until it ends, the run ends, or `stop`.
pub(crate) async fn drive(
    stream: TcpStream,
    session: Arc<Session>,
    net: Arc<Net>,
    log: Log,
    stop: CancellationToken,
) {
    // Small answers must not wait for one another; a socket that cannot be
    // told is only slower.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let lane = Arc::new(Lane::new());
    let service = Service {
        session: Arc::clone(&session),
        net,
        log: Arc::clone(&log),
        lane: Arc::clone(&lane),
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = told_to_end(&session, &lane) => {}
        () = stalled(&lane, session.limits.stall) => {}
        () = speak(stream, service) => {}
    }
    // Whatever was read whole and never served was a request all the same.
    match lane.take_unserved() {
        None => {}
        Some(Err(refused)) => drop(Exchange::refused(&session, &log, &refused)),
        Some(Ok(head)) => {
            let mut exchange = Exchange::begin(&session, &log, &head, lane.revoked());
            exchange.block("the connection ended before it");
        }
    }
}

async fn speak(stream: TcpStream, service: Service) {
    let lane = Arc::clone(&service.lane);
    let limits = Arc::clone(&service.session.limits);
    let mut guarded = Guarded::new(stream, Arc::clone(&lane), Arc::clone(&limits));
    while let Some(rest) = converse(&mut guarded, &service).await {
        lane.head_for(rest.onward.heading.clone());
        let goes_on = rest.run(guarded.stream(), &limits).await;
        lane.finish();
        if !goes_on {
            break;
        }
    }
    let (mut stream, mut begun) = guarded.into_parts();
    if let Some(mut tunnel) = lane.take_tunnel() {
        lane.head_for(tunnel.heading.clone());
        tunnel.run(&mut stream, &mut begun, &limits).await;
    }
    linger(stream).await;
}

/// Answers requests to the end of the connection, to a tunnel, or to the rest
/// of a body that does not need HTTP.
async fn converse<S>(guarded: &mut Guarded<S>, service: &Service) -> Option<Box<Rest>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lane = &service.lane;
    let answer = service_fn(|request| Box::pin(service.clone().answer(request)));
    let mut connection = http1::Builder::new()
        .max_buf_size(MAX_HYPER_BUFFER_BYTES)
        .serve_connection(TokioIo::new(&mut *guarded), answer);
    // By reference, so that it can be taken apart. Ready means that everything
    // was flushed and shut down, or that a tunnel begins.
    let spoken = poll_fn(|cx| match connection.poll_unpin(cx) {
        Poll::Pending if lane.is_rest_due() => Poll::Ready(Ok(())),
        spoken => spoken,
    });
    if let Err(error) = spoken.await {
        tracing::debug!(%error, "a connection of a program broke");
    }
    let unused = connection.into_parts().read_buf;
    let rest = lane.take_rest();
    if rest.is_some() {
        guarded.resume(&unused);
    }
    rest
}

/// Ends our direction and reads what is still coming, within bounds.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(MAX_LINGER_BYTES);
    let mut sink = tokio::io::sink();
    let drain = tokio::io::copy(&mut rest, &mut sink);
    if let Ok(Err(error)) = timeout(LINGER, drain).await {
        tracing::debug!(%error, "a connection broke at its end");
    }
}

/// Ready when the run is over, or when new rules refuse what is under way.
async fn told_to_end(session: &Session, lane: &Lane) {
    let mut rules = session.rules.subscribe();
    loop {
        let goes_on = match (&*rules.borrow_and_update(), lane.heading()) {
            (Some(rules), Some(heading)) => heading.fits(rules),
            _ => true,
        };
        if !goes_on {
            lane.revoked().set();
            return;
        }
        tokio::select! {
            () = session.ended.cancelled() => return,
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

/// Ready when a request is under way and no byte passed on the program's side
/// for so long. A tunnel has a clock of its own.
async fn stalled(lane: &Lane, limit: Duration) {
    loop {
        let last = lane.active();
        if lane.is_busy() && last.elapsed() >= limit {
            return;
        }
        let since = if last.elapsed() < limit {
            last
        } else {
            tokio::time::Instant::now()
        };
        sleep_until(since + limit).await;
    }
}

#[cfg(test)]
mod tests;
