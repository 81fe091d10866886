//! The way out: who resolves, and through what.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::header::HeaderValue;
use isol8_core::egress::host::Host;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::{
    limits::{self, Limits},
    resolver::Resolver,
    upstream::{Bypass, Upstream, authority},
};

/// A connection towards an origin.
pub(crate) type Link = Either<TcpStream, TlsStream<TcpStream>>;

/// The longest answer to a CONNECT that is read from an upstream proxy.
const MAX_UPSTREAM_HEAD_BYTES: usize = 16 << 10;

/// Why a way out cannot be made.
#[derive(Debug, Error)]
pub enum NetError {
    /// The extra certificates are not PEM.
    #[error("the extra certificates cannot be read")]
    Certificates(#[source] rustls::pki_types::pem::Error),
    /// One of them is not a certificate.
    #[error("one of the extra certificates is not valid")]
    Certificate(#[source] rustls::Error),
    /// No root at all: no certificate of the proxy could ever be trusted.
    #[error("no trusted certificate authority was found for the upstream proxy")]
    NoRoots,
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// The way out, shared by all sandboxes.
#[derive(Debug)]
pub struct Net {
    pub(crate) resolver: Resolver,
    through: Option<Through>,
    /// Connections of all sandboxes together.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) pipes: Arc<Semaphore>,
}

struct Through {
    upstream: Upstream,
    bypass: Bypass,
    tls: Option<TlsConnector>,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Dials origins itself.
    #[must_use]
    pub fn direct(resolver: Resolver) -> Self {
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_IN_ALL));
        Self {
            resolver,
            through: None,
            connections,
            pipes: Arc::new(Semaphore::new(limits::PIPES_IN_ALL)),
        }
    }

    /// Goes through `upstream`, but for what `bypass` contains. For an
    /// `https://` upstream this reads the platform's trusted authorities from
    /// disk (blocking); `extra_roots` are more of them, as PEM text.
    ///
    /// # Errors
    /// [`NetError`]: only for an `https://` upstream.
    pub fn through(
        resolver: Resolver,
        upstream: Upstream,
        bypass: Bypass,
        extra_roots: Option<&str>,
    ) -> Result<Self, NetError> {
        let tls = if upstream.is_tls {
            Some(connector(extra_roots)?)
        } else {
            None
        };
        let through = Some(Through {
            upstream,
            bypass,
            tls,
        });
        Ok(Self {
            through,
            ..Self::direct(resolver)
        })
    }

    /// The upstream proxy for this host, if it goes through one.
    pub(crate) fn upstream(&self, host: &Host, port: u16) -> Option<&Upstream> {
        let through = self.through.as_ref()?;
        (!through.bypass.contains(host, port)).then_some(&through.upstream)
    }

    /// Connects to the first of `addresses` that answers.
    pub(crate) async fn dial(
        &self,
        addresses: &[IpAddr],
        port: u16,
        limits: &Limits,
    ) -> Result<TcpStream, String> {
        let mut last = "no address".to_owned();
        for address in addresses {
            let connect = TcpStream::connect(SocketAddr::new(*address, port));
            match timeout(limits.connect_one, connect).await {
                Ok(Ok(stream)) => {
                    // Small pieces must not wait for one another; a socket that
                    // cannot be told is only slower.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    return Ok(stream);
                }
                Ok(Err(error)) => last = in_words(&error),
                Err(_) => "timed out".clone_into(&mut last),
            }
        }
        Err(last)
    }

    /// Connects to the upstream proxy itself.
    pub(crate) async fn dial_upstream(
        &self,
        upstream: &Upstream,
        limits: &Limits,
        share: &Arc<Semaphore>,
    ) -> Result<Link, String> {
        let said = |what: &str| format!("upstream proxy: {what}");
        let addresses = match &upstream.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let found = self
                    .resolver
                    .addresses(name.as_str(), limits.resolve, share)
                    .await;
                found.map_err(said)?
            }
        };
        let dialled = self.dial(&addresses, upstream.port, limits).await;
        let stream = dialled.map_err(|error| said(&error))?;
        let Some(tls) = self
            .through
            .as_ref()
            .and_then(|through| through.tls.as_ref())
        else {
            return Ok(Either::Left(stream));
        };
        let name = match &upstream.host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|_| said("its name cannot be in a certificate"))?,
        };
        match tls.connect(name, stream).await {
            Ok(stream) => Ok(Either::Right(stream)),
            Err(error) => Err(format!("upstream proxy: TLS failed: {error}")),
        }
    }
}

/// Asks an upstream proxy for a tunnel.
pub(crate) async fn ask_for_tunnel(
    link: &mut Link,
    host: &Host,
    port: u16,
    authorization: Option<&HeaderValue>,
) -> Result<(), String> {
    let to = authority(host, port);
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(value) = authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let broke = |error: io::Error| format!("upstream proxy: {}", in_words(&error));
    link.write_all(&head).await.map_err(broke)?;
    link.flush().await.map_err(broke)?;
    let mut answer = Vec::with_capacity(1024);
    let length = loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if answer.len() > MAX_UPSTREAM_HEAD_BYTES {
            return Err("upstream proxy: its answer is too long".to_owned());
        }
        if link.read_buf(&mut answer).await.map_err(broke)? == 0 {
            return Err("upstream proxy: it closed the connection".to_owned());
        }
    };
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    match (response.parse(&answer[..length]), response.code) {
        // A server that speaks before the TLS client is not one.
        (Ok(_), Some(200..=299)) if answer.len() > length => {
            Err("upstream proxy: data before the tunnel began".to_owned())
        }
        (Ok(_), Some(200..=299)) => Ok(()),
        (Ok(_), Some(407)) => Err("upstream proxy: it does not accept our credentials".to_owned()),
        (Ok(_), Some(code)) => Err(format!("upstream proxy: it answered {code}")),
        _ => Err("upstream proxy: its answer is not HTTP".to_owned()),
    }
}

fn connector(extra_roots: Option<&str>) -> Result<TlsConnector, NetError> {
    let mut roots = rustls::RootCertStore::empty();
    // A root that the platform has and we cannot read is one we do not trust.
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read trusted certificate authorities");
    }
    roots.add_parsable_certificates(native.certs);
    for root in CertificateDer::pem_slice_iter(extra_roots.unwrap_or_default().as_bytes()) {
        roots
            .add(root.map_err(NetError::Certificates)?)
            .map_err(NetError::Certificate)?;
    }
    if roots.is_empty() {
        return Err(NetError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(NetError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A few words for the program and the log, without numbers of the system.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        kind => kind.to_string(),
    }
}
