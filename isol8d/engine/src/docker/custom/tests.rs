use isol8_core::ids::DaemonId;

use super::{super::derive::leftovers::Mark, *};

fn origin(runtime: Runtime, packages: &[&str]) -> Origin {
    Origin {
        runtime,
        base_id: "sha256:1".into(),
        user: "65534:65534".into(),
        packages: Package::parse_all(runtime, packages).unwrap(),
    }
}

fn name_of(packages: &[&str]) -> String {
    let origin = origin(Runtime::Python, packages);
    tag_of(origin.runtime, &hash_of(&origin))
}

#[test]
fn lists_that_read_the_same_when_joined_have_names_of_their_own() {
    let both = name_of(&["num", "py"]);
    assert_eq!(both, name_of(&["py", "num", "num"]));
    assert_ne!(both, name_of(&["numpy"]));
    assert_ne!(name_of(&["ab", "c"]), name_of(&["a", "bc"]));
    assert_ne!(name_of(&["x>=1,<2"]), name_of(&["x>=1"]));
    let digits = both.strip_prefix("isol8:python-custom-").unwrap();
    assert_eq!(digits.len(), 12);
    assert!(is_custom_tag(&both));
}

#[test]
fn another_base_is_another_image() {
    let mut changed = origin(Runtime::Node, &["six"]);
    let before = hash_of(&changed);
    changed.base_id = "sha256:2".into();
    let after = hash_of(&changed);
    changed.runtime = Runtime::Bun;
    assert_ne!(before, after);
    assert_ne!(after, hash_of(&changed));
}

#[test]
fn only_names_of_custom_images_are_such() {
    for tag in [
        "isol8:bash",
        "isol8:bash-0123456789ab",
        "isol8:bash-custom-",
        "isol8:bash-custom-0123456789abc",
        "isol8:bash-custom-0123456789aB",
        "x/isol8:bash-custom-0123456789ab",
    ] {
        assert!(!is_custom_tag(tag), "{tag}");
    }
}

#[test]
fn packages_are_in_no_line_of_the_build() {
    let build = Mark::new(&DaemonId::random());
    let step = Step {
        tag: "x",
        hash: "0123",
        script: "",
        labels: &[],
        surroundings: &surroundings(Runtime::Deno),
        last_labels: HashMap::new(),
        terms: None,
    };
    let text = origin(Runtime::Deno, &["npm:chalk@5"]).dockerfile(&step, &build);
    assert!(!text.contains("chalk"), "{text}");
    let labels = format!(
        "LABEL isol8.build=\"{}\" isol8.managed=\"1\" isol8.runtime=\"deno\" \
         isol8.inputs=\"0123\" isol8.base=\"sha256:1\"",
        build.as_str()
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["FROM sha256:1", &labels]);
    assert_eq!(lines[2], "ENV DENO_DIR=/usr/local/share/isol8/deno");
    assert!(text.ends_with("USER ${ISOL8_USER}\n"));
}

#[test]
fn the_label_is_a_list() {
    let label = list_of(&origin(Runtime::Python, &["six", "numpy>=2,<3"]).packages);
    assert_eq!(label, r#"["numpy>=2,<3","six"]"#);
}

#[test]
fn every_runtime_has_a_recipe() {
    for runtime in Runtime::ALL {
        let script = install_script(runtime);
        let case = format!("\n  {runtime})\n");
        assert!(
            runtime == Runtime::Bash || script.contains(&case),
            "{runtime}"
        );
    }
}

#[test]
fn a_failure_shows_what_was_said_last() {
    let broken = |kind, answered| Broken {
        failure: Failure::new(kind, "cannot build an image").cause("code: 1"),
        answered,
        lines: vec!["ERROR: no such package".into()],
    };
    let failed = |broken| build_failed(&origin(Runtime::Python, &["six", "a"]), &broken);
    let usual = failed(broken(FailureKind::EngineRefused, true));
    assert_eq!(usual.kind, FailureKind::ImageBuild);
    assert_eq!(usual.message, "cannot build an image of python with a, six");
    assert_eq!(
        usual.causes,
        ["the last lines were:\nERROR: no such package", "code: 1"]
    );
    let late = failed(broken(FailureKind::EngineTimeout, false));
    assert_eq!(late.kind, FailureKind::EngineTimeout);
}

#[test]
fn an_alias_has_a_tag_and_is_none_of_ours() {
    let good = |text| alias(text).unwrap().as_str().to_owned();
    assert_eq!(good("science"), "science:latest");
    assert_eq!(good("team/science:2.1"), "team/science:2.1");
    assert_eq!(
        good("localhost:5000/science"),
        "localhost:5000/science:latest"
    );
    assert_eq!(
        good("registry.example/a/isol8:x"),
        "registry.example/a/isol8:x"
    );
    assert_eq!(good("isol8-science"), "isol8-science:latest");
    for text in [
        "",
        ":",
        "a:",
        ":b",
        "A",
        "a b",
        "a@sha256:00",
        "-a",
        "a/../b",
        "a//b",
        "a:b:c",
        "a:-b",
        "a;b",
        "isol8",
        "isol8:python",
        "isol8:mine",
        "library/isol8:x",
        "docker.io/isol8",
        "docker.io/library/isol8:python",
        "index.docker.io/isol8:python",
    ] {
        let failure = alias(text).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{text}");
    }
    assert!(alias(&format!("a:{}", "b".repeat(129))).is_err());
}
