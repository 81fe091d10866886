//! Who may be reached.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use isol8_core::egress::rules::{Filter, Rules};
use isol8_egress::{Limits, Net, Resolver};
use tokio::io::AsyncWriteExt;

use crate::rig::{
    Origin, Proxy, assert_allowed, assert_blocked, names, only, open, read_answer, status,
};

#[tokio::test]
async fn an_allowed_host_is_reached_and_its_answer_passed_on() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;

    let answer = proxy
        .get(&format!("http://origin.test:{}/a?b=c", origin.port))
        .await;

    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    let seen = origin.seen().remove(0);
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains(&format!("host: origin.test:{}\r\n", origin.port)),
        "{seen}"
    );
    let record = proxy.record().await;
    assert_allowed(&record, "allowed");
    assert_eq!(
        (record.host.as_str(), record.port),
        ("origin.test", origin.port)
    );
    assert_eq!(
        (record.method.as_str(), record.path.as_deref()),
        ("GET", Some("/a?b=c"))
    );
    assert_eq!(record.bytes_out, seen.len() as u64);
    assert_eq!(record.bytes_in, 43);
}

/// Every spelling of a place that is not public, with everything allowed that
/// patterns can allow. None is dialled: nothing here leaves the machine.
#[tokio::test]
async fn no_spelling_of_a_private_address_is_dialled() {
    // (target, status, what the log calls the host)
    let table: &[(&str, u16, &str)] = &[
        ("169.254.169.254", 403, "169.254.169.254"),
        ("100.100.100.200", 403, "100.100.100.200"),
        ("168.63.129.16", 403, "168.63.129.16"),
        ("192.0.0.192", 403, "192.0.0.192"),
        ("[fd00:ec2::254]", 403, "fd00:ec2::254"),
        ("metadata.google.internal", 403, "metadata.google.internal"),
        ("2852039166", 403, "169.254.169.254"),
        ("0xa9fea9fe", 403, "169.254.169.254"),
        ("0251.0376.0251.0376", 403, "169.254.169.254"),
        ("169.254.43518", 403, "169.254.169.254"),
        ("127.1", 403, "127.0.0.1"),
        ("0", 403, "0.0.0.0"),
        ("0x7f.1", 403, "127.0.0.1"),
        ("\u{ff11}27.0.0.1", 400, ""),
        ("[::ffff:169.254.169.254]", 403, "169.254.169.254"),
        ("[::ffff:7f00:1]", 403, "127.0.0.1"),
        ("[2002:a9fe:a9fe::]", 403, "2002:a9fe:a9fe::"),
        ("[64:ff9b::a9fe:a9fe]", 403, "64:ff9b::a9fe:a9fe"),
        ("[::]", 403, "::"),
        ("[::1]", 403, "::1"),
        ("[fe80::1%25eth0]", 400, ""),
        ("[fe80::1]", 403, "fe80::1"),
        ("[ff02::1]", 403, "ff02::1"),
        ("10.0.0.1", 403, "10.0.0.1"),
        ("172.16.0.1", 403, "172.16.0.1"),
        ("172.31.255.255", 403, "172.31.255.255"),
        ("192.168.1.1", 403, "192.168.1.1"),
        ("100.64.0.1", 403, "100.64.0.1"),
        ("127.0.0.1", 403, "127.0.0.1"),
        ("0.1.2.3", 403, "0.1.2.3"),
        ("224.0.0.1", 403, "224.0.0.1"),
        ("240.0.0.1", 403, "240.0.0.1"),
        ("255.255.255.255", 403, "255.255.255.255"),
        ("172.17.0.1", 403, "172.17.0.1"),
        ("256.1.1.1", 400, ""),
        ("1.2.3.4.5", 400, ""),
        ("0x", 403, "0.0.0.0"),
    ];
    let filter = Filter {
        allow_private: Vec::new(),
        ..only(".*", &[80, 443])
    };
    for (host, expected, logged) in table {
        for tunnel in [false, true] {
            let proxy = Proxy::start(filter.clone()).await;
            let answer = if tunnel {
                proxy.connect(&format!("{host}:443")).await.1
            } else {
                proxy.get(&format!("http://{host}/")).await
            };
            assert_eq!(status(&answer), *expected, "{host}: {answer}");
            let record = proxy.record().await;
            assert_blocked(&record, "");
            assert_eq!((record.bytes_in, record.bytes_out), (0, 0));
            if *expected == 403 {
                assert_eq!(record.host, *logged);
            }
        }
    }
}

