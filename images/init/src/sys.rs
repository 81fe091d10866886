//! The kernel calls for which neither std nor nix has a safe form. The only
//! place of the crate with `unsafe`.
#![expect(
    unsafe_code,
    reason = "fork, exec, wait4 and prctl have no safe wrapper; every block says why it is sound"
)]

mod spawn;

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use libc::{c_int, c_uint, pid_t};
use nix::errno::Errno;

pub(crate) use spawn::{Image, SpawnError, Stdio, Step, spawn};

/// The highest signal number of Linux.
const LAST_SIGNAL: c_int = 64;

/// A process, by its id. Valid from [`spawn`] until [`reap`] names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pid(pid_t);

impl Pid {
    /// As the process table has it.
    pub(crate) const fn number(self) -> i32 {
        self.0
    }
}

/// Turns the `-1` of a system call into the error it stands for.
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Makes this process what PID 1 of a sandbox must be before anybody else runs
/// in it: unreadable and untraceable for processes of the same user, without
/// descriptors of its parent, and with no signal handler that a forged signal
/// could reach.
///
/// # Errors
/// When the kernel refuses what isolation depends on.
pub(crate) fn harden() -> io::Result<()> {
    // SAFETY: plain integers; no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // What a launcher forgot to close ends here. A kernel without close_range
    // would be older than what the rest needs (openat2).
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    check(unsafe { close_range(3, c_uint::MAX, 0) })?;
    for signal in 1..=LAST_SIGNAL {
        // std catches SIGSEGV and SIGBUS to report a stack overflow; a forged
        // one could talk it into aborting. SIGPIPE and SIGXFSZ are errors of
        // write() to us.
        set_handler(signal, matches!(signal, libc::SIGPIPE | libc::SIGXFSZ));
    }
    // SAFETY: cannot fail.
    unsafe { libc::umask(0o022) };
    // Programs inherit it.
    no_core_dumps()
}

/// Ignores a signal or gives it its default action. By the system call itself:
/// libc refuses to touch the two signals that it keeps for its threads, and a
/// parent that ignored them would be inherited from.
fn set_handler(signal: c_int, ignore: bool) {
    /// `struct sigaction` of the kernel.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let handler = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    let action = Action {
        handler,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    // SAFETY: `action` is readable and laid out as the kernel wants it; neither
    // disposition runs code. KILL and STOP are refused, which changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            &raw const action,
            ptr::null_mut::<Action>(),
            size_of::<u64>(),
        );
    }
}

/// No core file, and nothing for a core handler of the host: a limit of exactly
/// one byte is what keeps the kernel from feeding a pipe in `core_pattern`.
fn no_core_dumps() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable and lives through the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) })?;
    let most = limit.rlim_max.min(1);
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: `limit` is readable and lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) })?;
    Ok(())
}

/// # Safety
/// No descriptor in the range may have an owner that still uses it, unless
/// `flags` only marks.
unsafe fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> c_int {
    // SAFETY: integers only; the caller answers for the descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    // The call returns 0 or -1.
    if result == 0 { 0 } else { -1 }
}

/// Whether this process is init of a pid namespace (or of the machine).
pub(crate) fn is_pid_1() -> bool {
    std::process::id() == 1
}

/// Blocks SIGCHLD and gives a non-blocking descriptor that becomes readable
/// when one is pending. A forged one does no more than make us look.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    let mut set = empty_signal_set();
    // SAFETY: `set` is initialised.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` is readable; no old mask is asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) })?;
    // SAFETY: -1 asks for a new descriptor.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the kernel just made it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn empty_signal_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain integers, for which zeroes are a valid value.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

/// A process that has ended and left the process table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    pub(crate) pid: Pid,
    pub(crate) how: Ending,
    pub(crate) usage: Usage,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
}

/// What a process and the children it waited for used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) max_rss_bytes: u64,
}

