//! Plays the owner task, the engine and the clients, and asserts at every step
//! what must never happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::*;
use crate::{
    failure::FailureKind,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::Network,
};

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn limits(memory_mib: u64) -> Limits {
    Limits {
        memory: ByteSize::mib(memory_mib),
        cpu: CpuMillis::ONE,
        pids: Pids::new(64).unwrap(),
    }
}

pub(super) fn key(runtime: Runtime) -> SandboxKey {
    SandboxKey {
        engine: EngineKind::Native,
        runtime,
        image: None,
        network: Network::None,
        writable: false,
        sandbox_size: ByteSize::mib(512),
        tmp_size: ByteSize::mib(256),
        layer: None,
    }
}

pub(super) fn layer(number: usize) -> LayerId {
    LayerId::parse(&format!("{number:032x}")).unwrap()
}

pub(super) fn with_layer(number: usize) -> SandboxKey {
    SandboxKey {
        layer: Some(layer(number)),
        ..key(Runtime::Python)
    }
}

pub(super) fn policy(clean: u32) -> Policy {
    Policy {
        clean,
        most_per_key: 4,
        most_warm: 6,
        most_making: 2,
        most_destroying: 2,
        limits: limits(512),
    }
}

pub(super) fn broken() -> Failure {
    Failure::new(FailureKind::EngineRefused, "no")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Making,
    Ready,
    Leased,
    Destroying,
}

/// Plays the owner task, the engine and the clients.
pub(super) struct World {
    pub(super) pool: Pool,
    pub(super) policy: Policy,
    pub(super) now: Duration,
    pub(super) sandboxes: BTreeMap<SandboxId, (Stage, SandboxKey)>,
    /// Every id that was ever handed out.
    pub(super) served: BTreeSet<SandboxId>,
    /// Those whose lease is over.
    pub(super) released: BTreeSet<SandboxId>,
    pub(super) waiting: BTreeMap<Ticket, SandboxKey>,
    /// Those of them that wait for warm ones, not for one of their own.
    pub(super) warmers: BTreeSet<Ticket>,
    pub(super) aborted: BTreeSet<SandboxId>,
    pub(super) tickets: u64,
    pub(super) handed: Vec<(SandboxId, bool)>,
    pub(super) failed: usize,
    pub(super) warmed: Vec<u32>,
}

