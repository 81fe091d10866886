use proptest::prelude::*;

use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn filter(allow: &[&str], deny: &[&str]) -> Filter {
    Filter {
        allow: texts(allow),
        deny: texts(deny),
        ports: vec![80, 443],
        ..Filter::default()
    }
}

fn judge(filter: &Filter, host: &str, port: u16) -> Result<(), Refusal> {
    let rules = Rules::compile(filter).unwrap();
    rules.judge_host(&Host::parse(host).unwrap(), port)
}

#[test]
fn with_no_lists_every_public_host_is_open() {
    let open = filter(&[], &[]);
    assert!(Rules::compile(&open).unwrap().is_open());
    assert_eq!(judge(&open, "example.com", 443), Ok(()));
    assert_eq!(judge(&open, "8.8.8.8", 80), Ok(()));
    assert!(matches!(
        judge(&open, "127.1", 80),
        Err(Refusal::Address { .. })
    ));
    assert!(!Rules::compile(&filter(&["a"], &[])).unwrap().is_open());
    assert!(!Rules::compile(&filter(&[], &["a"])).unwrap().is_open());
}

#[test]
fn ports_come_first_and_none_means_none() {
    assert_eq!(
        judge(&filter(&[], &["."]), "example.com", 22),
        Err(Refusal::Port(22))
    );
    let closed = Filter {
        ports: vec![],
        ..filter(&[], &[])
    };
    assert_eq!(judge(&closed, "example.com", 443), Err(Refusal::Port(443)));
    let other = Filter {
        ports: vec![8080],
        ..filter(&[], &[])
    };
    assert_eq!(judge(&other, "example.com", 8080), Ok(()));
    assert_eq!(judge(&other, "example.com", 80), Err(Refusal::Port(80)));
}

#[test]
fn deny_wins() {
    let both = filter(&[".*\\.example\\.com"], &["^secret\\."]);
    assert_eq!(judge(&both, "www.example.com", 80), Ok(()));
    assert_eq!(judge(&both, "secret.example.com", 80), Err(Refusal::Denied));
    assert_eq!(
        judge(&both, "SECRET.example.com.", 80),
        Err(Refusal::Denied)
    );
    assert_eq!(judge(&both, "other.net", 80), Err(Refusal::NotAllowed));
    let denied = filter(&[], &["example"]);
    assert_eq!(judge(&denied, "www.example.com", 80), Err(Refusal::Denied));
    assert_eq!(judge(&denied, "other.net", 80), Ok(()));
}

#[test]
fn registries_are_allowed_word_for_word() {
    let mut filter = filter(&[], &["^bad\\."]);
    filter.registries = texts(&["Packages.Example.", "bad.example", "files.example"]);
    assert!(!Rules::compile(&filter).unwrap().is_open());
    assert_eq!(judge(&filter, "packages.example", 443), Ok(()));
    assert_eq!(judge(&filter, "files.example", 443), Ok(()));
    for other in [
        "x.packages.example",
        "packages.example.net",
        "packagesxexample",
    ] {
        assert_eq!(
            judge(&filter, other, 443),
            Err(Refusal::NotAllowed),
            "{other}"
        );
    }
    assert_eq!(judge(&filter, "bad.example", 443), Err(Refusal::Denied));
    filter.allow = texts(&["www\\.example"]);
    assert_eq!(judge(&filter, "www.example", 443), Ok(()));
    assert_eq!(judge(&filter, "packages.example", 443), Ok(()));
}

#[test]
fn addresses_are_judged_in_every_spelling() {
    let everything = filter(&[".*"], &[]);
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[2002:a9fe:a9fe::]",
        "[64:ff9b::a9fe:a9fe]",
        "127.1",
        "0",
        "[::]",
        "[::1]",
        "10.0.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let refused = judge(&everything, host, 80);
        assert!(
            matches!(refused, Err(Refusal::Address { .. })),
            "{host}: {refused:?}"
        );
    }
    let mut opened = filter(&[], &[]);
    opened.allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    assert_eq!(judge(&opened, "0x7f.1", 80), Ok(()));
    let rules = Rules::compile(&opened).unwrap();
    assert_eq!(rules.judge_address("127.0.0.1".parse().unwrap()), Ok(()));
    let refused = rules
        .judge_address("10.0.0.1".parse().unwrap())
        .unwrap_err();
    assert_eq!(refused.to_string(), "10.0.0.1 is a private address");
}

#[test]
fn metadata_names_need_the_operator() {
    let mut filter = filter(&[".*"], &[]);
    for name in [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
    ] {
        assert_eq!(
            judge(&filter, name, 80),
            Err(Refusal::MetadataName),
            "{name}"
        );
    }
    assert_eq!(judge(&filter, "metadata.example.com", 80), Ok(()));
    filter.allow_private = vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(judge(&filter, "metadata", 80), Err(Refusal::MetadataName));
    filter.allow_private = vec!["169.254.0.0/16".parse().unwrap()];
    assert_eq!(judge(&filter, "metadata.google.internal", 80), Ok(()));
}