#[tokio::test]
async fn names_have_one_form_and_patterns_fit_the_whole_of_it() {
    let origin = Origin::hello().await;
    let ports = [origin.port];
    let exact = only(r"origin\.test", &ports);
    let careless = only("origin.test", &ports);
    let denied = Filter {
        deny: vec![r"^origin\.test$".to_owned()],
        ..open(&ports)
    };
    let both = Filter {
        deny: vec!["origin".to_owned()],
        ..exact.clone()
    };
    let registry = Filter {
        registries: vec!["origin.test".to_owned()],
        ..open(&ports)
    };
    let table: &[(&str, &Filter, u16)] = &[
        ("origin.test", &exact, 200),
        ("ORIGIN.test", &exact, 200),
        ("origin.test.", &exact, 200),
        ("ORIGIN.TEST.", &exact, 200),
        ("origin.test..", &exact, 400),
        (".origin.test", &exact, 400),
        ("a..origin.test", &exact, 400),
        ("", &exact, 400),
        ("origin.test%2e", &exact, 400),
        ("origin%2etest", &exact, 400),
        ("origin.test\\x", &exact, 400),
        ("origin.test;x", &exact, 400),
        ("origin.test.evil.test", &exact, 403),
        ("evil-origin.test", &exact, 403),
        ("originxtest", &exact, 403),
        // An unescaped dot is any character; it never opens more than one.
        ("originxtest", &careless, 502),
        ("origin.test.evil.test", &careless, 403),
        ("origin.test", &denied, 403),
        ("ORIGIN.TEST.", &denied, 403),
        ("origin.test..", &denied, 400),
        ("origin.test", &both, 403),
        ("origin.test", &registry, 200),
        ("x.origin.test", &registry, 403),
    ];
    for (host, filter, expected) in table {
        let proxy = Proxy::start((*filter).clone()).await;
        let answer = proxy.get(&format!("http://{host}:{}/", origin.port)).await;
        assert_eq!(status(&answer), *expected, "{host} {filter:?}: {answer}");
        proxy.record().await;
    }
}

#[tokio::test]
async fn a_refusal_names_the_host_and_nothing_else() {
    let proxy = Proxy::start(only("nothing", &[80])).await;
    let answer = proxy.get("http://EVIL.test./").await;
    let line = "isol8: request to evil.test blocked by network filter\n";
    assert!(answer.ends_with(&format!("\r\n\r\n{line}")), "{answer}");
    let record = proxy.record().await;
    assert_blocked(&record, "not in the allow list");
    assert_eq!(record.host, "evil.test");
}

#[tokio::test]
async fn ports_are_those_that_were_listed() {
    let origin = Origin::hello().await;
    for port in [22, 25, 853, 2375, 8443] {
        let proxy = Proxy::start(open(&[80, 443, origin.port])).await;
        let (_, answer) = proxy.connect(&format!("origin.test:{port}")).await;
        assert_eq!(status(&answer), 403, "{port}");
        assert_blocked(&proxy.record().await, &format!("port {port}"));
        let answer = proxy.get(&format!("http://origin.test:{port}/")).await;
        assert_eq!(status(&answer), 403, "{port}");
    }
}

