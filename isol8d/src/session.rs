//! Sessions: lasting sandboxes with a name and an owner.
//!
//! ```text
//!  Sessions ──orders (queue)──▶ Owner, one task per session: has the link
//!     ▲                            │ lends it
//!     └────────── Turn ◀───────────┘
//!            given back clean: the next one's turn
//!            dropped otherwise: the stream is closed, init dials anew
//! ```
//! A session exists from its first order on; it has a sandbox, and a line in the
//! [`store`], from the moment that its first run made one. Nobody but its owner
//! task and the one [`Turn`] that is out ever speaks to its init, so that a
//! session never does two things at once.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{Principal, SandboxId},
    sandbox::EngineKind,
    session::SessionName,
};
use isol8_proto::v1;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{pool::Engines, roster::Roster};

mod bounds;
mod connect;
mod entry;
mod expiry;
mod info;
mod kept;
mod make;
mod owner;
pub(crate) mod record;
pub(crate) mod store;
mod turn;

use bounds::{Bounds, Waiting};
use entry::{Entry, Removal};
pub(crate) use kept::Kept;
pub(crate) use make::{Fresh, Terms};
use owner::Owner;
use record::Record;
use store::Store;
pub(crate) use turn::Turn;

/// How long a session that is looked for after a restart may take to say how big
/// it is, or to be there.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whose session of which name.
type Whose = (Principal, SessionName);

/// The sessions of a daemon. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engines: Engines,
    store: Store,
    table: Mutex<BTreeMap<Whose, Arc<Entry>>>,
    /// Sandboxes without a name whose runs go on.
    in_use: Mutex<BTreeSet<SandboxId>>,
    bounds: Bounds,
    tasks: TaskTracker,
    /// The daemon lets go of its sessions.
    closing: CancellationToken,
}

/// What a cleanup may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) owner: Principal,
    /// `None`: a kept sandbox.
    pub(crate) name: Option<SessionName>,
    pub(crate) sandbox: SandboxId,
    pub(crate) engine: EngineKind,
}

