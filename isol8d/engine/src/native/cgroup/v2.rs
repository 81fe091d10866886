//! cgroup v2: one folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use isol8_core::{outcome::Counters, sandbox::Limits};
use rustix::process::{Pid, Signal, kill_process};

use super::files;

/// What a sandbox's group must have.
pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// The period over which the processor share holds.
const PERIOD_US: u64 = 100_000;
/// Where the daemon goes itself: a group whose controllers reach its children
/// may not hold processes.
const SELF: &str = "isol8d";
/// Rounds of moving, as processes that are being moved can fork.
const MOVE_ROUNDS: usize = 16;

#[derive(Debug)]
pub(super) struct Tree {
    base: PathBuf,
    /// The base is the daemon's own group, so its processes may be moved.
    own: bool,
}

impl Tree {
    pub(super) fn new(base: PathBuf, own: bool) -> Self {
        Self { base, own }
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Makes the daemon's folder, with the controllers enabled all the way down.
    pub(super) fn make_home(&self, home: &Path) -> io::Result<()> {
        let folder = self.base.join(home);
        fs::create_dir_all(&folder).map_err(|error| files::named("make", &folder, &error))?;
        self.enable(&self.base)?;
        let mut parent = self.base.clone();
        for part in home {
            parent.push(part);
            self.enable(&parent)?;
        }
        Ok(())
    }

    fn enable(&self, folder: &Path) -> io::Result<()> {
        let control = folder.join("cgroup.subtree_control");
        let enabled = files::read(&control)?;
        let missing: Vec<String> = CONTROLLERS
            .iter()
            .filter(|name| !enabled.split_whitespace().any(|there| there == **name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let line = missing.join(" ");
        match files::write(&control, &line) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy
                    && self.own
                    && folder == self.base =>
            {
                self.make_room()?;
                files::write(&control, &line)
            }
            written => written,
        }
    }

    /// Moves the processes of the daemon's own group to a group below it.
    fn make_room(&self) -> io::Result<()> {
        let below = self.base.join(SELF);
        match fs::create_dir(&below) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(files::named("make", &below, &error));
            }
            _ => {}
        }
        for _ in 0..MOVE_ROUNDS {
            let pids = files::read_pids(&self.base.join("cgroup.procs"))?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                match files::write(&below.join("cgroup.procs"), &pid.to_string()) {
                    // It has ended meanwhile, or is a kernel thread.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_limits(&self, path: &Path, limits: &Limits, pids: u32) -> io::Result<()> {
        let folder = self.base.join(path);
        let memory = limits.memory.as_bytes().to_string();
        files::write(&folder.join("memory.max"), &memory)?;
        // Not there on a kernel without swap accounting, nor without swap.
        files::write_if_there(&folder.join("memory.swap.max"), "0")?;
        let quota = u64::from(limits.cpu.as_millis()) * PERIOD_US / 1000;
        files::write(&folder.join("cpu.max"), &format!("{quota} {PERIOD_US}"))?;
        files::write(&folder.join("pids.max"), &pids.to_string())
    }

    pub(super) fn counters(&self, path: &Path) -> io::Result<Counters> {
        let folder = self.base.join(path);
        let cpu = files::read_field(&folder.join("cpu.stat"), "usage_usec")?;
        let current = files::read_number(&folder.join("memory.current"))?;
        // Kernels before 5.19 keep no peak: the present is the best there is.
        let peak = match files::read_number(&folder.join("memory.peak")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => current,
            peak => peak?,
        };
        let stat = files::read(&folder.join("memory.stat"))?;
        let droppable =
            files::field(&stat, "inactive_file").saturating_add(files::field(&stat, "active_file"));
        Ok(Counters {
            cpu: Duration::from_micros(cpu),
            peak_memory_bytes: peak,
            memory_bytes: current.saturating_sub(droppable),
            shmem_bytes: files::field(&stat, "shmem"),
            oom_kills: files::read_field(&folder.join("memory.events"), "oom_kill")?,
        })
    }

    /// Kills everything in the group at once.
    pub(super) fn kill(&self, path: &Path) -> io::Result<()> {
        let folder = self.base.join(path);
        match files::write(&folder.join("cgroup.kill"), "1") {
            // Kernels before 5.14, or the group is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let freeze = folder.join("cgroup.freeze");
        files::write_if_there(&freeze, "1")?;
        let pids = files::read_pids(&folder.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            // One that has ended meanwhile is no error, and one that lives is
            // seen by the caller.
            kill_process(pid, Signal::KILL).ok();
        }
        files::write_if_there(&freeze, "0")
    }
}
