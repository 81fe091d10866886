//! Everything about an engine that can stop a run. Versions are shown; what
//! counts is what it does: the last probe makes a real sandbox.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};
use isol8_core::{
    failure::Failure,
    ids::SandboxId,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
};
use tokio::time::Instant;

use super::{
    DockerEngine, Inner, build::Standing, client::ASK, describe, image, is_new_enough, product,
};
use crate::{Engine, Probe, ProbeStatus};

fn probe(name: &str, status: ProbeStatus, found: impl Into<String>, fix: &str) -> Probe {
    let fix = if status == ProbeStatus::Ok { "" } else { fix };
    Probe {
        name: format!("docker {name}"),
        status,
        found: found.into(),
        fix: fix.into(),
    }
}

fn failed(name: &str, failure: Failure) -> Probe {
    let found = failure.to_string();
    let fix = failure.hint.unwrap_or_default();
    probe(name, ProbeStatus::Failed, found, &fix)
}

impl DockerEngine {
    /// Probes in order; without an engine there is only the first.
    pub(super) async fn examine(&self) -> Vec<Probe> {
        let inner = &self.0;
        let version = inner
            .client
            .ask("ask for its version", ASK, |docker| async move {
                docker.version().await
            });
        let info = inner
            .client
            .ask("ask for its facts", ASK, |docker| async move {
                docker.info().await
            });
        let (version, info) = match tokio::join!(version, info) {
            (Ok(version), Ok(info)) => (version, info),
            (Err(asked), _) | (_, Err(asked)) => return vec![failed("engine", asked.into())],
        };
        let mut probes = vec![
            inner.engine(&version),
            cgroups(&info),
            seccomp(&info),
            storage(&info),
            inner.runtime(&info, &version),
            inner.base_image().await,
        ];
        for runtime in Runtime::ALL {
            probes.push(inner.image(runtime).await);
        }
        probes.push(self.sandbox().await);
        probes
    }

    /// A real one, with every bound and filter, and away again.
    async fn sandbox(&self) -> Probe {
        const NAME: &str = "sandbox";
        let mut present = None;
        for runtime in [
            Runtime::Bash,
            Runtime::Python,
            Runtime::Node,
            Runtime::Bun,
            Runtime::Deno,
        ] {
            let standing = self.0.standing(runtime).await;
            if matches!(standing, Ok(Standing::Current(_) | Standing::Stale(_))) {
                present = Some(runtime);
                break;
            }
        }
        let Some(runtime) = present else {
            let found = "not tried: there is no image to make one of";
            return probe(NAME, ProbeStatus::Warning, found, "isol8 setup");
        };
        let spec = SandboxSpec {
            id: SandboxId::random(),
            key: SandboxKey {
                engine: EngineKind::Docker,
                runtime,
                image: None,
                network: Network::None,
                writable: false,
                sandbox_size: ByteSize::mib(16),
                tmp_size: ByteSize::mib(16),
                layer: None,
            },
            limits: Limits {
                memory: ByteSize::mib(128),
                cpu: CpuMillis::ONE,
                pids: Pids::new(32).expect("32 is a number of processes"),
            },
            lasting: false,
        };
        let began = Instant::now();
        let made = self.create(&spec).await;
        let up = began.elapsed();
        let removed = self.destroy(&spec.id).await;
        match (made, removed) {
            (Ok(_), Ok(())) => probe(
                NAME,
                ProbeStatus::Ok,
                format!(
                    "one of {runtime} was up in {} ms and gone after {} ms",
                    up.as_millis(),
                    began.elapsed().as_millis()
                ),
                "",
            ),
            (Err(failure), _) | (Ok(_), Err(failure)) => failed(NAME, failure),
        }
    }
}

impl Inner {
    fn engine(&self, version: &SystemVersion) -> Probe {
        let socket = self.client.socket().unwrap_or_default();
        let found = format!("{} at `{}`", describe(version), socket.display());
        if !is_new_enough(version) {
            let fix = "install an engine with API 1.41 or newer: `sudo apt install docker.io`";
            return probe("engine", ProbeStatus::Failed, found, fix);
        }
        if product(version).starts_with("Podman") {
            let found = format!("{found}; not every limit works there");
            let fix = "set `docker.host` to the socket of a Docker engine";
            return probe("engine", ProbeStatus::Warning, found, fix);
        }
        probe("engine", ProbeStatus::Ok, found, "")
    }

