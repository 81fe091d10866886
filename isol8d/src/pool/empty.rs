//! Who waits until the pool is empty.

use std::collections::{BTreeMap, BTreeSet};

use isol8_core::{failure::Failure, ids::SandboxId, pool::Pool, sandbox::EngineKind};
use tokio::sync::oneshot;

/// What became of each sandbox that was warm.
pub(super) type Emptied = Vec<(SandboxId, EngineKind, Result<(), Failure>)>;

/// Told each when nothing of what there was when they came is in the air.
#[derive(Debug, Default)]
pub(super) struct Empties(Vec<Empty>);

#[derive(Debug)]
struct Empty {
    idle: Vec<(SandboxId, EngineKind)>,
    /// Those of them that were tried to destroy, the first time.
    tried: BTreeMap<SandboxId, Result<(), Failure>>,
    in_the_air: BTreeSet<SandboxId>,
    reply: oneshot::Sender<Emptied>,
}

impl Empties {
    /// Notes what there is. To be called before the pool is emptied.
    pub(super) fn add(&mut self, pool: &Pool, reply: oneshot::Sender<Emptied>) {
        let idle = pool.idle();
        let warm = idle.iter().map(|(id, _)| id.clone());
        self.0.push(Empty {
            in_the_air: warm.chain(pool.passing()).collect(),
            idle,
            tried: BTreeMap::new(),
            reply,
        });
    }

    /// Notes how an attempt to destroy a sandbox went.
    pub(super) fn tried(&mut self, id: &SandboxId, result: &Result<(), Failure>) {
        for empty in &mut self.0 {
            if empty.in_the_air.contains(id) {
                empty.tried.insert(id.clone(), result.clone());
            }
        }
    }

    /// Tells those who wait for nothing any more.
    pub(super) fn tell(&mut self, pool: &Pool) {
        let done = |empty: &mut Empty| {
            empty.in_the_air.retain(|id| pool.is_in_the_air(id));
            empty.in_the_air.is_empty()
        };
        for mut empty in self.0.extract_if(.., done) {
            let result = |(id, engine)| {
                let tried = empty.tried.remove(&id)?;
                Some((id, engine, tried))
            };
            let emptied = empty.idle.into_iter().filter_map(result).collect();
            let _left = empty.reply.send(emptied);
        }
    }
}
