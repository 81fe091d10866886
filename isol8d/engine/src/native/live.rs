//! The sandboxes of this process, and what is done to one of them. All of it
//! blocks.
//!
//! ```text
//!           start                           destroy
//! (nothing) ─────▶ group, folder, launcher ────────▶ killed ─▶ (nothing)
//!                         │ init dials                 ▲
//!                         ▼                            │ destroy
//!                        live ─────────────────────────┘
//! ```
//! A sandbox is doomed by the first `destroy`: a `start` that is still at work
//! then makes nothing more. One that lasts may be live from the beginning: made by
//! an earlier process, and noted when it is [taken over](super::adopt).

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    sandbox::{Limits, Network, SandboxKey, SandboxSpec},
};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    cgroup::Cgroups,
    ground::Ground,
    interpreters::Installed,
    jail,
    launch::{Ended, Jail},
};
use crate::{
    Found,
    meet::{self, Meeting, Met},
    presence::Presence,
    uids::SlotUid,
};

/// The longest wait for init to dial. A jail takes a few milliseconds; this is
/// for a host that has come to a halt, and is below `CREATE_DEADLINE` with room
/// for tidying up.
const DIAL_DEADLINE: Duration = Duration::from_secs(12);
/// The longest wait for a launcher to be buried after all of its group is dead.
const BURIAL_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ground: Ground,
    live: Mutex<HashMap<SandboxId, Arc<Live>>>,
    tracker: TaskTracker,
    /// Keeps other daemons from tidying up after this one.
    _presence: Presence,
}

