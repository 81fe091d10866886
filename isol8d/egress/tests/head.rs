//! The guard in front of hyper, without a socket.

use isol8_egress::head::{Event, Fault, HeadGuard, MAX_HEAD_BYTES};
use proptest::prelude::*;

/// Everything that came of feeding these pieces: the output, and a line for
/// each event.
fn run<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, Vec<String>) {
    let (mut guard, mut out, mut events) = (HeadGuard::new(), Vec::new(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() && !guard.is_done() {
            let fed = guard.feed(piece, &mut out);
            assert!(fed.consumed > 0, "it stands still");
            piece = &piece[fed.consumed..];
            match fed.event {
                None => {}
                Some(Event::Head(head)) => events.push(format!(
                    "{} {:?} {:?} {:?}",
                    head.method, head.target, head.framing, head.headers
                )),
                Some(Event::Refused(refused)) => events.push(format!("{refused:?}")),
                Some(Event::BrokenBody(fault)) => events.push(format!("{fault:?}")),
            }
        }
    }
    (out, events)
}

/// Requests, good ones and others, and what stands between them.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET http://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        Just(b"GET http://a.test/ HTTP/1.0\r\n\r\n".to_vec()),
        Just(b"POST http://a.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
        Just(
            b"POST http://a.test/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
                .to_vec()
        ),
        Just(b"CONNECT a.test:443 HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn pieces_make_no_difference(bytes in traffic(), cuts in proptest::collection::vec(1_usize..50, 1..20)) {
        let whole = run([bytes.as_slice()]);
        let (mut rest, mut pieces) = (bytes.as_slice(), Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(run(pieces), whole);
    }

    /// What comes out reads as itself: another strict reader sees the same
    /// number of requests, and no line of a header that was not made here.
    #[test]
    fn what_comes_out_is_plain(bytes in traffic()) {
        let (out, events) = run([bytes.as_slice()]);
        let heads = events.iter().filter(|event| event.contains("Origin") || event.contains("Tunnel"));
        let refused = events.iter().filter(|event| event.starts_with("Refused"));
        let served = heads.count() + refused.count();
        let (mut rest, mut count) = (out.as_slice(), 0);
        while !rest.is_empty() {
            let mut fields = [httparse::EMPTY_HEADER; 4];
            let mut request = httparse::Request::new(&mut fields);
            let length = match request.parse(rest) {
                Ok(httparse::Status::Complete(length)) => length,
                other => panic!("{other:?}: {}", rest.escape_ascii()),
            };
            count += 1;
            let path = request.path.unwrap();
            prop_assert!(path == "/" || path == "tunnel:443", "{}", path);
            let field = |name: &str| request.headers.iter().find(|field| field.name == name);
            rest = &rest[length..];
            if let Some(field) = field("content-length") {
                let length: usize = std::str::from_utf8(field.value).unwrap().parse().unwrap();
                rest = &rest[length.min(rest.len())..];
            } else if field("transfer-encoding").is_some() {
                let end = rest.windows(5).position(|five| five == b"0\r\n\r\n");
                rest = end.map_or(&[], |end| &rest[end + 5..]);
            }
        }
        prop_assert_eq!(count, served);
    }

    #[test]
    fn no_bytes_make_it_panic_or_keep_more_than_a_head(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        run([bytes.as_slice()]);
        run([b"GET http://".as_slice(), &bytes]);
        run([b"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &bytes]);
    }
}

#[test]
fn an_endless_head_is_refused_at_its_limit() {
    let mut guard = HeadGuard::new();
    let mut out = Vec::new();
    assert!(
        guard
            .feed(b"GET http://a/ HTTP/1.1\r\nA: ", &mut out)
            .event
            .is_none()
    );
    for fed in 0.. {
        match guard.feed(b"aaaaaaaaaaaaaaaa", &mut out).event {
            None => assert!(fed * 16 < MAX_HEAD_BYTES, "no end to it"),
            Some(Event::Refused(refused)) => {
                assert_eq!(refused.fault, Fault::TooLarge);
                assert_eq!(
                    (refused.method.as_str(), refused.host.as_str()),
                    ("GET", "a")
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(guard.is_done());
    let fed = guard.feed(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", &mut out);
    assert!(fed.event.is_none(), "nothing passes behind a refusal");
    assert_eq!(out, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n");
}

/// A secret in it is looked for as it was sent.
#[test]
fn what_is_shown_of_a_refused_head_is_escaped_only_where_it_is_not_printable() {
    let bytes = b"G'\"T http://a\"b\\'c\xff\t.test/ HTTP/1.1\r\n\r\n";
    match HeadGuard::new().feed(bytes, &mut Vec::new()).event {
        Some(Event::Refused(refused)) => {
            assert_eq!(refused.method, r#"G'"T"#);
            assert_eq!(refused.host, r#"a"b\'c\xff\t.test"#);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tunnel_takes_nothing_behind_its_head() {
    let mut guard = HeadGuard::new();
    let bytes = b"CONNECT a.test:443 HTTP/1.1\r\n\r\nGET http://a/ HTTP/1.1\r\n\r\n";
    let mut out = Vec::new();
    let fed = guard.feed(bytes, &mut out);
    assert_eq!(&bytes[fed.consumed..], b"GET http://a/ HTTP/1.1\r\n\r\n");
    let fed = guard.feed(&bytes[fed.consumed..], &mut out);
    assert_eq!(fed.consumed, 0);
    assert!(guard.is_done());
}
