//! The order that the daemon gives on the command line.

use std::{
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
};

use nix::sys::resource::Resource;

/// Everything that the launcher does.
#[derive(Debug)]
pub(super) struct Plan {
    /// `cgroup.procs` or `tasks` files to join.
    pub(super) join: Vec<PathBuf>,
    /// The host uid and gid to become. `None`: the caller's own, behind a user
    /// namespace from the start. Never 0.
    pub(super) uid: Option<u32>,
    /// An empty folder to build the stage on.
    pub(super) stage: PathBuf,
    /// How much sooner than others the kernel may kill this when memory is out.
    pub(super) oom_score_adj: u16,
    /// The compiled system call filter.
    pub(super) seccomp: PathBuf,
    /// Limits, soft and hard alike.
    pub(super) rlimits: Vec<Rlimit>,
    /// What to put on the stage, in this order.
    pub(super) steps: Vec<Step>,
    /// bubblewrap and its arguments.
    pub(super) program: Vec<OsString>,
}

/// One resource limit.
#[derive(Debug)]
pub(super) struct Rlimit {
    pub(super) name: String,
    pub(super) resource: Resource,
    pub(super) value: u64,
}

/// A path below the stage: relative, without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot(pub(super) PathBuf);

/// One piece of the stage. Missing parent folders are made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A folder.
    Dir(Spot),
    /// A folder that belongs to the sandbox's uid.
    Own(Spot),
    /// An empty file.
    File(Spot),
    /// A symbolic link.
    Link { target: OsString, at: Spot },
    /// A file or folder of the host, read-only, with what is mounted below it.
    Bind { from: PathBuf, at: Spot },
    /// A copy of a small folder of the host that belongs to the sandbox's uid.
    Copy { from: PathBuf, at: Spot },
    /// A tmpfs that belongs to the sandbox's uid.
    Tmpfs { options: TmpfsOptions, at: Spot },
    /// Folders of the host, one over the other, read-only.
    Merge { lower: Vec<PathBuf>, at: Spot },
    /// Folders of the host, one over the other, with a writable layer on top.
    Overlay {
        lower: Vec<PathBuf>,
        upper: Spot,
        work: Spot,
        at: Spot,
    },
}

/// Bounds of a tmpfs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TmpfsOptions {
    pub(super) size_bytes: u64,
    pub(super) inodes: u64,
    /// Octal permissions.
    pub(super) mode: u32,
    pub(super) exec: bool,
}

