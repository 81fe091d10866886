//! The accept loop and the life of one connection.
//!
//! `axum::serve` would arm no timer at all: one client that never finishes its
//! request head would hold a connection for ever.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::IntoResponse as _};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tower::{ServiceExt as _, service_fn};

use crate::{
    gateway::Shared,
    meter::Meter,
    patient::Patient,
    refusal::Refusal,
    seats::{Seat, Seats},
};

/// Out of descriptors, most likely: closing ones will mend it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections past the limit that are told so are a quarter of it.
const TOLD_SHARE: usize = 4;

/// Takes connections until the gateway is told to stop, and waits for them.
pub(crate) async fn serve(listener: TcpListener, router: Router, shared: Arc<Shared>) {
    let most = shared.bounds.connections.max(1);
    let seats = Seats::new(most);
    let told = Arc::new(Semaphore::new(most.div_ceil(TOLD_SHARE)));
    let connections = TaskTracker::new();
    loop {
        // Before the accept: who can not even be told waits in the kernel's queue.
        let place = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            place = Arc::clone(&told).acquire_owned() => place,
        };
        let Ok(place) = place else {
            break;
        };
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                if let Some(seat) = seats.take() {
                    connections.spawn(connection(stream, router.clone(), shared, seat));
                    continue;
                }
                // A gateway of one seat, where everybody is told the same.
                let seat = Seats::new(1).take().expect("nobody has it");
                connections.spawn(async move {
                    connection(stream, refusing(), shared, seat).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Nobody comes in any more, also while the last ones end.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// A link that was cut says nothing. By itself TCP finds that out after a quarter of
/// an hour, and in a quiet connection never: here after `patience`, or a little more.
fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    // An answer of several small writes must not wait for acknowledgements.
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, millis(patience))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, patience / 2)?;
    sockopt::set_tcp_keepintvl(stream, (patience / 6).max(Duration::from_secs(1)))?;
    Ok(())
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Tells everybody to come again, whatever is asked for.
fn refusing() -> Router {
    Router::new().fallback(|| async {
        let mut response = Refusal::busy("too many connections").into_response();
        let close = axum::http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, close);
        response
    })
}

async fn connection(stream: TcpStream, router: Router, shared: Arc<Shared>, seat: Arc<Seat>) {
    let _open = shared.metrics.connection();
    let bounds = &shared.bounds;
    let _best_effort = tune(&stream, bounds.write_idle);
    let asked = Arc::clone(&seat);
    let meter = Meter::default();
    let counted = meter.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(counted.clone());
        let busy = asked.enter();
        let answer = router.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await?.map(|body| busy.until_end_of(body))) }
    });
    let io = TokioIo::new(Patient::new(stream, bounds.write_idle, meter));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(bounds.header_bytes)
        .serve_connection(io, TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = seat.lost() => return,
        () = shared.stop.cancelled() => {
            // What is being answered ends by itself: runs hear of the stop too.
            served.as_mut().graceful_shutdown();
            match timeout(bounds.grace, served.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // A client that went, was too slow, or spoke no HTTP.
        tracing::debug!(%error, "a connection ended");
    }
    drop(seat);
}
