//! What goes along with a run in a session: only what is typed now, for it must
//! be what the session was made with.

use isol8_core::config::values::Pattern;
use isol8_proto::v1::{Limits, NetworkFilter, PatternList};

use super::*;

/// A file that says something about everything.
fn opinionated() -> Place {
    let mut config = Config::default();
    config.defaults.limits.memory = ByteSize::mib(64);
    config.defaults.readonly_root = false;
    config.engine = EngineChoice::Only(EngineKind::Native);
    let pattern: Pattern = "white".parse().expect("a pattern");
    config.network.whitelist = vec![pattern];
    Place {
        config,
        configured: true,
        given: &["network.whitelist"],
        ..Place::default()
    }
}

fn in_session(place: &Place, argv: &[&str]) -> Start {
    let argv: Vec<&str> = ["-e", "1"].iter().chain(argv).copied().collect();
    planned(place, &argv).expect("a plan").start
}

#[test]
fn a_session_has_a_name_or_is_the_default_one() {
    let name = |argv: &[&str]| in_session(&Place::default(), argv).session;
    assert_eq!(name(&[]), None);
    assert_eq!(name(&["--persistent"]).as_deref(), Some("default"));
    assert_eq!(name(&["--session", "a.b-c_1"]).as_deref(), Some("a.b-c_1"));
    let both = ["--persistent", "--session=work"];
    assert_eq!(name(&both).as_deref(), Some("work"));
}

#[test]
fn persist_is_a_wish_of_its_own() {
    let start = in_session(&Place::default(), &["--persist"]);
    assert!(start.persist && start.session.is_none());
    let start = in_session(&Place::default(), &["--persist", "--persistent"]);
    assert!(start.persist && start.session.is_some());
    assert!(!in_session(&Place::default(), &["--persistent"]).persist);
}

#[test]
fn of_the_file_a_session_gets_defaults_alone() {
    let start = in_session(&opinionated(), &["--session", "s"]);
    assert_eq!(start.limits, Some(Limits::default()));
    assert_eq!(start.defaults.expect("of the file").memory_bytes, 64 << 20);
    assert_eq!(start.engine(), Engine::Unspecified);
    // A new one gets what the file and the environment say.
    assert_eq!(start.default_engine(), Engine::Native);
    assert_eq!(start.network(), NetworkMode::Unspecified);
    assert!(!start.writable && start.image.is_empty() && start.filter.is_none());
    let start = in_session(&Place::default(), &["--session", "s"]);
    assert_eq!(start.defaults, None);
}

#[test]
fn what_is_typed_goes_along() {
    let argv = [
        "--session=s",
        "--memory=8m",
        "--cpu=2",
        "--timeout=9",
        "--net=host",
        "--json",
        "--engine=docker",
        "--image=node:20",
        "--writable",
    ];
    let start = in_session(&opinionated(), &argv);
    let limits = Limits {
        memory_bytes: 8 << 20,
        cpu_millis: 2000,
        timeout_ms: 9,
        ..Limits::default()
    };
    assert_eq!(start.limits, Some(limits));
    assert_eq!(start.network(), NetworkMode::Host);
    assert_eq!(start.engine(), Engine::Docker);
    assert_eq!(start.image, "node:20");
    assert!(start.writable);
    let typed = in_session(&opinionated(), &["--session=s", "--engine", "auto"]);
    assert_eq!(typed.engine(), Engine::Unspecified);
}

#[test]
fn the_daemon_knows_the_network_of_a_session() {
    let network = |argv: &[&str]| {
        let argv: Vec<&str> = ["--persistent"].iter().chain(argv).copied().collect();
        let start = in_session(&opinionated(), &argv);
        (start.network(), start.filter)
    };
    let lists = |allow: &str, deny: Option<&str>| {
        let list = |text: &str| PatternList {
            patterns: vec![text.to_owned()],
        };
        Some(NetworkFilter {
            allow: Some(list(allow)),
            deny: deny.map(list),
        })
    };
    let unknown = NetworkMode::Unspecified;
    assert_eq!(network(&[]), (unknown, None));
    let installs = network(&["--install", "six"]);
    assert_eq!(installs, (unknown, lists("white", None)));
    assert_eq!(network(&["--allow", "a"]), (unknown, lists("a", None)));
    let denied = lists("white", Some("b"));
    assert_eq!(network(&["--deny", "b"]), (unknown, denied));
    assert_eq!(network(&["--log-network"]), (unknown, lists("white", None)));
    let typed = ["--net=filtered", "--install", "six"];
    let filtered = NetworkMode::Filtered;
    assert_eq!(network(&typed), (filtered, lists("white", None)));
    assert_eq!(network(&["--net=none"]), (NetworkMode::None, None));
    // Whatever network it has: a run must not reach more than the file says.
    let start = in_session(&opinionated(), &["--persistent"]);
    assert_eq!(start.default_filter, lists("white", None));
    let start = in_session(&Place::default(), &["--persistent"]);
    assert_eq!(start.default_filter, None);
}

#[test]
fn lists_are_refused_where_the_network_is_typed_and_has_none() {
    for mode in ["--net=none", "--net=host"] {
        let argv = ["-e", "1", "--persistent", mode, "--allow", "a"];
        let failure = planned(&Place::default(), &argv).expect_err("it does nothing");
        assert!(failure.message.contains("`--allow` does nothing"));
    }
}
