//! A daemon of somebody who is not root: jails under their own uid, or words
//! about what is missing. Root sets the scene, and it is the only one who can.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use isol8_e2e::harness::{
    call::Call,
    stage::{Engine, Stage},
    wait::{seconds, wait_until},
};
use serde_json::json;

/// Nobody's uid on any host.
pub(crate) const SOMEBODY: u32 = 54_321;

/// A stage whose folder and daemon belong to [`SOMEBODY`].
pub(crate) struct Scene<'a> {
    pub(crate) stage: &'a Stage,
    id: &'static str,
    groups: Vec<PathBuf>,
}

impl<'a> Scene<'a> {
    fn set(stage: &'a Stage, id: &'static str) -> Self {
        let folder = stage.folder();
        for name in ["state", "home"] {
            fs::create_dir(folder.join(name)).expect("the folder is ours");
        }
        for name in ["isol8", "isol8d", "isol8-init"] {
            fs::copy(stage.binary(name).get_program(), folder.join(name)).expect("a copy");
        }
        fs::write(folder.join("state/daemon-id"), id).expect("the folder is ours");
        for name in ["", "state", "home", "state/daemon-id", "config.json"] {
            chown(folder.join(name), Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
        }
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder, open).expect("root may");
        Self {
            stage,
            id,
            groups: Vec::new(),
        }
    }

    /// Gives them a cgroup of their own in each hierarchy, as a service manager
    /// does with `Delegate=yes`.
    pub(crate) fn delegate(&mut self) {
        for controller in ["freezer", "memory", "pids", "cpu", "cpuacct"] {
            let root = Path::new("/sys/fs/cgroup").join(controller);
            if !root.is_dir() {
                continue;
            }
            let group = root.join("isol8").join(self.id);
            fs::create_dir_all(&group).expect("root may");
            for entry in fs::read_dir(&group).expect("it is there").flatten() {
                chown(entry.path(), Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
            }
            chown(&group, Some(SOMEBODY), Some(SOMEBODY)).expect("root may");
            self.groups.push(group);
        }
    }

    fn as_somebody(&self, command: Command) -> Command {
        let program = Path::new(command.get_program())
            .file_name()
            .expect("a name");
        let id = SOMEBODY.to_string();
        let mut other = Command::new("setpriv");
        other
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .arg(self.stage.folder().join(program))
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("HOME", self.stage.folder().join("home"))
            .env("PATH", "/usr/bin:/bin");
        other
    }

    pub(crate) fn start_daemon(&self) {
        self.stage.start_daemon_as(|command| {
            let mut other = self.as_somebody(std::mem::replace(command, Command::new("true")));
            other.stdin(Stdio::null()).stdout(Stdio::null());
            *command = other;
        });
    }

    pub(crate) fn isol8(&self, args: &[&str]) -> Call {
        self.stage.isol8(args).tweak(|command| {
            *command = self.as_somebody(std::mem::replace(command, Command::new("true")));
        })
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for group in &self.groups {
            drop(fs::remove_dir(group));
        }
    }
}

pub(crate) fn scene(id: &'static str, test: impl FnOnce(&mut Scene<'_>)) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root to become somebody else"
    );
    Stage::without_daemon(Engine::Native, json!({}), |stage| {
        let mut scene = Scene::set(stage, id);
        test(&mut scene);
    });
}

#[test]
fn without_cgroups_nothing_runs_unbounded() {
    scene("00000000000e2e01", |scene| {
        scene.start_daemon();
        let ran = scene.isol8(&["run", "-e", "print('unbounded')"]).go();
        ran.ended(125).says("cgroup").says("hint:");
        assert_eq!(ran.out(), "");
        let doctor = scene.isol8(&["doctor"]).go();
        assert_ne!(doctor.code(), 0);
        assert!(doctor.out().contains("cgroup"), "{doctor:?}");
        scene.stage.stop_daemon();
    });
}