    fn runtime(&self, info: &SystemInfo, version: &SystemVersion) -> Probe {
        let fallback = info.default_runtime.clone().unwrap_or_default();
        let used = self.settings.runtime.as_deref().unwrap_or(&fallback);
        let known = info.runtimes.as_ref();
        // What the engine uses by itself it has, whether or not it is listed.
        let chosen = self.settings.runtime.as_deref();
        let there = chosen.is_none_or(|used| known.is_none_or(|known| known.contains_key(used)));
        let components = version.components.iter().flatten();
        let details: Vec<String> = components
            .filter(|component| component.name == used || component.name == "containerd")
            .map(|component| format!("{} {}", component.name, component.version))
            .collect();
        if there {
            let found = format!("{used} ({})", details.join(", "));
            probe("runtime", ProbeStatus::Ok, found, "")
        } else {
            let found = format!("the engine has no runtime `{used}`");
            let fix = "install it and add it to /etc/docker/daemon.json, or remove \
                       `docker.runtime` from the config";
            probe("runtime", ProbeStatus::Failed, found, fix)
        }
    }

    async fn base_image(&self) -> Probe {
        const NAME: &str = "base image";
        let base = &self.settings.base_image;
        match image::inspect(&self.client, base).await {
            Ok(_) => probe(NAME, ProbeStatus::Ok, format!("`{base}` is there"), ""),
            Err(asked) if asked.is_missing() => probe(
                NAME,
                ProbeStatus::Warning,
                format!("`{base}` is not there; the next build pulls it"),
                &format!("docker pull {base}"),
            ),
            Err(asked) => failed(NAME, asked.into()),
        }
    }

    async fn image(&self, runtime: Runtime) -> Probe {
        let name = format!("image {runtime}");
        let size = |bytes: u64| bytes / 1_000_000;
        match self.standing(runtime).await {
            Ok(Standing::Current(image)) => {
                let found = format!("`{}`, {} MB", image.tag, size(image.size_bytes));
                probe(&name, ProbeStatus::Ok, found, "")
            }
            Ok(Standing::Stale(image)) => probe(
                &name,
                ProbeStatus::Warning,
                format!("`{}` was made from other inputs than today's", image.tag),
                "isol8 setup",
            ),
            Ok(Standing::Absent) => probe(
                &name,
                ProbeStatus::Warning,
                "not there; the first run builds it",
                "isol8 setup",
            ),
            Err(failure) => failed(&name, failure),
        }
    }
}

fn cgroups(info: &SystemInfo) -> Probe {
    let version = match info.cgroup_version {
        Some(SystemInfoCgroupVersionEnum::_2) => "v2",
        _ => "v1",
    };
    let driver = info.cgroup_driver.map(|driver| driver.to_string());
    let found = format!("{version}, driver {}", driver.unwrap_or_default());
    let lacking: Vec<&str> = [
        ("memory", info.memory_limit),
        ("cpu", info.cpu_cfs_quota),
        ("pids", info.pids_limit),
    ]
    .into_iter()
    .filter(|(_, there)| *there == Some(false))
    .map(|(name, _)| name)
    .collect();
    if !lacking.is_empty() {
        let found = format!("{found}; no limits for {}", lacking.join(", "));
        let fix = "delegate these controllers to the engine (cgroup v2 with systemd does), \
                   or enable them on the kernel's command line";
        return probe("cgroups", ProbeStatus::Failed, found, fix);
    }
    if info.swap_limit == Some(false) {
        let found = format!("{found}; swap cannot be limited");
        let fix = "boot with `swapaccount=1`, or run `sudo swapoff -a`";
        return probe("cgroups", ProbeStatus::Warning, found, fix);
    }
    probe("cgroups", ProbeStatus::Ok, found, "")
}

fn seccomp(info: &SystemInfo) -> Probe {
    let mut options = info.security_options.iter().flatten();
    if options.any(|option| option.starts_with("name=seccomp")) {
        probe(
            "seccomp",
            ProbeStatus::Ok,
            "the engine filters system calls",
            "",
        )
    } else {
        let found = "the engine cannot filter system calls, and no sandbox is made without";
        let fix = "use an engine and a kernel with seccomp (CONFIG_SECCOMP_FILTER)";
        probe("seccomp", ProbeStatus::Failed, found, fix)
    }
}

fn storage(info: &SystemInfo) -> Probe {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    if driver == "vfs" {
        let found = "vfs: it copies the whole image for every sandbox";
        let fix = "set `storage-driver` to overlay2 in /etc/docker/daemon.json";
        probe("storage", ProbeStatus::Warning, found, fix)
    } else {
        probe("storage", ProbeStatus::Ok, driver, "")
    }
}
