//! The things that are timed: whole processes, and runs on an open connection.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use isol8_proto::v1::{
    Engine, Limits, RunEvent, RunRequest, Runtime, Start, Verdict, run_event, run_request,
    run_service_client::RunServiceClient,
};
use tokio::{io::AsyncReadExt as _, process::Command};
use tonic::transport::Channel;

use crate::sample::Timing;

/// Runs a command to its end, with its output read as it comes.
///
/// # Errors
/// The command cannot start or fails.
pub(crate) async fn process(command: &mut Command) -> anyhow::Result<Timing> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut stdout = child.stdout.take().context("stdout is piped")?;
    let mut buffer = [0_u8; 4096];
    let mut first_byte = None;
    while stdout.read(&mut buffer).await? > 0 {
        first_byte.get_or_insert_with(|| start.elapsed());
    }
    let output = child.wait_with_output().await?;
    let whole = start.elapsed();
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Timing {
        first_byte: first_byte.unwrap_or(whole),
        whole,
    })
}

/// An order for one run over gRPC.
pub(crate) fn order(runtime: Runtime, engine: Engine, code: &str) -> Start {
    Start {
        runtime: runtime.into(),
        engine: engine.into(),
        code: Bytes::copy_from_slice(code.as_bytes()),
        limits: Some(Limits {
            timeout_ms: 60_000,
            ..Limits::default()
        }),
        ..Start::default()
    }
}

/// One run on an open connection, from Start to Exited.
///
/// # Errors
/// The run fails or does not exit with 0.
pub(crate) async fn call(
    client: &mut RunServiceClient<Channel>,
    order: Start,
) -> anyhow::Result<Timing> {
    let start = Instant::now();
    let request = RunRequest {
        message: Some(run_request::Message::Start(order)),
    };
    let mut events = client.run(tokio_stream::once(request)).await?.into_inner();
    let mut first_byte = None;
    while let Some(RunEvent { event: Some(event) }) = events.message().await? {
        match event {
            run_event::Event::Stdout(_) => {
                first_byte.get_or_insert_with(|| start.elapsed());
            }
            run_event::Event::Exited(exited) => {
                let whole = start.elapsed();
                if exited.verdict() != Verdict::Exited || exited.code != Some(0) {
                    bail!("the run ended with {exited:?}");
                }
                return Ok(Timing {
                    first_byte: first_byte.unwrap_or(whole),
                    whole,
                });
            }
            _ => {}
        }
    }
    bail!("the run's stream ended without Exited")
}

/// How many times a second `work` ends while `workers` of it are busy all the
/// time, for `length`.
///
/// # Errors
/// Any one of them fails.
pub(crate) async fn rate<F, Fut>(workers: usize, length: Duration, work: F) -> anyhow::Result<f64>
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = anyhow::Result<Timing>>,
{
    let start = Instant::now();
    let busy = (0..workers).map(|worker| {
        let work = &work;
        async move {
            let mut done = 0_u32;
            while start.elapsed() < length {
                work(worker).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }
    });
    let done: u32 = futures_util::future::try_join_all(busy).await?.iter().sum();
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}
