use proptest::prelude::*;

use super::*;

#[track_caller]
fn good(text: &str, canonical: &str) {
    let host = Host::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(host.to_string(), canonical, "{text:?}");
    assert_eq!(Host::parse(canonical).unwrap(), host, "{text:?}");
}

#[track_caller]
fn bad(text: &str, why: InvalidHost) {
    assert_eq!(Host::parse(text), Err(why), "{text:?}");
}

#[test]
fn names_fold_to_one_spelling() {
    for (text, canonical) in [
        ("example.com", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("localhost", "localhost"),
        ("a-b.c--d.example", "a-b.c--d.example"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("under_score.internal", "under_score.internal"),
        ("1password.com", "1password.com"),
        ("3.example", "3.example"),
        ("0xabc.example", "0xabc.example"),
        // Not numbers in any base.
        ("0xabg", "0xabg"),
        ("1e3", "1e3"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        // Full-width letters, the ideographic full stop, a soft hyphen.
        ("ｅｘａｍｐｌｅ．ｃｏｍ", "example.com"),
        ("example。com。", "example.com"),
        ("exa\u{ad}mple.com", "example.com"),
        // The Kelvin sign and the long s are letters in disguise.
        ("\u{212a}.example", "k.example"),
        ("\u{17f}.example", "s.example"),
    ] {
        good(text, canonical);
    }
}

#[test]
fn every_spelling_of_an_ipv4_address_is_that_address() {
    for text in [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "0251.0376.0251.0376",
        "0251.0376.0251.0376.",
        "025177524776",
        "169.254.43518",
        "169.16689662",
        "0xa9.254.0251.0xfe",
        "00000251.0x00fe.43518",
        "１６９．２５４．１６９．２５４",
        "169。254。169。254",
        "①⑥⑨.254.169.254",
        "::ffff:169.254.169.254",
        "[::ffff:a9fe:a9fe]",
    ] {
        good(text, "169.254.169.254");
    }
    good("127.1", "127.0.0.1");
    good("0x7f.1", "127.0.0.1");
    good("0", "0.0.0.0");
    good("0x", "0.0.0.0");
    good("4294967295", "255.255.255.255");
}

#[test]
fn ipv6_has_no_brackets_and_no_zeros() {
    for (text, canonical) in [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::]", "::"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2606:4700::1111]", "2606:4700::1111"),
        ("[2001:DB8:0:0::A]", "2001:db8::a"),
        ("[64:ff9b::169.254.169.254]", "64:ff9b::a9fe:a9fe"),
        ("[::a9fe:a9fe]", "::a9fe:a9fe"),
    ] {
        good(text, canonical);
    }
}

#[test]
fn what_is_strange_is_refused() {
    use InvalidHost as No;

    for (text, why) in [
        ("", No::Empty),
        (".", No::Empty),
        ("\u{ad}", No::Empty),
        ("example.com..", No::EmptyLabel),
        (".example.com", No::EmptyLabel),
        ("a..b.com", No::EmptyLabel),
        ("..", No::EmptyLabel),
        ("127.0.0.1..", No::EmptyLabel),
        ("exam ple.com", No::Character(' ')),
        (" example.com", No::Character(' ')),
        ("example.com\n", No::Character('\n')),
        ("example.com\r\nX: y", No::Character('\r')),
        ("exa\0mple.com", No::Character('\0')),
        ("exa\tmple.com", No::Character('\t')),
        ("exa\u{7f}mple.com", No::Character('\u{7f}')),
        ("exa\u{85}mple.com", No::Character('\u{85}')),
        ("exa\u{3000}mple.com", No::Character('\u{3000}')),
        ("%65xample.com", No::Character('%')),
        ("127.0.0.1%00.example.com", No::Character('%')),
        ("user@example.com", No::Character('@')),
        ("example.com/path", No::Character('/')),
        ("example.com\\path", No::Character('\\')),
        ("example.com#x", No::Character('#')),
        ("example.com?x", No::Character('?')),
        ("a*b.com", No::Character('*')),
        ("a'b.com", No::Character('\'')),
        ("a,b.com", No::Character(',')),
        ("a{b.com", No::Character('{')),
        ("a$b.com", No::Character('$')),
        // `％` and `／` fold to what was refused above.
        ("a％41.com", No::International),
        ("a／b.com", No::International),
        ("-rf.example", No::Hyphen),
        ("xn--zz--.example", No::International),
        ("xn--.example", No::International),
        ("1.2.3.4.5", No::Address),
        ("256.1.1.1", No::Address),
        ("4294967296", No::Address),
        ("0x100000000", No::Address),
        ("08", No::Address),
        ("1.2.3.08", No::Address),
        ("example.1", No::Address),
        ("example.0x7f", No::Address),
        ("example.0x", No::Address),
        ("1..2", No::Address),
        ("example.com:80", No::Ipv6),
        ("[::1", No::Ipv6),
        ("::1]", No::Ipv6),
        ("[::1]:80", No::Ipv6),
        ("[[::1]]", No::Ipv6),
        ("[127.0.0.1]", No::Ipv6),
        ("[fe80::1%25eth0]", No::Character('%')),
        ("fe80::1%eth0", No::Character('%')),
        ("[::1 ]", No::Character(' ')),
        ("[1:2:3:4:5:6:7:8:9]", No::Ipv6),
        ("[::12345]", No::Ipv6),
        ("[::ffff:1.2.3.256]", No::Ipv6),
        ("[::ffff:0x7f.1]", No::Ipv6),
        ("[]", No::Ipv6),
    ] {
        bad(text, why);
    }
}

#[test]
fn lengths_are_those_of_dns() {
    let label = "a".repeat(63);
    good(&label, &label);
    bad(&"a".repeat(64), InvalidHost::LabelTooLong);
    // Four labels of 62 to 63 and their dots: 253 bytes, and one more.
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    good(&longest, &longest);
    good(&format!("{longest}."), &longest);
    bad(&format!("{longest}a"), InvalidHost::TooLong);
    bad(&"a.".repeat(1 << 20), InvalidHost::TooLong);
}

/// What `inet_aton`, and with it `getaddrinfo`, takes for an address: one to
/// four numbers, decimal, octal or hexadecimal, the last one filling the rest.
fn inet_aton(text: &str) -> Option<u32> {
    let parts: Vec<&str> = text.split('.').collect();
    let (last, first) = parts.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let number = |part: &str| {
        let lower = part.to_ascii_lowercase();
        let (digits, base) = match lower.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
            None => (lower.as_str(), 10),
        };
        let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain {
            None
        } else {
            u32::from_str_radix(digits, base).ok()
        }
    };
    let mut address = 0;
    for (place, part) in first.iter().enumerate() {
        let octet = u8::try_from(number(part)?).ok()?;
        address |= u32::from(octet) << (24 - 8 * place);
    }
    let rest = number(last)?;
    let room = u32::MAX.checked_shr(8 * u32::try_from(first.len()).ok()?)?;
    (rest <= room).then_some(address | rest)
}

