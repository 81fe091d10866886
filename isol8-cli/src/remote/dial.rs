//! From an address to a WebSocket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{
        AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
    },
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use isol8_core::failure::Failure;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use url::Host;

use super::{Remote, tls, unwelcome};
use crate::{connect::ANSWER_TIMEOUT, console::Console};

/// For the name and for TCP, whatever number of addresses the name has.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What we speak over the WebSocket.
const WIRE: &str = "isol8.v1";

/// The largest message that a gateway sends is a piece of output.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Of an answer that is no welcome, at most.
const MAX_BODY_BYTES: usize = 64 << 10;

/// A lost link is found by our own pings before; these find it where a run is over
/// and we only wait for a slow reader.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Connects, and is welcome.
///
/// # Errors
/// `EngineUnreachable` where nobody answers or is not trusted, otherwise what was
/// answered.
pub(super) async fn dial(remote: &Remote, console: &Console) -> Result<Socket, Failure> {
    let stream = connect(remote, console).await?;
    let answer = async {
        match remote.address.is_secure() {
            true => upgrade(tls::secured(stream, remote).await?, remote).await,
            false => upgrade(stream, remote).await,
        }
    };
    let socket = timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| {
        let seconds = ANSWER_TIMEOUT.as_secs();
        remote
            .unreachable()
            .cause(format!("it is silent for {seconds} s"))
    })??;
    console.debug(format_args!("a run over {WIRE}"));
    Ok(socket)
}

async fn connect(remote: &Remote, console: &Console) -> Result<TcpStream, Failure> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let hint = "is it the right address? Proxies of the environment are not used";
    let failed = |error: &io::Error| remote.unreachable().because(error).hint(hint);
    let found = timeout_at(deadline, resolve(remote)).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = found.map_err(|error| failed(&error))?;
    let mut last = io::Error::other("the name has no address");
    for (index, address) in found.iter().enumerate() {
        // An address that leads nowhere leaves the others their time.
        let rest = deadline.saturating_duration_since(Instant::now());
        let share = rest / u32::try_from(found.len() - index).unwrap_or(u32::MAX);
        let connected = timeout(share, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                console.debug(format_args!("connected to {} ({address})", remote.address));
                tune(&stream);
                return Ok(stream);
            }
            Err(error) => {
                console.debug(format_args!("{address}: {error}"));
                last = error;
            }
        }
    }
    Err(failed(&last))
}

async fn resolve(remote: &Remote) -> io::Result<Vec<SocketAddr>> {
    let port = remote.address.port();
    let literal = match remote.address.host() {
        Host::Domain(name) => return Ok(lookup_host((name, port)).await?.collect()),
        Host::Ipv4(address) => IpAddr::from(address),
        Host::Ipv6(address) => IpAddr::from(address),
    };
    Ok(vec![SocketAddr::new(literal, port)])
}

/// Keystrokes and signals go out at once. All of it is good to have and no more.
fn tune(stream: &TcpStream) {
    let tuned = sockopt::set_tcp_nodelay(stream, true)
        .and_then(|()| sockopt::set_socket_keepalive(stream, true))
        .and_then(|()| sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES));
    let _as_it_is = tuned;
}

/// Asks for a WebSocket.
async fn upgrade<S>(stream: S, remote: &Remote) -> Result<Socket, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: &hyper::Error| {
        let failure = remote.unreachable().because(error);
        match error.is_parse() && !remote.address.is_secure() {
            true => failure.hint("it may speak TLS there: try `https://`"),
            false => failure,
        }
    };
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    // It ends with its socket; what goes wrong there is seen here.
    tokio::spawn(connection.with_upgrades());
    let key = generate_key();
    let request = Request::get(remote.address.door())
        .header(HOST, remote.address.authority())
        .header(USER_AGENT, concat!("isol8/", env!("CARGO_PKG_VERSION")))
        .header(AUTHORIZATION, remote.key.header())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_PROTOCOL, WIRE)
        .body(Empty::<Bytes>::new())
        .map_err(|error| remote.unreachable().because(&error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(response, remote).await);
    }
    let given = |name| response.headers().get(name).map(|value| value.as_bytes());
    if given(SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(unwelcome::no_websocket(remote));
    }
    if given(SEC_WEBSOCKET_PROTOCOL) != Some(WIRE.as_bytes()) {
        return Err(unwelcome::other_version(remote));
    }
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = TokioIo::new(upgraded.map_err(|error| failed(&error))?);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
}

async fn refused(response: Response<Incoming>, remote: &Remote) -> Failure {
    let (head, body) = response.into_parts();
    // Without a whole body the status has to do.
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    unwelcome::unwelcome(remote, &head, &body)
}
