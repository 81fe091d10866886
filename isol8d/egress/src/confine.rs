//! What the process gives up before it hears the first byte of anybody.
//!
//! ```text
//!  descriptors, signals of a group, core files, files to write
//!    ▶ bounding capabilities ▶ groups, gid, uid ▶ every capability
//!    ▶ no new privileges, not dumpable ▶ Landlock ▶ seccomp
//! ```
//! All of it is for ever and for every thread, which is why it happens while
//! there is only one. Where a step fails the process ends; only a kernel without
//! Landlock, or with less of it, is put up with. The environment is not among
//! them: the daemon gives none.

use std::{fs, io, os::fd::RawFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::sys::signal::{SigSet, Signal};
use rustix::{
    process::{
        DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, set_dumpable_behavior, setrlimit,
    },
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use thiserror::Error;

mod seccomp;

/// Between the daemon, which must not be killed for want of memory, and
/// sandboxes, which should go first.
const OOM_SCORE_ADJ: &str = "250";

/// What a resolver and the search for root certificates read. Folders rather
/// than files in `/etc`: who changes `resolv.conf` puts a new file there. What
/// is not there is passed over.
const READABLE: [&str; 11] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
];

/// How much of Landlock this kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// Everything that is asked for.
    Full,
    /// An older one.
    Partial,
    /// None: then only the process's uid keeps it from the files of others.
    Missing,
}

/// What holds the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Whom it runs as.
    pub uid: u32,
    /// Whether it is kept from files.
    pub landlock: Landlock,
}

/// The step that failed.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Root must say as whom to go on.
    #[error("root does not carry traffic: `--uid` is missing")]
    Root,
    /// A call to the kernel.
    #[error("cannot {0}")]
    Step(&'static str, #[source] io::Error),
    /// Landlock is there and refuses.
    #[error("cannot restrict the file system")]
    Landlock(#[source] Box<RulesetError>),
    /// The filter of system calls.
    #[error("cannot restrict system calls")]
    Seccomp(#[source] seccompiler::Error),
    /// Something held after it was given up.
    #[error("still has {0}")]
    Kept(&'static str),
}

fn step<T>(what: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, ConfineError> {
    result.map_err(|error| ConfineError::Step(what, error.into()))
}

/// Confines this process. Call it first, with one thread. `prepare` makes what
/// cannot be made any more later; it starts no thread either.
///
/// # Errors
/// The first step that failed. The caller must then end.
pub fn enter<T>(
    uid: Option<u32>,
    prepare: impl FnOnce() -> io::Result<T>,
) -> Result<(Confined, T), ConfineError> {
    // While it still belongs to who started it; a kernel without it is fine.
    let _optional = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    step("close what was inherited", close_inherited())?;
    step("block signals", block_signals())?;
    limit()?;
    let uid = become_nobody(uid)?;
    step("give up new privileges", set_no_new_privs(true))?;
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    step("hide from debuggers", hidden)?;
    let prepared = step("prepare", prepare())?;
    let landlock = restrict_files().map_err(|error| ConfineError::Landlock(Box::new(error)))?;
    seccomp::restrict().map_err(ConfineError::Seccomp)?;
    Ok((Confined { uid, landlock }, prepared))
}

/// Whoever started the daemon may have left descriptors open that survive exec.
fn close_inherited() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // Nothing here has opened any yet, so none has an owner. One of them
        // was the folder itself and is closed already.
        let _closed = nix::unistd::close(fd);
    }
    Ok(())
}

/// A signal for the whole group, from a terminal or a service manager, must not
/// end the process while the daemon still drains runs: it ends with the daemon.
fn block_signals() -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        signals.add(signal);
    }
    Ok(signals.thread_block()?)
}

fn limit() -> Result<(), ConfineError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    for resource in [Resource::Core, Resource::Fsize, Resource::Memlock] {
        step("lower a limit", setrlimit(resource, none))?;
    }
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        ..files
    };
    step(
        "raise the number of files",
        setrlimit(Resource::Nofile, raised),
    )
}

/// Goes on as `uid` (and the group of that number), or, where nobody could
/// change that, as who started it.
fn become_nobody(uid: Option<u32>) -> Result<u32, ConfineError> {
    let root = rustix::process::geteuid().is_root() || rustix::process::getuid().is_root();
    let uid = match uid.map(Uid::from_raw) {
        Some(uid) if !uid.is_root() => Some(uid),
        _ if root => return Err(ConfineError::Root),
        _ => None,
    };
    if let Some(uid) = uid {
        let gid = Gid::from_raw(uid.as_raw());
        drop_bounding()?;
        step("leave all groups", set_thread_groups(&[]))?;
        step("change the group", set_thread_res_gid(gid, gid, gid))?;
        step("change the user", set_thread_res_uid(uid, uid, uid))?;
    }
    // Without them, nothing is to be cleared.
    let _none = clear_ambient_capability_set();
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("give up capabilities", set_capabilities(None, nothing))?;
    let now = rustix::process::geteuid();
    if now.is_root() || uid.is_some_and(|uid| uid != now) {
        return Err(ConfineError::Kept("its user"));
    }
    Ok(now.as_raw())
}

/// The bounding set is what a file with capabilities could give back.
fn drop_bounding() -> Result<(), ConfineError> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return step("give up capabilities for good", Err(error)),
        }
    }
    Ok(())
}

/// Leaves a few folders to read and nothing to write or run, no port to listen
/// on, and nobody outside to signal.
fn restrict_files() -> Result<Landlock, RulesetError> {
    let newest = ABI::V6;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(newest))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, read))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Missing,
    })
}