/// One sandbox of this process.
#[derive(Debug)]
pub(super) struct Live {
    /// Its host uid, free again when the last reference to this is gone.
    uid: SlotUid,
    state: Mutex<State>,
    /// Somebody is taking it over.
    adopting: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// Being made; or made, with this. Another process may have made it.
    Up {
        jail: Option<Jail>,
        /// `None`: not known.
        limits: Option<Limits>,
    },
    /// Destroyed, or about to be.
    Doomed { jail: Option<Jail> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(ground: Ground, presence: Presence) -> Self {
        Self {
            ground,
            live: Mutex::default(),
            tracker: TaskTracker::new(),
            _presence: presence,
        }
    }

    /// Takes note of a sandbox that is going to be made.
    pub(super) fn note(&self, id: &SandboxId) -> Result<Arc<Live>, Failure> {
        let live = Arc::new(Live::new(self.ground.lease_uid()?));
        match lock(&self.live).entry(id.clone()) {
            // What follows would take the other one for a failed attempt.
            Entry::Occupied(_) => {
                let message = format!("there is a sandbox `{id}` already");
                Err(Failure::new(FailureKind::Internal, message))
            }
            Entry::Vacant(free) => {
                free.insert(Arc::clone(&live));
                Ok(live)
            }
        }
    }

    /// Takes note of a sandbox that an earlier process may have made, under this
    /// uid, unless it is known already. True: it was not.
    pub(super) fn note_again(&self, id: &SandboxId, uid: u32) -> (Arc<Live>, bool) {
        match lock(&self.live).entry(id.clone()) {
            Entry::Occupied(known) => (Arc::clone(known.get()), false),
            Entry::Vacant(free) => {
                let live = Arc::new(Live::new(self.ground.reserve_uid(uid)));
                (Arc::clone(free.insert(live)), true)
            }
        }
    }

    /// Forgets a sandbox of which nothing lives, if it is this very note.
    pub(super) fn forget(&self, id: &SandboxId, noted: &Arc<Live>) {
        let mut live = lock(&self.live);
        if live.get(id).is_some_and(|live| Arc::ptr_eq(live, noted)) {
            live.remove(id);
        }
    }

    /// Makes everything of a sandbox up to its running launcher.
    pub(super) fn start(
        &self,
        spec: &SandboxSpec,
        live: &Live,
    ) -> Result<(Meeting, Jail, Installed), Failure> {
        // Held to the end: `destroy` waits, and then finds whatever was made.
        let mut state = lock(&live.state);
        if matches!(*state, State::Doomed { .. }) {
            return Err(Failure::new(
                FailureKind::Internal,
                "the sandbox was given up",
            ));
        }
        let cgroups = self.ground.cgroups()?;
        let tools = self.ground.tools()?;
        let interpreter = self.ground.find_interpreter(spec.key.runtime)?;
        let place = self.ground.place();
        let layer = place.layer_of(&spec.key)?;
        cgroups.create(&spec.id, &spec.limits).map_err(|error| {
            Failure::new(FailureKind::HostLacks, "cannot make the sandbox's cgroup").because(&error)
        })?;
        let meeting = Meeting::open(&place.runtime_dir, &spec.id)?;
        let order = jail::Order {
            bwrap: &tools.bwrap.path,
            disable_userns: tools.bwrap.disable_userns,
            join: &cgroups.join_files(&spec.id),
            uid: self.ground.is_root().then(|| live.uid.get()),
            stage: &tools.stage,
            seccomp: &tools.seccomp,
            kit: &place.kit,
            link: meeting.folder(),
            etc: &tools.etc,
            rootfs: &tools.rootfs,
            resolv_conf: tools.resolv_conf.as_deref(),
            interpreter: &interpreter,
            layer: layer.as_deref(),
            key: &spec.key,
            lasting: spec.lasting.then_some(place.orphaned),
        };
        let launcher = place.kit.join("init");
        let jail = Jail::start(&self.tracker, &launcher, &order.arguments()).map_err(|error| {
            let message = format!("cannot start `{}`", launcher.display());
            Failure::new(FailureKind::Internal, message).because(&error)
        })?;
        *state = State::Up {
            jail: Some(jail.clone()),
            limits: Some(spec.limits),
        };
        Ok((meeting, jail, interpreter))
    }

    /// Waits for init, or for the launcher to give up.
    pub(super) async fn dialled(
        &self,
        spec: &SandboxSpec,
        live: &Live,
        meeting: Meeting,
        mut jail: Jail,
    ) -> Result<Met, Failure> {
        let cgroups = self.ground.cgroups()?;
        let uid = live.uid.get();
        let filtered = spec.key.network == Network::Filtered;
        let is_init = |peer: &meet::Peer| peer.uid == uid && cgroups.holds(&spec.id, peer.pid);
        tokio::select! {
            met = meeting.accept(DIAL_DEADLINE, filtered, is_init) => met,
            ended = jail.ended() => {
                let oom = cgroups.counters(&spec.id).is_ok_and(|counters| counters.oom_kills > 0);
                Err(not_made(&spec.key, &ended, oom))
            }
        }
    }

    /// Kills and removes a sandbox. Blocks.
    pub(super) fn destroy(&self, id: &SandboxId, runtime: &Handle) -> Result<(), Failure> {
        let live = lock(&self.live).get(id).cloned();
        let jail = live.as_ref().and_then(|live| live.doom());
        let failed = |error: io::Error| {
            Failure::new(
                FailureKind::Internal,
                format!("cannot remove sandbox `{id}`"),
            )
            .because(&error)
        };
        // Without cgroups nothing was ever made.
        if let Ok(cgroups) = self.ground.cgroups() {
            for found in self
                .groups_of(cgroups, id, live.is_some())
                .map_err(failed)?
            {
                cgroups.kill(&found).map_err(failed)?;
                meet::remove_folder(&self.ground.place().runtime_dir, id).map_err(failed)?;
                cgroups.remove(&found).map_err(failed)?;
            }
        }
        if let Some(mut jail) = jail {
            // The tasks of a runtime that is going down will not come back to it.
            let buried = runtime.block_on(timeout(BURIAL_DEADLINE, jail.ended()));
            if buried.is_err() {
                tracing::warn!(sandbox_id = %id, "a launcher was not buried in time");
            }
        }
        lock(&self.live).remove(id);
        Ok(())
    }

    /// The groups with this name: our own without a look at the others.
    fn groups_of(&self, cgroups: &Cgroups, id: &SandboxId, ours: bool) -> io::Result<Vec<Found>> {
        if ours {
            let daemon = self.ground.place().daemon.clone();
            let id = id.clone();
            return Ok(vec![Found { id, daemon }]);
        }
        let mut found = cgroups.list()?;
        found.retain(|one| one.id == *id);
        Ok(found)
    }

    pub(super) fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), Failure> {
        let live = lock(&self.live).get(id).cloned();
        let Some(live) = live else {
            return Err(no_such(id));
        };
        let mut state = lock(&live.state);
        let State::Up {
            limits: current, ..
        } = &mut *state
        else {
            return Err(no_such(id));
        };
        if *current == Some(*limits) {
            return Ok(());
        }
        // Unknown from here until all of it is written.
        *current = None;
        self.ground
            .cgroups()?
            .set_limits(id, limits)
            .map_err(|error| limits_refused(limits, &error))?;
        *current = Some(*limits);
        Ok(())
    }
}

