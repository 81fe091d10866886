//! Custom images: built once, found by what is in them, and nothing left of one
//! that failed. They belong to the Docker engine and are shared by everybody on
//! it: each test has packages that no other asks for.

use std::{fs, process::Command};

use isol8_e2e::harness::{
    call::Ran,
    stage::{Engine, Stage},
    wait::seconds,
};
use serde_json::json;

/// Removes the images of these packages, also when the test fails, with every
/// name that they have. Made before the stage, and so gone after it: what a
/// sandbox uses cannot be removed.
struct Built(&'static str);

impl Drop for Built {
    fn drop(&mut self) {
        let made = images(&format!("label=isol8.custom={}", self.0));
        let mut remove = Command::new("docker");
        drop(
            remove
                .args(["rmi", "-f"])
                .args(made.split_whitespace())
                .output(),
        );
    }
}

fn images(filter: &str) -> String {
    let listed = Command::new("docker")
        .args(["images", "-aq", "--filter", filter])
        .output();
    String::from_utf8(listed.expect("docker answers").stdout).expect("ids are text")
}

fn build(stage: &Stage, args: &[&str]) -> Ran {
    stage.isol8(["build", "--base", "python"]).args(args).go()
}

#[test]
fn a_custom_image_is_built_once_and_has_its_packages() {
    let _built = Built(r#"["iniconfig>=1,<3"]"#);
    Stage::with(Engine::Docker, |stage| {
        let built = build(stage, &["--install", "iniconfig>=1,<3", "--force"]);
        let tag = built.ok().trim().to_owned();
        let digits = tag.strip_prefix("isol8:python-custom-").expect("its name");
        assert_eq!(digits.len(), 12, "{tag}");
        // The installer is seen at work.
        built.says("Successfully installed iniconfig");

        let again = build(stage, &["--install", "iniconfig>=1,<3"]);
        assert_eq!(again.ok(), format!("{tag}\n"));
        again.says("nothing to do").within(seconds(1));

        let alias = ["--install=iniconfig>=1,<3", "--tag=isol8-e2e-images:mine"];
        build(stage, &alias).ok();
        let code = "import iniconfig; print(iniconfig.__file__)";
        for image in [tag.as_str(), "isol8-e2e-images:mine"] {
            let ran = stage.python(code).args(["--image", image]).go();
            assert!(ran.ok().starts_with("/usr/local/lib/python3"), "{ran:?}");
            assert_eq!(ran.err(), "", "{ran:?}");
        }
        // The image serves who asks for less, and nothing is installed.
        let install = ["--install", "iniconfig", "--net", "none"];
        let ran = stage.python(code).args(install).go();
        assert!(ran.ok().starts_with("/usr/local/lib/python3"), "{ran:?}");
        assert_eq!(ran.err(), "", "{ran:?}");
        // The base image is as it was.
        stage
            .python("import iniconfig")
            .go()
            .ended(1)
            .says("No module named");

        let other = build(stage, &["--install=iniconfig>=1,<3", "--force"]);
        assert_eq!(other.ok(), format!("{tag}\n"));
        other.says("built in");
    });
}

#[test]
fn a_package_that_is_not_there_leaves_nothing() {
    Stage::with(Engine::Docker, |stage| {
        let name = format!("isol8-e2e-{}", std::process::id());
        let failed = build(stage, &["--install", &name]);
        failed
            .ended(125)
            .says("error: cannot build an image of python")
            .says(&format!("No matching distribution found for {name}"))
            .says("hint: ");
        let told = failed.err();
        let tag = told
            .split_whitespace()
            .find(|word| word.starts_with("isol8:python-custom-"));
        let tag = tag.expect("it said what it was building");
        assert_eq!(images(&format!("reference={tag}")), "");
        for wrong in ["six;id", "-r", "../x", "git+https://h/r"] {
            build(stage, &["--install", wrong]).ended(2);
        }
        for wrong in ["isol8:python", "isol8", "UPPER", "debian:trixie-slim"] {
            build(stage, &["--install=iniconfig", "--tag", wrong]).ended(2);
        }
    });
}

#[test]
fn the_native_engine_has_no_images() {
    let nowhere = json!({"docker": {"host": "unix:///nonexistent/docker.sock"}});
    Stage::with_config(Engine::Native, nowhere, |stage| {
        let failed = build(stage, &["--install", "six"]);
        failed
            .ended(125)
            .says("error: `isol8 build` needs the Docker engine")
            .says("hint: start Docker");
        let missing = json!({"engine": "native", "dependencies": {"python": ["isol8-none"]}});
        let config = stage.file("other.json", missing.to_string());
        let ran = stage.python("print(1)").env("ISOL8_CONFIG", config).go();
        assert_eq!(ran.ok(), "1\n");
        ran.says("note: this run is without the packages of `dependencies.python`");
    });
}

#[test]
fn packages_of_the_configuration_are_there_without_being_asked_for() {
    let _built = Built(r#"["zipp==3.20.0"]"#);
    Stage::with(Engine::Docker, |stage| {
        let config = stage.folder().join("config.json");
        let done = stage.isol8(["setup", "--python", "zipp==3.20.0"]).go();
        done.ok();
        done.says(&format!("changed {}", config.display()));
        let text = fs::read_to_string(&config).expect("it is there");
        assert!(text.contains(r#""python": ["zipp==3.20.0"]"#), "{text}");

        let again = stage.isol8(["setup"]).go();
        assert!(
            again.ok().starts_with("nothing to do: 6 images"),
            "{again:?}"
        );
        again.within(seconds(1));

        let code = "import zipp; print(zipp.__file__.startswith('/usr/local/'))";
        for _ in 0..2 {
            let ran = stage.python(code).go();
            assert_eq!((ran.ok(), ran.err()), ("True\n".to_owned(), String::new()));
        }
        // Its own image is chosen by who names one.
        let base = stage.python(code).args(["--image", "isol8:python"]).go();
        base.ended(1).says("No module named");
        // Without its image a run goes on, and says so.
        let other = json!({"engine": "docker", "dependencies": {"python": ["isol8-none"]}});
        let other = stage.file("other.json", other.to_string());
        let ran = stage.python("print(1)").env("ISOL8_CONFIG", other).go();
        assert_eq!(ran.ok(), "1\n");
        ran.says("note: this run is without the packages")
            .says("isol8 setup");
    });
}
