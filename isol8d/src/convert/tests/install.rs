//! Packages, and the network that they bring.

use super::*;

fn installing(runtime: v1::Runtime, packages: &[&str]) -> v1::Start {
    v1::Start {
        runtime: runtime.into(),
        install: packages.iter().map(ToString::to_string).collect(),
        ..start()
    }
}

#[track_caller]
fn told(runtime: v1::Runtime, packages: &[&str], expected: Expect) {
    let start = installing(runtime, packages);
    let failure = run_request(start, &Config::default()).expect_err("it is refused");
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let hint = failure.hint.unwrap_or_default();
    expected.assert_eq(&format!("{}\nhint: {hint}\n", failure.message));
}

#[test]
fn packages_are_a_sorted_set() {
    let start = installing(v1::Runtime::Python, &["rich", "numpy>=2", "rich"]);
    let request = run_request(start, &Config::default()).expect("a good request");
    let names: Vec<&str> = request.install.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["numpy>=2", "rich"]);
    assert!(!request.no_install_cache);
}

#[test]
fn packages_bring_the_filtered_network_unless_another_was_asked_for() {
    let with = |network: v1::NetworkMode| {
        let start = v1::Start {
            network: network.into(),
            no_install_cache: true,
            ..installing(v1::Runtime::Node, &["lodash"])
        };
        run_request(start, &Config::default()).expect("a good request")
    };
    for (asked, got) in [
        (v1::NetworkMode::Unspecified, Network::Filtered),
        (v1::NetworkMode::Filtered, Network::Filtered),
        (v1::NetworkMode::None, Network::None),
        (v1::NetworkMode::Host, Network::Host),
    ] {
        let request = with(asked);
        assert_eq!(request.network, got);
        assert!(request.no_install_cache);
    }
    // The lists then count as well.
    let start = v1::Start {
        log_network: true,
        filter: Some(v1::NetworkFilter::default()),
        ..installing(v1::Runtime::Node, &["lodash"])
    };
    assert!(run_request(start, &Config::default()).is_ok());
}

#[test]
fn what_is_no_package_is_named_with_the_reason() {
    told(
        v1::Runtime::Python,
        &["rich", "--index-url=x"],
        expect![[r#"
            `--index-url=x` is an option, not a package
            hint: write it like `--install 'numpy>=2'`
        "#]],
    );
    told(
        v1::Runtime::Python,
        &["a;rm -rf /"],
        expect![[r#"
        `a;rm -rf /` is not a python package: it holds `;`
        hint: write it like `--install 'numpy>=2'`
    "#]],
    );
    told(
        v1::Runtime::Python,
        &["git+https://h/x"],
        expect![[r#"
        `git+https://h/x` is not a python package: only names of a registry are taken, no paths, archives, URLs or repositories
        hint: 
    "#]],
    );
    told(
        v1::Runtime::Node,
        &["../x"],
        expect![[r#"
        `../x` is not a node package: only names of a registry are taken, no paths, archives, URLs or repositories
        hint: 
    "#]],
    );
    told(
        v1::Runtime::Bun,
        &[""],
        expect![[r#"
        a package must not be empty
        hint: write it like `--install lodash@4`
    "#]],
    );
    told(
        v1::Runtime::Deno,
        &["http://h/mod.ts"],
        expect![[r#"
        `http://h/mod.ts` is not a deno package: only `npm:`, `jsr:` and `https:` are taken
        hint: 
    "#]],
    );
    told(
        v1::Runtime::Bash,
        &["jq=$(id)"],
        expect![[r#"
        `jq=$(id)` is not a bash package: it holds `$`
        hint: write it like `--install jq`
    "#]],
    );
    told(
        v1::Runtime::Bash,
        &["a"; 101],
        expect![[r#"
        there are 101 packages; one run has at most 100
        hint: give an image that has them already with `--image`
    "#]],
    );
}
