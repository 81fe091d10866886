//! What is not one request in the eyes of every reader is no request.

use isol8_egress::{Limits, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Origin, Proxy, assert_allowed, assert_blocked, names, only, read_all, status};

/// What may follow a head that is refused, and must never be served.
const SMUGGLED: &str = "GET http://origin.test:PORT/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// The answer to `head`, sent with an allowed request right behind it; the
/// origin must see neither.
async fn refused(head: &[u8], expected: u16, why: &str) {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let port = origin.port.to_string();
    let mut bytes = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(4).position(|four| four == b"PORT") {
        bytes.extend_from_slice(&rest[..at]);
        bytes.extend_from_slice(port.as_bytes());
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest);
    let shown = bytes.escape_ascii().to_string();
    bytes.extend_from_slice(SMUGGLED.replace("PORT", &port).as_bytes());

    let answer = proxy.say(&bytes).await;

    assert_eq!(status(&answer), expected, "{shown}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}: {answer}");
    assert!(
        answer.contains("connection: close\r\n"),
        "{shown}: {answer}"
    );
    assert!(answer.contains("\r\n\r\nisol8: "), "{shown}: {answer}");
    assert_blocked(&proxy.record().await, why);
    assert_eq!(origin.seen(), Vec::<String>::new(), "{shown}");
}

const GET: &str = "GET http://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n";
const POST: &str = "POST http://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n";

#[tokio::test]
async fn heads_that_two_readers_could_read_differently_are_refused() {
    let table: &[(String, &str)] = &[
        // Lines.
        (format!("{GET}A: b\n\r\n"), "CR LF"),
        (format!("{GET}A: b\rC: d\r\n\r\n"), "CR LF"),
        (
            "GET http://origin.test:PORT/ HTTP/1.1\nHost: x\n\n".to_owned(),
            "CR LF",
        ),
        (format!("\r\n{GET}\r\n"), "request line"),
        (format!("{GET} folded\r\n\r\n"), "header field"),
        (format!("{GET}\tfolded\r\n\r\n"), "header field"),
        (format!("{GET}A : b\r\n\r\n"), "header field"),
        (format!("{GET}A\r\n\r\n"), "header field"),
        (format!("{GET}: b\r\n\r\n"), "header field"),
        (format!("{GET}A(: b\r\n\r\n"), "header field"),
        (format!("{GET}A: b\0c\r\n\r\n"), "control byte"),
        (format!("{GET}A: b\x1bc\r\n\r\n"), "control byte"),
        (format!("{GET}A: b\x7fc\r\n\r\n"), "control byte"),
        // The request line.
        (
            "GET  http://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/ HTTP/1.1 \r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/ HTTP/0.9\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/ HTTP/1.2\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/ HTTP/2.0\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/ http/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "G\u{e9}T http://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        (
            "GET http://origin.test:PORT/\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "request line",
        ),
        // Where it goes.
        (
            "GET / HTTP/1.1\r\nHost: origin.test:PORT\r\n\r\n".to_owned(),
            "not a proxy request",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: origin.test:PORT\r\n\r\n".to_owned(),
            "not a proxy request",
        ),
        (
            "GET origin.test:PORT HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a proxy request",
        ),
        (
            "GET //origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a proxy request",
        ),
        (
            "GET http:/origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a proxy request",
        ),
        (
            "GET https://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "needs CONNECT",
        ),
        (
            "GET wss://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "scheme",
        ),
        (
            "GET ftp://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "scheme",
        ),
        (
            "GET http://u@origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "user name",
        ),
        (
            "GET http://origin.test:PORT@evil.test/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "user name",
        ),
        (
            "GET http://evil.test\\@origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "user name",
        ),
        (
            "GET http://evil.test#@origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a path",
        ),
        (
            "GET http://origin.test:PORT/#a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a path",
        ),
        (
            "GET http:///x HTTP/1.1\r\nHost: origin.test\r\n\r\n".to_owned(),
            "not a host",
        ),
        (
            "GET http://origin.test:/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "GET http://origin.test:0/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "GET http://origin.test:65536/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "GET http://origin.test:+80/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "GET http://origin.test:80:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a host",
        ),
        (
            "GET http://[::1]x:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a host",
        ),
        (
            "GET http://::1/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "not a",
        ),
        // Host.
        (
            "GET http://origin.test:PORT/ HTTP/1.1\r\n\r\n".to_owned(),
            "`Host`",
        ),
        (format!("{GET}Host: origin.test\r\n\r\n"), "`Host`"),
        (format!("{GET}host: x\r\n\r\n"), "`Host`"),
        // CONNECT.
        (
            "CONNECT origin.test HTTP/1.1\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "CONNECT http://origin.test:PORT HTTP/1.1\r\n\r\n".to_owned(),
            "not a",
        ),
        (
            "CONNECT origin.test:PORT/x HTTP/1.1\r\n\r\n".to_owned(),
            "not a port",
        ),
        (
            "CONNECT u@origin.test:PORT HTTP/1.1\r\n\r\n".to_owned(),
            "user name",
        ),
        (
            "CONNECT /masque/udp/origin.test/443/ HTTP/1.1\r\n\r\n".to_owned(),
            "not a",
        ),
        (
            "CONNECT origin.test:PORT HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            "with a body",
        ),
        (
            "CONNECT origin.test:PORT HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "with a body",
        ),
        (
            "CONNECT origin.test:PORT HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
            "`Host`",
        ),
    ];
    for (head, why) in table {
        refused(head.as_bytes(), 400, why).await;
    }
}