#[test]
fn with_cgroups_of_their_own_everything_holds() {
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        // A v2 host delegates through its service manager, not through us.
        return;
    }
    scene("00000000000e2e02", |scene| {
        scene.delegate();
        scene.start_daemon();
        let code = "import os\n\
            s = dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines())\n\
            print(os.getuid() != 0, s['CapEff'], s['CapBnd'], s['NoNewPrivs'], s['Seccomp'], os.listdir('/sandbox'))\n\
            print(len([p for p in os.listdir('/proc') if p.isdigit()]))\n\
            try: open('/usr/x', 'w')\n\
            except OSError as e: print('refused')";
        for _ in 0..2 {
            let seen = scene.isol8(&["run", "-e", code]).go().ok();
            let none = "0000000000000000";
            assert_eq!(
                seen,
                format!("True {none} {none} 1 2 ['main.py']\n2\nrefused\n")
            );
        }
        let bomb = [
            "run",
            "-r",
            "bash",
            "-e",
            ":(){ :|:& };:\nsleep 20",
            "--timeout",
            "1500",
            "--json",
        ];
        let ran = scene.isol8(&bomb).go();
        assert_eq!(ran.ended(137).json()["verdict"], "timed_out");
        let eat = "a = []\nwhile 1: a.append(bytearray(b'x') * (1 << 20))";
        let ran = scene
            .isol8(&["run", "-e", eat, "--memory", "64m", "--json"])
            .go();
        assert_eq!(ran.ended(137).json()["verdict"], "oom_killed");
        assert_eq!(
            scene
                .isol8(&["run", "-r", "bash", "-e", "echo fine"])
                .go()
                .ok(),
            "fine\n"
        );
        scene.stage.stop_daemon();
    });
}

/// User namespaces forbidden: an unprivileged jail has nothing to stand on.
#[test]
fn forbidden_user_namespaces_are_named() {
    scene("00000000000e2e03", |scene| {
        scene.delegate();
        // In a namespace of their own, which may have no further ones: the limit
        // of the host itself stays as it is.
        let mut keeper = Command::new("unshare")
            .args(["--user", "sleep", "1000"])
            .spawn()
            .expect("root may");
        let proc = PathBuf::from(format!("/proc/{}", keeper.id()));
        let mine = fs::read_link("/proc/self/ns/user").expect("it is there");
        wait_until("the namespace", seconds(10), || {
            fs::read_link(proc.join("ns/user")).is_ok_and(|its| its != mine)
        });
        let map = format!("0 0 1\n{SOMEBODY} {SOMEBODY} 1\n");
        for name in ["uid_map", "gid_map"] {
            fs::write(proc.join(name), &map).expect("root may map");
        }
        let setup = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
        let target = keeper.id().to_string();
        let mut daemon = scene.stage.spawn_daemon(|command| {
            let inner = scene.as_somebody(std::mem::replace(command, Command::new("nsenter")));
            command
                .args([
                    "--user", "--target", &target, "--setuid", "0", "--setgid", "0",
                ])
                .args(["sh", "-c", setup, "sh"])
                .arg(inner.get_program())
                .args(inner.get_args())
                .env_clear()
                .envs(
                    inner
                        .get_envs()
                        .filter_map(|(name, value)| Some((name, value?))),
                )
                .stdin(Stdio::null())
                .stdout(Stdio::null());
        });
        wait_until("the daemon's answer", seconds(20), || scene.stage.answers());
        let ran = scene.isol8(&["run", "-e", "print('no')"]).go();
        ran.ended(125).says("namespace").says("hint:");
        assert_eq!(ran.out(), "");
        let doctor = scene.isol8(&["doctor"]).go();
        assert_ne!(doctor.code(), 0);
        assert!(doctor.out().contains("user namespaces"), "{doctor:?}");
        scene.isol8(&["daemon", "stop"]).go().ok();
        assert!(daemon.wait().expect("it is ours").success());
        keeper.kill().expect("it is ours");
        keeper.wait().expect("it is ours");
    });
}
