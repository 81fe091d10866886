//! Interpreters where people have them, and what a jail must mount to run them.

mod resolve;

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The folders of the daemon's PATH.
    pub(super) path: Vec<PathBuf>,
    /// The home of the daemon's user.
    pub(super) home: Option<PathBuf>,
    /// `PYENV_VERSION`
    pub(super) pyenv_version: Option<String>,
    /// Jails run as another uid than the daemon: what only the daemon's user can
    /// read is of no use to them.
    pub(super) strangers: bool,
    /// Where a jail has a folder of its own, which would hide what is there.
    pub(super) hidden: &'static [&'static str],
}

/// An interpreter that jails can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    /// The executable, as it is inside.
    pub(super) program: PathBuf,
    /// What lies outside of `/usr`.
    pub(super) mounts: Vec<Mount>,
}

/// A folder or file of the host that an interpreter needs in its jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// On the host.
    pub(super) from: PathBuf,
    /// Inside: the same path, unless a jail has a folder of its own there.
    pub(super) at: PathBuf,
}

impl Installed {
    /// Another one after an upgrade: its path, and size and time of its file.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn identity(&self) -> io::Result<String> {
        let on_host = self.mounts.iter().find_map(|mount| {
            let rest = self.program.strip_prefix(&mount.at).ok()?;
            // What is mounted may be the file itself; a joined nothing would
            // make a folder of it.
            let whole = rest.as_os_str().is_empty();
            Some(if whole {
                mount.from.clone()
            } else {
                mount.from.join(rest)
            })
        });
        let on_host = on_host.unwrap_or_else(|| self.program.clone());
        let file = fs::metadata(&on_host)?;
        Ok(format!(
            "{} {} {}.{}",
            on_host.display(),
            file.len(),
            file.mtime(),
            file.mtime_nsec()
        ))
    }

    /// The PATH that goes with it, colon-separated.
    pub(super) fn search_path(&self) -> String {
        let usual = ["/usr/local/bin", "/usr/bin", "/bin"];
        let own = self.program.parent().and_then(Path::to_str);
        let own = own.filter(|own| !usual.contains(own));
        own.into_iter().chain(usual).collect::<Vec<_>>().join(":")
    }
}

impl Places {
    /// This process's PATH and home.
    pub(super) fn of_this_process() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let uid = rustix::process::geteuid();
        let home = env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .or_else(|| home_of(uid.as_raw()));
        Self {
            path: env::split_paths(&path)
                .filter(|p| p.is_absolute())
                .collect(),
            home,
            pyenv_version: env::var("PYENV_VERSION").ok(),
            strangers: uid.is_root(),
            hidden: &["/tmp", "/sandbox", "/isol8", "/proc", "/dev"],
        }
    }

    /// Finds a runtime's interpreter: the first on PATH that a jail can run, then
    /// the folders that version managers and installers use.
    ///
    /// # Errors
    /// `InterpreterMissing`, with what was found and why it was passed over.
    pub(super) fn find(&self, runtime: Runtime) -> Result<Installed, Failure> {
        let mut passed_over: Vec<String> = Vec::new();
        let mut seen: Vec<PathBuf> = Vec::new();
        for candidate in self.candidates(runtime) {
            if seen.contains(&candidate) || !candidate.exists() {
                continue;
            }
            match resolve::resolve(self, runtime, &candidate) {
                Ok(installed) => return Ok(installed),
                Err(why) => passed_over.push(format!("`{}` {why}", candidate.display())),
            }
            seen.push(candidate);
        }
        let name = runtime.executable();
        let message = if passed_over.is_empty() {
            format!("no `{name}` on this host")
        } else {
            format!("no `{name}` on this host that a jail can run")
        };
        let mut failure = Failure::new(FailureKind::InterpreterMissing, message);
        failure.causes = passed_over;
        Err(failure.hint(how_to_get(runtime)))
    }

    fn candidates(&self, runtime: Runtime) -> Vec<PathBuf> {
        let name = runtime.executable();
        let mut found: Vec<PathBuf> = self.path.iter().map(|folder| folder.join(name)).collect();
        if let Some(home) = &self.home {
            match runtime {
                Runtime::Python => found.push(home.join(".pyenv/shims/python3")),
                Runtime::Node => found.extend(newest_nvm(home)),
                Runtime::Bun => found.push(home.join(".bun/bin/bun")),
                Runtime::Deno => found.push(home.join(".deno/bin/deno")),
                Runtime::Bash => {}
            }
            found.push(home.join(".local/bin").join(name));
            if let Some(prefix) = npm_prefix(home) {
                found.push(prefix.join("bin").join(name));
            }
        }
        let usual = ["/usr/local/bin", "/usr/bin", "/bin"];
        found.extend(usual.iter().map(|folder| Path::new(folder).join(name)));
        found
    }
}

/// What to type to have a runtime.
pub(super) fn how_to_get(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "`apt-get install python3`, or use `--engine docker`",
        Runtime::Node => "`apt-get install nodejs`, or use `--engine docker`",
        Runtime::Bun => "`npm install --global bun`, or use `--engine docker`",
        Runtime::Deno => "`npm install --global deno`, or use `--engine docker`",
        Runtime::Bash => "`apt-get install bash`, or use `--engine docker`",
    }
}

/// nvm's default alias where it names a version, else the newest.
fn newest_nvm(home: &Path) -> Option<PathBuf> {
    let versions = home.join(".nvm/versions/node");
    let alias = fs::read_to_string(home.join(".nvm/alias/default")).unwrap_or_default();
    let wanted = alias.trim().trim_start_matches('v');
    let mut all: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(versions)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let numbers = version(name.strip_prefix('v')?)?;
            Some((numbers, entry.path().join("bin/node")))
        })
        .filter(|(_, node)| node.exists())
        .collect();
    all.sort();
    let aliased = version(wanted).and_then(|wanted| {
        all.iter()
            .rev()
            .find(|(numbers, _)| numbers.starts_with(&wanted))
            .cloned()
    });
    aliased.or_else(|| all.pop()).map(|(_, node)| node)
}

fn version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// The `prefix` of the user's npm configuration.
fn npm_prefix(home: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(home.join(".npmrc")).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "prefix").then(|| value.trim().trim_matches('"'))
    })?;
    let inside = value
        .strip_prefix("~/")
        .or_else(|| value.strip_prefix("${HOME}/"));
    let prefix = match inside {
        Some(rest) => home.join(rest),
        None => PathBuf::from(value),
    };
    prefix.is_absolute().then_some(prefix)
}

fn home_of(uid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let of_uid = fields.nth(2)?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        of_uid.then(|| PathBuf::from(home))
    })
}

#[cfg(test)]
mod tests;
