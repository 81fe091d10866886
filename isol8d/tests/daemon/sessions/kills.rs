//! A daemon that is killed at any step, and the next one on the same state folder:
//! what was acknowledged is there, and nothing is there that is nobody's.
//!
//! Each daemon has a runtime of its own that is torn down under it, while the
//! sandboxes live on in another one. So the clock is the real one here, and every
//! wait is for a condition.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use isol8_engine::fake::Fault;
use isol8_proto::v1::{Exited, Start, Verdict, run_event::Event};
use tokio::runtime::{Builder, Runtime};

use super::{adopt, keeping, list, remove, run_as, sandbox, work};
use crate::stage::{Ground, ME, Ran, Run, Stage, config, python};

mod elsewhere;

/// More than anything takes that works.
const LONG: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

/// What outlives daemons.
struct World {
    sandboxes: Runtime,
    ground: Ground,
}

/// A daemon that can be killed.
struct Life {
    runtime: Runtime,
    stage: Arc<Stage>,
}

/// What a client has heard by the time that the daemon is killed.
#[derive(Debug, Clone, Default)]
struct Heard {
    sandbox: Option<String>,
    exited: Option<Exited>,
    /// Nothing more will be heard.
    ended: bool,
}

type Ear = Arc<Mutex<Heard>>;

