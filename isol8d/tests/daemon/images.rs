//! Which image a run gets, and what is built for it.

use std::collections::BTreeMap;

use isol8_core::{ids::SandboxId, runtime::Runtime};
use isol8_proto::v1::{self, image_service_client::ImageServiceClient, setup_event::Event};
use tonic::Code;

use crate::stage::{ME, Run, Stage, config, python};

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A run on docker that waits.
fn waiting(install: &[&str], dependencies: Option<&[&str]>) -> v1::Start {
    v1::Start {
        engine: v1::Engine::Docker.into(),
        network: v1::NetworkMode::None.into(),
        install: owned(install),
        dependencies: dependencies.map(|names| v1::Dependencies {
            packages: owned(names),
        }),
        ..python("hang")
    }
}

/// The image of a run's sandbox; empty for the base image.
async fn image_of(stage: &Stage, start: v1::Start) -> String {
    let mut run: Run = stage.start(start).await;
    let accepted = run.accepted().await;
    let id = SandboxId::parse(&accepted.sandbox_id).expect("our own id");
    let spec = stage.docker.spec_of(&id).expect("it lives");
    spec.key
        .image
        .map_or_else(String::new, |name| name.as_str().to_owned())
}

/// The tags of what was made ready.
pub(crate) async fn build(stage: &Stage, base: v1::Runtime, packages: &[&str]) -> Vec<String> {
    let mut images = ImageServiceClient::new(stage.channel(ME));
    let request = v1::BuildRequest {
        base: base.into(),
        packages: owned(packages),
        ..v1::BuildRequest::default()
    };
    let events = images.build(request).await.expect("a stream");
    tags(events.into_inner()).await
}

async fn tags(mut events: tonic::Streaming<v1::SetupEvent>) -> Vec<String> {
    let mut tags = Vec::new();
    while let Some(event) = events.message().await.expect("no failure") {
        if let Some(Event::Image(image)) = event.event {
            tags.push(image.tag);
        }
    }
    tags
}

#[tokio::test(start_paused = true)]
async fn dependencies_choose_the_image_that_has_exactly_them() {
    let configured = config(|config| {
        config.dependencies = BTreeMap::from([(Runtime::Python, owned(&["numpy"]))]);
    });
    let stage = Stage::with(configured, |_, _| {});
    let numpy = build(&stage, v1::Runtime::Python, &["numpy"])
        .await
        .remove(0);
    let both = build(&stage, v1::Runtime::Python, &["six", "attrs"])
        .await
        .remove(0);
    let image = |dependencies| image_of(&stage, waiting(&[], dependencies));
    assert_eq!(image(None).await, numpy, "the daemon's own");
    assert_eq!(image(Some(&["attrs", "six", "six"][..])).await, both);
    assert_eq!(image(Some(&[][..])).await, "", "none in their place");
    assert_eq!(image(Some(&["six"][..])).await, "", "others are no match");
    let named = v1::Start {
        image: "mine:1".to_owned(),
        ..waiting(&[], None)
    };
    assert_eq!(image_of(&stage, named).await, "mine:1");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_without_its_image_is_told_so() {
    let stage = Stage::new();
    let asked = v1::Start {
        code: "out ran".into(),
        ..waiting(&[], Some(&["six"]))
    };
    let on_docker = stage.start(asked.clone()).await.end().await;
    assert_eq!(on_docker.text(), "ran\n");
    let notice = "this run is without the packages of `dependencies.python`: their image is \
                  not there, `isol8 setup` builds it";
    assert_eq!(on_docker.notices, [notice]);
    let on_native = v1::Start {
        engine: v1::Engine::Native.into(),
        ..asked
    };
    let on_native = stage.start(on_native).await.end().await;
    assert!(on_native.notices[0].ends_with("only the docker engine has custom images"));
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_image_holds_is_not_installed() {
    let stage = Stage::new();
    let six = build(&stage, v1::Runtime::Python, &["six==1.0"])
        .await
        .remove(0);
    let more = build(&stage, v1::Runtime::Python, &["attrs", "six==1.0"])
        .await
        .remove(0);
    let image = |install, dependencies| image_of(&stage, waiting(install, dependencies));
    assert_eq!(image(&["six"], None).await, six);
    assert_eq!(
        image(&["six"], Some(&["attrs"])).await,
        more,
        "and its dependencies"
    );
    assert_eq!(stage.docker.errands(), Vec::<String>::new());
    let other = image(&["six==2.0"], Some(&["six==1.0"])).await;
    assert_eq!(other, six, "on its own image");
    assert!(!stage.docker.errands().is_empty(), "and it is installed");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deno_installs_its_dependencies_with_the_rest() {
    let stage = Stage::new();
    build(&stage, v1::Runtime::Deno, &["npm:chalk@5"]).await;
    let start = v1::Start {
        runtime: v1::Runtime::Deno.into(),
        ..waiting(&["npm:left-pad"], Some(&["npm:chalk@5"]))
    };
    assert_eq!(image_of(&stage, start).await, "");
    let errands = stage.docker.errands();
    let both = |line: &String| line.contains("npm:chalk@5") && line.contains("npm:left-pad");
    assert!(errands.iter().any(both), "{errands:?}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn setup_builds_what_the_caller_or_the_daemon_depends_on() {
    let configured = config(|config| {
        let python = (Runtime::Python, owned(&["numpy"]));
        let node = (Runtime::Node, owned(&["left-pad"]));
        config.dependencies = BTreeMap::from([python, node]);
    });
    let stage = Stage::with(configured, |_, _| {});
    let mut images = ImageServiceClient::new(stage.channel(ME));
    let request = v1::SetupRequest {
        dependencies: vec![v1::RuntimePackages {
            runtime: v1::Runtime::Python.into(),
            packages: owned(&["six"]),
        }],
        ..v1::SetupRequest::default()
    };
    let events = images.setup(request.clone()).await.expect("a stream");
    assert_eq!(tags(events.into_inner()).await.len(), 5 + 2);
    let listed = images.list_images(v1::ListImagesRequest {}).await;
    let listed = listed.expect("a list").into_inner().images;
    let customs: Vec<_> = listed.into_iter().map(|image| image.packages).collect();
    assert!(customs.contains(&owned(&["six"])) && customs.contains(&owned(&["left-pad"])));
    assert!(!customs.contains(&owned(&["numpy"])));
    let twice = v1::SetupRequest {
        dependencies: [request.dependencies.clone(), request.dependencies].concat(),
        ..v1::SetupRequest::default()
    };
    let status = images.setup(twice).await.expect_err("which one?");
    assert_eq!(status.code(), Code::InvalidArgument);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_build_that_makes_no_sense_is_refused() {
    let stage = Stage::new();
    let mut images = ImageServiceClient::new(stage.channel(ME));
    let good = v1::BuildRequest {
        base: v1::Runtime::Python.into(),
        packages: owned(&["six"]),
        ..v1::BuildRequest::default()
    };
    let wrong = [
        v1::BuildRequest {
            base: 0,
            ..good.clone()
        },
        v1::BuildRequest {
            packages: Vec::new(),
            ..good.clone()
        },
        v1::BuildRequest {
            packages: owned(&["-r"]),
            ..good.clone()
        },
        v1::BuildRequest {
            tag: "isol8:python".to_owned(),
            ..good
        },
    ];
    for request in wrong {
        let status = images.build(request).await.expect_err("it is wrong");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    stage.stop().await;
}
