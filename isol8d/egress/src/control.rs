//! What the daemon and the process of the proxy say to each other, over a pair
//! of sockets that keep messages apart and carry descriptors.
//!
//! ```text
//!  daemon                                            isol8d egress
//!    │── Hello ────────────────────────────────────────▶ │
//!    │ ◀──────────────────────────────────────── Ready ──│ it is confined
//!    │── Open{traffic, listener, filter} ──────────────▶ │
//!    │ ◀────────────────────────────────── Ack{traffic} ─│ it accepts on it
//!    │ ◀────────────────────────────── Record{traffic} ──│ once per request
//!    │── Set{traffic, filter} ─────────────────────────▶ │ answered by Ack
//!    │── Close{traffic} ───────────────────────────────▶ │
//!    │ ◀────────────────────── Closed{traffic, totals} ──│ after its records
//! ```
//! Whoever hears something else than this stops listening: the process ends,
//! and the daemon takes the process for dead.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use isol8_core::{
    egress::{record::Record, rules::Filter},
    env::PROXY_PORT,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use thiserror::Error;
use tokio::{io::Interest, net::UnixDatagram};

use crate::{confine::Confined, gate::Totals};

mod wire;

/// The longest message, in bytes: twice the most text of a filter's patterns,
/// and below what a socket takes at once on every kernel (208 KiB).
pub const MAX_MESSAGE_BYTES: usize = 128 << 10;

/// The longest filter, in bytes as [`length_of`] counts them: the rest of the
/// message is far below a kilobyte.
pub const MAX_FILTER_BYTES: usize = MAX_MESSAGE_BYTES - (1 << 10);

/// Names what one run reaches the network through, on one control socket.
/// Never used again.
pub type TrafficId = u64;

/// How the process reaches the network, said once.
#[derive(Debug)]
pub struct Hello<D> {
    /// The proxy to go through, as a URL.
    pub upstream: Option<String>,
    /// Which hosts do without it, as in `NO_PROXY`.
    pub no_proxy: String,
    /// A PEM file of authorities for an `https://` upstream, besides the host's.
    pub authorities: Option<D>,
    /// Takes listeners on every port of 127.0.0.1. For tests, which have no
    /// network namespace for each of theirs.
    pub any_port: bool,
}

/// From the daemon to the process.
#[derive(Debug)]
pub enum Order<D> {
    /// The first message.
    Hello(Hello<D>),
    /// Serve on this listener under this filter.
    Open {
        /// Its name from now on.
        traffic: TrafficId,
        /// A listening socket in the sandbox's network namespace.
        listener: D,
        /// What may pass.
        filter: Filter,
    },
    /// Go on under another filter.
    Set {
        /// Which.
        traffic: TrafficId,
        /// What may pass.
        filter: Filter,
    },
    /// End everything of it.
    Close {
        /// Which.
        traffic: TrafficId,
    },
}

/// From the process to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The answer to `Hello`: it is confined, and waits for work.
    Ready(Confined),
    /// The answer to `Open` and `Set`.
    Ack {
        /// Which.
        traffic: TrafficId,
        /// Why nothing passes, where it was refused.
        result: Result<(), String>,
    },
    /// A request.
    Record {
        /// Whose.
        traffic: TrafficId,
        /// What became of it.
        record: Record,
    },
    /// The answer to `Close`: nothing more comes of it.
    Closed {
        /// Which.
        traffic: TrafficId,
        /// What it used.
        totals: Totals,
    },
}

/// Why a control socket is of no use any more.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody reads what is sent.
    #[error("the other side is gone")]
    Gone,
    /// The socket itself.
    #[error("the control socket failed")]
    Io(#[source] io::Error),
    /// A message of ours that is too long.
    #[error("a message of {0} bytes; at most {MAX_MESSAGE_BYTES} are sent")]
    TooLong(usize),
    /// A message that is none.
    #[error("a message that makes no sense: {0}")]
    Malformed(&'static str),
}

/// Makes the two ends. The second is for the child; both close on exec.
///
/// # Errors
/// No descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Turns an end into its two directions. Must be called in a tokio runtime.
///
/// # Errors
/// `fd` is no socket of [`pair`].
pub fn split(fd: OwnedFd) -> io::Result<(Sender, Receiver)> {
    let packets = sockopt::socket_domain(&fd)? == AddressFamily::UNIX
        && sockopt::socket_type(&fd)? == SocketType::SEQPACKET;
    if !packets {
        let what = "the control socket is of another kind";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    // Of this type only the waiting is used, which is the same for both kinds.
    let socket = Arc::new(UnixDatagram::from_std(fd.into())?);
    let receiver = Receiver {
        socket: Arc::clone(&socket),
        // One more than is taken, so that a longer message shows.
        buffer: vec![0; MAX_MESSAGE_BYTES + 1].into_boxed_slice(),
    };
    Ok((Sender { socket }, receiver))
}

/// The way out.
#[derive(Debug, Clone)]
pub struct Sender {
    socket: Arc<UnixDatagram>,
}

/// The way in.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<UnixDatagram>,
    buffer: Box<[u8]>,
}

impl Sender {
    /// Sends an order, with its descriptor. Waits while the other side is behind.
    ///
    /// # Errors
    /// [`ControlError::TooLong`], with the socket as good as before;
    /// [`ControlError::Gone`].
    ///
    /// # Cancellation
    /// The order was then not sent.
    pub async fn order(&self, order: &Order<BorrowedFd<'_>>) -> Result<(), ControlError> {
        let (message, descriptor) = wire::order(order);
        self.send(&message, descriptor).await
    }

    /// Sends news.
    ///
    /// # Errors
    /// As [`Sender::order`].
    ///
    /// # Cancellation
    /// The news were then not sent.
    pub async fn news(&self, news: &News) -> Result<(), ControlError> {
        self.send(&wire::news(news), None).await
    }

    async fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(ControlError::TooLong(message.len()));
        }
        let socket = &*self.socket;
        let send = || -> io::Result<usize> {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let message = [IoSlice::new(message)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(rustix::net::sendmsg(socket, &message, &mut control, flags)?)
        };
        // A message goes whole or not at all.
        match self.socket.async_io(Interest::WRITABLE, send).await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Err(ControlError::Gone),
            Err(error) => Err(ControlError::Io(error)),
        }
    }
}

