//! What to start, from the daemon's words to what exec takes.

use std::{
    ffi::{CString, OsStr},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use isol8_proto::init::{Command, EnvVar, Failed, FailureKind};
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::{AccessFlags, access},
};

use crate::sys::{self, Image, Pid, SpawnError, Stdio, Step};

/// A command that cannot be started, as the daemon hears it.
pub(crate) fn failed(kind: FailureKind, message: impl Into<String>, source: &io::Error) -> Failed {
    Failed {
        kind: kind.into(),
        message: message.into(),
        errno: source.raw_os_error().unwrap_or(0),
        files: false,
    }
}

/// Checks a command and finds the files that its name may stand for.
///
/// # Errors
/// `OTHER` for an empty argv or a NUL byte, which exec cannot pass on.
pub(crate) fn image(command: &Command) -> Result<Image, Failed> {
    let nul = |_| {
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        failed(
            FailureKind::Other,
            "a NUL byte in argv, env or cwd",
            &source,
        )
    };
    let Some(name) = command.argv.first().filter(|name| !name.is_empty()) else {
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(failed(FailureKind::Other, "no command", &source));
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
    let errno = error.source.raw_os_error().unwrap_or(0);
    let (kind, message) = match (error.step, errno) {
        (Step::Fork, libc::EAGAIN) => (
            FailureKind::NoProcess,
            "the process limit leaves no room".to_owned(),
        ),
        (Step::Fork, _) => (FailureKind::Other, "cannot make a process".to_owned()),
        (Step::Cwd, _) => {
            let cwd = image.cwd.to_string_lossy();
            (FailureKind::BadPath, format!("cannot enter `{cwd}`"))
        }
        (Step::Exec, libc::ENOENT | libc::ENOTDIR) => {
            (FailureKind::NotFound, format!("there is no `{name}`"))
        }
        (Step::Exec, libc::E2BIG) => (
            FailureKind::Other,
            "arguments and environment are too long".to_owned(),
        ),
        (Step::Exec, libc::ENOMEM) => (FailureKind::Other, format!("no memory for `{name}`")),
        (Step::Exec, _) => (
            FailureKind::NotExecutable,
            format!("`{name}` cannot be run"),
        ),
        (Step::Other, _) => (FailureKind::Other, "cannot set a process up".to_owned()),
    };
    failed(kind, message, &error.source)
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
