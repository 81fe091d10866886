//! What Docker is told about a container: from an order and the place it gets,
//! every field decided here and nowhere else. Pure.
//!
//! A field that stays `None` is the engine's own default, and only where that
//! default is the safe one: `MaskedPaths` and `ReadonlyPaths` above all, whose
//! built-in lists grow with the engine.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum,
    MountTmpfsOptions, MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use isol8_core::{
    ids::{DaemonId, SandboxId},
    quantity::ByteSize,
    sandbox::{Limits, Network, SandboxSpec},
};

/// Marks every container and image of isol8.
pub const LABEL_MANAGED: &str = "isol8.managed";
/// The daemon that made a container.
pub const LABEL_DAEMON: &str = "isol8.daemon";
/// The sandbox that a container is.
pub const LABEL_SANDBOX: &str = "isol8.sandbox";
/// When a container was made, in seconds of Unix time.
pub const LABEL_CREATED: &str = "isol8.created";

/// Marks a container that outlives its stream.
pub const LABEL_LASTING: &str = "isol8.lasting";

/// Where the kit is mounted.
const KIT: &str = "/isol8/kit";
/// Where the folder of the socket is mounted.
const LINK: &str = "/isol8/link";
/// The program's folder.
const SANDBOX: &str = "/sandbox";

/// Python's multiprocessing and browsers want some shared memory; it counts as
/// memory of the sandbox like everything in a tmpfs.
const SHM_BYTES: u64 = 64 << 20;
const SHM_INODES: u64 = 4096;

/// A tmpfs gets one inode for so many bytes: an empty file costs the kernel
/// about 1 KiB, so that no limit on inodes would be no limit on memory.
const BYTES_PER_INODE: u64 = 8 << 10;
const MIN_INODES: u64 = 1024;
const MAX_INODES: u64 = 64 << 10;

/// init itself, which is not part of the program.
const INIT_PIDS: i64 = 1;
/// Before it becomes init, the runtime's own start-up process has up to a dozen
/// threads in the container's cgroup.
const START_PIDS: i64 = 32;
/// The start-up is charged to the container's processor share as well: with a
/// tenth of a core it would take a second.
const START_MILLIS: u32 = 1000;

/// Open files of a process. The hard limit is what node and bun raise
/// themselves to.
const OPEN_FILES: (i64, i64) = (1024, 4096);
/// A core dump of 1 byte is none, and unlike 0 it also stops the kernel from
/// piping one to a host's collector.
const CORE_BYTES: i64 = 1;
const LOCKED_BYTES: i64 = 64 << 10;
const PENDING_SIGNALS: i64 = 1024;

/// What a container gets that is not in the order: who it belongs to, which
/// image, uid and folders it uses, and what the host is like.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Who makes it.
    pub daemon: &'a DaemonId,
    /// Now, in seconds of Unix time.
    pub created: u64,
    /// The image's id, never a tag: a tag can move.
    pub image: &'a str,
    /// Folders that the image wants to be volumes, none of them [`Volume::Refused`].
    pub volumes: &'a [String],
    /// Uid and gid of the program, as the container sees them.
    pub uid: u32,
    /// The kit on the host.
    pub kit: &'a Path,
    /// The folder of the socket on the host.
    pub link: &'a Path,
    /// The folder with the packages of the order's layer, and where it goes.
    pub layer: Option<(&'a Path, &'a str)>,
    /// Files for /etc: name and path on the host.
    pub etc: &'a [(&'a str, PathBuf)],
    /// The seccomp profile as JSON; for Podman its path.
    pub seccomp: &'a str,
    /// The engine is Podman, which knows fewer options of a tmpfs, and whose
    /// older releases cannot change the limits of a container.
    pub podman: bool,
    /// The OCI runtime; `None` is the engine's default.
    pub runtime: Option<&'a str>,
    /// The memory controller is one of cgroup v1.
    pub cgroup_v1: bool,
    /// Cores of the engine's host: it refuses a share of more.
    pub cores: u32,
    /// Without a daemon for so long, a container that lasts ends by itself.
    pub orphaned: Duration,
}

/// The name of a sandbox's container.
#[must_use]
pub fn container_name(id: &SandboxId) -> String {
    format!("isol8-{id}")
}

/// What becomes of a folder that an image wants to be a volume: the engine would
/// make it a writable one on the host's disk, without a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// A mount of ours is there already.
    Covered,
    /// An empty read-only folder takes its place.
    Emptied,
    /// The image cannot be used: programs need what is there, or it is ours.
    Refused,
}

impl Volume {
    /// Decides on an absolute path inside.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let covered = [KIT, LINK, SANDBOX, "/tmp", "/dev/shm"];
        let reserved = ["isol8", "proc", "sys", "dev"];
        let needed = ["etc", "usr", "bin", "sbin", "lib", "lib64"];
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let clean = format!("/{}", parts.join("/"));
        match parts.as_slice() {
            _ if covered.contains(&clean.as_str()) => Self::Covered,
            _ if !path.starts_with('/') || parts.iter().any(|part| [".", ".."].contains(part)) => {
                Self::Refused
            }
            [] => Self::Refused,
            [first, ..] if reserved.contains(first) => Self::Refused,
            [only] if needed.contains(only) => Self::Refused,
            ["usr", _] => Self::Refused,
            _ => Self::Emptied,
        }
    }
}

