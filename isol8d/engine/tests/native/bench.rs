//! What a test stands on: a daemon's folders and its engine.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isol8_core::{
    ids::{DaemonId, SandboxId},
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
};
use isol8_engine::{Engine, Place, native::NativeEngine};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon's folders and its engine.
pub(crate) struct Bench {
    pub(crate) engine: NativeEngine,
    pub(crate) place: Place,
    pub(crate) _folder: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = place_in(folder.path());
        fs::copy(init_binary(), place.kit.join("init")).unwrap();
        Self {
            engine: NativeEngine::new(place.clone()).unwrap(),
            place,
            _folder: Some(folder),
        }
    }

    /// With a kit that can park.
    pub(crate) fn with_hooks() -> Self {
        let bench = Self::new();
        crate::shared::add_hooks(&bench.place.kit);
        bench
    }

    /// As a daemon that starts again on what the last one left.
    pub(crate) fn restarted(&self) -> Self {
        Self {
            engine: NativeEngine::new(self.place.clone()).unwrap(),
            place: self.place.clone(),
            _folder: None,
        }
    }

    /// As the next daemon in folders that another process has left.
    pub(crate) fn in_place_of(folder: tempfile::TempDir, daemon: DaemonId) -> Self {
        let place = Place {
            daemon,
            ..named_in(folder.path())
        };
        Self {
            engine: NativeEngine::new(place.clone()).unwrap(),
            place,
            _folder: Some(folder),
        }
    }

    pub(crate) async fn own(&self) -> Vec<SandboxId> {
        let found = self.engine.list().await.unwrap();
        let own = found
            .into_iter()
            .filter(|found| found.daemon == self.place.daemon);
        own.map(|found| found.id).collect()
    }

    /// Groups, folders, mounts and processes.
    pub(crate) async fn nothing_is_left(&self) {
        assert_eq!(self.own().await, [], "cgroups stay");
        let sockets = self.place.runtime_dir.join("sb");
        let folders = fs::read_dir(sockets).map(Iterator::count).unwrap_or(0);
        assert_eq!(folders, 0, "folders stay");
        let stage = fs::read_dir(self.place.runtime_dir.join("stage")).unwrap();
        assert_eq!(stage.count(), 0, "the stage was used on the host");
        let run = self.place.runtime_dir.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(run), "mounts stay");
        assert_eq!(processes_with(run), [0_u32; 0], "processes stay");
    }
}

/// The folders of a daemon, closed to other users.
pub(crate) fn place_in(folder: &Path) -> Place {
    let place = named_in(folder);
    for path in [
        &place.runtime_dir,
        &place.state_dir,
        &place.kit,
        &place.layers,
    ] {
        fs::create_dir(path).unwrap();
    }
    place
}

fn named_in(folder: &Path) -> Place {
    Place {
        daemon: DaemonId::random(),
        runtime_dir: folder.join("run"),
        state_dir: folder.join("state"),
        kit: folder.join("kit"),
        authorities: false,
        layers: folder.join("layers"),
        orphaned: Duration::from_secs(600),
    }
}

/// Processes, dead ones too, whose command line has `text` in it.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(text) {
            found.push(pid);
        }
    }
    found
}

/// Dead children of this process that nobody buries. Other tests of this process
/// have some that are about to be.
pub(crate) async fn unburied_launchers() -> Vec<u32> {
    let own = format!(" Z {} ", std::process::id());
    let is_dead = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(&own))
    };
    let names = fs::read_dir("/proc").unwrap().flatten();
    let mut dead: Vec<u32> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_dead)
        .collect();
    let before = Instant::now();
    while !dead.is_empty() && before.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        dead.retain(is_dead);
    }
    dead
}

pub(crate) fn init_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ISOL8_INIT") {
        return path.into();
    }
    // <target>/<profile>/deps/<this test>
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let released = format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH);
    let folders = [profile.parent().unwrap().join(released), profile.to_owned()];
    let found = folders.map(|folder| folder.join("isol8-init"));
    found
        .into_iter()
        .find(|path| path.is_file())
        .expect("there is no isol8-init: `cargo build -p isol8-init`, or set ISOL8_INIT")
}

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        key: SandboxKey {
            engine: EngineKind::Native,
            runtime: Runtime::Bash,
            image: None,
            network: Network::None,
            writable: false,
            sandbox_size: ByteSize::mib(64),
            tmp_size: ByteSize::mib(32),
            layer: None,
        },
        limits: Limits {
            memory: ByteSize::mib(256),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).unwrap(),
        },
        lasting: false,
    }
}

/// The processes of a sandbox's group, whatever the version of cgroups.
pub(crate) fn members(id: &str) -> Vec<u32> {
    let is_ours = |entry: &fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        text.contains(id)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(is_ours)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
