//! SIGKILL of the daemon at random moments, over sessions, runs and copies: no
//! session is lost, nothing is left of anything else, and nobody is told what is
//! not so.
//!
//! `ISOL8_KILLS` says how many moments (12 without it; `make soak` takes 200),
//! `ISOL8_SEED` which ones; the seed is printed.

use std::{
    collections::BTreeSet,
    env, thread,
    time::{Duration, Instant},
};

use isol8_e2e::harness::{
    call::Running,
    host,
    session::{Beat, Heart, Session},
    stage::{Engine, Stage},
    wait::{millis, seconds, wait_until},
};

/// What an engine makes for a daemon that is dead already is found by one of the
/// next sweeps, which come in about the time that it took.
const SWEPT: Duration = seconds(20);

/// What a session was before, and must be after.
struct Lasting<'a> {
    session: Session<'a>,
    heart: Heart,
    beat: Beat,
    content: String,
    sandbox: String,
}

/// Something that goes on when the daemon dies.
enum Live {
    /// A run that prints this, and nothing else, if it ends well.
    Run(Running, String),
    /// A copy to this path, of this content.
    Copy {
        running: Running,
        session: usize,
        path: String,
        content: Vec<u8>,
    },
    /// A session that is made and removed.
    Passing(Running, String),
}

/// Numbers that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")),
    )
}

impl<'a> Lasting<'a> {
    fn begin(stage: &'a Stage, index: u32, dice: &mut Dice) -> Self {
        let session = stage.session(format!("lasting-{index}"));
        let content = format!("{:016x}{:016x}\n", dice.roll(), dice.roll());
        let heart = session.start_heart(&stage.mark(70_170 + index));
        session.put("/sandbox/content", content.clone());
        Self {
            beat: session.beat(&heart),
            sandbox: session.sandbox(),
            session,
            heart,
            content,
        }
    }

    #[track_caller]
    fn is_whole(&mut self, moment: u64) {
        assert_eq!(
            self.session.sandbox(),
            self.sandbox,
            "moment {moment}: another sandbox"
        );
        let ran = self.session.bash("cat /sandbox/content").go();
        assert_eq!(ran.ok(), self.content, "moment {moment}");
        self.heart.goes_on_since(self.beat);
        self.beat = self.session.beat(&self.heart);
    }
}

struct Scene<'a> {
    stage: &'a Stage,
    lasting: Vec<Lasting<'a>>,
    dice: Dice,
    mark: String,
    made: u64,
}

