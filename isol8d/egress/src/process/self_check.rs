//! Tries what the confined process must not be able to do.

use std::{
    ffi::CString,
    fmt,
    fs::{self, OpenOptions},
    net::{Ipv4Addr, SocketAddrV4, ToSocketAddrs},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::{
    net::{AddressFamily, SocketType, bind, listen, socket},
    process::{Pid, Uid, test_kill_process},
    thread::set_thread_uid,
};

use super::{ProcessError, confine};
use crate::confine::{Confined, Landlock};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// What holds.
    pub confined: Confined,
    /// What could be done and must not be, or the other way round, each in a
    /// few words. Empty: as it should be.
    pub wrong: Vec<String>,
}

/// One line for each finding: first how it is confined, then what is wrong.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = match self.confined.landlock {
            Landlock::Full => "landlock",
            Landlock::Partial => "an old landlock",
            Landlock::Missing => "no landlock",
        };
        writeln!(f, "uid {}, seccomp, {landlock}", self.confined.uid)?;
        self.wrong
            .iter()
            .try_for_each(|wrong| writeln!(f, "{wrong}"))
    }
}

/// Confines this process as [`super::main`] does and then tries things. Where
/// there is Landlock, none of `hidden` may be opened.
///
/// # Errors
/// It cannot be confined.
pub fn run(uid: Option<u32>, hidden: &[PathBuf]) -> Result<Findings, ProcessError> {
    let daemon = rustix::process::getppid();
    let (confined, _) = confine(uid)?;
    let mut wrong: Vec<String> = forbidden(daemon)
        .into_iter()
        .filter(|(_, done)| *done)
        .map(|(what, _)| format!("it can {what}"))
        .collect();
    let hidden = hidden
        .iter()
        .filter(|_| confined.landlock != Landlock::Missing);
    for path in hidden.filter(|path| is_open(path)) {
        wrong.push(format!("it can read `{}`", path.display()));
    }
    if ("localhost", 0).to_socket_addrs().is_err() {
        wrong.push("it cannot look names up".to_owned());
    }
    if !crate::pipe::is_possible() {
        wrong.push("it cannot move bytes without copying them".to_owned());
    }
    let thread = thread::Builder::new().spawn(|| {});
    if thread.is_err() {
        wrong.push("it cannot start threads".to_owned());
    }
    Ok(Findings { confined, wrong })
}

fn is_open(path: &Path) -> bool {
    fs::read_dir(path).is_ok() || fs::File::open(path).is_ok()
}

/// What must fail, and whether it went through.
fn forbidden(daemon: Option<Pid>) -> Vec<(&'static str, bool)> {
    let makes = |family, kind| socket(family, kind, None).is_ok();
    let executes = |path: &str| {
        let path = CString::new(path).unwrap_or_default();
        // Comes back only when it fails.
        nix::unistd::execv(&path, &[&path]).is_ok()
    };
    vec![
        (
            "make a Unix socket",
            makes(AddressFamily::UNIX, SocketType::STREAM),
        ),
        (
            "make a Unix datagram socket",
            makes(AddressFamily::UNIX, SocketType::DGRAM),
        ),
        (
            "make a raw socket",
            makes(AddressFamily::INET, SocketType::RAW),
        ),
        (
            "make a packet socket",
            makes(AddressFamily::PACKET, SocketType::DGRAM),
        ),
        ("make a pair of sockets", crate::control::pair().is_ok()),
        ("listen on a port", listens()),
        ("run a program", executes("/bin/true")),
        ("start a process", Command::new("/bin/true").spawn().is_ok()),
        (
            "write to a file",
            OpenOptions::new().write(true).open("/dev/null").is_ok(),
        ),
        ("become root", set_thread_uid(Uid::ROOT).is_ok()),
        (
            "signal the daemon",
            daemon.is_some_and(|pid| test_kill_process(pid).is_ok()),
        ),
        ("raise its limits", raises_limits()),
    ]
}

fn listens() -> bool {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None);
    socket.is_ok_and(|socket| bind(&socket, &any).is_ok() || listen(&socket, 1).is_ok())
}

fn raises_limits() -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    setrlimit(Resource::Nofile, getrlimit(Resource::Nofile)).is_ok()
}
