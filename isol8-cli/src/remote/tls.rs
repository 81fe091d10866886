//! TLS towards a gateway: the authorities of this host, those of SSL_CERT_FILE in
//! their place, and those of `network.caBundle` besides them.

use std::{error::Error as _, io, path::Path, sync::Arc};

use isol8_core::failure::{Failure, FailureKind};
use rustls::{
    CertificateError, ClientConfig, InvalidMessage, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Remote;

const ADD_AUTHORITY: &str = "name the file of its authority in `network.caBundle` of the \
    configuration, or in SSL_CERT_FILE";

/// Speaks TLS, once the server has proved who it is.
pub(super) async fn secured(
    stream: TcpStream,
    remote: &Remote,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = remote.address.server_name().ok_or_else(|| {
        let failure = remote.unreachable();
        failure.cause("no certificate can be for this name")
    })?;
    let connector = TlsConnector::from(Arc::new(config(remote.ca_bundle.as_deref())?));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| distrusted(remote, &error))
}

fn config(ca_bundle: Option<&Path>) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one that we do not trust.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_bundle {
        add(&mut roots, path)?;
    }
    if roots.is_empty() {
        let message = "this host trusts no certificate authority";
        let hint = "install the package `ca-certificates`, or set SSL_CERT_FILE";
        return Err(Failure::new(FailureKind::HostLacks, message).hint(hint));
    }
    let provider = Arc::new(ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions
        .map_err(|error| Failure::new(FailureKind::Internal, "cannot speak TLS").because(&error))?;
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), Failure> {
    let unusable = || {
        let shown = path.display();
        let message = format!("`network.caBundle` of the configuration cannot be used: `{shown}`");
        Failure::new(FailureKind::InvalidRequest, message)
            .hint("name a file with certificates in PEM, or leave `network.caBundle` out")
    };
    let found = CertificateDer::pem_file_iter(path);
    let found = found.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unusable().because(&error))?;
    match roots.add_parsable_certificates(found) {
        (0, _) => Err(unusable().cause("it holds no certificate")),
        _ => Ok(()),
    }
}

/// Why there is no TLS with this server.
fn distrusted(remote: &Remote, error: &io::Error) -> Failure {
    let failure = remote.unreachable().because(error);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let hint = match inner.or_else(|| error.source()?.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => ADD_AUTHORITY,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "call it by a name that its certificate has"
            }
            _ => "its certificate has to be mended there",
        },
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it may speak plain HTTP there: try `http://`"
        }
        _ => return failure,
    };
    failure.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_is_none_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let told = |path: &Path| config(Some(path)).expect_err("no bundle").to_string();
        assert!(told(&path).contains("`network.caBundle`"));
        std::fs::write(&path, "no certificate").expect("room");
        assert!(told(&path).contains("`network.caBundle`"));
    }
}
