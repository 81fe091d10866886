//! Sessions from a client's side: their life, their terms, their queue, what goes
//! wrong in them, and what is left of them by a daemon that ends or dies.

use std::time::Duration;

use isol8_core::ids::{Principal, SandboxId};
use isol8_proto::v1::{
    self, ErrorDetail, SessionInfo, Verdict, session_service_client::SessionServiceClient,
};
use prost::Message as _;
use tonic::{Status, transport::Channel};

use crate::stage::{ME, Ran, Run, Stage, python};

mod ends;
mod kills;
mod life;
mod lost;
mod queue;
mod random;
mod removal;
mod restart;
mod terms;

const WORK: &str = "work";

/// Somebody else than [`ME`].
const OTHER: Principal = Principal(1001);

/// Code that runs in a session.
fn inside(name: &str, code: &str) -> v1::Start {
    v1::Start {
        session: Some(name.to_owned()),
        ..python(code)
    }
}

/// Code that runs in the session of most tests.
fn work(code: &str) -> v1::Start {
    inside(WORK, code)
}

/// The same for a session whose sandbox is kept, or for a sandbox that is kept.
fn keeping(start: v1::Start) -> v1::Start {
    v1::Start {
        persist: true,
        ..start
    }
}

fn timed(start: v1::Start, timeout_ms: u64) -> v1::Start {
    let mut start = start;
    start.limits.get_or_insert_default().timeout_ms = timeout_ms;
    start
}

/// Runs code in the session, which must go well.
async fn run(stage: &Stage, code: &str) -> Ran {
    run_as(stage.channel(ME), work(code)).await
}

async fn run_as(channel: Channel, start: v1::Start) -> Ran {
    let ran = Run::start(channel, start).await.end().await;
    assert_eq!(ran.verdict(), Verdict::Exited, "{:?}", ran.end);
    ran
}

fn sandbox(ran: &Ran) -> String {
    let accepted = ran.accepted.as_ref().expect("it had a sandbox");
    accepted.sandbox_id.clone()
}

fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).expect("an id")
}

fn sessions(channel: Channel) -> SessionServiceClient<Channel> {
    SessionServiceClient::new(channel)
}

async fn list(channel: Channel) -> Vec<SessionInfo> {
    let mut sessions = sessions(channel);
    let listed = sessions.list(v1::ListSessionsRequest::default());
    listed.await.expect("a list").into_inner().sessions
}

/// The only session.
async fn info(stage: &Stage) -> SessionInfo {
    let mut all = list(stage.channel(ME)).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Waits until the only session is in a state.
async fn wait_for(stage: &Stage, state: v1::SessionState) -> SessionInfo {
    for _ in 0..10_000 {
        let info = info(stage).await;
        if info.state() == state {
            return info;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not get {state:?}: {:?}", info(stage).await);
}

/// Gives the id of what was kept.
async fn remove(channel: Channel, name: &str, force: bool) -> Result<String, Status> {
    let name = name.to_owned();
    let mut sessions = sessions(channel);
    let removed = sessions.remove(v1::RemoveSessionRequest { name, force });
    Ok(removed.await?.into_inner().kept_sandbox_id)
}

async fn adopt(channel: Channel, sandbox_id: &str, name: &str) -> Result<SessionInfo, Status> {
    let mut sessions = sessions(channel);
    let adopted = sessions.adopt(v1::AdoptRequest {
        sandbox_id: sandbox_id.to_owned(),
        name: name.to_owned(),
    });
    let adopted = adopted.await?.into_inner();
    Ok(adopted.session.expect("a session"))
}

fn detail(status: &Status) -> ErrorDetail {
    ErrorDetail::decode(status.details()).expect("an ErrorDetail")
}

#[track_caller]
fn kind(ran: &Ran) -> String {
    ran.failure().1.kind
}

/// Sessions stay when their daemon goes, and nothing else does.
async fn end(stage: Stage, sandboxes: usize) {
    stage.daemon.stop();
    let (native, docker) = (stage.native.clone(), stage.docker.clone());
    stage.ended().await;
    assert_eq!(native.live(), sandboxes, "{:?}", native.steps());
    assert_eq!(docker.live(), 0, "containers are left");
}
