//! The v2 driver on a tree of plain files. The kernel makes the files of a new
//! group; here they are written before limits are set. The real thing is in
//! `tests/native.rs`.

use std::collections::BTreeMap;

use isol8_core::quantity::{ByteSize, CpuMillis};

use super::*;

struct Fake {
    folder: tempfile::TempDir,
    cgroups: Cgroups,
}

fn limits(memory_mib: u64, cpu: u32, pids: u32) -> Limits {
    Limits {
        memory: ByteSize::mib(memory_mib),
        cpu: CpuMillis::new(cpu).unwrap(),
        pids: Pids::new(pids).unwrap(),
    }
}

impl Fake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = DaemonId::parse("0123456789abcdef").unwrap();
        let tree = Tree::V2(v2::Tree::new(folder.path().to_owned(), true));
        let cgroups = Cgroups { tree, daemon };
        Self { folder, cgroups }
    }

    fn id() -> SandboxId {
        SandboxId::parse("00112233445566778899aabbccddeeff").unwrap()
    }

    fn group(&self) -> PathBuf {
        let path = self.cgroups.path(&self.cgroups.daemon, &Self::id());
        self.folder.path().join(path)
    }

    fn put(&self, files: &[(&str, &str)]) {
        fs::create_dir_all(self.group()).unwrap();
        for (name, text) in files {
            fs::write(self.group().join(name), text).unwrap();
        }
    }

    fn found(&self) -> Found {
        Found {
            id: Self::id(),
            daemon: self.cgroups.daemon.clone(),
        }
    }
}

#[test]
fn v2_limits_are_written_where_the_kernel_looks() {
    let fake = Fake::new();
    let names = ["memory.max", "memory.swap.max", "cpu.max", "pids.max"];
    fake.put(&names.map(|name| (name, "")));
    fake.cgroups
        .set_limits(&Fake::id(), &limits(512, 1500, 64))
        .unwrap();
    let written: BTreeMap<&str, String> = names
        .iter()
        .map(|name| (*name, fs::read_to_string(fake.group().join(name)).unwrap()))
        .collect();
    let expected = [
        ("cpu.max", "150000 100000"),
        ("memory.max", "536870912"),
        ("memory.swap.max", "0"),
        ("pids.max", "66"),
    ];
    let expected = expected.map(|(name, text)| (name, text.to_owned()));
    assert_eq!(written, BTreeMap::from(expected));
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error() {
    let fake = Fake::new();
    fake.put(&[("memory.max", ""), ("cpu.max", "")]);
    let error = fake
        .cgroups
        .set_limits(&Fake::id(), &limits(64, 1000, 8))
        .unwrap_err();
    assert!(error.to_string().contains("pids.max"), "{error}");
}

#[test]
fn v2_counters_are_read_from_their_files() {
    let fake = Fake::new();
    fake.put(&[
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
        ("memory.peak", "4096\n"),
        ("memory.current", "3000\n"),
        (
            "memory.stat",
            "anon 1\nshmem 8192\nshmem_thp 5\ninactive_file 700\nactive_file 300\n",
        ),
        ("memory.events", "low 0\noom 2\noom_kill 1\n"),
    ]);
    let expected = Counters {
        cpu: Duration::from_micros(1500),
        peak_memory_bytes: 4096,
        memory_bytes: 2000,
        shmem_bytes: 8192,
        oom_kills: 1,
    };
    assert_eq!(fake.cgroups.counters(&Fake::id()).unwrap(), expected);
}

#[test]
fn a_kernel_without_a_peak_shows_the_present() {
    let fake = Fake::new();
    fake.put(&[
        ("cpu.stat", "usage_usec 0\n"),
        ("memory.current", "12\n"),
        ("memory.stat", ""),
        ("memory.events", ""),
    ]);
    let counters = fake.cgroups.counters(&Fake::id()).unwrap();
    assert_eq!(counters.peak_memory_bytes, 12);
}

#[test]
fn what_is_in_the_tree_is_listed_whoever_made_it() {
    let fake = Fake::new();
    fake.put(&[]);
    let other = fake.folder.path().join("isol8/fedcba9876543210");
    fs::create_dir_all(other.join("ffeeddccbbaa99887766554433221100")).unwrap();
    fs::create_dir_all(other.join("not-a-sandbox")).unwrap();
    fs::write(other.join("cgroup.procs"), "").unwrap();
    let mut found = fake.cgroups.list().unwrap();
    found.sort_by(|a, b| a.daemon.cmp(&b.daemon));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], fake.found());
    assert_eq!(found[1].daemon.as_str(), "fedcba9876543210");
    assert_eq!(fake.cgroups.daemons().len(), 2);
}

