//! Which addresses are this host's own.

use std::net::{IpAddr, SocketAddr};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, connect, getsockname, ipproto, socket_with,
};

/// Any port: nothing is sent to it.
const PORT: u16 = 9;

/// Whether what is sent to this address would come back to this host.
///
/// A datagram socket that is connected, and sends nothing, gets the address
/// that its packets would come from: only towards itself does a host choose the
/// destination. No list of interfaces is needed, which the confinement of this
/// process would not hand out. An address to which there is no way is not ours.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let target = SocketAddr::new(address, PORT);
    source_towards(target).is_ok_and(|source| source.ip() == address)
}

fn source_towards(target: SocketAddr) -> rustix::io::Result<SocketAddr> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    connect(&socket, &target)?;
    SocketAddr::try_from(getsockname(&socket)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_knows_its_own_addresses() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        // Set aside for documentation: nobody has them.
        for other in ["192.0.2.123", "198.51.100.77", "2001:db8::77"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }
}
