//! What a run may ask of a session that is there.

use isol8_proto::v1;

use super::{end, id, info, inside, kind, run, run_as, sandbox, work};
use crate::stage::{ME, Ran, Stage};

async fn refused(stage: &Stage, change: impl FnOnce(&mut v1::Start)) -> Ran {
    let mut start = work("write ran x");
    change(&mut start);
    let ran = stage.start(start).await.end().await;
    assert_eq!(kind(&ran), "session_mismatch");
    ran
}

fn limits(start: &mut v1::Start) -> &mut v1::Limits {
    start.limits.get_or_insert_default()
}

#[tokio::test(start_paused = true)]
async fn it_is_locked_to_its_runtime() {
    let stage = Stage::new();
    run(&stage, "out x").await;
    let told = refused(&stage, |start| start.runtime = v1::Runtime::Node.into()).await;
    let detail = told.failure().1;
    assert_eq!(
        detail.message,
        "Cannot switch runtime from \"python\" to \"node\". \
         Each persistent container supports a single runtime."
    );
    assert_eq!(
        detail.hint,
        "use `--session <name>` or `isol8 session rm work`"
    );
    // It is as it was, and another session may be of another runtime.
    assert_eq!(run(&stage, "read ran").await.text(), "no ran\n");
    let node = v1::Start {
        runtime: v1::Runtime::Node.into(),
        ..inside("play", "out node")
    };
    assert_eq!(run_as(stage.channel(ME), node).await.text(), "node\n");
    end(stage, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_told_with_both_values() {
    let stage = Stage::new();
    let mut first = work("out x");
    limits(&mut first).memory_bytes = 64 << 20;
    limits(&mut first).cpu_millis = 500;
    run_as(stage.channel(ME), first).await;
    type Change = fn(&mut v1::Start);
    let changes: [(Change, &str); 9] = [
        (
            |s| limits(s).memory_bytes = 65 << 20,
            "`--memory` is 64m there, 65m was asked for",
        ),
        (
            |s| limits(s).cpu_millis = 1000,
            "`--cpu` is 0.5 there, 1 was asked for",
        ),
        (
            |s| limits(s).pids = 7,
            "`--pids-limit` is 64 there, 7 was asked for",
        ),
        (
            |s| limits(s).sandbox_bytes = 1 << 20,
            "`--sandbox-size` is 512m there, 1m",
        ),
        (
            |s| limits(s).tmp_bytes = 1 << 20,
            "`--tmp-size` is 256m there, 1m",
        ),
        (
            |s| s.network = v1::NetworkMode::Host.into(),
            "`--net` is none there, host was asked",
        ),
        (
            |s| s.engine = v1::Engine::Docker.into(),
            "`--engine` is native there, docker was",
        ),
        (|s| s.writable = true, "`--writable` was asked for"),
        (
            |s| s.install.push("six".to_owned()),
            "nothing can be installed",
        ),
    ];
    for (change, said) in changes {
        let ran = refused(&stage, change).await;
        let detail = ran.failure().1;
        let told = format!("{}: {}", detail.message, detail.causes.join(": "));
        assert!(told.contains(said), "{said} is not in {told}");
        assert!(
            detail.hint.contains("isol8 session rm work"),
            "{}",
            detail.hint
        );
    }
    let all = refused(&stage, |start| {
        limits(start).memory_bytes = 1 << 30;
        limits(start).pids = 9;
    });
    assert_eq!(all.await.failure().1.causes.len(), 2, "each difference");
    assert_eq!(run(&stage, "read ran").await.text(), "no ran\n");
    assert_eq!(stage.native.created_total(), 1);
    end(stage, 1).await;
}

/// What is not said is what the session has, and not the daemon's default.
#[tokio::test(start_paused = true)]
async fn what_is_not_said_is_what_it_has() {
    let stage = Stage::new();
    let mut first = work("out x");
    first.writable = true;
    first.network = v1::NetworkMode::Host.into();
    limits(&mut first).memory_bytes = 64 << 20;
    limits(&mut first).pids = 9;
    let first = run_as(stage.channel(ME), first).await;
    let made = stage
        .native
        .spec_of(&id(&sandbox(&first)))
        .expect("it lives");
    assert_eq!(made.limits.memory.as_bytes(), 64 << 20);

    let mut second = work("out y");
    // Of the caller's own configuration.
    second.defaults = Some(v1::Limits {
        memory_bytes: 256 << 20,
        pids: 100,
        ..v1::Limits::default()
    });
    let second = run_as(stage.channel(ME), second).await;
    assert_eq!(sandbox(&second), sandbox(&first));
    let mut third = work("out z");
    limits(&mut third).memory_bytes = 64 << 20;
    third.network = v1::NetworkMode::Host.into();
    third.writable = true;
    run_as(stage.channel(ME), third).await;
    // Its own time and output are each run's.
    let mut fourth = super::timed(work("flood 5000\nhang"), 700);
    limits(&mut fourth).max_output_bytes = 1000;
    let fourth = stage.start(fourth).await.end().await;
    assert_eq!(fourth.verdict(), v1::Verdict::TimedOut);
    assert_eq!(fourth.stdout.len(), 1000);
    assert_eq!(stage.native.set_limits_total(), 0, "they stay");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn filters_need_a_filtered_network() {
    let stage = Stage::new();
    run(&stage, "out x").await;
    let logged = refused(&stage, |start| start.log_network = true).await;
    let detail = logged.failure().1;
    assert!(detail.message.contains("no filtered network"), "{detail:?}");
    refused(&stage, |start| {
        start.filter = Some(v1::NetworkFilter::default())
    })
    .await;
    // A new one cannot have them either.
    let mut first = inside("new", "out x");
    first.log_network = true;
    let told = stage.start(first).await.end().await;
    assert_eq!(kind(&told), "invalid_request");
    assert_eq!(info(&stage).await.name, "work");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_none_is_refused() {
    let stage = Stage::new();
    for name in ["", "a b", "../x", "-x", &"x".repeat(65)] {
        let told = stage.start(inside(name, "out x")).await.end().await;
        assert_eq!(kind(&told), "invalid_request", "{name}");
    }
    end(stage, 0).await;
}

/// A mismatch is told before the run takes anybody's place.
#[tokio::test(start_paused = true)]
async fn a_mismatch_is_told_when_it_is_its_turn() {
    let stage = Stage::new();
    let mut going = stage.start(work("signal-wait")).await;
    going.accepted().await;
    let mut other = work("out x");
    other.runtime = v1::Runtime::Bash.into();
    let other = stage.start(other).await;
    let next = stage.start(work("out next")).await;
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    going.signal(15);
    going.end().await;
    assert_eq!(kind(&other.end().await), "session_mismatch");
    assert_eq!(next.end().await.text(), "next\n");
    end(stage, 1).await;
}
