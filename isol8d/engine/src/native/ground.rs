//! What all jails of a daemon share: the cgroup tree, bubblewrap, the compiled
//! filter, the synthetic `/etc`. Found at the first use, and looked for again
//! while something is missing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use data_encoding::HEXLOWER;
use isol8_core::{
    failure::{Failure, FailureKind},
    runtime::Runtime,
};
use sha2::{Digest, Sha256};

use crate::{
    Place, meet, seccomp,
    uids::{SlotUid, UidRange},
};

use super::{
    cgroup::{Cgroups, Host},
    interpreters::{Installed, Places},
    rootfs::RootFs,
};

/// Where distributions put it. PATH is not asked: it decides what runs as the
/// first step of every jail.
const BWRAP: [&str; 3] = ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];

/// Bubblewrap as it is installed.
#[derive(Debug, Clone)]
pub(super) struct Bwrap {
    pub(super) path: PathBuf,
    pub(super) version: String,
    pub(super) disable_userns: bool,
}

/// What a jail is made with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) bwrap: Bwrap,
    pub(super) seccomp: PathBuf,
    pub(super) etc: PathBuf,
    pub(super) stage: PathBuf,
    pub(super) rootfs: RootFs,
    pub(super) resolv_conf: Option<PathBuf>,
}

/// What is shared.
#[derive(Debug)]
pub(super) struct Ground {
    place: Place,
    /// `None` where the daemon is not root: jails have its own uid.
    uids: Option<UidRange>,
    places: Places,
    cgroups: OnceLock<Cgroups>,
    tools: OnceLock<Tools>,
    /// Held while one of the two is looked for.
    looking: Mutex<()>,
}

impl Ground {
    pub(super) fn new(place: Place, uids: Option<UidRange>) -> Self {
        Self {
            place,
            uids,
            places: Places::of_this_process(),
            cgroups: OnceLock::new(),
            tools: OnceLock::new(),
            looking: Mutex::new(()),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn is_root(&self) -> bool {
        self.uids.is_some()
    }

    pub(super) fn lease_uid(&self) -> Result<SlotUid, Failure> {
        match &self.uids {
            Some(range) => range.lease(),
            None => Ok(SlotUid::fixed(rustix::process::geteuid().as_raw())),
        }
    }

    /// Keeps the uid of a sandbox that an earlier daemon made.
    pub(super) fn reserve_uid(&self, uid: u32) -> SlotUid {
        match &self.uids {
            Some(range) => range.reserve(uid),
            None => SlotUid::fixed(uid),
        }
    }

    pub(super) fn find_interpreter(&self, runtime: Runtime) -> Result<Installed, Failure> {
        self.places.find(runtime)
    }

    /// Whether the kit can park this runtime.
    pub(super) fn has_hook(&self, runtime: Runtime) -> bool {
        let hook = match runtime {
            Runtime::Python => "park/python/sitecustomize.py",
            Runtime::Node => "park/node.cjs",
            Runtime::Bun => "park/bun.ts",
            Runtime::Deno => "park/deno.ts",
            Runtime::Bash => return false,
        };
        self.place.kit.join(hook).is_file()
    }

    /// The cgroup tree.
    pub(super) fn cgroups(&self) -> Result<&Cgroups, Failure> {
        if let Some(cgroups) = self.cgroups.get() {
            return Ok(cgroups);
        }
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cgroups) = self.cgroups.get() {
            return Ok(cgroups);
        }
        let cgroups = Cgroups::open(&Host::real(), &self.place.daemon)?;
        Ok(self.cgroups.get_or_init(|| cgroups))
    }

    /// The cgroup tree, if anything has asked for it before.
    pub(super) fn cgroups_if_open(&self) -> Result<&Cgroups, ()> {
        self.cgroups.get().ok_or(())
    }

    /// Everything else.
    pub(super) fn tools(&self) -> Result<&Tools, Failure> {
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let bwrap = find_bwrap()?;
        let seccomp = self.write_seccomp()?;
        meet::sweep(&self.place.runtime_dir);
        let rootfs = RootFs::look(Path::new("/"), Path::new("/proc"));
        let own = self.own_folder()?;
        let etc = rootfs
            .write_etc(Path::new("/"), &own)
            .map_err(|error| unwritable("the jails' /etc", &error))?;
        let stage = self.place.runtime_dir.join("stage");
        make_folder(&stage).map_err(|error| unwritable("the stage", &error))?;
        let tools = Tools {
            bwrap,
            seccomp,
            etc,
            stage,
            rootfs,
            resolv_conf: fs::canonicalize("/etc/resolv.conf").ok(),
        };
        Ok(self.tools.get_or_init(|| tools))
    }

    /// `S/native`: for the daemon alone. What jails see of it is mounted by the
    /// launcher.
    fn own_folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.place.state_dir.join("native");
        make_folder(&folder).map_err(|error| unwritable("the engine's folder", &error))?;
        Ok(folder)
    }

    /// Compiles the filter, and writes it to a file unless the same bytes are
    /// there already: what an older version left is never used, and a full disk
    /// does not stop a start that has nothing to write.
    fn write_seccomp(&self) -> Result<PathBuf, Failure> {
        let program = seccomp::bpf()?;
        if program.is_empty() {
            return Err(Failure::new(
                FailureKind::Internal,
                "the seccomp filter is empty",
            ));
        }
        let name = HEXLOWER.encode(&Sha256::digest(&program)[..6]);
        let folder = self.own_folder()?;
        let path = folder.join(format!("seccomp-{name}.bpf"));
        let draft = folder.join(format!("seccomp-draft-{}", std::process::id()));
        // A whole one that is there serves also when the disk is full.
        if fs::read(&path).is_ok_and(|found| found == program) {
            return Ok(path);
        }
        let written = write_new(&draft, &program).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| unwritable("the seccomp filter", &error))?;
        Ok(path)
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?
        .write_all(bytes)
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn unwritable(what: &str, error: &io::Error) -> Failure {
    let kind = if error.kind() == io::ErrorKind::StorageFull {
        FailureKind::NoSpace
    } else {
        FailureKind::Internal
    };
    Failure::new(kind, format!("cannot write {what}")).because(error)
}

/// Looks for bubblewrap and asks what it can.
///
/// # Errors
/// `HostLacks`.
pub(super) fn find_bwrap() -> Result<Bwrap, Failure> {
    let missing = |message: &str| {
        Failure::new(FailureKind::HostLacks, message)
            .hint("`apt-get install bubblewrap`, or use `--engine docker`")
    };
    let path = BWRAP
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| missing("bubblewrap is not installed"))?;
    let ask = |option: &str| {
        Command::new(&path)
            .arg(option)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let answers = ask("--version").and_then(|version| Ok((version, ask("--help")?)));
    let (version, help) =
        answers.map_err(|error| missing("bubblewrap does not start").because(&error))?;
    let version = version.trim().trim_start_matches("bubblewrap").trim();
    if !help.contains("--as-pid-1") {
        return Err(missing("bubblewrap is too old"));
    }
    Ok(Bwrap {
        version: version.to_owned(),
        disable_userns: help.contains("--disable-userns"),
        path,
    })
}
