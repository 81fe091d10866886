//! CONNECT: the handshake, both directions, the end.

use std::{io, sync::Arc, time::Duration};

use isol8_egress::{Limits, Net};
use rustls::{
    ClientConnection,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{
    Origin, PATIENCE, Proxy, assert_allowed, assert_blocked, names, only, open, read_all, status,
};

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![
            rustls::SignatureScheme::ED25519,
            rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
        ]
    }
}

pub(crate) fn any_server() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Arc::new(config)
}

/// What a real client sends first. An address as the name means no SNI.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(any_server(), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The same handshake message in records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in hello[5..].chunks(size) {
        out.extend_from_slice(&hello[..3]);
        out.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

#[tokio::test]
async fn an_agreeing_handshake_passes_unchanged_and_back() {
    let hello = client_hello("origin.test");
    let table = [
        ("origin.test", hello.clone()),
        ("ORIGIN.test.", hello.clone()),
        ("origin.test", client_hello("ORIGIN.test")),
        ("origin.test", in_records(&hello, 100)),
        ("origin.test", in_records(&hello, 1)),
        ("127.0.0.1", client_hello("127.0.0.1")),
        ("2130706433", client_hello("127.0.0.1")),
    ];
    for (target, sent) in table {
        let origin = Origin::echo().await;
        let proxy = Proxy::start(open(&[origin.port])).await;
        let (mut stream, answer) = proxy.connect(&format!("{target}:{}", origin.port)).await;
        assert_eq!(status(&answer), 200, "{target}: {answer}");
        stream.write_all(&sent).await.unwrap();
        stream.write_all(b"and more").await.unwrap();
        // Half-closed: the echo still comes back.
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, [sent.as_slice(), b"and more"].concat(), "{target}");
        let record = proxy.record().await;
        assert_allowed(&record, "every public host is open");
        assert_eq!((record.method.as_str(), &record.path), ("CONNECT", &None));
        assert_eq!(
            (record.bytes_in, record.bytes_out),
            (back.len() as u64, back.len() as u64)
        );
    }
}

#[tokio::test]
async fn a_handshake_sent_with_the_connect_passes_too() {
    let origin = Origin::echo().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let hello = client_hello("origin.test");
    let mut bytes = format!("CONNECT origin.test:{} HTTP/1.1\r\n\r\n", origin.port).into_bytes();
    bytes.extend_from_slice(&hello);
    let mut stream = proxy.dial().await;
    stream.write_all(&bytes).await.unwrap();
    let head = crate::rig::read_head(&mut stream).await;
    assert_eq!(status(&head), 200);
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, hello);
}

#[tokio::test]
async fn a_handshake_byte_by_byte_passes() {
    let origin = Origin::echo().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let (mut stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    stream.set_nodelay(true).unwrap();
    let hello = client_hello("origin.test");
    for byte in &hello {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, hello);
}

#[tokio::test]
async fn any_other_beginning_is_closed_and_logged_and_sent_to_nobody() {
    let mut two_names = client_hello("origin.test");
    // The extension's list is told to be longer than its one name.
    let at = two_names
        .windows(11)
        .position(|w| w == b"origin.test")
        .unwrap();
    two_names[at - 1] += 1;
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "origin.test",
            client_hello("evil.test"),
            "another host: `evil.test`",
        ),
        ("origin.test", client_hello("x.origin.test"), "another host"),
        ("origin.test", client_hello("127.0.0.1"), "no SNI"),
        ("127.0.0.1", client_hello("origin.test"), "another host"),
        (
            "origin.test",
            in_records(&client_hello("evil.test"), 7),
            "another host",
        ),
        (
            "origin.test",
            b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_vec(),
            "not TLS",
        ),
        (
            "origin.test",
            b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
            "not TLS",
        ),
        ("origin.test", vec![0; 64], "not TLS"),
        ("origin.test", two_names, "not TLS"),
        // An alert, application data, and a server's hello are no beginning.
        ("origin.test", vec![0x15, 3, 1, 0, 2, 1, 0], "not TLS"),
        ("origin.test", vec![0x17, 3, 3, 0, 1, 0], "not TLS"),
        ("origin.test", vec![0x16, 3, 1, 0, 4, 2, 0, 0, 0], "not TLS"),
        ("origin.test", vec![0x16, 3, 1, 0xff, 0xff], "not TLS"),
        (
            "origin.test",
            client_hello("origin.test")[..40].to_vec(),
            "ended before",
        ),
        ("origin.test", Vec::new(), "ended before"),
    ];
    for (target, sent, why) in table {
        let origin = Origin::echo().await;
        let proxy = Proxy::start(open(&[origin.port])).await;
        let (mut stream, answer) = proxy.connect(&format!("{target}:{}", origin.port)).await;
        assert_eq!(status(&answer), 200);
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(&mut stream).await, "", "{why}");
        let record = proxy.record().await;
        assert_blocked(&record, why);
        assert_eq!(record.bytes_out, 0, "{why}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let origin = Origin::echo().await;
    let limits = Limits {
        hello: Duration::from_millis(50),
        ..Limits::default()
    };
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let proxy = Proxy::with(net, limits, Some(open(&[origin.port]))).await;
    let (mut stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    assert_eq!(read_all(&mut stream).await, "");
    assert_blocked(&proxy.record().await, "did not begin in time");
}

#[tokio::test]
async fn a_silent_tunnel_is_cut_off() {
    let origin = Origin::echo().await;
    let limits = Limits {
        stall: Duration::from_millis(100),
        ..Limits::default()
    };
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let proxy = Proxy::with(net, limits, Some(open(&[origin.port]))).await;
    let (mut stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    stream
        .write_all(&client_hello("origin.test"))
        .await
        .unwrap();
    read_all(&mut stream).await;
    assert_allowed(&proxy.record().await, "no byte passed for too long");
}

#[tokio::test]
async fn a_denied_connect_ends_the_connection() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let port = origin.port;
    // A request that would be allowed, hidden behind a tunnel that is not.
    let answer = proxy
        .say(format!(
            "CONNECT evil.test:{port} HTTP/1.1\r\n\r\n\
             GET http://origin.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 403);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    proxy.record().await;
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_real_handshake_goes_through() {
    let key = rcgen::generate_simple_self_signed(vec!["origin.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let origin = Origin::run("127.0.0.1:0", move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let (stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    let connector = tokio_rustls::TlsConnector::from(any_server());
    let name = ServerName::try_from("origin.test").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut back = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(back, b"ping");
    drop(stream);
    assert_allowed(&proxy.record().await, "allowed");
}

#[tokio::test]
async fn a_peer_that_resets_is_an_end() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        // Unread bytes and no farewell: the kernel resets.
        let reset: io::Result<()> = stream.set_zero_linger();
        reset.unwrap();
    })
    .await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let (mut stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    stream
        .write_all(&client_hello("origin.test"))
        .await
        .unwrap();
    read_all(&mut stream).await;
    assert_allowed(&proxy.record().await, "cut off: the connection broke");
}

#[tokio::test]
async fn a_client_that_closes_after_the_last_word_cut_nothing_off() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(b"the last word").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest).await;
    })
    .await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let (mut stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    stream
        .write_all(&client_hello("origin.test"))
        .await
        .unwrap();
    assert_eq!(read_all(&mut stream).await, "the last word");
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_allowed(&proxy.record().await, "every public host is open");
}
