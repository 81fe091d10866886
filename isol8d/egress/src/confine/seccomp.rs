//! The system calls of a process that only moves bytes between sockets.
//!
//! An allowlist: what is not named fails with EPERM, which libraries take for
//! "not here". There is no way to make a Unix socket (so the engine's cannot be
//! dialled), to open a file for writing, to run a program, to fork, to listen,
//! to signal or to look into another process.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::pipe::{PIPE_BYTES, PIPE_FLAGS, SPLICE_FLAGS};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Without conditions.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Sockets that are there.
    libc::SYS_accept4, libc::SYS_connect, libc::SYS_getpeername, libc::SYS_getsockname,
    libc::SYS_getsockopt, libc::SYS_recvfrom, libc::SYS_recvmmsg, libc::SYS_recvmsg,
    libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_shutdown,
    // Descriptors.
    libc::SYS_close, libc::SYS_dup, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_lseek,
    libc::SYS_ppoll, libc::SYS_pread64, libc::SYS_read, libc::SYS_readv, libc::SYS_write,
    libc::SYS_writev,
    // Files that may be read.
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fstat, libc::SYS_fstatfs,
    libc::SYS_getdents64, libc::SYS_newfstatat, libc::SYS_readlinkat, libc::SYS_statx,
    // Memory; with conditions: mmap and mprotect.
    libc::SYS_brk, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_mremap, libc::SYS_munmap,
    // Threads and their end.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex, libc::SYS_gettid, libc::SYS_getpid,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield, libc::SYS_set_robust_list, libc::SYS_sigaltstack,
    // Time, chance, and who we are.
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep,
    libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getrandom,
    libc::SYS_gettimeofday, libc::SYS_getuid, libc::SYS_nanosleep, libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The older forms that only x86-64 has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_access, libc::SYS_epoll_wait, libc::SYS_lstat, libc::SYS_poll,
    libc::SYS_readlink, libc::SYS_stat, libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// The only families and kinds of sockets. A lookup asks the kernel for its
/// addresses over netlink too, and does without where it is refused.
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
const KINDS: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];

/// The kind of a socket, without its flags.
const KIND_MASK: u64 = 0xf;

/// What is set on sockets, by level: by us, and by the resolver of the C
/// library. Programs for sockets (`SO_ATTACH_FILTER` and its kin) stay out.
const OPTIONS: [(i32, &[i32]); 4] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_KEEPALIVE,
            libc::SO_LINGER,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
        ],
    ),
    (libc::IPPROTO_IP, &[libc::IP_RECVERR, libc::IP_MTU_DISCOVER]),
    (
        libc::IPPROTO_IPV6,
        &[
            libc::IPV6_RECVERR,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_V6ONLY,
        ],
    ),
];

const FCNTL: [i32; 5] = [
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

/// Every bit by which an open makes or changes something.
const OPEN_TO_WRITE: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_PATH;

/// A clone must have the first and none of the others: a thread, in no
/// namespace of its own.
const THREAD: i32 = libc::CLONE_THREAD;
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `PR_SET_VMA`, by which the allocator names its memory.
const PR_SET_VMA: i32 = 0x5356_4d41;

/// Restricts this thread and every one that it starts.
///
/// # Errors
/// A kernel without seccomp, or a filter that it does not take.
pub(super) fn restrict() -> Result<(), Error> {
    // Its flags are in memory, out of reach of a filter; told that it is not
    // there, callers go on with `clone`. Of two filters the stricter decides.
    let no_clone3 = filter(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        errno(libc::ENOSYS),
    )?;
    let allowlist = filter(allowed()?, errno(libc::EPERM), SeccompAction::Allow)?;
    seccompiler::apply_filter(&no_clone3)?;
    // This call is the last that needs `seccomp` and `prctl`.
    seccompiler::apply_filter(&allowlist)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, then, architecture)?.try_into()
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        rules.insert(*call, Vec::new());
    }
    // clone3 is decided by the other filter.
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(libc::SYS_socket, sockets()?);
    rules.insert(libc::SYS_setsockopt, options()?);
    let mut fcntl = each(1, &FCNTL)?;
    let pipe_bytes = i32::try_from(PIPE_BYTES).unwrap_or(i32::MAX);
    fcntl.push(all([equal(1, libc::F_SETPIPE_SZ)?, equal(2, pipe_bytes)?])?);
    rules.insert(libc::SYS_fcntl, fcntl);
    rules.insert(libc::SYS_pipe2, vec![all([equal(1, pipe_flags())?])?]);
    rules.insert(libc::SYS_splice, vec![splices()?]);
    rules.insert(libc::SYS_openat, vec![all([without(2, OPEN_TO_WRITE)?])?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![all([without(1, OPEN_TO_WRITE)?])?]);
    let thread = masked(0, bits(THREAD | NAMESPACES), bits(THREAD))?;
    rules.insert(libc::SYS_clone, vec![all([thread])?]);
    rules.insert(libc::SYS_ioctl, each(1, &[FIONBIO, FIONREAD])?);
    rules.insert(libc::SYS_prctl, each(0, &[libc::PR_SET_NAME, PR_SET_VMA])?);
    rules.insert(libc::SYS_mmap, mappings()?);
    // What was written to cannot become a program.
    rules.insert(
        libc::SYS_mprotect,
        vec![all([without(2, libc::PROT_EXEC)?])?],
    );
    // Limits may be read.
    let read_only = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![all([read_only])?]);
    // `abort` signals its own thread.
    let own = equal(0, rustix::process::getpid().as_raw_pid())?;
    rules.insert(libc::SYS_tgkill, vec![all([own])?]);
    Ok(rules)
}

const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541b;

fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    for family in FAMILIES {
        for kind in KINDS {
            rules.push(all([equal(0, family)?, masked(1, KIND_MASK, bits(kind))?])?);
        }
    }
    Ok(rules)
}

fn options() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    for (level, options) in OPTIONS {
        for option in options {
            rules.push(all([equal(1, level)?, equal(2, *option)?])?);
        }
    }
    Ok(rules)
}

fn pipe_flags() -> i32 {
    PIPE_FLAGS.bits().cast_signed()
}

/// From a socket to a pipe and from a pipe to a socket. What it reads could be
/// read, and there is no file that could be written to.
fn splices() -> Result<SeccompRule, BackendError> {
    let no_offset =
        |index| SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    let flags = SPLICE_FLAGS.bits().cast_signed();
    all([no_offset(1)?, no_offset(3)?, equal(5, flags)?])
}

/// Memory that is not a program, and the code of a library of the resolver.
fn mappings() -> Result<Vec<SeccompRule>, BackendError> {
    let library = [
        masked(
            2,
            bits(libc::PROT_EXEC | libc::PROT_WRITE),
            bits(libc::PROT_EXEC),
        )?,
        without(3, libc::MAP_ANONYMOUS)?,
    ];
    Ok(vec![all([without(2, libc::PROT_EXEC)?])?, all(library)?])
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn each(index: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|value| all([equal(index, *value)?]))
        .collect()
}

fn without(index: u8, flags: i32) -> Result<SeccompCondition, BackendError> {
    masked(index, bits(flags), 0)
}

/// The kernel reads these arguments as 32 bits, and so does the filter.
fn equal(index: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(
        index,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        bits(value),
    )
}

fn masked(index: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

fn bits(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}
