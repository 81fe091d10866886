//! cgroup v1: a folder in each of five hierarchies.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isol8_core::{outcome::Counters, sandbox::Limits};
use rustix::process::{Pid, Signal, kill_process};

use super::{files, wait_for};

/// Where the hierarchies are mounted. Some may be one and the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounts {
    pub(super) freezer: PathBuf,
    pub(super) memory: PathBuf,
    pub(super) cpu: PathBuf,
    pub(super) cpuacct: PathBuf,
    pub(super) pids: PathBuf,
}

/// What a frozen group waits for at most: a task deep in the kernel can keep it
/// from freezing, and is killed all the same.
const FREEZE_DEADLINE: Duration = Duration::from_millis(100);
/// The kernel's usual period, over which the processor share holds.
const PERIOD_US: u32 = 100_000;

#[derive(Debug)]
pub(super) struct Tree {
    mounts: Mounts,
    /// The different ones, the freezer's first.
    roots: Vec<PathBuf>,
}

impl Tree {
    pub(super) fn new(mounts: Mounts) -> Self {
        let mut roots: Vec<PathBuf> = Vec::new();
        for root in [
            &mounts.freezer,
            &mounts.memory,
            &mounts.cpu,
            &mounts.cpuacct,
            &mounts.pids,
        ] {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        Self { mounts, roots }
    }

    pub(super) fn folders(&self, path: &Path) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(path)).collect()
    }

    pub(super) fn make_home(&self, home: &Path) -> io::Result<()> {
        for folder in self.folders(home) {
            fs::create_dir_all(&folder).map_err(|error| files::named("make", &folder, &error))?;
        }
        // New groups take it over from their parent.
        let swappiness = self.mounts.memory.join(home).join("memory.swappiness");
        files::write_if_there(&swappiness, "0")
    }

    pub(super) fn set_limits(&self, path: &Path, limits: &Limits, pids: u32) -> io::Result<()> {
        self.set_memory(&self.mounts.memory.join(path), limits.memory.as_bytes())?;
        let quota = u64::from(limits.cpu.as_millis()) * u64::from(PERIOD_US) / 1000;
        let cpu = self.mounts.cpu.join(path);
        files::write(&cpu.join("cpu.cfs_quota_us"), &quota.to_string())?;
        let pids_max = self.mounts.pids.join(path).join("pids.max");
        files::write(&pids_max, &pids.to_string())
    }

    /// Memory and memory with swap are the same, so there is no swap. At every
    /// moment the second must not be below the first: the order depends on the
    /// direction.
    fn set_memory(&self, folder: &Path, bytes: u64) -> io::Result<()> {
        let text = bytes.to_string();
        let limit = folder.join("memory.limit_in_bytes");
        let with_swap = folder.join("memory.memsw.limit_in_bytes");
        match files::write(&limit, &text) {
            Ok(()) => return files::write_if_there(&with_swap, &text),
            // What is in use already does not fit: no other order helps.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(error),
            Err(_) => {}
        }
        files::write_if_there(&with_swap, &text)?;
        files::write(&limit, &text)
    }

    pub(super) fn counters(&self, path: &Path) -> io::Result<Counters> {
        let memory = self.mounts.memory.join(path);
        let cpu = self.mounts.cpuacct.join(path).join("cpuacct.usage");
        let stat = files::read(&memory.join("memory.stat"))?;
        let usage = files::read_number(&memory.join("memory.usage_in_bytes"))?;
        let droppable = files::field(&stat, "total_inactive_file")
            .saturating_add(files::field(&stat, "total_active_file"));
        Ok(Counters {
            cpu: Duration::from_nanos(files::read_number(&cpu)?),
            peak_memory_bytes: files::read_number(&memory.join("memory.max_usage_in_bytes"))?,
            memory_bytes: usage.saturating_sub(droppable),
            shmem_bytes: files::field(&stat, "shmem"),
            oom_kills: files::read_field(&memory.join("memory.oom_control"), "oom_kill")?,
        })
    }

    /// One round: freeze, so that nothing forks or takes over a pid; kill; thaw,
    /// so that the killed can die.
    pub(super) fn kill(&self, path: &Path, deadline: Instant) -> io::Result<()> {
        let folder = self.mounts.freezer.join(path);
        let state = folder.join("freezer.state");
        let killed = Self::freeze_and_kill(&folder, &state, deadline);
        // Also after an error: nothing may stay frozen.
        let thawed = files::write_if_there(&state, "THAWED");
        killed.and(thawed)
    }

    fn freeze_and_kill(folder: &Path, state: &Path, deadline: Instant) -> io::Result<()> {
        files::write_if_there(state, "FROZEN")?;
        let deadline = deadline.min(Instant::now() + FREEZE_DEADLINE);
        wait_for(deadline, || match files::read(state) {
            Ok(text) => Ok(text.trim() == "FROZEN"),
            Err(error) if files::is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        })?;
        let pids = match files::read_pids(&folder.join("cgroup.procs")) {
            Err(error) if files::is_gone(&error) => Vec::new(),
            pids => pids?,
        };
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
