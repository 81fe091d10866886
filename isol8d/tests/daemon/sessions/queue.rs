//! Runs on one session go one after the other.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_proto::v1::{self, Phase, SessionState};
use tokio::time::{Instant, sleep};

use super::{OTHER, end, info, inside, kind, list, run, run_as, wait_for, work};
use crate::stage::{ME, Order, Run, Stage, config};

/// Starts runs that wait for one another, and gives the order of their ends.
async fn order_of(stage: &Stage, names: &[&'static str]) -> Vec<&'static str> {
    let order = Order::default();
    let mut runs = Vec::new();
    for name in names {
        let run = stage.start(work(&format!("out {name}\nsleep 100"))).await;
        // The first message of each is read before the next one dials.
        sleep(Duration::from_millis(1)).await;
        runs.push((run, *name));
    }
    let ends = runs.into_iter().map(|(run, name)| {
        let order = order.clone();
        async move {
            assert_eq!(run.end().await.text(), format!("{name}\n"));
            order.add(name);
        }
    });
    join_all(ends).await;
    order.list()
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_first() {
    let stage = Stage::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    let began = Instant::now();
    assert_eq!(order_of(&stage, &names).await, names);
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "one at a time"
    );
    assert_eq!(
        order_of(&stage, &names).await,
        names,
        "also when it is there"
    );
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn one_who_waits_is_told_so_and_shown() {
    let stage = Stage::new();
    run(&stage, "out x").await;
    let mut first = stage.start(work("signal-wait")).await;
    first.accepted().await;
    let waiting: Vec<Run> = join_all((0..3).map(|_| stage.start(work("out waited")))).await;
    sleep(Duration::from_millis(10)).await;
    let shown = info(&stage).await;
    assert_eq!((shown.state(), shown.waiting), (SessionState::Busy, 3));
    assert_eq!(shown.idle_ms, 0);
    first.signal(15);
    let first = first.end().await;
    assert_eq!(first.text(), "got 15\n");
    assert_eq!(first.phases, [], "it did not wait");
    for run in waiting {
        let ran = run.end().await;
        assert_eq!(ran.phases, [Phase::Queued]);
        assert_eq!(ran.text(), "waited\n");
    }
    assert_eq!(wait_for(&stage, SessionState::Idle).await.waiting, 0);
    end(stage, 1).await;
}

/// Somebody who waits and goes gives up the place, and nothing of it runs.
#[tokio::test(start_paused = true)]
async fn one_who_goes_while_waiting_is_passed_over() {
    let stage = Stage::new();
    let mut first = stage.start(work("signal-wait")).await;
    first.accepted().await;
    let gone = stage.start(work("write gone x")).await;
    let last = stage.start(work("read gone\nout last")).await;
    sleep(Duration::from_millis(10)).await;
    drop(gone);
    sleep(Duration::from_millis(10)).await;
    first.signal(15);
    first.end().await;
    assert_eq!(last.end().await.text(), "no gone\nlast\n");
    end(stage, 1).await;
}

async fn waiting_at_work(stage: &Stage) -> u32 {
    let all = list(stage.channel(ME)).await;
    let work = all.iter().find(|info| info.name == "work");
    work.expect("it is there").waiting
}

#[tokio::test(start_paused = true)]
async fn so_many_may_wait_and_no_more() {
    let stage = Stage::new();
    let channel = stage.channel(ME);
    let mut first = Run::start(channel.clone(), work("signal-wait")).await;
    first.accepted().await;
    let mut waiting = Vec::new();
    for _ in 0..64 {
        waiting.push(Run::start(channel.clone(), work("out x")).await);
    }
    sleep(Duration::from_millis(10)).await;
    assert_eq!(waiting_at_work(&stage).await, 64);
    let refused = Run::start(channel.clone(), work("out x")).await.end().await;
    assert_eq!(kind(&refused), "at_capacity");
    assert!(refused.failure().1.retry_after_ms > 0);
    // Another session is no matter, and who goes frees a place.
    let elsewhere = run_as(stage.channel(ME), inside("play", "out y"));
    assert_eq!(elsewhere.await.text(), "y\n");
    drop(waiting.pop());
    sleep(Duration::from_millis(10)).await;
    waiting.push(Run::start(channel.clone(), work("out x")).await);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(waiting_at_work(&stage).await, 64);
    first.signal(15);
    first.end().await;
    for run in waiting {
        assert_eq!(run.end().await.text(), "x\n");
    }
    end(stage, 2).await;
}

/// Names are free: nobody has more waiting by making them up.
#[tokio::test(start_paused = true)]
async fn so_many_of_one_caller_wait_and_no_more() {
    let stage = Stage::with(config(|c| c.max_concurrent = 64), |_, _| {});
    let mut holders = Vec::new();
    let mut waiting = Vec::new();
    for number in 0..9 {
        let name = format!("s{number}");
        let mut holder = stage.start(inside(&name, "signal-wait")).await;
        holder.accepted().await;
        holders.push(holder);
        let channel = stage.channel(ME);
        for _ in 0..60 {
            if waiting.len() < 512 {
                waiting.push(Run::start(channel.clone(), inside(&name, "out x")).await);
            }
        }
    }
    sleep(Duration::from_millis(10)).await;
    let refused = stage.start(inside("s8", "out x")).await.end().await;
    assert_eq!(kind(&refused), "at_capacity");
    let message = refused.failure().1.message;
    assert!(message.contains("512 calls of yours"), "{message}");
    let other = stage.channel(OTHER);
    assert_eq!(run_as(other, work("out y")).await.text(), "y\n");
    for holder in holders {
        holder.signal(15);
        holder.end().await;
    }
    for run in waiting {
        assert_eq!(run.end().await.text(), "x\n");
    }
    end(stage, 10).await;
}

#[tokio::test(start_paused = true)]
async fn one_who_waits_for_a_session_holds_no_slot() {
    let stage = Stage::with(config(|c| c.max_concurrent = 2), |_, _| {});
    let mut first = stage.start(work("signal-wait")).await;
    first.accepted().await;
    let waiting: Vec<Run> = join_all((0..5).map(|_| stage.start(work("out x")))).await;
    sleep(Duration::from_millis(10)).await;
    // One slot is left, and all who wait would have taken it.
    assert_eq!(stage.run("out elsewhere").await.text(), "elsewhere\n");
    first.signal(15);
    first.end().await;
    for run in waiting {
        assert_eq!(run.end().await.text(), "x\n");
    }
    end(stage, 1).await;
}

/// The time of a run begins when it has the session.
#[tokio::test(start_paused = true)]
async fn the_wait_is_not_the_programs_time() {
    let stage = Stage::new();
    let mut first = stage.start(work("sleep 5000")).await;
    first.accepted().await;
    let second = super::timed(work("out in time"), 1000);
    let second = stage.start(second).await.end().await;
    assert_eq!(second.verdict(), v1::Verdict::Exited);
    assert_eq!(second.text(), "in time\n");
    drop(first);
    end(stage, 1).await;
}
