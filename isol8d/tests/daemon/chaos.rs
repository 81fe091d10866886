//! Many clients at once, each doing what it likes, on an engine that fails now
//! and then: everybody who stays hears one end, and nothing is left.

use std::time::Duration;

use futures_util::future::join_all;
use isol8_core::{
    failure::{Failure, FailureKind},
    ids::Principal,
};
use isol8_engine::fake::{FakeEngine, Fault};
use isol8_proto::v1::run_request::Message;
use tokio::time::{sleep, timeout};

use crate::stage::{Run, Stage, config, limited};

/// Rounds, each with a seed of its own.
const ROUNDS: u64 = 40;

const CLIENTS: u64 = 16;

/// Numbers that look random and are the same in every round (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let last = u64::try_from(from.len()).expect("a short list");
        from[usize::try_from(self.roll(last)).expect("a short list")]
    }
}

const PROGRAMS: [&str; 14] = [
    "out hello\nexit 1",
    "flood 3000000",
    "flood-err 500000\nflood 500000",
    "echo-stdin",
    "sleep 700\nout done",
    "signal-wait\nout done",
    "hang",
    "deaf",
    "die",
    "oom",
    "oom-init",
    "nonsense",
    "refuse 1",
    "kill 11",
];

/// `may_leave`: also faults after which the engine cannot tidy up.
fn plan_faults(engine: &FakeEngine, dice: &mut Dice, may_leave: bool) {
    for _ in 0..dice.roll(12) {
        let number = usize::try_from(dice.roll(400)).expect("small");
        let gone = Failure::new(FailureKind::EngineUnreachable, "gone");
        let fault = match dice.roll(4) {
            0 => Fault::refuse(),
            1 if may_leave => Fault::FailAndLeave(gone),
            _ => Fault::Delay(Duration::from_millis(dice.roll(3000))),
        };
        engine.plan_at(number, fault);
    }
}

/// One client: starts, says things, and stays to the end or goes.
async fn client(stage: &Stage, mut dice: Dice) {
    sleep(Duration::from_millis(dice.roll(2000))).await;
    let mut start = limited(dice.pick(&PROGRAMS), |limits| {
        limits.max_output_bytes = 1 << dice.roll(30);
        limits.timeout_ms = 500 + dice.roll(4000);
    });
    start.stdin = dice.roll(2) == 0;
    start.buffered =
        start.limits.is_some_and(|l| l.max_output_bytes < 1 << 20) && dice.roll(2) == 0;
    let stdin = start.stdin;
    let who = Principal(u32::try_from(dice.roll(3)).expect("small"));
    let run = Run::start(stage.channel(who), start).await;
    for _ in 0..dice.roll(4) {
        sleep(Duration::from_millis(dice.roll(300))).await;
        match dice.roll(3) {
            0 if stdin => run.say(Message::Stdin(vec![7; 100_000].into())),
            1 => run.signal(dice.pick(&[2, 9, 15])),
            _ => {}
        }
    }
    if dice.roll(3) == 0 {
        drop(run);
        return;
    }
    let limit = Duration::from_secs(90);
    let ended = timeout(limit, run.end()).await;
    ended.expect("a client that stays hears the end");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_nothing_is_left() {
    for seed in 0..ROUNDS {
        let mut dice = Dice(seed);
        let slots = 1 + u32::try_from(dice.roll(6)).expect("small");
        let stopped = (dice.roll(3) == 0).then(|| dice.roll(4000));
        let stage = Stage::with(config(|c| c.max_concurrent = slots), |native, _| {
            plan_faults(native, &mut dice, stopped.is_none());
        });
        let clients = (0..CLIENTS).map(|_| client(&stage, Dice(dice.roll(u64::MAX))));
        let stop = async {
            if let Some(after_ms) = stopped {
                sleep(Duration::from_millis(after_ms)).await;
                stage.daemon.stop();
            }
        };
        tokio::join!(join_all(clients), stop);
        if stopped.is_none() {
            // What the engine could not tidy up is found by a sweep.
            stage.native.mend();
            stage
                .wait_for(
                    "only warm ones are left",
                    Duration::from_secs(200),
                    |stage| {
                        let pool = stage.daemon.pool().status();
                        let warm: u32 = pool.keys.iter().map(|key| key.warm + key.making).sum();
                        stage.native.live() <= usize::try_from(warm).expect("few")
                    },
                )
                .await;
        }
        stage.stop().await;
    }
}
