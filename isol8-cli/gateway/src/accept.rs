//! The accept loop and the life of one connection.
//!
//! `axum::serve` would arm no timer at all: one client that never finishes its
//! request head would hold a connection for ever.

use std::{sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse as _};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{gateway::Shared, patient::Patient, refusal::Refusal};

/// Out of descriptors, most likely: closing ones will mend it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections past the limit that are told so are a quarter of it.
const TOLD_SHARE: usize = 4;

/// Takes connections until the gateway is told to stop, and waits for them.
pub(crate) async fn serve(listener: TcpListener, router: Router, shared: Arc<Shared>) {
    let most = shared.bounds.connections.max(1);
    let served = Arc::new(Semaphore::new(most));
    let told = Arc::new(Semaphore::new(most.div_ceil(TOLD_SHARE)));
    let refusing = Router::new().fallback(|| async {
        let mut response = Refusal::busy("too many connections").into_response();
        let close = axum::http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, close);
        response
    });
    let connections = TaskTracker::new();
    loop {
        // Before the accept: who finds no place waits in the kernel's queue.
        let place = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            place = Arc::clone(&served).acquire_owned() => place.map(|place| (place, &router)),
            place = Arc::clone(&told).acquire_owned() => place.map(|place| (place, &refusing)),
        };
        let Ok((mut place, mut router_of)) = place else {
            break;
        };
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // It may have become free while nobody came.
                if std::ptr::eq(router_of, &raw const refusing)
                    && let Ok(free) = Arc::clone(&served).try_acquire_owned()
                {
                    (place, router_of) = (free, &router);
                }
                let router = router_of.clone();
                let connection = connection(stream, router, Arc::clone(&shared), place);
                connections.spawn(connection);
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

async fn connection(
    stream: TcpStream,
    router: Router,
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
) {
    let _open = shared.metrics.connection();
    // An answer of several small writes must not wait for acknowledgements.
    let _best_effort = stream.set_nodelay(true);
    let bounds = &shared.bounds;
    let io = TokioIo::new(Patient::new(stream, bounds.write_idle));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(bounds.header_bytes)
        .serve_connection(io, TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
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
    drop(place);
}
