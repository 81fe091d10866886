//! Through a proxy that the network makes its hosts use.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use isol8_core::egress::rules::Filter;
use isol8_egress::{Bypass, Limits, Net, Resolver, Upstream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    rig::{Origin, Proxy, assert_allowed, assert_blocked, names, only, open, read_head, status},
    tunnels::client_hello,
};

type Heads = Arc<Mutex<Vec<String>>>;

/// A small upstream proxy: wants these credentials, if any, and sends
/// everything to one origin whatever was asked.
async fn upstream<S>(mut client: S, heads: Heads, origin: u16, wanted: Option<&str>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = read_head(&mut client).await;
    heads.lock().unwrap().push(head.clone());
    let line = wanted.map(|value| format!("proxy-authorization: {value}\r\n"));
    if let Some(line) = line
        && !head
            .to_ascii_lowercase()
            .contains(&line.to_ascii_lowercase())
    {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        client.write_all(refusal).await.unwrap();
        client.shutdown().await.unwrap();
        return;
    }
    let mut server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], origin)))
        .await
        .unwrap();
    if head.starts_with("CONNECT ") {
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
            .await
            .unwrap();
    } else {
        server.write_all(head.as_bytes()).await.unwrap();
    }
    client.flush().await.unwrap();
    let _broken = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

async fn upstream_for(origin: u16, wanted: Option<&'static str>) -> Origin {
    Origin::run("127.0.0.1:0", move |client, heads| {
        upstream(client, heads, origin, wanted)
    })
    .await
}

fn through(port: u16, user: &str, resolver: Resolver, bypass: &str) -> Net {
    let upstream = Upstream::parse(&format!("http://{user}127.0.0.1:{port}")).unwrap();
    Net::through(resolver, upstream, Bypass::parse(bypass), None).unwrap()
}

fn anything() -> Filter {
    Filter {
        allow_private: Vec::new(),
        ..only(r"[a-z.]*\.test", &[80, 443])
    }
}

