//! Where this host has its cgroups.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use isol8_core::failure::{Failure, FailureKind};

use super::{files, v1, v2};

/// What to look at: the real host, or a folder that a test made.
#[derive(Debug, Clone)]
pub(in crate::native) struct Host {
    /// `/proc/self/mountinfo`
    pub(in crate::native) mountinfo: PathBuf,
    /// `/proc/self/cgroup`
    pub(in crate::native) own_group: PathBuf,
    /// The daemon may use the top of the tree.
    pub(in crate::native) root: bool,
}

impl Host {
    /// This host.
    pub(in crate::native) fn real() -> Self {
        Self {
            mountinfo: "/proc/self/mountinfo".into(),
            own_group: "/proc/self/cgroup".into(),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The controllers are on v1.
    V1(v1::Mounts),
    /// They are on v2.
    V2 {
        /// The group to make ours below.
        base: PathBuf,
        /// It holds the daemon itself.
        own: bool,
    },
}

/// Finds the controllers.
///
/// # Errors
/// `HostLacks`, which names what is missing.
pub(super) fn layout(host: &Host) -> Result<Layout, Failure> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| lacks("cannot see the cgroups").because(&error))
    };
    let mounts = CgroupMounts::parse(&read(&host.mountinfo)?);
    let v1_names = ["freezer", "memory", "cpu", "cpuacct", "pids"];
    let missing: Vec<&str> = v1_names
        .into_iter()
        .filter(|name| !mounts.v1.contains_key(*name))
        .collect();
    if missing.is_empty() {
        let of = |name: &str| mounts.v1[name].clone();
        return Ok(Layout::V1(v1::Mounts {
            freezer: of("freezer"),
            memory: of("memory"),
            cpu: of("cpu"),
            cpuacct: of("cpuacct"),
            pids: of("pids"),
        }));
    }
    let Some(top) = mounts.v2 else {
        return Err(if missing.len() == v1_names.len() {
            lacks("no cgroups are mounted").hint("`mount -t cgroup2 none /sys/fs/cgroup`")
        } else {
            lacks(format!("no cgroup for {}", missing.join(", ")))
        });
    };
    let own = own_v2_group(&read(&host.own_group)?);
    let (base, own) = base_group(host, &top, own.as_deref());
    let available = files::read(&base.join("cgroup.controllers"))
        .map_err(|error| lacks("cannot see the cgroup controllers").because(&error))?;
    let missing: Vec<&str> = v2::CONTROLLERS
        .into_iter()
        .filter(|name| !available.split_whitespace().any(|there| there == *name))
        .collect();
    if missing.is_empty() {
        return Ok(Layout::V2 { base, own });
    }
    Err(lacks(format!(
        "the cgroup `{}` does not have {}",
        base.display(),
        missing.join(", ")
    ))
    .hint(
        "run as root, or in a delegated scope: \
         `systemd-run --user --scope -p Delegate=yes isol8d`",
    ))
}

/// Root uses the top, unless systemd has delegated the daemon's own group to it;
/// everybody else their own group.
fn base_group(host: &Host, top: &Path, own: Option<&Path>) -> (PathBuf, bool) {
    let own = own.map(|own| top.join(own.strip_prefix("/").unwrap_or(own)));
    match own {
        Some(own) if !host.root || is_delegated(&own) => (strip_self(own), true),
        // At the top of a container's view there may be processes in the way.
        Some(own) if own == top => (own, true),
        _ => (top.to_owned(), false),
    }
}

/// A daemon that has moved below its group before finds the same group again.
fn strip_self(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(parent) if own.ends_with("isol8d") => parent.to_owned(),
        _ => own,
    }
}

fn is_delegated(group: &Path) -> bool {
    let group = strip_self(group.to_owned());
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0_u8; 8];
        let length = rustix::fs::getxattr(&group, *name, &mut value[..]);
        length.is_ok_and(|length| value[..length].starts_with(b"1"))
    })
}

fn own_v2_group(text: &str) -> Option<PathBuf> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(PathBuf::from)
}

fn lacks(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::HostLacks, message)
}