#[tokio::test]
async fn framing_that_two_readers_could_read_differently_is_refused() {
    let both = "both";
    let (length, encoding) = ("`Content-Length`", "`Transfer-Encoding`");
    let table: &[(&str, &str)] = &[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            both,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            both,
        ),
        (
            "Content-Length: 0\r\nTransfer-Encoding: identity\r\n\r\n",
            both,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            length,
        ),
        (
            "Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
            length,
        ),
        ("Content-Length: 5, 5\r\n\r\nhello", length),
        ("Content-Length: +5\r\n\r\nhello", length),
        ("Content-Length: -5\r\n\r\nhello", length),
        ("Content-Length: 0x5\r\n\r\nhello", length),
        ("Content-Length: 5 5\r\n\r\nhello", length),
        ("Content-Length: \r\n\r\n", length),
        ("Content-Length: 99999999999999999999\r\n\r\n", length),
        ("Transfer-Encoding: identity\r\n\r\n", encoding),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            encoding,
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            encoding,
        ),
        (
            "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            encoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            encoding,
        ),
        ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", encoding),
        ("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", encoding),
        ("Transfer-Encoding:\r\n\r\n", encoding),
        (
            "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "header field",
        ),
        (
            "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
            "header field",
        ),
        (
            "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "header field",
        ),
        ("X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "CR LF"),
        (
            "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            "control byte",
        ),
    ];
    for (fields, why) in table {
        refused(format!("{POST}{fields}").as_bytes(), 400, why).await;
    }
    let old =
        "POST http://origin.test:PORT/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(old.as_bytes(), 400, encoding).await;
}

#[tokio::test]
async fn a_chunked_body_must_be_plain() {
    let bad = [
        "5;ext=1\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "0\r\nTrailer: a\nB: c\r\n\r\n",
        "0\r\nTrailer: a\0\r\n\r\n",
    ];
    for body in bad {
        let origin = Origin::hello().await;
        let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
        let port = origin.port.to_string();
        let head = POST.replace("PORT", &port);
        let smuggled = SMUGGLED.replace("PORT", &port);
        let answer = proxy
            .say(format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{body}{smuggled}"
            ))
            .await;
        assert_eq!(status(&answer), 400, "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
        assert_blocked(&proxy.record().await, "chunked");
        assert!(
            origin.seen().iter().all(|seen| !seen.contains("smuggled")),
            "{body:?}"
        );
    }
}

