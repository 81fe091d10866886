//! Where configuration files are looked for.

use std::path::{Path, PathBuf};

/// Looks up one variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Names one file that replaces the search.
pub const CONFIG_VARIABLE: &str = "ISOL8_CONFIG";

/// The file of a system daemon.
pub const SYSTEM_FILE: &str = "/etc/isol8/config.json";

/// The file of a working directory.
pub const LOCAL_FILE: &str = "isol8.config.json";

/// How much a file may decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The person's own or the system's: everything.
    Full,
    /// The working directory's, which may come from anybody: nothing that
    /// weakens isolation.
    WorkingDirectory,
}

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeker<'a> {
    /// The command line, standing in this folder.
    Cli {
        /// Absolute.
        working_dir: &'a Path,
    },
    /// The daemon of one person.
    UserDaemon,
    /// The daemon of the system, which runs as root.
    SystemDaemon,
}

/// A file that may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub path: PathBuf,
    /// How much it may decide.
    pub trust: Trust,
    /// It was named on purpose: that it is missing is an error.
    pub required: bool,
}

/// The files to try, in this order; the first that exists is the one.
#[must_use]
pub fn candidates(seeker: Seeker<'_>, env: Env<'_>) -> Vec<Candidate> {
    let trusted = |path| Candidate {
        path,
        trust: Trust::Full,
        required: false,
    };
    if let Some(path) = set(env, CONFIG_VARIABLE) {
        return vec![Candidate {
            required: true,
            ..trusted(path.into())
        }];
    }
    let mut found = Vec::new();
    match seeker {
        Seeker::Cli { working_dir } => found.push(Candidate {
            trust: Trust::WorkingDirectory,
            ..trusted(working_dir.join(LOCAL_FILE))
        }),
        Seeker::SystemDaemon => found.push(trusted(SYSTEM_FILE.into())),
        Seeker::UserDaemon => {}
    }
    found.extend(personal(env).into_iter().map(trusted));
    found
}

fn personal(env: Env<'_>) -> Vec<PathBuf> {
    let absolute = |text: String| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    let home = set(env, "HOME").and_then(absolute);
    let xdg = set(env, "XDG_CONFIG_HOME")
        .and_then(absolute)
        .or_else(|| home.as_ref().map(|home| home.join(".config")));
    let mut paths = Vec::new();
    paths.extend(xdg.map(|folder| folder.join("isol8/config.json")));
    paths.extend(home.map(|home| home.join(".isol8/config.json")));
    paths
}

/// An empty variable counts as unset, as shells' users expect.
fn set(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seeker: Seeker<'_>, env: &[(&str, &str)], expected: &[&str]) {
        let lookup = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let paths: Vec<_> = candidates(seeker, &lookup)
            .into_iter()
            .map(|candidate| {
                let mark = match (candidate.trust, candidate.required) {
                    (Trust::WorkingDirectory, _) => "?",
                    (Trust::Full, true) => "!",
                    (Trust::Full, false) => "",
                };
                format!("{mark}{}", candidate.path.display())
            })
            .collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn the_command_line_looks_here_first() {
        check(
            Seeker::Cli {
                working_dir: Path::new("/w"),
            },
            &[("HOME", "/h")],
            &[
                "?/w/isol8.config.json",
                "/h/.config/isol8/config.json",
                "/h/.isol8/config.json",
            ],
        );
    }

    #[test]
    fn a_daemon_never_looks_at_the_working_directory() {
        let env = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")];
        let own = ["/x/isol8/config.json", "/h/.isol8/config.json"];
        check(Seeker::UserDaemon, &env, &own);
        check(Seeker::SystemDaemon, &env, &[SYSTEM_FILE, own[0], own[1]]);
        check(Seeker::SystemDaemon, &[], &[SYSTEM_FILE]);
    }

    #[test]
    fn one_named_file_replaces_the_search() {
        let env = [("HOME", "/h"), ("ISOL8_CONFIG", "/c.json")];
        for seeker in [
            Seeker::Cli {
                working_dir: Path::new("/w"),
            },
            Seeker::UserDaemon,
            Seeker::SystemDaemon,
        ] {
            check(seeker, &env, &["!/c.json"]);
        }
    }

    #[test]
    fn empty_and_relative_folders_do_not_count() {
        let env = [
            ("HOME", "/h"),
            ("XDG_CONFIG_HOME", "here"),
            ("ISOL8_CONFIG", ""),
        ];
        check(
            Seeker::UserDaemon,
            &env,
            &["/h/.config/isol8/config.json", "/h/.isol8/config.json"],
        );
        check(Seeker::UserDaemon, &[("HOME", "")], &[]);
    }
}
