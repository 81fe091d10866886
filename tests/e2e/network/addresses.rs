//! Addresses that no sandbox reaches, in every spelling, with every public host
//! open. Each goes as a plain request and as a tunnel.

use std::net::{IpAddr, Ipv4Addr};

use isol8_e2e::harness::{internet::PUBLIC, resolver::Zone};

use super::vector::{Vector, check, only_dialled};

/// Refused, whatever is allowed.
const CLOSED: [&str; 62] = [
    // Services that tell a machine of a cloud its secrets.
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "metadata",
    "instance-data",
    // The same address as one number, in other bases, with parts left out.
    "2852039166",
    "0xa9fea9fe",
    "0XA9FEA9FE",
    "0251.0376.0251.0376",
    "0xa9.0xfe.0xa9.0xfe",
    "169.254.43518",
    "169.16689662",
    "00000251.254.169.254",
    "169.254.169.254.",
    // This host.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0x7f.1",
    "0x7f000001",
    "0",
    "0.0.0.0",
    "0x0",
    "localhost",
    "LocalHost.",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    // IPv4 inside of IPv6.
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[2002:a9fe:a9fe::]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2001:0:4136:e378:8000:63bf:5601:5601]",
    // Networks of others.
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.17.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "0xc0a80001",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[fc00::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "169.254.0.1",
];

/// No host at all.
const NONSENSE: [&str; 22] = [
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[::ffff:127.0.0.1",
    "::1",
    "[127.0.0.1]",
    "127.0.0.1.1",
    "256.1.1.1",
    "1.2.3.0x100",
    "0x1ffffffff",
    "4294967296",
    "127.0.0.1..",
    "%31%32%37.0.0.1",
    "127.0.0.1%00.example.com",
    "127.0.0.1%2f.example.com",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "𝟙𝟚𝟟.0.0.1",
    "lo\u{ad}calhost",
    "127.0.0.1\tx",
    "127.0.0.1\\@example.com",
    "-127.0.0.1",
];

/// Names for addresses that are refused: known only after they are resolved.
const NAMES: [(&str, &str); 9] = [
    ("private.example", "10.0.0.1"),
    ("loop.example", "127.0.0.1"),
    ("any.example", "0.0.0.0"),
    ("meta.example", "169.254.169.254"),
    ("carrier.example", "100.64.0.7"),
    ("six.example", "fd00::1"),
    ("loop6.example", "::1"),
    ("mapped.example", "::ffff:127.0.0.1"),
    ("nat64.example", "64:ff9b::7f00:1"),
];

fn both(host: &str) -> [Vector; 2] {
    [
        Vector::get(host),
        Vector::connect(&format!("{host}:443"), Some("example.com")),
    ]
}

both_engines_online! {
    /// NE03, NE04, NE05, NE06, NE07: with `--allow '.*'`.
    fn closed_in_every_spelling(stage: &Stage, internet: &Internet) {
        let mut vectors: Vec<Vector> = CLOSED.iter().flat_map(|host| both(host)).collect();
        vectors.extend(NONSENSE.iter().flat_map(|host| both(host)).map(Vector::refused_as_malformed));
        for (name, address) in NAMES {
            let address: IpAddr = address.parse().expect("an address");
            internet.resolver.set(name, Zone::Fixed(vec![address]));
            vectors.extend(both(name));
        }
        // A metadata service's name is refused even where it resolves to what
        // looks like anybody's address.
        for name in ["metadata.google.internal", "metadata", "instance-data"] {
            internet.name(name, PUBLIC);
        }
        // What is open, so that the table proves something.
        let other = Ipv4Addr::new(198, 51, 100, 30);
        let mixed = vec![Ipv4Addr::new(10, 0, 0, 1).into(), other.into(), Ipv4Addr::LOCALHOST.into()];
        internet.resolver.set("mixed.example", Zone::Fixed(mixed));
        vectors.push(Vector::get("example.com").passes());
        vectors.push(Vector::connect("example.com:443", Some("example.com")).passes());
        vectors.push(Vector::get("mixed.example").passes());
        vectors.push(Vector::get("3325256714").passes());
        vectors.push(Vector::get("[2001:db8::7]").passes());
        vectors.push(Vector::connect("198.51.100.10:443", None).passes());
        check(stage, internet, &["--allow", ".*"], &vectors);
        let documentation: IpAddr = "2001:db8::7".parse().expect("an address");
        only_dialled(internet, &[PUBLIC.into(), other.into(), documentation]);
    }

    /// NE08: a name that changes its mind. It is resolved once for a request,
    /// and the address that was judged is the one that is dialled.
    fn names_that_change_their_mind(stage: &Stage, internet: &Internet) {
        const TRIES: usize = 500;
        let turns = [PUBLIC, Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254)];
        internet.resolver.set("turns.example", Zone::Turns(turns.map(IpAddr::V4).to_vec()));
        let code = format!(
            "import http.client, collections\n\
            c = collections.Counter()\n\
            for i in range({TRIES}):\n \
             h = http.client.HTTPConnection('127.0.0.1', 8118, timeout=20)\n \
             h.request('GET', 'http://turns.example/')\n \
             c[h.getresponse().status] += 1\n \
             h.close()\n\
            print(c[200], c[403], sum(c.values()))"
        );
        let ran = stage.python(&code).args(["--net", "filtered", "--allow", r"turns\.example"]).go();
        let out = ran.ok();
        let counts: Vec<usize> = out.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        assert_eq!(counts[2], TRIES);
        assert_eq!(counts[0] + counts[1], TRIES, "{ran:?}");
        assert!(counts[0] > TRIES / 10 && counts[1] > TRIES / 10, "both kinds came: {ran:?}");
        only_dialled(internet, &[PUBLIC.into()]);
    }
}

both_engines_online! {
    /// What the operator opens is open, and nothing beside it.
    fn a_private_range_that_is_allowed(stage: &Stage, internet: &Internet)
    with { "allowPrivate": ["10.1.0.0/16", "127.64.0.0/10"] } {
        internet.name("inside.example", Ipv4Addr::new(10, 1, 2, 3));
        internet.name("beside.example", Ipv4Addr::new(10, 2, 2, 3));
        let vectors = [
            Vector::get("10.1.2.3").passes(),
            Vector::get("inside.example").passes(),
            Vector::connect("inside.example:443", Some("inside.example")).passes(),
            Vector::get("127.77.0.1").passes(),
            Vector::get("2135752705").passes(),
            Vector::get("[::ffff:10.1.2.3]").passes(),
            Vector::get("10.2.2.3"),
            Vector::get("beside.example"),
            Vector::get("127.0.0.1"),
            Vector::get("169.254.169.254"),
            Vector::get("[64:ff9b::a01:203]"),
        ];
        check(stage, internet, &["--allow", ".*"], &vectors);
        let allowed = [[10, 1, 2, 3], [127, 77, 0, 1]].map(IpAddr::from);
        only_dialled(internet, &allowed);
        // The rules of the run are judged as well.
        let vectors = [Vector::get("10.1.2.3"), Vector::get("inside.example").passes()];
        check(stage, internet, &["--allow", r"inside\.example"], &vectors);
    }
}

/// The number of ways that have to be closed; each host goes in two.
const _: () = assert!(2 * (CLOSED.len() + NONSENSE.len() + NAMES.len()) > 60);
