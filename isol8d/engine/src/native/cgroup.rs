//! One cgroup for each sandbox, at `isol8/<daemon>/<sandbox>`.
//!
//! The tree is also the record of what exists: a sandbox's group is made before
//! anything else of it and removed after everything else, so that whatever a
//! daemon leaves when it dies is found here by the next.

mod detect;
mod files;
mod v1;
mod v2;

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    quantity::Pids,
    sandbox::Limits,
};

use crate::Found;

pub(super) use detect::Host;

use detect::Layout;

/// The top folder of isol8 in every hierarchy.
const TOP: &str = "isol8";
/// Processes of a sandbox that are not the program's: bubblewrap, which waits
/// outside, and init. Both are there before the program and start no others.
pub(super) const OWN_PIDS: u32 = 2;
/// The longest that killing and removing one sandbox may take.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How the wait for the kernel grows: what is usual takes less than 1 ms.
const FIRST_WAIT: Duration = Duration::from_micros(100);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// The cgroups of one daemon.
#[derive(Debug)]
pub(super) struct Cgroups {
    tree: Tree,
    daemon: DaemonId,
}

#[derive(Debug)]
enum Tree {
    V1(v1::Tree),
    V2(v2::Tree),
}

impl Cgroups {
    /// Finds where groups can be made, and makes the daemon's own.
    ///
    /// # Errors
    /// `HostLacks`, with the reason: sandboxes without limits are not made.
    pub(super) fn open(host: &Host, daemon: &DaemonId) -> Result<Self, Failure> {
        let tree = match detect::layout(host)? {
            Layout::V1(mounts) => Tree::V1(v1::Tree::new(mounts)),
            Layout::V2 { base, own } => Tree::V2(v2::Tree::new(base, own)),
        };
        let cgroups = Self {
            tree,
            daemon: daemon.clone(),
        };
        cgroups.make_home().map_err(|error| {
            Failure::new(
                FailureKind::HostLacks,
                "cannot make cgroups, and without them no limit holds",
            )
            .because(&error)
            .hint(
                "run as root, or in a delegated scope: \
                 `systemd-run --user --scope -p Delegate=yes isol8d`",
            )
        })?;
        Ok(cgroups)
    }

    /// What is used, for a person.
    pub(super) fn describe(&self) -> String {
        match &self.tree {
            Tree::V1(_) => "cgroup v1".to_owned(),
            Tree::V2(tree) => format!("cgroup v2 at {}", tree.base().display()),
        }
    }

