//! What is compared with what, and how far it may be.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use isol8_proto::v1::{Engine, Runtime};
use tokio::process::Command;

use crate::{
    Options, http, install, network,
    report::{Bound, Figure},
    sample::Samples,
    session,
    stage::Stage,
    subjects::{call, order, process, rate},
};

/// A runtime as the benchmark uses it.
struct Subject {
    runtime: Runtime,
    name: &'static str,
    hello: &'static str,
    /// The flag that takes code on the bare interpreter's command line.
    eval: &'static [&'static str],
    /// Prints the path of the interpreter itself.
    whereabouts: &'static str,
    whole: f64,
    first_byte: f64,
    grpc: f64,
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        runtime: Runtime::Python,
        name: "python",
        hello: "print(1)",
        eval: &["-c"],
        whereabouts: "import sys; print(sys.executable)",
        whole: 0.7,
        first_byte: 0.45,
        grpc: 0.5,
    },
    Subject {
        runtime: Runtime::Node,
        name: "node",
        hello: "console.log(1)",
        eval: &["-e"],
        whereabouts: "console.log(process.execPath)",
        whole: 0.25,
        first_byte: 0.2,
        grpc: 0.2,
    },
    Subject {
        runtime: Runtime::Bash,
        name: "bash",
        hello: "echo 1",
        eval: &["-c"],
        whereabouts: "echo $BASH",
        whole: 4.0,
        first_byte: f64::NAN,
        grpc: 2.0,
    },
];

const QUIET: &str = r#"{"maxConcurrent": 64}"#;
/// A daemon that keeps nothing warm: every run is cold.
const COLD: &str = r#"{"maxConcurrent": 64, "poolSize": {"clean": 0, "dirty": 0}}"#;

/// Measures everything that `options` asks for.
///
/// # Errors
/// The first thing that cannot be measured: a benchmark with holes is not one.
pub(crate) async fn measure(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let stage = Stage::start(QUIET).await?;
    let wanted = |part: &str| {
        options
            .only
            .as_ref()
            .is_none_or(|only| part.contains(only.as_str()))
    };
    if wanted("warm") {
        for subject in &SUBJECTS {
            figures.extend(warm(options, &stage, subject).await?);
        }
    }
    if wanted("docker") && options.docker {
        figures.extend(docker_warm(options, &stage).await?);
    }
    if wanted("throughput") {
        figures.push(throughput(&stage).await?);
    }
    if wanted("stdout") {
        figures.extend(stdout(&stage).await?);
    }
    let python = interpreter(&stage, &SUBJECTS[0]).await?;
    stage.stop().await?;
    if wanted("idle") {
        figures.extend(idle().await?);
    }
    if wanted("cold") {
        figures.extend(cold(options).await?);
    }
    if wanted("network") {
        figures.extend(network::network(options).await?);
    }
    if wanted("install") {
        figures.extend(install::install(options, &python).await?);
    }
    if wanted("session") {
        figures.extend(session::session(options, &python).await?);
    }
    if wanted("http") {
        figures.extend(http::http(options, &python).await?);
    }
    Ok(figures)
}

async fn interpreter(stage: &Stage, subject: &Subject) -> anyhow::Result<String> {
    let output = stage
        .isol8()
        .args([
            "run",
            "--engine",
            "native",
            "-r",
            subject.name,
            "-e",
            subject.whereabouts,
        ])
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{} does not run: {said}",
        subject.name
    );
    Ok(text.trim().to_owned())
}

fn bare(interpreter: &str, subject: &Subject) -> Command {
    let mut command = Command::new(interpreter);
    command.args(subject.eval).arg(subject.hello);
    command
}

fn isol8_run(stage: &Stage, engine: &str, subject: &Subject) -> Command {
    let mut command = stage.isol8();
    command.args([
        "run",
        "--engine",
        engine,
        "-r",
        subject.name,
        "-e",
        subject.hello,
    ]);
    command
}

fn bwrap(interpreter: &str, subject: &Subject) -> Command {
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]);
    command.args(["--tmpfs", "/tmp", interpreter]);
    command.args(subject.eval).arg(subject.hello);
    command
}