impl World {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            pool: Pool::new(policy.clone()),
            policy,
            now: Duration::ZERO,
            sandboxes: BTreeMap::new(),
            served: BTreeSet::new(),
            released: BTreeSet::new(),
            waiting: BTreeMap::new(),
            warmers: BTreeSet::new(),
            aborted: BTreeSet::new(),
            tickets: 0,
            handed: Vec::new(),
            failed: 0,
            warmed: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, event: Event) {
        if let Event::Release { id } = &event {
            self.released.insert(id.clone());
        }
        for action in self.pool.step(self.now, event) {
            self.perform(action);
        }
        self.check();
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Make { id, key, .. } => {
                let before = self.sandboxes.insert(id, (Stage::Making, key.clone()));
                assert!(before.is_none(), "an id is used twice");
                // A refill is what no lease waits for.
                let leases = self
                    .waiting
                    .iter()
                    .filter(|(ticket, wanted)| **wanted == key && !self.warmers.contains(ticket));
                let makes = self.sandboxes.values();
                let makes = makes.filter(|(stage, of)| *stage == Stage::Making && *of == key);
                if makes.count() > leases.count() {
                    let making = self.count(Stage::Making);
                    assert!(
                        making <= self.policy.most_making as usize,
                        "too many refills"
                    );
                }
            }
            Action::Abort { id } => {
                assert_eq!(self.sandboxes[&id].0, Stage::Making);
                assert!(self.aborted.insert(id), "aborted twice");
            }
            Action::Hand {
                ticket, id, warm, ..
            } => {
                let wanted = self.waiting.remove(&ticket).expect("somebody waits");
                let (stage, key) = self.sandboxes.get_mut(&id).expect("it lives");
                assert_eq!((*stage, &*key), (Stage::Ready, &wanted));
                *stage = Stage::Leased;
                assert!(self.served.insert(id.clone()), "one sandbox for two runs");
                self.handed.push((id, warm));
            }
            Action::Fail { ticket, .. } => {
                self.waiting.remove(&ticket).expect("somebody waits");
                self.failed += 1;
            }
            Action::Warmed { ticket, count } => {
                self.waiting.remove(&ticket).expect("somebody waits");
                self.warmed.push(count);
            }
            Action::Destroy { id } => {
                let (stage, _) = self.sandboxes.get_mut(&id).expect("it lives");
                assert_ne!(*stage, Stage::Making, "destroyed under the make");
                assert_ne!(*stage, Stage::Destroying, "destroyed twice at a time");
                let leased = *stage == Stage::Leased && !self.released.contains(&id);
                assert!(!leased, "destroyed under its run");
                *stage = Stage::Destroying;
            }
        }
    }

    pub(super) fn check(&self) {
        let warm = self.warm_now();
        assert!(warm <= self.policy.most_warm, "{warm} warm");
        assert!(warm as usize <= self.count(Stage::Ready), "not ready");
        let destroying = self.count(Stage::Destroying);
        assert!(destroying <= self.policy.most_destroying as usize);
        assert!(self.pool.live() >= self.sandboxes.len(), "one is forgotten");
    }

    pub(super) fn count(&self, stage: Stage) -> usize {
        let stages = self.sandboxes.values();
        stages.filter(|(other, _)| *other == stage).count()
    }

    pub(super) fn pick(&self, stage: Stage, pick: usize) -> Option<SandboxId> {
        let of_stage = self.sandboxes.iter().filter(|(_, (s, _))| *s == stage);
        let ids: Vec<_> = of_stage.map(|(id, _)| id.clone()).collect();
        ids.get(pick % ids.len().max(1)).cloned()
    }

    pub(super) fn ticket(&mut self, key: &SandboxKey) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, key.clone());
        ticket
    }

    pub(super) fn lease(&mut self, key: &SandboxKey, limits: Limits) -> Ticket {
        let ticket = self.ticket(key);
        let key = key.clone();
        self.step(Event::Lease {
            ticket,
            key,
            limits,
        });
        ticket
    }

    pub(super) fn warm(&mut self, key: &SandboxKey, count: u32) {
        let ticket = self.ticket(key);
        self.warmers.insert(ticket);
        let key = key.clone();
        self.step(Event::Warm { ticket, key, count });
    }

    pub(super) fn forget(&mut self, layer: LayerId) {
        self.step(Event::Forget {
            layers: [layer].into(),
        });
    }

    /// Somebody tidies up. What is warm goes, and nothing else.
    pub(super) fn empty(&mut self) {
        let leased = self.count(Stage::Leased);
        let idle = self.pool.idle();
        assert_eq!(idle.len(), self.warm_now() as usize);
        self.step(Event::Empty);
        assert_eq!(self.warm_now(), 0);
        assert_eq!(self.count(Stage::Leased), leased);
        assert!(idle.iter().all(|(id, _)| self.pool.is_in_the_air(id)));
    }

    pub(super) fn make_ends(&mut self, pick: usize, good: bool) {
        let Some(id) = self.pick(Stage::Making, pick) else {
            return;
        };
        self.sandboxes.get_mut(&id).unwrap().0 = Stage::Ready;
        let result = if good && !self.aborted.contains(&id) {
            Ok(())
        } else {
            Err(broken())
        };
        self.step(Event::Made { id, result });
    }

    pub(super) fn destroy_ends(&mut self, pick: usize, gone: bool) {
        let Some(id) = self.pick(Stage::Destroying, pick) else {
            return;
        };
        if gone {
            self.sandboxes.remove(&id);
        } else {
            self.sandboxes.get_mut(&id).unwrap().0 = Stage::Ready;
        }
        self.step(Event::Destroyed { id, gone });
    }

    pub(super) fn release(&mut self, pick: usize) {
        if let Some(id) = self.pick(Stage::Leased, pick) {
            self.step(Event::Release { id });
            self.pass(SETTLE);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.pool.wake_at().filter(|at| *at <= end) {
            assert!(at > self.now, "the pool would spin");
            self.now = at;
            self.step(Event::Wake);
        }
        self.now = end;
        self.step(Event::Wake);
    }

    /// Everything that can end, ends well, and time goes by.
    pub(super) fn settle(&mut self, time: Duration) {
        self.pass(time);
        for _ in 0..100 {
            self.make_ends(0, true);
            self.destroy_ends(0, true);
            self.pass(SETTLE);
        }
    }

    pub(super) fn warm_now(&self) -> u32 {
        let status = self.pool.status(self.now);
        status.keys.iter().map(|key| key.warm).sum()
    }
}
