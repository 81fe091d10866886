//! An engine that makes nothing: its sandboxes are tasks that speak the protocol
//! of init over a pipe in memory. Tests of everything above [`Engine`] drive it.
//!
//! What a program does is written in its text, one operation a line: see
//! [`script`]. What goes wrong is planned with [`FakeEngine::plan`] (the next
//! time that a [`Step`] is taken) or [`FakeEngine::plan_at`] (the n-th step of
//! all), so that one test can walk through every step and let it fail.
//!
//! A command that is not the program's file is an errand, such as an installer:
//! it ends well at once unless [`FakeEngine::errand`] says otherwise, and leaves
//! a trace to be fetched.
//!
//! A lasting sandbox keeps its files, its background processes and its token when
//! its stream ends, until it is destroyed or its init is killed: by
//! [`FakeEngine::kill_init`] or its own script. A daemon that starts anew is
//! another clone of the same engine.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, SandboxSpec},
};
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

#[cfg(doc)]
use crate::Engine;
use crate::ImageInfo;

mod engine;
mod fetch;
mod images;
mod init;
mod insides;
mod program;
pub mod script;
mod tree;
mod writing;

use init::Call;

/// A moment at which something can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// [`Engine::health`].
    Health,
    /// [`Engine::create`], before anything is made.
    Create,
    /// [`Engine::create`], when the sandbox exists and the caller does not know.
    Created,
    /// [`Engine::adopt`], before anything is touched.
    Adopt,
    /// [`Engine::set_limits`].
    SetLimits,
    /// [`Engine::counters`].
    Counters,
    /// [`Engine::destroy`], before anything is removed.
    Destroy,
    /// [`Engine::destroy`], when everything is removed and the caller waits.
    Destroyed,
    /// [`Engine::list`].
    List,
    /// [`Engine::prepare`].
    Prepare,
    /// [`Engine::build_image`].
    BuildImage,
    /// [`Engine::images`].
    Images,
    /// [`Engine::remove_image`].
    RemoveImage,
    /// Init took a frame and has not acted on it.
    FrameIn,
    /// Init is about to send a frame.
    FrameOut,
}

/// What goes wrong at a step.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call fails. Between frames: the connection is lost.
    Fail(Failure),
    /// Like [`Fault::Fail`], and the engine could not tidy up: a sandbox that
    /// existed stays, to be found by [`Engine::list`].
    FailAndLeave(Failure),
    /// It takes longer.
    Delay(Duration),
    /// It never ends.
    Hang,
    /// The code of the engine has a bug.
    Panic,
}

impl Fault {
    /// A failure for tests that do not look into it.
    #[must_use]
    pub fn refuse() -> Self {
        Self::Fail(Failure::new(FailureKind::EngineRefused, "scripted to fail"))
    }
}

/// A sandbox as the fake knows it.
#[derive(Debug)]
struct Live {
    daemon: DaemonId,
    spec: Option<SandboxSpec>,
    limits: Option<Limits>,
    counters: Counters,
    door: Option<TcpListener>,
    init: Option<LivingInit>,
}

/// An init that was started. Dropping it ends it.
#[derive(Debug)]
struct LivingInit {
    /// Closed when it has ended.
    calls: mpsc::Sender<Call>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct State {
    live: BTreeMap<SandboxId, Live>,
    created_total: u64,
    destroyed_total: u64,
    most_live: usize,
    set_limits_total: u64,
    steps: Vec<Step>,
    at: BTreeMap<usize, Fault>,
    next: Vec<(Step, VecDeque<Fault>)>,
    always: BTreeMap<Step, Fault>,
    dead_daemons: Vec<DaemonId>,
    parked_dies: bool,
    parkable: bool,
    customs: Vec<ImageInfo>,
    derived: BTreeSet<ImageName>,
    /// Those whose base image is not there.
    removed: BTreeSet<Runtime>,
    /// Scripts of errands, by a part of their command line.
    errand_scripts: Vec<(String, String)>,
    errands: Vec<String>,
    listening: bool,
}

/// The scripted engine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    kind: EngineKind,
    daemon: DaemonId,
    state: Arc<Mutex<State>>,
    tasks: TaskTracker,
}

