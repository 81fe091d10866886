//! Requests that two readers would understand differently, and what is no
//! request of a proxy's client at all.

use isol8_e2e::harness::internet::PUBLIC;
use serde_json::json;

use super::vector::{EVIL, Vector, check, only_dialled};

/// A request to the permitted host, with these header lines before the last.
fn with_headers(label: &str, method: &str, headers: &str, body: &str) -> Vector {
    let head = format!("{method} http://example.com§ HTTP/1.1\r\nHost: example.com\r\n");
    Vector::new(label).send(format!("{head}{headers}\r\n{body}"))
}

/// What a smuggled request would be; its path is a vector's own, so that the
/// origin knows it.
const SMUGGLED: &str = "GET http://evil.example§ HTTP/1.1\r\nHost: evil.example\r\n\r\n";

fn framings() -> Vec<Vector> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let refused = [
        ("CL, TE", format!("Content-Length: 4\r\n{chunked}")),
        ("TE, CL", format!("{chunked}Content-Length: 4\r\n")),
        ("CL 0, TE", format!("Content-Length: 0\r\n{chunked}")),
        (
            "two lengths",
            "Content-Length: 4\r\nContent-Length: 5\r\n".into(),
        ),
        (
            "one length twice",
            "Content-Length: 4\r\nContent-Length: 4\r\n".into(),
        ),
        ("lengths in a list", "Content-Length: 4, 4\r\n".into()),
        ("length with a sign", "Content-Length: +4\r\n".into()),
        ("negative length", "Content-Length: -4\r\n".into()),
        ("hexadecimal length", "Content-Length: 0x4\r\n".into()),
        ("length with a point", "Content-Length: 4.0\r\n".into()),
        (
            "length over 64 bits",
            "Content-Length: 18446744073709551616\r\n".into(),
        ),
        ("no length", "Content-Length:\r\n".into()),
        ("two encodings", format!("{chunked}{chunked}")),
        (
            "chunked, identity",
            "Transfer-Encoding: chunked, identity\r\n".into(),
        ),
        (
            "identity, chunked",
            "Transfer-Encoding: identity, chunked\r\n".into(),
        ),
        ("gzip", "Transfer-Encoding: gzip\r\n".into()),
        ("xchunked", "Transfer-Encoding: xchunked\r\n".into()),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n".into()),
        ("vertical tab", "Transfer-Encoding: \u{b}chunked\r\n".into()),
        (
            "space before the colon",
            "Transfer-Encoding : chunked\r\n".into(),
        ),
        ("tab before the colon", "Content-Length\t: 4\r\n".into()),
        ("folded", "X: a\r\n b\r\n".into()),
        (
            "folded encoding",
            "Transfer-Encoding:\r\n chunked\r\n".into(),
        ),
        ("bare LF", "X: a\n".into()),
        (
            "bare LF, and an encoding",
            "X: a\nTransfer-Encoding: chunked\r\n".into(),
        ),
        ("bare CR", "X: a\rY: b\r\n".into()),
        ("NUL", "X: a\0b\r\n".into()),
        ("no name", ": a\r\n".into()),
        ("no colon", "nothing\r\n".into()),
        ("space in front", " X: a\r\n".into()),
    ];
    let mut all: Vec<Vector> = refused
        .iter()
        .map(|(label, headers)| {
            let body = format!("0\r\n\r\n{SMUGGLED}");
            with_headers(label, "POST", headers, &body).refused_as_malformed()
        })
        .collect();
    for (label, body) in [
        ("chunk size with a sign", "+4\r\nabcd\r\n0\r\n\r\n"),
        ("negative chunk size", "-1\r\nabcd\r\n0\r\n\r\n"),
        ("hexadecimal mark", "0x4\r\nabcd\r\n0\r\n\r\n"),
        (
            "chunk size over 64 bits",
            "10000000000000004\r\nabcd\r\n0\r\n\r\n",
        ),
        ("bare LF after the size", "4\nabcd\r\n0\r\n\r\n"),
        ("an extension", "4;name=value\r\nabcd\r\n0\r\n\r\n"),
        ("bare LF in an extension", "4;a\nb\r\nabcd\r\n0\r\n\r\n"),
        ("longer than its size", "4\r\nabcdef\r\n0\r\n\r\n"),
        ("no size", "\r\nabcd\r\n0\r\n\r\n"),
        ("bare LF at the end of a chunk", "4\r\nabcd\n0\r\n\r\n"),
        ("space in the size", "4 4\r\nabcd\r\n0\r\n\r\n"),
    ] {
        // The rest must never be taken for a request of its own.
        let body = format!("{body}{}", SMUGGLED.replace('§', "/smuggled"));
        let vector = with_headers(label, "POST", chunked, &body);
        all.push(vector.want(&["4xx"]).may_hit());
    }
    all
}

