//! A daemon that ends in order, and the next one on the same state folder.

use std::time::Duration;

use isol8_core::{
    config::Config,
    ids::SandboxId,
    quantity::{ByteSize, CpuMillis},
};
use isol8_engine::fake::{Fault, Step};
use isol8_proto::v1::{NetworkMode, SessionState, Start};
use tokio::time::sleep;

use super::{
    OTHER, adopt, end, id, inside, keeping, kind, list, run, run_as, sandbox, wait_for, work,
};
use crate::stage::{Ground, ME, Stage, config, python};

/// A daemon that has a session, and has ended.
async fn left() -> (Ground, String) {
    let stage = Stage::new();
    let ground = stage.ground();
    let first = run(&stage, "write notes kept\nbackground server").await;
    end(stage, 1).await;
    (ground, sandbox(&first))
}

fn next(ground: &Ground) -> Stage {
    Stage::after(ground, Config::default())
}

/// What the file says, changed.
fn rewrite(ground: &Ground, change: impl FnOnce(String) -> String) {
    let path = ground.folder().join("sessions.json");
    let text = std::fs::read_to_string(&path).expect("it is there");
    std::fs::write(path, change(text)).expect("it is written");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_there_for_the_next_daemon() {
    let (ground, before) = left().await;
    for round in 0..3 {
        let stage = next(&ground);
        let shown = wait_for(&stage, SessionState::Idle).await;
        assert_eq!(
            (shown.name.as_str(), shown.sandbox_id.as_str()),
            ("work", &*before)
        );
        let ran = run(&stage, "read notes\nps").await;
        assert_eq!(ran.text(), "kept\nserver\n", "{round}");
        assert_eq!(sandbox(&ran), before);
        assert!(ran.accepted.as_ref().expect("accepted").warm);
        end(stage, 1).await;
    }
    assert_eq!(ground.native.created_total(), 1);
}

/// Owner, runtime, limits: what a session was made with is still what counts.
#[tokio::test(start_paused = true)]
async fn its_terms_are_what_they_were() {
    let (ground, _) = left().await;
    let stage = next(&ground);
    assert!(list(stage.channel(OTHER)).await.is_empty());
    let mut other = work("out x");
    other.runtime = isol8_proto::v1::Runtime::Node.into();
    let refused = stage.start(other).await.end().await;
    assert_eq!(kind(&refused), "session_mismatch");
    end(stage, 1).await;
}

/// A ceiling that was lowered meanwhile holds in what is there, too.
#[tokio::test(start_paused = true)]
async fn no_session_is_over_the_ceiling_of_the_next_daemon() {
    let stage = Stage::new();
    let ground = stage.ground();
    let open = Start {
        network: NetworkMode::Host.into(),
        ..inside("open", "write notes kept")
    };
    run_as(stage.channel(ME), open).await;
    run(&stage, "write notes kept").await;
    end(stage, 2).await;
    let host = config(|config| config.policy.allow_host_network = Some(false));
    let memory = config(|config| config.policy.max_memory = Some(ByteSize::mib(256)));
    let cpu = config(|config| config.policy.max_cpu = CpuMillis::new(500));
    let rules = [
        (host, "open", "network `host`"),
        (memory, "work", "`policy.maxMemory`"),
        (cpu, "work", "`policy.maxCpu`"),
    ];
    for (config, name, rule) in rules {
        let stage = Stage::after(&ground, config);
        let refused = stage.start(inside(name, "read notes")).await.end().await;
        assert_eq!(kind(&refused), "forbidden");
        let detail = refused.failure().1;
        assert!(detail.message.contains(rule), "{detail:?}");
        assert!(detail.hint.contains(&format!("session rm {name}")));
        end(stage, 2).await;
    }
    let stage = next(&ground);
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    end(stage, 2).await;
}

#[tokio::test(start_paused = true)]
async fn kept_sandboxes_wait_for_the_next_daemon() {
    let stage = Stage::new();
    let ground = stage.ground();
    let ran = run_as(stage.channel(ME), keeping(python("write notes kept"))).await;
    end(stage, 1).await;
    let stage = next(&ground);
    // Also past several sweeps.
    sleep(Duration::from_secs(200)).await;
    adopt(stage.channel(ME), &sandbox(&ran), "work")
        .await
        .expect("it is there");
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_sweep_takes_what_is_in_no_file() {
    let (ground, before) = left().await;
    let stranger = SandboxId::random();
    ground
        .native
        .add_stranger(stranger.clone(), ground.id.clone());
    let stage = next(&ground);
    stage
        .wait_for("the stranger goes", Duration::from_secs(5), |stage| {
            !stage.native.live_ids().contains(&stranger)
        })
        .await;
    assert_eq!(stage.native.live_ids(), [id(&before)]);
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    end(stage, 1).await;
}

/// Whatever answers in the place of a session must know what only its own init
/// knows.
#[tokio::test(start_paused = true)]
async fn an_init_that_does_not_know_the_token_is_not_it() {
    let (ground, before) = left().await;
    rewrite(&ground, |text| {
        let at = text.find("\"token\": \"").expect("a token") + "\"token\": \"".len();
        let other = if text[at..].starts_with('0') {
            "1"
        } else {
            "0"
        };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    });
    let stage = next(&ground);
    let shown = wait_for(&stage, SessionState::Lost).await;
    assert!(
        shown.reason.contains("not its own init"),
        "{}",
        shown.reason
    );
    assert!(
        !stage.native.live_ids().contains(&id(&before)),
        "it is destroyed"
    );
    let told = stage.start(work("read notes")).await.end().await;
    assert_eq!(kind(&told), "session_lost");
    assert_eq!(run(&stage, "read notes").await.text(), "no notes\n");
    end(stage, 1).await;
}

/// A session that is lost stays so for whoever did not hear of it.
#[tokio::test(start_paused = true)]
async fn a_lost_one_is_told_by_the_next_daemon_too() {
    let (ground, before) = left().await;
    ground.native.kill_init(&id(&before));
    for _ in 0..2 {
        let stage = next(&ground);
        wait_for(&stage, SessionState::Lost).await;
        end(stage, 0).await;
    }
    let stage = next(&ground);
    let told = stage.start(work("read notes")).await.end().await;
    assert_eq!(kind(&told), "session_lost");
    end(stage, 0).await;
    let stage = next(&ground);
    assert!(list(stage.channel(ME)).await.is_empty(), "it was told");
    end(stage, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_comes_before_the_session_is_found_waits() {
    let (ground, _) = left().await;
    let delay = Duration::from_secs(5);
    ground.native.plan(Step::Adopt, Fault::Delay(delay));
    let stage = next(&ground);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(super::info(&stage).await.state(), SessionState::Starting);
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    end(stage, 1).await;
}

/// A daemon that stops at once does not wait for an engine that hangs.
#[tokio::test(start_paused = true)]
async fn a_daemon_ends_also_while_it_looks_for_a_session() {
    let (ground, _) = left().await;
    ground.native.plan_always(Step::Adopt, Fault::Hang);
    let stage = next(&ground);
    sleep(Duration::from_millis(10)).await;
    let waiting = stage.start(work("read notes")).await;
    sleep(Duration::from_millis(10)).await;
    stage.daemon.stop();
    let (waiting, ()) = tokio::join!(waiting.end(), stage.ended());
    if let Some(Err(_)) = waiting.end {
        assert_eq!(kind(&waiting), "shutting_down");
    }
    assert_eq!(waiting.text(), "");
    ground.native.mend();
    let stage = next(&ground);
    assert_eq!(run(&stage, "read notes").await.text(), "kept\n");
    end(stage, 1).await;
}

/// Two records of one name: a daemon was killed when a first run had been given up
/// and another one had come. The newer one is the session.
#[tokio::test(start_paused = true)]
async fn of_two_records_of_one_name_the_newer_one_counts() {
    let stage = Stage::new();
    let ground = stage.ground();
    run_as(stage.channel(ME), inside("a", "write notes old")).await;
    // Of the clock on the wall.
    std::thread::sleep(Duration::from_millis(5));
    run_as(stage.channel(ME), inside("b", "write notes new")).await;
    end(stage, 2).await;
    rewrite(&ground, |text| {
        text.replace("\"name\": \"a\"", "\"name\": \"work\"")
            .replace("\"name\": \"b\"", "\"name\": \"work\"")
    });
    let stage = next(&ground);
    assert_eq!(run(&stage, "read notes").await.text(), "new\n");
    assert_eq!(list(stage.channel(ME)).await.len(), 1);
    end(stage, 1).await;
    let stage = next(&ground);
    assert_eq!(run(&stage, "read notes").await.text(), "new\n");
    end(stage, 1).await;
}

/// A long run is a use all the time: when the daemon dies over it, the next one
/// does not find a session that is old.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_written_down_as_used() {
    let stage = Stage::new();
    let ground = stage.ground();
    let used = || {
        let text = std::fs::read_to_string(ground.folder().join("sessions.json"));
        let text = text.expect("it is there");
        let found = text.split("\"usedMs\": ").skip(1);
        let numbers = found.map(|rest| rest.split(',').next().expect("a number").to_owned());
        numbers.collect::<Vec<_>>()
    };
    let mut busy = Vec::new();
    for start in [work("signal-wait"), keeping(python("signal-wait"))] {
        let mut run = stage.start(super::timed(start, 600_000)).await;
        run.accepted().await;
        busy.push(run);
    }
    let before = used();
    assert_eq!(before.len(), 2);
    // Of the clock on the wall.
    std::thread::sleep(Duration::from_millis(5));
    sleep(Duration::from_secs(40)).await;
    let after = used();
    assert!(
        before.iter().all(|time| !after.contains(time)),
        "{before:?} {after:?}"
    );
    for run in busy {
        run.signal(15);
        run.end().await;
    }
    let idle = used();
    std::thread::sleep(Duration::from_millis(5));
    sleep(Duration::from_secs(100)).await;
    let settled = used();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(settled, used(), "and nobody uses it now: {idle:?}");
    end(stage, 2).await;
}

/// Sessions of a file that is not understood would be nobody's.
#[tokio::test(start_paused = true)]
async fn a_file_of_another_version_stops_the_daemon() {
    use isol8d::{
        daemon::{Daemon, Parts},
        roster::Roster,
    };
    let (ground, before) = left().await;
    rewrite(&ground, |text| {
        text.replace("\"version\": 1", "\"version\": 2")
    });
    let config = Config::default();
    let refused = Daemon::new(Parts {
        roster: Roster::new(ground.engines(), config.engine),
        config,
        config_source: "a test".to_owned(),
        id: ground.id.clone(),
        socket: ground.folder().join("isol8d.sock"),
        runtime_dir: ground.folder().to_path_buf(),
        state_dir: ground.folder().to_path_buf(),
        install_room: 0,
        egress: crate::stage::no_egress(),
        presence: None,
    });
    let failure = refused.expect_err("it does not start");
    assert!(
        failure.causes.join(": ").contains("version 2"),
        "{failure:?}"
    );
    sleep(Duration::from_secs(100)).await;
    assert_eq!(
        ground.native.live_ids(),
        [id(&before)],
        "nothing is touched"
    );
}