impl FakeEngine {
    /// An engine on which everything works.
    #[must_use]
    pub fn new(kind: EngineKind, daemon: DaemonId) -> Self {
        Self {
            kind,
            daemon,
            state: Arc::new(Mutex::new(State {
                live: BTreeMap::new(),
                created_total: 0,
                destroyed_total: 0,
                most_live: 0,
                set_limits_total: 0,
                steps: Vec::new(),
                at: BTreeMap::new(),
                next: Vec::new(),
                always: BTreeMap::new(),
                dead_daemons: Vec::new(),
                parked_dies: false,
                parkable: true,
                customs: Vec::new(),
                derived: BTreeSet::new(),
                removed: BTreeSet::new(),
                errand_scripts: Vec::new(),
                errands: Vec::new(),
                listening: false,
            })),
            tasks: TaskTracker::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic that a test planned must not hide what it left behind.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets `step` go wrong the next time that it is taken and nothing that was
    /// planned earlier comes first.
    pub fn plan(&self, step: Step, fault: Fault) {
        let mut state = self.state();
        match state.next.iter_mut().find(|(planned, _)| *planned == step) {
            Some((_, faults)) => faults.push_back(fault),
            None => state.next.push((step, VecDeque::from([fault]))),
        }
    }

    /// Lets `step` go wrong every time, until [`FakeEngine::mend`].
    pub fn plan_always(&self, step: Step, fault: Fault) {
        self.state().always.insert(step, fault);
    }

    /// Lets the step of this number go wrong, counted from the engine's first.
    pub fn plan_at(&self, number: usize, fault: Fault) {
        self.state().at.insert(number, fault);
    }

    /// Forgets everything that was planned.
    pub fn mend(&self) {
        let mut state = self.state();
        state.at.clear();
        state.next.clear();
        state.always.clear();
    }

    /// Every step so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    /// Sandboxes that exist now.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Names of the sandboxes that exist now.
    #[must_use]
    pub fn live_ids(&self) -> Vec<SandboxId> {
        self.state().live.keys().cloned().collect()
    }

    /// The most sandboxes that ever existed at once.
    #[must_use]
    pub fn most_live(&self) -> usize {
        self.state().most_live
    }

    /// Sandboxes that were ever made.
    #[must_use]
    pub fn created_total(&self) -> u64 {
        self.state().created_total
    }

    /// Sandboxes that were ever destroyed.
    #[must_use]
    pub fn destroyed_total(&self) -> u64 {
        self.state().destroyed_total
    }

    /// Calls of [`Engine::set_limits`] that changed something.
    #[must_use]
    pub fn set_limits_total(&self) -> u64 {
        self.state().set_limits_total
    }

    /// The order that a live sandbox was made from.
    #[must_use]
    pub fn spec_of(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.state().live.get(id).and_then(|live| live.spec.clone())
    }

    /// The bounds that a live sandbox has now.
    #[must_use]
    pub fn limits_of(&self, id: &SandboxId) -> Option<Limits> {
        self.state().live.get(id).and_then(|live| live.limits)
    }

    /// Puts a sandbox there that nobody ordered, as a dead daemon leaves one.
    pub fn add_stranger(&self, id: SandboxId, daemon: DaemonId) {
        let live = Live {
            daemon,
            spec: None,
            limits: None,
            counters: Counters::default(),
            door: None,
            init: None,
        };
        self.state().live.insert(id, live);
    }

    /// Makes [`Engine::daemon_is_alive`] say no for this daemon.
    pub fn daemon_died(&self, daemon: DaemonId) {
        self.state().dead_daemons.push(daemon);
    }

    /// Whether parked interpreters die before they are used.
    pub fn parked_dies(&self, dies: bool) {
        self.state().parked_dies = dies;
    }

    /// Whether interpreters can be parked at all.
    pub fn parkable(&self, parkable: bool) {
        self.state().parkable = parkable;
    }

    /// Lets commands other than the program's file whose command line contains
    /// `part` do what a script says. The last one that fits counts.
    pub fn errand(&self, part: &str, script: &str) {
        let errand = (part.to_owned(), script.to_owned());
        self.state().errand_scripts.push(errand);
    }

    /// The command lines of all errands so far.
    #[must_use]
    pub fn errands(&self) -> Vec<String> {
        self.state().errands.clone()
    }

    fn errand_of(&self, command_line: String) -> Vec<u8> {
        let mut state = self.state();
        let mut scripts = state.errand_scripts.iter().rev();
        let script = scripts.find(|(part, _)| command_line.contains(part));
        let script = script.map(|(_, script)| script.clone().into_bytes());
        state.errands.push(command_line);
        script.unwrap_or_default()
    }

    /// Whether filtered sandboxes have a listener: a real one on this host's
    /// loopback. Off at first.
    pub fn listening(&self, listening: bool) {
        self.state().listening = listening;
    }

    /// Where programs of a live sandbox would find the proxy.
    #[must_use]
    pub fn door_of(&self, id: &SandboxId) -> Option<SocketAddr> {
        let state = self.state();
        let door = state.live.get(id)?.door.as_ref();
        door.and_then(|door| door.local_addr().ok())
    }

    /// Kills a sandbox's init, as a third party would: the stream ends, and
    /// whatever was in the sandbox, which stays until it is destroyed.
    pub fn kill_init(&self, id: &SandboxId) {
        if let Some(live) = self.state().live.get_mut(id) {
            live.init = None;
        }
    }

    /// Lets a sandbox have so much memory in use.
    pub fn hold(&self, id: &SandboxId, bytes: u64) {
        self.count(id, |counters| counters.memory_bytes = bytes);
    }

    /// Changes what a sandbox has used.
    fn count(&self, id: &SandboxId, change: impl FnOnce(&mut Counters)) {
        if let Some(live) = self.state().live.get_mut(id) {
            change(&mut live.counters);
        }
    }

    /// Takes a step: `Some` is a failure that was planned for it.
    async fn step(&self, step: Step) -> Option<Fault> {
        let fault = {
            let mut state = self.state();
            let number = state.steps.len();
            state.steps.push(step);
            let planned = state.at.remove(&number).or_else(|| {
                let (_, faults) = state.next.iter_mut().find(|(next, _)| *next == step)?;
                faults.pop_front()
            });
            planned.or_else(|| state.always.get(&step).cloned())
        };
        match fault? {
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                None
            }
            Fault::Hang => std::future::pending().await,
            Fault::Panic => panic!("scripted to panic at {step:?}"),
            failing => Some(failing),
        }
    }

    /// A step of a call on which nothing depends but its answer.
    async fn call(&self, step: Step) -> Result<(), Failure> {
        match self.step(step).await {
            Some(Fault::Fail(failure) | Fault::FailAndLeave(failure)) => Err(failure),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