#[tokio::test]
async fn plain_requests_go_in_absolute_form_with_credentials() {
    let origin = Origin::hello().await;
    let corporate = upstream_for(origin.port, Some("Basic dXNlOnIlcw==")).await;
    let net = through(corporate.port, "use:r%25s@", names(&[]), "");
    let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
    let answer = proxy
        .say(
            "GET http://far.test/a?b HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\
             Proxy-Authorization: Basic bWluZQ==\r\n\r\n",
        )
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let head = corporate.seen().remove(0);
    assert!(
        head.starts_with("GET http://far.test/a?b HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("host: far.test\r\n"), "{head}");
    assert!(!head.contains("bWluZQ"), "{head}");
    assert_allowed(&proxy.record().await, "allowed");
}

#[tokio::test]
async fn tunnels_are_asked_for_by_name() {
    let origin = Origin::echo().await;
    let corporate = upstream_for(origin.port, Some("Basic dTpw")).await;
    let net = through(corporate.port, "u:p@", names(&[]), "");
    let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
    let (mut stream, answer) = proxy.connect("Far.test.:443").await;
    assert_eq!(status(&answer), 200);
    let hello = client_hello("far.test");
    stream.write_all(&hello).await.unwrap();
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, hello);
    drop(stream);
    let head = corporate.seen().remove(0);
    assert_eq!(
        head,
        "CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
    );
    let record = proxy.record().await;
    // The talk with the proxy itself is none of the run's bytes.
    assert_eq!(record.bytes_out, hello.len() as u64);
}

#[tokio::test]
async fn a_handshake_for_another_host_is_closed_here_too() {
    let origin = Origin::echo().await;
    let corporate = upstream_for(origin.port, None).await;
    let net = through(corporate.port, "", names(&[]), "");
    let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
    let (mut stream, _) = proxy.connect("far.test:443").await;
    stream.write_all(&client_hello("evil.test")).await.unwrap();
    crate::rig::read_all(&mut stream).await;
    let record = proxy.record().await;
    assert_blocked(&record, "another host");
    assert_eq!(record.bytes_out, 0);
}

#[tokio::test]
async fn what_is_refused_never_reaches_the_upstream() {
    let origin = Origin::hello().await;
    let corporate = upstream_for(origin.port, None).await;
    let resolver = names(&[
        ("inside.test", &["10.0.0.1"]),
        ("mixed.test", &["1.1.1.1", "169.254.169.254"]),
        ("outside.test", &["1.1.1.1"]),
    ]);
    let net = through(corporate.port, "", resolver, "");
    let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
    let table = [
        ("10.0.0.1", 403),
        ("169.254.169.254", 403),
        ("2130706433", 403),
        ("[::1]", 403),
        ("evil.example", 403),
        ("inside.test", 403),
        ("mixed.test", 403),
        ("outside.test", 200),
        // Unknown here: the upstream knows, or says so.
        ("unknown.test", 200),
    ];
    for (index, (host, expected)) in table.iter().enumerate() {
        let answer = proxy.get(&format!("http://{host}/")).await;
        assert_eq!(status(&answer), *expected, "{host}: {answer}");
        proxy.records(index + 1).await;
    }
    assert_eq!(corporate.seen().len(), 2);
}

#[tokio::test]
async fn a_lookup_that_nobody_answers_does_not_hold_a_request() {
    let origin = Origin::hello().await;
    let corporate = upstream_for(origin.port, None).await;
    let net = through(
        corporate.port,
        "",
        Resolver::with(|_| Box::pin(std::future::pending())),
        "",
    );
    let limits = Limits {
        resolve_beside_upstream: std::time::Duration::from_millis(50),
        ..Limits::default()
    };
    let proxy = Proxy::with(net, limits, Some(anything())).await;
    assert_eq!(status(&proxy.get("http://far.test/").await), 200);
}

#[tokio::test]
async fn what_is_in_the_list_is_reached_directly() {
    let origin = Origin::hello().await;
    let corporate = upstream_for(origin.port, None).await;
    let resolver = names(&[
        ("near.test", &["127.0.0.1"]),
        ("a.near.test", &["127.0.0.1"]),
    ]);
    let net = through(corporate.port, "", resolver, "near.test, 127.0.0.0/8");
    let proxy = Proxy::with(net, Limits::default(), Some(open(&[origin.port]))).await;
    for host in ["near.test", "a.near.test", "127.0.0.1"] {
        let answer = proxy.get(&format!("http://{host}:{}/", origin.port)).await;
        assert_eq!(status(&answer), 200, "{host}: {answer}");
    }
    assert_eq!((corporate.seen().len(), origin.seen().len()), (0, 3));
    proxy
        .get(&format!("http://xnear.test:{}/", origin.port))
        .await;
    assert_eq!(corporate.seen().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_fails_is_502_with_its_reason() {
    let table: &[(&str, &str)] = &[
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "does not accept our credentials",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "it answered 403",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nSSH-2.0",
            "data before the tunnel began",
        ),
        ("", "it closed the connection"),
        ("nonsense\r\n\r\n", "not HTTP"),
    ];
    for (answer, why) in table {
        let corporate = Origin::answering(answer).await;
        let net = through(corporate.port, "", names(&[]), "");
        let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
        let (_, head) = proxy.connect("far.test:443").await;
        assert_eq!(status(&head), 502, "{why}");
        let record = proxy.record().await;
        assert_allowed(&record, "unreachable: upstream proxy: ");
        assert_allowed(&record, why);
    }
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let net = through(dead.local_addr().unwrap().port(), "", names(&[]), "");
    let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
    assert_eq!(status(&proxy.get("http://far.test/").await), 502);
    assert_allowed(&proxy.record().await, "upstream proxy: connection refused");
}

#[tokio::test]
async fn an_upstream_over_tls_is_trusted_by_its_certificate_alone() {
    let key = rcgen::generate_simple_self_signed(vec!["proxy.test".to_owned()]).unwrap();
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
    let origin = Origin::echo().await;
    let port = origin.port;
    let corporate = Origin::run("127.0.0.1:0", move |client, heads| {
        let acceptor = acceptor.clone();
        async move {
            // The one that does not trust us does not finish.
            if let Ok(client) = acceptor.accept(client).await {
                upstream(client, heads, port, None).await;
            }
        }
    })
    .await;
    let pem = pem(&key.cert);
    for (roots, expected) in [(Some(pem.as_str()), 200), (None, 502)] {
        let resolver = names(&[("proxy.test", &["127.0.0.1"])]);
        let upstream = Upstream::parse(&format!("https://proxy.test:{}", corporate.port)).unwrap();
        // A machine without any authority of its own has none to trust.
        let Ok(net) = Net::through(resolver, upstream, Bypass::default(), roots) else {
            assert_eq!(expected, 502);
            continue;
        };
        let proxy = Proxy::with(net, Limits::default(), Some(anything())).await;
        let (mut stream, answer) = proxy.connect("far.test:443").await;
        assert_eq!(status(&answer), expected, "{answer}");
        if expected == 200 {
            let hello = client_hello("far.test");
            stream.write_all(&hello).await.unwrap();
            let mut back = vec![0; hello.len()];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, hello);
        } else {
            assert_allowed(&proxy.record().await, "TLS failed");
        }
    }
}

fn pem(certificate: &rcgen::Certificate) -> String {
    let text = data_encoding::BASE64.encode(certificate.der());
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn upstreams_are_read_or_refused_without_repeating_a_password() {
    for (text, shown) in [
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("HTTP://Proxy.TEST:3128/", "http://proxy.test:3128"),
        ("http://proxy.test", "http://proxy.test:80"),
        ("https://proxy.test", "https://proxy.test:443"),
        (
            "http://user:secret@proxy.test:3128",
            "http://proxy.test:3128",
        ),
        ("http://us%40er:se%3Acret@[::1]:3128", "http://[::1]:3128"),
        ("http://secret@10.0.0.1:1", "http://10.0.0.1:1"),
    ] {
        let upstream = Upstream::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(upstream.to_string(), shown);
        assert!(!format!("{upstream:?}").contains("secret"));
    }
    for text in [
        "",
        "secret",
        "proxy.test:3128",
        "socks5://u:secret@proxy.test",
        "http://u:secret@",
        "http://u:secret@proxy.test:x",
        "http://u:secret@proxy.test:0",
        "http://u:secret@proxy.test:65536",
        "http://u:secret@proxy.test/path",
        "http://u:secret%zz@proxy.test",
        "http://u:secret%4@proxy.test",
        "http://u:secret@a..b",
        "http://u:secret@proxy.test:1:2",
    ] {
        let error = Upstream::parse(text).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
}

#[test]
fn the_list_of_hosts_without_proxy_is_read_as_elsewhere() {
    let list = "Example.test, .dotted.test,*.starred.test,ported.test:8080 10.0.0.0/8,[fd00::1],192.168.1.1,b%d";
    let bypass = Bypass::parse(list);
    let table = [
        ("example.test", 80, true),
        ("a.example.test", 80, true),
        ("badexample.test", 80, false),
        ("example.test.evil", 80, false),
        ("dotted.test", 80, true),
        ("a.dotted.test", 80, true),
        ("starred.test", 80, true),
        ("ported.test", 8080, true),
        ("ported.test", 80, false),
        ("10.1.2.3", 80, true),
        ("11.1.2.3", 80, false),
        ("fd00::1", 80, true),
        ("192.168.1.1", 80, true),
        ("192.168.1.2", 80, false),
    ];
    for (host, port, expected) in table {
        let parsed = isol8_core::egress::host::Host::parse(host).unwrap();
        assert_eq!(bypass.contains(&parsed, port), expected, "{host}:{port}");
        assert!(Bypass::parse("*").contains(&parsed, port));
        assert!(!Bypass::parse("").contains(&parsed, port));
    }
}
