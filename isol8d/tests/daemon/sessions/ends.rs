//! However a run ends, its verdict is the true one, the session can be used
//! afterwards, and nothing of the run reaches the next one.

use std::time::Duration;

use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{SessionState, Verdict};
use tokio::time::sleep;

use super::{end, kind, run, sandbox, timed, wait_for, work};
use crate::stage::{Ran, Stage};

const LOOK: &str = "read notes\nps\nenv NAME";
const FOUND: &str = "kept\nserver\nNAME unset\n";

/// A session in which something is.
async fn stage() -> (Stage, String) {
    let stage = Stage::new();
    let first = run(&stage, "write notes kept\nbackground server").await;
    let sandbox = sandbox(&first);
    (stage, sandbox)
}

/// The session is what it was.
async fn check(stage: &Stage, before: &str, what: &str) {
    let next = run(stage, LOOK).await;
    assert_eq!(next.text(), FOUND, "{what}");
    assert_eq!(next.stderr, b"", "{what}");
    assert_eq!(sandbox(&next), before, "{what}");
}

async fn ran(stage: &Stage, code: &str) -> Ran {
    let mut start = timed(work(code), 2000);
    start.env.insert("NAME".to_owned(), "old".to_owned());
    stage.start(start).await.end().await
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_as_it_was() {
    let (stage, sandbox) = stage().await;
    let ends = [
        ("exit 3", Verdict::Exited),
        ("kill 11", Verdict::Signalled),
        ("oom", Verdict::OomKilled),
        ("hang", Verdict::TimedOut),
        ("deaf", Verdict::TimedOut),
        ("flood 1000000\nflood-err 1000000\nhang", Verdict::TimedOut),
        ("die", Verdict::SandboxLost),
        ("nonsense", Verdict::SandboxLost),
    ];
    for (code, verdict) in ends {
        let code = format!("out old\n{code}");
        let ended = ran(&stage, &code).await;
        assert_eq!(ended.verdict(), verdict, "{code}: {:?}", ended.end);
        check(&stage, &sandbox, &code).await;
    }
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_start_is_no_matter() {
    let (stage, sandbox) = stage().await;
    let refused = ran(&stage, "refuse 1").await;
    assert_eq!(kind(&refused), "interpreter_missing");
    check(&stage, &sandbox, "refused").await;
    end(stage, 1).await;
}

/// The client goes at any moment of the run.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_its_run_alone() {
    let (stage, sandbox) = stage().await;
    let programs = [
        "out old\nhang",
        "flood 5000000",
        "sleep 20\nout old",
        "deaf",
    ];
    for code in programs {
        for after_ms in 0..12 {
            let run = stage.start(work(code)).await;
            sleep(Duration::from_millis(after_ms * 2)).await;
            drop(run);
            check(&stage, &sandbox, &format!("{code} after {after_ms}")).await;
        }
    }
    end(stage, 1).await;
}

/// The stream to init is lost at every frame of a run.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_lost_at_any_frame_costs_the_run_alone() {
    for step in [Step::FrameIn, Step::FrameOut] {
        for skip in 0..12 {
            let (stage, sandbox) = stage().await;
            for _ in 0..skip {
                stage.native.plan(step, Fault::Delay(Duration::ZERO));
            }
            stage.native.plan(step, Fault::refuse());
            let ended = ran(&stage, "out old\nerr old\nsleep 5\nout old").await;
            match &ended.end {
                Some(Ok(exited)) => assert!(
                    matches!(exited.verdict(), Verdict::Exited | Verdict::SandboxLost),
                    "{step:?} {skip}: {exited:?}"
                ),
                other => panic!("{step:?} {skip}: {other:?}"),
            }
            stage.native.mend();
            check(&stage, &sandbox, &format!("{step:?} {skip}")).await;
            end(stage, 1).await;
        }
    }
}

/// A frame that comes late is not taken for one of the next run.
#[tokio::test(start_paused = true)]
async fn a_delay_at_any_frame_mixes_nothing() {
    for step in [Step::FrameIn, Step::FrameOut] {
        for skip in 0..12 {
            let (stage, sandbox) = stage().await;
            for _ in 0..skip {
                stage.native.plan(step, Fault::Delay(Duration::ZERO));
            }
            // Longer than the run may take, and than its end is waited for.
            stage
                .native
                .plan(step, Fault::Delay(Duration::from_secs(4)));
            let ended = ran(&stage, "out old\nerr old\nsleep 5\nout old").await;
            let verdict = ended.verdict();
            let expected = [Verdict::Exited, Verdict::TimedOut];
            assert!(expected.contains(&verdict), "{step:?} {skip}: {verdict:?}");
            check(&stage, &sandbox, &format!("{step:?} {skip}")).await;
            end(stage, 1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_is_shown_as_such_until_it_is_free() {
    let (stage, _) = stage().await;
    let mut run = stage.start(work("hang")).await;
    run.accepted().await;
    wait_for(&stage, SessionState::Busy).await;
    drop(run);
    wait_for(&stage, SessionState::Idle).await;
    end(stage, 1).await;
}

/// A daemon that stops ends the run, and keeps the session for the next one.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_tells_the_run_and_those_who_wait() {
    let (stage, before) = stage().await;
    let ground = stage.ground();
    let mut going = stage.start(work("out old\nhang")).await;
    going.accepted().await;
    let waiting = stage.start(work("out waited")).await;
    sleep(Duration::from_millis(10)).await;
    stage.daemon.stop();
    let (going, waiting, ()) = tokio::join!(going.end(), waiting.end(), stage.ended());
    assert_eq!(going.verdict(), Verdict::Cancelled);
    match &waiting.end {
        Some(Ok(exited)) => assert_eq!(exited.verdict(), Verdict::Cancelled),
        _ => assert_eq!(kind(&waiting), "shutting_down"),
    }
    assert_eq!(waiting.text(), "");
    let next = Stage::after(&ground, isol8_core::config::Config::default());
    check(&next, &before, "after a stop").await;
    end(next, 1).await;
}

/// A run that keeps its sandbox says so, unless there is nothing to keep.
#[tokio::test(start_paused = true)]
async fn only_what_is_there_is_said_to_be_kept() {
    let stage = Stage::new();
    let mut kept = 0;
    for (code, keeps) in [
        ("exit 1", true),
        ("hang", true),
        ("die", false),
        ("perish", false),
        ("oom", true),
        ("oom-init", false),
    ] {
        let start = timed(super::keeping(crate::stage::python(code)), 2000);
        let ran = stage.start(start).await.end().await;
        let id = &ran.exited().kept_sandbox_id;
        assert_eq!(!id.is_empty(), keeps, "{code}: {:?}", ran.end);
        kept += usize::from(keeps);
        stage
            .wait_for("the others go", Duration::from_secs(5), |stage| {
                stage.native.live() == kept
            })
            .await;
    }
    let listed = super::list(stage.channel(crate::stage::ME)).await;
    assert_eq!(listed.len(), kept);
    assert!(
        listed
            .iter()
            .all(|info| info.name.is_empty() && info.state() == SessionState::Idle)
    );
    end(stage, kept).await;
}
