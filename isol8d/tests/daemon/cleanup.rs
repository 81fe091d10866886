//! What a cleanup takes, what it leaves, and what it says of both.

use std::time::Duration;

use isol8_core::{
    config::Config,
    failure::{Failure, FailureKind},
    ids::{DaemonId, Principal, SandboxId},
};
use isol8_engine::{
    Engine,
    fake::{Fault, Step},
};
use isol8_proto::v1::{
    self, CleanupItem, CleanupKind, CleanupRequest, admin_service_client::AdminServiceClient,
    session_service_client::SessionServiceClient,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::{
    images::build,
    stage::{ME, Run, Stage, python},
};

const ROOT: Principal = Principal(0);

/// Neither root nor who runs these tests.
fn other() -> Principal {
    Principal(rustix::process::geteuid().as_raw().max(1) + 1)
}

async fn try_clean(
    stage: &Stage,
    who: Principal,
    request: CleanupRequest,
) -> Result<Vec<CleanupItem>, Status> {
    let mut admin = AdminServiceClient::new(stage.channel(who));
    let response = admin.cleanup(request).await?;
    Ok(response.into_inner().items)
}

async fn clean(stage: &Stage, who: Principal) -> Vec<CleanupItem> {
    let cleaned = try_clean(stage, who, CleanupRequest::default()).await;
    cleaned.expect("it is allowed")
}

async fn look(stage: &Stage, who: Principal) -> Vec<CleanupItem> {
    let request = CleanupRequest {
        dry_run: true,
        ..CleanupRequest::default()
    };
    try_clean(stage, who, request).await.expect("it is allowed")
}

async fn clean_images(stage: &Stage, dry_run: bool) -> Vec<CleanupItem> {
    let request = CleanupRequest {
        dry_run,
        images: true,
    };
    let items = try_clean(stage, ROOT, request).await.expect("allowed");
    let is_image = |item: &CleanupItem| item.kind() == CleanupKind::Image;
    items.into_iter().filter(is_image).collect()
}

fn of_kind(items: &[CleanupItem], kind: CleanupKind) -> usize {
    items.iter().filter(|item| item.kind() == kind).count()
}

fn sorted(mut items: Vec<CleanupItem>) -> Vec<CleanupItem> {
    items.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    items
}

/// So many warm ones, when the daemon looks only once a minute for what is nobody's.
async fn warm(stage: &Stage, count: u32) {
    sleep(Duration::from_secs(190)).await;
    let request = v1::WarmRequest {
        runtime: v1::Runtime::Node.into(),
        engine: v1::Engine::Native.into(),
        count,
    };
    let mut admin = AdminServiceClient::new(stage.channel(ME));
    let warmed = admin.warm(request).await.expect("they are made");
    assert_eq!(warmed.into_inner().warm, count);
}

/// A stage, and the id of its daemon.
fn stage_of() -> (Stage, DaemonId) {
    let mut daemon = None;
    let stage = Stage::with(Config::default(), |_, id| daemon = Some(id.clone()));
    (stage, daemon.expect("it has an id"))
}

/// A sandbox that nobody answers for, put there after the daemon has looked.
async fn stranger(stage: &Stage, daemon: &DaemonId) -> SandboxId {
    sleep(Duration::from_secs(1)).await;
    let id = SandboxId::random();
    stage.native.add_stranger(id.clone(), daemon.clone());
    id
}

fn in_session(code: &str, name: &str) -> v1::Start {
    v1::Start {
        session: Some(name.to_owned()),
        ..python(code)
    }
}

fn keeping(code: &str) -> v1::Start {
    v1::Start {
        persist: true,
        ..python(code)
    }
}

async fn run_as(stage: &Stage, who: Principal, start: v1::Start) -> v1::Exited {
    let run = Run::start(stage.channel(who), start).await;
    run.end().await.exited().clone()
}

#[tokio::test(start_paused = true)]
async fn looking_removes_nothing_and_shows_what_would_go() {
    let (stage, daemon) = stage_of();
    warm(&stage, 2).await;
    let stranger = stranger(&stage, &daemon).await;
    let before = stage.native.live_ids();
    let shown = look(&stage, ROOT).await;
    assert_eq!(stage.native.live_ids(), before);
    assert_eq!(of_kind(&shown, CleanupKind::Warm), 2);
    let left: Vec<_> = shown
        .iter()
        .filter(|item| item.kind() == CleanupKind::Left)
        .collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, stranger.as_str());
    assert_eq!(left[0].engine(), v1::Engine::Native);
    assert!(shown.iter().all(|item| item.error.is_empty()));

    let removed = clean(&stage, ROOT).await;
    assert_eq!(sorted(removed), sorted(shown));
    assert_eq!(stage.native.live(), 0);
    assert_eq!(clean(&stage, ROOT).await, [], "there is nothing more");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn runs_go_on_and_come() {
    let stage = Stage::new();
    warm(&stage, 1).await;
    let mut going = stage.start(python("out begun\nsignal-wait\nexit 7")).await;
    going.accepted().await;
    // A removal takes its time, and a run comes meanwhile.
    let delay = Duration::from_secs(3);
    stage.native.plan_always(Step::Destroy, Fault::Delay(delay));
    let began = Instant::now();
    let (removed, ran) = tokio::join!(clean(&stage, ROOT), async {
        sleep(Duration::from_secs(1)).await;
        let ran = stage.run("out came").await;
        (ran, began.elapsed())
    });
    let (ran, after) = ran;
    assert_eq!(ran.text(), "came\n");
    assert!(after < Duration::from_secs(2), "it waited: {after:?}");
    assert!(removed.iter().all(|item| item.error.is_empty()));
    stage.native.mend();
    going.signal(2);
    let ended = going.end().await;
    assert_eq!(ended.exited().code, Some(7), "{ended:?}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_again_until_somebody_runs() {
    let stage = Stage::new();
    stage.run("out first").await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.native.live(), 1, "the next one is ready");
    assert_eq!(of_kind(&clean(&stage, ROOT).await, CleanupKind::Warm), 1);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(stage.native.live(), 0);
    assert_eq!(stage.run("out second").await.text(), "second\n");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.native.live(), 1);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn others_take_only_what_is_theirs() {
    let (stage, daemon) = stage_of();
    warm(&stage, 1).await;
    stranger(&stage, &daemon).await;
    let before = stage.native.live_ids();
    assert_eq!(look(&stage, other()).await, []);
    assert_eq!(clean(&stage, other()).await, []);
    for dry_run in [false, true] {
        let request = CleanupRequest {
            dry_run,
            images: true,
        };
        let refused = try_clean(&stage, other(), request).await;
        let refused = refused.expect_err("they are not theirs");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(stage.native.live_ids(), before);
    // Who the daemon belongs to is as good as root.
    let own = Principal(rustix::process::geteuid().as_raw());
    assert_eq!(clean(&stage, own).await.len(), 2);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_removed_says_why() {
    let (stage, daemon) = stage_of();
    warm(&stage, 2).await;
    stranger(&stage, &daemon).await;
    stage.native.plan(Step::Destroy, Fault::refuse());
    let removed = clean(&stage, ROOT).await;
    let failed: Vec<_> = removed
        .iter()
        .filter(|item| !item.error.is_empty())
        .collect();
    assert_eq!((removed.len(), failed.len()), (3, 1));
    assert!(failed[0].error.contains("scripted to fail"));
    assert_eq!(failed[0].kind(), CleanupKind::Warm);
    let id = SandboxId::parse(&failed[0].id).expect("an id");
    assert_eq!(stage.native.live_ids(), [id]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_gone_by_itself_is_not_counted() {
    let (stage, daemon) = stage_of();
    warm(&stage, 2).await;
    let stranger = stranger(&stage, &daemon).await;
    assert_eq!(look(&stage, ROOT).await.len(), 3);
    stage.native.destroy(&stranger).await.expect("it works");
    let run = v1::Start {
        runtime: v1::Runtime::Node.into(),
        ..python("signal-wait")
    };
    let mut run = stage.start(run).await;
    assert!(run.accepted().await.warm);
    let removed = clean(&stage, ROOT).await;
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].kind(), CleanupKind::Warm);
    run.signal(15);
    run.end().await;
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_at_once_count_everything_once() {
    let (stage, daemon) = stage_of();
    warm(&stage, 3).await;
    for _ in 0..5 {
        stranger(&stage, &daemon).await;
    }
    for name in ["a", "b"] {
        run_as(&stage, ME, in_session("out x", name)).await;
    }
    let shown = look(&stage, ROOT).await;
    let there = stage.native.live();
    assert_eq!(shown.len(), there);
    let delay = Duration::from_secs(1);
    stage.native.plan_always(Step::Destroy, Fault::Delay(delay));
    let (first, second) = tokio::join!(clean(&stage, ROOT), clean(&stage, ROOT));
    let both: Vec<_> = first.into_iter().chain(second).collect();
    assert_eq!(sorted(both), sorted(shown));
    assert_eq!(stage.native.live(), 0);
    stage.native.mend();
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_be_looked_at_is_told_unless_there_is_none() {
    let (stage, daemon) = stage_of();
    warm(&stage, 1).await;
    stranger(&stage, &daemon).await;
    for dry_run in [true, false] {
        stage.docker.plan(Step::List, Fault::refuse());
        let request = CleanupRequest {
            dry_run,
            images: false,
        };
        let items = try_clean(&stage, ROOT, request).await.expect("allowed");
        let failed: Vec<_> = items.iter().filter(|item| !item.error.is_empty()).collect();
        assert_eq!((items.len(), failed.len()), (3, 1), "{items:?}");
        assert_eq!(failed[0].engine(), v1::Engine::Docker);
        assert_eq!(failed[0].id, "");
    }
    assert_eq!(stage.native.live(), 0);
    let away = Failure::new(FailureKind::EngineUnreachable, "nobody is there");
    stage
        .docker
        .plan_always(Step::List, Fault::Fail(away.clone()));
    assert_eq!(clean(&stage, ROOT).await, []);
    stage.docker.plan_always(Step::Images, Fault::Fail(away));
    let images = clean_images(&stage, false).await;
    assert_eq!(images.len(), 1);
    assert!(images[0].error.contains("nobody is there"));
    stage.docker.mend();
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn images_go_unless_something_uses_them() {
    let stage = Stage::new();
    let custom = build(&stage, v1::Runtime::Python, &["six"]).await.remove(0);
    let start = v1::Start {
        engine: v1::Engine::Docker.into(),
        network: v1::NetworkMode::None.into(),
        image: custom.clone(),
        ..python("signal-wait")
    };
    let mut run = stage.start(start).await;
    run.accepted().await;
    let mut shown = clean_images(&stage, true).await;
    assert_eq!(shown.len(), 6);
    assert_eq!(shown[0].id, custom, "before what it is built on");
    assert!(shown.iter().all(|item| item.engine() == v1::Engine::Docker));

    let removed = clean_images(&stage, false).await;
    assert!(removed[0].error.contains("is in use"), "{:?}", removed[0]);
    shown[0].error.clone_from(&removed[0].error);
    assert_eq!(removed, shown);
    run.signal(15);
    run.end().await;
    stage
        .wait_for("the end of its sandbox", Duration::from_secs(5), |stage| {
            stage.docker.live() == 0
        })
        .await;
    let removed = clean_images(&stage, false).await;
    assert_eq!(removed.len(), 1);
    assert_eq!(
        (removed[0].id.as_str(), removed[0].error.as_str()),
        (&*custom, "")
    );
    assert_eq!(clean_images(&stage, false).await, []);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_at_once_count_every_image_once() {
    let stage = Stage::new();
    let delay = Duration::from_secs(1);
    stage
        .docker
        .plan_always(Step::RemoveImage, Fault::Delay(delay));
    let (first, second) = tokio::join!(clean_images(&stage, false), clean_images(&stage, false));
    assert_eq!(first.len() + second.len(), 5);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_and_kept_sandboxes_go_unless_something_runs_in_them() {
    let stage = Stage::new();
    let (mine, theirs) = (Principal(other().0 + 1), other());
    run_as(&stage, mine, in_session("out x", "idle")).await;
    run_as(&stage, theirs, in_session("out x", "theirs")).await;
    let kept = run_as(&stage, mine, keeping("out x")).await.kept_sandbox_id;
    let busy = in_session("signal-wait\nexit 3", "busy");
    let mut busy = Run::start(stage.channel(mine), busy).await;
    busy.accepted().await;

    let of_mine = look(&stage, mine).await;
    let shown: Vec<_> = of_mine
        .iter()
        .map(|item| (item.kind(), item.name.as_str()))
        .collect();
    let (session, without_name) = (CleanupKind::Session, CleanupKind::Kept);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.contains(&(session, "idle")) && shown.contains(&(without_name, "")));
    assert!(of_mine.iter().any(|item| item.id == kept));

    let removed = clean(&stage, ROOT).await;
    assert!(removed.iter().all(|item| item.error.is_empty()));
    let mut names: Vec<_> = removed.iter().map(|item| item.name.as_str()).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    assert_eq!(names, ["idle", "theirs"]);
    assert_eq!(of_kind(&removed, without_name), 1);
    assert_eq!(stage.native.live(), 1, "what the run goes on in");

    busy.signal(2);
    let ended = busy.end().await;
    assert_eq!(ended.exited().code, Some(3), "{ended:?}");
    let removed = clean(&stage, mine).await;
    assert_eq!((removed.len(), of_kind(&removed, session)), (1, 1));
    stage
        .wait_for("an empty engine", Duration::from_secs(5), |stage| {
            stage.native.live() == 0
        })
        .await;
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_keeps_its_sandbox_has_it_until_its_end() {
    let stage = Stage::new();
    let mut run = stage.start(keeping("signal-wait\nexit 4")).await;
    run.accepted().await;
    assert_eq!(of_kind(&clean(&stage, ROOT).await, CleanupKind::Kept), 0);
    run.signal(2);
    let ended = run.end().await;
    assert_eq!(ended.exited().code, Some(4), "{ended:?}");
    assert_eq!(of_kind(&clean(&stage, ROOT).await, CleanupKind::Kept), 1);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_removed_is_in_no_list() {
    let stage = Stage::new();
    run_as(&stage, ME, in_session("out x", "work")).await;
    let kept = run_as(&stage, ME, keeping("out x")).await.kept_sandbox_id;
    let list = async || {
        let mut client = SessionServiceClient::new(stage.channel(ME));
        let listed = client.list(v1::ListSessionsRequest { sizes: false }).await;
        let sessions = listed.expect("a list").into_inner().sessions;
        let mut ids: Vec<_> = sessions.into_iter().map(|one| one.sandbox_id).collect();
        ids.sort_unstable();
        ids
    };
    let before = list().await;
    assert!(before.len() == 2 && before.contains(&kept), "{before:?}");
    let delay = Duration::from_secs(3);
    stage.native.plan_always(Step::Destroy, Fault::Delay(delay));
    let (removed, meanwhile) = tokio::join!(clean(&stage, ME), async {
        sleep(Duration::from_secs(1)).await;
        list().await
    });
    assert_eq!(removed.len(), 2);
    assert_eq!(meanwhile, [""; 0]);
    stage.native.mend();
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_removed_session_is_free() {
    let stage = Stage::new();
    run_as(&stage, ME, in_session("out x", "work")).await;
    let first = clean(&stage, ME).await;
    assert_eq!(of_kind(&first, CleanupKind::Session), 1);
    run_as(&stage, ME, in_session("out x", "work")).await;
    let second = clean(&stage, ME).await;
    assert_eq!(of_kind(&second, CleanupKind::Session), 1);
    assert_ne!(first[0].id, second[0].id);
    stage.stop().await;
}
