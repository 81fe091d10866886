//! The numbers of the system calls that the profile names, from the `libc` crate
//! wherever it has them.

/// What a name of the profile is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// Its number.
    Here(u32),
    /// An older call that only x86-64 has, and this machine has not.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(dead_code, reason = "x86-64 has every older call")
    )]
    Elsewhere,
    /// Not in a table: a typing error, or a row to be added below.
    Unknown,
}

macro_rules! table {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), libc::$name)),*]
    };
}

/// On every machine.
#[rustfmt::skip]
const COMMON: &[(&str, libc::c_long)] = table![
    SYS_accept, SYS_accept4, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_chdir,
    SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3,
    SYS_close, SYS_close_range, SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup3,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2,
    SYS_fadvise64, SYS_fallocate, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown,
    SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock,
    SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate,
    SYS_futex, SYS_futex_waitv, SYS_get_robust_list, SYS_getcpu, SYS_getcwd, SYS_getdents64,
    SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getitimer, SYS_getpeername,
    SYS_getpgid, SYS_getpid, SYS_getppid, SYS_getpriority, SYS_getrandom, SYS_getresgid,
    SYS_getresuid, SYS_getrusage, SYS_getsid, SYS_getsockname, SYS_getsockopt, SYS_gettid,
    SYS_gettimeofday, SYS_getuid, SYS_getxattr, SYS_inotify_add_watch, SYS_inotify_init1,
    SYS_inotify_rm_watch, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup,
    SYS_ioctl, SYS_ioprio_get, SYS_ioprio_set, SYS_kill, SYS_landlock_add_rule,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lgetxattr, SYS_linkat,
    SYS_listen, SYS_listxattr, SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr,
    SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_mincore, SYS_mkdirat, SYS_mknodat,
    SYS_mmap, SYS_mprotect, SYS_mremap, SYS_mseal, SYS_msync, SYS_munmap, SYS_nanosleep,
    SYS_newfstatat, SYS_openat, SYS_openat2, SYS_personality, SYS_pidfd_open,
    SYS_pidfd_send_signal, SYS_pipe2, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect,
    SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_prlimit64, SYS_pselect6,
    SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readahead, SYS_readlinkat,
    SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_removexattr, SYS_renameat2,
    SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam, SYS_sched_getscheduler,
    SYS_sched_rr_get_interval, SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam,
    SYS_sched_setscheduler, SYS_sched_yield, SYS_seccomp, SYS_sendfile, SYS_sendmmsg,
    SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_set_tid_address, SYS_setfsgid,
    SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setitimer, SYS_setpgid, SYS_setpriority,
    SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setsid, SYS_setsockopt,
    SYS_setuid, SYS_setxattr, SYS_shutdown, SYS_sigaltstack, SYS_signalfd4, SYS_socket,
    SYS_socketpair, SYS_splice, SYS_statfs, SYS_statx, SYS_symlinkat, SYS_sync, SYS_syncfs,
    SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_timer_create, SYS_timer_delete,
    SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime, SYS_timerfd_create,
    SYS_timerfd_gettime, SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate, SYS_umask,
    SYS_uname, SYS_unlinkat, SYS_utimensat, SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
];

/// Only where programs of the last century still run.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: &[(&str, libc::c_long)] = table![
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2,
    SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_fork, SYS_futimesat, SYS_getdents,
    SYS_getpgrp, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat, SYS_mkdir, SYS_mknod,
    SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir,
    SYS_select, SYS_signalfd, SYS_stat, SYS_symlink, SYS_time, SYS_unlink, SYS_utime,
    SYS_utimes, SYS_vfork,
];

/// The same names, for a machine that lacks the calls.
#[cfg(not(target_arch = "x86_64"))]
#[rustfmt::skip]
const OLD: &[&str] = &[
    "SYS_access", "SYS_alarm", "SYS_arch_prctl", "SYS_chmod", "SYS_chown", "SYS_creat",
    "SYS_dup2", "SYS_epoll_create", "SYS_epoll_wait", "SYS_eventfd", "SYS_fork",
    "SYS_futimesat", "SYS_getdents", "SYS_getpgrp", "SYS_inotify_init", "SYS_lchown",
    "SYS_link", "SYS_lstat", "SYS_mkdir", "SYS_mknod", "SYS_open", "SYS_pause", "SYS_pipe",
    "SYS_poll", "SYS_readlink", "SYS_rename", "SYS_rmdir", "SYS_select", "SYS_signalfd",
    "SYS_stat", "SYS_symlink", "SYS_time", "SYS_unlink", "SYS_utime", "SYS_utimes",
    "SYS_vfork",
];

/// What `libc` does not name yet. The numbers are the same on every machine.
const NEW: &[(&str, libc::c_long)] = &[
    ("SYS_cachestat", 451),
    ("SYS_fchmodat2", 452),
    ("SYS_map_shadow_stack", 453),
    ("SYS_futex_wake", 454),
    ("SYS_futex_wait", 455),
    ("SYS_futex_requeue", 456),
    ("SYS_setxattrat", 463),
    ("SYS_getxattrat", 464),
    ("SYS_listxattrat", 465),
    ("SYS_removexattrat", 466),
];

/// What `libc` names on x86-64 alone.
#[cfg(target_arch = "x86_64")]
const UNEVEN: &[(&str, libc::c_long)] = table![
    SYS_getrlimit,
    SYS_renameat,
    SYS_setrlimit,
    SYS_sync_file_range,
];

/// The same, by their numbers in the generic table of the kernel.
#[cfg(not(target_arch = "x86_64"))]
const UNEVEN: &[(&str, libc::c_long)] = &[
    ("SYS_getrlimit", 163),
    ("SYS_renameat", 38),
    ("SYS_setrlimit", 164),
    ("SYS_sync_file_range", 84),
];

#[cfg(target_arch = "x86_64")]
fn old(name: &str) -> Number {
    find(OLD, name).unwrap_or(Number::Unknown)
}

#[cfg(not(target_arch = "x86_64"))]
fn old(name: &str) -> Number {
    if OLD.contains(&name) {
        Number::Elsewhere
    } else {
        Number::Unknown
    }
}

fn find(table: &[(&str, libc::c_long)], name: &str) -> Option<Number> {
    let (_, number) = table.iter().find(|(known, _)| *known == name)?;
    let number = u32::try_from(*number).expect("a system call's number is small and not negative");
    Some(Number::Here(number))
}

/// The number of a call by the name that the profile gives it.
pub(super) fn number(name: &str) -> Number {
    let name = format!("SYS_{name}");
    [COMMON, UNEVEN, NEW]
        .iter()
        .find_map(|table| find(table, &name))
        .unwrap_or_else(|| old(&name))
}
