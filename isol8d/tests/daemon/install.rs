//! Packages before the program: built once, kept whole or not at all.

use std::time::Duration;

use isol8_core::ids::SandboxId;
use isol8_engine::fake::{FakeEngine, Fault, Step};
use isol8_proto::v1::{self, Phase, Verdict, admin_service_client::AdminServiceClient};
use tokio::time::{sleep, timeout};

use crate::stage::{ME, Ran, Stage, config, python};

/// What a run of the installer is known by.
const PIP: &str = "-m pip install";

/// A run that installs. In these tests the network has no filter: there is no
/// process to carry it.
fn installing(code: &str, packages: &[&str]) -> v1::Start {
    v1::Start {
        network: v1::NetworkMode::None.into(),
        install: packages.iter().map(|name| (*name).to_owned()).collect(),
        ..python(code)
    }
}

fn alone() -> Stage {
    // Sandboxes are counted: the pool must not make any in between.
    Stage::with(config(|config| config.pool.clean = 0), |_, _| {})
}

fn installs(engine: &FakeEngine) -> usize {
    let errands = engine.errands();
    errands.iter().filter(|line| line.contains(PIP)).count()
}

#[track_caller]
fn failed(ran: &Ran, kind: &str) -> v1::ErrorDetail {
    let (_, detail) = ran.failure();
    assert_eq!(detail.kind, kind, "{detail:?}");
    detail
}

async fn status(stage: &Stage) -> v1::InstallCache {
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let status = admin.status(v1::StatusRequest {}).await;
    let status = status.expect("an answer").into_inner();
    status.install_cache.expect("there is a cache")
}

