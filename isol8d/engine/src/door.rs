//! The listening socket of a filtered sandbox, as its init hands it over: one
//! descriptor with one byte, before the first frame.
//!
//! The socket belongs to the sandbox's network namespace and keeps it alive, so
//! it must go when the sandbox does.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use isol8_core::{
    env::PROXY_PORT,
    failure::{Failure, FailureKind},
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType,
    getsockname, ipproto, recvmsg, sockopt,
};
use tokio::{io::Interest, net::UnixStream};

/// Where init listens, in the sandbox's own network namespace.
const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, PROXY_PORT));

/// What the stream brought in place of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It ended.
    Closed,
    /// A byte without a descriptor.
    Bare,
    /// More than one descriptor.
    Many,
    /// A descriptor of something else.
    Other(&'static str),
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        let why = match missing {
            Missing::Closed => "its init ended",
            Missing::Bare => "its init spoke, and no descriptor came along",
            Missing::Many => "more than one descriptor came along",
            Missing::Other(what) => what,
        };
        Self::new(
            FailureKind::Unsupported,
            "the sandbox did not hand over the socket of its filtered network",
        )
        .cause(why)
    }
}

/// Takes the listener from the stream and looks at it.
///
/// # Errors
/// `Unsupported` for anything but exactly one socket of the right kind.
///
/// # Cancellation
/// What was received is closed.
pub(crate) async fn receive(stream: &UnixStream) -> Result<OwnedFd, Failure> {
    let received = stream.async_io(Interest::READABLE, || take(stream)).await;
    let listener = received.map_err(|error| {
        Failure::new(FailureKind::Internal, "cannot read the sandbox's call").because(&error)
    })??;
    check(&listener)?;
    Ok(listener)
}

/// Reads the one byte, and not a byte more: frames follow.
fn take(stream: &UnixStream) -> io::Result<Result<OwnedFd, Missing>> {
    // Room for one too many, so that it is seen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(match (received.bytes, descriptors.pop()) {
        (0, _) => Err(Missing::Closed),
        (_, None) => Err(Missing::Bare),
        (_, Some(_)) if !descriptors.is_empty() || received.flags.contains(ReturnFlags::CTRUNC) => {
            Err(Missing::Many)
        }
        (_, Some(one)) => Ok(one),
    })
}

/// The daemon hands it on to a process that accepts on it: it must be what it is
/// taken for.
fn check(listener: &OwnedFd) -> Result<(), Missing> {
    let is = |found: io::Result<bool>, otherwise| match found {
        Ok(true) => Ok(()),
        _ => Err(Missing::Other(otherwise)),
    };
    let domain = sockopt::socket_domain(listener).map(|found| found == AddressFamily::INET);
    let kind = sockopt::socket_type(listener).map(|found| found == SocketType::STREAM);
    let protocol = sockopt::socket_protocol(listener).map(|found| found == Some(ipproto::TCP));
    let listens = sockopt::socket_acceptconn(listener);
    is(domain.map_err(Into::into), "what came is no IPv4 socket")?;
    is(kind.map_err(Into::into), "what came is no stream socket")?;
    is(protocol.map_err(Into::into), "what came does not speak TCP")?;
    is(listens.map_err(Into::into), "what came does not listen")?;
    let bound = getsockname(listener).map_err(io::Error::from);
    let bound = bound.map(|address| SocketAddr::try_from(address).is_ok_and(|a| a == ADDRESS));
    is(bound, "what came listens elsewhere")
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSlice,
        net::{TcpListener, UdpSocket},
        os::fd::{AsFd, BorrowedFd},
        time::Duration,
    };

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent = sendmsg(
            stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent.unwrap(), bytes.len());
    }

    async fn refused(descriptors: &[BorrowedFd<'_>]) -> String {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&theirs, b"L", descriptors);
        let failure = receive(&ours).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        failure.causes.join(", ")
    }

    #[tokio::test]
    async fn only_the_one_listener_is_taken() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = tempfile::tempfile().unwrap();
        let (connected, _other) = UnixStream::pair().unwrap();
        let listens_elsewhere = "what came listens elsewhere";
        assert_eq!(refused(&[elsewhere.as_fd()]).await, listens_elsewhere);
        let no_stream = "what came is no stream socket";
        assert_eq!(refused(&[datagrams.as_fd()]).await, no_stream);
        let no_socket = "what came is no IPv4 socket";
        assert_eq!(refused(&[file.as_fd()]).await, no_socket);
        assert_eq!(refused(&[connected.as_fd()]).await, no_socket);
        let two = [elsewhere.as_fd(), file.as_fd()];
        let many = "more than one descriptor came along";
        assert_eq!(refused(&two).await, many);
        assert_eq!(refused(&[file.as_fd(); 7]).await, many);
        let bare = "its init spoke, and no descriptor came along";
        assert_eq!(refused(&[]).await, bare);
    }

    #[tokio::test]
    async fn an_init_that_ends_is_no_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let failure = receive(&ours).await.unwrap_err();
        assert_eq!(failure.causes, ["its init ended"]);
    }

    #[tokio::test]
    async fn what_follows_the_byte_stays_in_the_stream() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&theirs, b"L", &[file.as_fd()]);
        send(&theirs, b"frames", &[]);
        receive(&ours).await.unwrap_err();
        let mut rest = [0; 6];
        let read = timeout(Duration::from_secs(5), ours.read_exact(&mut rest));
        read.await.unwrap().unwrap();
        assert_eq!(&rest, b"frames");
    }
}
