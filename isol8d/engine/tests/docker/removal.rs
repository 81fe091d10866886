//! Which images are ours, and that nothing else is removed. Only images that a
//! test makes itself are removed here.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use isol8_core::{failure::FailureKind, ids::RunId, runtime::Runtime, sandbox::ImageName};
use isol8_engine::Engine;
use serde_json::json;

use crate::bench::{Bench, spec};

const LONG_AGO: &str = "2020-01-01T00:00:00Z";
const OF_OURS: &[&str] = &["CMD", "LABEL isol8.managed=1"];

/// Images of one test.
struct Images {
    mark: String,
}

/// What the engine is told to have built before.
#[derive(Clone, Copy)]
struct Past<'a> {
    labels: &'a [&'a str],
    /// The newest last.
    steps: &'a [&'a str],
    created: &'a str,
}

fn try_docker(arguments: &[&str], input: &[u8]) -> Option<String> {
    let mut child = Command::new("docker")
        .args(arguments)
        // The one that the engine itself uses, and that keeps its steps.
        .env("DOCKER_BUILDKIT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    output.status.success().then_some(text)
}

fn docker(arguments: &[&str], input: &[u8]) -> String {
    let output = try_docker(arguments, input);
    output.unwrap_or_else(|| panic!("docker {arguments:?}"))
}

fn is_there(image: &str) -> bool {
    try_docker(&["image", "inspect", image], &[]).is_some()
}

impl Images {
    fn new() -> Self {
        Self {
            mark: RunId::random().as_str().to_owned(),
        }
    }

    /// A name as we give it, which nobody else has.
    fn own_name(&self, begin: &str) -> String {
        format!("{begin}-{}", &self.mark[..12])
    }

    fn their_name(&self, name: &str) -> String {
        format!("isol8-test:{}-{name}", self.mark)
    }

    /// Puts an image with nothing in it on the engine. Gives its id.
    fn load(&self, past: Past<'_>, tags: &[&str]) -> String {
        let mut labels = serde_json::Map::new();
        labels.insert("isol8.test".into(), self.mark.clone().into());
        for label in past.labels {
            let (name, value) = label.split_once('=').unwrap();
            labels.insert(name.into(), value.into());
        }
        let step =
            |step: &&str| json!({"created": past.created, "created_by": step, "empty_layer": true});
        let config = json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "created": past.created,
            "config": {"Labels": labels, "Cmd": ["none"]},
            "history": past.steps.iter().map(step).collect::<Vec<_>>(),
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": []}]);
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
            let content = content.to_string();
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        let told = docker(&["load"], &archive.into_inner().unwrap());
        let Some(tag) = tags.first() else {
            // `Loaded image ID: sha256:…`
            return told.split_once("ID: ").unwrap().1.to_owned();
        };
        docker(&["image", "inspect", "-f", "{{.Id}}", tag], &[])
    }

    fn build(&self, dockerfile: &str, arguments: &[&str]) -> String {
        let label = format!("isol8.test={}", self.mark);
        let fixed = ["build", "-q", "--label", &label];
        docker(
            &[&fixed[..], arguments, &["-"]].concat(),
            dockerfile.as_bytes(),
        )
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let filter = format!("label=isol8.test={}", self.mark);
        let left = docker(&["images", "-aq", "--filter", &filter], &[]);
        for id in left.split_whitespace() {
            // A step goes with what is built on it.
            try_docker(&["rmi", "-f", id], &[]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_is_what_has_our_name_or_ends_with_our_steps() {
    let bench = Bench::with_init(|_| ());
    let images = Images::new();
    let load = |kind: &str, past: Past<'_>, tags: &[&str]| {
        // No two are the same image.
        let kind = format!("isol8.test.kind={kind}");
        let labels = [past.labels, &["isol8.managed=1", kind.as_str()]].concat();
        let labels = labels.as_slice();
        images.load(Past { labels, ..past }, tags)
    };
    let custom = Past {
        labels: &["isol8.custom=[]"],
        steps: OF_OURS,
        created: LONG_AGO,
    };
    let derived = Past {
        labels: &["isol8.packages=jq"],
        ..custom
    };
    let theirs = Past {
        steps: &["CMD", "LABEL isol8.managed=1", "RUN true"],
        ..custom
    };
    let young = Past {
        created: "2999-01-01T00:00:00Z",
        ..custom
    };
    let (own, alias) = (
        images.own_name("isol8:bash-custom"),
        images.their_name("alias"),
    );
    let left_alias = images.their_name("left");
    let derived_name = images.own_name("isol8:bash");
    load("custom", custom, &[&own, &alias]);
    load("left alias", custom, &[&left_alias]);
    let kept = images.their_name("kept");
    load("derived", derived, &[&derived_name, &kept]);
    let nameless = load("nameless", derived, &[]);
    let not_ours = [
        load("theirs", theirs, &[&images.their_name("theirs")]),
        load("theirs without a name", theirs, &[]),
        load("a step", young, &[]),
        images.load(custom, &[]),
    ];

    let names = bench.engine.image_names().await.unwrap();
    let at = |name: &String| names.iter().position(|other| other == name);
    let ours = [&own, &alias, &left_alias, &derived_name, &nameless];
    for name in ours {
        assert!(at(name).is_some(), "{name}");
    }
    for other in not_ours.iter().chain([&kept]) {
        assert!(at(other).is_none(), "{other}");
    }
    assert!(!names.contains(&images.their_name("theirs")));
    let base = at(&"isol8:bash".to_owned());
    assert!(base.is_none_or(|base| at(&own) < Some(base) && Some(base) < at(&nameless)));

    for name in ours {
        bench.engine.remove_image(name).await.unwrap();
        assert!(!is_there(name), "{name}");
        bench.engine.remove_image(name).await.unwrap();
    }
    assert!(is_there(&kept), "its other name is not ours");
    assert!(not_ours.iter().all(|id| is_there(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_keeps_all_its_names() {
    let bench = Bench::with_init(|_| ());
    let images = Images::new();
    let past = Past {
        labels: &["isol8.managed=1", "isol8.custom=[]"],
        steps: OF_OURS,
        created: LONG_AGO,
    };
    let names = [
        images.own_name("isol8:bash-custom"),
        images.their_name("alias"),
    ];
    images.load(past, &[&names[0], &names[1]]);
    let container = docker(&["create", &names[0]], &[]);
    for name in &names {
        let failure = bench.engine.remove_image(name).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::EngineRefused);
        let told = failure.to_string();
        assert!(told.contains(&format!("`{name}` is in use")), "{told}");
        assert!(told.contains("the container `"), "{told}");
        assert!(is_there(name));
    }
    docker(&["rm", &container], &[]);
    for name in &names {
        bench.engine.remove_image(name).await.unwrap();
        assert!(!is_there(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_went_to_another_image_stays() {
    let bench = Bench::with_init(|_| ());
    let images = Images::new();
    let other = Past {
        labels: &[],
        steps: &["CMD"],
        created: LONG_AGO,
    };
    let name = images.own_name("isol8:bash-custom");
    images.load(other, &[&name]);
    bench.engine.remove_image(&name).await.unwrap();
    assert!(is_there(&name));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_remembered() {
    let bench = Bench::with_init(|_| ());
    let images = Images::new();
    let past = Past {
        labels: &["isol8.managed=1", "isol8.custom=[]"],
        steps: OF_OURS,
        created: LONG_AGO,
    };
    let name = images.own_name("isol8:bash-custom");
    images.load(past, &[&name]);
    let mut key = spec().key;
    key.runtime = Runtime::Bash;
    key.image = Some(ImageName::parse(&name).unwrap());
    bench.engine.identity(&key).await.unwrap();
    bench.engine.remove_image(&name).await.unwrap();
    let failure = bench.engine.identity(&key).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ImageMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_from_somebodys_image_goes_without_it() {
    let bench = Bench::with_init(|_| ());
    let images = Images::new();
    let below = Past {
        labels: &[],
        steps: &["CMD"],
        created: LONG_AGO,
    };
    // An image that was pulled has no parents: this one is built here.
    let pulled = images.load(below, &[]);
    let theirs = images.build(&format!("FROM {pulled}\nENV A=1"), &[]);
    let build = RunId::random();
    let name = images.own_name("isol8:bash");
    let dockerfile = format!(
        "FROM {theirs}\n\
         LABEL isol8.build=\"{build}\" isol8.managed=\"1\" isol8.foreign=\"1\"\n\
         ENV B=2\n\
         ENV C=3"
    );
    images.build(&dockerfile, &["-t", &name]);
    let made = format!("label=isol8.build={build}");
    let made = || docker(&["images", "-aq", "--filter", &made], &[]);
    assert!(made().lines().count() > 1, "the engine keeps its steps");
    bench.engine.remove_image(&name).await.unwrap();
    assert_eq!(made(), "");
    assert!(is_there(&theirs), "it is not ours");
}