/// The cgroup mounts of a mountinfo.
#[derive(Debug, Default)]
struct CgroupMounts {
    v1: HashMap<String, PathBuf>,
    v2: Option<PathBuf>,
}

impl CgroupMounts {
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, source)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mount.split(' ').nth(4) else {
                continue;
            };
            // A space in a path is written as \040; nobody mounts cgroups there.
            let point = PathBuf::from(point);
            let mut source = source.split(' ');
            match source.next() {
                Some("cgroup2") => found.v2 = found.v2.or(Some(point)),
                Some("cgroup") => {
                    for option in source.nth(1).unwrap_or_default().split(',') {
                        found.v1.entry(option.to_owned()).or_insert(point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// Where v2 is mounted, also where its controllers are on v1.
#[cfg(test)]
pub(super) fn v2_mount(mountinfo: &str) -> Option<PathBuf> {
    CgroupMounts::parse(mountinfo).v2
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HYBRID: &str = "\
30 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:4 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:5 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
35 30 0:6 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    struct Case {
        folder: tempfile::TempDir,
        root: bool,
    }

    impl Case {
        fn new(root: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { folder, root }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn put(&self, path: &str, text: &str) -> &Self {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn v2(&self, own: &str) -> &Self {
            let line = format!(
                "1 1 0:1 / {} rw - cgroup2 none rw\n",
                self.at("cg").display()
            );
            self.put("mountinfo", &line)
                .put("own", &format!("0::{own}\n"))
        }

        fn layout(&self) -> Result<Layout, Failure> {
            layout(&Host {
                mountinfo: self.at("mountinfo"),
                own_group: self.at("own"),
                root: self.root,
            })
        }
    }

    #[test]
    fn hybrid_hosts_are_driven_by_v1() {
        let case = Case::new(true);
        case.put("mountinfo", HYBRID);
        let Layout::V1(mounts) = case.layout().unwrap() else {
            panic!("the controllers are on v1");
        };
        assert_eq!(mounts.cpu, mounts.cpuacct);
        assert_eq!(v1::Tree::new(mounts).folders(Path::new("x")).len(), 4);
    }

    #[test]
    fn root_uses_the_top_of_v2() {
        let case = Case::new(true);
        case.v2("/system.slice/ssh.service")
            .put("cg/cgroup.controllers", "cpuset cpu io memory pids\n");
        let base = case.at("cg");
        assert_eq!(case.layout().unwrap(), Layout::V2 { base, own: false });
    }

    #[test]
    fn a_user_uses_their_own_group() {
        let case = Case::new(false);
        case.v2("/user.slice/run.scope").put(
            "cg/user.slice/run.scope/cgroup.controllers",
            "cpu memory pids\n",
        );
        let base = case.at("cg/user.slice/run.scope");
        assert_eq!(case.layout().unwrap(), Layout::V2 { base, own: true });
        // After it has made room for its sandboxes.
        case.v2("/user.slice/run.scope/isol8d");
        let base = case.at("cg/user.slice/run.scope");
        assert_eq!(case.layout().unwrap(), Layout::V2 { base, own: true });
    }

    #[test]
    fn a_group_without_controllers_is_refused_with_a_way_out() {
        let case = Case::new(false);
        case.v2("/session.scope")
            .put("cg/session.scope/cgroup.controllers", "memory pids\n");
        let failure = case.layout().unwrap_err();
        assert_eq!(failure.kind, FailureKind::HostLacks);
        assert!(failure.message.ends_with("does not have cpu"), "{failure}");
        assert!(failure.hint.unwrap().contains("Delegate=yes"));
    }

    #[test]
    fn a_host_without_cgroups_is_refused() {
        let case = Case::new(true);
        case.put("mountinfo", "1 1 0:1 / / rw - ext4 /dev/vda rw\n");
        let failure = case.layout().unwrap_err();
        assert_eq!(failure.message, "no cgroups are mounted");
        // A dangling file is an error too, never a guess.
        let case = Case::new(true);
        symlink("/nowhere", case.at("mountinfo")).unwrap();
        assert_eq!(case.layout().unwrap_err().kind, FailureKind::HostLacks);
    }
}
