//! Engines that are not there, do not answer, or go away in mid-run.

use std::{os::unix::net::UnixListener, process::Stdio};

use isol8_e2e::harness::{
    host,
    private_docker::PrivateDocker,
    stage::{Engine, Stage},
    wait::{millis, seconds, wait_for, wait_until},
};
use serde_json::{Value, json};

fn healthy(status: &Value, name: &str) -> bool {
    let engines = status["engines"].as_array().expect("a list");
    engines
        .iter()
        .any(|engine| engine["engine"] == name && engine["healthy"] == true)
}

/// No engine at the address: told at once, in words, with what to do.
#[test]
fn a_docker_engine_that_is_not_there() {
    let config = json!({"docker": {"host": "unix:///nonexistent/docker.sock"}});
    Stage::with_config(Engine::Docker, config, |stage| {
        let ran = stage.bash("echo no").go();
        ran.ended(125)
            .says("docker")
            .says("hint:")
            .within(seconds(15));
        assert!(!healthy(&stage.status(), "docker"));
        // The other engine does not care.
        let other = stage.bash("echo yes").args(["--engine", "native"]).go();
        assert_eq!(other.ok(), "yes\n");
        let doctor = stage.isol8(["doctor"]).go();
        assert_ne!(doctor.code(), 0);
        assert!(
            (doctor.out() + &doctor.err())
                .to_lowercase()
                .contains("docker"),
            "{doctor:?}"
        );
    });
}

/// Somebody takes the connection and never answers.
#[test]
fn a_docker_engine_that_never_answers() {
    let folder = tempfile::tempdir().expect("/tmp takes a folder");
    let path = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&path).expect("a short path");
    let config = json!({"docker": {"host": format!("unix://{}", path.display())}});
    Stage::with_config(Engine::Docker, config, |stage| {
        let ran = stage.bash("echo no").args(["--timeout", "60000"]).go();
        ran.ended(125).says("docker").within(seconds(40));
        let status = stage.isol8(["status", "--json"]).go();
        status.within(seconds(15)).ok();
        assert!(!healthy(&status.json(), "docker"));
    });
}

/// bubblewrap is the native engine's hands.
#[test]
fn a_host_without_bubblewrap() {
    Stage::without_daemon(Engine::Native, json!({}), |stage| {
        // A view of the host without it, for the daemon alone.
        let hide = "mkdir upper work && mount -t overlay -o lowerdir=/usr/bin,upperdir=upper,workdir=work x /usr/bin \
            && rm /usr/bin/bwrap && exec \"$0\"";
        let folder = stage.folder().to_owned();
        stage.start_daemon_as(|command| {
            let daemon = command.get_program().to_owned();
            let mut hidden = std::process::Command::new("unshare");
            hidden
                .args(["--mount", "--propagation", "private", "sh", "-c", hide])
                .arg(daemon);
            hidden.env_clear().envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            hidden.current_dir(&folder).stdin(Stdio::null());
            *command = hidden;
        });
        let ran = stage.bash("echo no").go();
        ran.ended(125)
            .says("bubblewrap")
            .says("hint:")
            .says("install");
        assert_eq!(ran.out(), "");
        let doctor = stage.isol8(["doctor"]).go();
        assert_ne!(doctor.code(), 0);
        assert!(
            (doctor.out() + &doctor.err()).contains("bubblewrap"),
            "{doctor:?}"
        );
    });
}

/// F05, F06 on an engine of its own: frozen in mid-run, killed in mid-run,
/// stopped with its containers, and back each time.
#[test]
fn a_docker_engine_that_freezes_dies_and_returns() {
    let mut engine = PrivateDocker::start(&["isol8:bash"]);
    let config = json!({"docker": {"host": engine.host()}});
    Stage::with_config(Engine::Docker, config, |stage| {
        let fine = |what: &str| {
            let ran = stage.bash("echo fine").args(["--timeout", "40000"]).go();
            assert_eq!(ran.ok(), "fine\n", "{what}");
        };
        let back = |what: &str| {
            wait_until("a healthy engine", seconds(30), || {
                healthy(&stage.status(), "docker")
            });
            fine(what);
        };
        fine("at first");

        // Frozen: what runs does not need it; what would needs it ends in time.
        let live = stage.bash("echo up; sleep 2; echo end").start();
        live.until_stdout("up");
        engine.freeze();
        let ran = live.finish();
        assert_eq!(ran.within(seconds(40)).out(), "up\nend\n", "{ran:?}");
        let begun: Vec<_> = (0..3).map(|_| stage.bash("echo maybe").start()).collect();
        for run in begun {
            let ran = run.finish();
            ran.within(seconds(60));
            assert!([0, 125, 137].contains(&ran.code()), "{ran:?}");
        }
        stage.isol8(["status"]).go().within(seconds(15)).ok();
        engine.thaw();
        back("after it froze");

        // Killed: containers live on, and so does the run.
        let mark = &stage.mark(70_110);
        let live = stage.bash("echo up; sleep 2; echo end").start();
        live.until_stdout("up");
        engine.crash();
        let ran = live.finish();
        assert!([0, 125].contains(&ran.code()), "{ran:?}");
        let gone = (0..4)
            .map(|_| stage.bash("echo no").go())
            .find(|ran| ran.code() != 0);
        let gone = gone.expect("warm sandboxes last for few runs");
        gone.ended(125).says("docker").within(seconds(30));
        engine.revive();
        back("after it was killed");

        // Stopped: containers end with it, and the run knows.
        let live = stage
            .bash(&format!("echo up; sleep {mark}"))
            .arg("--json")
            .start();
        wait_for("the program", seconds(20), || host::sleepers(mark).pop());
        engine.stop();
        let ran = live.finish();
        assert_eq!(ran.json()["verdict"], "sandbox_lost", "{ran:?}");
        assert!(host::sleepers(mark).is_empty());
        engine.revive();
        back("after it was stopped");

        stage.stop_daemon();
        wait_until("an empty engine", seconds(10) + millis(1), || {
            engine.containers().is_empty()
        });
        // What the engine was starting when it was killed it has forgotten itself:
        // no API leads there any more.
        let name = stage.folder().to_string_lossy().into_owned();
        for process in host::processes() {
            if process.argv == ["runc", "init"] && process.mounts().contains(&name) {
                rustix::process::kill_process(process.pid, rustix::process::Signal::KILL).ok();
            }
        }
    });
}
