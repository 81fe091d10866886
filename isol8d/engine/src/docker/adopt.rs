//! Takes over a lasting container whose init has no stream: of an earlier process
//! of this daemon, or of this one.
//!
//! Programs run in it and may dial as well: only the process that the engine
//! names as the container's first is taken, whatever the OCI runtime.

use std::{io, time::Duration};

use bollard::{models::ContainerInspectResponse, query_parameters::InspectContainerOptions};
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    outcome::Counters,
    sandbox::Network,
};
use tokio::time::{sleep, timeout};

use super::{
    Inner,
    accounting::Accounting,
    client::ASK,
    container::{Expected, LEARN, LOOK, unaccounted},
    live::{Live, no_such},
};
use crate::{
    Adoption, Sandbox,
    hardening::{LABEL_DAEMON, container_name},
    meet::Meeting,
};

/// The longest wait for init to dial. It calls once a second at least.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// A container that runs.
struct Running {
    container: String,
    pid: i64,
}

impl Inner {
    pub(super) async fn take_over(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        let id = &adoption.spec.id;
        let _adopting = self.live.begin_adoption(id)?;
        let facts = self.facts().await?;
        let running = self.running(id, ASK).await?;
        let new = self.know(adoption, &running).await?;
        let expected = Expected {
            pid: running.pid,
            uid: (!facts.maps_uids).then_some(adoption.uid),
            // Any process inside passes for a helper.
            other_runtime: false,
            container: &running.container,
        };
        let filtered = adoption.spec.key.network == Network::Filtered;
        let meeting = Meeting::reopen(&self.place.runtime_dir, id)?;
        let met = tokio::select! {
            met = meeting.accept(DIAL_DEADLINE, filtered, |peer| expected.is(peer)) => met,
            failure = self.lost(id) => Err(failure),
        };
        if new
            && met
                .as_ref()
                .is_err_and(|why| why.kind == FailureKind::NotFound)
        {
            self.live.drop_entry(id);
        }
        let met = met.map_err(|failure| self.blame_runtime(failure))?;
        Ok(Sandbox {
            id: id.clone(),
            link: met.link,
            interpreter: adoption.interpreter.clone(),
            listener: met.listener,
            uid: adoption.uid,
        })
    }

    /// Takes note of a container that an earlier process made. True: it was not
    /// known.
    async fn know(&self, adoption: &Adoption, running: &Running) -> Result<bool, Failure> {
        let id = &adoption.spec.id;
        if self.live.with(id, |_| ()).is_ok() {
            return Ok(false);
        }
        let accounting = match Accounting::of(running.pid, &running.container) {
            Ok(accounting) => accounting,
            Err(error) => return Err(self.unseen(id, &error).await),
        };
        let live = Live {
            accounting,
            bounds: None,
            counters: Counters::default(),
            _uid: self.uids.reserve(adoption.uid),
        };
        self.live.know(id, live)?;
        Ok(true)
    }

    /// The engine's view of a sandbox of ours that runs.
    ///
    /// # Errors
    /// `NotFound` when the engine says that it does not.
    async fn running(&self, id: &SandboxId, limit: Duration) -> Result<Running, Failure> {
        let name = container_name(id);
        let inspected = self
            .client
            .ask("look at a container", limit, |docker| async move {
                docker
                    .inspect_container(&name, None::<InspectContainerOptions>)
                    .await
            })
            .await;
        match inspected {
            Ok(found) => running(found, self.place.daemon.as_str()).ok_or_else(|| no_such(id)),
            Err(asked) if asked.is_missing() => Err(no_such(id)),
            Err(asked) => Err(asked.into()),
        }
    }

    /// Ends when a sandbox has ended. Cancel safe.
    async fn lost(&self, id: &SandboxId) -> Failure {
        loop {
            sleep(LOOK).await;
            match self.state(&container_name(id), ASK).await {
                Ok(state) if state.running == Some(true) => {}
                Ok(_) => return no_such(id),
                Err(asked) if asked.is_missing() => return no_such(id),
                Err(asked) if asked.is_answer() => return asked.into(),
                // Whoever waits for the call has a deadline of its own.
                Err(_) => {}
            }
        }
    }

    /// Why the cgroup of a container is not found.
    async fn unseen(&self, id: &SandboxId, error: &io::Error) -> Failure {
        // The engine learns of the end of a process a moment after the kernel.
        let lost = timeout(LEARN, self.lost(id)).await;
        lost.unwrap_or_else(|_| unaccounted(error))
    }
}

/// `None`: it has ended, or is not this daemon's.
fn running(found: ContainerInspectResponse, daemon: &str) -> Option<Running> {
    let labels = found.config?.labels?;
    if labels.get(LABEL_DAEMON).map(String::as_str) != Some(daemon) {
        return None;
    }
    let state = found.state?;
    let pid = state.pid.filter(|pid| *pid > 0)?;
    (state.running == Some(true)).then_some(Running {
        container: found.id?,
        pid,
    })
}