/// Warm native runs against the bare interpreter and bubblewrap.
async fn warm(options: &Options, stage: &Stage, subject: &Subject) -> anyhow::Result<Vec<Figure>> {
    let path = interpreter(stage, subject).await?;
    let (mut cli, mut grpc) = (Samples::default(), Samples::default());
    let (mut plain, mut jail) = (Samples::default(), Samples::default());
    let mut lean = Samples::default();
    let mut client = stage.runs();
    for _ in 0..options.samples {
        stage.warm(subject.runtime, Engine::Native, 1).await?;
        cli.add(process(&mut isol8_run(stage, "native", subject)).await?);
        plain.add(process(&mut bare(&path, subject)).await?);
        stage.warm(subject.runtime, Engine::Native, 1).await?;
        let start = order(subject.runtime, Engine::Native, subject.hello);
        grpc.add(call(&mut client, start).await?);
        jail.add(process(&mut bwrap(&path, subject)).await?);
        // What a person's environment adds to an interpreter's start (extra
        // certificates, hooks) is not there in a sandbox: shown apart.
        lean.add(process(bare(&path, subject).env_clear()).await?);
    }
    let name = subject.name;
    let bare_ms = plain.whole_ms();
    let mut figures = vec![Figure::ratio(
        format!("{name}: isol8 run, native, warm ÷ bare"),
        cli.whole_ms(),
        bare_ms,
        Bound::AtMost(subject.whole),
    )];
    if subject.first_byte.is_finite() {
        figures.push(Figure::ratio(
            format!("{name}: the same to the first byte ÷ bare to its first byte"),
            cli.first_byte_ms(),
            plain.first_byte_ms(),
            Bound::AtMost(subject.first_byte),
        ));
    }
    figures.push(Figure::ratio(
        format!("{name}: one gRPC call, native, warm ÷ bare"),
        grpc.whole_ms(),
        bare_ms,
        Bound::AtMost(subject.grpc),
    ));
    figures.push(Figure::ratio(
        format!("{name}: isol8 run ÷ bare in an empty environment"),
        cli.whole_ms(),
        lean.whole_ms(),
        Bound::None,
    ));
    figures.push(Figure::ratio(
        format!("{name}: plain bwrap (peer) ÷ bare"),
        jail.whole_ms(),
        bare_ms,
        Bound::None,
    ));
    figures.push(Figure::ratio(
        format!("{name}: isol8 run p99 ÷ bare p99"),
        cli.whole_p99_ms(),
        plain.whole_p99_ms(),
        Bound::None,
    ));
    Ok(figures)
}

