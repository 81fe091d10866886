//! Open, close, change, stop; and one record for each request whatever ends it.

use std::{sync::Arc, time::Duration};

use isol8_core::egress::rules::Rules;
use isol8_egress::{Limits, Net, Resolver, Totals};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    rig::{
        Origin, PATIENCE, Proxy, assert_allowed, assert_blocked, only, open, read_all, read_answer,
        status, until,
    },
    tunnels::client_hello,
};

/// A tunnel through which the handshake came back.
pub(crate) async fn tunnel(proxy: &Proxy, host: &str, port: u16) -> TcpStream {
    let (mut stream, answer) = proxy.connect(&format!("{host}:{port}")).await;
    assert_eq!(status(&answer), 200);
    let hello = client_hello(host);
    stream.write_all(&hello).await.unwrap();
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    stream
}

#[tokio::test]
async fn close_ends_tunnels_and_reports_final_totals() {
    let origin = Origin::echo().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(tunnel(&proxy, "origin.test", origin.port).await);
    }
    let totals = proxy.gate.close().await;
    // Logged when it returns, not some time later.
    let records = proxy.records(20).await;
    let sum = |of: fn(&isol8_core::egress::record::Record) -> u64| records.iter().map(of).sum();
    assert_eq!(
        totals,
        Totals {
            requests: 20,
            blocked: 0,
            unlogged: 0,
            bytes_in: sum(|record| record.bytes_in),
            bytes_out: sum(|record| record.bytes_out),
        }
    );
    for record in &records {
        assert_allowed(record, "cut off: the run ended");
    }
    for mut stream in streams {
        read_all(&mut stream).await;
    }
    assert_eq!(proxy.gate.close().await, Totals::default());
}

