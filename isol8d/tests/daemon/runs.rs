//! What a run does when nothing goes wrong, and how it ends.

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{self, Verdict, run_event::Event, run_request::Message};
use tokio::time::Instant;

use crate::stage::{ME, Run, Stage, limited, python};

#[tokio::test(start_paused = true)]
async fn a_program_says_hello_and_ends() {
    let stage = Stage::new();
    let ran = stage
        .run("out hello\nerr oh\ncpu 1500\nmemory 4096\nexit 3")
        .await;
    assert_eq!(ran.stdout, b"hello\n");
    assert_eq!(ran.stderr, b"oh\n");
    let accepted = ran.accepted.as_ref().expect("it had a sandbox");
    assert_eq!(accepted.engine(), v1::Engine::Native);
    assert_eq!(accepted.runtime(), v1::Runtime::Python);
    assert_eq!(accepted.run_id.len(), 32);
    let exited = ran.exited();
    assert_eq!((exited.verdict(), exited.code), (Verdict::Exited, Some(3)));
    assert_eq!(exited.signal, None);
    let usage = exited.usage.expect("usage");
    assert_eq!((usage.stdout_bytes, usage.stderr_bytes), (6, 3));
    assert_eq!((usage.cpu_us, usage.peak_memory_bytes), (1500, 4096));
    assert!(!exited.stdout_truncated && !exited.stderr_truncated);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_sandbox_serves_one_run() {
    let stage = Stage::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let ran = stage.run("out x").await;
        let sandbox = ran.accepted.expect("a sandbox").sandbox_id;
        assert!(seen.insert(sandbox), "a sandbox served twice");
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_program_gets_its_name_environment_and_default_path() {
    let stage = Stage::new();
    let mut start = python("about\nenv HOME\nenv MINE\nenv PATH\nenv USER_OF_DAEMON");
    start.extension = "pyw".to_owned();
    start.env.insert("MINE".to_owned(), "a b=c".to_owned());
    let ran = stage.start(start).await.end().await;
    let text = ran.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains("python3 /sandbox/main.pyw"), "{text}");
    assert_eq!(lines[1], "HOME=/sandbox");
    assert_eq!(lines[2], "MINE=a b=c");
    assert!(lines[3].starts_with("PATH=/sandbox/.local/bin:"), "{text}");
    assert_eq!(lines[4], "USER_OF_DAEMON unset");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_up_variable_is_never_given_to_a_parked_interpreter() {
    let stage = Stage::new();
    let plain = stage.run("about").await.text();
    let mut start = python("about");
    start
        .env
        .insert("PYTHONWARNINGS".to_owned(), "error".to_owned());
    let other = stage.start(start).await.end().await.text();
    assert!(plain.contains("parked=true"), "{plain}");
    assert!(other.contains("parked=false"), "{other}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_of_10_mb_arrives_whole() {
    let stage = Stage::new();
    let mut code = "about\n".to_owned();
    code.push_str(&"# a comment that fills the file\n".repeat(340_000));
    let ran = stage.run(&code).await;
    let text = ran.text();
    assert!(text.starts_with(&format!("{} ", code.len())), "{text}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stdin_arrives_in_order_and_ends() {
    let stage = Stage::new();
    let mut start = limited("echo-stdin\nout end", |limits| {
        limits.max_output_bytes = 16 << 20;
    });
    start.stdin = true;
    let run = stage.start(start).await;
    let mut sent = Vec::new();
    for turn in 0..40_u8 {
        let piece = vec![turn; 200 << 10];
        sent.extend_from_slice(&piece);
        run.say(Message::Stdin(piece.into()));
    }
    run.say(Message::CloseStdin(v1::CloseStdin {}));
    let ran = run.end().await;
    sent.extend_from_slice(b"end\n");
    assert!(ran.stdout == sent, "{} of {}", ran.stdout.len(), sent.len());
    let told = sent.len() as u64 - ran.stdin_taken;
    assert!(told <= 256 << 10, "the client heard of {}", ran.stdin_taken);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_more_closes_stdin() {
    let stage = Stage::new();
    let mut start = python("echo-stdin\nout end");
    start.stdin = true;
    let mut run = stage.start(start).await;
    run.say(Message::Stdin(b"abc".as_slice().into()));
    // Dropping the sender ends the request stream, not the run.
    run.says = tokio::sync::mpsc::unbounded_channel().0;
    let ran = run.end().await;
    assert_eq!(ran.stdout, b"abcend\n");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn signals_reach_the_program() {
    let stage = Stage::new();
    let mut run = stage.start(python("signal-wait\nexit 4")).await;
    run.accepted().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    run.signal(2);
    let ran = run.end().await;
    assert_eq!(ran.stdout, b"got 2\n");
    assert_eq!(ran.exited().code, Some(4));

    let mut run = stage.start(python("hang")).await;
    run.accepted().await;
    run.signal(15);
    let ran = run.end().await;
    assert_eq!(ran.verdict(), Verdict::Signalled);
    assert_eq!(ran.exited().signal, Some(15));
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_overtakes_output_that_nobody_reads() {
    let stage = Stage::new();
    let mut run = stage
        .start(limited("flood 1000000000", |limits| {
            limits.max_output_bytes = 2_000_000_000;
            limits.timeout_ms = 600_000;
        }))
        .await;
    run.accepted().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    run.signal(15);
    // The program must be gone before anything is read.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ran = run.end().await;
    assert_eq!(ran.exited().signal, Some(15));
    assert!(ran.stdout.len() < 16 << 20, "{} bytes", ran.stdout.len());
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn time_runs_out_also_for_a_deaf_init() {
    let stage = Stage::new();
    for (code, grace_ms) in [("out before\nhang", 0), ("out before\ndeaf", 500)] {
        let began = Instant::now();
        let ran = stage
            .start(limited(code, |limits| limits.timeout_ms = 2000))
            .await
            .end()
            .await;
        assert_eq!(ran.verdict(), Verdict::TimedOut, "{code}");
        assert_eq!(ran.exited().reason, "the time limit of 2000 ms was over");
        assert_eq!(ran.stdout, b"before\n");
        let took = began.elapsed().as_millis();
        assert!(
            (2000 + grace_ms..2600 + grace_ms).contains(&took),
            "{took} ms"
        );
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_counts_the_making_of_the_sandbox() {
    let stage = Stage::new();
    stage
        .native
        .plan_always(Step::Create, Fault::Delay(Duration::from_secs(3)));
    let ran = stage
        .start(limited("out x", |limits| limits.timeout_ms = 1000))
        .await
        .end()
        .await;
    assert_eq!(ran.verdict(), Verdict::TimedOut);
    assert!(ran.exited().reason.contains("before a sandbox was ready"));
    assert!(ran.accepted.is_none());
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_program_within_two_seconds() {
    let stage = Stage::new();
    for code in ["hang", "deaf", "flood 1000000000", "echo-stdin"] {
        let mut start = limited(code, |limits| limits.max_output_bytes = u64::MAX);
        start.stdin = true;
        let mut run = stage.start(start).await;
        let sandbox = run.accepted().await.sandbox_id;
        drop(run);
        let limit = Duration::from_secs(2);
        stage
            .wait_for("the sandbox goes", limit, |stage| {
                let mut live = stage.native.live_ids().into_iter();
                !live.any(|id| id.as_str() == sandbox)
            })
            .await;
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_its_sandbox_is_there_leaves_nothing() {
    let stage = Stage::new();
    stage
        .native
        .plan_always(Step::Created, Fault::Delay(Duration::from_secs(2)));
    let run = stage.start(python("out x")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(run);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.native.mend();
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn memory_kills_are_told_from_other_kills() {
    let stage = Stage::new();
    let ran = stage.run("shmem 400000000\noom").await;
    assert_eq!(ran.verdict(), Verdict::OomKilled);
    let reason = &ran.exited().reason;
    assert!(
        reason.contains("512m") && reason.contains("/sandbox"),
        "{reason}"
    );
    let ran = stage.run("oom-init").await;
    assert_eq!(ran.verdict(), Verdict::OomKilled);
    let ran = stage.run("kill 9").await;
    assert_eq!(ran.verdict(), Verdict::Signalled);
    assert_eq!(ran.exited().signal, Some(9));
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_vanishes_or_lies_is_lost() {
    let stage = Stage::new();
    let ran = stage.run("out before\nsleep 10\ndie").await;
    assert_eq!(ran.verdict(), Verdict::SandboxLost);
    assert_eq!(ran.stdout, b"before\n");
    let ran = stage.run("nonsense\nhang").await;
    assert_eq!(ran.verdict(), Verdict::SandboxLost);
    assert!(ran.exited().reason.contains("no message"));
    let ran = stage.run("exit 300").await;
    assert_eq!(ran.verdict(), Verdict::SandboxLost);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_start_is_a_failure_with_a_kind() {
    let stage = Stage::new();
    let cases = [
        (1, "interpreter_missing"),
        (2, "interpreter_missing"),
        (3, "no_space"),
        (4, "unsupported"),
        (5, "internal"),
        (6, "internal"),
    ];
    for (number, kind) in cases {
        let ran = stage.run(&format!("refuse {number}")).await;
        assert_eq!(ran.failure().1.kind, kind, "{number}");
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_built_once_outside_the_runs_time() {
    let stage = Stage::new();
    stage.docker.mend();
    let missing = Failure::new(FailureKind::ImageMissing, "`isol8:python` is not there");
    stage.docker.plan(Step::Create, Fault::Fail(missing));
    stage
        .docker
        .plan(Step::Prepare, Fault::Delay(Duration::from_secs(120)));
    let mut start = python("out built");
    start.engine = v1::Engine::Docker.into();
    let ran = stage.start(start).await.end().await;
    assert_eq!(ran.stdout, b"built\n", "{ran:?}");
    assert_eq!(ran.notices[0], "building the python image, once");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_hears_that_it_waits() {
    let stage = Stage::with(crate::stage::config(|c| c.max_concurrent = 1), |_, _| {});
    let mut first = stage.start(python("sleep 1000")).await;
    first.accepted().await;
    let second = stage.start(python("out second")).await.end().await;
    assert_eq!(second.phases, [v1::Phase::Queued]);
    assert_eq!(second.stdout, b"second\n");
    first.end().await;
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn output_comes_while_the_program_runs() {
    let stage = Stage::new();
    let mut run = stage
        .start(python("out first\nsleep 5000\nout second"))
        .await;
    run.accepted().await;
    let began = Instant::now();
    match run.next().await {
        Some(Ok(Event::Stdout(bytes))) => assert_eq!(&bytes[..], b"first\n"),
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(run.end().await.stdout, b"second\n");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_overtakes_stdin_that_nobody_reads() {
    let stage = Stage::new();
    let mut start = python("hang");
    start.stdin = true;
    let mut run = stage.start(start).await;
    run.accepted().await;
    // As much as a client may have under way that wants to be heard.
    for _ in 0..5 {
        run.say(Message::Stdin(vec![0; 256 << 10].into()));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    run.signal(15);
    let ran = run.end().await;
    assert_eq!(ran.exited().signal, Some(15), "{:?}", ran.end);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_without_a_word_is_noticed() {
    let stage = Stage::new();
    let (channel, cut) = stage.breakable_channel(ME);
    let start = limited("hang", |limits| limits.timeout_ms = 600_000);
    let mut run = Run::start(channel, start).await;
    let sandbox = run.accepted().await.sandbox_id;
    cut.cancel();
    let began = Instant::now();
    stage
        .wait_for("the sandbox goes", Duration::from_secs(30), |stage| {
            let mut live = stage.native.live_ids().into_iter();
            !live.any(|id| id.as_str() == sandbox)
        })
        .await;
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(5),
        "it noticed at once: {took:?}"
    );
    drop(run);
    stage.stop().await;
}