/// The other side has closed its end, perhaps with something of ours unread.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl Receiver {
    /// The next order; `None` when the daemon is gone.
    ///
    /// # Errors
    /// What is no order, or the socket's end.
    ///
    /// # Cancellation
    /// Safe: no order is lost.
    pub async fn order(&mut self) -> Result<Option<Order<OwnedFd>>, ControlError> {
        match self.receive().await? {
            None => Ok(None),
            Some((length, fd)) => wire::to_order(&self.buffer[..length], fd).map(Some),
        }
    }

    /// The next news; `None` when the process is gone.
    ///
    /// # Errors
    /// What is no news, or the socket's end.
    ///
    /// # Cancellation
    /// Safe: no news are lost.
    pub async fn news(&mut self) -> Result<Option<News>, ControlError> {
        match self.receive().await? {
            None => Ok(None),
            Some((_, Some(_))) => Err(ControlError::Malformed("a descriptor")),
            Some((length, None)) => wire::to_news(&self.buffer[..length]).map(Some),
        }
    }

    /// One message's length and descriptor. Messages are never empty: nothing
    /// is the end.
    async fn receive(&mut self) -> Result<Option<(usize, Option<OwnedFd>)>, ControlError> {
        let (socket, buffer) = (&*self.socket, &mut self.buffer);
        let receive = || take(socket.as_fd(), buffer);
        let (length, flags, mut fds) = match socket.async_io(Interest::READABLE, receive).await {
            Ok((0, ..)) => return Ok(None),
            Ok(message) => message,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(ControlError::Io(error)),
        };
        if flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || length > MAX_MESSAGE_BYTES
        {
            return Err(ControlError::Malformed("it is too long"));
        }
        let fd = fds.pop();
        if !fds.is_empty() {
            return Err(ControlError::Malformed("more than one descriptor"));
        }
        Ok(Some((length, fd)))
    }
}

fn take(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, ReturnFlags, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut into = [IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(socket, &mut into, &mut control, flags)?;
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    Ok((message.bytes, message.flags, fds))
}

/// How long a filter is in a message, in bytes.
#[must_use]
pub fn length_of(filter: &Filter) -> usize {
    wire::length_of(filter)
}

/// Checks that `fd` is what init makes for a filtered sandbox: a TCP socket
/// that listens on 127.0.0.1 on the port of the proxy (`any_port`: on any).
///
/// # Errors
/// What it is instead, for the log.
pub fn check_listener(fd: BorrowedFd<'_>, any_port: bool) -> Result<(), String> {
    let kind = || -> io::Result<bool> {
        Ok(sockopt::socket_domain(fd)? == AddressFamily::INET
            && sockopt::socket_type(fd)? == SocketType::STREAM
            && sockopt::socket_protocol(fd)? == Some(rustix::net::ipproto::TCP)
            && sockopt::socket_acceptconn(fd)?)
    };
    match kind() {
        Ok(true) => {}
        Ok(false) => return Err("it is no listening TCP socket".to_owned()),
        Err(error) => return Err(format!("it is no socket: {error}")),
    }
    let address = rustix::net::getsockname(fd).map_err(io::Error::from);
    match address.and_then(|address| SocketAddr::try_from(address).map_err(Into::into)) {
        Ok(SocketAddr::V4(at)) if is_proxy(at, any_port) => Ok(()),
        Ok(at) => Err(format!("it listens on {at}")),
        Err(error) => Err(format!("it has no address: {error}")),
    }
}

fn is_proxy(at: SocketAddrV4, any_port: bool) -> bool {
    *at.ip() == Ipv4Addr::LOCALHOST && (any_port || at.port() == PROXY_PORT)
}

#[cfg(test)]
mod tests;
