//! Sessions that nobody uses go by themselves, unless they are told not to.

use isol8_e2e::harness::{
    host,
    stage::{Engine, Stage},
    wait::{seconds, wait_until},
};
use serde_json::json;

fn expires(engine: Engine) {
    let config = json!({"cleanup": {"maxContainerAgeMs": 2000}});
    Stage::with_config(engine, config, |stage| {
        let work = stage.session("work");
        let mark = &stage.mark(70_110);
        work.bash(&format!("echo kept > f; setsid sleep {mark} &"))
            .go()
            .ok();
        // Nobody is idle who works, for however long.
        assert_eq!(work.bash("sleep 5; cat f").go().ok(), "kept\n");
        let used = std::time::Instant::now();
        work.bash("true").go().ok();
        assert_eq!(host::sleepers(mark).len(), 1);
        wait_until("the end of the session", seconds(15), || {
            host::sleepers(mark).is_empty() && stage.sessions().is_empty()
        });
        assert!(
            used.elapsed() >= seconds(2),
            "{:?} after its last use",
            used.elapsed()
        );
        work.rm().ended(125).says("no session");
        assert_eq!(work.bash("ls -A").go().ok(), "main.sh\n", "a new one");
        // What was kept goes in the same way.
        stage
            .bash(&format!("setsid sleep {mark} &"))
            .arg("--persist")
            .go()
            .ok();
        wait_until("the end of all", seconds(20), || {
            stage.sessions().is_empty() && host::sleepers(mark).is_empty()
        });
    });
}

fn stays(engine: Engine) {
    let config = json!({"cleanup": {"maxContainerAgeMs": 1000, "autoPrune": false}});
    Stage::with_config(engine, config, |stage| {
        let work = stage.session("work");
        work.bash("echo kept > f").go().ok();
        wait_until("a session that is idle for long", seconds(30), || {
            let info = work.info().expect("it is still there");
            info["idleMs"].as_u64() > Some(6000)
        });
        assert_eq!(work.bash("cat f").go().ok(), "kept\n");
        work.remove();
    });
}

#[test]
fn an_idle_session_goes_docker() {
    expires(Engine::Docker);
}

#[test]
fn an_idle_session_goes_native() {
    expires(Engine::Native);
}

#[test]
fn without_auto_prune_it_stays_docker() {
    stays(Engine::Docker);
}

#[test]
fn without_auto_prune_it_stays_native() {
    stays(Engine::Native);
}