/// The bounds that a container starts with. Where they differ from those of the
/// order, the engine is told the order's after init has dialled and before any
/// program runs.
#[must_use]
pub fn starting_limits(limits: &Limits, cores: u32) -> Bounds {
    let asked = Bounds::of(limits, cores);
    let floor = i64::from(START_MILLIS) * NANOS_PER_MILLI;
    Bounds {
        nano_cpus: asked.nano_cpus.max(floor),
        pids: asked.pids.max(START_PIDS),
        ..asked
    }
}

const NANOS_PER_MILLI: i64 = 1_000_000;

/// Limits in the engine's own units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    memory_bytes: i64,
    nano_cpus: i64,
    pids: i64,
}

impl Bounds {
    /// The engine's view of `limits` on a host with `cores`: more cores than
    /// there are is all of them.
    #[must_use]
    pub fn of(limits: &Limits, cores: u32) -> Self {
        let most = cores.max(1).saturating_mul(1000);
        let millis = limits.cpu.as_millis().min(most);
        Self {
            memory_bytes: signed(limits.memory.as_bytes()),
            nano_cpus: i64::from(millis) * NANOS_PER_MILLI,
            pids: i64::from(limits.pids.get()) + INIT_PIDS,
        }
    }

    /// What sets them on a live container.
    #[must_use]
    pub fn update_body(self) -> ContainerUpdateBody {
        ContainerUpdateBody {
            memory: Some(self.memory_bytes),
            memory_swap: Some(self.memory_bytes),
            nano_cpus: Some(self.nano_cpus),
            pids_limit: Some(self.pids),
            ..ContainerUpdateBody::default()
        }
    }
}

/// What the engine is asked to create.
#[must_use]
pub fn create_body(spec: &SandboxSpec, ground: &Ground<'_>) -> ContainerCreateBody {
    let host_network = spec.key.network == Network::Host;
    ContainerCreateBody {
        hostname: Some("sandbox".into()),
        domainname: Some(String::new()),
        user: Some(format!("{0}:{0}", ground.uid)),
        image: Some(ground.image.into()),
        entrypoint: Some(vec![format!("{KIT}/init")]),
        cmd: Some(init_arguments(spec, ground)),
        // The program's environment comes over the socket; what stands here is
        // seen by everybody who may inspect containers.
        env: Some(Vec::new()),
        working_dir: Some("/".into()),
        // A terminal is init's business: the engine would keep one open here.
        tty: Some(false),
        open_stdin: Some(false),
        stdin_once: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        // The engine then leaves the network namespace to the OCI runtime: a new
        // one with loopback alone, in half the time.
        network_disabled: Some(!host_network),
        stop_signal: Some("SIGKILL".into()),
        stop_timeout: Some(0),
        labels: Some(labels(spec, ground)),
        host_config: Some(host_config(spec, ground)),
        ..ContainerCreateBody::default()
    }
}

fn init_arguments(spec: &SandboxSpec, ground: &Ground<'_>) -> Vec<String> {
    let mut arguments = vec![format!("{LINK}/sock")];
    if spec.key.network == Network::Filtered {
        arguments.push("--egress".into());
    }
    if spec.lasting {
        let orphaned = ground.orphaned.as_millis().to_string();
        arguments.extend(["--lasting".into(), "--orphan-ms".into(), orphaned]);
    }
    arguments
}

fn labels(spec: &SandboxSpec, ground: &Ground<'_>) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (LABEL_MANAGED.into(), "1".into()),
        (LABEL_DAEMON.into(), ground.daemon.to_string()),
        (LABEL_SANDBOX.into(), spec.id.to_string()),
        (LABEL_CREATED.into(), ground.created.to_string()),
    ]);
    if spec.lasting {
        labels.insert(LABEL_LASTING.into(), "1".into());
    }
    labels
}