#[test]
fn names_of_this_machine_need_the_operator() {
    let mut filter = filter(&[".*"], &[]);
    for name in ["localhost", "LOCALHOST.", "a.localhost", "a.b.localhost."] {
        let refused = judge(&filter, name, 80);
        assert!(
            matches!(refused, Err(Refusal::Address { class, .. }) if class == AddressClass::Loopback),
            "{name}: {refused:?}"
        );
    }
    for name in ["notlocalhost", "localhost.example.com"] {
        assert_eq!(judge(&filter, name, 80), Ok(()));
    }
    filter.allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    assert_eq!(judge(&filter, "a.localhost", 80), Ok(()));
}

#[test]
fn one_wrong_entry_spoils_the_filter() {
    for (allow, deny, list, index) in [
        (&["a", "("][..], &[][..], List::Allow, 1),
        (&[""], &[], List::Allow, 0),
        (&["a"], &["b", "*"], List::Deny, 1),
        (&[], &[""], List::Deny, 0),
    ] {
        let error = Rules::compile(&filter(allow, deny)).unwrap_err();
        let found = match &error {
            FilterError::Pattern { list, index, .. } => Some((*list, *index)),
            _ => None,
        };
        assert_eq!(found, Some((list, index)), "{error}");
    }
    let error = Rules::compile(&filter(&[], &["ok", "a(b"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "deny pattern 2: unclosed group\n    a(b\n     ^"
    );
    for registry in ["", "a b", "https://example.com", "example.com:443"] {
        let wrong = Filter {
            registries: texts(&[registry]),
            ..filter(&[], &[])
        };
        let error = Rules::compile(&wrong).unwrap_err();
        assert!(matches!(error, FilterError::Registry { .. }), "{registry}");
    }
}

#[test]
fn sizes_have_limits() {
    let many = |count: usize, text: &str| Filter {
        deny: vec![text.to_owned(); count],
        ..filter(&[], &[])
    };
    assert!(Rules::compile(&many(MOST_PATTERNS, "a")).is_ok());
    let error = Rules::compile(&many(MOST_PATTERNS + 1, "a")).unwrap_err();
    assert_eq!(error, FilterError::TooMany(MOST_PATTERNS + 1));
    let long = "a".repeat(4096);
    assert!(Rules::compile(&many(16, &long)).is_ok());
    assert_eq!(
        Rules::compile(&many(17, &long)).unwrap_err(),
        FilterError::TooMuchText(17 * 4096)
    );
    // Each is small enough, all together are not.
    let large = (0..400).map(|n| format!("{n}[b-y]{{800}}")).collect();
    let large = Filter {
        allow: large,
        ..filter(&[], &[])
    };
    assert_eq!(
        Rules::compile(&large).unwrap_err(),
        FilterError::TooLarge(List::Allow)
    );
    // As many as are taken, of a common length.
    let usual =
        (0..MOST_PATTERNS).map(|n| format!("^(?:[a-z0-9-]+\\.)*service-{n}\\.example-{n}\\.com$"));
    let usual = Filter {
        allow: usual.collect(),
        ..filter(&[], &[])
    };
    assert_eq!(judge(&usual, "a.b.service-999.example-999.com", 80), Ok(()));
    assert_eq!(
        judge(&usual, "service-999.example-998.com", 80),
        Err(Refusal::NotAllowed)
    );
}

proptest! {
    /// Whatever the lists say: what is denied never passes, what is not public
    /// never passes, what passes an allow list is in it.
    #[test]
    fn no_list_opens_what_another_closes(
        allow in prop::collection::vec("[ab.*^$|]{1,6}", 0..4),
        deny in prop::collection::vec("[ab.*^$|]{1,6}", 0..4),
        host in prop_oneof!["[ab](?:\\.?[ab]){0,5}", "(?:[0-9]{1,3}\\.){3}[0-9]{1,3}"],
        port in prop_oneof![Just(80), Just(443), Just(22)],
    ) {
        let filter = Filter { allow, deny, ports: vec![80, 443], ..Filter::default() };
        let (Ok(rules), Ok(host)) = (Rules::compile(&filter), Host::parse(&host)) else {
            return Ok(());
        };
        if rules.judge_host(&host, port).is_ok() {
            prop_assert!(filter.ports.contains(&port));
            prop_assert!(host.address().is_none_or(|ip| address::class(ip).is_none()));
            let matches = |one: &String| AllowPattern::parse(one).unwrap().matches(&host);
            prop_assert!(filter.allow.is_empty() || filter.allow.iter().any(matches));
            let matches = |one: &String| DenyPattern::parse(one).unwrap().matches(&host);
            prop_assert!(!filter.deny.iter().any(matches));
        }
    }
}
