//! The record of runs, as a whole daemon writes it.

use std::{collections::BTreeMap, fs};

use isol8_core::runtime::Runtime;
use isol8_proto::v1;
use serde_json::Value;

use crate::{
    images::build,
    stage::{Stage, config, limited, python},
};

/// Every line, in order.
fn lines(stage: &Stage) -> Vec<Value> {
    let files = fs::read_dir(stage.folder().join("audit")).expect("a folder");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    // One a day.
    paths.sort();
    let texts = paths
        .into_iter()
        .map(|path| fs::read_to_string(path).expect("text"));
    let text: String = texts.collect();
    let parsed = text.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("a line is JSON")
}

/// What is recorded of one run, without its times and names.
#[track_caller]
fn check(lines: &[Value], expected: [(&str, &str, &str); 2]) {
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (event, key, value)) in lines.iter().zip(expected) {
        assert_eq!(line["event"], event, "{line}");
        assert_eq!(line[key], value, "{line}");
        assert_eq!(line["runId"], lines[0]["runId"]);
    }
}

#[tokio::test(start_paused = true)]
async fn every_run_has_its_beginning_and_its_end() {
    let stage = Stage::with(config(|config| config.audit.enabled = true), |_, _| {});
    let install = v1::Start {
        network: v1::NetworkMode::None.into(),
        install: vec!["six".to_owned()],
        ..python("out x")
    };
    let mut late = limited("out x", |limits| limits.timeout_ms = 700);
    late.network = v1::NetworkMode::None.into();
    late.install = vec!["six".to_owned()];
    stage.run("exit 3").await;
    stage.native.errand("pip install", "exit 1");
    stage.start(install.clone()).await.end().await;
    stage.native.errand("pip install", "sleep 20000");
    stage.start(late).await.end().await;
    let lines = lines(&stage);
    check(
        &lines[..2],
        [
            ("run_started", "runtime", "python"),
            ("run_ended", "verdict", "exited"),
        ],
    );
    check(
        &lines[2..4],
        [
            ("run_started", "network", "none"),
            ("run_failed", "kind", "install_failed"),
        ],
    );
    check(
        &lines[4..],
        [
            ("run_started", "engine", "native"),
            ("run_ended", "verdict", "timed_out"),
        ],
    );
    assert_eq!(lines[1]["exitCode"], 3);
    assert_eq!(lines[5]["usage"]["wallMs"], 700, "{}", lines[5]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_image_that_a_run_gets_is_recorded() {
    let configured = config(|config| {
        config.audit.enabled = true;
        let packages = vec!["numpy".to_owned()];
        config.dependencies = BTreeMap::from([(Runtime::Python, packages)]);
    });
    let stage = Stage::with(configured, |_, _| {});
    let numpy = build(&stage, v1::Runtime::Python, &["numpy"]).await;
    let start = v1::Start {
        engine: v1::Engine::Docker.into(),
        network: v1::NetworkMode::None.into(),
        ..python("out x")
    };
    stage.start(start).await.end().await.exited();
    check(
        &lines(&stage),
        [
            ("run_started", "image", &numpy[0]),
            ("run_ended", "verdict", "exited"),
        ],
    );
    stage.stop().await;
}