/// Takes one ended child, or orphan that became ours, off the process table.
/// With `wait` it blocks until there is one. `None`: nothing (more) to take.
pub(crate) fn reap(wait: bool) -> Option<Reaped> {
    let flags = if wait { 0 } else { libc::WNOHANG };
    let mut status: c_int = 0;
    // SAFETY: rusage is plain integers, for which zeroes are a valid value.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    loop {
        // SAFETY: both are writable and live through the call.
        let pid = unsafe { libc::wait4(-1, &raw mut status, flags, &raw mut usage) };
        if pid > 0 {
            let how = if libc::WIFSIGNALED(status) {
                Ending::Signal(libc::WTERMSIG(status))
            } else {
                Ending::Code(libc::WEXITSTATUS(status))
            };
            return Some(Reaped {
                pid: Pid(pid),
                how,
                usage: Usage::of(&usage),
            });
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

impl Usage {
    fn of(usage: &libc::rusage) -> Self {
        let micros = |time: libc::timeval| {
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            seconds * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
        };
        Self {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            // The kernel counts in KiB.
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        }
    }
}

/// Whether a number names a signal. 0 does not: it only asks.
pub(crate) fn is_signal(number: i32) -> bool {
    (1..=LAST_SIGNAL).contains(&number)
}

/// Forgets the SIGCHLDs that are pending.
pub(crate) fn drain_signals(signals: &OwnedFd) {
    let mut buffer = [0_u8; 1024];
    while nix::unistd::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Sends a signal to the process group that `leader` leads. Nothing happens
/// when the group is gone.
pub(crate) fn signal_group(leader: Pid, signal: i32) {
    // SAFETY: integers only. `leader` has not been reaped, so that the group is
    // still its own.
    unsafe { libc::kill(-leader.0, signal) };
}

/// Sends a signal to one process of the sandbox. Nothing happens when it is gone.
pub(crate) fn signal_process(pid: i32, signal: i32) {
    if pid > 1 {
        // SAFETY: integers only; it is no group and not ourselves.
        unsafe { libc::kill(pid, signal) };
    }
}

/// SIGKILL for every process but ourselves. Does nothing unless we are init:
/// elsewhere "every process" would be every process of the user.
pub(crate) fn kill_all() {
    if is_pid_1() {
        // SAFETY: integers only; as init of a pid namespace it reaches nothing
        // outside.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Bytes that stand in a pipe or socket now.
pub(crate) fn bytes_readable(fd: impl AsFd) -> usize {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result == -1 {
        0
    } else {
        usize::try_from(count).unwrap_or(0)
    }
}

/// Reads the next entries of a folder, each a `struct linux_dirent64`, as many as
/// fit. 0: that was all. The next call goes on behind them, and so does the offset
/// of the descriptor.
pub(crate) fn read_folder(folder: impl AsFd, into: &mut [u8]) -> Result<usize, Errno> {
    let fd = folder.as_fd().as_raw_fd();
    // SAFETY: the buffer is writable for the length that is given.
    let count = unsafe { libc::syscall(libc::SYS_getdents64, fd, into.as_mut_ptr(), into.len()) };
    usize::try_from(count).map_err(|_| Errno::last())
}

/// Asks for a pipe that holds `bytes`. The kernel may refuse; then it stays as
/// it is.
pub(crate) fn widen_pipe(fd: impl AsFd, bytes: c_int) {
    // SAFETY: integers only.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Moves a descriptor up to a high number, out of the way of those that an
/// interpreter opens, so that its numbers are the same with and without it.
/// Still closed on exec.
pub(crate) fn move_up(fd: OwnedFd) -> io::Result<OwnedFd> {
    const HIGH: c_int = 200;
    // SAFETY: integers only.
    let moved = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) })?;
    // SAFETY: the kernel just made it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Makes sure that 0, 1 and 2 are taken, so that none of our own descriptors
/// ever gets one of these numbers.
pub(crate) fn reserve_stdio() -> io::Result<()> {
    for fd in 0..=2 {
        // SAFETY: integers only.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            let root: &CStr = c"/";
            // SAFETY: the path is a string; the lowest free number is `fd`,
            // which nobody owns and which stays open for good.
            check(unsafe { libc::open(root.as_ptr(), libc::O_PATH) })?;
        }
    }
    Ok(())
}