fn host_config(spec: &SandboxSpec, ground: &Ground<'_>) -> HostConfig {
    let host_network = spec.key.network == Network::Host;
    let bounds = if ground.podman {
        Bounds::of(&spec.limits, ground.cores)
    } else {
        starting_limits(&spec.limits, ground.cores)
    };
    HostConfig {
        readonly_rootfs: Some(!spec.key.writable),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(Vec::new()),
        security_opt: Some(vec![
            "no-new-privileges=true".into(),
            format!("seccomp={}", ground.seccomp),
        ]),
        network_mode: Some(if host_network { "host" } else { "none" }.into()),
        ipc_mode: Some("private".into()),
        // Empty is private, and with user namespaces the engine's remapping.
        pid_mode: Some(String::new()),
        uts_mode: Some(String::new()),
        userns_mode: Some(String::new()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        runtime: ground.runtime.map(str::to_owned),
        init: Some(false),
        // The host must not send echo requests for a program either.
        sysctls: (!host_network)
            .then(|| HashMap::from([("net.ipv4.ping_group_range".into(), "1 0".into())])),
        tmpfs: Some(tmpfs(spec, ground)),
        mounts: Some(mounts(ground)),
        shm_size: Some(signed(SHM_BYTES)),
        memory: Some(bounds.memory_bytes),
        // Equal to memory: no swap.
        memory_swap: Some(bounds.memory_bytes),
        memory_swappiness: ground.cgroup_v1.then_some(0),
        oom_kill_disable: Some(false),
        // Where the host itself runs out, a sandbox goes first.
        oom_score_adj: Some(500),
        pids_limit: Some(bounds.pids),
        nano_cpus: Some(bounds.nano_cpus),
        cpu_shares: Some(512),
        ulimits: Some(ulimits(spec)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".into()),
            config: Some(HashMap::new()),
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // Its last state is read before it is removed.
        auto_remove: Some(false),
        publish_all_ports: Some(false),
        ..HostConfig::default()
    }
}

fn tmpfs(spec: &SandboxSpec, ground: &Ground<'_>) -> HashMap<String, String> {
    let room = |bytes: u64, inodes: u64| {
        if ground.podman {
            // Empty files are then bounded by the memory limit alone. What the
            // image has there must not come along with its mode.
            format!("size={bytes},notmpcopyup")
        } else {
            format!("size={bytes},nr_inodes={inodes}")
        }
    };
    let sized = |size: ByteSize| room(size.as_bytes(), inodes(size));
    let owner = if ground.podman {
        // Nobody else is inside.
        "mode=1777".to_owned()
    } else {
        format!("mode=0700,uid={0},gid={0}", ground.uid)
    };
    let sandbox = format!(
        "rw,exec,nosuid,nodev,{},{owner}",
        sized(spec.key.sandbox_size)
    );
    let tmp = format!(
        "rw,noexec,nosuid,nodev,{},mode=1777",
        sized(spec.key.tmp_size)
    );
    // Over the engine's own, which has no limit on inodes.
    let shm = format!(
        "rw,noexec,nosuid,nodev,{},mode=1777",
        room(SHM_BYTES, SHM_INODES)
    );
    HashMap::from([
        (SANDBOX.into(), sandbox),
        ("/tmp".into(), tmp),
        ("/dev/shm".into(), shm),
    ])
}

/// Files and folders that a tmpfs of this size may hold.
#[must_use]
pub fn inodes(size: ByteSize) -> u64 {
    (size.as_bytes() / BYTES_PER_INODE).clamp(MIN_INODES, MAX_INODES)
}

fn mounts(ground: &Ground<'_>) -> Vec<Mount> {
    let mut mounts = vec![bind(ground.kit, KIT), bind(ground.link, LINK)];
    for (name, source) in ground.etc {
        mounts.push(bind(source, &format!("/etc/{name}")));
    }
    // Over the tmpfs: the engine mounts what lies deeper later. A mount that is a
    // bind takes neither `nosuid` nor `nodev` here; a layer holds no devices, and
    // a program gains nothing from a mode.
    let layer = ground.layer.into_iter();
    mounts.extend(layer.map(|(tree, folder)| bind(tree, &format!("{SANDBOX}/{folder}"))));
    let emptied = ground.volumes.iter();
    let emptied = emptied.filter(|path| Volume::of(path) == Volume::Emptied);
    mounts.extend(emptied.map(|path| no_volume(path)));
    mounts
}

/// Fails where the source is missing, unlike the older form, which makes it.
fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::PRIVATE),
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// See [`Volume::Emptied`].
fn no_volume(target: &str) -> Mount {
    Mount {
        typ: Some(MountType::TMPFS),
        target: Some(target.to_owned()),
        read_only: Some(true),
        tmpfs_options: Some(MountTmpfsOptions {
            size_bytes: Some(4096),
            mode: Some(0o555),
            ..MountTmpfsOptions::default()
        }),
        ..Mount::default()
    }
}

fn ulimits(spec: &SandboxSpec) -> Vec<ResourcesUlimits> {
    let largest_file = spec.key.sandbox_size.max(spec.key.tmp_size).as_bytes();
    let (soft, hard) = OPEN_FILES;
    vec![
        ulimit("nofile", soft, hard),
        ulimit("core", CORE_BYTES, CORE_BYTES),
        ulimit("fsize", signed(largest_file), signed(largest_file)),
        ulimit("memlock", LOCKED_BYTES, LOCKED_BYTES),
        ulimit("msgqueue", 0, 0),
        ulimit("sigpending", PENDING_SIGNALS, PENDING_SIGNALS),
        ulimit("rtprio", 0, 0),
        ulimit("nice", 0, 0),
    ]
}

fn ulimit(name: &str, soft: i64, hard: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(soft),
        hard: Some(hard),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("sizes are at most 2^63 bytes")
}

#[cfg(test)]
mod tests;
