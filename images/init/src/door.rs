//! The listening socket through which a program reaches the filtering proxy.
//!
//! It is bound before anything else runs in the sandbox, and the daemon gets a
//! duplicate of it. init keeps its own and never accepts on it: as long as the
//! sandbox lives, nobody inside can take the port and pass for the proxy, and
//! where nobody accepts a connection waits instead of going anywhere.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
};

use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg};

/// Where the variables of the program's environment point.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8118);

/// Connections that nobody has accepted yet. The kernel lets further ones wait
/// before their handshake.
const BACKLOG: i32 = 128;

/// What goes with the descriptor: the kernel passes none without a byte.
const MARK: &[u8] = b"L";

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Door(TcpListener);

impl Door {
    /// Binds and listens.
    ///
    /// # Errors
    /// When there is no loopback, or the port is taken: then this network
    /// namespace is not the sandbox's own.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = TcpListener::bind(ADDRESS)?;
        // Says how many may wait; it listens already.
        listen(&socket, Backlog::new(BACKLOG)?)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Passes a duplicate over the stream, before its first frame.
    ///
    /// # Errors
    /// Where descriptors cannot be passed, as under runtimes with a kernel of
    /// their own.
    pub(crate) fn hand_over(&self, stream: &UnixStream) -> io::Result<()> {
        let descriptors = [self.0.as_raw_fd()];
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(MARK)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::empty(),
            None,
        )?;
        if sent == MARK.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_pointed_to_this_port() {
        assert_eq!(ADDRESS.port(), isol8_core::env::PROXY_PORT);
    }
}