#[tokio::test]
async fn close_ends_what_is_under_way_at_every_stage() {
    let silent = Origin::run("127.0.0.1:0", |mut stream, seen| async move {
        crate::rig::read_request(&mut stream).await;
        seen.lock().unwrap().push(String::new());
        std::future::pending::<()>().await;
    })
    .await;
    let resolver = Resolver::with(|name| {
        Box::pin(async move {
            if name == "slow.test" {
                std::future::pending::<()>().await;
            }
            Ok(vec!["127.0.0.1".parse().unwrap()])
        })
    });
    let proxy = Proxy::with(
        Net::direct(resolver),
        Limits::default(),
        Some(open(&[silent.port])),
    )
    .await;
    let port = silent.port;
    let mut streams = Vec::new();
    for request in [
        // Waits for an answer.
        format!("GET http://origin.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        // Uploads.
        format!(
            "POST http://origin.test:{port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
        ),
        // Resolves.
        format!("GET http://slow.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        // A tunnel without its handshake.
        format!("CONNECT origin.test:{port} HTTP/1.1\r\n\r\n"),
        // Half a head: never a request.
        "GET http://origin.test/ HTTP/1.1\r\n".to_owned(),
    ] {
        let mut stream = proxy.dial().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    until(|| !silent.seen().is_empty()).await;
    crate::rig::read_head(&mut streams[3]).await;
    // One that is idle.
    streams.push(proxy.dial().await);

    let totals = timeout(PATIENCE, proxy.gate.close()).await.unwrap();

    let records = proxy
        .records(usize::try_from(totals.requests).unwrap())
        .await;
    assert!((3..=4).contains(&records.len()), "{records:#?}");
    // The last ones may have been accepted only after that.
    for mut stream in streams.into_iter().take(4) {
        read_all(&mut stream).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let silent = Origin::run("127.0.0.1:0", |mut stream, seen| async move {
        crate::rig::read_request(&mut stream).await;
        seen.lock().unwrap().push("asked".to_owned());
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest).await;
        seen.lock().unwrap().push("told".to_owned());
    })
    .await;
    let proxy = Proxy::start(open(&[silent.port])).await;
    let mut stream = proxy.dial().await;
    let request = format!(
        "GET http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        silent.port
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    until(|| silent.seen().len() == 1).await;
    drop(stream);
    until(|| silent.seen().len() == 2).await;
    assert_allowed(&proxy.record().await, "cut off");
}

#[tokio::test]
async fn a_new_policy_ends_tunnels_to_what_it_refuses_and_no_others() {
    let origin = Origin::echo().await;
    let resolver = Resolver::with(|_| Box::pin(async { Ok(vec!["127.0.0.1".parse().unwrap()]) }));
    let ports = [origin.port];
    let proxy = Proxy::with(
        Net::direct(resolver),
        Limits::default(),
        Some(only(r"(one|two)\.test", &ports)),
    )
    .await;
    let mut one = tunnel(&proxy, "one.test", origin.port).await;
    let mut two = tunnel(&proxy, "two.test", origin.port).await;

    proxy
        .gate
        .open(Rules::compile(&only(r"one\.test", &ports)).unwrap());

    read_all(&mut two).await;
    let record = proxy.record().await;
    assert_eq!(record.host, "two.test");
    assert_allowed(&record, "cut off: the policy changed");
    one.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    one.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");

    // The same for an address that is no longer permitted.
    let elsewhere = isol8_core::egress::rules::Filter {
        allow_private: vec!["127.0.0.2".parse().unwrap()],
        ..only(r"one\.test", &ports)
    };
    proxy.gate.open(Rules::compile(&elsewhere).unwrap());
    read_all(&mut one).await;
    let records = proxy.records(2).await;
    assert_allowed(&records[1], "cut off: the policy changed");
    assert_eq!(proxy.gate.close().await.requests, 2);
}

#[tokio::test]
async fn a_new_policy_ends_a_plain_answer_too() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        crate::rig::read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = proxy.dial().await;
    let request = format!(
        "GET http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        origin.port
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    crate::rig::read_head(&mut stream).await;
    proxy
        .gate
        .open(Rules::compile(&only("nothing", &[80])).unwrap());
    read_all(&mut stream).await;
    assert_allowed(&proxy.record().await, "cut off: the policy changed");
}

#[tokio::test]
async fn connections_from_before_a_run_do_not_reach_into_it() {
    let proxy = Proxy::with(Net::direct(Resolver::system()), Limits::default(), None).await;
    let mut early = proxy.dial().await;
    early
        .write_all(b"GET http://early.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&read_answer(&mut early).await), 403);
    proxy.gate.open(Rules::compile(&open(&[80])).unwrap());
    assert_eq!(read_all(&mut early).await, "");
    assert_eq!(proxy.gate.close().await.requests, 0);
    assert_blocked(&proxy.record().await, "no policy is open");
}

#[tokio::test]
async fn stop_ends_the_connections_and_frees_the_port() {
    let origin = Origin::echo().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = tunnel(&proxy, "origin.test", origin.port).await;
    proxy.stop.cancel();
    proxy.tasks.close();
    timeout(PATIENCE, proxy.tasks.wait())
        .await
        .expect("serve returns");
    read_all(&mut stream).await;
    proxy.record().await;
    assert_eq!(proxy.gate.close().await.requests, 1);
    assert!(TcpStream::connect(proxy.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_storm_is_logged_once() {
    const CLIENTS: usize = 20;
    const EACH: usize = 25;
    let origin = Origin::hello().await;
    let proxy = Arc::new(Proxy::start(only(r"origin\.test", &[origin.port])).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (proxy, port) = (Arc::clone(&proxy), origin.port);
        clients.spawn(async move {
            for n in 0..EACH {
                let path = format!("/{client}-{n}");
                match n % 5 {
                    0 => {
                        let answer = proxy.get(&format!("http://origin.test:{port}{path}")).await;
                        assert_eq!(status(&answer), 200);
                    }
                    1 => {
                        let answer = proxy.get(&format!("http://evil.test:{port}{path}")).await;
                        assert_eq!(status(&answer), 403);
                    }
                    2 => {
                        proxy.say(format!("GET {path} HTTP/1.1\r\n\r\n")).await;
                    }
                    3 => {
                        proxy.connect(&format!("evil.test:{port}")).await;
                    }
                    // Leaves without reading.
                    _ => {
                        let mut stream = proxy.dial().await;
                        let head = format!(
                            "GET http://evil.test:{port}{path} HTTP/1.1\r\nHost: x\r\n\r\n"
                        );
                        stream.write_all(head.as_bytes()).await.unwrap();
                        stream.shutdown().await.unwrap();
                        read_all(&mut stream).await;
                    }
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let totals = proxy.gate.close().await;
    assert_eq!(totals.requests, (CLIENTS * EACH) as u64);
    let records = proxy.records(CLIENTS * EACH).await;
    let mut paths: Vec<&String> = records
        .iter()
        .filter_map(|record| record.path.as_ref())
        .collect();
    let count = paths.len();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), count);
}

/// A limit on files hits the listener itself; the proxy serves again as soon as
/// there are some. The test lowers the limit of its own process, so it stands
/// alone in it (one process per test under nextest).
#[tokio::test]
async fn no_files_left_is_waited_out() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let url = format!("http://origin.test:{}/", origin.port);
    // The client's own file must exist before there are none.
    let client = tokio::net::TcpSocket::new_v4().unwrap();
    let mut hoard = Vec::new();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum,
        },
    )
    .unwrap();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let mut stream = client.connect(proxy.address).await.unwrap();
    let request = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // It stays unanswered while there is no file for it.
    let mut byte = [0; 1];
    let early = timeout(Duration::from_millis(300), stream.read(&mut byte)).await;
    assert!(early.is_err(), "{early:?}");
    hoard.clear();
    assert_eq!(status(&read_all(&mut stream).await), 200);
}
