//! Sandboxes of sessions that go, that are not what they were, and whose engine
//! does not answer.

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{SessionState, Verdict};
use tokio::time::{Instant, sleep};

use super::{end, id, info, kind, list, remove, run, sandbox, wait_for, work};
use crate::stage::{ME, Stage};

async fn stage() -> (Stage, String) {
    let stage = Stage::new();
    let first = run(&stage, "write notes kept").await;
    let sandbox = sandbox(&first);
    (stage, sandbox)
}

/// The next run is told, and the one after it begins anew.
async fn told_once(stage: &Stage, before: &str, why: &str) {
    let told = stage.start(work("read notes")).await.end().await;
    assert_eq!(kind(&told), "session_lost");
    let detail = told.failure().1;
    assert!(detail.causes.join(": ").contains(why), "{detail:?}");
    assert!(detail.hint.contains("begins a new one"), "{}", detail.hint);
    let next = run(stage, "read notes").await;
    assert_eq!(next.text(), "no notes\n");
    assert_ne!(sandbox(&next), before);
    let warm = next.accepted.as_ref().expect("accepted").warm;
    assert!(!warm, "it is new");
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_while_nobody_uses_it_is_told_once() {
    let (stage, before) = stage().await;
    stage.native.kill_init(&id(&before));
    let shown = wait_for(&stage, SessionState::Lost).await;
    assert_eq!(shown.reason, "its sandbox is gone");
    assert_eq!(stage.native.live(), 0, "what is left of it goes at once");
    told_once(&stage, &before, "its sandbox is gone").await;
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_under_its_run_is_told_once_more() {
    for code in ["perish", "oom-init"] {
        let (stage, before) = stage().await;
        let ended = stage.start(work(code)).await.end().await;
        let expected = [Verdict::SandboxLost, Verdict::OomKilled];
        assert!(
            expected.contains(&ended.verdict()),
            "{code}: {:?}",
            ended.end
        );
        told_once(&stage, &before, "its sandbox is gone").await;
        end(stage, 1).await;
    }
}

/// Those who wait for a session wait for what is in it: each is told.
#[tokio::test(start_paused = true)]
async fn those_who_wait_for_one_that_dies_are_all_told() {
    let (stage, before) = stage().await;
    let mut going = stage.start(work("hang")).await;
    going.accepted().await;
    let waiting =
        futures_util::future::join_all((0..3).map(|_| stage.start(work("read notes")))).await;
    sleep(Duration::from_millis(10)).await;
    stage.native.kill_init(&id(&before));
    assert_eq!(going.end().await.verdict(), Verdict::SandboxLost);
    for run in waiting {
        assert_eq!(kind(&run.end().await), "session_lost");
    }
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_one_can_be_removed() {
    let (stage, before) = stage().await;
    stage.native.kill_init(&id(&before));
    wait_for(&stage, SessionState::Lost).await;
    let kept = remove(stage.channel(ME), "work", false).await;
    assert_eq!(kept.expect("removed"), "");
    assert!(list(stage.channel(ME)).await.is_empty());
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    end(stage, 1).await;
}

/// An init whose stream breaks while nobody uses the session dials again.
#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_while_idle_is_taken_up_again() {
    let (stage, before) = stage().await;
    let adoptions = |stage: &Stage| {
        let steps = stage.native.steps().into_iter();
        steps.filter(|step| *step == Step::Adopt).count()
    };
    // The answer to the question for the size is lost.
    stage.native.plan(Step::FrameOut, Fault::refuse());
    let mut sessions = super::sessions(stage.channel(ME));
    let sizes = isol8_proto::v1::ListSessionsRequest { sizes: true };
    let listed = sessions.list(sizes).await.expect("a list").into_inner();
    assert_eq!(listed.sessions[0].size_bytes, None);
    wait_for(&stage, SessionState::Idle).await;
    assert_eq!(adoptions(&stage), 1);
    let next = run(&stage, "read notes").await;
    assert_eq!((next.text().as_str(), sandbox(&next)), ("kept\n", before));
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_is_asked_again() {
    let (stage, before) = stage().await;
    let gone = Failure::new(FailureKind::EngineUnreachable, "docker has gone for lunch");
    stage.native.plan_always(Step::Adopt, Fault::Fail(gone));
    // It loses its stream, and is to be found again.
    let ended = stage.start(work("die")).await.end().await;
    assert_eq!(ended.verdict(), Verdict::SandboxLost);
    let shown = wait_for(&stage, SessionState::Starting).await;
    sleep(Duration::from_millis(100)).await;
    let reason = info(&stage).await.reason;
    assert!(reason.contains("gone for lunch"), "{reason} {shown:?}");
    for _ in 0..3 {
        let told = stage.start(work("read notes")).await.end().await;
        assert_eq!(kind(&told), "engine_unreachable");
        sleep(Duration::from_secs(40)).await;
    }
    stage.native.mend();
    wait_for(&stage, SessionState::Idle).await;
    let next = run(&stage, "read notes").await;
    assert_eq!((next.text().as_str(), sandbox(&next)), ("kept\n", before));
    end(stage, 1).await;
}

/// Also the first run after it is back finds it, without a wait for the next try.
#[tokio::test(start_paused = true)]
async fn a_run_does_not_wait_for_the_next_try() {
    let (stage, _) = stage().await;
    stage.native.plan_always(Step::Adopt, Fault::refuse());
    stage.start(work("die")).await.end().await;
    // The pauses between two tries are long by now.
    sleep(Duration::from_secs(200)).await;
    stage.native.mend();
    let began = Instant::now();
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    assert!(began.elapsed() < Duration::from_secs(1));
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_holds_nobody_for_ever() {
    let (stage, _) = stage().await;
    stage.native.plan(Step::Adopt, Fault::Hang);
    stage.start(work("die")).await.end().await;
    let began = Instant::now();
    let told = stage.start(work("read notes")).await.end().await;
    assert!(began.elapsed() < Duration::from_secs(40));
    match told.end {
        Some(Ok(_)) => assert_eq!(told.text(), "kept\n"),
        _ => assert_eq!(kind(&told), "engine_timeout"),
    }
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");

    stage.native.plan_always(Step::Destroy, Fault::Hang);
    let began = Instant::now();
    let removed = remove(stage.channel(ME), "work", false).await;
    let told = super::detail(&removed.expect_err("it hangs"));
    assert_eq!(told.kind, "engine_timeout");
    assert!(began.elapsed() < Duration::from_secs(60));
    stage.native.mend();
    assert_eq!(
        run(&stage, "read notes").await.text(),
        "no notes\n",
        "another"
    );
    stage
        .wait_for("the sweep", Duration::from_secs(130), |stage| {
            stage.native.live() == 1
        })
        .await;
    end(stage, 1).await;
}

/// A bug of an engine costs nobody the session.
#[tokio::test(start_paused = true)]
async fn a_panic_is_survived() {
    let (stage, _) = stage().await;
    stage.native.plan(Step::Adopt, Fault::Panic);
    stage.start(work("die")).await.end().await;
    let told = stage.start(work("read notes")).await.end().await;
    if let Some(Err(_)) = told.end {
        assert_eq!(kind(&told), "internal");
    }
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");

    stage.native.plan(Step::Destroy, Fault::Panic);
    let removed = remove(stage.channel(ME), "work", false).await;
    let told = super::detail(&removed.expect_err("a panic"));
    assert_eq!(told.kind, "internal");
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    stage
        .wait_for("the sweep", Duration::from_secs(130), |stage| {
            stage.native.live() == 1
        })
        .await;
    end(stage, 1).await;
}
