//! Sessions that are removed, kept, adopted, or that nobody uses any more.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_core::config::Config;
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{SessionState, Verdict};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{
    OTHER, adopt, detail, end, id, info, inside, keeping, kind, list, remove, run, run_as, sandbox,
    wait_for, work,
};
use crate::stage::{ME, Stage, config, python};

#[track_caller]
fn told<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, kind: &str) -> Status {
    let status = result.expect_err("it is refused");
    assert_eq!((status.code(), detail(&status).kind.as_str()), (code, kind));
    status
}

#[tokio::test(start_paused = true)]
async fn an_idle_one_goes_with_all_that_is_in_it() {
    let stage = Stage::new();
    run(&stage, "write notes x\nbackground server").await;
    let kept = remove(stage.channel(ME), "work", false).await;
    assert_eq!(kept.expect("removed"), "");
    assert_eq!(stage.native.live(), 0, "it is gone when that is told");
    assert!(list(stage.channel(ME)).await.is_empty());
    let again = remove(stage.channel(ME), "work", true).await;
    let status = told(again, Code::NotFound, "not_found");
    assert!(detail(&status).hint.contains("session ls"), "{status:?}");
    // Its name is free at once.
    let next = run(&stage, "read notes\nps\nout end").await;
    assert_eq!(next.text(), "no notes\nend\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_one_goes_only_by_force() {
    let stage = Stage::new();
    run(&stage, "write notes x").await;
    let mut going = stage.start(work("out old\nhang")).await;
    going.accepted().await;
    let waiting = stage.start(work("out waited")).await;
    sleep(Duration::from_millis(10)).await;
    let refused = remove(stage.channel(ME), "work", false).await;
    let status = told(refused, Code::FailedPrecondition, "session_busy");
    assert!(
        detail(&status).hint.contains("rm --force work"),
        "{status:?}"
    );
    wait_for(&stage, SessionState::Busy).await;

    let removed = remove(stage.channel(ME), "work", true).await;
    assert_eq!(removed.expect("forced"), "");
    assert_eq!(stage.native.live(), 0);
    assert_eq!(going.end().await.verdict(), Verdict::SandboxLost);
    assert_eq!(kind(&waiting.end().await), "session_lost");
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    end(stage, 1).await;
}

/// Its sandbox is there as soon as its first run has it, and can be taken away.
#[tokio::test(start_paused = true)]
async fn the_first_run_can_lose_it_too() {
    let stage = Stage::new();
    for wait_ms in 0..6 {
        let mut going = stage.start(work("sleep 2\nout old\nhang")).await;
        going.accepted().await;
        sleep(Duration::from_millis(wait_ms)).await;
        let removed = remove(stage.channel(ME), "work", true).await;
        assert_eq!(removed.expect("forced"), "");
        assert_eq!(going.end().await.verdict(), Verdict::SandboxLost);
        assert!(list(stage.channel(ME)).await.is_empty(), "{wait_ms}");
        assert_eq!(stage.native.live(), 0);
    }
    end(stage, 0).await;
}

/// At every step of the first run: what was removed is gone, or it was never
/// there, and nothing comes back with the next daemon.
#[tokio::test(start_paused = true)]
async fn a_removal_at_any_step_of_the_first_run_leaves_nothing() {
    let (mut removed, mut missing) = (0, 0);
    for number in 0..40 {
        let stage = Stage::with(config(|config| config.pool.clean = 0), |native, _| {
            native.plan_at(number, Fault::Delay(Duration::from_millis(20)));
        });
        let ground = stage.ground();
        let (ran, was_there) = tokio::join!(
            async { stage.start(work("out x\nsleep 20")).await.end().await },
            async {
                sleep(Duration::from_millis(11)).await;
                let removed = remove(stage.channel(ME), "work", true).await;
                let was_there = removed.is_ok();
                if !was_there {
                    told(removed, Code::NotFound, "not_found");
                }
                was_there
            }
        );
        let listed = list(stage.channel(ME)).await.len();
        assert_eq!(listed, usize::from(!was_there), "{number}: {ran:?}");
        match was_there {
            true => removed += 1,
            false => {
                missing += 1;
                assert_eq!(ran.verdict(), Verdict::Exited, "{number}");
            }
        }
        end(stage, listed).await;
        let next = Stage::after(&ground, Config::default());
        assert_eq!(list(next.channel(ME)).await.len(), listed, "{number}");
        end(next, listed).await;
    }
    assert!(removed > 3 && missing > 3, "{removed} {missing}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_while_it_removes_removes_it() {
    let stage = Stage::new();
    run(&stage, "write notes x").await;
    let delay = Fault::Delay(Duration::from_secs(5));
    stage.native.plan(Step::Destroy, delay);
    let removal = remove(stage.channel(ME), "work", false);
    let gone = tokio::time::timeout(Duration::from_secs(1), removal).await;
    assert!(gone.is_err(), "it takes longer");
    sleep(Duration::from_secs(10)).await;
    assert!(list(stage.channel(ME)).await.is_empty());
    end(stage, 0).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_removals_each_is_answered() {
    let stage = Stage::new();
    run(&stage, "out x").await;
    let removals = (0..5).map(|_| remove(stage.channel(ME), "work", true));
    for removed in join_all(removals).await {
        if let Err(status) = removed {
            told::<()>(Err(status), Code::NotFound, "not_found");
        }
    }
    end(stage, 0).await;
}

/// An engine that fails to destroy: it is told, the name is free, and the sweep
/// takes what is left.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_destroyed_is_nobodys() {
    let stage = Stage::new();
    run(&stage, "write notes x").await;
    stage.native.plan(Step::Destroy, Fault::refuse());
    let failed = remove(stage.channel(ME), "work", false).await;
    assert_eq!(detail(&failed.expect_err("refused")).kind, "engine_refused");
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    stage
        .wait_for("the sweep", Duration::from_secs(130), |stage| {
            stage.native.live() == 1
        })
        .await;
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_persists_is_kept_and_can_be_had_again() {
    let stage = Stage::new();
    let first = keeping(work("write notes kept\nbackground server"));
    let first = run_as(stage.channel(ME), first).await;
    assert!(info(&stage).await.persist);
    // Not even by force while somebody is in it.
    let mut going = stage.start(work("signal-wait")).await;
    going.accepted().await;
    let refused = remove(stage.channel(ME), "work", true).await;
    told(refused, Code::FailedPrecondition, "session_busy");
    going.signal(15);
    assert_eq!(going.end().await.verdict(), Verdict::Exited);
    wait_for(&stage, SessionState::Idle).await;

    let kept = remove(stage.channel(ME), "work", true).await.expect("kept");
    assert_eq!(kept, sandbox(&first));
    let shown = info(&stage).await;
    assert_eq!((shown.name.as_str(), &shown.sandbox_id), ("", &kept));
    // The name is free, and the sandbox is nobody else's.
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    told(
        adopt(stage.channel(OTHER), &kept, "work").await,
        Code::NotFound,
        "not_found",
    );
    let taken = adopt(stage.channel(ME), &kept, "work").await;
    told(taken, Code::InvalidArgument, "invalid_request");
    let adopted = adopt(stage.channel(ME), &kept, "again")
        .await
        .expect("adopted");
    assert_eq!(
        (adopted.name.as_str(), adopted.state()),
        ("again", SessionState::Idle)
    );
    let look = inside("again", "read notes\nps");
    assert_eq!(
        run_as(stage.channel(ME), look).await.text(),
        "kept\nserver\n"
    );
    let gone = adopt(stage.channel(ME), &kept, "third").await;
    told(gone, Code::NotFound, "not_found");
    end(stage, 2).await;
}

/// Whoever says it later means it too.
#[tokio::test(start_paused = true)]
async fn a_later_run_can_make_it_persist() {
    let stage = Stage::new();
    run(&stage, "write notes x").await;
    run_as(stage.channel(ME), keeping(work("out y"))).await;
    assert!(info(&stage).await.persist);
    let kept = remove(stage.channel(ME), "work", false)
        .await
        .expect("kept");
    assert!(!kept.is_empty());
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_adoptions_one_succeeds() {
    let stage = Stage::new();
    let ran = run_as(stage.channel(ME), keeping(python("write notes kept"))).await;
    let kept = ran.exited().kept_sandbox_id.clone();
    assert_eq!(kept, sandbox(&ran));
    let names = ["a", "b", "c", "a", "b", "c"];
    let adoptions = names.map(|name| adopt(stage.channel(ME), &kept, name));
    let adopted: Vec<_> = join_all(adoptions).await.into_iter().flatten().collect();
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    assert_eq!(info(&stage).await.name, adopted[0].name);
    let look = inside(&adopted[0].name, "read notes");
    assert_eq!(run_as(stage.channel(ME), look).await.text(), "kept\n");
    end(stage, 1).await;
}

/// It is its run's until that has ended.
#[tokio::test(start_paused = true)]
async fn nobody_adopts_or_expires_what_a_run_goes_on_in() {
    let stage = Stage::with(
        config(|c| c.cleanup.max_age = Duration::from_secs(60)),
        |_, _| {},
    );
    let mut run = stage
        .start(super::timed(keeping(python("signal-wait")), 600_000))
        .await;
    let sandbox = run.accepted().await.sandbox_id;
    assert_eq!(info(&stage).await.state(), SessionState::Busy);
    let refused = adopt(stage.channel(ME), &sandbox, "mine").await;
    told(refused, Code::FailedPrecondition, "session_busy");
    told(
        adopt(stage.channel(OTHER), &sandbox, "mine").await,
        Code::NotFound,
        "not_found",
    );
    sleep(Duration::from_secs(200)).await;
    run.signal(15);
    let ran = run.end().await;
    assert_eq!(ran.text(), "got 15\n");
    assert_eq!(ran.exited().kept_sandbox_id, sandbox);
    let adopted = adopt(stage.channel(ME), &sandbox, "mine").await;
    assert_eq!(adopted.expect("it is free").name, "mine");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_sandbox_that_died_is_lost_when_it_is_adopted() {
    let stage = Stage::new();
    let ran = run_as(stage.channel(ME), keeping(python("out x"))).await;
    stage.native.kill_init(&id(&sandbox(&ran)));
    let lost = adopt(stage.channel(ME), &sandbox(&ran), "work").await;
    told(lost, Code::DataLoss, "session_lost");
    let told = stage.start(work("out x")).await.end().await;
    assert_eq!(kind(&told), "session_lost");
    assert_eq!(run(&stage, "out new").await.text(), "new\n");
    end(stage, 1).await;
}

/// Time that a test lets pass is not what a session is old by: `used` is of the
/// clock on the wall.
async fn pass(real: Duration) {
    let slept = tokio::task::spawn_blocking(move || std::thread::sleep(real));
    slept.await.expect("it sleeps");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_goes_after_its_time_and_nothing_else() {
    let age = Duration::from_millis(300);
    let stage = Stage::with(config(|c| c.cleanup.max_age = age), |_, _| {});
    run(&stage, "write notes x").await;
    run_as(stage.channel(ME), keeping(python("out x"))).await;
    let busy = super::timed(inside("busy", "signal-wait"), 600_000);
    let mut busy = stage.start(busy).await;
    busy.accepted().await;
    pass(age * 2).await;
    stage
        .wait_for("the others go", Duration::from_secs(30), |stage| {
            stage.native.live() == 1
        })
        .await;
    let left = info(&stage).await;
    assert_eq!(
        (left.name.as_str(), left.state()),
        ("busy", SessionState::Busy)
    );
    busy.signal(15);
    assert_eq!(busy.end().await.verdict(), Verdict::Exited);
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_by_itself_where_that_is_off() {
    let stage = Stage::with(
        config(|c| {
            c.cleanup.max_age = Duration::from_millis(1);
            c.cleanup.auto_prune = false;
        }),
        |_, _| {},
    );
    run(&stage, "write notes x").await;
    pass(Duration::from_millis(50)).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(run(&stage, "read notes").await.text(), "x\n");
    end(stage, 1).await;
}
