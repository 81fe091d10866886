//! What a service manager gives and is told: a socket that was there before the
//! daemon and stays after it, words about its state, lines for the journal. Tests
//! play the manager; `package` has the real one.

use std::{
    fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown},
            net::{UnixDatagram, UnixListener},
        },
    },
    process::{Child, Command, Stdio},
};

use isol8_e2e::harness::{
    call::Call,
    stage::{Engine, Stage},
    wait::{seconds, wait_for, wait_until},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::unprivileged::SOMEBODY;

fn stage(test: impl FnOnce(&Stage)) {
    Stage::without_daemon(Engine::Native, json!({}), test);
}

/// The manager's ear.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn at(stage: &Stage) -> Self {
        let path = stage.folder().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the folder is ours");
        socket.set_nonblocking(true).expect("a socket");
        let path = path.to_str().expect("text").to_owned();
        Self { socket, path }
    }

    /// The next message, if one is there.
    fn heard(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the socket is ours: {error}"),
        }
    }

    #[track_caller]
    fn hears(&self) -> String {
        wait_for("a word to the manager", seconds(30), || self.heard())
    }

    #[track_caller]
    fn hears_of(&self, what: &str) -> String {
        wait_for(what, seconds(30), || {
            self.heard().filter(|said| said.contains(what))
        })
    }
}

fn times(stage: &Stage, words: &str) -> usize {
    stage.log().matches(words).count()
}

/// READY only when it answers, pings only while it does, and STOPPING.
#[test]
fn the_manager_hears_what_the_daemon_is_doing() {
    stage(|stage| {
        let manager = Manager::at(stage);
        stage.start_daemon_as(|command| {
            command
                .env("NOTIFY_SOCKET", &manager.path)
                .env("WATCHDOG_USEC", "600000");
        });
        let first = manager.hears();
        assert!(first.starts_with("READY=1\nSTATUS="), "{first}");
        assert_eq!(stage.bash("echo here").go().ok(), "here\n");
        for _ in 0..3 {
            manager.hears_of("WATCHDOG=1");
        }
        let serving = "STATUS=serving; 0 runs in flight";
        let run = stage.bash("sleep 30").start();
        manager.hears_of("STATUS=serving; 1 runs in flight");
        run.signal(Signal::INT);
        run.signal(Signal::INT);
        manager.hears_of(serving);
        drop(run);

        // Nobody gets through to it any more, not even itself.
        let (path, hidden) = (stage.socket(), stage.folder().join("hidden"));
        fs::rename(&path, &hidden).expect("the folder is ours");
        let silent = "does not answer itself";
        let once = times(stage, silent) + 1;
        let waits = |count| wait_until(silent, seconds(30), || times(stage, silent) >= count);
        waits(once);
        while manager.heard().is_some() {}
        waits(once + 2);
        let said: String = std::iter::from_fn(|| manager.heard()).collect();
        assert!(!said.contains("WATCHDOG=1"), "{said}");
        fs::rename(&hidden, &path).expect("the folder is ours");
        manager.hears_of("WATCHDOG=1");

        stage.stop_daemon();
        let last = manager.hears_of("STOPPING=1");
        assert!(last.contains("STATUS=stopping"), "{last}");
        assert_eq!(manager.heard(), None, "that was the last word");
    });
}

/// Lines without time and colour, each with its priority.
#[test]
fn the_journal_gets_lines_with_a_priority() {
    stage(|stage| {
        let log = fs::File::create(stage.folder().join("journal")).expect("the folder is ours");
        let meta = log.metadata().expect("it is open");
        stage.start_daemon_as(|command| {
            let stream = format!("{}:{}", meta.dev(), meta.ino());
            command.env("JOURNAL_STREAM", stream).stderr(log);
        });
        assert_eq!(stage.bash("echo here").go().ok(), "here\n");
        stage.stop_daemon();
        let journal = fs::read_to_string(stage.folder().join("journal")).expect("text");
        assert!(journal.contains("<6>isol8d: serving version="), "{journal}");
        assert!(journal.contains("outcome=\"exited\""), "{journal}");
        for line in journal.lines() {
            let marked = ["<3>", "<4>", "<6>"]
                .iter()
                .any(|mark| line.starts_with(mark));
            assert!(marked && !line.contains('\x1b'), "{line}");
        }
    });
}

/// `systemd-socket-activate` holds the socket until somebody dials.
#[test]
fn the_first_client_starts_the_daemon() {
    stage(|stage| {
        fs::create_dir(stage.folder().join("run")).expect("the folder is ours");
        for round in ["one", "two"] {
            let daemon = stage.binary("isol8d");
            let mut activator = Command::new("systemd-socket-activate");
            activator.arg("-l").arg(stage.socket());
            for (name, value) in daemon.get_envs() {
                let value = value.expect("set").to_str().expect("text");
                activator.args(["-E", &format!("{}={value}", name.to_str().expect("text"))]);
            }
            activator.arg(daemon.get_program()).stdin(Stdio::null());
            let mut activated = activator.spawn().expect("systemd-socket-activate is there");
            wait_until("the socket", seconds(10), || stage.socket().exists());
            assert_eq!(
                stage.bash(&format!("echo {round}")).go().ok(),
                format!("{round}\n")
            );
            let pid = stage.status()["pid"].as_u64();
            assert_eq!(pid, Some(activated.id().into()), "it has become the daemon");
            stage.isol8(["daemon", "stop"]).go().ok();
            let ended = activated.wait().expect("it is ours");
            assert!(ended.success(), "{ended}");
            assert!(stage.socket().exists(), "the socket is the manager's");
            fs::remove_file(stage.socket()).expect("the folder is ours");
        }
    });
}

