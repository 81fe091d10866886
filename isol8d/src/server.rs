//! The gRPC server: services, limits, and its end.

use std::{io, sync::Arc, time::Duration};

use futures_util::Stream;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::Principal,
};
use isol8_proto::v1::{
    admin_service_server::AdminServiceServer, image_service_server::ImageServiceServer,
    run_service_server::RunServiceServer, session_service_server::SessionServiceServer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tonic::{Request, transport::Server};

use crate::{
    connection::Connection,
    daemon::{CLOSE_GRACE, Daemon},
};

mod admin;
pub(crate) mod authority;
mod image;
mod run;
mod session;

/// A program of 16 MiB with its environment and room to spare.
const MAX_RUN_MESSAGE_BYTES: usize = 20 << 20;

/// A piece of a file of 256 KiB, or an entry with its path, and room to spare.
const MAX_FILE_MESSAGE_BYTES: usize = 1 << 20;

/// Everything else is small.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Calls of one connection at the same time. Runs that wait are calls too.
const MAX_STREAMS: u32 = 1024;

/// What one call may send ahead of its run, and all calls of a connection: one
/// run that does not take its input must not stop the others.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// A client that is gone without a word is noticed after both together.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Serves the connections of `incoming` until the daemon is told to stop, and
/// ends it then: every run has had its terminal event and every sandbox is gone
/// when this returns.
///
/// # Errors
/// When the server itself fails.
pub async fn serve<S, I>(daemon: Arc<Daemon>, incoming: I) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    I: Stream<Item = Result<Connection<S>, io::Error>>,
{
    let internal = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(FailureKind::Internal, "the server failed").because(error)
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(isol8_proto::DESCRIPTORS)
    };
    let reflection_v1 = reflection().build_v1().map_err(|error| internal(&error))?;
    // Most tools still speak this one.
    let reflection_v1alpha = reflection()
        .build_v1alpha()
        .map_err(|error| internal(&error))?;
    daemon.start_chores(&reporter);
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(
            RunServiceServer::new(run::Runs(Arc::clone(&daemon)))
                .max_decoding_message_size(MAX_RUN_MESSAGE_BYTES),
        )
        .add_service(
            AdminServiceServer::new(admin::Admin(Arc::clone(&daemon)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            ImageServiceServer::new(image::Images(Arc::clone(&daemon)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            SessionServiceServer::new(session::Sessions(Arc::clone(&daemon)))
                .max_decoding_message_size(MAX_FILE_MESSAGE_BYTES),
        )
        .add_service(health)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .serve_with_incoming_shutdown(incoming, daemon.stopping().clone().cancelled_owned());
    let mut server = Box::pin(server);
    let mut over = false;
    let served = tokio::select! {
        served = &mut server => {
            over = true;
            served
        }
        () = daemon.stopping().cancelled() => Ok(()),
    };
    // Also when the listener failed by itself, the runs are ended in order.
    daemon.stopping().cancel();
    let drain = async {
        daemon.drain().await;
        if !over {
            // It waits for its connections, and idle clients keep theirs open.
            let _closed = timeout(CLOSE_GRACE, &mut server).await;
        }
    };
    drain.await;
    daemon.close().await;
    served.map_err(|error| internal(&error))
}

/// Who sent a request. Requests without an answer to that are refused.
fn principal<T>(request: &Request<T>) -> Result<Principal, Failure> {
    let principal = request.extensions().get::<Principal>();
    principal
        .copied()
        .ok_or_else(|| Failure::new(FailureKind::Forbidden, "nobody knows who asks"))
}
