//! What one sandbox may use, and for how long.

use std::time::Duration;

use isol8_egress::{Limits, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{
        Origin, Proxy, assert_allowed, assert_blocked, names, open, read_all, read_answer, status,
        until,
    },
    tunnels::client_hello,
};

async fn with(limits: Limits, ports: &[u16]) -> Proxy {
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    Proxy::with(net, limits, Some(open(ports))).await
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_one_that_ends_makes_room() {
    let origin = Origin::hello().await;
    let proxy = with(
        Limits {
            connections: 3,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let url = format!("http://origin.test:{}/", origin.port);
    let request = format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = proxy.dial().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&read_answer(&mut stream).await), 200);
        held.push(stream);
    }
    let answer = proxy.get(&url).await;
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(
        answer.ends_with("isol8: too many connections\n"),
        "{answer}"
    );
    let record = proxy.records(4).await.remove(3);
    assert_blocked(&record, "too many connections");
    assert_eq!(record.host, "");
    held.pop();
    let mut tries = 0;
    while status(&proxy.get(&url).await) != 200 {
        tries += 1;
        assert!(tries < 1000, "a place becomes free");
    }
}

#[tokio::test]
async fn one_sandbox_at_its_limit_is_not_in_the_way_of_another() {
    let origin = Origin::hello().await;
    let full = with(
        Limits {
            connections: 0,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let other = with(Limits::default(), &[origin.port]).await;
    let url = format!("http://origin.test:{}/", origin.port);
    for _ in 0..200 {
        assert_eq!(status(&full.get(&url).await), 429);
    }
    assert_eq!(status(&other.get(&url).await), 200);
    full.records(200).await;
}

#[tokio::test]
async fn a_slow_head_is_408_however_it_trickles() {
    let limits = Limits {
        head: SOON,
        ..Limits::default()
    };
    let proxy = with(limits, &[80]).await;
    let mut stream = proxy.dial().await;
    let (mut read, mut write) = stream.split();
    let trickle = async {
        write
            .write_all(b"GET http://origin.test/ HTTP/1.1\r\nX: ")
            .await
            .unwrap();
        for byte in [b'y'; 500] {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        () = trickle => unreachable!("it trickles for ever"),
        answer = read_all(&mut read) => answer,
    };
    assert_eq!(status(&answer), 408, "{answer}");
    let record = proxy.record().await;
    assert_blocked(&record, "did not arrive in time");
    assert_eq!(
        (record.method.as_str(), record.host.as_str()),
        ("GET", "origin.test")
    );
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let proxy = with(
        Limits {
            head: SOON,
            ..Limits::default()
        },
        &[80],
    )
    .await;
    assert_eq!(read_all(&mut proxy.dial().await).await, "");
    proxy.records(0).await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_when_it_idles() {
    let origin = Origin::hello().await;
    let proxy = with(
        Limits {
            idle: SOON,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let mut stream = proxy.dial().await;
    let request = format!(
        "GET http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        origin.port
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&read_answer(&mut stream).await), 200);
    assert_eq!(read_all(&mut stream).await, "");
    proxy.record().await;
}

#[tokio::test]
async fn an_origin_that_thinks_longer_than_the_idle_time_is_waited_for() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        crate::rig::read_request(&mut stream).await;
        tokio::time::sleep(SOON * 4).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let limits = Limits {
        idle: SOON,
        head: SOON,
        ..Limits::default()
    };
    let proxy = with(limits, &[origin.port]).await;
    let answer = proxy
        .get(&format!("http://origin.test:{}/", origin.port))
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
}

#[tokio::test]
async fn an_exchange_that_stands_still_is_cut_off() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        crate::rig::read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = with(
        Limits {
            stall: SOON,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let answer = proxy
        .get(&format!("http://origin.test:{}/", origin.port))
        .await;
    assert!(answer.ends_with("half"), "{answer}");
    assert_allowed(&proxy.record().await, "cut off");
}

#[tokio::test]
async fn the_bytes_of_a_run_end() {
    let big = "x".repeat(100_000);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{big}",
        big.len()
    );
    let origin = Origin::answering(&answer).await;
    let echo = Origin::echo().await;
    let limits = Limits {
        bytes: 150_000,
        ..Limits::default()
    };
    let proxy = with(limits, &[origin.port, echo.port]).await;
    let url = format!("http://origin.test:{}/", origin.port);

    assert!(proxy.get(&url).await.ends_with(&big));
    let cut = proxy.get(&url).await;
    assert!(cut.len() < answer.len(), "{}", cut.len());
    let after = proxy.get(&url).await;
    assert_eq!(status(&after), 429, "{after}");
    let (_, tunnel) = proxy.connect(&format!("origin.test:{}", echo.port)).await;
    assert_eq!(status(&tunnel), 429);
    let records = proxy.records(4).await;
    assert_allowed(&records[0], "every public host is open");
    assert_allowed(&records[1], "cut off: the byte limit of the run is reached");
    assert_blocked(&records[2], "the byte limit of the run is reached");
    let totals = proxy.gate.close().await;
    let logged: u64 = records.iter().map(|record| record.bytes_in).sum();
    assert_eq!(
        (totals.requests, totals.blocked, totals.bytes_in),
        (4, 2, logged)
    );
    // One read of a socket may go over, and no more.
    assert!(totals.bytes_in < 150_000 + 70_000, "{totals:?}");
    // The next run begins at zero.
    proxy
        .gate
        .open(isol8_core::egress::rules::Rules::compile(&open(&[origin.port])).unwrap());
    assert!(proxy.get(&url).await.ends_with(&big));
}

#[tokio::test]
async fn a_tunnel_ends_with_the_bytes_of_the_run() {
    let origin = Origin::echo().await;
    let limits = Limits {
        bytes: 200_000,
        ..Limits::default()
    };
    let proxy = with(limits, &[origin.port]).await;
    let (stream, _) = proxy.connect(&format!("origin.test:{}", origin.port)).await;
    let (mut read, mut write) = stream.into_split();
    let send = async {
        let _cut = write.write_all(&client_hello("origin.test")).await;
        while write.write_all(&[7; 10_000]).await.is_ok() {}
    };
    let receive = async {
        let mut bytes = Vec::new();
        let _reset = read.read_to_end(&mut bytes).await;
    };
    tokio::join!(send, receive);
    let record = proxy.record().await;
    assert_allowed(&record, "cut off: the byte limit of the run is reached");
    assert!(
        record.bytes_in + record.bytes_out < 200_000 + 2 * 70_000,
        "{record:?}"
    );
}

#[tokio::test]
async fn when_the_log_is_full_nothing_passes_unlogged() {
    let origin = Origin::hello().await;
    let proxy = with(
        Limits {
            log_bytes: 1000,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let url = format!("http://origin.test:{}/", origin.port);
    let mut passed = 0;
    while status(&proxy.get(&url).await) == 200 {
        passed += 1;
        assert!(passed < 20, "the log never fills");
    }
    for _ in 0..10 {
        assert_eq!(status(&proxy.get(&url).await), 429);
    }
    assert_eq!(status(&proxy.say("nonsense\r\n\r\n").await), 400);
    // One record says that it is full.
    let records = proxy.records(passed + 1).await;
    assert_blocked(&records[passed], "the network log of the run is full");
    assert_eq!(origin.seen().len(), passed);
    let totals = proxy.gate.close().await;
    assert_eq!(totals.unlogged, 11);
    assert_eq!(totals.requests, passed as u64 + 12);
}

/// A program that asks and never reads holds a connection and bounded memory,
/// and loses both when nothing moves.
#[tokio::test]
async fn a_program_that_does_not_read_is_cut_off() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, seen| async move {
        crate::rig::read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await
            .unwrap();
        let piece = vec![b'x'; 64 << 10];
        while stream.write_all(&piece).await.is_ok() {}
        seen.lock().unwrap().push("over".to_owned());
    })
    .await;
    let proxy = with(
        Limits {
            stall: SOON,
            ..Limits::default()
        },
        &[origin.port],
    )
    .await;
    let mut stream = proxy.dial().await;
    let request = format!(
        "GET http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        origin.port
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let record = proxy.record().await;
    assert_allowed(&record, "cut off");
    assert!(record.bytes_in < 100 << 20, "{record:?}");
    until(|| !origin.seen().is_empty()).await;
}