fn lines() -> Vec<Vector> {
    let line = |label: &str, text: &str| Vector::new(label).send(text);
    let host = "Host: example.com\r\n\r\n";
    let mut all = vec![
        line("origin form", &format!("GET § HTTP/1.1\r\n{host}")),
        line("asterisk", &format!("OPTIONS * HTTP/1.1\r\n{host}")),
        line("TRACE", &format!("TRACE http://example.com§ HTTP/1.1\r\n{host}")),
        line("https in a plain request", &format!("GET https://example.com§ HTTP/1.1\r\n{host}")),
        line("ftp", &format!("GET ftp://example.com§ HTTP/1.1\r\n{host}")),
        line("file", &format!("GET file:///etc/passwd HTTP/1.1\r\n{host}")),
        line("no scheme", &format!("GET //example.com§ HTTP/1.1\r\n{host}")),
        line("no slashes", &format!("GET http:example.com§ HTTP/1.1\r\n{host}")),
        line("one slash", &format!("GET http:/example.com§ HTTP/1.1\r\n{host}")),
        line("backslashes", &format!("GET http:\\\\example.com§ HTTP/1.1\r\n{host}")),
        line("no host", &format!("GET http://§ HTTP/1.1\r\n{host}")),
        line("a fragment", &format!("GET http://example.com§#x HTTP/1.1\r\n{host}")),
        line("HTTP/0.9", "GET http://example.com§\r\n\r\n"),
        line("HTTP/2.0", &format!("GET http://example.com§ HTTP/2.0\r\n{host}")),
        line("HTTP/1.2", &format!("GET http://example.com§ HTTP/1.2\r\n{host}")),
        line("no such version", &format!("GET http://example.com§ HTPP/1.1\r\n{host}")),
        line("two spaces", &format!("GET  http://example.com§ HTTP/1.1\r\n{host}")),
        line("tabs", &format!("GET\thttp://example.com§\tHTTP/1.1\r\n{host}")),
        line("a space in the path", &format!("GET http://example.com§ x HTTP/1.1\r\n{host}")),
        line("a line feed in the path", &format!("GET http://example.com§\nX: HTTP/1.1\r\n{host}")),
        line("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        line("no Host", "GET http://example.com§ HTTP/1.1\r\n\r\n"),
        line("two Hosts", &format!("GET http://example.com§ HTTP/1.1\r\nHost: {EVIL}\r\n{host}")),
        line("CONNECT without port", &format!("CONNECT example.com HTTP/1.1\r\n{host}")),
        line("CONNECT with a URL", &format!("CONNECT http://example.com:443/ HTTP/1.1\r\n{host}")),
        line("CONNECT with a path", &format!("CONNECT example.com:443/x HTTP/1.1\r\n{host}")),
        line("CONNECT with a body", &format!("CONNECT example.com:443 HTTP/1.1\r\nContent-Length: 4\r\n{host}abcd")),
        line("CONNECT with chunks", &format!("CONNECT example.com:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{host}0\r\n\r\n")),
        line("CONNECT for UDP", &format!("CONNECT-UDP {EVIL}:443 HTTP/1.1\r\n{host}")),
        line("a megabyte of header", &format!("GET http://example.com§ HTTP/1.1\r\nX: {}\r\n{host}", "a".repeat(1 << 20))),
        line("a megabyte of path", &format!("GET http://example.com§{} HTTP/1.1\r\n{host}", "a".repeat(1 << 20))),
        line("a thousand headers", &format!("GET http://example.com§ HTTP/1.1\r\n{}{host}", "X: y\r\n".repeat(1000))),
        Vector::new("SOCKS 5").bytes(&[5, 1, 0]).step(json!({"finish": true})),
        Vector::new("SOCKS 4").bytes(b"\x04\x01\x00\x50\xc6\x33\x64\x0a\x00"),
        Vector::new("TLS to the proxy").bytes(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"),
        Vector::new("DNS over TCP").bytes(b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"),
    ];
    all.push(
        Vector::new("half a head")
            .say("GET http://example.com§ HTTP/1.1\r\nHost: exa")
            .step(json!({"finish": true}))
            .step(json!({"answer": "GET"})),
    );
    all.into_iter().map(Vector::refused_as_malformed).collect()
}

/// Requests that are odd and permitted, and conversations of several.
fn conversations() -> Vec<Vector> {
    let get = |host: &str, path: &str| {
        format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    };
    let metadata = "169.254.169.254";
    vec![
        Vector::new("another Host")
            .send(format!("GET http://example.com§ HTTP/1.1\r\nHost: {EVIL}\r\n\r\n"))
            .passes(),
        Vector::new("HTTP/1.0 without Host").send("GET http://example.com§ HTTP/1.0\r\n\r\n").passes(),
        Vector::new("OPTIONS of a URL")
            .send("OPTIONS http://example.com§ HTTP/1.1\r\nHost: example.com\r\n\r\n")
            .passes(),
        Vector::new("upper case scheme")
            .send("GET HTTP://example.com§ HTTP/1.1\r\nHost: example.com\r\n\r\n")
            .passes(),
        with_headers("what is between neighbours", "GET",
            "Proxy-Authorization: Basic eDp5\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nTE: trailers\r\n\
             Upgrade: connect-udp\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n", "").passes(),
        with_headers("100 Continue", "POST", "Expect: 100-continue\r\nContent-Length: 4\r\n", "body").passes(),
        with_headers("a request inside of a body", "POST",
            &format!("Content-Length: {}\r\n", get(EVIL, "/").len()), &get(EVIL, "/")).passes(),
        with_headers("a request inside of a chunk", "POST", "Transfer-Encoding: chunked\r\n",
            &format!("{:x}\r\n{}\r\n0\r\nTrailer: x\r\n\r\n", get(EVIL, "/").len(), get(EVIL, "/"))).passes(),
        Vector::new("a second request on the connection")
            .send(get("example.com", "§"))
            .send(get(EVIL, "§"))
            .want(&["200", "403"]).hits(1),
        Vector::new("a third, permitted again")
            .send(get("example.com", "§")).send(get(EVIL, "§")).send(get("example.com", "§"))
            .want(&["200", "403", "200"]).hits(2),
        Vector::new("pipelined")
            .say(format!("{}{}{}", get("example.com", "§"), get(EVIL, "§"), get(metadata, "§")))
            .step(json!({"answer": "GET"})).step(json!({"answer": "GET"})).step(json!({"answer": "GET"}))
            .want(&["200", "403", "403"]).hits(1),
        Vector::new("a redirect is another request")
            .send(get("example.com", &format!("/v/redirect?http://{metadata}/")))
            .send(get(metadata, "§"))
            .want(&["302", "403"]),
        Vector::new("a request after a tunnel that was refused")
            .step(json!({"text": format!("CONNECT {EVIL}:443 HTTP/1.1\r\nHost: {EVIL}\r\n\r\n")}))
            .step(json!({"answer": "GET"}))
            .send("GET http://example.com§ HTTP/1.1\r\nHost: example.com\r\n\r\n")
            .want(&["403", "closed"]),
        Vector::new("a body nobody asked for")
            .send(format!("GET http://{EVIL}§ HTTP/1.1\r\nHost: {EVIL}\r\nContent-Length: 50\r\n\r\n{}", get("example.com", "§"))),
    ]
}

both_engines_online! {
    /// Smuggling: a request means the same to everybody, or it is refused.
    fn ambiguous_framing_is_refused(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let vectors = framings();
        let sent = check(stage, internet, &["--allow", r"example\.com"], &vectors);
        assert!(sent.seen.iter().all(|seen| !seen.target.contains("smuggled")), "{:?}", sent.seen);
        only_dialled(internet, &[PUBLIC.into()]);
    }

    /// NE19: what is no request of a proxy's client.
    fn malformed_requests_are_refused(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        check(stage, internet, &["--allow", r".*"], &lines());
        only_dialled(internet, &[]);
    }

    /// NE16, NE19: every request of a connection is judged by itself.
    fn every_request_is_judged(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let vectors = conversations();
        let sent = check(stage, internet, &["--allow", r"example\.com"], &vectors);
        only_dialled(internet, &[PUBLIC.into()]);
        // The origin is told the host that was judged.
        for seen in &sent.seen {
            assert_eq!(seen.header("host"), Some("example.com"), "{seen:?}");
            assert!(seen.target.starts_with('/'), "{seen:?}");
        }
        let seen = sent.hit(&vectors, "what is between neighbours");
        assert_eq!(seen.header("x-kept"), Some("1"));
        for name in ["proxy-authorization", "proxy-connection", "x-hop", "te", "upgrade", "via", "forwarded", "x-forwarded-for"] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        let inner = b"GET http://evil.example/";
        for label in ["a request inside of a body", "a request inside of a chunk"] {
            assert!(sent.hit(&vectors, label).body.starts_with(inner), "{label}");
        }
        assert_eq!(sent.hit(&vectors, "100 Continue").body, b"body");
    }
}
