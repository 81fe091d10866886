use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use isol8_core::egress::{
    host::Host,
    record::{Action, Record},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::net::TcpListener;

use super::*;
use crate::{
    head::{Event, HeadGuard},
    lane::Revoked,
    session::{Log, Session},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn client_hello(name: &str) -> BytesMut {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    BytesMut::from(bytes.as_slice())
}

fn connect(session: &Arc<Session>, log: &Log) -> Exchange {
    let head = b"CONNECT origin.test:443 HTTP/1.1\r\n\r\n";
    let fed = HeadGuard::new().feed(head, &mut Vec::new());
    let Some(Event::Head(head)) = fed.event else {
        panic!("{fed:?}");
    };
    let mut exchange = Exchange::begin(session, log, &head, Revoked::default());
    exchange.allow("allowed");
    exchange
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A connection whose other end, the second, takes no further byte.
async fn full() -> (TcpStream, TcpStream) {
    let (link, origin) = pair().await;
    link.writable().await.unwrap();
    while link.try_write(&[0; 64 << 10]).is_ok() {}
    (link, origin)
}

#[tokio::test]
async fn an_origin_that_does_not_take_the_handshake_does_not_hold_the_tunnel() {
    let limits = Limits {
        stall: Duration::from_millis(100),
        ..Limits::default()
    };
    let records: Arc<Mutex<Vec<Record>>> = Arc::default();
    let logged = Arc::clone(&records);
    let log: Log = Arc::new(move |record| logged.lock().unwrap().push(record));
    let session = Arc::new(Session::new(None, Arc::new(limits.clone())));
    let (link, _origin) = full().await;
    let (_program, mut client) = pair().await;
    let exchange = connect(&session, &log);
    let mut tunnel = Tunnel {
        link: exchange.meter().on(Either::Left(link)),
        exchange,
        heading: Heading {
            host: Host::parse("origin.test").unwrap(),
            port: 443,
            addresses: Vec::new(),
        },
        pipes: Pipes {
            of_run: Arc::clone(&session.pipes),
            of_all: Arc::clone(&session.pipes),
        },
    };
    let mut begun = client_hello("origin.test");
    let run = tunnel.run(&mut client, &mut begun, &limits);
    timeout(PATIENCE, run).await.expect("it is cut off");
    drop(tunnel);
    let record = records.lock().unwrap().pop().unwrap();
    assert_eq!(record.action, Action::Allow);
    assert_eq!(record.reason, "cut off: no byte passed for too long");
}
