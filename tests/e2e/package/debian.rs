//! A small Debian of a test's own, out of the file that `.ci/need-debian` makes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use isol8_e2e::harness::{
    call::{Call, Ran},
    host,
    wait::{seconds, wait_for, wait_until},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Units that would change the kernel of the host, or wait for what is not there.
const MASKED: [&str; 6] = [
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-remount-fs.service",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "console-getty.service",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A script of `.ci`, which prints a path.
fn made_by(script: &str, args: &[&str]) -> PathBuf {
    let mut command = Command::new(repository().join(".ci").join(script));
    // A time of its own, as whoever works on this may commit meanwhile.
    command.args(args).env("SOURCE_DATE_EPOCH", "1700000000");
    command.stderr(Stdio::inherit());
    let output = command.output().expect("the script is there");
    assert!(output.status.success(), "{script}: {}", output.status);
    let path = String::from_utf8(output.stdout).expect("text");
    repository().join(path.trim())
}

/// Makes the package in a folder.
pub(super) fn package(folder: &Path) -> PathBuf {
    made_by("deb", &[folder.to_str().expect("text")])
}

/// A root folder that can be changed at will.
pub(super) struct Debian {
    folder: TempDir,
}

impl Debian {
    pub(super) fn unpack() -> Self {
        let folder = tempfile::Builder::new().prefix("e2e-debian-").tempdir();
        let debian = Self {
            folder: folder.expect("/tmp takes a folder"),
        };
        let tar = made_by("need-debian", &[]);
        let (tar, root) = (tar.to_str().expect("text"), debian.root());
        fs::create_dir(&root).expect("the folder is ours");
        let root = root.to_str().expect("text");
        let _quiet = host::tool("tar", &["-C", root, "-xf", tar]);
        debian.write("etc/hosts", "127.0.0.1 localhost\n");
        for unit in MASKED {
            let link = debian.root().join("etc/systemd/system").join(unit);
            std::os::unix::fs::symlink("/dev/null", link).expect("the root is ours");
        }
        debian
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("the root is ours");
        fs::write(path, content).expect("the root is ours");
    }

    /// Removes a file with its folder.
    pub(super) fn remove(&self, path: &str) {
        let path = self.root().join(path);
        fs::remove_dir_all(path.parent().expect("below the root")).expect("the root is ours");
    }

    /// A file of text.
    pub(super) fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.root().join(path)).expect("it is there");
        text.trim().to_owned()
    }

    /// A command in it, without any system running.
    pub(super) fn run(&self, argv: &[&str]) -> Ran {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--root"]);
        command.arg(self.root()).args(["--mount-proc", "--"]);
        command.args(argv).env_clear().envs(ENVIRONMENT);
        Call::new(command).go()
    }

    /// Everything in it, from the root on.
    pub(super) fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("the root is ours").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
                let path = entry.path();
                let path = path.strip_prefix(self.root()).expect("below the root");
                found.insert(path.to_path_buf());
            }
        }
        found
    }

    /// Starts systemd in it and waits until it is up.
    pub(super) fn boot(&self) -> Booted {
        let script = self.folder.path().join("boot.sh");
        fs::write(&script, include_str!("boot.sh")).expect("the folder is ours");
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--uts",
                "--ipc",
                "--net",
                "--cgroup",
                "--kill-child",
            ])
            .arg("sh")
            .args([script, self.root()]);
        // It sees all groups with controllers, as the daemon in it makes some at the
        // top, and of the tree without any what is below a group of its own.
        let group = Path::new(UNIFIED).join(format!("isol8-e2e-{}", std::process::id()));
        fs::create_dir(&group).expect("root may");
        let own = "for group in /sys/fs/cgroup/*/ \"$0\"; do\n\
                   echo $$ >\"$group/cgroup.procs\"; done; exec \"$@\"";
        let mut mover = Command::new("sh");
        mover
            .args(["-c", own])
            .arg(&group)
            .arg(command.get_program());
        mover.args(command.get_args());
        mover
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let parent = mover.spawn().expect("a shell is there");
        let children = format!("/proc/{0}/task/{0}/children", parent.id());
        let first = wait_for("the first process", seconds(10), || {
            let children = fs::read_to_string(&children).ok()?;
            Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
        });
        let booted = Booted {
            first,
            parent,
            group,
        };
        wait_until("systemd", seconds(60), || {
            let state = booted.run(&["systemctl", "is-active", "multi-user.target"]);
            state.code() == 0
        });
        booted
    }
}

const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// Where the host has the tree of cgroup v2 beside those of v1.
pub(super) const UNIFIED: &str = "/sys/fs/cgroup/unified";

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // One that is not empty is tried again.
    fs::remove_dir(group).ok();
}

/// A Debian at work. Dropped, it is gone with everything that runs in it.
pub(super) struct Booted {
    first: Pid,
    parent: Child,
    /// What systemd made is below.
    group: PathBuf,
}

impl Booted {
    /// A command in it.
    pub(super) fn run(&self, argv: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        let first = self.first.as_raw_nonzero().to_string();
        command.args([
            "--target", &first, "--mount", "--pid", "--uts", "--ipc", "--net",
        ]);
        command
            .args(["--cgroup", "--root", "--wd", "--"])
            .args(argv);
        command.env_clear().envs(ENVIRONMENT);
        Call::new(command).go()
    }

    /// A command that succeeds; what it printed.
    #[track_caller]
    pub(super) fn ok(&self, argv: &[&str]) -> String {
        self.run(argv).ok()
    }

    /// Waits for what a property of a unit is.
    #[track_caller]
    pub(super) fn until(&self, unit: &str, property: &str, wanted: impl Fn(&str) -> bool) {
        let what = format!("{property} of {unit}");
        wait_until(&what, seconds(60), || {
            wanted(
                self.ok(&["systemctl", "show", "--value", "-p", property, unit])
                    .trim(),
            )
        });
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // All others go with the first.
        kill_process(self.first, Signal::KILL).ok();
        drop(self.parent.wait());
        // A killed process may be in its group for another moment.
        let end = Instant::now() + seconds(10);
        while fs::exists(&self.group).unwrap_or(false) && Instant::now() < end {
            remove_groups(&self.group);
        }
    }
}
