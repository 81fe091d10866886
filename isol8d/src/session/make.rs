//! Makes the sandbox of a session, or one that is to be kept.

use std::{sync::Arc, time::Duration, time::SystemTime};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{Principal, SandboxId},
    package::Package,
    sandbox::{Limits, SandboxKey, SandboxSpec},
    session::SessionName,
};
use isol8_engine::Engine;
use tokio::time::timeout;

use super::{
    Sessions, Shared,
    bounds::Making,
    kept::InUse,
    record::{Record, Token},
    turn::Seat,
};
use crate::greeting;

/// From the first frame to `Ready`.
const READY_DEADLINE: Duration = Duration::from_secs(15);

/// What a lasting sandbox is made with.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) owner: Principal,
    /// `None`: it is to be kept.
    pub(crate) name: Option<SessionName>,
    pub(crate) key: SandboxKey,
    pub(crate) limits: Limits,
    /// Those that it has from the start.
    pub(crate) packages: Vec<Package>,
    pub(crate) persist: bool,
}

/// A sandbox that is made and written down. Dropped, it is removed again.
#[derive(Debug)]
pub(crate) struct Fresh {
    seat: Option<Seat>,
    undo: Undo,
    /// Last: what is to be removed has no record any more when this goes.
    in_use: Option<InUse>,
}

impl Fresh {
    /// It stays.
    pub(super) fn settle(mut self) -> (Seat, Option<InUse>) {
        self.undo.done = true;
        let seat = self.seat.take().expect("it is taken once");
        (seat, self.in_use.take())
    }
}

/// Removes what was made where nobody took it.
#[derive(Debug)]
struct Undo {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    id: SandboxId,
    done: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.done {
            self.shared.discard(&self.engine, &self.id);
        }
    }
}

impl Sessions {
    /// Makes a lasting sandbox and writes it down. The caller bounds the time.
    ///
    /// # Errors
    /// `AtCapacity` where there are too many; why it cannot be made.
    ///
    /// # Cancellation
    /// What was made is removed.
    pub(crate) async fn make(&self, terms: Terms) -> Result<Fresh, Failure> {
        let shared = &self.0;
        let _making = Making::begin(shared, terms.owner)?;
        let engine = shared.engines.get(&terms.key.engine).ok_or_else(|| {
            let message = format!("this daemon has no {} engine", terms.key.engine);
            Failure::new(FailureKind::Unsupported, message)
        })?;
        let spec = SandboxSpec {
            id: SandboxId::random(),
            key: terms.key,
            limits: terms.limits,
            lasting: true,
        };
        // Dropped after `undo`, for the same reason as in what is given.
        let in_use = terms.name.is_none().then(|| InUse::new(shared, &spec.id));
        let undo = Undo {
            shared: Arc::clone(shared),
            engine: Arc::clone(engine),
            id: spec.id.clone(),
            done: false,
        };
        let mut sandbox = engine.create(&spec).await?;
        let token = Token::random();
        let order = greeting::with_token(token.as_bytes());
        let ready = timeout(READY_DEADLINE, greeting::prepare(&mut sandbox.link, order));
        ready.await.unwrap_or_else(|_| {
            let message = "the init of a new sandbox did not get ready in time";
            Err(Failure::new(FailureKind::EngineTimeout, message))
        })?;
        let now = SystemTime::now();
        let record = Record {
            owner: terms.owner,
            name: terms.name,
            sandbox: spec.id,
            token,
            key: spec.key,
            limits: spec.limits,
            uid: sandbox.uid,
            interpreter: sandbox.interpreter,
            packages: terms.packages.into_iter().collect(),
            persist: terms.persist,
            created: now,
            used: now,
            lost: None,
        };
        shared.store.put(record.clone()).await?;
        let seat = Seat {
            link: sandbox.link,
            listener: sandbox.listener,
            record,
            engine: Arc::clone(engine),
        };
        Ok(Fresh {
            seat: Some(seat),
            undo,
            in_use,
        })
    }
}
