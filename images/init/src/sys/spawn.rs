//! From fork to exec: how a program becomes a process of its own.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use libc::{c_int, c_uint};

use super::{Pid, close_range, empty_signal_set, set_handler};

/// Everything that a child needs between fork and exec, made before the fork.
#[derive(Debug)]
pub(crate) struct Image {
    /// Tried in this order.
    pub(crate) paths: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
}

/// Descriptors of a child.
#[derive(Debug)]
pub(crate) struct Stdio<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// Keeps its number in the child.
    pub(crate) extra: Option<BorrowedFd<'a>>,
}

/// Which step towards the program failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork,
    Cwd,
    Exec,
    Other,
}

/// Why there is no process.
#[derive(Debug)]
pub(crate) struct SpawnError {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

impl SpawnError {
    fn other(source: io::Error) -> Self {
        Self {
            step: Step::Other,
            source,
        }
    }
}

/// What a child says that cannot become the program: errno and step. A pipe
/// takes it whole.
const VERDICT_BYTES: usize = 5;

/// Starts `image` as leader of a session and process group of its own, with
/// default signals, an empty signal mask and no descriptors but those given.
/// Returns when exec has happened or failed.
///
/// # Errors
/// A failed exec comes back through a pipe that exec closes; its child is left
/// for [`reap`] like any orphan.
pub(crate) fn spawn(image: &Image, stdio: &Stdio<'_>) -> Result<Pid, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(&image.argv), pointers(&image.env));
    let (report, child_report) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| SpawnError::other(errno.into()))?;
    // SAFETY: the process has one thread, so the child may do whatever we may;
    // it leaves `become_program` by exec or _exit alone.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: we are the child of a fork.
        unsafe { become_program(image, &argv, &env, stdio, child_report.as_fd()) }
    }
    if pid == -1 {
        return Err(SpawnError {
            step: Step::Fork,
            source: io::Error::last_os_error(),
        });
    }
    drop(child_report);
    // Retries when a signal comes in between.
    let mut verdict = Vec::new();
    let read = io::Read::read_to_end(&mut std::fs::File::from(report), &mut verdict);
    match read.map(|_| verdict.first_chunk::<VERDICT_BYTES>()) {
        // Exec closed the pipe; or the child was killed, which [`reap`] finds.
        Ok(None) => Ok(Pid(pid)),
        Ok(Some([a, b, c, d, step])) => {
            let step = match step {
                1 => Step::Cwd,
                2 => Step::Exec,
                _ => Step::Other,
            };
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes([*a, *b, *c, *d]));
            Err(SpawnError { step, source })
        }
        Err(source) => Err(SpawnError::other(source)),
    }
}

/// The child's side of [`spawn`].
///
/// # Safety
/// Only in the child of a fork, with `argv` and `env` null-terminated arrays of
/// strings that live.
unsafe fn become_program(
    image: &Image,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    stdio: &Stdio<'_>,
    report: BorrowedFd<'_>,
) -> ! {
    let fail = |step: u8| -> ! {
        let [a, b, c, d] = io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(0)
            .to_ne_bytes();
        let verdict: [u8; VERDICT_BYTES] = [a, b, c, d, step];
        // SAFETY: the buffer is readable; _exit runs nothing of the parent's.
        unsafe {
            libc::write(report.as_raw_fd(), verdict.as_ptr().cast(), verdict.len());
            libc::_exit(127)
        }
    };
    // SAFETY: integers, and strings and sets that live through each call.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            set_handler(signal, false);
        }
        let none = empty_signal_set();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let wanted: [RawFd; 3] = [
            stdio.stdin.as_raw_fd(),
            stdio.stdout.as_raw_fd(),
            stdio.stderr.as_raw_fd(),
        ];
        // Ours are all above 2: `harden` leaves the lowest three to the parent
        // that started us, and `reserve_stdio` fills gaps.
        for (target, source) in (0..).zip(wanted) {
            if libc::dup2(source, target) == -1 {
                fail(0);
            }
        }
        if close_all_but(report, stdio.extra) == -1 {
            fail(0);
        }
        if let Some(extra) = stdio.extra
            && libc::fcntl(extra.as_raw_fd(), libc::F_SETFD, 0) == -1
        {
            fail(0);
        }
        volunteer();
        if libc::chdir(image.cwd.as_ptr()) == -1 {
            fail(1);
        }
    }
    // Like execvp: a file that may not be run does not end the search, but is
    // what is reported when nothing else is found.
    let mut denied = false;
    for path in &image.paths {
        // SAFETY: as the caller promises.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EACCES) => denied = true,
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            _ => fail(2),
        }
    }
    let errno = if denied { libc::EACCES } else { libc::ENOENT };
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = errno };
    fail(2)
}

/// Closes what the child has from init, but the descriptors that it still needs.
/// Here and not by exec: nobody may reach init's own through [`volunteer`].
///
/// # Safety
/// Only in the child of a fork, once 0, 1 and 2 are the program's.
unsafe fn close_all_but(report: BorrowedFd<'_>, extra: Option<BorrowedFd<'_>>) -> c_int {
    let report = report.as_raw_fd();
    let extra = extra.map_or(report, |extra| extra.as_raw_fd());
    let gaps = [
        (3, report.min(extra) - 1),
        (report.min(extra) + 1, report.max(extra) - 1),
        (report.max(extra) + 1, c_int::MAX),
    ];
    for (first, last) in gaps {
        let numbers = (c_uint::try_from(first), c_uint::try_from(last));
        if let (Ok(first), Ok(last)) = numbers
            && first <= last
            // SAFETY: no owner of these numbers runs in the child.
            && unsafe { close_range(first, last, 0) } == -1
        {
            return -1;
        }
    }
    0
}

/// Lets the kernel take the program and its children before init when the
/// sandbox's memory is full: files in memory may have filled it, which the death
/// of a tiny program frees as little as that of init, but init is the sandbox.
/// Best effort: a sandbox may have no /proc, and a program that wants to may come
/// down again to what init has, never below.
///
/// # Safety
/// Only in the child of a fork, after [`close_all_but`].
unsafe fn volunteer() {
    /// Nobody is taken before those that have this.
    const FIRST: &[u8] = b"1000";
    let file: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: integers, and strings that live through each call. The file is not
    // ours while we are not dumpable. What another process could reach of the
    // child in between is a copy of init's memory, without init's descriptors: to
    // write there is to become the program, as it is after exec.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        let fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        if fd != -1 {
            libc::write(fd, FIRST.as_ptr().cast(), FIRST.len());
            libc::close(fd);
        }
    }
}
