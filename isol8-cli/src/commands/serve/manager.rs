//! What the service manager is told, where there is one.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// For one answer to ourselves, and until it is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);

/// Tells it that the gateway answers, from then on that it lives, and at last that
/// it stops. Without one it does nothing.
pub(super) async fn keep_informed(address: SocketAddr, stop: CancellationToken) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = report(address) => {}
    }
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping, runs and streams have to end"),
    ]);
}

async fn report(address: SocketAddr) {
    let own = reachable(address);
    while !matches!(timeout(PATIENCE, answer(own)).await, Ok(Ok(()))) {
        sleep(RETRY).await;
    }
    let status = format!("serving at {address}");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        sleep(limit / 3).await;
        // A turn of the runtime, and no connection: strangers who take all places
        // must not be able to have the gateway restarted.
        if tokio::spawn(async {}).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Any answer will do, also that there are too many connections.
async fn answer(own: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(own).await?;
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 7];
    stream.read_exact(&mut start).await?;
    match &start {
        b"HTTP/1." => Ok(()),
        _ => Err(io::Error::other("that is no HTTP")),
    }
}

/// Who listens everywhere is dialled at loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn tell(state: &[NotifyState<'_>]) {
    // Who cannot be told ends us, and knows why.
    let _told = sd_notify::notify(state);
}