fn heard(ear: &Ear) -> Heard {
    ear.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl World {
    fn new() -> Self {
        Self {
            sandboxes: runtime(),
            ground: Ground::new(),
        }
    }

    fn daemon(&self) -> Life {
        let runtime = runtime();
        let engines = elsewhere::engines(&self.ground, self.sandboxes.handle());
        let ground = self.ground.clone();
        // Steps are counted: nothing is made ahead.
        let config = config(|config| config.pool.clean = 0);
        let stage = runtime.block_on(async { Stage::on(ground, engines, config, 5 << 30) });
        Life {
            runtime,
            stage: Arc::new(stage),
        }
    }

    /// Lets the daemon pause at a step that is to come, and waits until it does or
    /// `over` holds. Whether it came to the step.
    fn reach(&self, number: usize, over: impl Fn() -> bool) -> bool {
        let until = Instant::now() + LONG;
        loop {
            if self.ground.native.steps().len() > number {
                return true;
            }
            if over() {
                return false;
            }
            assert!(Instant::now() < until, "step {number} does not come");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn pause_at(&self, number: usize) {
        let pause = Fault::Delay(Duration::from_millis(15));
        self.ground.native.plan_at(number, pause);
    }
}

impl Life {
    /// Takes the process away: not one line of it runs after this.
    fn kill(self) {
        drop(self.runtime);
    }

    /// Runs code in the session.
    fn run(&self, code: &str) -> Ran {
        let run = async { run_as(self.stage.channel(ME), work(code)).await };
        self.runtime.block_on(run)
    }

    fn start(&self, start: Start) -> Ear {
        let ear = Ear::default();
        let (stage, mouth) = (Arc::clone(&self.stage), Arc::clone(&ear));
        self.runtime.spawn(async move {
            let mut run = Run::start(stage.channel(ME), start).await;
            while let Some(event) = run.next().await {
                let mut heard = mouth.lock().expect("no panic");
                match event {
                    Ok(Event::Accepted(accepted)) => heard.sandbox = Some(accepted.sandbox_id),
                    Ok(Event::Exited(exited)) => heard.exited = Some(exited),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            mouth.lock().expect("no panic").ended = true;
        });
        ear
    }

    /// Waits until nothing is there but sessions, and gives their sandboxes.
    async fn settled(&self) -> Vec<String> {
        let until = Instant::now() + LONG;
        loop {
            let listed = list(self.stage.channel(ME)).await;
            if self.stage.native.live() == listed.len() {
                return listed.into_iter().map(|info| info.sandbox_id).collect();
            }
            let left = self.stage.native.live_ids();
            assert!(Instant::now() < until, "{left:?} are left of {listed:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The session can be used and removed, and leaves nothing.
    async fn check(&self, code: &str) -> String {
        let ran = run_as(self.stage.channel(ME), work(code)).await;
        let kept = remove(self.stage.channel(ME), "work", false).await;
        assert_eq!(kept.expect("it can be removed"), "");
        assert_eq!(self.stage.native.live(), 0);
        ran.text()
    }
}

#[test]
fn at_every_step_of_the_first_run() {
    let (mut there, mut missing) = (0, 0);
    for number in 0.. {
        let world = World::new();
        world.pause_at(number);
        let life = world.daemon();
        let ear = life.start(work("write notes kept"));
        let reached = world.reach(number, || heard(&ear).ended);
        life.kill();
        let heard = heard(&ear);

        let life = world.daemon();
        life.runtime.block_on(async {
            let left = life.settled().await;
            if let Some(sandbox) = &heard.sandbox {
                assert_eq!(
                    left,
                    std::slice::from_ref(sandbox),
                    "step {number}: {heard:?}"
                );
            }
            let text = life.check("read notes").await;
            if heard.exited.is_some() {
                assert_eq!(text, "kept\n", "step {number}");
            }
            match left.is_empty() {
                true => missing += 1,
                false => there += 1,
            }
        });
        if !reached {
            assert_eq!(heard.exited.map(|e| e.verdict()), Some(Verdict::Exited));
            break;
        }
    }
    assert!(there > 5 && missing > 3, "{there} {missing}");
}

#[test]
fn at_every_step_of_a_run_that_keeps_its_sandbox() {
    let (mut there, mut missing) = (0, 0);
    for number in 0.. {
        let world = World::new();
        world.pause_at(number);
        let life = world.daemon();
        let ear = life.start(keeping(python("write notes kept")));
        let reached = world.reach(number, || heard(&ear).ended);
        life.kill();
        let heard = heard(&ear);

        let life = world.daemon();
        life.runtime.block_on(async {
            let left = life.settled().await;
            if let Some(sandbox) = &heard.sandbox {
                assert_eq!(left, std::slice::from_ref(sandbox), "step {number}");
            }
            let Some(sandbox) = left.first() else {
                missing += 1;
                return;
            };
            there += 1;
            let adopted = adopt(life.stage.channel(ME), sandbox, "work").await;
            assert_eq!(adopted.expect("it is there").name, "work");
            let text = life.check("read notes").await;
            if let Some(exited) = &heard.exited {
                assert_eq!(&exited.kept_sandbox_id, sandbox);
                assert_eq!(text, "kept\n", "step {number}");
            }
        });
        if !reached {
            break;
        }
    }
    assert!(there > 5 && missing > 3, "{there} {missing}");
}

#[test]
fn at_every_step_of_a_later_run() {
    for number in 0.. {
        let world = World::new();
        let life = world.daemon();
        let first = life.run("write notes kept\nbackground server");
        let begun = world.ground.native.steps().len();
        world.pause_at(begun + number);
        let ear = life.start(work("out old\nwrite other x\nsleep 5"));
        let reached = world.reach(begun + number, || heard(&ear).ended);
        life.kill();

        let life = world.daemon();
        life.runtime.block_on(async {
            assert_eq!(life.settled().await, [sandbox(&first)], "step {number}");
            let text = life.check("read notes\nps").await;
            assert_eq!(text, "kept\nserver\n", "step {number}");
        });
        if !reached {
            break;
        }
    }
}

#[test]
fn at_every_step_of_a_removal() {
    for number in 0.. {
        let world = World::new();
        let life = world.daemon();
        life.run("write notes kept");
        let begun = world.ground.native.steps().len();
        world.pause_at(begun + number);
        let stage = Arc::clone(&life.stage);
        let removal = life
            .runtime
            .spawn(async move { remove(stage.channel(ME), "work", false).await });
        let reached = world.reach(begun + number, || removal.is_finished());
        life.kill();

        let life = world.daemon();
        life.runtime.block_on(async {
            let left = life.settled().await;
            let text = life.check("read notes").await;
            match left.is_empty() {
                true => assert_eq!(text, "no notes\n", "step {number}"),
                // It was not done, and nobody has been told that it was.
                false => assert_eq!((text.as_str(), reached), ("kept\n", true)),
            }
        });
        if !reached {
            break;
        }
    }
}

/// Killed again and again, also while it looks for the session.
#[test]
fn at_every_step_of_a_start() {
    let world = World::new();
    let life = world.daemon();
    let first = life.run("write notes kept\nbackground server");
    life.kill();
    for number in 0..12 {
        let begun = world.ground.native.steps().len();
        world.pause_at(begun + number);
        let life = world.daemon();
        let ear = life.start(work("sleep 1"));
        world.reach(begun + number, || heard(&ear).ended);
        life.kill();
    }
    let life = world.daemon();
    life.runtime.block_on(async {
        assert_eq!(life.settled().await, [sandbox(&first)]);
        assert_eq!(life.check("read notes\nps").await, "kept\nserver\n");
    });
}
