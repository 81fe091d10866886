//! A CONNECT after its 200: the ClientHello is read, then bytes pass both ways.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    exchange::{Exchange, Metered},
    hello,
    lane::Heading,
    limits::Limits,
    net::Link,
};

/// What a direction begins with: most tunnels carry little.
const FIRST_BUFFER_BYTES: usize = 8 << 10;

/// What it grows to when it is filled at once. Larger ones are no faster.
const LARGEST_BUFFER_BYTES: usize = 64 << 10;

/// A connection to an origin that waits for the client's TLS.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) exchange: Exchange,
    pub(crate) link: Metered<Link>,
    pub(crate) heading: Heading,
}

impl Tunnel {
    /// Runs to the end of both directions. `begun` is what the client sent
    /// already. Dropping it midway ends both connections.
    pub(crate) async fn run<S>(&mut self, client: &mut S, begun: &mut BytesMut, limits: &Limits)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self {
            exchange,
            link,
            heading,
        } = self;
        let hello = hello::read(client, begun, &heading.host);
        match timeout(limits.hello, hello).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return exchange.block(why),
            Err(_) => return exchange.block("the TLS handshake did not begin in time"),
        }
        let began = match link.write_all(begun).await {
            Ok(()) => link.flush().await,
            Err(error) => Err(error),
        };
        *begun = BytesMut::new();
        let clock = Clock::new();
        let (mut client_read, mut client_write) = split(client);
        let (mut link_read, mut link_write) = split(link);
        let both = async {
            began?;
            tokio::try_join!(
                pump(&mut client_read, &mut link_write, &clock),
                pump(&mut link_read, &mut client_write, &clock),
            )
        };
        tokio::select! {
            ended = both => match ended {
                Ok(_) => exchange.finish(),
                Err(error) if clock.is_farewell(&error) => exchange.finish(),
                // Its end is in the state of the run, or it broke.
                Err(_) => {}
            },
            () = clock.stalled(limits.stall) => exchange.cut_off("no byte passed for too long"),
        }
    }
}

/// When a byte last passed, and whether one direction came to its end.
struct Clock {
    began: Instant,
    last_ms: AtomicU64,
    has_ended: AtomicBool,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Once one side has said all it had, many others do not end their own
    /// direction but close, which the kernel calls a reset.
    fn is_farewell(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
        let is_close = matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected);
        is_close && self.has_ended.load(Relaxed)
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Relaxed);
    }

    async fn stalled(&self, limit: Duration) {
        loop {
            let last = self.began + Duration::from_millis(self.last_ms.load(Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            sleep_until(last + limit).await;
        }
    }
}

/// Copies one direction to its end and passes the end on.
async fn pump<R, W>(from: &mut R, to: &mut W, clock: &Clock) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; FIRST_BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        clock.touch();
        if count == 0 {
            clock.has_ended.store(true, Relaxed);
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        clock.touch();
        if count == buffer.len() && count < LARGEST_BUFFER_BYTES {
            buffer.resize(count * 2, 0);
        }
    }
}
