//! A certificate authority of a test's own: whatever name a client asks for
//! has a certificate.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// What clients without a server name are shown.
const NAMELESS: &str = "nameless.invalid";

/// The authority, and the certificates it made.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a key and signs itself.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of tests");
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = params.self_signed(&key).expect("the parameters are whole");
        Arc::new(Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            made: Mutex::default(),
        })
    }

    /// Its certificate, for a bundle.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = BASE64.encode(&self.certificate);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
            .collect();
        let body = lines.join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    /// What a server needs to speak TLS under any name.
    ///
    /// # Panics
    /// Never: the protocol versions are the library's own.
    #[must_use]
    pub fn server(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the library knows its own versions");
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        Arc::new(builder.with_no_client_auth().with_cert_resolver(resolver))
    }

    fn certify(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(name) {
            return Some(Arc::clone(known));
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).ok()?;
        // Strict clients ask for it.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().ok()?;
        let certificate = params.signed_by(&key, &self.issuer).ok()?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
        let key = ring::sign::any_supported_type(&key).ok()?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let certified = Arc::new(CertifiedKey::new(chain, key));
        made.insert(name.to_owned(), Arc::clone(&certified));
        Some(certified)
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certify(hello.server_name().unwrap_or(NAMELESS))
    }
}
