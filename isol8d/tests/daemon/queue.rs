//! Who waits, who is refused, and in which order.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_core::ids::Principal;
use isol8_proto::v1::{self, Verdict, admin_service_client::AdminServiceClient};
use tonic::Code;

use crate::stage::{ME, Order, Run, Stage, config, python};

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_run_at_once() {
    let stage = Stage::with(config(|c| c.max_concurrent = 3), |_, _| {});
    let runs = (0..12).map(|_| async { stage.run("sleep 100\nout x").await });
    let began = tokio::time::Instant::now();
    for ran in join_all(runs).await {
        assert_eq!(ran.stdout, b"x\n");
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "four rounds");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_with_a_time_to_come_back() {
    let stage = Stage::with(config(|c| c.max_concurrent = 1), |_, _| {});
    let channel = stage.channel(ME);
    let mut first = Run::start(channel.clone(), python("sleep 60000")).await;
    first.accepted().await;
    let mut waiting = Vec::new();
    for _ in 0..isol8_core::admission::MAX_WAITING_EACH {
        waiting.push(Run::start(channel.clone(), python("out x")).await);
    }
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let status = admin.status(v1::StatusRequest {}).await.expect("an answer");
    assert_eq!(status.into_inner().runs_queued, 512);
    let refused = Run::start(stage.channel(ME), python("out x"))
        .await
        .end()
        .await;
    let (status, detail) = refused.failure();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(detail.kind, "at_capacity");
    assert!(detail.retry_after_ms > 0);
    assert!(detail.message.contains("512 runs"), "{}", detail.message);
    // Somebody else still gets a place.
    let other = Run::start(stage.channel(Principal(7)), python("out other")).await;
    // Those who go away free theirs.
    drop(waiting);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let back = Run::start(stage.channel(ME), python("out back")).await;
    drop(first);
    assert_eq!(other.end().await.stdout, b"other\n");
    assert_eq!(back.end().await.stdout, b"back\n");
    stage.stop().await;
}

/// Such as the keys of one gateway.
#[tokio::test(start_paused = true)]
async fn lanes_of_one_caller_take_turns() {
    let stage = Stage::with(config(|c| c.max_concurrent = 1), |_, _| {});
    let mut first = stage.start(python("sleep 1000")).await;
    first.accepted().await;
    let in_lane = |lane: &str| v1::Start {
        lane: lane.to_owned(),
        ..python("sleep 100")
    };
    let mut flood = Vec::new();
    for _ in 0..10 {
        flood.push(Run::start(stage.channel(ME), in_lane("one")).await);
    }
    let other = Run::start(stage.channel(ME), in_lane("other")).await;
    let began = tokio::time::Instant::now();
    drop(first);
    assert_eq!(other.end().await.exited().verdict(), Verdict::Exited);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "one before it"
    );
    drop(flood);
    let refused = Run::start(stage.channel(ME), in_lane("a b"))
        .await
        .end()
        .await;
    let (_, detail) = refused.failure();
    assert!(detail.message.contains("`lane`"), "{}", detail.message);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_who_floods_delays_himself() {
    let stage = Stage::with(config(|c| c.max_concurrent = 1), |_, _| {});
    let mut first = stage.start(python("sleep 1000")).await;
    first.accepted().await;
    let order = Order::default();
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push((
            Run::start(stage.channel(ME), python("sleep 100")).await,
            "flood",
        ));
    }
    let other = Run::start(stage.channel(Principal(7)), python("sleep 100")).await;
    runs.push((other, "other"));
    let ends = runs.into_iter().map(|(run, who)| {
        let order = order.clone();
        async move {
            assert_eq!(run.end().await.verdict(), Verdict::Exited);
            order.add(who);
        }
    });
    tokio::join!(join_all(ends), first.end());
    let place = order.list().iter().position(|who| *who == "other");
    assert!(place.is_some_and(|place| place <= 1), "{:?}", order.list());
    stage.stop().await;
}