fn limits_refused(limits: &Limits, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ResourceBusy {
        return Failure::new(
            FailureKind::Unsupported,
            format!(
                "a warm sandbox alone takes more than the memory limit of {}",
                limits.memory
            ),
        )
        .hint("raise `--memory`");
    }
    Failure::new(
        FailureKind::EngineRefused,
        "cannot set the sandbox's limits",
    )
    .because(error)
}

impl Live {
    fn new(uid: SlotUid) -> Self {
        Self {
            uid,
            state: Mutex::new(State::Up {
                jail: None,
                limits: None,
            }),
            adopting: AtomicBool::new(false),
        }
    }

    pub(super) fn is_doomed(&self) -> bool {
        matches!(*lock(&self.state), State::Doomed { .. })
    }

    /// Reserves the right to take it over: a second socket would be in the way of
    /// the first. `None`: somebody has it.
    pub(super) fn begin_adoption(self: &Arc<Self>) -> Option<Adopting> {
        let taken = self.adopting.swap(true, Ordering::AcqRel);
        (!taken).then(|| Adopting(Arc::clone(self)))
    }

    /// The host uid of its programs.
    pub(super) const fn uid(&self) -> u32 {
        self.uid.get()
    }

    fn doom(&self) -> Option<Jail> {
        let mut state = lock(&self.state);
        let jail = match &mut *state {
            State::Up { jail, .. } | State::Doomed { jail } => jail.clone(),
        };
        *state = State::Doomed { jail: jail.clone() };
        jail
    }
}

/// The right to take a sandbox over, given back on drop.
#[derive(Debug)]
pub(super) struct Adopting(Arc<Live>);

impl Drop for Adopting {
    fn drop(&mut self) {
        self.0.adopting.store(false, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(cgroups) = self.ground.cgroups_if_open() {
            cgroups.tidy(&self.ground.place().daemon);
        }
    }
}

pub(super) fn no_such(id: &SandboxId) -> Failure {
    Failure::new(FailureKind::NotFound, format!("no sandbox `{id}`"))
}

/// Why a jail ended before its init dialled, in its own words.
fn not_made(key: &SandboxKey, ended: &Ended, oom: bool) -> Failure {
    if oom {
        return Failure::new(
            FailureKind::InvalidRequest,
            "the memory limit leaves no room for the sandbox itself",
        )
        .hint("raise it with `--memory`");
    }
    let status = ended
        .status
        .map_or("lost".to_owned(), |status| status.to_string());
    let mut failure = if key.writable {
        Failure::new(
            FailureKind::Unsupported,
            "this host cannot make a jail with a writable root",
        )
        .hint("leave `--writable` out, or use `--engine docker`")
    } else {
        Failure::new(FailureKind::HostLacks, "this host cannot make a jail")
            .hint("`isol8 doctor` tells what is missing; `--engine docker` needs none of it")
    };
    for line in ended.words.lines().take(5) {
        failure = failure.cause(line);
    }
    failure.cause(format!("the launcher ended with {status}"))
}
