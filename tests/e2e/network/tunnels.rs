//! CONNECT: what goes through a tunnel, and what does not.

use isol8_e2e::harness::internet::PUBLIC;
use serde_json::json;

use super::vector::{EVIL, Vector, check, only_dialled};

/// The beginning of a handshake that asks for `evil.example`: whole, and in
/// two records of TLS.
fn evil_hellos() -> [Vec<u8>; 2] {
    let name = EVIL.as_bytes();
    let length = |bytes: usize, width: usize| bytes.to_be_bytes()[8 - width..].to_vec();
    let mut list = vec![0];
    list.extend(length(name.len(), 2));
    list.extend(name);
    let mut extension = vec![0, 0];
    extension.extend(length(list.len() + 2, 2));
    extension.extend(length(list.len(), 2));
    extension.extend(list);
    // Version, random, no session, one cipher suite, no compression.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    body.extend(length(extension.len(), 2));
    body.extend(extension);
    let mut message = vec![1];
    message.extend(length(body.len(), 3));
    message.extend(body);
    let record = |part: &[u8]| {
        let mut record = vec![0x16, 3, 1];
        record.extend(length(part.len(), 2));
        record.extend(part);
        record
    };
    let (first, second) = message.split_at(20);
    [record(&message), [record(first), record(second)].concat()]
}

fn vectors() -> Vec<Vector> {
    let inside = |label: &str, bytes: &[u8]| {
        let open = Vector::tunnel("example.com:443").called(label);
        open.bytes(bytes).want(&["200", "closed"])
    };
    let get = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let [whole, halves] = evil_hellos();
    vec![
        Vector::connect("example.com:443", Some("example.com")).passes(),
        Vector::connect("EXAMPLE.com.:443", Some("example.com")).passes(),
        Vector::connect("example.com:443", Some("EXAMPLE.Com")).passes(),
        // Fronting inside of TLS cannot be seen from outside: pinned as it is.
        Vector::tunnel("example.com:443")
            .called("another Host inside of TLS")
            .step(json!({"tls": "example.com"}))
            .send("GET § HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .passes(),
        Vector::connect("example.com:443", Some(EVIL)).called("SNI of another").want(&["200", "closed"]),
        Vector::connect("example.com:443", Some("www.example.com")).called("SNI of a part").want(&["200", "closed"]),
        Vector::connect("example.com:443", Some("example.co")).called("SNI of a prefix").want(&["200", "closed"]),
        Vector::connect("example.com:443", None).called("no SNI").want(&["200", "closed"]),
        Vector::connect("198.51.100.10:443", Some(EVIL)).called("SNI on an address").want(&["200", "closed"]),
        Vector::connect("198.51.100.10:443", Some("example.com")).called("a permitted SNI on an address").want(&["200", "closed"]),
        inside("plain HTTP", get.as_bytes()),
        inside("SSH", b"SSH-2.0-OpenSSH_9.9\r\n"),
        inside("nothing at all that is known", &[0; 100]),
        inside("a record that is no handshake", b"\x17\x03\x03\x00\x05hello"),
        inside("an alert", b"\x15\x03\x03\x00\x02\x02\x28"),
        inside("a handshake for another", &whole),
        inside("the same in two records", &halves),
        inside("a record without end", &[&b"\x16\x03\x01\x40\x00"[..], &[1; 16384], &[0; 80000]].concat()),
        Vector::tunnel("example.com:80").called("plain HTTP to port 80").bytes(get.as_bytes()).want(&["200", "closed"]),
        Vector::tunnel("example.com:443").called("nothing is said").step(json!({"finish": true}))
            .step(json!({"answer": "GET"})).want(&["200", "closed"]),
        Vector::tunnel(&format!("{EVIL}:443")),
        Vector::tunnel("evil.example.:443"),
        Vector::new("early data")
            .step(json!({"text": "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"}))
            .step(json!({"answer": "CONNECT"})).step(json!({"answer": "GET"}))
            .want(&["200", "closed"]),
        // The lower case is no CONNECT.
        Vector::new("connect in lower case").send("connect example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n").refused_as_malformed(),
    ]
}

both_engines_online! {
    /// NE16: a tunnel is for the host that was judged, and carries TLS alone.
    fn a_tunnel_is_for_one_host(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let allow = ["--allow", r"example\.com", "--allow", r"198\.51\.100\.10"];
        let sent = check(stage, internet, &allow, &vectors());
        only_dialled(internet, &[PUBLIC.into()]);
        // No handshake of another name got as far as the origin.
        assert!(sent.seen.iter().all(|seen| seen.tls && seen.sni.as_deref() == Some("example.com")), "{:?}", sent.seen);
        let fronted = sent.seen.iter().filter(|seen| seen.header("host") == Some(EVIL));
        assert_eq!(fronted.count(), 1);
    }

    /// Large bodies both ways, through a tunnel and plain, byte for byte.
    fn bodies_pass_whole(stage: &Stage, internet: &Internet) {
        let code = "import urllib.request\n\
            body = bytes(range(256)) * 40000\n\
            for scheme in ('http', 'https'):\n \
             for path in ('bytes/20000000', 'chunked/20000000'):\n  \
              n = 0\n  \
              with urllib.request.urlopen(f'{scheme}://example.com/{path}') as r:\n   \
               while piece := r.read(1 << 16):\n    \
                assert piece.strip(b'.') == b''; n += len(piece)\n  \
              print(scheme, path, n)\n \
             r = urllib.request.urlopen(f'{scheme}://example.com/up', data=body)\n \
             print(r.status)";
        let ran = stage.python(code).args(["--net", "filtered", "--allow", r"example\.com"]).go();
        let out = ran.ok();
        assert_eq!(out.matches("20000000\n").count(), 4, "{out}");
        let pattern: Vec<u8> = (0..=255).collect();
        let mut uploads = 0;
        for seen in internet.origin.take_seen().iter().filter(|seen| seen.path() == "/up") {
            uploads += 1;
            assert_eq!(seen.body.len(), 256 * 40_000);
            assert!(seen.body.chunks(256).all(|chunk| chunk == pattern));
        }
        assert_eq!(uploads, 2);
    }
}
