//! The daemon's own calls, and its end.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_core::{config::EngineChoice, ids::Principal, sandbox::EngineKind};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{
    self, Verdict, admin_service_client::AdminServiceClient,
    image_service_client::ImageServiceClient, setup_event::Event,
};
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::stage::{ME, Stage, config, limited, python};

#[tokio::test(start_paused = true)]
async fn status_shows_what_is_there() {
    let stage = Stage::new();
    let mut run = stage.start(python("hang")).await;
    run.accepted().await;
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let status = admin.status(v1::StatusRequest {}).await.expect("an answer");
    let status = status.into_inner();
    assert_eq!((status.runs_in_flight, status.runs_queued), (1, 0));
    assert_eq!((status.runs_total, status.max_concurrent), (1, 10));
    assert_eq!(status.pid, std::process::id());
    assert!(status.rss_bytes > 1 << 20);
    let native = status
        .engines
        .iter()
        .find(|e| e.engine() == v1::Engine::Native);
    let native = native.expect("it is listed");
    assert!(native.healthy && native.chosen);
    let docker = status
        .engines
        .iter()
        .find(|e| e.engine() == v1::Engine::Docker);
    assert!(docker.is_some_and(|docker| !docker.healthy && !docker.chosen));
    drop(run);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn doctor_asks_every_engine() {
    let stage = Stage::new();
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let checks = admin.doctor(v1::DoctorRequest {}).await.expect("an answer");
    let checks = checks.into_inner().checks;
    let named = |name: &str| checks.iter().filter(|check| check.name == name).count();
    assert_eq!(named("fake engine"), 2);
    assert_eq!(named("state folder"), 1);
    assert_eq!(named("init"), 1);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn warm_sandboxes_are_made_ahead_and_used() {
    let stage = Stage::new();
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let request = v1::WarmRequest {
        runtime: v1::Runtime::Python.into(),
        engine: v1::Engine::Native.into(),
        count: 3,
    };
    let warm = admin.warm(request).await.expect("an answer");
    assert!(warm.into_inner().warm >= 3);
    let ran = stage.run("out x").await;
    assert!(ran.accepted.expect("a sandbox").warm);
    let wrong = v1::WarmRequest {
        runtime: 0,
        ..Default::default()
    };
    let status = admin.warm(wrong).await.expect_err("no runtime");
    assert_eq!(status.code(), Code::InvalidArgument);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn setup_builds_with_progress_and_says_when_nothing_changed() {
    let stage = Stage::new();
    let mut images = ImageServiceClient::new(stage.channel(ME));
    for force in [true, false] {
        let request = v1::SetupRequest {
            force,
            runtimes: Vec::new(),
            ..Default::default()
        };
        let events = images.setup(request).await.expect("a stream");
        let mut events = events.into_inner();
        let (mut lines, mut ready, mut done) = (0, 0, None);
        while let Some(event) = events.message().await.expect("no failure") {
            assert!(done.is_none(), "something came after the end");
            match event.event.expect("a kind") {
                Event::Line(_) => lines += 1,
                Event::Image(image) => {
                    assert_eq!(image.built, force);
                    ready += 1;
                }
                Event::Done(totals) => done = Some((totals.built, totals.unchanged)),
            }
        }
        assert_eq!((lines, ready), (5, 5));
        assert_eq!(done, Some(if force { (5, 0) } else { (0, 5) }));
    }
    stage.docker.plan(Step::BuildImage, Fault::refuse());
    let mut events = images
        .setup(v1::SetupRequest::default())
        .await
        .expect("a stream");
    let status = events.get_mut().message().await.expect_err("it failed");
    assert_eq!(status.code(), Code::Internal);
    let listed = images
        .list_images(v1::ListImagesRequest {})
        .await
        .expect("an answer");
    assert_eq!(listed.into_inner().images.len(), 5);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reflection_names_every_service() {
    let stage = Stage::new();
    let mut client = ServerReflectionClient::new(stage.channel(ME));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(tokio_stream::once(request));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list of services: {answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|it| it.name.as_str()).collect();
    for name in ["RunService", "AdminService", "ImageService"] {
        let name = format!("isol8.v1.{name}");
        assert!(names.contains(&name.as_str()), "{name} in {names:?}");
    }
    stage.stop().await;
}

async fn health(stage: &Stage, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut client = HealthClient::new(stage.channel(ME));
    let answer = client.check(request).await.expect("an answer");
    answer.into_inner().status()
}

#[tokio::test(start_paused = true)]
async fn health_follows_the_engine_that_serves() {
    let only_native = config(|c| c.engine = EngineChoice::Only(EngineKind::Native));
    let stage = Stage::with(only_native, |native, _| {
        native.plan_always(Step::Health, Fault::refuse());
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for service in ["", "isol8.v1.RunService"] {
        assert_eq!(health(&stage, service).await, ServingStatus::NotServing);
    }
    stage.native.mend();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(health(&stage, "").await, ServingStatus::Serving);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn everybody_hears_the_end_of_a_daemon_under_load() {
    let stage = Stage::with(config(|c| c.max_concurrent = 4), |_, _| {});
    let mut runs = Vec::new();
    for code in ["hang", "deaf", "sleep 3000\nout done", "flood 100000000"] {
        let start = limited(code, |limits| {
            limits.timeout_ms = 600_000;
            limits.max_output_bytes = u64::MAX;
        });
        let mut run = stage.start(start).await;
        run.accepted().await;
        runs.push(run);
    }
    let mut queued = Vec::new();
    for _ in 0..3 {
        queued.push(stage.start(python("out never")).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    stage.daemon.stop();
    for run in queued {
        let ran = run.end().await;
        let (status, detail) = ran.failure();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(detail.kind, "shutting_down");
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    let ended = join_all(runs.into_iter().map(super::stage::Run::end)).await;
    let verdicts: Vec<_> = ended.iter().map(super::stage::Ran::verdict).collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Cancelled,
            Verdict::Cancelled,
            Verdict::Exited,
            Verdict::Exited
        ]
    );
    assert!(began.elapsed() < Duration::from_secs(12));
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_skips_the_wait() {
    let stage = Stage::new();
    let start = limited("hang", |limits| limits.timeout_ms = 600_000);
    let mut run = stage.start(start).await;
    run.accepted().await;
    let began = Instant::now();
    stage.daemon.stop();
    stage.daemon.stop();
    assert_eq!(run.end().await.verdict(), Verdict::Cancelled);
    stage.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_may_ask_the_daemon_to_end() {
    let stage = Stage::new();
    // Somebody else who may run programs may not.
    let other = Principal(rustix::process::geteuid().as_raw() + 1);
    let mut other = AdminServiceClient::new(stage.channel(other));
    let refused = other.shutdown(v1::ShutdownRequest {}).await;
    let code = refused.expect_err("it is not theirs").code();
    assert_eq!(code, Code::PermissionDenied);
    // An idle connection does not hold it.
    let channel = stage.channel(Principal(0));
    let mut admin = AdminServiceClient::new(channel.clone());
    admin
        .shutdown(v1::ShutdownRequest {})
        .await
        .expect("an answer");
    let began = Instant::now();
    let native = stage.native.clone();
    stage.ended().await;
    assert_eq!(native.live(), 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(channel);
}