#[test]
fn controllers_are_enabled_from_the_top_down() {
    let fake = Fake::new();
    let home = Path::new("isol8/0123456789abcdef");
    let levels = ["", "isol8", "isol8/0123456789abcdef"];
    for level in levels {
        let folder = fake.folder.path().join(level);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.subtree_control"), "pids\n").unwrap();
    }
    assert!(fake.cgroups.make_home().is_ok());
    for level in levels {
        let control = fake
            .folder
            .path()
            .join(level)
            .join("cgroup.subtree_control");
        let text = fs::read_to_string(control).unwrap();
        // A plain file keeps what it is not overwritten with.
        assert!(text.starts_with("+cpu +memory"), "{level}: {text}");
    }
    assert!(fake.folder.path().join(home).is_dir());
}

#[test]
fn an_empty_group_is_killed_and_removed_at_once() {
    let fake = Fake::new();
    fake.cgroups.kill(&fake.found()).unwrap();
    fake.put(&[("cgroup.procs", "")]);
    fake.cgroups.kill(&fake.found()).unwrap();
    fs::remove_file(fake.group().join("cgroup.procs")).unwrap();
    fake.cgroups.remove(&fake.found()).unwrap();
    assert!(!fake.group().exists());
    fake.cgroups.remove(&fake.found()).unwrap();
}

#[test]
fn only_pids_in_the_group_are_known() {
    let fake = Fake::new();
    fake.put(&[("cgroup.procs", "17\n4711\n0\n")]);
    assert!(fake.cgroups.holds(&Fake::id(), 4711));
    assert!(!fake.cgroups.holds(&Fake::id(), 471));
    assert!(!fake.cgroups.holds(&Fake::id(), 0));
}

/// A real group, where v2 is mounted at all: on hybrid hosts it has no
/// controllers, and kills all the same.
#[test]
fn v2_kills_everything_at_once() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(top) = detect::v2_mount(&mounts) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = DaemonId::random();
    let tree = Tree::V2(v2::Tree::new(top.clone(), false));
    let cgroups = Cgroups { tree, daemon };
    let found = Found {
        id: Fake::id(),
        daemon: cgroups.daemon.clone(),
    };
    let group = top.join(cgroups.path(&found.daemon, &found.id));
    fs::create_dir_all(&group).unwrap();
    let mut sleeper = std::process::Command::new("sh")
        .args([
            "-c",
            "echo 0 > \"$0/cgroup.procs\"; trap '' TERM HUP; sleep 600 & echo x; sleep 600",
        ])
        .arg(&group)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = [0];
    io::Read::read_exact(sleeper.stdout.as_mut().unwrap(), &mut told).unwrap();
    assert!(cgroups.list().unwrap().contains(&found));
    assert!(cgroups.holds(&found.id, i32::try_from(sleeper.id()).unwrap()));

    cgroups.kill(&found).unwrap();
    sleeper.wait().unwrap();
    cgroups.remove(&found).unwrap();
    assert!(!group.exists());
    cgroups.tidy(&found.daemon);
    assert!(!cgroups.daemons().contains(&found.daemon));
}
