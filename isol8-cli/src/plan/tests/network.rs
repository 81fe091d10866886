//! `--net`, the lists of the filtered network, and `--install`.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use isol8_core::{config::values::Pattern, egress::pattern::dot_warning};

use super::*;

/// What is sent of it, and what the person is told.
#[track_caller]
fn check(place: &Place, argv: &[&str], expected: &Expect) {
    let argv: Vec<&str> = ["-e", "1"].iter().chain(argv).copied().collect();
    let plan = planned(place, &argv).expect("a plan");
    let mut text = plan.start.network().as_str_name().to_owned();
    if !plan.start.install.is_empty() {
        write!(text, " install {:?}", plan.start.install).expect("room");
    }
    let filter = plan.start.filter.unwrap_or_default();
    for (name, list) in [("allow", filter.allow), ("deny", filter.deny)] {
        if let Some(list) = list {
            write!(text, " {name} {:?}", list.patterns).expect("room");
        }
    }
    for warning in plan.warnings {
        write!(text, "\nwarning: {warning}").expect("room");
    }
    expected.assert_eq(&text);
}

/// A place with a file that has these keys.
fn configured(given: &'static [&'static str]) -> Place {
    let mut config = Config::default();
    let patterns = |text: &str| -> Vec<Pattern> { vec![text.parse().expect("a pattern")] };
    config.network.whitelist = patterns("white");
    config.network.blacklist = patterns("black");
    Place {
        config,
        configured: true,
        given,
        ..Place::default()
    }
}

#[test]
fn packages_bring_the_filtered_network_unless_another_is_typed() {
    let place = Place::default();
    let check = |argv: &[&str], expected| check(&place, argv, &expected);
    check(&[], expect!["NETWORK_MODE_NONE"]);
    // In full on the wire: a daemon that knows no packages must not run it.
    check(
        &[
            "--install",
            "rich",
            "--install=numpy>=2",
            "--install",
            "rich",
        ],
        expect![[r#"NETWORK_MODE_FILTERED install ["numpy>=2", "rich"]"#]],
    );
    check(
        &["--install", "rich", "--net=none"],
        expect![[r#"NETWORK_MODE_NONE install ["rich"]"#]],
    );
    check(
        &["--install", "rich", "--net", "host", "--json"],
        expect![[r#"NETWORK_MODE_HOST install ["rich"]"#]],
    );
    check(&["--net", "filtered"], expect!["NETWORK_MODE_FILTERED"]);
}

#[test]
fn the_hosts_network_is_warned_of() {
    let place = Place::default();
    check(
        &place,
        &["--net=host"],
        &expect![[r#"
        NETWORK_MODE_HOST
        warning: with `--net host` the program reaches everything that this host reaches"#]],
    );
    check(
        &place,
        &["--net=host", "--json"],
        &expect!["NETWORK_MODE_HOST"],
    );
}

#[test]
fn a_list_that_is_typed_replaces_the_files_and_the_files_the_daemons() {
    let filtered = ["--net", "filtered"];
    let allow = ["--net", "filtered", "--allow", "a", "--allow=b"];
    let both = ["--install", "rich", "--allow", "a", "--deny", "-d"];
    let none = configured(&[]);
    check(&none, &filtered, &expect!["NETWORK_MODE_FILTERED"]);
    check(
        &none,
        &allow,
        &expect![[r#"NETWORK_MODE_FILTERED allow ["a", "b"]"#]],
    );
    let white = configured(&["network.whitelist"]);
    check(
        &white,
        &filtered,
        &expect![[r#"NETWORK_MODE_FILTERED allow ["white"]"#]],
    );
    check(
        &white,
        &allow,
        &expect![[r#"NETWORK_MODE_FILTERED allow ["a", "b"]"#]],
    );
    let all = configured(&["network.whitelist", "network.blacklist"]);
    check(
        &all,
        &filtered,
        &expect![[r#"NETWORK_MODE_FILTERED allow ["white"] deny ["black"]"#]],
    );
    check(
        &all,
        &allow,
        &expect![[r#"NETWORK_MODE_FILTERED allow ["a", "b"] deny ["black"]"#]],
    );
    check(
        &all,
        &both,
        &expect![[r#"NETWORK_MODE_FILTERED install ["rich"] allow ["a"] deny ["-d"]"#]],
    );
    check(&all, &[], &expect!["NETWORK_MODE_NONE"]);
}

#[test]
fn dots_that_match_anything_are_warned_of() {
    let warnings = |place: &Place, argv: &[&str]| planned(place, argv).expect("a plan").warnings;
    let of = |pattern| dot_warning(pattern).expect("it has such a dot");
    let argv = ["-e", "1", "--net=filtered", "--deny", r"x\.y", "--deny=a.b"];
    let typed = ["--allow", "api.example.com", "--json"];
    let argv: Vec<&str> = argv.into_iter().chain(typed).collect();
    let told = warnings(&Place::default(), &argv);
    assert_eq!(told, [of("api.example.com"), of("a.b")]);
    assert!(told.iter().all(|warning| warning.lines().count() == 1));

    let mut place = configured(&["network.whitelist"]);
    place.config.network.whitelist = vec!["example.com".parse().expect("a pattern"); 9];
    let told = warnings(&place, &["-e", "1", "--net=filtered"]);
    assert_eq!(told[..5], vec![of("example.com"); 5]);
    assert_eq!(told[5..], ["the same is true of 4 more patterns"]);
    assert_eq!(warnings(&place, &["-e", "1"]), [""; 0]);
}

#[test]
fn the_cache_can_be_left_alone() {
    let cached = start(&["-e", "1", "--install", "rich"]);
    assert!(!cached.no_install_cache);
    let own = start(&["-e", "1", "--install", "rich", "--no-install-cache"]);
    assert!(own.no_install_cache);
}

#[test]
fn the_log_can_be_asked_for() {
    assert!(start(&["-e", "1", "--net=filtered", "--log-network"]).log_network);
    assert!(start(&["-e", "1", "--install=rich", "--log-network"]).log_network);
    assert!(!start(&["-e", "1", "--net=filtered"]).log_network);
}
