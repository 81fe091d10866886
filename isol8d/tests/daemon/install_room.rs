//! Installed packages that go to make room for others.

use std::time::Duration;

use isol8_core::layer::LayerId;
use isol8_proto::v1::{self, Phase, admin_service_client::AdminServiceClient};

use crate::stage::{ME, Stage, config, python};

fn installing(package: &str) -> v1::Start {
    v1::Start {
        network: v1::NetworkMode::None.into(),
        install: vec![package.to_owned()],
        ..python("out ran")
    }
}

async fn install(stage: &Stage, package: &str) -> Vec<Phase> {
    let ran = stage.start(installing(package)).await.end().await;
    assert_eq!(ran.text(), "ran\n");
    ran.phases
}

/// What a layer of these tests takes.
async fn bytes_of_one() -> u64 {
    let stage = Stage::new();
    install(&stage, "one").await;
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let status = admin.status(v1::StatusRequest {}).await;
    let cache = status.expect("an answer").into_inner().install_cache;
    stage.stop().await;
    cache.expect("there is a cache").bytes
}

/// Warm sandboxes of each layer.
fn warm(stage: &Stage) -> Vec<(LayerId, u32)> {
    let status = stage.daemon.pool().status();
    let keys = status.keys.into_iter();
    keys.filter_map(|key| Some((key.key.layer?, key.warm)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn warm_sandboxes_do_not_keep_packages_that_nobody_uses() {
    let room = bytes_of_one().await * 3 / 2;
    let stage = Stage::with_room(config(|config| config.pool.clean = 1), room, |_, _| {});
    install(&stage, "one").await;
    let [first] = &stage.layers()[..] else {
        panic!("{:?}", stage.layers());
    };
    let first = LayerId::parse(first).expect("a layer");
    stage
        .wait_for("one is warm", Duration::from_secs(5), |stage| {
            warm(stage) == [(first.clone(), 1)]
        })
        .await;
    assert_eq!(install(&stage, "two").await, [Phase::Install, Phase::Code]);
    stage
        .wait_for(
            "only the second is there",
            Duration::from_secs(5),
            |stage| stage.layers().len() == 1 && stage.layers() != [first.as_str()],
        )
        .await;
    stage
        .wait_for("only the second is warm", Duration::from_secs(5), |stage| {
            let [(layer, 1)] = &warm(stage)[..] else {
                return false;
            };
            *layer != first
        })
        .await;
    // The first is as good as new.
    assert_eq!(install(&stage, "one").await, [Phase::Install, Phase::Code]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn packages_of_a_run_do_not_go_under_it() {
    let room = bytes_of_one().await * 3 / 2;
    let stage = Stage::with_room(config(|_| {}), room, |_, _| {});
    let start = v1::Start {
        code: b"sleep 100000".to_vec().into(),
        ..installing("one")
    };
    let mut run = stage.start(start).await;
    run.accepted().await;
    let ran = stage.start(installing("two")).await.end().await;
    let (_, detail) = ran.failure();
    assert_eq!(detail.kind, "no_space", "{detail:?}");
    assert!(detail.hint.contains("--no-install-cache"), "{detail:?}");
    drop(run);
    stage.stop().await;
}