#[test]
fn the_reading_of_getaddrinfo_is_what_it_should_be() {
    assert_eq!(inet_aton("127.1"), Some(0x7f00_0001));
    assert_eq!(inet_aton("0xa9fea9fe"), Some(0xa9fe_a9fe));
    assert_eq!(inet_aton("0251.0376.0251.0376"), Some(0xa9fe_a9fe));
    assert_eq!(inet_aton("169.254.43518"), Some(0xa9fe_a9fe));
    for text in [
        "",
        "08",
        "1.2.3.4.5",
        "256.1.1.1",
        "4294967296",
        "1.",
        "a",
        "+1",
    ] {
        assert_eq!(inet_aton(text), None, "{text}");
    }
}

/// Texts that come close to addresses.
fn numbers() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        "[0-9]{1,11}",
        "0[0-7]{0,12}",
        "0[xX][0-9a-fA-F]{0,9}",
        "[0-9a-fx]{0,4}",
        (0_u32..=u32::MAX).prop_map(|n| n.to_string()),
        (0_u32..300).prop_map(|n| n.to_string()),
    ];
    let dot = prop_oneof![8 => Just("."), 1 => Just("。"), 1 => Just("．")];
    prop::collection::vec((number, dot), 1..6).prop_map(|parts| {
        let mut text: String = parts
            .into_iter()
            .flat_map(|(n, dot)| [n, dot.into()])
            .collect();
        if !text.len().is_multiple_of(3) {
            text.pop();
        }
        text
    })
}

/// Texts that come close to names.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[a-zA-Z0-9._-]{0,80}",
        "(xn--[a-z0-9-]{0,20}\\.?){1,4}",
        "[\\[:0-9a-f.\\]%]{0,40}",
        "[a-cＡ-Ｃ０-９①-⑨。．ß\u{200d}\u{200c}\u{ad}א-תا-ي.-]{0,20}",
    ]
}

fn check_canonical(text: &str) -> Result<(), TestCaseError> {
    let Ok(host) = Host::parse(text) else {
        return Ok(());
    };
    let canonical = host.to_string();
    prop_assert_eq!(Host::parse(&canonical), Ok(host.clone()), "{}", text);
    match host {
        Host::Name(name) => {
            prop_assert!(name.as_str().chars().all(|c| is_plain(c) || c == '.'));
            prop_assert!(name.as_str().len() <= LONGEST_NAME);
            prop_assert_eq!(inet_aton(name.as_str()), None, "{}", text);
            prop_assert!(canonical.parse::<IpAddr>().is_err());
        }
        Host::Address(address) => {
            prop_assert_eq!(address.to_canonical(), address);
            prop_assert_eq!(canonical.parse(), Ok(address));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_canonical_text_stays_as_it_is(text in names()) {
        check_canonical(&text)?;
    }

    #[test]
    fn a_number_is_dialled_as_it_was_judged(text in numbers()) {
        check_canonical(&text)?;
        // What the resolver takes for an address is that address here, too.
        if let Some(address) = inet_aton(&text) {
            let judged = Host::Address(std::net::Ipv4Addr::from(address).into());
            prop_assert_eq!(Host::parse(&text), Ok(judged), "{}", text);
        }
    }

    #[test]
    fn addresses_survive(v4: [u8; 4], v6: [u8; 16]) {
        for address in [IpAddr::from(v4), IpAddr::from(v6)] {
            let host = Host::from(address);
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()));
            let bracketed = format!("[{}]", Ipv6Addr::from(v6));
            prop_assert_eq!(Host::parse(&bracketed), Ok(Host::from(IpAddr::from(v6))));
        }
    }
}
