//! The daemon behind the gateway: one HTTP/2 connection over its Unix socket,
//! made anew when it was lost.

use std::{fmt, io, os::unix::net::UnixStream as StdStream, sync::Arc};

use hyper_util::rt::TokioIo;
use isol8_proto::v1::{
    admin_service_client::AdminServiceClient, run_service_client::RunServiceClient,
    session_service_client::SessionServiceClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Connects to the daemon's socket, and checks who listens there.
pub type Dial = Arc<dyn Fn() -> io::Result<StdStream> + Send + Sync>;

/// Output that may be on its way to us, for one run and for all. A client that
/// does not read has its run's window full, and must not take that of others.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// The daemon's pieces of output arrive as one frame each.
const MAX_FRAME_BYTES: u32 = 1 << 20;

/// The daemon. Cheap to clone.
#[derive(Clone)]
pub struct Daemon {
    channel: Channel,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Daemon")
    }
}

impl Daemon {
    /// Nothing is dialled before the first call.
    #[must_use]
    pub fn new(dial: Dial) -> Self {
        let connector = tower::service_fn(move |_| {
            let stream = dial();
            async move {
                let stream = stream?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://isol8")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .connect_with_connector_lazy(connector);
        Self { channel }
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone())
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }
}
