//! Where client and daemon meet: paths that are too long, stale, taken, or
//! somebody else's, and daemons that start at the same time.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, fs::PermissionsExt as _, net::UnixListener},
    process::Child,
};

use isol8_e2e::harness::{
    host,
    stage::{Engine, Stage},
    wait::{seconds, wait_until},
};
use serde_json::json;

fn stage(test: impl FnOnce(&Stage)) {
    Stage::without_daemon(Engine::Native, json!({}), test);
}

/// The command line starts the daemon by itself, one for all.
#[test]
fn the_first_run_starts_one_daemon() {
    stage(|stage| {
        let first: Vec<_> = (0..5)
            .map(|n| stage.bash(&format!("echo {n}")).start())
            .collect();
        for (n, run) in first.into_iter().enumerate() {
            assert_eq!(run.finish().ok(), format!("{n}\n"));
        }
        let daemon = stage.status()["pid"].as_i64().expect("a number");
        let folder = stage.folder().to_str().expect("text");
        let daemons: Vec<_> = host::processes()
            .into_iter()
            .filter(|process| {
                process
                    .argv
                    .first()
                    .is_some_and(|name| name.ends_with("isol8d"))
                    && process.environment().contains(folder)
            })
            .collect();
        let pids: Vec<i64> = daemons
            .iter()
            .map(|process| process.pid.as_raw_nonzero().get().into())
            .collect();
        assert_eq!(pids, [daemon], "{daemons:?}");
        stage.isol8(["daemon", "start"]).go().ok();
        assert_eq!(
            stage.status()["pid"],
            daemon,
            "start with one there does nothing"
        );
        assert!(
            stage
                .isol8(["daemon", "stop"])
                .go()
                .within(seconds(30))
                .code()
                == 0
        );
        assert!(!stage.answers());
        // Twice is no error and no hang.
        stage.isol8(["daemon", "stop"]).go().within(seconds(10));
    });
}

/// F18: of two that start at once one serves, the other ends and says why.
#[test]
fn of_two_daemons_one_wins() {
    stage(|stage| {
        let mut all: Vec<Child> = (0..4).map(|_| stage.spawn_daemon(|_| {})).collect();
        wait_until("three daemons' ends", seconds(20), || {
            let ended = all
                .iter_mut()
                .filter_map(|child| child.try_wait().ok().flatten());
            ended.count() == 3
        });
        wait_until("the winner's answer", seconds(20), || stage.answers());
        assert_eq!(stage.bash("echo one").go().ok(), "one\n");
        for child in &mut all {
            if let Ok(Some(status)) = child.try_wait() {
                assert!(!status.success(), "a daemon that does not serve says so");
            } else {
                let pid = rustix::process::Pid::from_child(child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                    .expect("it lives");
                child.wait().expect("it is ours");
            }
        }
    });
}

#[test]
fn a_stale_socket_is_replaced() {
    stage(|stage| {
        stage.start_daemon();
        stage.crash_daemon();
        assert!(stage.socket().exists(), "a crash leaves the socket");
        stage.start_daemon();
        assert_eq!(stage.bash("echo again").go().ok(), "again\n");
    });
}

/// F19: from the first moment for nobody but the owner.
#[test]
fn the_socket_is_private() {
    stage(|stage| {
        stage.start_daemon();
        let socket = fs::metadata(stage.socket()).expect("it is there");
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.uid(), rustix::process::geteuid().as_raw());
        let state = fs::metadata(stage.folder().join("state")).expect("it is there");
        assert_eq!(
            state.permissions().mode() & 0o022,
            0,
            "nobody else writes the state"
        );
    });
}

#[track_caller]
fn refuses(stage: &Stage, named: &str) {
    let ran = stage.bash("echo no").go();
    assert!([2, 125].contains(&ran.code()), "{ran:?}");
    assert_eq!(ran.out(), "");
    ran.says(named).within(seconds(30));
    let mut daemon = stage.spawn_daemon(|_| {});
    wait_until("the daemon's refusal", seconds(20), || {
        daemon.try_wait().is_ok_and(|status| status.is_some())
    });
    assert!(!daemon.wait().expect("it is ours").success());
    let log = stage.log();
    assert!(log.contains("isol8d.sock"), "{log}");
}

#[test]
fn a_file_in_the_sockets_place_is_refused() {
    stage(|stage| {
        let folder = stage.folder().join("run");
        fs::create_dir(&folder).expect("the folder is ours");
        fs::write(stage.socket(), "precious").expect("the folder is ours");
        refuses(stage, "isol8d.sock");
        let kept = fs::read_to_string(stage.socket()).expect("it is there");
        assert_eq!(kept, "precious", "what is not ours is not removed");
    });
}

/// Somebody else listens where our daemon should: nothing is sent there.
#[test]
fn a_socket_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can make a socket that belongs to somebody else.
        return;
    }
    stage(|stage| {
        let folder = stage.folder().join("run");
        fs::create_dir(&folder).expect("the folder is ours");
        let listener = UnixListener::bind(stage.socket()).expect("a short path");
        std::os::unix::fs::chown(stage.socket(), Some(65_534), Some(65_534)).expect("root may");
        listener.set_nonblocking(true).expect("a socket");
        let ran = stage.bash("echo no").go();
        assert!([2, 125].contains(&ran.code()), "{ran:?}");
        ran.says("isol8d.sock").says("own");
        if let Ok((mut stream, _)) = listener.accept() {
            let mut heard = Vec::new();
            stream.set_nonblocking(false).expect("a socket");
            drop(std::io::Read::read_to_end(&mut stream, &mut heard));
            let heard = String::from_utf8_lossy(&heard);
            assert!(
                !heard.contains("echo no"),
                "the program was sent to a stranger"
            );
        }
    });
}

#[test]
fn a_path_that_is_too_long_is_named() {
    stage(|stage| {
        let long = stage.folder().join("x".repeat(120)).join("isol8d.sock");
        let ran = stage.bash("echo no").env("ISOL8_SOCKET", &long).go();
        assert!([2, 125].contains(&ran.code()), "{ran:?}");
        ran.says("107").within(seconds(10));
        let mut daemon = stage.spawn_daemon(|command| {
            command.env("ISOL8_SOCKET", &long);
        });
        wait_until("the daemon's refusal", seconds(10), || {
            daemon.try_wait().is_ok_and(|status| status.is_some())
        });
        assert!(stage.log().contains("107"), "{}", stage.log());
    });
}
