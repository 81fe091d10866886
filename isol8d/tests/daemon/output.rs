//! Output on its way: caps, masks, buffered runs, readers that stop.

use std::time::Duration;

use isol8_engine::fake::Step;
use isol8_proto::v1::Verdict;

use crate::stage::{ME, Run, Stage, limited, python};

#[tokio::test(start_paused = true)]
async fn the_cap_is_exact_on_each_stream() {
    let stage = Stage::new();
    for buffered in [false, true] {
        let mut start = limited("flood 1000\nflood-err 1001", |limits| {
            limits.max_output_bytes = 1000;
        });
        start.buffered = buffered;
        let ran = stage.start(start).await.end().await;
        assert_eq!((ran.stdout.len(), ran.stderr.len()), (1000, 1000));
        let exited = ran.exited();
        assert!(!exited.stdout_truncated && exited.stderr_truncated);
        let usage = exited.usage.expect("usage");
        assert_eq!((usage.stdout_bytes, usage.stderr_bytes), (1000, 1001));
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_is_not_stopped_by_the_cap() {
    let stage = Stage::new();
    let ran = stage
        .start(limited("flood 30000000\nexit 5", |limits| {
            limits.max_output_bytes = 10;
        }))
        .await
        .end()
        .await;
    assert_eq!(ran.exited().code, Some(5));
    assert_eq!(ran.stdout, b"xxxxxxxxxx");
    assert_eq!(ran.exited().usage.expect("usage").stdout_bytes, 30_000_000);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_output_arrives_byte_for_byte() {
    let stage = Stage::new();
    let ran = stage
        .start(limited("flood 20000000\nraw 00ff0a80fe", |limits| {
            limits.max_output_bytes = 1 << 30;
        }))
        .await
        .end()
        .await;
    assert_eq!(ran.stdout.len(), 20_000_005);
    assert_eq!(ran.stdout[20_000_000..], [0, 0xff, 0x0a, 0x80, 0xfe]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn secrets_are_masked_however_they_are_cut() {
    let stage = Stage::new();
    let secret = "s3cr3t-Ünï";
    for buffered in [false, true] {
        let code = format!(
            "drip a{secret}b\nerr {secret}\nenv KEY\ndrip {}",
            &secret[..4]
        );
        let mut start = python(&code);
        start.secrets.insert("KEY".to_owned(), secret.to_owned());
        start.buffered = buffered;
        let ran = stage.start(start).await.end().await;
        assert_eq!(ran.text(), format!("a***bKEY=***\n{}", &secret[..4]));
        assert_eq!(ran.stderr, b"***\n");
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_buffered_run_sends_all_at_its_end() {
    let stage = Stage::new();
    let mut start = limited("out one\nerr two\nout three", |limits| {
        limits.max_output_bytes = 1 << 20;
    });
    start.buffered = true;
    let mut run = stage.start(start).await;
    run.accepted().await;
    let ran = run.end().await;
    assert_eq!(ran.text(), "one\nthree\n");
    assert_eq!(ran.stderr, b"two\n");
    assert_eq!(ran.verdict(), Verdict::Exited);
    stage.stop().await;
}

/// What the program could send before it was stopped, in frames of 64 KiB.
fn frames_out(stage: &Stage) -> usize {
    let steps = stage.native.steps();
    steps.iter().filter(|step| **step == Step::FrameOut).count()
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_stops_the_program_and_nobody_else() {
    let stage = Stage::new();
    let mut stopped = stage
        .start(limited("flood 200000000", |limits| {
            limits.max_output_bytes = u64::MAX;
            limits.timeout_ms = 60_000;
        }))
        .await;
    stopped.accepted().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = frames_out(&stage);
    assert!(before < 200, "{before} frames went out to nobody");
    // Others go on, on their own connection.
    for _ in 0..3 {
        let ran = Run::start(stage.channel(ME), python("out fine"))
            .await
            .end()
            .await;
        assert_eq!(ran.stdout, b"fine\n");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let grown = frames_out(&stage) - before;
    assert!(grown < 60, "{grown} more frames");
    let ran = stopped.end().await;
    assert_eq!(ran.verdict(), Verdict::Exited, "{:?}", ran.end);
    assert_eq!(ran.stdout.len(), 200_000_000);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_for_good_meets_the_time_limit() {
    let stage = Stage::new();
    let mut run = stage
        .start(limited("flood 200000000", |limits| {
            limits.max_output_bytes = u64::MAX;
            limits.timeout_ms = 3000;
        }))
        .await;
    let sandbox = run.accepted().await.sandbox_id;
    stage
        .wait_for("the sandbox goes", Duration::from_secs(5), |stage| {
            let mut live = stage.native.live_ids().into_iter();
            !live.any(|id| id.as_str() == sandbox)
        })
        .await;
    let ran = run.end().await;
    assert_eq!(ran.verdict(), Verdict::TimedOut);
    stage.stop().await;
}