/// Warm Docker runs against warm native ones and `docker exec`.
async fn docker_warm(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Figure>> {
    let subject = &SUBJECTS[0];
    let container = Peer::start().await?;
    let (mut docker, mut native, mut exec) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..options.samples.min(20) {
        stage.warm(subject.runtime, Engine::Docker, 1).await?;
        docker.add(process(&mut isol8_run(stage, "docker", subject)).await?);
        stage.warm(subject.runtime, Engine::Native, 1).await?;
        native.add(process(&mut isol8_run(stage, "native", subject)).await?);
        exec.add(process(&mut container.exec(subject)).await?);
    }
    container.stop().await?;
    Ok(vec![
        Figure::ratio(
            "python: isol8 run, docker, warm ÷ native, warm",
            docker.whole_ms(),
            native.whole_ms(),
            Bound::AtMost(1.3),
        ),
        Figure::ratio(
            "python: isol8 run, docker, warm ÷ docker exec (peer)",
            docker.whole_ms(),
            exec.whole_ms(),
            Bound::None,
        ),
    ])
}

/// A container kept running, for `docker exec`.
struct Peer(String);

const IMAGE: &str = "isol8:python";

impl Peer {
    async fn start() -> anyhow::Result<Self> {
        let output = Command::new("docker")
            .args([
                "run",
                "-d",
                "--rm",
                "--network",
                "none",
                IMAGE,
                "sleep",
                "600",
            ])
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "docker run: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self(String::from_utf8(output.stdout)?.trim().to_owned()))
    }

    fn exec(&self, subject: &Subject) -> Command {
        let mut command = Command::new("docker");
        command.args(["exec", &self.0, "python3"]);
        command.args(subject.eval).arg(subject.hello);
        command
    }

    async fn stop(self) -> anyhow::Result<()> {
        let mut command = Command::new("docker");
        process(command.args(["rm", "-f", &self.0])).await?;
        Ok(())
    }
}

/// Cold runs on both engines.
async fn cold(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let stage = Stage::start(COLD).await?;
    let subject = &SUBJECTS[0];
    let path = interpreter(&stage, subject).await?;
    let (mut native, mut plain) = (Samples::default(), Samples::default());
    for _ in 0..options.samples.min(30) {
        native.add(process(&mut isol8_run(&stage, "native", subject)).await?);
        plain.add(process(&mut bare(&path, subject)).await?);
    }
    let mut figures = vec![Figure::ratio(
        "python: isol8 run, native, cold ÷ bare",
        native.whole_ms(),
        plain.whole_ms(),
        Bound::AtMost(2.5),
    )];
    if options.docker {
        let (mut docker, mut peer) = (Samples::default(), Samples::default());
        for _ in 0..options.samples.min(10) {
            docker.add(process(&mut isol8_run(&stage, "docker", subject)).await?);
            let mut command = Command::new("docker");
            command.args(["run", "--rm", "--network", "none", IMAGE, "python3"]);
            peer.add(process(command.args(subject.eval).arg(subject.hello)).await?);
        }
        figures.push(Figure::ratio(
            "python: isol8 run, docker, cold ÷ docker run --rm",
            docker.whole_ms(),
            peer.whole_ms(),
            Bound::AtMost(0.8),
        ));
    }
    stage.stop().await?;
    Ok(figures)
}

/// Fresh sandboxes with every core busy, against bare interpreters.
async fn throughput(stage: &Stage) -> anyhow::Result<Figure> {
    let subject = &SUBJECTS[0];
    let path = interpreter(stage, subject).await?;
    let cores = std::thread::available_parallelism()?.get();
    let length = Duration::from_secs(4);
    let client = stage.runs();
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    // In turn, so that a slow second hits both.
    for _ in 0..3 {
        ours.push(
            rate(cores * 2, length, |_| {
                let mut client = client.clone();
                async move {
                    call(
                        &mut client,
                        order(subject.runtime, Engine::Native, subject.hello),
                    )
                    .await
                }
            })
            .await?,
        );
        peers.push(
            rate(cores, length, |_| async {
                process(&mut bare(&path, subject)).await
            })
            .await?,
        );
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / 3.0;
    Ok(Figure::ratio(
        "python: native runs a second, all cores busy ÷ bare",
        mean(&ours),
        mean(&peers),
        Bound::AtLeast(0.4),
    )
    .unit("1/s"))
}

/// Two gibibytes through everything, and what the daemon's memory did.
async fn stdout(stage: &Stage) -> anyhow::Result<Vec<Figure>> {
    const BYTES: u64 = 2 << 30;
    let before = stage.status().await?.rss_bytes;
    let mut command = stage.isol8();
    command
        .args([
            "run",
            "--engine",
            "native",
            "-r",
            "bash",
            "--max-output",
            "10g",
            "--timeout",
            "60000",
        ])
        .args(["-e", &format!("head -c {BYTES} /dev/zero")])
        .stdout(std::process::Stdio::null());
    let start = std::time::Instant::now();
    let mut child = command.spawn()?;
    let mut peak = before;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                peak = peak.max(stage.status().await?.rss_bytes);
            }
        }
    };
    anyhow::ensure!(status.success(), "the flood ended with {status}");
    let seconds = start.elapsed().as_secs_f64();
    Ok(vec![
        Figure::alone(
            "stdout through everything to /dev/null",
            megabytes(BYTES) / seconds,
            "MB/s",
            Bound::AtLeast(300.0),
        ),
        Figure::alone(
            "daemon memory during that, above before",
            megabytes(peak.saturating_sub(before)),
            "MB",
            Bound::AtMost(16.0),
        ),
    ])
}

/// What an idle daemon and one parked python hold.
async fn idle() -> anyhow::Result<Vec<Figure>> {
    let stage = Stage::start(QUIET).await?;
    stage.warm(Runtime::Python, Engine::Native, 1).await?;
    let rss = stage.status().await?.rss_bytes;
    let pss = parked_pss(&stage)?;
    stage.stop().await?;
    Ok(vec![
        Figure::alone(
            "idle: daemon RSS",
            mebibytes(rss),
            "MiB",
            Bound::AtMost(30.0),
        ),
        Figure::alone(
            "idle: one parked python sandbox, PSS",
            mebibytes(pss),
            "MiB",
            Bound::AtMost(15.0),
        ),
    ])
}

/// PSS of every process below the daemon that is not the daemon's own: the jail.
fn parked_pss(stage: &Stage) -> anyhow::Result<u64> {
    let daemon = stage.daemon_pid().context("the daemon runs")?;
    let id = fs::read_to_string(stage.state_dir().join("daemon-id"))?;
    let mut total = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let ours = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok());
        if ours.is_none_or(|pid| pid == daemon) || !in_our_cgroup(&path, id.trim()) {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(path.join("smaps_rollup")) else {
            continue;
        };
        total += pss_bytes(&rollup);
    }
    anyhow::ensure!(total > 0, "no process of a sandbox was found");
    Ok(total)
}

fn in_our_cgroup(process: &Path, daemon_id: &str) -> bool {
    fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.contains(daemon_id))
}

fn pss_bytes(rollup: &str) -> u64 {
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches(" kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1024)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
