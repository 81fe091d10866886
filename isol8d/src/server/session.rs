//! `SessionService`: lists, removes and adopts sessions, and moves their files.
//!
//! Each call on files is a task of its own, which has the session's turn. It ends
//! with its client and with the daemon, and always with an answer.

use std::{sync::Arc, time::Duration};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{Principal, SandboxId},
    session::SessionName,
};
use isol8_engine::link::Link;
use isol8_proto::v1::{self, put_request::Message, session_service_server::SessionService};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::principal;
use crate::{
    convert::{self, invalid},
    daemon::Daemon,
    files::{self, Ask, Events, Memory, Place, Trouble},
    status,
};

/// A client knows what it copies where before it dials.
const START_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Sessions(pub(super) Arc<Daemon>);

/// Who asks for which session, and what ends the call.
struct Caller {
    daemon: Arc<Daemon>,
    principal: Principal,
    session: SessionName,
    /// The client is gone, or the daemon ends all calls.
    stop: CancellationToken,
}

impl Caller {
    /// Does something with the session's files when it is its turn.
    async fn at_files<T>(
        &self,
        work: impl AsyncFnOnce(&mut Link, &Memory) -> Result<T, Trouble>,
    ) -> Result<T, Failure> {
        let borrowed = self.daemon.sessions.borrow(self.principal, &self.session);
        let mut turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(stopped()),
            turn = borrowed => turn?,
        };
        let record = turn.record().expect("a session that is there is made");
        let memory = Memory::of(turn.engine(), record);
        match memory.lend(work(turn.link(), &memory)).await {
            Ok(done) => {
                turn.give_back();
                Ok(done)
            }
            Err(Trouble::Refused(failure)) => {
                turn.give_back();
                Err(failure)
            }
            // The stream to init closes with the turn.
            Err(Trouble::InDoubt(failure)) => Err(failure),
        }
    }

    fn log<T>(&self, what: &'static str, done: &Result<T, Failure>) {
        let is_gone = self.stop.is_cancelled() && !self.daemon.cancel_runs.is_cancelled();
        let outcome = match done {
            Ok(_) => "done",
            Err(_) if is_gone => "cancelled",
            Err(failure) => failure.kind.name(),
        };
        tracing::info!(session = %self.session, what, outcome, "files of a session");
    }
}

fn stopped() -> Failure {
    Failure::new(FailureKind::ShuttingDown, "the daemon is going down")
}

fn refused(failure: Failure) -> Status {
    status::from_failure(&failure)
}

impl Sessions {
    /// # Errors
    /// `Forbidden`, `ShuttingDown`, `InvalidRequest`.
    fn caller(
        &self,
        principal: Result<Principal, Failure>,
        session: &str,
    ) -> Result<Caller, Failure> {
        let principal = principal?;
        self.0.check_open()?;
        Ok(Caller {
            principal,
            session: convert::session_name(session)?,
            stop: self.0.cancel_runs.child_token(),
            daemon: Arc::clone(&self.0),
        })
    }