#[tokio::test(start_paused = true)]
async fn the_second_run_finds_what_the_first_installed() {
    let stage = alone();
    stage.native.errand(PIP, "out Collecting six\nerr done");
    let first = stage
        .start(installing("out ran", &["six", "attrs"]))
        .await
        .end()
        .await;
    assert_eq!(first.text(), "ran\n");
    assert_eq!(first.phases, [Phase::Install, Phase::Code]);
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(told, "Collecting six\ndone\n");
    assert_eq!(stage.layers().len(), 1, "{:?}", stage.layers());
    // Order and repeats make no other set.
    let packages = ["attrs", "six", "attrs"];
    let second = stage
        .start(installing("out again", &packages))
        .await
        .end()
        .await;
    assert_eq!(second.text(), "again\n");
    assert_eq!(second.phases, [Phase::Code]);
    assert!(second.stderr.is_empty());
    assert_eq!(installs(&stage.native), 1);
    let other = stage
        .start(installing("out other", &["six"]))
        .await
        .end()
        .await;
    assert_eq!(other.phases, [Phase::Install, Phase::Code]);
    let cache = status(&stage).await;
    assert_eq!((cache.layers, cache.hits, cache.misses), (2, 1, 2));
    assert!(cache.bytes > 0 && cache.limit_bytes == 5 << 30);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_with_a_layer_is_made_with_it() {
    let stage = alone();
    let mut run = stage.start(installing("sleep 1000", &["six"])).await;
    let accepted = run.accepted().await;
    let id = SandboxId::parse(&accepted.sandbox_id).expect("an id");
    let spec = stage.native.spec_of(&id).expect("it lives");
    let layer = spec.key.layer.expect("it has one");
    assert_eq!(stage.layers(), [layer.as_str()]);
    assert_eq!(run.end().await.exited().code, Some(0));
    assert_eq!(stage.native.created_total(), 2, "one built, one ran");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_runs_that_want_the_same_build_it_once() {
    let stage = alone();
    stage.native.errand(PIP, "out begun\nsleep 500");
    let one = stage.start(installing("out one", &["six"])).await;
    sleep(Duration::from_millis(100)).await;
    let two = stage.start(installing("out two", &["six"])).await;
    let (one, two) = tokio::join!(one.end(), two.end());
    assert_eq!((one.text(), two.text()), ("one\n".into(), "two\n".into()));
    assert_eq!(installs(&stage.native), 1);
    assert!(one.notices.is_empty(), "{:?}", one.notices);
    assert!(two.notices[0].contains("another run"), "{:?}", two.notices);
    // Who comes later hears it from the beginning.
    assert_eq!(
        (&one.stderr, &two.stderr),
        (&b"begun\n".to_vec(), &b"begun\n".to_vec())
    );
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_leaves_nothing_and_the_next_run_tries_again() {
    let stage = alone();
    stage
        .native
        .errand(PIP, "err looking\nerr no such package\nexit 1");
    for _ in 0..2 {
        let ran = stage
            .start(installing("out x", &["nosuch"]))
            .await
            .end()
            .await;
        let detail = failed(&ran, "install_failed");
        assert!(detail.message.contains("nosuch"), "{detail:?}");
        assert_eq!(detail.causes, ["looking", "no such package"]);
        assert!(detail.hint.contains("--net none"), "{detail:?}");
        assert!(stage.layers().is_empty(), "{:?}", stage.layers());
        assert_eq!(stage.native.live(), 0);
    }
    assert_eq!(installs(&stage.native), 2);
    stage.native.errand(PIP, "out fine");
    let ran = stage
        .start(installing("out x", &["nosuch"]))
        .await
        .end()
        .await;
    assert_eq!(ran.text(), "x\n");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_ended_the_installer_is_what_the_hint_is_about() {
    let stage = alone();
    stage.native.errand(PIP, "oom");
    let ran = stage.start(installing("out x", &["big"])).await.end().await;
    assert!(failed(&ran, "install_failed").hint.contains("--memory"));
    stage.native.errand("import pip", "exit 1");
    let ran = stage.start(installing("out x", &["big"])).await.end().await;
    assert!(failed(&ran, "install_failed").hint.contains("pip"));
    assert!(stage.layers().is_empty());
    stage.stop().await;
}

/// What an earlier run left in a session could tell an installer where packages
/// come from, for everybody.
#[tokio::test(start_paused = true)]
async fn no_installer_works_in_a_sandbox_that_lasts() {
    let stage = alone();
    let anew = |start: v1::Start| v1::Start {
        no_install_cache: true,
        ..start
    };
    let inside = || v1::Start {
        session: Some("work".to_owned()),
        network: v1::NetworkMode::Host.into(),
        ..installing("out x", &["six"])
    };
    let kept = v1::Start {
        persist: true,
        ..installing("out x", &["six"])
    };
    let refused = async |start: v1::Start| {
        let ran = stage.start(anew(start)).await.end().await;
        let detail = failed(&ran, "invalid_request");
        assert!(detail.hint.contains("--no-install-cache"), "{detail:?}");
    };
    refused(kept).await;
    refused(inside()).await;
    // Nor in one that is there.
    let made = v1::Start {
        install: Vec::new(),
        ..inside()
    };
    assert_eq!(stage.start(made).await.end().await.text(), "x\n");
    refused(inside()).await;
    assert_eq!(installs(&stage.native), 0);
    assert_eq!(stage.start(inside()).await.end().await.text(), "x\n");
    assert_eq!(installs(&stage.native), 1);
    refused(inside()).await;
    stage.daemon.stop();
    stage.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_installation() {
    for no_install_cache in [false, true] {
        let stage = alone();
        stage.native.errand(PIP, "sleep 20000");
        let start = v1::Start {
            no_install_cache,
            ..installing("out x", &["six"])
        };
        let run = stage.start(start).await;
        stage
            .wait_for("it installs", Duration::from_secs(5), |stage| {
                installs(&stage.native) == 1
            })
            .await;
        drop(run);
        stage
            .wait_for("nothing is left", Duration::from_secs(2), |stage| {
                stage.native.live() == 0 && stage.layers().is_empty()
            })
            .await;
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_run_covers_its_installation() {
    for no_install_cache in [false, true] {
        let stage = alone();
        stage.native.errand(PIP, "out begun\nsleep 20000");
        let mut start = v1::Start {
            no_install_cache,
            ..installing("out x", &["six"])
        };
        start.limits.get_or_insert_default().timeout_ms = 1000;
        let ran = stage.start(start).await.end().await;
        assert_eq!(ran.verdict(), Verdict::TimedOut);
        let reason = &ran.exited().reason;
        assert!(reason.contains("while packages were installed"), "{reason}");
        assert_eq!(ran.stderr, b"begun\n");
        stage
            .wait_for("nothing is left", Duration::from_secs(2), |stage| {
                stage.native.live() == 0 && stage.layers().is_empty()
            })
            .await;
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_build_outlives_a_run_while_another_waits() {
    let stage = alone();
    stage.native.errand(PIP, "sleep 3000");
    let mut short = installing("out short", &["six"]);
    short.limits.get_or_insert_default().timeout_ms = 1000;
    let short = stage.start(short).await;
    sleep(Duration::from_millis(10)).await;
    let long = stage.start(installing("out long", &["six"])).await;
    let (short, long) = tokio::join!(short.end(), long.end());
    assert_eq!(short.verdict(), Verdict::TimedOut);
    assert_eq!(long.text(), "long\n");
    assert_eq!(installs(&stage.native), 1);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_other_bounds_tries_with_these() {
    let stage = alone();
    stage.native.errand(PIP, "sleep 1000\nexit 1");
    let mut small = installing("out x", &["six"]);
    small.limits.get_or_insert_default().memory_bytes = 64 << 20;
    let small = stage.start(small).await;
    sleep(Duration::from_millis(10)).await;
    let usual = stage.start(installing("out usual", &["six"])).await;
    let same = stage.start(installing("out same", &["six"])).await;
    let (small, usual, same) = tokio::join!(small.end(), usual.end(), same.end());
    for ran in [&small, &usual, &same] {
        failed(ran, "install_failed");
    }
    assert_eq!(installs(&stage.native), 2, "once with each");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_installer_knows_nothing_of_the_run() {
    for no_install_cache in [false, true] {
        let stage = alone();
        stage
            .native
            .errand(PIP, "env KEY\nenv MINE\nenv HOME\nerr tops3cret");
        let mut start = v1::Start {
            no_install_cache,
            ..installing("env KEY\nenv MINE", &["six"])
        };
        start.secrets.insert("KEY".into(), "tops3cret".into());
        start.env.insert("MINE".into(), "mine".into());
        let ran = stage.start(start).await.end().await;
        assert_eq!(ran.text(), "KEY=***\nMINE=mine\n");
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(told, "KEY unset\nMINE unset\nHOME=/sandbox\n***\n");
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_cache_the_runs_own_sandbox_has_them() {
    let stage = alone();
    for _ in 0..2 {
        let start = v1::Start {
            no_install_cache: true,
            ..installing("about", &["six"])
        };
        let before = stage.native.created_total();
        let ran = stage.start(start).await.end().await;
        assert_eq!(ran.phases, [Phase::Install, Phase::Code]);
        // What is parked has looked for packages before.
        assert!(ran.text().contains("parked=false"), "{}", ran.text());
        assert_eq!(stage.native.created_total() - before, 1);
    }
    assert_eq!(installs(&stage.native), 2);
    assert!(stage.layers().is_empty());
    assert_eq!(status(&stage).await.misses, 0);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_filter_there_is_no_filtered_network() {
    let stage = alone();
    let start = v1::Start {
        network: v1::NetworkMode::Filtered.into(),
        ..installing("out x", &["six"])
    };
    let ran = stage.start(start.clone()).await.end().await;
    failed(&ran, "egress_unavailable");
    assert_eq!(installs(&stage.native), 0);
    let plain = v1::Start {
        install: Vec::new(),
        ..start
    };
    let ran = stage.start(plain).await.end().await;
    failed(&ran, "egress_unavailable");
    assert!(stage.layers().is_empty());
    stage.stop().await;
}

/// Lets every step of a run that installs go wrong once.
async fn walk(no_install_cache: bool, fault: impl Fn() -> Fault) {
    let start = || {
        let mut start = v1::Start {
            no_install_cache,
            ..installing("out ran", &["six"])
        };
        start.limits.get_or_insert_default().timeout_ms = 5000;
        start
    };
    let steps = {
        let stage = alone();
        assert_eq!(stage.start(start()).await.end().await.text(), "ran\n");
        let native = stage.native.clone();
        stage.stop().await;
        native.steps().len()
    };
    for number in 0..steps {
        let stage = alone();
        stage.native.plan_at(number, fault());
        let run = stage.start(start());
        let ran = timeout(Duration::from_secs(30), async { run.await.end().await }).await;
        let ran = ran.unwrap_or_else(|_| panic!("step {number}: no end in time"));
        assert!(ran.end.is_some(), "step {number}");
        stage.native.mend();
        let next = stage.start(start()).await.end().await;
        assert_eq!(next.text(), "ran\n", "step {number}: {:?}", next.end);
        let layers = stage.layers();
        let whole = layers.iter().all(|name| !name.starts_with("tmp-"));
        assert!(whole, "step {number}: {layers:?}");
        assert_eq!(
            layers.len(),
            usize::from(!no_install_cache),
            "step {number}"
        );
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_leaves_nothing() {
    for no_install_cache in [false, true] {
        walk(no_install_cache, Fault::refuse).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_full_sandbox_is_said_to_have_no_room() {
    let full = "err mkdir: cannot create directory 'x': No space left on device\nexit 1";
    for (script, kind) in [(full, "no_space"), ("err no\nexit 1", "install_failed")] {
        let stage = alone();
        stage.native.errand("mkdir", script);
        let ran = stage.start(installing("out x", &["six"])).await.end().await;
        let detail = failed(&ran, kind);
        assert_eq!(detail.hint.contains("--sandbox-size"), kind == "no_space");
        assert_eq!(detail.causes.len(), 1, "what it said: {detail:?}");
        stage.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_at_any_step_leaves_nothing() {
    // The engine's own bugs: in the installation's sandbox, then in the run's.
    let stage = alone();
    let ran = stage.start(installing("out x", &["six"])).await.end().await;
    ran.exited();
    let steps = stage.native.steps();
    stage.stop().await;
    let numbers = steps.iter().enumerate();
    let creates = numbers.filter(|(_, step)| **step == Step::Create);
    let creates: Vec<usize> = creates.map(|(number, _)| number).collect();
    assert_eq!(creates.len(), 2, "{steps:?}");
    for (layers, number) in creates.into_iter().enumerate() {
        let stage = alone();
        stage.native.plan_at(number, Fault::Panic);
        let ran = stage.start(installing("out x", &["six"])).await.end().await;
        failed(&ran, "internal");
        // What was whole before stays.
        assert_eq!(stage.layers().len(), layers);
        stage.native.mend();
        let ran = stage.start(installing("out x", &["six"])).await.end().await;
        assert_eq!(ran.text(), "x\n");
        stage.stop().await;
    }
}