#[tokio::test]
async fn what_is_plain_passes() {
    let table = [
        (
            "Content-Length: 5\r\n\r\nhello",
            "content-length: 5\r\n",
            "\r\n\r\nhello",
        ),
        (
            "Content-Length: 0\r\n\r\n",
            "content-length: 0\r\n",
            "\r\n\r\n",
        ),
        ("\r\n", "content-length: 0\r\n", "\r\n\r\n"),
        (
            "Transfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\nX-Evil: 1\r\n\r\n",
            "transfer-encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "Content-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
            "content-length: 2\r\n",
            "hi",
        ),
    ];
    for (fields, framed, end) in table {
        let origin = Origin::hello().await;
        let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
        let head = POST.replace("PORT", &origin.port.to_string());
        let answer = proxy
            .say(format!("{head}Connection: close\r\n{fields}"))
            .await;
        let last = answer.rsplit("HTTP/1.1 ").next().unwrap();
        assert!(last.starts_with("200 OK"), "{fields:?}: {answer}");
        let seen = origin.seen().remove(0);
        assert!(seen.contains(framed), "{seen}");
        assert!(seen.ends_with(end), "{seen}");
        assert!(
            !seen.contains("X-Evil") && !seen.contains("expect"),
            "{seen}"
        );
        assert_allowed(&proxy.record().await, "allowed");
    }
}

#[tokio::test]
async fn bodies_pass_whole_in_any_pieces() {
    let body = "abcdefghijklmnopqrstuvwxyz".repeat(8_000);
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let mut stream = proxy.dial().await;
    let mut message = POST.replace("PORT", &origin.port.to_string()).into_bytes();
    message.extend_from_slice(
        format!(
            "Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    for piece in message.chunks(7919) {
        stream.write_all(piece).await.unwrap();
    }
    assert_eq!(status(&read_all(&mut stream).await), 200);
    assert!(origin.seen()[0].ends_with(&body));
    assert!(proxy.record().await.bytes_out >= body.len() as u64);
}

#[tokio::test]
async fn pipelined_requests_are_each_judged_and_answered_in_order() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let port = origin.port;
    let hosts = [
        "origin.test",
        "evil.test",
        "origin.test",
        "other.test",
        "origin.test",
    ];
    let mut bytes = String::new();
    for (index, host) in hosts.iter().enumerate() {
        bytes.push_str(&format!(
            "POST http://{host}:{port}/{index} HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 2\r\n\r\nhi"
        ));
    }
    bytes.push_str(&format!(
        "GET http://evil.test:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ));
    let answer = proxy.say(bytes).await;
    let statuses: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|part| &part[..3])
        .collect();
    assert_eq!(
        statuses,
        ["200", "403", "200", "403", "200", "403"],
        "{answer}"
    );
    assert_eq!(origin.seen().len(), 3);
    proxy.records(6).await;
}

#[tokio::test]
async fn a_refused_head_behind_a_good_one_is_answered_after_it() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let good = GET.replace("PORT", &origin.port.to_string());
    let answer = proxy
        .say(format!(
            "{good}\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n{good}\r\n"
        ))
        .await;
    let statuses: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|part| &part[..3])
        .collect();
    assert_eq!(statuses, ["200", "400"], "{answer}");
    let records = proxy.records(2).await;
    assert_allowed(&records[0], "allowed");
    assert_blocked(&records[1], "not a proxy request");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn trace_is_not_allowed() {
    let head = "TRACE http://origin.test:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n";
    refused(head.as_bytes(), 405, "method").await;
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let long = "a".repeat(70_000);
    let filled = "a".repeat(60_000);
    let big = format!("{GET}A: {long}\r\n\r\n");
    refused(big.as_bytes(), 431, "64 KiB").await;
    let path = format!("GET http://origin.test:PORT/{long} HTTP/1.1\r\nHost: x\r\n\r\n");
    refused(path.as_bytes(), 431, "64 KiB").await;
    let endless = format!("{GET}{}", format!("A: {filled}\r\n").repeat(17));
    refused(endless.as_bytes(), 431, "64 KiB").await;
    let many = format!("{GET}{}\r\n", "A: b\r\n".repeat(100));
    refused(many.as_bytes(), 431, "100 headers").await;
}

#[tokio::test]
async fn a_hundred_headers_and_a_long_head_pass() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let get = GET.replace("PORT", &origin.port.to_string());
    let many = format!("{get}Connection: close\r\n{}\r\n", "A: b\r\n".repeat(98));
    assert_eq!(status(&proxy.say(many).await), 200);
    let long = format!(
        "{get}Connection: close\r\nA: {}\r\n\r\n",
        "a".repeat(60_000)
    );
    assert_eq!(status(&proxy.say(long).await), 200);
    assert!(origin.seen()[1].contains(&"a".repeat(60_000)));
}

