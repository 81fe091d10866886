//! Things that go wrong at every step: a typed end for the client, and nothing
//! left behind.

use std::time::Duration;

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{self, Verdict};
use tokio::time::{Instant, timeout};

use crate::stage::{Ran, Stage, config, limited, python};

/// A run that passes through everything: two streams, stdin, a signal to none.
const CODE: &str = "out hello\nerr oh\nsleep 10\nout bye\nexit 3";

fn no_pool() -> isol8_core::config::Config {
    // Steps are counted: the pool must not make sandboxes in between.
    config(|config| config.pool.clean = 0)
}

/// Whether this is an end that a client can use.
fn is_typed(ran: &Ran) -> bool {
    match ran.end.as_ref().expect("it has ended") {
        Ok(exited) => exited.verdict() != Verdict::Unspecified,
        Err(_) => ran.failure().1.kind != "internal" || !ran.failure().1.message.is_empty(),
    }
}

async fn steps_of_a_run() -> usize {
    let stage = Stage::with(no_pool(), |_, _| {});
    let ran = stage.run(CODE).await;
    assert_eq!(ran.exited().code, Some(3));
    let native = stage.native.clone();
    stage.stop().await;
    native.steps().len()
}

async fn walk(fault: impl Fn() -> Fault, may_leave: bool) {
    let steps = steps_of_a_run().await;
    assert!(steps > 10, "{steps} steps");
    for number in 0..steps {
        let stage = Stage::with(no_pool(), |native, _| native.plan_at(number, fault()));
        let run = stage.start(limited(CODE, |limits| limits.timeout_ms = 5000));
        let ran = timeout(Duration::from_secs(30), async { run.await.end().await }).await;
        let ran = ran.unwrap_or_else(|_| panic!("step {number}: no end in time"));
        assert!(is_typed(&ran), "step {number}: {:?}", ran.end);
        stage.native.mend();
        // The next run is not touched by it.
        let next = stage.run("out next").await;
        assert_eq!(next.stdout, b"next\n", "step {number}: {:?}", next.end);
        if may_leave {
            // The sweep finds what the engine could not tidy up.
            tokio::time::sleep(Duration::from_secs(130)).await;
        }
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_leaves_nothing() {
    walk(Fault::refuse, false).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_at_any_step_leaves_nothing_for_long() {
    let gone = || {
        let failure = Failure::new(FailureKind::EngineUnreachable, "gone");
        Fault::FailAndLeave(failure)
    };
    walk(gone, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_at_any_step_changes_nothing() {
    let steps = steps_of_a_run().await;
    for number in 0..steps {
        let delay = Fault::Delay(Duration::from_millis(300));
        let stage = Stage::with(no_pool(), |native, _| native.plan_at(number, delay));
        let ran = stage.run(CODE).await;
        assert_eq!(ran.exited().code, Some(3), "step {number}");
        assert_eq!(ran.text(), "hello\nbye\n", "step {number}");
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_at_any_step_ends_with_the_runs_time() {
    let steps = steps_of_a_run().await;
    for number in 0..steps {
        let stage = Stage::with(no_pool(), |native, _| native.plan_at(number, Fault::Hang));
        let began = Instant::now();
        let run = stage.start(limited(CODE, |limits| limits.timeout_ms = 2000));
        let ran = timeout(Duration::from_secs(60), async { run.await.end().await }).await;
        let ran = ran.unwrap_or_else(|_| panic!("step {number}: no end in time"));
        assert!(is_typed(&ran), "step {number}: {:?}", ran.end);
        assert!(began.elapsed() < Duration::from_secs(10), "step {number}");
        // What hangs may stay, but the daemon still ends.
        stage.daemon.stop();
        stage.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_run() {
    let stage = Stage::new();
    for step in [Step::Counters, Step::FrameIn, Step::FrameOut] {
        stage.native.plan(step, Fault::Panic);
        let ran = stage.run(CODE).await;
        assert!(is_typed(&ran), "{step:?}: {:?}", ran.end);
        if step == Step::Counters {
            assert_eq!(ran.failure().1.kind, "internal");
        }
        let next = stage.run("out next").await;
        assert_eq!(next.stdout, b"next\n", "{step:?}");
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_of_an_engine_keep_their_kind() {
    let stage = Stage::with(no_pool(), |_, _| {});
    let kinds = [
        FailureKind::EngineUnreachable,
        FailureKind::EngineTimeout,
        FailureKind::EngineRefused,
        FailureKind::InterpreterMissing,
        FailureKind::HostLacks,
        FailureKind::NoSpace,
    ];
    for kind in kinds {
        let failure = Failure::new(kind, "scripted")
            .cause("the cause")
            .hint("the hint");
        stage.native.plan(Step::Create, Fault::Fail(failure));
        let ran = stage.run("out x").await;
        let (_, detail) = ran.failure();
        assert_eq!(detail.kind, kind.name());
        assert_eq!(detail.hint, "the hint");
        assert!(
            detail.causes.contains(&"the cause".to_owned()),
            "{detail:?}"
        );
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_shows_no_secret() {
    let stage = Stage::with(no_pool(), |_, _| {});
    let failure =
        Failure::new(FailureKind::EngineRefused, "cannot take tops3cret").cause("tops3cret");
    stage.native.plan(Step::Create, Fault::Fail(failure));
    let mut start = python("out x");
    start
        .secrets
        .insert("KEY".to_owned(), "tops3cret".to_owned());
    let ran = stage.start(start).await.end().await;
    let (status, detail) = ran.failure();
    assert_eq!(detail.message, "cannot take ***");
    assert!(!format!("{status:?}{detail:?}").contains("tops3cret"));
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_died_warm_is_not_handed_out() {
    let stage = Stage::new();
    assert_eq!(stage.run("out first").await.stdout, b"first\n");
    stage
        .wait_for("one is warm", Duration::from_secs(10), |stage| {
            stage
                .daemon
                .pool()
                .status()
                .keys
                .iter()
                .any(|key| key.warm > 0)
        })
        .await;
    for id in stage.native.live_ids() {
        stage.native.kill_init(&id);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let ran = stage.run("out second").await;
    assert_eq!(ran.stdout, b"second\n", "{:?}", ran.end);
    stage.stop().await;
}

/// An engine that hung makes a sandbox that nobody waits for any more, and the
/// daemon stops before its next look.
#[tokio::test(start_paused = true)]
async fn what_an_engine_made_too_late_goes_at_the_end() {
    let mut own = None;
    let stage = Stage::with(no_pool(), |_, id| own = Some(id.clone()));
    let own = own.expect("the stage was set");
    assert_eq!(stage.run("out x").await.stdout, b"x\n");
    stage.docker.add_stranger(SandboxId::random(), own);
    stage.stop().await;
}

/// The end does not wait for an engine that does not answer.
#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_does_not_hold_the_end() {
    let stage = Stage::with(no_pool(), |_, _| {});
    assert_eq!(stage.run("out x").await.stdout, b"x\n");
    stage.docker.plan_always(Step::List, Fault::Hang);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_earlier_daemons_left_goes_at_the_start() {
    let (dead, alive) = (DaemonId::random(), DaemonId::random());
    let neighbour = SandboxId::random();
    let stage = Stage::with(no_pool(), |native, own| {
        native.add_stranger(SandboxId::random(), own.clone());
        native.add_stranger(SandboxId::random(), dead.clone());
        native.daemon_died(dead);
        native.add_stranger(neighbour.clone(), alive);
        // The engine is busy at first.
        native.plan(Step::List, Fault::refuse());
    });
    stage
        .wait_for("strangers go", Duration::from_secs(5), |stage| {
            stage.native.live_ids() == [neighbour.clone()]
        })
        .await;
    assert_eq!(stage.run("out x").await.stdout, b"x\n");
    let native = stage.native.clone();
    stage.daemon.stop();
    stage.ended().await;
    assert_eq!(native.live_ids(), [neighbour]);
}

#[tokio::test(start_paused = true)]
async fn auto_falls_back_to_native_and_docker_can_come_later() {
    let stage = Stage::new();
    let engine = |ran: &Ran| ran.accepted.as_ref().expect("a sandbox").engine();
    let ran = stage.run("out x").await;
    assert_eq!(engine(&ran), v1::Engine::Native);
    stage.docker.mend();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let ran = stage.run("out x").await;
    assert_eq!(engine(&ran), v1::Engine::Docker);
    stage.stop().await;
}
