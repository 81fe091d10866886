//! Where a run takes place.

use super::*;

fn remote(place: &Place, argv: &[&str]) -> Plan {
    let argv: Vec<_> = ["-e", "1"].iter().chain(argv).copied().collect();
    planned(place, &argv).expect("a plan")
}

#[test]
fn without_an_address_it_takes_place_here() {
    let place = Place {
        env: &[("ISOL8_API_KEY", "k")],
        ..Place::default()
    };
    let plan = remote(&place, &[]);
    assert!(plan.remote.is_none() && plan.warnings.is_empty());
}

#[test]
fn the_key_is_typed_or_in_the_environment() {
    let key = |text| crate::remote::Key::parse(std::ffi::OsStr::new(text)).expect("a key");
    let place = Place {
        env: &[("ISOL8_API_KEY", "of-the-environment")],
        ..Place::default()
    };
    let host = "--host=https://h.example:3000/base/";
    let plan = remote(&place, &[host]);
    let found = plan.remote.expect("a server");
    assert_eq!(found.address.to_string(), "https://h.example:3000/base");
    assert_eq!(found.key, key("of-the-environment"));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let plan = remote(&place, &[host, "--key", "-typed"]);
    assert_eq!(plan.remote.expect("a server").key, key("-typed"));
}

#[test]
fn what_travels_in_the_clear_is_told() {
    for (host, is_open) in [
        ("http://h.example", true),
        ("http://10.0.0.1:3000", true),
        ("http://127.0.0.1:3000", false),
        ("http://localhost", false),
        ("https://h.example", false),
    ] {
        let plan = remote(&Place::default(), &["--host", host, "--key", "its-key"]);
        let told = plan
            .warnings
            .iter()
            .any(|line| line.contains("in the clear"));
        assert_eq!(told, is_open, "{host}");
        assert!(!format!("{plan:?}").contains("its-key"));
    }
}

#[test]
fn a_working_directory_does_not_say_whom_to_trust() {
    let plan_of = |trust| {
        let mut config = Config::default();
        config.network.ca_bundle = Some("/ca.pem".into());
        let place = Place {
            config,
            trust,
            ..Place::default()
        };
        remote(&place, &["--host", "https://h.example", "--key", "k"])
    };
    let own = plan_of(Trust::Full);
    let found = own.remote.expect("a server").ca_bundle;
    assert_eq!(found.as_deref(), Some(std::path::Path::new("/ca.pem")));
    assert!(own.warnings.is_empty(), "{:?}", own.warnings);
    let anybodys = plan_of(Trust::WorkingDirectory);
    assert_eq!(anybodys.remote.expect("a server").ca_bundle, None);
    assert!(anybodys.warnings[0].contains("network.caBundle"));
}

/// The server decides by what is asked for, so that all of it travels.
#[test]
fn the_request_is_the_same_as_here() {
    let argv = [
        "--session",
        "s",
        "--engine",
        "native",
        "--memory",
        "1g",
        "--log-network",
        "--net=filtered",
    ];
    let here = remote(&Place::default(), &argv);
    let with_host = ["--host", "http://[::1]:1", "--key", "k"]
        .iter()
        .chain(&argv);
    let with_host: Vec<_> = with_host.copied().collect();
    assert_eq!(remote(&Place::default(), &with_host).start, here.start);
}

#[test]
fn the_engine_of_this_machine_is_not_that_of_the_server() {
    let mut place = Place::default();
    place.config.engine = EngineChoice::Only(EngineKind::Native);
    for session in [&[][..], &["--session", "s"]] {
        let argv = [&["--host", "http://[::1]:1", "--key", "k"][..], session].concat();
        let start = remote(&place, &argv).start;
        let engines = (start.engine(), start.default_engine());
        assert_eq!(engines, (Engine::Unspecified, Engine::Unspecified));
    }
}