#[tokio::test]
async fn http_1_0_is_answered_as_such() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let answer = proxy
        .say(format!(
            "GET http://origin.test:{}/ HTTP/1.0\r\n\r\n",
            origin.port
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn a_head_answer_has_no_body_and_is_whole() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let answer = proxy
        .say(format!(
            "HEAD http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            origin.port
        ))
        .await;
    assert!(
        answer.contains("content-length: 500\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert_eq!(proxy.record().await.reason, "allowed");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_off_and_logged() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort").await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;
    let answer = proxy
        .get(&format!("http://origin.test:{}/", origin.port))
        .await;
    assert!(answer.ends_with("short"), "{answer}");
    assert_allowed(&proxy.record().await, "cut off");
}

#[tokio::test]
async fn half_a_head_is_logged_and_told() {
    for (half, host) in [
        ("GET http://origin.test/ HT", "origin.test"),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: x\r\n", "evil.test"),
        ("G", ""),
    ] {
        let proxy = Proxy::start(only("x", &[80])).await;
        let mut stream = proxy.dial().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(status(&read_all(&mut stream).await), 400);
        let record = proxy.record().await;
        assert_blocked(&record, "ended inside");
        assert_eq!(record.host, host);
    }
}

#[tokio::test]
async fn a_connection_without_a_word_is_no_request() {
    let proxy = Proxy::start(only("x", &[80])).await;
    let mut stream = proxy.dial().await;
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    proxy.records(0).await;
}

#[tokio::test]
async fn records_are_short_and_plain_whatever_was_sent() {
    let proxy = Proxy::start(only("x", &[80])).await;
    let long = "a".repeat(40_000);
    proxy.get(&format!("http://evil.test/\"{long}")).await;
    proxy
        .say(b"GET http://\xff\"\xc2\x85{}/ HTTP/1.1\r\n\r\n")
        .await;
    proxy.say(format!("{long} {long} HTTP/1.1\r\n\r\n")).await;
    let records = proxy.records(3).await;
    let path = records[0].path.as_ref().unwrap();
    assert!(path.ends_with('…'), "it says that it was cut");
    assert_eq!(path.trim_end_matches('…').len(), 1024);
    for record in records {
        assert!(record.to_json().len() < 2048, "{}", record.to_json());
    }
}

/// The origin is told of a client that leaves in the middle of its body: its
/// own end of the request breaks off and no half a body passes for a whole.
#[tokio::test]
async fn half_a_body_is_never_a_whole_one() {
    let origin = Origin::run("127.0.0.1:0", |mut stream, seen| async move {
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes).await;
        seen.lock().unwrap().push(String::from_utf8(bytes).unwrap());
    })
    .await;
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let proxy = Proxy::with(
        net,
        Limits::default(),
        Some(only(r"origin\.test", &[origin.port])),
    )
    .await;
    let head = POST.replace("PORT", &origin.port.to_string());
    let mut stream = proxy.dial().await;
    let half = format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    stream.write_all(half.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    read_all(&mut stream).await;
    proxy.record().await;
    crate::rig::until(|| !origin.seen().is_empty()).await;
    assert!(
        !origin.seen()[0].contains("\r\n0\r\n\r\n"),
        "{:?}",
        origin.seen()
    );
}

async fn towards(origin: &Origin) -> Proxy {
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let filter = only(r"origin\.test", &[origin.port]);
    Proxy::with(net, Limits::default(), Some(filter)).await
}

#[tokio::test]
async fn a_body_arrives_whatever_the_method() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let proxy = towards(&origin).await;
    for method in ["GET", "DELETE", "POST"] {
        let said = format!(
            "{method} http://origin.test:{}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            origin.port
        );
        assert_eq!(status(&proxy.say(said).await), 200, "{method}");
        let seen = origin.seen().pop().expect("it came");
        assert!(seen.contains("hello"), "{method}: {seen}");
    }
}

#[tokio::test]
async fn an_answer_in_another_coding_is_no_answer() {
    for coding in ["gzip, chunked", "gzip", "chunked, chunked"] {
        let origin = Origin::answering(&format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        ))
        .await;
        let proxy = towards(&origin).await;
        let answer = proxy
            .get(&format!("http://origin.test:{}/", origin.port))
            .await;
        assert_eq!(status(&answer), 502, "{coding}: {answer}");
        assert_eq!(proxy.record().await.reason, "unreachable: no valid answer");
    }
}
