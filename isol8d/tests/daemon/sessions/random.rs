//! Many clients at once on a few sessions, each doing what it likes: a session
//! never does two things at once, no output is mixed, every client hears one end,
//! and nothing is left.

use std::{sync::Mutex, time::Duration};

use futures_util::future::join_all;
use isol8_core::config::Config;
use isol8_engine::fake::Fault;
use isol8_proto::v1::{self, Verdict, run_event::Event};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, sleep, timeout};

use super::{detail, end, id, inside, list, remove, run_as, sessions, timed};
use crate::stage::{ME, Run, Stage};

const SESSIONS: [&str; 3] = ["a", "b", "c"];

/// What somebody does with a session.
#[derive(Debug, Clone)]
enum Deed {
    Run {
        ms: u64,
        timeout_ms: u64,
        /// The client goes after so long.
        goes_ms: Option<u64>,
    },
    Remove {
        force: bool,
    },
    List,
    Get {
        goes_ms: Option<u64>,
    },
    Delete,
    /// A third party kills its init.
    Kill,
}

fn deed() -> impl Strategy<Value = Deed> {
    let goes = || proptest::option::weighted(0.3, 0..60_u64);
    prop_oneof![
        8 => (0..40_u64, 5..60_u64, goes()).prop_map(|(ms, timeout_ms, goes_ms)| Deed::Run {
            ms,
            timeout_ms,
            goes_ms,
        }),
        2 => any::<bool>().prop_map(|force| Deed::Remove { force }),
        1 => Just(Deed::List),
        2 => goes().prop_map(|goes_ms| Deed::Get { goes_ms }),
        1 => Just(Deed::Delete),
        1 => Just(Deed::Kill),
    ]
}

/// From when to when a program is known to have run, in which sandbox.
#[derive(Debug)]
struct Stay {
    sandbox: String,
    from: Instant,
    to: Instant,
}

struct Trial {
    stage: Stage,
    stays: Mutex<Vec<Stay>>,
}

const KINDS: [&str; 5] = [
    "session_lost",
    "session_busy",
    "not_found",
    "at_capacity",
    "engine_refused",
];

#[track_caller]
fn check(status: &tonic::Status) {
    let detail = detail(status);
    // Somebody may kill a sandbox while it is made.
    let unmade = detail.message == "a new sandbox was lost before it was ready";
    assert!(
        unmade || KINDS.contains(&detail.kind.as_str()),
        "{status:?}"
    );
}

impl Trial {
    async fn act(&self, number: usize, session: &str, deed: &Deed) {
        let channel = self.stage.channel(ME);
        match *deed {
            Deed::Run {
                ms,
                timeout_ms,
                goes_ms,
            } => {
                let code = format!("out {number}\nwrite f {number}\nsleep {ms}\nout {number}");
                let start = timed(inside(session, &code), timeout_ms);
                let run = self.run(number, start);
                match goes_ms {
                    // It goes in the middle of whatever it is at.
                    Some(ms) => drop(timeout(Duration::from_millis(ms), run).await),
                    None => run.await,
                }
            }
            Deed::Remove { force } => {
                if let Err(status) = remove(channel, session, force).await {
                    check(&status);
                }
            }
            Deed::List => {
                let all = v1::ListSessionsRequest { sizes: true };
                let listed = sessions(channel).list(all).await;
                let listed = listed.expect("a list").into_inner().sessions;
                assert!(listed.len() <= SESSIONS.len(), "{listed:?}");
            }
            Deed::Get { goes_ms } => {
                let limit = Duration::from_millis(goes_ms.unwrap_or(60_000));
                let read = timeout(limit, get(channel, session)).await;
                assert!(read.is_ok() || goes_ms.is_some(), "it hangs");
            }
            Deed::Delete => {
                let request = v1::DeleteRequest {
                    session: session.to_owned(),
                    path: b"/sandbox/f"[..].into(),
                    recursive: false,
                };
                if let Err(status) = sessions(channel).delete(request).await {
                    check(&status);
                }
            }
            Deed::Kill => {
                let listed = list(channel).await;
                if let Some(found) = listed.iter().find(|info| info.name == session) {
                    self.stage.native.kill_init(&id(&found.sandbox_id));
                }
            }
        }
    }

