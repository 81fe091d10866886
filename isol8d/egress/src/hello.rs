//! The first bytes of a tunnel: a TLS ClientHello for the host that was judged.

use std::io;

use bytes::{Buf, BytesMut};
use isol8_core::egress::host::Host;
use rustls::server::Acceptor;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest beginning that is read before the ClientHello is whole. Real
/// ones are 200 bytes to 2 KiB; TLS itself allows one of 64 KiB.
const MAX_HELLO_BYTES: usize = 80 << 10;

/// Why a tunnel was closed before a byte of it went out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NoHello {
    #[error("a tunnel carries TLS only, and this is not TLS")]
    NotTls,
    #[error("the TLS handshake does not say which host it is for (no SNI)")]
    NoName,
    #[error("the TLS handshake is for another host: `{0}`")]
    OtherName(String),
    #[error("the connection ended before the TLS handshake")]
    Ended,
}

/// Reads until the ClientHello is whole. `begun` holds what was read before and
/// in the end everything that was read, to be sent on unchanged.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    begun: &mut BytesMut,
    host: &Host,
) -> Result<(), NoHello> {
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while seen < begun.len() {
            let mut rest = (&begun[seen..]).reader();
            match acceptor.read_tls(&mut rest) {
                Ok(0) | Err(_) => return Err(NoHello::NotTls),
                Ok(count) => seen += count,
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return agree(accepted.client_hello().server_name(), host),
                Err(_) => return Err(NoHello::NotTls),
            }
        }
        if begun.len() >= MAX_HELLO_BYTES {
            return Err(NoHello::NotTls);
        }
        match stream.read_buf(begun).await {
            Ok(0) => return Err(NoHello::Ended),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(NoHello::Ended),
        }
    }
}

/// A name must be named. An address has no name to give: a handshake that
/// gives one is meant for another host on it.
fn agree(server_name: Option<&str>, host: &Host) -> Result<(), NoHello> {
    match (server_name, host) {
        (None, Host::Address(_)) => Ok(()),
        (None, Host::Name(_)) => Err(NoHello::NoName),
        (Some(name), host) => match Host::parse(name) {
            Ok(named) if named == *host => Ok(()),
            _ => Err(NoHello::OtherName(name.to_owned())),
        },
    }
}
