//! Removes what nobody uses, because somebody asks for it.
//!
//! First it looks at everything, then it removes what it saw: what somebody takes
//! meanwhile stays, and what goes by itself is counted by nobody. Sandboxes go
//! before images, which they use.

use futures_util::{StreamExt, stream};
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{Principal, SandboxId},
    sandbox::EngineKind,
};
use isol8_proto::v1::{self, CleanupKind};

use crate::{
    convert::engine_to_wire,
    daemon::Daemon,
    reconcile::{self, Left},
    session::Idle,
    status,
};

mod claim;
mod images;

pub(crate) use claim::Claim;

/// Sessions at a time: engines slow down when they destroy too much at once.
const AT_ONCE: usize = 4;

/// Why something is still there, in one item.
const MAX_ERROR_BYTES: usize = 1 << 10;

/// What would go.
#[derive(Debug, Default)]
struct Found {
    sessions: Vec<Idle>,
    warm: Vec<(SandboxId, EngineKind)>,
    left: Vec<Left>,
    images: Vec<(EngineKind, String)>,
    /// What could not be looked at.
    unseen: Vec<v1::CleanupItem>,
}

/// Removes what no run and no session in use needs, as far as it is `who`'s to
/// remove, or only tells what that is.
///
/// # Errors
/// `Forbidden` for images of a daemon of somebody else; `ShuttingDown`.
///
/// # Cancellation
/// What is not removed stays for the next time.
pub(crate) async fn clean_up(
    daemon: &Daemon,
    who: Principal,
    asked: v1::CleanupRequest,
) -> Result<Vec<v1::CleanupItem>, Failure> {
    daemon.check_open()?;
    let everything = may_remove_everything(who);
    if asked.images && !everything {
        let message = "only root and the user of the daemon may remove images";
        return Err(Failure::new(FailureKind::Forbidden, message)
            .hint("leave out `--images`, or use `sudo`"));
    }
    daemon.sessions.rest().await;
    let mut found = Found {
        sessions: daemon.sessions.idle((!everything).then_some(who)),
        ..Found::default()
    };
    if everything {
        found.warm = daemon.pool.idle().await;
        let looked = reconcile::look(&daemon.roster, &daemon.id).await;
        found.left = looked.left;
        found.unseen = looked.failed.into_iter().filter_map(unseen).collect();
    }
    if asked.images {
        images::look(daemon, &mut found).await;
    }
    if asked.dry_run {
        return Ok(found.into_items());
    }
    let items = remove(daemon, found, everything).await;
    let failed = items.iter().filter(|item| !item.error.is_empty()).count();
    let removed = items.len() - failed;
    tracing::info!(uid = who.0, removed, failed, "cleaned up");
    Ok(items)
}

/// Who has the daemon's files in hand can do all this without it.
pub(crate) fn may_remove_everything(who: Principal) -> bool {
    who.0 == 0 || who.0 == rustix::process::geteuid().as_raw()
}

async fn remove(daemon: &Daemon, found: Found, everything: bool) -> Vec<v1::CleanupItem> {
    let mut items = found.unseen;
    let sessions = found.sessions.into_iter();
    let sessions = sessions.map(|idle| remove_idle(daemon, idle));
    let sessions = stream::iter(sessions).buffer_unordered(AT_ONCE);
    let sessions: Vec<_> = sessions.collect().await;
    items.extend(sessions.into_iter().flatten());
    if everything {
        let emptied = daemon.pool.empty().await.into_iter();
        items.extend(
            emptied
                .map(|(id, engine, result)| item(CleanupKind::Warm, engine, id.as_str(), result)),
        );
        let removed = reconcile::remove(&daemon.roster, &daemon.id, found.left).await;
        items.extend(removed.into_iter().map(|removed| {
            let Left { id, engine } = removed.left;
            item(CleanupKind::Left, engine, id.as_str(), removed.result)
        }));
    }
    items.extend(images::remove(daemon, found.images).await);
    items
}

/// `None`: it is in use, or it was not this cleanup that removed it.
async fn remove_idle(daemon: &Daemon, idle: Idle) -> Option<v1::CleanupItem> {
    let _claim = Claim::on(idle.sandbox.to_string())?;
    // It was shown a while ago.
    if !daemon.sessions.idle(Some(idle.owner)).contains(&idle) {
        return None;
    }
    let result = match daemon.sessions.remove_idle(&idle).await {
        Err(failure) if is_no_longer_idle(failure.kind) => return None,
        result => result,
    };
    Some(of_idle(&idle, result))
}

fn is_no_longer_idle(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::NotFound | FailureKind::SessionBusy)
}

impl Found {
    fn into_items(self) -> Vec<v1::CleanupItem> {
        let sessions = self.sessions.iter().map(|idle| of_idle(idle, Ok(())));
        let warm = self.warm.iter();
        let warm = warm.map(|(id, engine)| item(CleanupKind::Warm, *engine, id.as_str(), Ok(())));
        let left = self.left.iter();
        let left =
            left.map(|Left { id, engine }| item(CleanupKind::Left, *engine, id.as_str(), Ok(())));
        let images = self.images.iter();
        let images = images.map(|(engine, name)| item(CleanupKind::Image, *engine, name, Ok(())));
        let all = sessions.chain(warm).chain(left).chain(images);
        self.unseen.into_iter().chain(all).collect()
    }
}

/// An engine whose sandboxes cannot be listed. One that does not answer at all is
/// none on most machines, and what is on it is removed when it is back.
fn unseen((engine, failure): (EngineKind, Failure)) -> Option<v1::CleanupItem> {
    if failure.kind == FailureKind::EngineUnreachable {
        tracing::debug!(%engine, error = %failure, "an engine is not cleaned up");
        return None;
    }
    Some(item(CleanupKind::Left, engine, "", Err(failure)))
}

fn of_idle(idle: &Idle, result: Result<(), Failure>) -> v1::CleanupItem {
    let kind = match idle.name {
        Some(_) => CleanupKind::Session,
        None => CleanupKind::Kept,
    };
    let name = idle.name.as_ref();
    v1::CleanupItem {
        name: name.map_or_else(String::new, ToString::to_string),
        ..item(kind, idle.engine, idle.sandbox.as_str(), result)
    }
}

fn item(
    kind: CleanupKind,
    engine: EngineKind,
    id: &str,
    result: Result<(), Failure>,
) -> v1::CleanupItem {
    let error = result.map_or_else(|failure| failure.to_string(), |()| String::new());
    v1::CleanupItem {
        kind: kind.into(),
        engine: engine_to_wire(engine).into(),
        id: id.to_owned(),
        name: String::new(),
        error: status::cut(&error, MAX_ERROR_BYTES).to_owned(),
    }
}
