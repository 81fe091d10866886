//! The end of a container: what it takes until the engine has nothing of it.

use std::time::Duration;

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
};
use tokio::time::sleep;

use super::{
    Inner,
    client::{Budget, REMOVE},
};
use crate::{hardening::container_name, meet, uids::SlotUid};

/// Between two tries to remove a container.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks for a container that may come late, and how many in a row
/// must find none.
const CHASE: Duration = Duration::from_secs(3);
const CHASE_ANSWERS: u32 = 3;

impl Inner {
    /// Removes what a failed attempt left.
    pub(super) async fn undo(&self, id: &SandboxId, slot: SlotUid, failure: &Failure) {
        let removed = self.remove_container(id).await;
        // An engine that hung may yet do what it was asked.
        let certain = failure.kind != FailureKind::EngineTimeout;
        match removed {
            Ok(()) if certain => self.live.drop_entry(id),
            _ => {
                tracing::warn!(sandbox = %id, "a failed container may be left on the engine");
                self.live.strand(id, slot);
            }
        }
    }

    /// Follows up on a sandbox that an engine may still make, as it was asked to
    /// before it hung: until the engine has said several times that there is
    /// none. Ends at once for any other sandbox.
    pub(super) async fn chase(&self, id: &SandboxId) {
        let mut answers = 0;
        while answers < CHASE_ANSWERS && self.live.is_stranded(id) {
            sleep(CHASE).await;
            match self.remove_container(id).await {
                Ok(()) => answers += 1,
                Err(_) => answers = 0,
            }
        }
        if self.live.is_stranded(id) {
            self.live.drop_entry(id);
        }
    }

    /// Kills and removes a sandbox and gives back what it had.
    pub(super) async fn remove(&self, id: &SandboxId) -> Result<(), Failure> {
        self.remove_container(id).await?;
        self.live.drop_entry(id);
        if let Err(error) = meet::remove_folder(&self.place.runtime_dir, id) {
            tracing::warn!(sandbox = %id, %error, "the folder of a sandbox stays");
        }
        Ok(())
    }

    /// Until the engine says that there is no such container.
    async fn remove_container(&self, id: &SandboxId) -> Result<(), Failure> {
        let budget = Budget::of(REMOVE);
        loop {
            let name = container_name(id);
            let limit = budget.at_most(REMOVE);
            // Kills it first.
            let options = RemoveContainerOptionsBuilder::new()
                .force(true)
                .v(true)
                .build();
            let removed = self
                .client
                .ask("remove a container", limit, |docker| async move {
                    docker.remove_container(&name, Some(options)).await
                })
                .await;
            match removed {
                Ok(()) => return Ok(()),
                Err(asked) if asked.is_missing() => return Ok(()),
                // Somebody else is at it, or the kernel still holds something.
                Err(asked) if asked.is_answer() && !budget.is_over() => {
                    if !asked.is_conflict() {
                        let error = Failure::from(asked);
                        tracing::debug!(sandbox = %id, %error, "a container does not go yet");
                    }
                    sleep(REMOVE_AGAIN).await;
                }
                Err(asked) => return Err(asked.into()),
            }
        }
    }
}