#[tokio::test]
async fn a_name_whose_address_is_refused_is_refused() {
    let resolver = names(&[
        ("inside.test", &["10.0.0.1"]),
        ("meta.test", &["169.254.169.254"]),
        ("six.test", &["::1", "fd00::1"]),
        ("mapped.test", &["::ffff:10.0.0.1"]),
    ]);
    let filter = Filter {
        allow_private: Vec::new(),
        ..only(".*", &[80, 443])
    };
    let proxy = Proxy::with(Net::direct(resolver), Limits::default(), Some(filter)).await;
    for (index, host) in ["inside", "meta", "six", "mapped"].iter().enumerate() {
        let answer = proxy.get(&format!("http://{host}.test/")).await;
        assert_eq!(status(&answer), 403, "{host}: {answer}");
        let records = proxy.records(index + 1).await;
        assert_blocked(&records[index], "address");
    }
}

#[tokio::test]
async fn of_mixed_answers_only_the_permitted_is_dialled() {
    let trap = Origin::answering("trap").await;
    let port = trap.port;
    let origin = Origin::answering_at(
        &format!("127.0.0.2:{port}"),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let resolver = names(&[("mixed.test", &["10.0.0.1", "127.0.0.1", "127.0.0.2"])]);
    let filter = Filter {
        allow_private: vec!["127.0.0.2".parse().unwrap()],
        ..only(".*", &[port])
    };
    let proxy = Proxy::with(Net::direct(resolver), Limits::default(), Some(filter)).await;
    let answer = proxy.get(&format!("http://mixed.test:{port}/")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!((origin.seen().len(), trap.seen().len()), (1, 0));
}

/// 127.0.0.2 stands for the public address of a name that turns into
/// 127.0.0.1 between a check and a connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_rebinds_never_reaches_what_is_refused() {
    const TRIES: usize = 1000;
    let trap = Origin::answering("trap").await;
    let port = trap.port;
    let origin = Origin::answering_at(
        &format!("127.0.0.2:{port}"),
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let resolver = Resolver::with(move |_| {
        let odd = count.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let address = if odd { "127.0.0.1" } else { "127.0.0.2" };
        async move { Ok(vec![address.parse().unwrap()]) }.boxed()
    });
    let filter = Filter {
        allow_private: vec!["127.0.0.2".parse().unwrap()],
        ..only(".*", &[port])
    };
    let proxy = Proxy::with(Net::direct(resolver), Limits::default(), Some(filter)).await;
    let mut stream = proxy.dial().await;
    let mut reached = 0;
    for _ in 0..TRIES {
        let request = format!("GET http://re.test:{port}/ HTTP/1.1\r\nHost: re.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        match status(&read_answer(&mut stream).await) {
            200 => reached += 1,
            403 => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(trap.seen().len(), 0);
    assert_eq!((reached, origin.seen().len()), (TRIES / 2, TRIES / 2));
    assert_eq!(
        asked.load(Ordering::Relaxed),
        TRIES,
        "resolved once per request"
    );
    proxy.records(TRIES).await;
}

#[tokio::test]
async fn every_request_of_a_connection_is_judged() {
    let origin = Origin::hello().await;
    let port = origin.port;
    let proxy = Proxy::start(only(r"origin\.test", &[port])).await;
    let mut stream = proxy.dial().await;
    for (host, expected) in [
        ("origin.test", 200),
        ("evil.test", 403),
        ("origin.test", 200),
    ] {
        let request = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: origin.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&read_answer(&mut stream).await), expected, "{host}");
    }
    assert_eq!(origin.seen().len(), 2);
    let records = proxy.records(3).await;
    assert_blocked(&records[1], "not in the allow list");
}

#[tokio::test]
async fn the_target_decides_and_the_origin_is_told_it() {
    let origin = Origin::hello().await;
    let port = origin.port;
    let proxy = Proxy::start(only(r"origin\.test", &[port])).await;
    let answer = proxy
        .say(format!(
            "GET http://origin.test:{port}/ HTTP/1.1\r\nHost: evil.test\r\nConnection: close, X-Hop\r\n\
             X-Hop: 1\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n\
             Upgrade: websocket\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-End: 2\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = origin.seen().remove(0);
    assert_eq!(
        seen,
        format!("GET / HTTP/1.1\r\nx-end: 2\r\nhost: origin.test:{port}\r\n\r\n")
    );
    assert_eq!(proxy.record().await.host, "origin.test");
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_its_target_judged_as_a_request() {
    let origin = Origin::answering(
        "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\
         Connection: close\r\nKeep-Alive: 5\r\n\r\n",
    )
    .await;
    let proxy = Proxy::start(open(&[80, origin.port])).await;
    let answer = proxy
        .get(&format!("http://origin.test:{}/", origin.port))
        .await;
    assert_eq!(status(&answer), 302);
    assert!(
        !answer.to_ascii_lowercase().contains("keep-alive"),
        "{answer}"
    );
    let target = answer
        .lines()
        .find_map(|line| line.strip_prefix("location: "))
        .unwrap();
    let answer = proxy.get(target).await;
    assert_eq!(status(&answer), 403);
    assert_blocked(&proxy.records(2).await[1], "metadata");
}

#[tokio::test]
async fn what_cannot_be_reached_is_502_with_the_reason() {
    // Bound, so that it stays ours, and not listening.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = dead.local_addr().unwrap().port();
    let resolver = Resolver::with(|name| match name.as_str() {
        "slow.test" => std::future::pending().boxed(),
        "empty.test" => async { Ok(Vec::new()) }.boxed(),
        "gone.test" => async { Ok(vec!["127.0.0.1".parse().unwrap()]) }.boxed(),
        _ => async { Err(std::io::Error::other("NXDOMAIN")) }.boxed(),
    });
    let limits = Limits {
        resolve: std::time::Duration::from_millis(50),
        ..Limits::default()
    };
    let proxy = Proxy::with(Net::direct(resolver), limits, Some(open(&[port]))).await;
    let table = [
        ("gone.test", "connection refused"),
        ("slow.test", "the name did not resolve in time"),
        ("empty.test", "the name does not resolve"),
        ("nowhere.test", "the name does not resolve"),
    ];
    for (index, (host, why)) in table.iter().enumerate() {
        let answer = proxy.get(&format!("http://{host}:{port}/")).await;
        assert_eq!(status(&answer), 502, "{answer}");
        let line = format!("\r\n\r\nisol8: cannot reach {host}: {why}\n");
        assert!(answer.ends_with(&line), "{answer}");
        assert_allowed(&proxy.records(index + 1).await[index], why);
    }
    let (_, answer) = proxy.connect(&format!("gone.test:{port}")).await;
    assert_eq!(status(&answer), 502);
}

#[tokio::test]
async fn an_origin_that_does_not_speak_http_is_502() {
    let table = [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    for answer in table {
        let origin = Origin::answering(answer).await;
        let proxy = Proxy::start(open(&[origin.port])).await;
        let got = proxy
            .get(&format!("http://origin.test:{}/", origin.port))
            .await;
        assert_eq!(status(&got), 502, "{answer:?}: {got}");
        assert_allowed(&proxy.record().await, "no valid answer");
    }
}

#[tokio::test]
async fn a_closed_gate_refuses_everything() {
    let origin = Origin::hello().await;
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let proxy = Proxy::with(net, Limits::default(), None).await;
    let url = format!("http://origin.test:{}/", origin.port);
    assert_eq!(status(&proxy.get(&url).await), 403);
    assert_blocked(&proxy.record().await, "no policy is open");
    proxy
        .gate
        .open(Rules::compile(&open(&[origin.port])).unwrap());
    assert_eq!(status(&proxy.get(&url).await), 200);
    let totals = proxy.gate.close().await;
    assert_eq!((totals.requests, totals.blocked), (1, 0));
    assert_eq!(status(&proxy.get(&url).await), 403);
    proxy.records(3).await;
    assert_eq!(origin.seen().len(), 1);
}
