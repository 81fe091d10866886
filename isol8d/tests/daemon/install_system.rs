//! Packages of the system: an image of its own on docker, made within the lists of
//! the run.

use isol8_core::ids::SandboxId;
use isol8_proto::v1::{self, run_event::Event};

use crate::stage::{Stage, config, python};

/// What the question for a manager's sources is known by.
const ASK: &str = "--print-uris";

/// What apt answers.
const SOURCES: &str = "out 'http://deb.example/x/InRelease' x 0\nout 'https://sec.example/y' y 0";

fn stage() -> Stage {
    // Sandboxes are counted: the pool must not make any in between.
    let stage = Stage::with(config(|config| config.pool.clean = 0), |_, _| {});
    stage.docker.mend();
    stage
}

fn jq() -> v1::Start {
    v1::Start {
        runtime: v1::Runtime::Bash.into(),
        engine: v1::Engine::Docker.into(),
        install: vec!["jq".to_owned()],
        network: v1::NetworkMode::Filtered.into(),
        ..python("out x")
    }
}

fn denying(pattern: &str) -> v1::Start {
    let mut start = jq();
    let filter = start.filter.get_or_insert_default();
    let deny = filter.deny.get_or_insert_default();
    deny.patterns.push(pattern.to_owned());
    start
}

fn asked(stage: &Stage) -> usize {
    let errands = stage.docker.errands();
    errands.iter().filter(|line| line.contains(ASK)).count()
}

/// What became of a run: a failure's kind and message. There is no egress process
/// in these tests, so a run ends at the latest where its network would be opened.
async fn outcome(stage: &Stage, start: v1::Start) -> (String, String) {
    let ran = stage.start(start).await.end().await;
    let (_, detail) = ran.failure();
    (detail.kind, detail.message)
}

#[tokio::test(start_paused = true)]
async fn an_image_is_made_only_of_hosts_that_the_run_may_reach() {
    let stage = stage();
    stage.docker.errand(ASK, SOURCES);
    let (kind, message) = outcome(&stage, denying("^sec")).await;
    assert_eq!(kind, "install_failed");
    assert_eq!(
        message,
        "cannot install jq: the image takes packages from `sec.example`: in the deny list"
    );
    assert_eq!(asked(&stage), 1);
    // Others may have it.
    let (kind, _) = outcome(&stage, denying("^other")).await;
    assert_eq!(kind, "egress_unavailable", "it got as far as its sandbox");
    assert_eq!(asked(&stage), 2);
    // And then it is there for all.
    let (kind, _) = outcome(&stage, denying("^sec")).await;
    assert_eq!(kind, "egress_unavailable");
    assert_eq!(asked(&stage), 2, "what it was made of is known");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_manager_does_not_tell_is_not_built_on() {
    let stage = stage();
    for (script, part) in [
        ("exit 127", "no package manager"),
        ("exit 1", "does not tell"),
        ("out mirror+file:/x 'y' 0", "does not tell"),
    ] {
        stage.docker.errand(ASK, script);
        let (kind, message) = outcome(&stage, jq()).await;
        assert_eq!(kind, "install_failed");
        assert!(message.contains(part), "{message}");
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bash_packages_are_an_image_on_docker() {
    let stage = stage();
    let start = v1::Start {
        network: v1::NetworkMode::None.into(),
        ..jq()
    };
    let mut run = stage.start(start).await;
    let (mut came, mut image) = (Vec::new(), None);
    while let Some(event) = run.next().await {
        match event.expect("no failure") {
            Event::Phase(phase) => came.push(phase.phase().as_str_name().to_owned()),
            Event::Stderr(bytes) | Event::Stdout(bytes) => {
                came.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            Event::Accepted(accepted) => {
                let id = SandboxId::parse(&accepted.sandbox_id).expect("an id");
                image = stage.docker.spec_of(&id).and_then(|spec| spec.key.image);
            }
            Event::Exited(exited) => assert_eq!(exited.code, Some(0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(came, ["PHASE_INSTALL", "deriving\n", "PHASE_CODE", "x\n"]);
    assert_eq!(image.expect("one").as_str(), "isol8:bash-jq");
    assert_eq!(
        stage.docker.errands(),
        Vec::<String>::new(),
        "nobody is asked"
    );
    stage.stop().await;
}
