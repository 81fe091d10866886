//! What one run finds that another left, and what it must not find.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_core::{config::Config, ids::Principal};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{self, SessionState};
use tokio::time::sleep;

use super::{OTHER, end, id, info, inside, keeping, list, remove, run, run_as, sandbox, work};
use crate::stage::{ME, Run, Stage, config};

#[tokio::test(start_paused = true)]
async fn the_first_run_makes_it_and_the_next_ones_find_what_is_there() {
    let stage = Stage::new();
    let first = run(
        &stage,
        "write notes hello\nwrite /tmp/t there\nbackground server",
    )
    .await;
    let second = run(&stage, "read notes\nread /tmp/t\nps\nabout").await;
    let said = "hello\nthere\nserver\n42 /usr/bin/env parked=false\n";
    let text = second.text();
    assert!(text.starts_with("hello\nthere\nserver\n"), "{text}");
    assert!(
        text.ends_with("/sandbox/main.py parked=false\n"),
        "{text} {said}"
    );
    assert_eq!(sandbox(&first), sandbox(&second));
    let warm = [&first, &second].map(|ran| ran.accepted.as_ref().expect("accepted").warm);
    assert_eq!(warm, [false, true]);
    assert!(first.exited().kept_sandbox_id.is_empty(), "it has a name");

    let info = info(&stage).await;
    assert_eq!(
        (info.name.as_str(), info.state()),
        ("work", SessionState::Idle)
    );
    assert_eq!(
        (info.runtime.as_str(), info.engine.as_str()),
        ("python", "native")
    );
    assert_eq!(info.sandbox_id, sandbox(&first));
    assert!(!info.persist);
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_of_one_run_is_not_of_the_next() {
    let stage = Stage::new();
    let mut first = work("env A\nenv TOKEN\nwrite main.txt x");
    first.env.insert("A".to_owned(), "one".to_owned());
    first
        .secrets
        .insert("TOKEN".to_owned(), "s3cret-s3cret".to_owned());
    let first = run_as(stage.channel(ME), first).await;
    assert_eq!(first.text(), "A=one\nTOKEN=***\n");
    let second = run(&stage, "env A\nenv TOKEN\nout s3cret-s3cret").await;
    assert_eq!(second.text(), "A unset\nTOKEN unset\ns3cret-s3cret\n");

    // Stdin that nobody read is not the next one's, nor is a late signal.
    let mut third = work("out go\nsleep 50");
    third.stdin = true;
    let mut third = stage.start(third).await;
    third.accepted().await;
    third.say(v1::run_request::Message::Stdin(b"for nobody"[..].into()));
    let third = third.end().await;
    assert_eq!(third.text(), "go\n");
    let mut fourth = work("echo-stdin\nout end");
    fourth.stdin = true;
    let fourth = stage.start(fourth).await;
    fourth.say(v1::run_request::Message::Stdin(b"mine\n"[..].into()));
    fourth.say(v1::run_request::Message::CloseStdin(v1::CloseStdin {}));
    assert_eq!(fourth.end().await.text(), "mine\nend\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_for_a_program_that_is_gone_is_not_for_the_next() {
    let stage = Stage::new();
    for round in 0..20 {
        let mut run = stage.start(work("out a")).await;
        run.accepted().await;
        for _ in 0..=round {
            run.signal(15);
        }
        run.end().await;
        let next = super::run(&stage, "sleep 10\nout b").await;
        assert_eq!(next.text(), "b\n", "round {round}");
    }
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_program_replaces_the_one_before() {
    let stage = Stage::new();
    // The second is longer than one burst, the third has nothing in it.
    let long = format!("{}\nout long", "x".repeat(3 << 20));
    run(&stage, "out short").await;
    assert_eq!(run(&stage, &long).await.text(), "long\n");
    assert_eq!(run(&stage, "").await.text(), "");
    assert_eq!(run(&stage, "out short").await.text(), "short\n");
    end(stage, 1).await;
}

/// What cannot be written must not leave the last program to be run in its place.
#[tokio::test(start_paused = true)]
async fn a_program_without_room_does_not_run_the_one_before() {
    let stage = Stage::new();
    let mut first = work("out first");
    first.limits.get_or_insert_default().sandbox_bytes = 1 << 20;
    run_as(stage.channel(ME), first).await;
    let big = format!("out big\n{}", "x".repeat(2 << 20));
    let refused = stage.start(work(&big)).await.end().await;
    assert_eq!(refused.failure().1.kind, "no_space");
    assert_eq!(refused.text(), "");
    assert_eq!(run(&stage, "out after").await.text(), "after\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn names_and_callers_have_sessions_of_their_own() {
    let stage = Stage::new();
    let mut sandboxes = Vec::new();
    for (who, name) in [(ME, "work"), (ME, "play"), (OTHER, "work")] {
        let code = format!("write who {name}{}", who.0);
        let ran = run_as(stage.channel(who), inside(name, &code)).await;
        sandboxes.push(sandbox(&ran));
    }
    sandboxes.sort();
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), 3);
    for (who, name) in [(ME, "work"), (ME, "play"), (OTHER, "work")] {
        let ran = run_as(stage.channel(who), inside(name, "read who")).await;
        assert_eq!(ran.text(), format!("{name}{}\n", who.0));
    }
    assert_eq!(list(stage.channel(ME)).await.len(), 2);
    let theirs = list(stage.channel(OTHER)).await;
    assert_eq!(theirs.len(), 1);
    assert!(list(stage.channel(Principal(7))).await.is_empty());
    end(stage, 3).await;
}

/// A run outside of sessions has a sandbox that nobody was in.
#[tokio::test(start_paused = true)]
async fn a_plain_run_is_never_in_a_session() {
    let stage = Stage::new();
    let inside = run(&stage, "write notes x").await;
    let runs = (0..4).map(|_| stage.run("read notes"));
    for ran in join_all(runs).await {
        assert_eq!(ran.text(), "no notes\n");
        assert_ne!(sandbox(&ran), sandbox(&inside));
    }
    let spec = stage
        .native
        .spec_of(&id(&sandbox(&inside)))
        .expect("it lives");
    assert!(spec.lasting);
    end(stage, 1).await;
}

/// Nothing is begun for a run whose session cannot be made.
#[tokio::test(start_paused = true)]
async fn a_first_run_that_fails_leaves_no_session() {
    let stage = Stage::new();
    stage.native.plan(Step::Create, Fault::refuse());
    let failed = stage.start(work("out x")).await.end().await;
    assert_eq!(failed.failure().1.kind, "engine_refused");
    assert!(list(stage.channel(ME)).await.is_empty());
    assert_eq!(run(&stage, "out x").await.text(), "x\n");
    end(stage, 1).await;
}

/// A first run whose client goes at any step: there is a session, or nothing.
#[tokio::test(start_paused = true)]
async fn a_first_run_that_is_given_up_leaves_nothing_that_is_nobodys() {
    let (mut there, mut missing) = (0, 0);
    for number in 0..30 {
        let stage = Stage::with(config(|c| c.pool.clean = 0), |native, _| {
            native.plan_at(number, Fault::Delay(Duration::from_millis(20)));
        });
        let run = stage.start(work("write notes x\nsleep 20")).await;
        sleep(Duration::from_millis(11)).await;
        drop(run);
        // Less than any sweep takes to come.
        sleep(Duration::from_secs(1)).await;
        let listed = list(stage.channel(ME)).await.len();
        assert_eq!(stage.native.live(), listed, "{number}");
        match listed {
            0 => missing += 1,
            _ => there += 1,
        }
        run_as(stage.channel(ME), work("out x")).await;
        end(stage, 1).await;
    }
    assert!(there > 3 && missing > 3, "{there} {missing}");
}

/// What cannot be written down is not begun, and what is removed goes all the same.
#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_costs_no_session() {
    let stage = Stage::new();
    let ground = stage.ground();
    run_as(stage.channel(ME), inside("old", "write notes kept")).await;
    run_as(stage.channel(ME), inside("gone", "out x")).await;
    let kept = keeping(inside("kept", "write notes kept"));
    run_as(stage.channel(ME), kept).await;
    // Nothing can be written in its place.
    let block = ground.folder().join("sessions.new");
    std::fs::create_dir(&block).expect("made");
    let refused = stage.start(work("out x")).await.end().await;
    assert_eq!(refused.failure().1.kind, "no_space");
    let look = || inside("old", "read notes");
    assert_eq!(run_as(stage.channel(ME), look()).await.text(), "kept\n");
    for (name, keeps) in [("gone", false), ("kept", true)] {
        let removed = remove(stage.channel(ME), name, false).await;
        assert_eq!(!removed.expect("it goes").is_empty(), keeps);
    }
    assert_eq!(list(stage.channel(ME)).await.len(), 2);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        stage.native.live(),
        2,
        "the old one, and the one that was kept"
    );
    std::fs::remove_dir(&block).expect("free");
    // It is written as soon as that is possible.
    sleep(Duration::from_secs(40)).await;
    end(stage, 2).await;
    let next = Stage::after(&ground, Config::default());
    let mut names: Vec<_> = list(next.channel(ME))
        .await
        .into_iter()
        .map(|i| i.name)
        .collect();
    names.sort();
    assert_eq!(names, ["", "old"]);
    assert_eq!(run_as(next.channel(ME), look()).await.text(), "kept\n");
    end(next, 2).await;
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many() {
    let stage = Stage::with(config(|c| c.max_concurrent = 300), |_, _| {});
    // Nobody gets more than 64, and all together no more than 256.
    for (who, wanted, refused, message) in [
        (1, 66, 2, "you have 64 sessions"),
        (2, 64, 0, ""),
        (3, 64, 0, ""),
        (4, 63, 0, ""),
        (5, 3, 2, "there are 256 sessions"),
    ] {
        let channel = stage.channel(Principal(who));
        let runs = (0..wanted).map(|number| {
            let start = inside(&format!("s{number}"), "out x");
            let channel = channel.clone();
            async move { Run::start(channel, start).await.end().await }
        });
        let all = join_all(runs).await;
        let failed = all.iter().filter(|ran| matches!(ran.end, Some(Err(_))));
        let failed: Vec<_> = failed.map(|ran| ran.failure().1).collect();
        assert_eq!(failed.len(), refused, "{who}");
        for detail in failed {
            assert_eq!(detail.kind, "at_capacity");
            assert!(detail.message.contains(message), "{}", detail.message);
            assert!(detail.hint.contains("session rm"), "{}", detail.hint);
        }
    }
    end(stage, 256).await;
}

/// Of two first runs, one makes the session.
#[tokio::test(start_paused = true)]
async fn many_first_runs_share_one_session() {
    let stage = Stage::new();
    let runs = (0..8).map(|_| run(&stage, "out x"));
    let mut sandboxes: Vec<_> = join_all(runs).await.iter().map(sandbox).collect();
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), 1);
    assert_eq!(stage.native.created_total(), 1, "the pool has made none");
    end(stage, 1).await;
}
