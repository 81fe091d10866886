//! What sessions cost: a run in one against the bare interpreter, and files on
//! their way in and out, with what the daemon and the client hold meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::process::Command;

use crate::{
    Options,
    report::{Bound, Figure},
    sample::Samples,
    stage::Stage,
    subjects::process,
};

/// One file of this size goes in, and out again.
const BYTES: u64 = 1 << 30;
const HELLO: &str = "print(1)";

/// Runs in a session, and copies.
///
/// # Errors
/// A run or a copy fails, or what came out is not what went in.
pub(crate) async fn session(options: &Options, interpreter: &str) -> anyhow::Result<Vec<Figure>> {
    let stage = Stage::start(r#"{"maxConcurrent": 64}"#).await?;
    let mut engines = vec!["native"];
    if options.docker {
        engines.push("docker");
    }
    let mut figures = Vec::new();
    for engine in &engines {
        figures.push(runs(options, &stage, engine, interpreter).await?);
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("in");
    write_noise(&file)?;
    for engine in &engines {
        figures.extend(copies(&stage, engine, &file, &folder.path().join("out")).await?);
    }
    stage.stop().await?;
    Ok(figures)
}

fn run(stage: &Stage, engine: &str, session: &str, code: &str) -> Command {
    let mut command = stage.isol8();
    command.args(["run", "--engine", engine, "--session", session]);
    command.args(["-r", "python", "-e", code]);
    command
}

async fn remove(stage: &Stage, session: &str) -> anyhow::Result<()> {
    let mut command = stage.isol8();
    process(command.args(["session", "rm", session])).await?;
    Ok(())
}

/// A run in a session that is there.
async fn runs(
    options: &Options,
    stage: &Stage,
    engine: &str,
    interpreter: &str,
) -> anyhow::Result<Figure> {
    let name = format!("runs-{engine}");
    process(&mut run(stage, engine, &name, HELLO)).await?;
    let (mut ours, mut plain) = (Samples::default(), Samples::default());
    for _ in 0..options.samples {
        ours.add(process(&mut run(stage, engine, &name, HELLO)).await?);
        let mut bare = Command::new(interpreter);
        plain.add(process(bare.args(["-c", HELLO])).await?);
    }
    remove(stage, &name).await?;
    Ok(Figure::ratio(
        format!("session: python run, {engine} ÷ bare"),
        ours.whole_ms(),
        plain.whole_ms(),
        Bound::None,
    ))
}

/// A copy: how long it took, and the most that each side held.
struct Copy {
    took: Duration,
    client_bytes: u64,
    daemon_bytes: u64,
}

async fn copy(stage: &Stage, from: &str, to: &str) -> anyhow::Result<Copy> {
    let daemon = stage.daemon_pid().context("the daemon runs")?;
    let mut command = stage.isol8();
    let start = Instant::now();
    let mut child = command.args(["session", "cp", from, to]).spawn()?;
    let client = child.id().context("the client runs")?;
    let (mut client_bytes, mut daemon_bytes) = (0, 0);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                client_bytes = client_bytes.max(resident(client));
                daemon_bytes = daemon_bytes.max(resident(daemon));
            }
        }
    };
    anyhow::ensure!(status.success(), "the copy to {to} ended with {status}");
    Ok(Copy {
        took: start.elapsed(),
        client_bytes,
        daemon_bytes,
    })
}

/// One large file in and out, three times.
async fn copies(
    stage: &Stage,
    engine: &str,
    file: &Path,
    back: &Path,
) -> anyhow::Result<Vec<Figure>> {
    let name = format!("copies-{engine}");
    let mut make = run(stage, engine, &name, HELLO);
    process(make.args(["--sandbox-size", "1200m", "--memory", "2g"])).await?;
    let daemon = stage.daemon_pid().context("the daemon runs")?;
    let before = resident(daemon);
    let (from, to) = (text(file)?, text(back)?);
    let inside = format!("{name}:/sandbox/large");
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut client_bytes, mut daemon_bytes) = (0, before);
    for _ in 0..3 {
        let put = copy(stage, from, &inside).await?;
        let got = copy(stage, &inside, to).await?;
        anyhow::ensure!(same(file, back)?, "what came out is not what went in");
        fs::remove_file(back)?;
        for copy in [&put, &got] {
            client_bytes = client_bytes.max(copy.client_bytes);
            daemon_bytes = daemon_bytes.max(copy.daemon_bytes);
        }
        up.push(rate(put.took));
        down.push(rate(got.took));
        let mut rm = stage.isol8();
        process(rm.args(["session", "rm", &inside])).await?;
    }
    remove(stage, &name).await?;
    let median = crate::sample::median;
    Ok(vec![
        Figure::alone(
            format!("session: 1 GiB in by cp, {engine}"),
            median(&up),
            "MB/s",
            Bound::AtLeast(200.0),
        ),
        Figure::alone(
            format!("session: 1 GiB out by cp, {engine}"),
            median(&down),
            "MB/s",
            Bound::AtLeast(200.0),
        ),
        Figure::alone(
            format!("session: the client's memory during that, {engine}"),
            megabytes(client_bytes),
            "MB",
            Bound::AtMost(48.0),
        ),
        Figure::alone(
            format!("session: the daemon's, above before, {engine}"),
            megabytes(daemon_bytes.saturating_sub(before)),
            "MB",
            Bound::AtMost(24.0),
        ),
    ])
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("temporary folders are UTF-8")
}

/// No page is like another, and none is zero.
fn write_noise(path: &Path) -> anyhow::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..BYTES >> 20 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (fs::File::open(one)?, fs::File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for _ in 0..BYTES >> 20 {
        one.read_exact(&mut left)?;
        other.read_exact(&mut right)?;
        if left != right {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Resident memory; 0 where the process is gone.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.map_or(0, |kib| kib << 10)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn rate(took: Duration) -> f64 {
    megabytes(BYTES) / took.as_secs_f64()
}
