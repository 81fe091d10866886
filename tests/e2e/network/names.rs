//! Which names the lists let through.

use isol8_e2e::harness::internet::{Internet, PUBLIC};

use super::vector::{EVIL, Vector, check, only_dialled};

/// Names that somebody registers to look like `example.com`. All of them
/// resolve, so that a request that slips is seen.
const LOOKALIKES: [&str; 12] = [
    "example.com.evil.example",
    "notexample.com",
    "exampleXcom.example",
    "examplexcom",
    "example.com-evil.example",
    "example.comm",
    "xample.com",
    "www.example.com",
    "example.com.example.com",
    "example_com",
    // Cyrillic `а` and `е`, in their ASCII form.
    "xn--exmple-4nf.com",
    "xn--xample-2of.com",
];

fn everybody(internet: &Internet) {
    for name in LOOKALIKES {
        internet.name(name, PUBLIC);
    }
    for name in [
        EVIL,
        "fine.example",
        "notevil.example",
        "xn--bcher-kva.example",
    ] {
        internet.name(name, PUBLIC);
    }
}

fn both(host: &str) -> [Vector; 2] {
    let plain = host.trim_end_matches('.');
    let sni = plain.is_ascii() && !plain.is_empty() && !plain.starts_with('.') && plain.len() < 64;
    let sni = if sni && !plain.contains("..") {
        plain
    } else {
        "example.com"
    };
    [
        Vector::get(host),
        Vector::connect(&format!("{host}:443"), Some(sni)),
    ]
}

both_engines_online! {
    /// NE09, NE13, NE17: an allow pattern is about the whole canonical name.
    fn allowed_by_the_whole_name(stage: &Stage, internet: &Internet) {
        everybody(internet);
        let mut vectors = Vec::new();
        for spelling in ["example.com", "EXAMPLE.COM", "example.com.", "eXaMpLe.CoM."] {
            vectors.extend(both(spelling).map(Vector::passes));
        }
        for name in LOOKALIKES.into_iter().chain([EVIL, "198.51.100.10", "[2001:db8::1]"]) {
            vectors.extend(both(name));
        }
        let label = "a".repeat(64);
        let long = format!("{}example.com", "a.".repeat(130));
        for host in [
            "example.com..", ".example.com", "example..com", ".", "..", "exam\u{430}ple.com", "exаmple.com",
            "example.com%2eevil.example", "example.com%00.evil.example", "exam%70le.com", "example.com;evil.example",
            "example.com,evil.example", "example.com|", "example.com\\evil.example", "-example.com", "example.com'",
            "*.example.com", &label, &long,
        ] {
            vectors.extend(both(host).map(Vector::refused_as_malformed));
        }
        for port in ["22", "25", "853", "2375", "3128", "8443", "1", "65535"] {
            vectors.push(Vector::get(&format!("example.com:{port}")));
            vectors.push(Vector::tunnel(&format!("example.com:{port}")));
        }
        for port in ["0", "65536", "+80", "-80", "80:80", "http", "0x50", " 80", "8 0"] {
            vectors.push(Vector::get(&format!("example.com:{port}")).refused_as_malformed());
            vectors.push(Vector::tunnel(&format!("example.com:{port}")).refused_as_malformed());
        }
        for target in ["user@example.com", "example.com@evil.example", "evil.example@example.com", "a:b@example.com",
            "example.com:80@evil.example", "example.com#@evil.example"] {
            vectors.push(Vector::get(target).refused_as_malformed());
        }
        check(stage, internet, &["--allow", r"^example\.com$"], &vectors);
        only_dialled(internet, &[PUBLIC.into()]);
    }

    /// The same without anchors: the whole name all the same.
    fn allowed_without_anchors(stage: &Stage, internet: &Internet) {
        everybody(internet);
        let mut vectors: Vec<Vector> = LOOKALIKES.iter().flat_map(|name| both(name)).collect();
        vectors.extend(both("example.com").map(Vector::passes));
        vectors.extend(both("fine.example").map(Vector::passes));
        vectors.extend(both("FINE.example.").map(Vector::passes));
        vectors.extend(both("bücher.example").map(Vector::refused_as_malformed));
        vectors.extend(both("xn--bcher-kva.example").map(Vector::passes));
        let allow = ["--allow", r"example\.com|fine\.example", "--allow", r"xn--bcher-kva\.example"];
        check(stage, internet, &allow, &vectors);
        only_dialled(internet, &[PUBLIC.into()]);
        // No name that was refused was asked for: a question is a message too.
        let asked = internet.resolver.take_asked();
        let open = ["example.com", "fine.example", "xn--bcher-kva.example"];
        assert!(!asked.is_empty(), "the resolver is in use");
        assert!(asked.iter().all(|name| open.contains(&name.as_str())), "{asked:?}");
    }

    /// NE15: deny matches anywhere and beats allow.
    fn denied_anywhere(stage: &Stage, internet: &Internet) {
        everybody(internet);
        let mut vectors = Vec::new();
        for name in [EVIL, "EVIL.Example.", "notevil.example", "example.com.evil.example", "example.com-evil.example"] {
            vectors.extend(both(name));
        }
        // An address under another spelling is the same address.
        for name in ["198.51.100.10", "3325256714", "0xc633640a", "0306.063.0144.012", "[::ffff:198.51.100.10]"] {
            vectors.push(Vector::get(name));
            vectors.push(Vector::tunnel(&format!("{name}:443")));
        }
        for name in ["example.com", "fine.example", "198.51.101.10"] {
            vectors.push(Vector::get(name).passes());
        }
        let deny = ["--deny", "evil", "--deny", r"^198\.51\.100\.", "--allow", ".*"];
        check(stage, internet, &deny, &vectors);
        // Without an allow list what is not denied is open.
        let vectors = [Vector::get(EVIL), Vector::get("example.com").passes()];
        check(stage, internet, &["--deny", "evil"], &vectors);
        // Both match: denied.
        let vectors = [Vector::get("example.com"), Vector::get("fine.example").passes()];
        let args = ["--allow", r"example\.com", "--allow", r"fine\.example", "--deny", r"e\.com$"];
        check(stage, internet, &args, &vectors);
    }
}

both_engines_online! {
    /// Lists of the configuration hold where the command line names none, and
    /// are replaced where it does.
    fn lists_of_the_configuration(stage: &Stage, internet: &Internet)
    with { "whitelist": ["fine\\.example"], "blacklist": ["^evil"] } {
        everybody(internet);
        let configured = [Vector::get("fine.example").passes(), Vector::get("example.com"), Vector::get(EVIL)];
        check(stage, internet, &[], &configured);
        let replaced = [Vector::get("fine.example"), Vector::get("example.com").passes(), Vector::get(EVIL)];
        check(stage, internet, &["--allow", r"example\.com|evil\.example"], &replaced);
        let both = [Vector::get(EVIL).passes(), Vector::get("fine.example")];
        check(stage, internet, &["--allow", r"evil\.example", "--deny", "nobody"], &both);
    }
}
