//! What packages cost: the first run that asks for numpy, and the ones after
//! it against an interpreter that has numpy already.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use isol8_proto::v1::Runtime;
use serde_json::json;
use tokio::process::Command;

use crate::{
    Options,
    report::{Bound, Figure},
    sample::Samples,
    stage::Stage,
    subjects::process,
};

const PACKAGE: &str = "numpy";
const CODE: &str = "import numpy; print(numpy.pi)";

fn isol8_run(stage: &Stage, engine: &str) -> Command {
    let mut command = stage.isol8();
    command.args([
        "run",
        "--engine",
        engine,
        "-r",
        "python",
        "--install",
        PACKAGE,
    ]);
    command.args(["--timeout", "120000", "-e", CODE]);
    command
}

/// Installs the package beside the bare interpreter, as the sandbox does.
async fn beside(interpreter: &str, folder: &Path) -> anyhow::Result<()> {
    let mut pip = Command::new(interpreter);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
    ]);
    let output = pip.arg(folder).arg(PACKAGE).output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "pip: {said}");
    Ok(())
}

/// Waits until a sandbox with the layer is warm.
async fn warm(stage: &Stage) -> anyhow::Result<()> {
    let ready = async {
        loop {
            let pools = stage.status().await?.pools;
            let python = pools
                .iter()
                .filter(|pool| pool.runtime() == Runtime::Python);
            let mut some = python.filter(|pool| pool.target > 0).peekable();
            if some.peek().is_some() && some.all(|pool| pool.warm >= pool.target) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), ready).await;
    waited.context("nothing got warm in time")?
}

/// Cold and warm installation.
///
/// # Errors
/// No registry answers, or a run fails.
pub(crate) async fn install(options: &Options, interpreter: &str) -> anyhow::Result<Vec<Figure>> {
    let mut config = json!({"maxConcurrent": 64});
    if let Ok(bundle) = std::env::var("ISOL8_TEST_CA_BUNDLE") {
        config["network"] = json!({"caBundle": bundle});
    }
    let folder = tempfile::tempdir()?;
    beside(interpreter, folder.path()).await?;
    let mut engines = vec!["native"];
    if options.docker {
        engines.push("docker");
    }
    let mut figures = Vec::new();
    for engine in engines {
        let stage = Stage::start(&config.to_string()).await?;
        let cold = process(&mut isol8_run(&stage, engine)).await?;
        let (mut ours, mut plain) = (Samples::default(), Samples::default());
        for _ in 0..options.samples.min(20) {
            warm(&stage).await?;
            ours.add(process(&mut isol8_run(&stage, engine)).await?);
            let mut bare = Command::new(interpreter);
            bare.args(["-c", CODE]).env("PYTHONPATH", folder.path());
            plain.add(process(&mut bare).await?);
        }
        stage.stop().await?;
        figures.push(Figure::alone(
            format!("install: {PACKAGE}, {engine}, first run"),
            cold.whole.as_secs_f64() * 1e3,
            "ms",
            Bound::None,
        ));
        figures.push(Figure::ratio(
            format!("install: {PACKAGE}, {engine}, later runs ÷ bare with {PACKAGE}"),
            ours.whole_ms(),
            plain.whole_ms(),
            Bound::AtMost(1.5),
        ));
    }
    Ok(figures)
}
