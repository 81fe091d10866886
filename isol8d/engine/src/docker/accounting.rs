//! What a container uses, read from its cgroup's own files on the host: the
//! engine's statistics take a second and know nothing of OOM kills.
//!
//! On cgroup v1 each controller has a tree of its own; with v2 there is one. A
//! hybrid host has both, and a controller is where `/proc/<pid>/cgroup` names
//! it. A cgroup vanishes with the container's last process, so whoever wants
//! figures reads them before the link to init is closed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use isol8_core::outcome::Counters;

/// A mounted cgroup tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    /// Where it is mounted.
    at: PathBuf,
    /// The cgroup that is mounted there.
    root: String,
    /// v1: its controllers. v2: none.
    controllers: Option<Vec<String>>,
}

/// The folders of one container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accounting {
    V1 { memory: PathBuf, cpu: PathBuf },
    V2 { folder: PathBuf },
}

/// The memory controller of this host is one of cgroup v1.
pub(super) fn is_v1() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_memory = |tree: &Tree| {
        let controllers = tree.controllers.as_deref().unwrap_or_default();
        controllers.iter().any(|name| name == "memory")
    };
    trees(&mounts).iter().any(is_memory)
}

impl Accounting {
    /// Finds the cgroup of a container's process.
    ///
    /// # Errors
    /// When the process is gone, is not in a cgroup named after `container`
    /// (another process has its number by now), or no tree is mounted.
    pub(super) fn of(pid: i64, container: &str) -> io::Result<Self> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Self::locate(&membership, &mounts, container)
            .ok_or_else(|| io::Error::other(format!("process {pid} is in no cgroup of its own")))
    }

    fn locate(membership: &str, mounts: &str, container: &str) -> Option<Self> {
        let trees = trees(mounts);
        let of = |controller: Option<&str>| {
            let path = path_of(membership, controller)?;
            let named = path.contains(container);
            let tree = trees.iter().find(|tree| tree.serves(controller))?;
            named.then(|| tree.folder(path))?
        };
        match (of(Some("memory")), of(Some("cpuacct"))) {
            (Some(memory), Some(cpu)) => Some(Self::V1 { memory, cpu }),
            _ => of(None).map(|folder| Self::V2 { folder }),
        }
    }

    /// Reads everything now.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub(super) fn read(&self) -> io::Result<Counters> {
        match self {
            Self::V1 { memory, cpu } => {
                let nanos = number(&fs::read_to_string(cpu.join("cpuacct.usage"))?);
                let peak = fs::read_to_string(memory.join("memory.max_usage_in_bytes"))?;
                let stat = fs::read_to_string(memory.join("memory.stat"))?;
                let oom = fs::read_to_string(memory.join("memory.oom_control"))?;
                let usage = fs::read_to_string(memory.join("memory.usage_in_bytes"))?;
                let droppable = keyed(&stat, "total_inactive_file")
                    .saturating_add(keyed(&stat, "total_active_file"));
                Ok(Counters {
                    cpu: Duration::from_nanos(nanos),
                    peak_memory_bytes: number(&peak),
                    memory_bytes: number(&usage).saturating_sub(droppable),
                    shmem_bytes: keyed(&stat, "total_shmem"),
                    oom_kills: keyed(&oom, "oom_kill"),
                })
            }
            Self::V2 { folder } => {
                let cpu = fs::read_to_string(folder.join("cpu.stat"))?;
                let stat = fs::read_to_string(folder.join("memory.stat"))?;
                let events = fs::read_to_string(folder.join("memory.events"))?;
                let current = fs::read_to_string(folder.join("memory.current"))?;
                // Linux before 5.19 keeps no peak.
                let peak = fs::read_to_string(folder.join("memory.peak"));
                let droppable =
                    keyed(&stat, "inactive_file").saturating_add(keyed(&stat, "active_file"));
                Ok(Counters {
                    cpu: Duration::from_micros(keyed(&cpu, "usage_usec")),
                    peak_memory_bytes: number(peak.as_ref().unwrap_or(&current)),
                    memory_bytes: number(&current).saturating_sub(droppable),
                    shmem_bytes: keyed(&stat, "shmem"),
                    oom_kills: keyed(&events, "oom_kill"),
                })
            }
        }
    }
}

/// Whether a process is in the cgroup of a container.
pub(super) fn is_in(pid: i32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|membership| membership.contains(container))
}

impl Tree {
    fn serves(&self, controller: Option<&str>) -> bool {
        match (controller, &self.controllers) {
            (Some(wanted), Some(controllers)) => controllers.iter().any(|name| name == wanted),
            (None, None) => true,
            _ => false,
        }
    }

