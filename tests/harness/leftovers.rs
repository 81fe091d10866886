//! What a daemon left on the host after its end: nothing, or a failed test.

use std::{fs, path::Path, process::Command};

use super::host;

/// Everything that was found, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Containers with the daemon's label, running or not.
    pub containers: Vec<String>,
    /// Control groups that carry the daemon's id.
    pub cgroups: Vec<String>,
    /// Entries of `R/sb`, `R/stage` and the like.
    pub folders: Vec<String>,
    /// Live processes that see the stage's folder or were started from it.
    pub processes: Vec<String>,
    /// Mounts of the host below the stage's folder.
    pub mounts: Vec<String>,
}

impl Leftovers {
    /// Looks for what the daemon of a stage left.
    #[must_use]
    pub fn of(folder: &Path, daemon_id: Option<&str>, docker: bool) -> Self {
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.expect("a stage has a folder of its own");
        Self {
            containers: daemon_id
                .filter(|_| docker)
                .map(containers)
                .unwrap_or_default(),
            cgroups: daemon_id.map(cgroups).unwrap_or_default(),
            folders: folders(&folder.join("run")),
            processes: processes(name),
            mounts: mounts(name),
        }
    }

    /// Nothing was found.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

fn containers(daemon_id: &str) -> Vec<String> {
    let label = format!("label=isol8.daemon={daemon_id}");
    let listed = host::tool("docker", &["ps", "-aq", "--no-trunc", "--filter", &label]);
    // Docker 20.10 may go on listing a container that died while it was being
    // removed; the engine knows nothing of it any more, and neither can we.
    let known = |id: &&str| {
        let mut docker = Command::new("docker");
        docker.args(["inspect", "--type", "container", id]);
        docker.output().is_ok_and(|output| output.status.success())
    };
    listed.lines().filter(known).map(str::to_owned).collect()
}

/// `<controller>/…/isol8/<daemon id>` on v1, the same below one root on v2: the
/// id in a path is what counts. Sandboxes' folders lie one level deeper.
fn cgroups(daemon_id: &str) -> Vec<String> {
    let mut found = Vec::new();
    search(Path::new("/sys/fs/cgroup"), daemon_id, 6, &mut found);
    found
}

fn search(folder: &Path, daemon_id: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains(daemon_id) {
            found.push(path.display().to_string());
        } else if depth > 0 {
            search(&path, daemon_id, depth - 1, found);
        }
    }
}

fn folders(runtime_dir: &Path) -> Vec<String> {
    // The empty folder that stages are mounted on stays, like the socket's.
    let below = ["sb", "stage"];
    let entries = below
        .iter()
        .filter_map(|name| fs::read_dir(runtime_dir.join(name)).ok());
    let shown = entries
        .flatten()
        .flatten()
        .map(|entry| entry.path().display().to_string());
    shown.collect()
}

fn processes(name: &str) -> Vec<String> {
    let me = rustix::process::getpid();
    let found = host::processes().into_iter().filter(|process| {
        let ours = process.pid == me || process.is_zombie();
        let started_there = process.argv.iter().any(|word| word.contains(name));
        !ours
            && (started_there
                || process.environment().contains(name)
                || process.mounts().contains(name))
    });
    found
        .map(|process| format!("{} {:?}", process.pid.as_raw_nonzero(), process.argv))
        .collect()
}

fn mounts(name: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = mounts.lines().filter(|line| line.contains(name));
    ours.map(str::to_owned).collect()
}
