//! The images of ours.

use std::collections::BTreeSet;

use isol8_core::{failure::Failure, sandbox::EngineKind};
use isol8_proto::v1::{self, CleanupKind};

use super::{Claim, Found, item};
use crate::daemon::Daemon;

/// Finds them, in the order in which they can go. That an engine cannot be asked
/// is told: somebody wants its room back.
pub(super) async fn look(daemon: &Daemon, found: &mut Found) {
    for (kind, engine) in daemon.roster.engines() {
        match engine.image_names().await {
            Ok(names) => {
                let of_engine = names.into_iter().map(|name| (*kind, name));
                found.images.extend(of_engine);
            }
            Err(failure) => {
                let unseen = item(CleanupKind::Image, *kind, "", Err(failure));
                found.unseen.push(unseen);
            }
        }
    }
}

/// Removes those that are still there. One after the other: many lie on others of
/// them, and the engine does no two at once.
pub(super) async fn remove(
    daemon: &Daemon,
    images: Vec<(EngineKind, String)>,
) -> Vec<v1::CleanupItem> {
    let claim = |(kind, name): (EngineKind, String)| {
        // Another daemon in this process has other engines.
        let claim = Claim::on(format!("{} {kind} {name}", daemon.id))?;
        Some((claim, kind, name))
    };
    let claimed: Vec<_> = images.into_iter().filter_map(claim).collect();
    let mut items = Vec::new();
    for (kind, engine) in daemon.roster.engines() {
        let own = claimed.iter().filter(|(_, of, _)| of == kind);
        let own: Vec<&str> = own.map(|(.., name)| name.as_str()).collect();
        if own.is_empty() {
            continue;
        }
        let there = engine.image_names().await;
        let there = there.map(|names| names.into_iter().collect::<BTreeSet<_>>());
        for name in own {
            let result = match &there {
                Ok(there) if !there.contains(name) => continue,
                Ok(_) => engine.remove_image(name).await,
                Err(failure) => Err(Failure::clone(failure)),
            };
            items.push(item(CleanupKind::Image, *kind, name, result));
        }
    }
    items
}
