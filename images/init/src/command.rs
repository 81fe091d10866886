//! What to start, from the daemon's words to what exec takes.

use std::{
    ffi::{CString, OsStr},
    fmt, io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use isol8_proto::init::{Command, EnvVar, Failed, FailureKind};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::{AccessFlags, access},
};

use crate::sys::{self, Image, Pid, SpawnError, Stdio, Step};

/// A command that was not carried out, as the daemon hears it. The message says
/// what and why.
pub(crate) fn failed(kind: FailureKind, message: impl Into<String>, errno: Errno) -> Failed {
    Failed {
        kind: kind.into(),
        message: message.into(),
        errno: errno as i32,
        files: false,
    }
}

/// The reason that the kernel gave, for the end of a message.
pub(crate) fn because(what: impl fmt::Display, errno: Errno) -> String {
    let mut why = errno.desc().to_owned();
    if let Some(first) = why.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    format!("{what}: {why}")
}

/// The number of an error of the system.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Checks a command and finds the files that its name may stand for.
///
/// # Errors
/// `OTHER` for an empty argv or a NUL byte, which exec cannot pass on.
pub(crate) fn image(command: &Command) -> Result<Image, Failed> {
    let nul = |_| {
        let message = "the arguments, the environment or the working directory hold a NUL byte";
        failed(FailureKind::Other, message, Errno::EINVAL)
    };
    let Some(name) = command.argv.first().filter(|name| !name.is_empty()) else {
        return Err(nothing_to_start());
    };
    let argv = command.argv.iter().map(|arg| CString::new(&arg[..]));
    let env = command.env.iter().map(|var| CString::new(assignment(var)));
    Ok(Image {
        paths: candidates(name, &command.env).map_err(nul)?,
        argv: argv.collect::<Result<_, _>>().map_err(nul)?,
        env: env.collect::<Result<_, _>>().map_err(nul)?,
        cwd: CString::new(&command.cwd[..]).map_err(nul)?,
    })
}

pub(crate) fn nothing_to_start() -> Failed {
    let message = "cannot start a program: the command is empty";
    failed(FailureKind::Other, message, Errno::EINVAL)
}

/// `NAME=value`.
pub(crate) fn assignment(var: &EnvVar) -> Vec<u8> {
    [&var.name[..], b"=", &var.value[..]].concat()
}

/// A name with a slash is a path; a bare one is searched on the PATH of `env`,
/// where an empty folder means the working directory, as in a shell.
fn candidates(name: &[u8], env: &[EnvVar]) -> Result<Vec<CString>, std::ffi::NulError> {
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name)?]);
    }
    let path = env.iter().find(|var| &var.name[..] == b"PATH");
    let folders = path
        .map_or(&b""[..], |var| &var.value[..])
        .split(|byte| *byte == b':');
    folders
        .filter(|_| path.is_some())
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            let file = Path::new(OsStr::from_bytes(folder)).join(OsStr::from_bytes(name));
            CString::new(file.as_os_str().as_bytes())
        })
        .collect()
}

/// Whether a process of ours could make the command's folder its own. What is
/// wrong with it, the plain path says.
pub(crate) fn can_enter(image: &Image) -> bool {
    let cwd = image.cwd.as_c_str();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(cwd, flags, Mode::empty()).is_ok() && access(cwd, AccessFlags::X_OK).is_ok()
}

/// Starts a checked command.
///
/// # Errors
/// Typed for the daemon: what was missing, or that no process can be made.
pub(crate) fn spawn(image: &Image, stdio: &Stdio<'_>) -> Result<Pid, Failed> {
    sys::spawn(image, stdio).map_err(|error| why(image, &error))
}

fn why(image: &Image, error: &SpawnError) -> Failed {
    let name = image
        .argv
        .first()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let errno = errno(&error.source);
    let (kind, message) = match (error.step, errno) {
        (Step::Fork, Errno::EAGAIN) => (
            FailureKind::NoProcess,
            "the process limit leaves no room for the program".to_owned(),
        ),
        (Step::Fork, _) => (FailureKind::Other, because("cannot make a process", errno)),
        (Step::Cwd, _) => {
            let cwd = image.cwd.to_string_lossy();
            let message = because(format_args!("cannot start in the folder `{cwd}`"), errno);
            (FailureKind::BadPath, message)
        }
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => (
            FailureKind::NotFound,
            format!("there is no program `{name}` in the sandbox"),
        ),
        (Step::Exec, Errno::E2BIG) => (
            FailureKind::Other,
            "the arguments and the environment are too long together".to_owned(),
        ),
        (Step::Exec, Errno::ENOMEM) => (
            FailureKind::Other,
            format!("there is not enough memory to start `{name}`"),
        ),
        (Step::Exec, _) => (
            FailureKind::NotExecutable,
            because(format_args!("cannot run `{name}`"), errno),
        ),
        (Step::Other, _) => (
            FailureKind::Other,
            because("cannot set the program's process up", errno),
        ),
    };
    failed(kind, message, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &'static str, value: &'static str) -> EnvVar {
        EnvVar {
            name: name.into(),
            value: value.into(),
        }
    }

    #[track_caller]
    fn check(name: &str, env: &[EnvVar], expected: &[&str]) {
        let paths = candidates(name.as_bytes(), env).expect("no NUL");
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.to_str().expect("text"))
            .collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn bare_names_are_searched_on_the_path_of_the_command() {
        check(
            "sh",
            &[var("A", "/no"), var("PATH", "/a:/b/:c")],
            &["/a/sh", "/b/sh", "c/sh"],
        );
        check("sh", &[var("PATH", "/a::/b")], &["/a/sh", "./sh", "/b/sh"]);
        check("sh", &[], &[]);
    }

    #[test]
    fn names_with_a_slash_are_paths() {
        check("./sh", &[var("PATH", "/a")], &["./sh"]);
        check("/bin/sh", &[], &["/bin/sh"]);
    }

    #[test]
    fn what_exec_cannot_take_is_refused() {
        for argv in [vec![], vec![""], vec!["a\0b"]] {
            let argv = argv.into_iter().map(Into::into).collect();
            let command = Command {
                argv,
                env: vec![],
                cwd: "/".into(),
            };
            assert!(image(&command).is_err());
        }
    }
}
