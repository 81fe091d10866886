//! `isol8-init launch …`: gets ready what bubblewrap cannot do for a native jail,
//! then becomes bubblewrap. It runs outside of any sandbox, as the daemon's user.
//!
//! The order matters:
//! 1. join the sandbox's cgroups, so that all that follows is charged to it;
//! 2. a mount namespace (with a user namespace, unless root);
//! 3. the stage: tmpfs with sizes and inode limits, read-only binds, moved to
//!    [`STAGE`], which the jail's own uid can reach whatever the daemon's folders
//!    are;
//! 4. resource limits;
//! 5. for good: the sandbox's own host uid, no groups, no capabilities;
//! 6. bubblewrap, with the system call filter as an inherited descriptor.
//!
//! Any error ends in a line on stderr and a non-zero exit: there is no jail that
//! lacks one of these.

mod become_user;
mod plan;
mod stage;

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs::OpenOptions,
    io::{self, Write},
    os::{fd::IntoRawFd, unix::ffi::OsStrExt},
    path::Path,
    process::ExitCode,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{resource::setrlimit, stat::Mode},
    unistd::execve,
};

use plan::{Plan, Rlimit};

/// Where the stage ends up in the jail's mount namespace. It is there on every
/// host, and bubblewrap's own root comes from it.
const STAGE: &str = "/tmp";

/// What could not be done, and why.
#[derive(Debug)]
struct Trouble {
    what: String,
    why: String,
}

impl Trouble {
    fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// Exit code for a command line that makes no sense (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code for what the system refused (`EX_OSERR`).
const REFUSED: u8 = 71;

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let plan = match Plan::parse(args) {
        Ok(plan) => plan,
        Err(why) => return fail(USAGE, &Trouble::new("cannot understand the order", why)),
    };
    match launch(&plan) {
        Ok(never) => match never {},
        Err(trouble) => fail(REFUSED, &trouble),
    }
}

fn fail(code: u8, trouble: &Trouble) -> ExitCode {
    // Nobody is left to tell when stderr is gone too.
    writeln!(io::stderr(), "launcher: {}: {}", trouble.what, trouble.why).ok();
    ExitCode::from(code)
}

fn launch(plan: &Plan) -> Result<Infallible, Trouble> {
    for procs in &plan.join {
        // 0 stands for the writer: no pid of another namespace can be meant.
        write(procs, "0")?;
    }
    write(
        Path::new("/proc/self/oom_score_adj"),
        &plan.oom_score_adj.to_string(),
    )?;
    // Before the namespaces: the file may be where only the daemon can read, and
    // it must not be looked up below the stage.
    let filter = open_inherited(&plan.seccomp)?;
    become_user::enter_namespaces(plan.uid)?;
    stage::build(plan)?;
    for limit in &plan.rlimits {
        set_rlimit(limit)?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    if let Some(uid) = plan.uid {
        become_user::drop_to(uid)?;
    }
    exec(plan, filter)
}

fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    let what = || format!("cannot write `{text}` to {}", path.display());
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Trouble::new(what(), error))
}

/// Opens a file so that the program that we become has it too.
fn open_inherited(path: &Path) -> Result<i32, Trouble> {
    open(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, Mode::empty())
        .map(IntoRawFd::into_raw_fd)
        .map_err(|errno| Trouble::new(format!("cannot open {}", path.display()), errno))
}

fn set_rlimit(limit: &Rlimit) -> Result<(), Trouble> {
    let what = || format!("cannot limit {}", limit.name);
    // A hard limit that is lower already stays: only a privileged process could
    // raise it, and lower is stricter.
    let (_, hard) = nix::sys::resource::getrlimit(limit.resource)
        .map_err(|errno| Trouble::new(what(), errno))?;
    let value = limit.value.min(hard);
    setrlimit(limit.resource, value, value).map_err(|errno| Trouble::new(what(), errno))
}

/// Becomes bubblewrap. The filter goes first, so that no argument of the order
/// can leave it out.
fn exec(plan: &Plan, filter: i32) -> Result<Infallible, Trouble> {
    let text = |arg: &std::ffi::OsStr| {
        CString::new(arg.as_bytes())
            .map_err(|_| Trouble::new("cannot pass an argument on", Errno::EINVAL))
    };
    let program = text(plan.program[0].as_os_str())?;
    let mut argv = vec![
        program.clone(),
        text("--seccomp".as_ref())?,
        text(filter.to_string().as_ref())?,
    ];
    for arg in &plan.program[1..] {
        argv.push(text(arg)?);
    }
    let environment: [CString; 0] = [];
    execve(&program, &argv, &environment).map_err(|errno| {
        Trouble::new(
            format!("cannot start {}", plan.program[0].to_string_lossy()),
            errno,
        )
    })
}
