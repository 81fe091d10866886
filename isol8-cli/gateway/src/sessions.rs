//! Places for sessions and kept sandboxes. To the daemon all keys are one caller,
//! who has so many; here they share them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isol8_core::ids::RunId;
use isol8_proto::v1::{ListSessionsRequest, Start};

use crate::{gateway::Shared, job::is_of, keys::Caller, refusal::Refusal, shares::allows};

/// Those that runs are about to make, which the daemon may not list yet.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<String, usize>>);

/// A run that may make one. Dropped, the daemon lists it, or it was not made.
#[derive(Debug)]
pub(crate) struct Making {
    sessions: Arc<Sessions>,
    name: String,
}

impl Sessions {
    fn making(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        // Nothing in here panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, name: String) -> Making {
        *self.making().entry(name.clone()).or_default() += 1;
        Making {
            sessions: Arc::clone(self),
            name,
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut making = self.sessions.making();
        if let Some(runs) = making.get_mut(&self.name) {
            *runs -= 1;
            if *runs == 0 {
                making.remove(&self.name);
            }
        }
    }
}

/// A place for what this run may leave behind, to be held until it is over. `None`
/// for a run that leaves nothing, and where nobody else has a key.
///
/// # Errors
/// 429 where the last places are for others.
pub(crate) async fn place(
    shared: &Shared,
    caller: &Caller,
    start: &Start,
) -> Result<Option<Making>, Refusal> {
    if caller.is_alone() || (start.session.is_none() && !start.persist) {
        return Ok(None);
    }
    // What is kept has no name, so nobody can say whose it is.
    let nameless = || format!("-{}", RunId::random());
    let name = start.session.clone().unwrap_or_else(nameless);
    // First: of two that come at once, each sees the other one.
    let making = shared.sessions.begin(name.clone());
    let request = ListSessionsRequest { sizes: false };
    let listed = shared.daemon.sessions().list(request).await?.into_inner();
    let mut kept = 0;
    let mut names = BTreeSet::new();
    for info in listed.sessions {
        if info.name == name {
            return Ok(Some(making));
        }
        match info.name.is_empty() {
            true => kept += 1,
            false => drop(names.insert(info.name)),
        }
    }
    names.extend(shared.sessions.making().keys().cloned());
    names.remove(&name);
    let own = match start.session {
        Some(_) => names.iter().filter(|name| is_of(name, caller)).count(),
        None => usize::MAX >> 1,
    };
    match allows(shared.bounds.sessions, names.len() + kept, own, 1, caller) {
        true => Ok(Some(making)),
        false => {
            let message = "the sessions and kept sandboxes that are left are for other keys";
            let hint = "remove some: `GET /sessions`, `DELETE /session/<id>`";
            Err(Refusal::busy(message).hint(hint))
        }
    }
}