impl Plan {
    /// Reads the order.
    pub(super) fn parse(args: &[OsString]) -> Result<Self, String> {
        let mut words = Words {
            rest: args,
            lower: Vec::new(),
        };
        let (mut join, mut rlimits, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let (mut uid, mut stage, mut oom_score_adj, mut seccomp) = (None, None, None, None);
        let program = loop {
            let word = words.next("an option")?;
            match word.to_str().unwrap_or_default() {
                "--" => break words.rest.to_vec(),
                "--join" => join.push(words.path()?),
                "--uid" => uid = Some(words.number("--uid")?),
                "--stage" => stage = Some(words.path()?),
                "--oom-score-adj" => oom_score_adj = Some(words.number("--oom-score-adj")?),
                "--seccomp" => seccomp = Some(words.path()?),
                "--rlimit" => rlimits.push(words.rlimit()?),
                "--lower" => {
                    let lower = words.path()?;
                    words.lower.push(lower);
                }
                option => steps.push(words.step(option)?),
            }
        };
        if uid == Some(0) {
            return Err("a sandbox never runs as root".into());
        }
        if program.is_empty() {
            return Err("no program".into());
        }
        if !words.lower.is_empty() {
            return Err("--lower without what is made of it".into());
        }
        Ok(Self {
            join,
            uid,
            stage: stage.ok_or("no --stage")?,
            oom_score_adj: oom_score_adj.ok_or("no --oom-score-adj")?,
            seccomp: seccomp.ok_or("no --seccomp")?,
            rlimits,
            steps,
            program,
        })
    }
}

/// What is left of the command line.
struct Words<'a> {
    rest: &'a [OsString],
    /// The folders for the next overlay, topmost first.
    lower: Vec<PathBuf>,
}

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a OsStr, String> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| format!("{what} is missing"))?;
        self.rest = rest;
        Ok(first)
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        word.to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{what}: `{}` is no number", word.to_string_lossy()))
    }

    /// A path of the host.
    fn path(&mut self) -> Result<PathBuf, String> {
        let path = Path::new(self.next("a path")?);
        if path.is_absolute() {
            Ok(path.to_owned())
        } else {
            Err(format!("`{}` is not absolute", path.display()))
        }
    }

    fn spot(&mut self) -> Result<Spot, String> {
        let path = Path::new(self.next("a place on the stage")?);
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if inside && !path.as_os_str().is_empty() {
            Ok(Spot(path.to_owned()))
        } else {
            Err(format!("`{}` is not a place on the stage", path.display()))
        }
    }

    fn lower(&mut self) -> Result<Vec<PathBuf>, String> {
        let lower = std::mem::take(&mut self.lower);
        if lower.is_empty() {
            return Err("an overlay over nothing".into());
        }
        Ok(lower)
    }

    fn rlimit(&mut self) -> Result<Rlimit, String> {
        let name = self.next("a limit's name")?.to_string_lossy().into_owned();
        let resource = match name.as_str() {
            "core" => Resource::RLIMIT_CORE,
            "fsize" => Resource::RLIMIT_FSIZE,
            "memlock" => Resource::RLIMIT_MEMLOCK,
            "msgqueue" => Resource::RLIMIT_MSGQUEUE,
            "nice" => Resource::RLIMIT_NICE,
            "nofile" => Resource::RLIMIT_NOFILE,
            "rtprio" => Resource::RLIMIT_RTPRIO,
            "sigpending" => Resource::RLIMIT_SIGPENDING,
            _ => return Err(format!("`{name}` is not a limit")),
        };
        let value = self.number(&name)?;
        Ok(Rlimit {
            name,
            resource,
            value,
        })
    }

    fn step(&mut self, option: &str) -> Result<Step, String> {
        Ok(match option {
            "--dir" => Step::Dir(self.spot()?),
            "--own" => Step::Own(self.spot()?),
            "--file" => Step::File(self.spot()?),
            "--link" => Step::Link {
                target: self.next("a link's target")?.to_owned(),
                at: self.spot()?,
            },
            "--bind" => Step::Bind {
                from: self.path()?,
                at: self.spot()?,
            },
            "--copy" => Step::Copy {
                from: self.path()?,
                at: self.spot()?,
            },
            "--tmpfs" => Step::Tmpfs {
                options: self.tmpfs()?,
                at: self.spot()?,
            },
            "--merge" => Step::Merge {
                lower: self.lower()?,
                at: self.spot()?,
            },
            "--overlay" => Step::Overlay {
                lower: self.lower()?,
                upper: self.spot()?,
                work: self.spot()?,
                at: self.spot()?,
            },
            _ => return Err(format!("`{option}` is not an option")),
        })
    }

    /// Bytes, inodes, permissions, and `exec` or `noexec`.
    fn tmpfs(&mut self) -> Result<TmpfsOptions, String> {
        let size_bytes = self.number("a tmpfs's size")?;
        let inodes = self.number("a tmpfs's inodes")?;
        let mode = self.next("a tmpfs's mode")?.to_string_lossy().into_owned();
        let mode = u32::from_str_radix(&mode, 8).map_err(|_| format!("`{mode}` is no mode"))?;
        let exec = match self.next("exec or noexec")?.to_str() {
            Some("exec") => true,
            Some("noexec") => false,
            _ => return Err("neither exec nor noexec".into()),
        };
        // The kernel takes 0 for `no limit`.
        if size_bytes == 0 || inodes == 0 {
            return Err("a tmpfs without a limit".into());
        }
        Ok(TmpfsOptions {
            size_bytes,
            inodes,
            mode,
            exec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "--join /c/procs --uid 200000 --stage /s --oom-score-adj 500 \
        --seccomp /f --rlimit nofile 1024 --dir a/b --tmpfs 4096 16 0700 noexec t \
        -- /usr/bin/bwrap --unshare-all";

    fn parse(line: &str) -> Result<Plan, String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Plan::parse(&words)
    }

    #[track_caller]
    fn refused(line: &str, why: &str) {
        let error = parse(line).expect_err(line);
        assert!(error.contains(why), "{line}: {error}");
    }

    #[test]
    fn a_whole_order_is_understood() {
        let plan = parse(WHOLE).unwrap();
        assert_eq!(plan.uid, Some(200_000));
        assert_eq!(plan.join, [PathBuf::from("/c/procs")]);
        assert_eq!(plan.rlimits[0].value, 1024);
        assert_eq!(plan.program, ["/usr/bin/bwrap", "--unshare-all"]);
        let options = TmpfsOptions {
            size_bytes: 4096,
            inodes: 16,
            mode: 0o700,
            exec: false,
        };
        let at = |path: &str| Spot(path.into());
        assert_eq!(
            plan.steps,
            [
                Step::Dir(at("a/b")),
                Step::Tmpfs {
                    options,
                    at: at("t")
                }
            ]
        );
    }

    #[test]
    fn what_would_weaken_the_jail_is_refused() {
        refused(&WHOLE.replace("--uid 200000", "--uid 0"), "root");
        refused(&WHOLE.replace("--seccomp /f", ""), "--seccomp");
        refused(&WHOLE.replace("--oom-score-adj 500", ""), "--oom-score-adj");
        refused(&WHOLE.replace("4096 16", "0 16"), "without a limit");
        refused(&WHOLE.replace("4096 16", "4096 0"), "without a limit");
    }

    #[test]
    fn nothing_is_built_outside_of_the_stage() {
        for spot in ["/etc", "../etc", "a/../../etc", "./a", ""] {
            let words = ["--dir", spot].map(OsString::from);
            let error = Plan::parse(&words).unwrap_err();
            assert!(error.contains("not a place"), "{spot}: {error}");
        }
        refused("--bind etc a", "not absolute");
    }

    #[test]
    fn an_overlay_is_over_something() {
        refused("--merge a", "over nothing");
        refused("--lower /usr --merge a --overlay u w b", "over nothing");
        refused("--lower usr --merge a", "not absolute");
        refused(&WHOLE.replace("-- ", "--lower /usr -- "), "--lower");
        let whole = WHOLE.replace("-- ", "--lower /l --lower /usr --merge a -- ");
        let merge = Step::Merge {
            lower: vec!["/l".into(), "/usr".into()],
            at: Spot("a".into()),
        };
        assert_eq!(parse(&whole).unwrap().steps.pop(), Some(merge));
    }

    #[test]
    fn a_cut_order_is_refused() {
        let words: Vec<&str> = WHOLE.split_whitespace().collect();
        let program_at = words.iter().position(|word| *word == "--").unwrap();
        for length in 0..=program_at {
            assert!(parse(&words[..length].join(" ")).is_err(), "{length}");
        }
        refused(&words[..=program_at].join(" "), "no program");
        refused("--what", "not an option");
    }
}