    /// Makes a sandbox's group with its limits.
    pub(super) fn create(&self, id: &SandboxId, limits: &Limits) -> io::Result<()> {
        let path = self.path(&self.daemon, id);
        let made = self.make(&path);
        let made = match made {
            // Another engine of this daemon may have tidied up the parent.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_home()?;
                self.make(&path)
            }
            made => made,
        };
        made.and_then(|()| self.set_limits(id, limits))
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        for folder in self.folders(path) {
            fs::create_dir(&folder).map_err(|error| files::named("make", &folder, &error))?;
        }
        Ok(())
    }

    /// Sets the limits of a live group, up or down.
    pub(super) fn set_limits(&self, id: &SandboxId, limits: &Limits) -> io::Result<()> {
        let path = self.path(&self.daemon, id);
        let pids = limits.pids.get().saturating_add(OWN_PIDS).min(Pids::MAX);
        match &self.tree {
            Tree::V1(tree) => tree.set_limits(&path, limits, pids),
            Tree::V2(tree) => tree.set_limits(&path, limits, pids),
        }
    }

    /// What has been used since the group was made.
    pub(super) fn counters(&self, id: &SandboxId) -> io::Result<Counters> {
        let path = self.path(&self.daemon, id);
        match &self.tree {
            Tree::V1(tree) => tree.counters(&path),
            Tree::V2(tree) => tree.counters(&path),
        }
    }

    /// The files to write a pid to, for a process to be in the group. The one
    /// that [`Cgroups::destroy`] looks at comes first.
    pub(super) fn join_files(&self, id: &SandboxId) -> Vec<PathBuf> {
        // The launcher has one thread, and a thread that moves itself is spared the
        // wait for an RCU grace period (up to 10 ms) that moving a whole process
        // costs. In v2 a thread alone cannot change its group.
        let name = match &self.tree {
            Tree::V1(_) => "tasks",
            Tree::V2(_) => "cgroup.procs",
        };
        self.folders(&self.path(&self.daemon, id))
            .into_iter()
            .map(|folder| folder.join(name))
            .collect()
    }

    /// Whether a process is in the group.
    pub(super) fn holds(&self, id: &SandboxId, pid: i32) -> bool {
        self.pids(&self.path(&self.daemon, id))
            .is_ok_and(|pids| pids.contains(&pid))
    }

    /// Whether anything is in the group; without one there is nothing.
    pub(super) fn is_alive(&self, id: &SandboxId) -> io::Result<bool> {
        let pids = self.pids(&self.path(&self.daemon, id))?;
        Ok(!pids.is_empty())
    }

    /// Every group of a sandbox, of every daemon.
    pub(super) fn list(&self) -> io::Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        for top in self.folders(Path::new(TOP)) {
            for (daemon, folder) in named_folders(&top, DaemonId::parse)? {
                let sandboxes = match named_folders(&folder, SandboxId::parse) {
                    // Of another user's daemon with a strict umask: nothing there
                    // is ours to remove.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                    sandboxes => sandboxes?,
                };
                for (id, _) in sandboxes {
                    let daemon = daemon.clone();
                    let one = Found { id, daemon };
                    if !found.contains(&one) {
                        found.push(one);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Kills everything in a sandbox's group, whoever made it. Does nothing to
    /// one that is not there.
    ///
    /// # Errors
    /// When something still lives after 10 seconds, which takes a process that
    /// the kernel cannot kill.
    pub(super) fn kill(&self, found: &Found) -> io::Result<()> {
        let path = self.path(&found.daemon, &found.id);
        let deadline = Instant::now() + KILL_DEADLINE;
        loop {
            if self.pids(&path)?.is_empty() {
                return Ok(());
            }
            match &self.tree {
                Tree::V1(tree) => tree.kill(&path, deadline)?,
                Tree::V2(tree) => tree.kill(&path)?,
            }
            let emptied = wait_for(deadline, || Ok(self.pids(&path)?.is_empty()))?;
            if !emptied {
                return Err(io::Error::other(format!(
                    "processes of {} do not die",
                    path.display()
                )));
            }
        }
    }

    /// Removes a group that is empty. Does nothing to one that is not there.
    pub(super) fn remove(&self, found: &Found) -> io::Result<()> {
        let path = self.path(&found.daemon, &found.id);
        let deadline = Instant::now() + KILL_DEADLINE;
        // The first is looked at by `kill`, so it goes last.
        for folder in self.folders(&path).iter().rev() {
            // A group stays busy until its last process is buried.
            let removed = wait_for(deadline, || match fs::remove_dir(folder) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
                Err(error) => Err(files::named("remove", folder, &error)),
            })?;
            if !removed {
                let message = format!("the cgroup {} stays busy", folder.display());
                return Err(io::Error::other(message));
            }
        }
        Ok(())
    }

    /// Removes the groups of a daemon that has no sandboxes. Best effort: the
    /// kernel refuses while there are some.
    pub(super) fn tidy(&self, daemon: &DaemonId) {
        let home = Path::new(TOP).join(daemon.as_str());
        for folder in self.folders(&home) {
            fs::remove_dir(folder).ok();
        }
    }

    /// The daemons that have groups, also empty ones.
    pub(super) fn daemons(&self) -> Vec<DaemonId> {
        let tops = self.folders(Path::new(TOP));
        let mut daemons: Vec<DaemonId> = tops
            .iter()
            .filter_map(|top| named_folders(top, DaemonId::parse).ok())
            .flatten()
            .map(|(daemon, _)| daemon)
            .collect();
        daemons.sort_unstable();
        daemons.dedup();
        daemons
    }

    fn make_home(&self) -> io::Result<()> {
        let home = Path::new(TOP).join(self.daemon.as_str());
        match &self.tree {
            Tree::V1(tree) => tree.make_home(&home),
            Tree::V2(tree) => tree.make_home(&home),
        }
    }

    fn pids(&self, path: &Path) -> io::Result<Vec<i32>> {
        let folder = &self.folders(path)[0];
        match files::read_pids(&folder.join("cgroup.procs")) {
            Err(error) if files::is_gone(&error) => Ok(Vec::new()),
            pids => pids,
        }
    }

    fn path(&self, daemon: &DaemonId, id: &SandboxId) -> PathBuf {
        Path::new(TOP).join(daemon.as_str()).join(id.as_str())
    }

    /// The folders that stand for a path below a hierarchy's root.
    fn folders(&self, path: &Path) -> Vec<PathBuf> {
        match &self.tree {
            Tree::V1(tree) => tree.folders(path),
            Tree::V2(tree) => vec![tree.base().join(path)],
        }
    }
}

/// Asks until the answer is yes or the time is over, and says which.
fn wait_for(deadline: Instant, mut ask: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let mut wait = FIRST_WAIT;
    loop {
        if ask()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The sub-folders whose names can be understood.
fn named_folders<T>(
    folder: &Path,
    parse: impl Fn(&str) -> Option<T>,
) -> io::Result<Vec<(T, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(&parse) {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