    /// Where a cgroup of this tree is. `None` outside what is mounted.
    fn folder(&self, cgroup: &str) -> Option<PathBuf> {
        let below = Path::new(cgroup).strip_prefix(&self.root).ok()?;
        Some(self.at.join(below))
    }
}

fn trees(mountinfo: &str) -> Vec<Tree> {
    mountinfo.lines().filter_map(tree).collect()
}

/// `31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`
fn tree(line: &str) -> Option<Tree> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, at) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let options = filesystem.nth(1).unwrap_or_default();
    let controllers = match kind {
        "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
        "cgroup2" => None,
        _ => return None,
    };
    Some(Tree {
        at: at.into(),
        root: root.into(),
        controllers,
    })
}

/// The line of `/proc/<pid>/cgroup` for a controller, or the one of v2.
fn path_of<'a>(membership: &'a str, controller: Option<&str>) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let right = match controller {
            Some(wanted) => controllers.split(',').any(|name| name == wanted),
            None => controllers.is_empty(),
        };
        right.then_some(path)
    })
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The value after a key at the beginning of a line.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map_or(0, |(_, value)| number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[track_caller]
    fn check(mounts: &str, membership: &str, expected: Option<Accounting>) {
        assert_eq!(Accounting::locate(membership, mounts, "c0ffee"), expected);
    }

    fn v1(memory: &str, cpu: &str) -> Option<Accounting> {
        Some(Accounting::V1 {
            memory: memory.into(),
            cpu: cpu.into(),
        })
    }

    fn v2(folder: &str) -> Option<Accounting> {
        Some(Accounting::V2 {
            folder: folder.into(),
        })
    }

    #[test]
    fn controllers_of_v1_are_found_one_by_one() {
        check(
            V1,
            "4:memory:/docker/c0ffee\n2:cpu,cpuacct:/docker/c0ffee\n0::/docker/c0ffee\n",
            v1(
                "/sys/fs/cgroup/memory/docker/c0ffee",
                "/sys/fs/cgroup/cpu,cpuacct/docker/c0ffee",
            ),
        );
    }

    #[test]
    fn systemd_names_a_scope_after_the_container() {
        check(
            V2,
            "0::/system.slice/docker-c0ffee.scope\n",
            v2("/sys/fs/cgroup/system.slice/docker-c0ffee.scope"),
        );
    }

    #[test]
    fn a_tree_that_is_mounted_from_below_its_root() {
        let mounts = "30 23 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        check(
            mounts,
            "0::/box/docker/c0ffee\n",
            v2("/sys/fs/cgroup/docker/c0ffee"),
        );
        check(mounts, "0::/docker/c0ffee\n", None);
    }

    #[test]
    fn a_process_of_somebody_else_is_refused() {
        check(V2, "0::/user.slice/session-1.scope\n", None);
        check(
            V1,
            "4:memory:/user\n2:cpu,cpuacct:/docker/c0ffee\n0::/\n",
            None,
        );
        check("", "0::/docker/c0ffee\n", None);
    }

    #[test]
    fn figures_of_v2_with_and_without_a_peak() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        let stat = "anon 1\nshmem 4096\nshmem_thp 0\ninactive_file 70\nactive_file 700\n";
        write("memory.stat", stat);
        write(
            "memory.events",
            "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
        );
        write("memory.current", "777\n");
        let accounting = v2(folder.path().to_str().unwrap()).unwrap();
        let expected = Counters {
            cpu: Duration::from_micros(1500),
            peak_memory_bytes: 777,
            memory_bytes: 7,
            shmem_bytes: 4096,
            oom_kills: 2,
        };
        assert_eq!(accounting.read().unwrap(), expected);
        write("memory.peak", "9999\n");
        assert_eq!(accounting.read().unwrap().peak_memory_bytes, 9999);
        drop(folder);
        assert!(accounting.read().is_err());
    }

    #[test]
    fn figures_of_v1() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("cpuacct.usage", "2000000\n");
        write("memory.max_usage_in_bytes", "12345\n");
        write("memory.usage_in_bytes", "9000\n");
        // Those without `total_` are without the groups below it.
        let stat = "inactive_file 1\nshmem 1\ntotal_shmem 8192\n\
            total_inactive_file 300\ntotal_active_file 200\n";
        write("memory.stat", stat);
        write(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        );
        let path = folder.path().to_str().unwrap();
        let expected = Counters {
            cpu: Duration::from_millis(2),
            peak_memory_bytes: 12345,
            memory_bytes: 8500,
            shmem_bytes: 8192,
            oom_kills: 1,
        };
        assert_eq!(v1(path, path).unwrap().read().unwrap(), expected);
    }

    #[test]
    fn this_host_has_what_the_engine_needs() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!trees(&mounts).is_empty(), "no cgroup tree is mounted");
    }
}