/// A socket as a manager would hold it, from before the first daemon on.
fn held(stage: &Stage, mode: u32) -> UnixListener {
    let run = stage.folder().join("run");
    fs::create_dir_all(&run).expect("the folder is ours");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o711)).expect("it is ours");
    let listener = UnixListener::bind(stage.socket()).expect("the path is free");
    fs::set_permissions(stage.socket(), fs::Permissions::from_mode(mode)).expect("it is ours");
    listener
}

/// A daemon with this socket as its descriptor 3.
fn pass(stage: &Stage, listener: &UnixListener) -> Child {
    let copy = OwnedFd::from(listener.try_clone().expect("a descriptor is free"));
    stage.spawn_daemon(|command| {
        let daemon = std::mem::replace(command, Command::new("sh"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(stage.folder().join("daemon.log"));
        command
            .args([
                "-c",
                "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" 3<&0 </dev/null",
            ])
            .arg(daemon.get_program())
            .env_clear()
            .envs(
                daemon
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(copy)
            .stdout(Stdio::null())
            .stderr(log.expect("the log is opened"));
    })
}

fn end(mut daemon: Child) {
    kill_process(Pid::from_child(&daemon), Signal::TERM).expect("it lives");
    assert!(daemon.wait().expect("it is ours").success());
}

/// Who dials while there is no daemon waits for the next one.
#[test]
fn nobody_is_turned_away_between_two_daemons() {
    stage(|stage| {
        let listener = held(stage, 0o600);
        let daemon = pass(stage, &listener);
        assert_eq!(stage.bash("echo one").go().ok(), "one\n");
        assert_eq!(stage.session("kept").bash("echo kept > f").go().ok(), "");
        end(daemon);
        assert!(stage.socket().exists(), "the socket is the manager's");
        let mut waiting = stage.bash("echo two").start();
        assert!(waiting.is_running());
        let daemon = pass(stage, &listener);
        assert_eq!(waiting.finish().ok(), "two\n");
        assert_eq!(stage.session("kept").bash("cat f").go().ok(), "kept\n");
        stage.session("kept").remove();
        end(daemon);
    });
}

/// The file says who may speak. What is for everybody is served to nobody.
#[test]
fn a_passed_socket_is_for_whom_its_file_is_for() {
    stage(|stage| {
        let listener = held(stage, 0o660);
        chown(stage.socket(), None, Some(SOMEBODY)).expect("root may");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(stage.folder(), open).expect("it is ours");
        for name in ["isol8", "isol8d", "isol8-init"] {
            fs::copy(stage.binary(name).get_program(), stage.folder().join(name)).expect("a copy");
        }
        let as_somebody = |group: u32, args: &[&str]| {
            let isol8 = stage.binary("isol8");
            let mut other = Command::new("setpriv");
            let ids = [(SOMEBODY + 1).to_string(), group.to_string()];
            other
                .args([
                    "--reuid",
                    &ids[0],
                    "--regid",
                    &ids[1],
                    "--clear-groups",
                    "--",
                ])
                .arg(stage.folder().join("isol8"))
                .env_clear()
                .envs(
                    isol8
                        .get_envs()
                        .filter_map(|(name, value)| Some((name, value?))),
                )
                // The configuration is the daemon's alone.
                .env_remove("ISOL8_CONFIG")
                .env("HOME", "/nonexistent");
            Call::new(other).args(args).go()
        };
        let daemon = pass(stage, &listener);
        let code = ["run", "-r", "bash", "-e", "echo mine"];
        assert_eq!(as_somebody(SOMEBODY, &code).ok(), "mine\n");
        let stranger = as_somebody(SOMEBODY + 1, &code);
        stranger.ended(125).says("permission denied");
        as_somebody(SOMEBODY, &["daemon", "stop"])
            .ended(125)
            .says("only root");
        assert_eq!(stage.bash("echo still").go().ok(), "still\n");
        end(daemon);

        let all = fs::Permissions::from_mode(0o666);
        fs::set_permissions(stage.socket(), all).expect("it is ours");
        let mut daemon = pass(stage, &listener);
        assert!(!daemon.wait().expect("it is ours").success());
        assert!(stage.log().contains("SocketMode=0660"), "{}", stage.log());
    });
}

/// The gateway says READY when it answers.
#[test]
fn the_manager_hears_of_the_gateway() {
    stage(|stage| {
        let manager = Manager::at(stage);
        let free = TcpListener::bind("127.0.0.1:0").expect("there is one");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let gateway = stage
            .isol8(["serve", "-p", &port.to_string()])
            .env("ISOL8_API_KEY", "a-key-of-this-test")
            .env("NOTIFY_SOCKET", &manager.path)
            .env("WATCHDOG_USEC", "600000")
            .start();
        let first = manager.hears();
        assert!(
            first.starts_with("READY=1\nSTATUS=serving at 127.0.0.1:"),
            "{first}"
        );
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        manager.hears_of("WATCHDOG=1");
        gateway.signal(Signal::TERM);
        gateway.finish().ended(0);
        manager.hears_of("STOPPING=1");
        stage.stop_whoever_answers();
    });
}