    async fn run(&self, number: usize, start: v1::Start) {
        let mut run = Run::start(self.stage.channel(ME), start).await;
        let own = format!("{number}\n");
        let (mut sandbox, mut said, mut from) = (String::new(), String::new(), None);
        loop {
            let event = run.next().await.expect("it has an end");
            match event {
                Ok(Event::Accepted(accepted)) => sandbox = accepted.sandbox_id,
                Ok(Event::Stdout(bytes)) => {
                    from.get_or_insert_with(Instant::now);
                    said += std::str::from_utf8(&bytes).expect("text");
                }
                Ok(Event::Exited(exited)) => {
                    let whole = own.repeat(2);
                    match exited.verdict() {
                        Verdict::Exited => assert_eq!(said, whole),
                        Verdict::TimedOut | Verdict::SandboxLost => {
                            assert!(whole.starts_with(&said), "{number}: {said:?}");
                        }
                        other => panic!("{other:?}"),
                    }
                    break;
                }
                Ok(_) => {}
                Err(status) => {
                    check(&status);
                    assert_eq!(said, "");
                    break;
                }
            }
        }
        if let Some(from) = from {
            let to = Instant::now();
            let stay = Stay { sandbox, from, to };
            self.stays.lock().expect("no panic").push(stay);
        }
    }

    /// No two programs have been in one sandbox at one time.
    fn check_stays(&self) {
        let mut stays = self.stays.lock().expect("no panic");
        stays.sort_by_key(|stay| stay.from);
        for (index, stay) in stays.iter().enumerate() {
            let mut later = stays[index + 1..].iter();
            let both = later.find(|later| later.sandbox == stay.sandbox && later.from < stay.to);
            assert!(both.is_none(), "{stay:?} {both:?}");
        }
    }
}

async fn get(channel: tonic::transport::Channel, session: &str) {
    let request = v1::GetRequest {
        session: session.to_owned(),
        path: b"/sandbox/f"[..].into(),
        ..v1::GetRequest::default()
    };
    match sessions(channel).get(request).await {
        Ok(response) => {
            let mut pieces = response.into_inner();
            loop {
                match pieces.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(status) => return check(&status),
                }
            }
        }
        Err(status) => check(&status),
    }
}

async fn try_out(deeds: &[(u64, usize, Deed)], faults: &[(usize, u64)]) {
    let stage = Stage::with(Config::default(), |native, _| {
        for (number, ms) in faults {
            let fault = match ms {
                0 => Fault::refuse(),
                ms => Fault::Delay(Duration::from_millis(*ms)),
            };
            native.plan_at(*number, fault);
        }
    });
    let trial = Trial {
        stage,
        stays: Mutex::default(),
    };
    let acts = deeds
        .iter()
        .enumerate()
        .map(|(number, (at, session, deed))| {
            let trial = &trial;
            async move {
                sleep(Duration::from_millis(*at)).await;
                trial.act(number, SESSIONS[*session], deed).await;
            }
        });
    let acted = timeout(Duration::from_secs(600), join_all(acts)).await;
    acted.expect("everybody hears an end");
    trial.check_stays();
    let stage = trial.stage;
    stage.native.mend();
    // Each can be used and removed, whatever was done to it.
    for session in SESSIONS {
        let ran = stage.start(inside(session, "out z")).await.end().await;
        if let Some(Err(status)) = &ran.end {
            assert_eq!(detail(status).kind, "session_lost");
            let again = run_as(stage.channel(ME), inside(session, "out z")).await;
            assert_eq!(again.text(), "z\n");
        } else {
            assert_eq!(ran.text(), "z\n");
        }
        let removed = remove(stage.channel(ME), session, false).await;
        assert_eq!(removed.expect("it goes"), "");
    }
    assert!(list(stage.channel(ME)).await.is_empty());
    let none = |stage: &Stage| stage.native.live() == 0;
    stage
        .wait_for("the sweep", Duration::from_secs(130), none)
        .await;
    end(stage, 0).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_sessions_do_one_thing_at_a_time(
        deeds in vec((0..150_u64, 0..SESSIONS.len(), deed()), 1..24),
        faults in vec((0..300_usize, 0..30_u64), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(try_out(&deeds, &faults));
    }
}
