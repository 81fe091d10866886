//! Networks and the hosts of the filtered one.

use super::*;

fn filtered(allow: Option<&[&str]>, deny: Option<&[&str]>) -> v1::Start {
    v1::Start {
        network: v1::NetworkMode::Filtered.into(),
        filter: Some(v1::NetworkFilter {
            allow: allow.map(list),
            deny: deny.map(list),
        }),
        ..start()
    }
}

fn list(patterns: &[&str]) -> v1::PatternList {
    v1::PatternList {
        patterns: patterns.iter().map(ToString::to_string).collect(),
    }
}

/// A daemon with lists of its own.
fn configured() -> Config {
    let mut config = Config::default();
    config.network.whitelist = vec!["own-allow".parse().expect("a pattern")];
    config.network.blacklist = vec!["own-deny".parse().expect("a pattern")];
    config
}

#[track_caller]
fn check(start: v1::Start, allow: &[&str], deny: &[&str]) {
    let request = run_request(start, &configured()).expect("a good request");
    assert_eq!(request.network, Network::Filtered);
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let (allow, deny) = (texts(allow), texts(deny));
    assert_eq!(request.hosts, Hosts { allow, deny });
}

/// Everything that a person is told.
#[track_caller]
fn told(start: v1::Start, config: &Config, expected: Expect) {
    let failure = run_request(start, config).expect_err("it is refused");
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let mut text = format!("{}\n", failure.message);
    for cause in failure.causes {
        text += &format!("cause: {cause}\n");
    }
    text += &format!("hint: {}\n", failure.hint.unwrap_or_default());
    expected.assert_eq(&text);
}

#[test]
fn a_clients_defaults_are_between_its_lists_and_the_daemons() {
    let defaults = |start: v1::Start| v1::Start {
        default_filter: Some(v1::NetworkFilter {
            allow: Some(list(&["file-allow"])),
            deny: None,
        }),
        ..start
    };
    check(
        defaults(filtered(None, None)),
        &["file-allow"],
        &["own-deny"],
    );
    check(
        defaults(filtered(Some(&["a"]), None)),
        &["a"],
        &["own-deny"],
    );
    // They mean nothing without a filter, and are no mistake.
    let none = v1::Start {
        network: v1::NetworkMode::None.into(),
        ..defaults(start())
    };
    let request = run_request(none, &configured()).expect("a good request");
    assert_eq!(request.hosts, Hosts::default());
    // A session may have a filter.
    let session = v1::Start {
        session: Some("work".to_owned()),
        ..defaults(start())
    };
    let request = run_request(session, &configured()).expect("a good request");
    assert_eq!(request.hosts.allow, ["file-allow"]);
    let given = request.session.expect("a session").given;
    assert!(!given.filters && given.network.is_none());
}

#[test]
fn a_list_that_is_given_replaces_the_daemons() {
    check(filtered(None, None), &["own-allow"], &["own-deny"]);
    check(filtered(Some(&["a"]), None), &["a"], &["own-deny"]);
    check(
        filtered(None, Some(&["b", "c"])),
        &["own-allow"],
        &["b", "c"],
    );
    check(filtered(Some(&[]), Some(&[])), &[], &[]);
    let no_filter = v1::Start {
        filter: None,
        ..filtered(None, None)
    };
    check(no_filter, &["own-allow"], &["own-deny"]);
}

#[test]
fn other_networks_have_no_lists() {
    let request = run_request(start(), &configured()).expect("a good request");
    assert_eq!(request.hosts, Hosts::default());
    for (network, name) in [
        (v1::NetworkMode::Unspecified, "none"),
        (v1::NetworkMode::None, "none"),
        (v1::NetworkMode::Host, "host"),
    ] {
        let asked = v1::Start {
            network: network.into(),
            ..filtered(None, None)
        };
        let failure = run_request(asked, &configured()).expect_err("it means nothing");
        let expected = format!("`filter` does nothing with network `{name}`");
        assert_eq!(failure.message, expected);
    }
    refused(
        |start| start.log_network = true,
        expect!["invalid_request: `log_network` does nothing with network `none`"],
    );
    let logged = v1::Start {
        log_network: true,
        ..filtered(None, None)
    };
    let request = run_request(logged, &configured()).expect("a good request");
    assert!(request.log_network);
}

#[test]
fn a_wrong_pattern_is_shown_with_the_place() {
    told(
        filtered(Some(&["ok", "(a|b"]), None),
        &configured(),
        expect![[r"
            pattern 2 of `filter.allow` is wrong: `(a|b`
            cause: unclosed group
                (a|b
                ^
            hint: a host is written like `^api\.example\.com$`
        "]],
    );
    told(
        filtered(None, Some(&["[z-a]"])),
        &configured(),
        expect![[r"
            pattern 1 of `filter.deny` is wrong: `[z-a]`
            cause: invalid character class range, the start must be <= the end
                [z-a]
                 ^^^
            hint: a host is written like `^api\.example\.com$`
        "]],
    );
    told(
        filtered(Some(&[""]), None),
        &configured(),
        expect![[r"
            pattern 1 of `filter.allow` is wrong: ``
            cause: a pattern must not be empty
            hint: a host is written like `^api\.example\.com$`
        "]],
    );
    let long = "\n".repeat(5000);
    let failure = run_request(filtered(Some(&[&long]), None), &configured());
    let failure = failure.expect_err("it is too long");
    assert!(failure.message.len() < 300 && !failure.message.contains('\n'));
}

#[test]
fn a_wrong_pattern_of_the_daemon_is_the_daemons() {
    let mut config = Config::default();
    // A regular expression, and not one over host names.
    config.network.blacklist = vec!["münchen".parse().expect("a pattern")];
    let expected = r"
        pattern 1 of `network.blacklist` is wrong: `münchen`";
    let failure = check_configured(&config.network).expect_err("it cannot match");
    assert_eq!(failure.message, expected.trim());
    let failure = run_request(filtered(None, None), &config).expect_err("the same");
    assert_eq!(failure.message, expected.trim());
    assert!(run_request(filtered(None, Some(&[])), &config).is_ok());
    assert_eq!(check_configured(&configured().network), Ok(()));
}

#[test]
fn lists_have_bounds() {
    let many = vec!["a"; 1001];
    told(
        filtered(Some(&many), None),
        &Config::default(),
        expect![[r"
            there are 1001 patterns; at most 1000 are taken
            hint: 
        "]],
    );
    // The daemon's own list counts too: both are compiled for the run.
    assert!(run_request(filtered(Some(&many[..1000]), None), &configured()).is_err());
    assert!(run_request(filtered(Some(&many[..1000]), Some(&[])), &configured()).is_ok());
    let large = "a".repeat(4096);
    let large = vec![large.as_str(); 17];
    told(
        filtered(None, Some(&large)),
        &Config::default(),
        expect![[r"
            the patterns have 69632 bytes together; at most 65536 are taken
            hint: 
        "]],
    );
    let bomb = filtered(Some(&["(?:(?:a{1000}){1000}){1000}"]), None);
    assert!(run_request(bomb, &Config::default()).is_err());
}