impl Scene<'_> {
    /// Begins some of everything.
    fn begin(&mut self) -> Vec<Live> {
        let count = 2 + self.dice.below(4);
        (0..count).map(|_| self.begin_one()).collect()
    }

    fn begin_one(&mut self) -> Live {
        self.made += 1;
        let nonce = format!("{}-{:x}", self.made, self.dice.roll());
        let index = usize::try_from(self.dice.below(self.lasting.len() as u64)).expect("a few");
        let session = &self.lasting[index].session;
        let mark = &self.mark;
        let short = format!("echo {nonce}");
        let long = format!(
            "sleep {mark} & trap '' TERM; echo {nonce}; setsid sleep {mark} & sleep {mark}"
        );
        let kind = self.dice.below(8);
        match kind {
            0 => Live::Run(session.bash(&short).start(), format!("{nonce}\n")),
            1 => Live::Run(
                session
                    .bash(&format!("sleep 0.{}; {short}", self.dice.below(10)))
                    .start(),
                format!("{nonce}\n"),
            ),
            // These never end well.
            2 => Live::Run(
                session.bash(&long).args(["--timeout", "60000"]).start(),
                String::new(),
            ),
            3 => Live::Run(
                self.stage.bash(&long).args(["--timeout", "60000"]).start(),
                String::new(),
            ),
            4 => Live::Run(self.stage.bash(&short).start(), format!("{nonce}\n")),
            5 | 6 => {
                let bytes = usize::try_from(self.dice.below(6 << 20)).expect("it fits");
                let content: Vec<u8> = nonce.bytes().cycle().take(bytes).collect();
                let path = format!("copied-{}", self.made);
                let to = ["-".to_owned(), session.at(&path)];
                let running = session.cp(to).feed(content.clone()).start();
                Live::Copy {
                    running,
                    session: index,
                    path,
                    content,
                }
            }
            _ => {
                let name = format!("passing-{}", self.made);
                let passing = self.stage.session(&name);
                let code = format!("(setsid sleep {mark} >/dev/null 2>&1 &); echo {nonce}");
                Live::Passing(passing.bash(&code).start(), name)
            }
        }
    }

    /// Nobody is told that something was done that was not.
    fn told(&self, live: Vec<Live>, moment: u64) -> BTreeSet<String> {
        let mut passing = BTreeSet::new();
        for one in live {
            match one {
                Live::Run(running, expected) => {
                    let ran = running.finish();
                    match ran.code() {
                        0 => assert_eq!(ran.out(), expected, "moment {moment}: {ran:?}"),
                        _ => drop(ran.ended(125).says("error")),
                    }
                    ran.within(seconds(60));
                }
                Live::Copy {
                    running,
                    session,
                    path,
                    content,
                } => {
                    let ran = running.finish();
                    let session = &self.lasting[session].session;
                    if ran.code() != 0 {
                        ran.ended(125);
                        // Whole or not at all.
                        if !session.names("/sandbox").contains(&path) {
                            continue;
                        }
                    }
                    let there = session.fetch(&path);
                    assert!(
                        there == content,
                        "moment {moment}: {} of {} bytes",
                        there.len(),
                        content.len()
                    );
                    let rm = ["session", "rm", &session.at(&path)];
                    self.stage.isol8(rm).go().ok();
                }
                Live::Passing(running, name) => {
                    let ran = running.finish();
                    assert!([0, 125].contains(&ran.code()), "moment {moment}: {ran:?}");
                    passing.insert(name);
                }
            }
        }
        passing
    }

    /// Only the sessions' sandboxes and warm ones are left, and no process of a
    /// run that is over.
    #[track_caller]
    fn no_orphans(&self, moment: u64) {
        let what = format!("the end of what ran at moment {moment}");
        wait_until(&what, seconds(10), || host::sleepers(&self.mark).is_empty());
        let mut seen = String::new();
        let begun = Instant::now();
        while !self.is_as_told(&mut seen) {
            assert!(begun.elapsed() < SWEPT, "after moment {moment}: {seen}");
            thread::sleep(millis(50));
        }
    }

    /// What the host shows is what the daemon tells: warm sandboxes and those of
    /// the sessions.
    fn is_as_told(&self, seen: &mut String) -> bool {
        let status = self.stage.status();
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let warm: u64 = pools.iter().filter_map(|pool| pool["warm"].as_u64()).sum();
        let left = self.stage.leftovers();
        let there = match self.stage.engine() {
            Engine::Docker => left.containers.len().max(left.folders.len()),
            Engine::Native => left.folders.len(),
        };
        let lasting = self.lasting.len() as u64;
        *seen = format!("{warm} are warm, {lasting} of sessions; there are {left:#?}");
        there as u64 == warm + lasting
    }

    fn moment(&mut self, moment: u64) {
        let live = self.begin();
        thread::sleep(millis(self.dice.below(900)));
        self.stage.crash_every_daemon();
        // Sometimes again, while it is just coming back.
        if self.dice.below(3) == 0 {
            let early = self.stage.isol8(["session", "ls"]).start();
            thread::sleep(millis(self.dice.below(300)));
            self.stage.crash_every_daemon();
            drop(early);
        }
        let passing = self.told(live, moment);
        let known: BTreeSet<String> = self
            .stage
            .sessions()
            .iter()
            .filter_map(|session| session["name"].as_str().map(str::to_owned))
            .collect();
        for name in passing.intersection(&known) {
            let ran = self.stage.isol8(["session", "rm", name]).go();
            assert_eq!(ran.code(), 0, "moment {moment}: {ran:?}");
        }
        for lasting in &mut self.lasting {
            lasting.is_whole(moment);
        }
        let all = self.stage.sessions();
        assert_eq!(all.len(), self.lasting.len(), "moment {moment}: {all:?}");
        self.no_orphans(moment);
    }
}

#[expect(clippy::print_stderr, reason = "a failure must be repeatable")]
fn killed_at_random(engine: Engine) {
    let moments = number("ISOL8_KILLS").unwrap_or(12);
    let seed = number("ISOL8_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("{moments} moments on {}, ISOL8_SEED={seed}", engine.name());
    Stage::with(engine, |stage| {
        let mut dice = Dice(seed);
        let lasting = (0..3)
            .map(|index| Lasting::begin(stage, index, &mut dice))
            .collect();
        let mut scene = Scene {
            stage,
            lasting,
            dice,
            mark: stage.mark(70_180),
            made: 0,
        };
        for moment in 0..moments {
            scene.moment(moment);
        }
        for lasting in &scene.lasting {
            lasting.session.remove();
        }
        stage.stop_whoever_answers();
        stage.assert_nothing_left();
    });
}

#[test]
fn at_random_moments_docker() {
    killed_at_random(Engine::Docker);
}

#[test]
fn at_random_moments_native() {
    killed_at_random(Engine::Native);
}