impl Sessions {
    /// Answers for every sandbox of `store`, and starts to look for those that
    /// are sessions.
    pub(crate) fn start(store: Store, roster: &Roster, tasks: TaskTracker) -> Self {
        let sessions = Self(Arc::new(Shared {
            engines: roster.engines().clone(),
            store,
            table: Mutex::default(),
            in_use: Mutex::default(),
            bounds: Bounds::default(),
            tasks,
            closing: CancellationToken::new(),
        }));
        let mut records = sessions.0.store.all();
        // The newest first.
        records.sort_by_key(|record| Reverse(record.created));
        for record in records {
            let whose = record.name.clone().map(|name| (record.owner, name));
            let mut table = sessions.table();
            if whose
                .as_ref()
                .is_some_and(|whose| table.contains_key(whose))
            {
                // Its run was given up while it was made, and another one came:
                // nobody has heard of it.
                sessions.0.store.take(&record.sandbox, |_| true);
                continue;
            }
            if record.lost.is_none() {
                roster.answer_for(&record.spec());
            }
            if let Some(whose) = whose {
                sessions.begin(&mut table, whose, Some(record));
            }
        }
        sessions
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Whose, Arc<Entry>>> {
        // The table is whole between any two statements.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task of a session.
    fn begin(
        &self,
        table: &mut BTreeMap<Whose, Arc<Entry>>,
        whose: Whose,
        record: Option<Record>,
    ) -> Arc<Entry> {
        let (entry, orders) = Entry::new(record.as_ref());
        table.insert(whose.clone(), Arc::clone(&entry));
        let owner = Owner::new(self.clone(), whose, Arc::clone(&entry), orders, record);
        self.0.tasks.spawn(owner.run());
        entry
    }

    fn find(&self, who: Principal, name: &SessionName) -> Result<Arc<Entry>, Failure> {
        let found = self.table().get(&(who, name.clone())).cloned();
        found
            .filter(|entry| entry.exists())
            .ok_or_else(|| no_such(name))
    }

    /// Waits for the turn in a session, which has no sandbox yet where it is new.
    /// `waits` is called once if there is a wait.
    ///
    /// # Errors
    /// `AtCapacity` where too many wait, `ShuttingDown`; why its sandbox cannot be
    /// had. `SessionLost` forgets the session.
    ///
    /// # Cancellation
    /// The place in the queue is given up.
    pub(crate) async fn turn(
        &self,
        who: Principal,
        name: &SessionName,
        waits: impl FnOnce(),
    ) -> Result<Turn, Failure> {
        let _waiting = Waiting::begin(&self.0, who)?;
        let entry = {
            let mut table = self.table();
            let whose = (who, name.clone());
            let entry = match table.get(&whose) {
                Some(entry) => Arc::clone(entry),
                None if self.0.closing.is_cancelled() => return Err(shutting_down()),
                None => self.begin(&mut table, whose, None),
            };
            entry.expect();
            entry
        };
        if entry.is_busy() {
            waits();
        }
        entry.borrow(true).await
    }

    /// [`Sessions::turn`] in a session that is there.
    ///
    /// # Errors
    /// `NotFound` as well; `SessionLost` forgets nothing.
    pub(crate) async fn borrow(&self, who: Principal, name: &SessionName) -> Result<Turn, Failure> {
        let _waiting = Waiting::begin(&self.0, who)?;
        let entry = {
            let table = self.table();
            let found = table.get(&(who, name.clone())).cloned();
            let entry = found.filter(|entry| entry.exists());
            let entry = entry.ok_or_else(|| no_such(name))?;
            entry.expect();
            entry
        };
        let turn = entry.borrow(false).await?;
        // Its first run may have come to nothing meanwhile.
        if turn.record().is_none() {
            return Err(no_such(name));
        }
        Ok(turn)
    }

    /// Removes a session. Gives its sandbox where that is kept.
    ///
    /// # Errors
    /// `NotFound`; `SessionBusy` while a run goes on in it, unless forced.
    pub(crate) async fn remove(
        &self,
        who: Principal,
        name: &SessionName,
        force: bool,
    ) -> Result<Option<SandboxId>, Failure> {
        let entry = self.find(who, name)?;
        if !force {
            entry.rests().await;
        }
        let record = entry.record_of(&self.0.store);
        let keeps = record.is_some_and(|record| record.persist);
        if force && !keeps {
            // Also where it looks idle: a run may be about to begin.
            entry.doom();
        }
        // What comes first is not removed under somebody's run either.
        let removal = Removal {
            keep: true,
            waits: force && !keeps,
        };
        entry.remove(removal).await
    }

    /// Gives a kept sandbox a name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` where there is a session of that name; why it
    /// cannot be had.
    pub(crate) async fn adopt(
        &self,
        who: Principal,
        id: &SandboxId,
        name: &SessionName,
    ) -> Result<v1::SessionInfo, Failure> {
        let entry = self.name_kept(who, id, name)?;
        // Where this fails it has its name as long as the daemon lives.
        self.0.store.write().await?;
        entry.settled(PATIENCE).await?;
        info::of(&entry, &self.0.store, name, None).ok_or_else(|| no_such(name))
    }

    /// A kept sandbox is a session from here on. Of two who want the same sandbox
    /// or the same name, one gets it.
    fn name_kept(
        &self,
        who: Principal,
        id: &SandboxId,
        name: &SessionName,
    ) -> Result<Arc<Entry>, Failure> {
        let whose = (who, name.clone());
        let mut table = self.table();
        if table.contains_key(&whose) {
            return Err(taken(name));
        }
        if self.0.closing.is_cancelled() {
            return Err(shutting_down());
        }
        let kept = |record: &Record| record.owner == who && record.name.is_none();
        let is_in_use = self.0.in_use().contains(id);
        if is_in_use && self.0.store.get(id).is_some_and(|record| kept(&record)) {
            return Err(kept::in_use(id));
        }
        let named = self.0.store.change(id, |record| {
            let kept = kept(record);
            if kept {
                record.name = Some(name.clone());
                record.used = SystemTime::now();
                // That it is kept was what its run or session asked for: now it is
                // a session like any other, which goes when it is removed.
                record.persist = false;
            }
            kept.then(|| record.clone())
        });
        let Some(named) = named.flatten() else {
            let message = format!("there is no kept sandbox `{id}`");
            return Err(Failure::new(FailureKind::NotFound, message)
                .hint("`isol8 session ls` shows which there are"));
        };
        Ok(self.begin(&mut table, whose, Some(named)))
    }

    /// The sessions of a caller and what was kept for the caller; with their
    /// sizes, where they are idle.
    pub(crate) async fn list(&self, who: Principal, sizes: bool) -> Vec<v1::SessionInfo> {
        let entries: Vec<(SessionName, Arc<Entry>)> = {
            let table = self.table();
            let own = table.iter().filter(|((owner, _), _)| *owner == who);
            own.map(|((_, name), entry)| (name.clone(), Arc::clone(entry)))
                .collect()
        };
        let asked = entries.iter().map(|(name, entry)| async move {
            let size = match sizes && !entry.is_busy() {
                true => timeout(PATIENCE, entry.size()).await.ok().flatten(),
                false => None,
            };
            info::of(entry, &self.0.store, name, size)
        });
        let mut all: Vec<_> = futures_util::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect();
        let kept = self.0.store.all().into_iter();
        let in_use = self.0.in_use();
        all.extend(
            kept.filter(|record| record.owner == who && record.name.is_none())
                .map(|record| info::of_kept(&record, in_use.contains(&record.sandbox))),
        );
        drop(in_use);
        all
    }

    /// What is known of a session, also of one that was made just now.
    fn record_of(&self, whose: &Whose) -> Option<Record> {
        let mut records = self.0.store.all().into_iter();
        records.find(|record| record.owner == whose.0 && record.name.as_ref() == Some(&whose.1))
    }

    /// Sandboxes of sessions, and those that were kept, on one engine.
    pub(crate) fn sandboxes(&self, engine: EngineKind) -> usize {
        let records = self.0.store.all();
        let there = records.iter().filter(|record| record.lost.is_none());
        there.filter(|record| record.key.engine == engine).count()
    }

    /// Waits a moment for sessions whose runs have told their end.
    pub(crate) async fn rest(&self) {
        let entries: Vec<Arc<Entry>> = self.table().values().cloned().collect();
        futures_util::future::join_all(entries.iter().map(|entry| entry.rests())).await;
    }

    /// What a cleanup may take: of one caller, or of everybody.
    pub(crate) fn idle(&self, who: Option<Principal>) -> Vec<Idle> {
        let table = self.table();
        let is_idle = |record: &Record| match &record.name {
            None => !self.0.in_use().contains(&record.sandbox),
            Some(name) => table
                .get(&(record.owner, name.clone()))
                .is_none_or(|entry| !entry.is_busy()),
        };
        let records = self.0.store.all().into_iter();
        records
            .filter(|record| who.is_none_or(|who| record.owner == who) && is_idle(record))
            .map(|record| Idle {
                owner: record.owner,
                name: record.name,
                sandbox: record.sandbox,
                engine: record.key.engine,
            })
            .collect()
    }

    /// Removes one of those, with its sandbox.
    ///
    /// # Errors
    /// `SessionBusy` where a run has come meanwhile; why it cannot be removed.
    pub(crate) async fn remove_idle(&self, idle: &Idle) -> Result<(), Failure> {
        let Some(name) = &idle.name else {
            return self.remove_kept(&idle.sandbox).await;
        };
        let Ok(entry) = self.find(idle.owner, name) else {
            return Ok(());
        };
        // One that was made since has the same name.
        if entry.view.borrow().sandbox.as_ref() != Some(&idle.sandbox) {
            return Ok(());
        }
        let removal = Removal {
            keep: false,
            waits: false,
        };
        entry.remove(removal).await.map(drop)
    }

    /// Lets go of every session, which then waits for the next daemon.
    pub(crate) async fn close(&self) {
        self.0.closing.cancel();
        self.0.store.settle().await;
    }
}

fn no_such(name: &SessionName) -> Failure {
    let message = format!("there is no session `{name}`");
    Failure::new(FailureKind::NotFound, message).hint("`isol8 session ls` shows which there are")
}

fn taken(name: &SessionName) -> Failure {
    let message = format!("there is a session `{name}` already");
    Failure::new(FailureKind::InvalidRequest, message)
        .hint(format!("choose another name, or `isol8 session rm {name}`"))
}

fn busy(name: &SessionName, keeps: bool) -> Failure {
    let failure = Failure::new(
        FailureKind::SessionBusy,
        format!("a run goes on in session `{name}`"),
    );
    match keeps {
        true => failure
            .cause("its sandbox is to be kept")
            .hint("wait for the run to end, or stop it"),
        false => failure.hint(format!(
            "wait for it to end, or `isol8 session rm --force {name}`"
        )),
    }
}

fn shutting_down() -> Failure {
    Failure::new(FailureKind::ShuttingDown, "the daemon is going down")
}

#[cfg(test)]
mod tests;