    /// Does the work in a task that the end of the daemon waits for, and gives its
    /// answer. `stop` fires when the client goes first.
    async fn tracked<T: Send + 'static>(
        &self,
        stop: CancellationToken,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let _gone = stop.drop_guard();
        let (sender, answer) = oneshot::channel();
        self.0.runs.spawn(async move {
            let _nobody_waits = sender.send(work.await);
        });
        match answer.await {
            Ok(answer) => answer.map(Response::new).map_err(refused),
            Err(_) => Err(Status::internal("the call ended without an answer")),
        }
    }

    /// The same for what goes on without its client, but not without the daemon.
    async fn finished<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let daemon_ends = self.0.cancel_runs.clone();
        let work = async move {
            tokio::select! {
                biased;
                done = work => done,
                () = daemon_ends.cancelled() => Err(stopped()),
            }
        };
        self.tracked(CancellationToken::new(), work).await
    }

    /// The beginning of a copy: what is copied where.
    async fn start_of_put(
        &self,
        principal: Result<Principal, Failure>,
        client: &mut Streaming<v1::PutRequest>,
    ) -> Result<(Caller, Place), Failure> {
        let principal = principal?;
        self.0.check_open()?;
        let first = timeout(START_DEADLINE, client.message()).await;
        let first = first.map_err(|_| {
            let ms = START_DEADLINE.as_millis();
            invalid(format!("no `start` came within {ms} ms"))
        })?;
        let first = first
            .map_err(|status| invalid("the `start` could not be read").cause(status.message()))?;
        let Some(Message::Start(start)) = first.and_then(|first| first.message) else {
            return Err(invalid("the first message of a copy must be `start`"));
        };
        let caller = self.caller(Ok(principal), &start.session)?;
        Ok((caller, Place::parse(&start.path)?))
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    type GetStream = Events;

    async fn list(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let principal = principal(&request).map_err(refused)?;
        let (daemon, sizes) = (Arc::clone(&self.0), request.get_ref().sizes);
        self.finished(async move {
            let sessions = daemon.sessions.list(principal, sizes).await;
            Ok(v1::ListSessionsResponse { sessions })
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSessionRequest>,
    ) -> Result<Response<v1::RemoveSessionResponse>, Status> {
        let asked = request.get_ref();
        let force = asked.force;
        let caller = self.caller(principal(&request), &asked.name);
        let caller = caller.map_err(refused)?;
        self.finished(async move {
            let sessions = &caller.daemon.sessions;
            let removed = sessions.remove(caller.principal, &caller.session, force);
            let kept = removed.await?.map(|id| id.to_string());
            Ok(v1::RemoveSessionResponse {
                kept_sandbox_id: kept.unwrap_or_default(),
            })
        })
        .await
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        let asked = request.get_ref();
        let caller = self.caller(principal(&request), &asked.name);
        let caller = caller.map_err(refused)?;
        let id = SandboxId::parse(&asked.sandbox_id).ok_or_else(|| {
            let shown = status::cut(&asked.sandbox_id, 100).escape_debug();
            let failure = invalid(format!("`{shown}` is not the id of a sandbox"));
            refused(failure.hint("`isol8 session ls` shows the kept sandboxes with their ids"))
        })?;
        self.finished(async move {
            let sessions = &caller.daemon.sessions;
            let adopted = sessions.adopt(caller.principal, &id, &caller.session);
            Ok(v1::AdoptResponse {
                session: Some(adopted.await?),
            })
        })
        .await
    }

    async fn put(
        &self,
        request: Request<Streaming<v1::PutRequest>>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let principal = principal(&request);
        let mut client = request.into_inner();
        let start = self.start_of_put(principal, &mut client).await;
        let (caller, base) = start.map_err(refused)?;
        self.tracked(caller.stop.clone(), async move {
            let stop = &caller.stop;
            let work = async |link: &mut Link, memory: &Memory| {
                files::put(link, memory, base, &mut client, stop).await
            };
            let done = caller.at_files(work).await;
            caller.log("put", &done);
            done
        })
        .await
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let asked = request.get_ref();
        let caller = self.caller(principal(&request), &asked.session);
        let caller = caller.map_err(refused)?;
        let ask = Ask::of(asked).map_err(refused)?;
        let (outlet, events) = files::outlet(caller.stop.clone().drop_guard());
        self.0.runs.spawn(async move {
            let stop = &caller.stop;
            let work = async |link: &mut Link, memory: &Memory| {
                files::get(link, memory, &ask, &outlet, stop).await
            };
            let done = caller.at_files(work).await;
            caller.log("get", &done);
            if let Err(failure) = &done {
                outlet.fail(failure);
            }
        });
        Ok(Response::new(events))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let asked = request.get_ref();
        let caller = self.caller(principal(&request), &asked.session);
        let caller = caller.map_err(refused)?;
        let place = Place::parse(&asked.path).map_err(refused)?;
        let recursive = asked.recursive;
        self.tracked(caller.stop.clone(), async move {
            let stop = &caller.stop;
            let work = async |link: &mut Link, _: &Memory| {
                files::delete(link, &place, recursive, stop).await
            };
            let done = caller.at_files(work).await;
            caller.log("delete", &done);
            done.map(|()| v1::DeleteResponse {})
        })
        .await
    }
}
