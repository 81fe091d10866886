//! Looks at everything that can keep a jail from being made.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use isol8_core::{
    failure::Failure,
    ids::SandboxId,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, Limits, Network, SandboxKey, SandboxSpec},
};
use tokio::time::timeout;

use super::{NativeEngine, blocking, ground, interpreters};
use crate::{Engine, Probe, ProbeStatus, seccomp};

/// The longest wait for the jail that is made to see whether one can be made.
const TRY_DEADLINE: Duration = Duration::from_secs(5);

/// Every probe.
pub(super) async fn examine(engine: &NativeEngine) -> Vec<Probe> {
    let shared = std::sync::Arc::clone(&engine.shared);
    let looked = blocking(move || {
        let mut probes = vec![
            bwrap(),
            user_namespaces(Path::new("/proc/sys")),
            filter(),
            of_result(
                "cgroups",
                shared
                    .ground
                    .cgroups()
                    .map(|cgroups| format!("{}: memory, cpu, pids", cgroups.describe())),
            ),
        ];
        for runtime in Runtime::ALL {
            let found = shared.ground.find_interpreter(runtime);
            probes.push(interpreter(runtime, &found));
        }
        Ok(probes)
    });
    let mut probes = match looked.await {
        Ok(probes) => probes,
        Err(failure) => vec![of_result("native engine", Err(failure))],
    };
    probes.push(jail(engine, false).await);
    probes.push(jail(engine, true).await);
    probes
}

fn ok(name: &str, found: impl Into<String>) -> Probe {
    Probe {
        name: name.to_owned(),
        status: ProbeStatus::Ok,
        found: found.into(),
        fix: String::new(),
    }
}

fn of_result(name: &str, result: Result<String, Failure>) -> Probe {
    match result {
        Ok(found) => ok(name, found),
        Err(failure) => Probe {
            name: name.to_owned(),
            status: ProbeStatus::Failed,
            found: failure.to_string(),
            fix: failure.hint.unwrap_or_default(),
        },
    }
}

fn bwrap() -> Probe {
    let found = match ground::find_bwrap() {
        Ok(found) => found,
        Err(failure) => return of_result("bubblewrap", Err(failure)),
    };
    let mut text = format!("{} at {}", found.version, found.path.display());
    let setuid =
        fs::metadata(&found.path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
    if setuid {
        text.push_str(", set-uid: jails are made with more rights than they need");
        return Probe {
            status: ProbeStatus::Warning,
            fix: format!("`chmod u-s {}`", found.path.display()),
            ..ok("bubblewrap", text)
        };
    }
    ok("bubblewrap", text)
}

/// What keeps the kernel from giving user namespaces to ordinary users. The jail
/// that is made at the end shows whether it really does.
fn user_namespaces(sys: &Path) -> Probe {
    const NAME: &str = "user namespaces";
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(sys.join(name)).ok()?.trim().parse().ok()
    };
    let forbidden = [
        (
            "user/max_user_namespaces",
            0,
            "user.max_user_namespaces=10000",
        ),
        (
            "kernel/unprivileged_userns_clone",
            0,
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            1,
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (file, bad, fix) in forbidden {
        if number(file) == Some(bad) {
            // AppArmor may have a profile that lets bubblewrap through.
            let status = if bad == 1 {
                ProbeStatus::Warning
            } else {
                ProbeStatus::Failed
            };
            return Probe {
                status,
                fix: format!("`sysctl -w {fix}`"),
                ..ok(NAME, format!("{} is {bad}", file.replace('/', ".")))
            };
        }
    }
    ok(NAME, "allowed")
}

fn filter() -> Probe {
    of_result(
        "seccomp filter",
        seccomp::bpf().map(|program| format!("{} instructions", program.len() / 8)),
    )
}

fn interpreter(runtime: Runtime, found: &Result<interpreters::Installed, Failure>) -> Probe {
    match found {
        Ok(installed) => ok(runtime.name(), installed.program.display().to_string()),
        Err(failure) => Probe {
            // Runs of the others work.
            status: ProbeStatus::Warning,
            found: failure.to_string(),
            fix: interpreters::how_to_get(runtime).to_owned(),
            ..ok(runtime.name(), "")
        },
    }
}

/// Makes a real jail and removes it.
async fn jail(engine: &NativeEngine, writable: bool) -> Probe {
    let name = if writable { "writable root" } else { "jail" };
    let spec = SandboxSpec {
        id: SandboxId::random(),
        key: SandboxKey {
            engine: EngineKind::Native,
            // The one that every host has.
            runtime: Runtime::Bash,
            image: None,
            network: Network::None,
            writable,
            sandbox_size: ByteSize::mib(8),
            tmp_size: ByteSize::mib(8),
            layer: None,
        },
        limits: Limits {
            memory: ByteSize::mib(64),
            cpu: CpuMillis::ONE,
            pids: Pids::new(8).expect("8 is in range"),
        },
        lasting: false,
    };
    let before = std::time::Instant::now();
    let made = timeout(TRY_DEADLINE, engine.create(&spec)).await;
    let elapsed = before.elapsed();
    let removed = engine.destroy(&spec.id).await;
    let result = match (made, removed) {
        (Ok(Ok(_)), Ok(())) => Ok(format!("made in {:.1} ms", elapsed.as_secs_f64() * 1e3)),
        (Ok(Err(failure)), _) | (_, Err(failure)) => Err(failure),
        (Err(_), Ok(())) => Err(Failure::new(
            isol8_core::failure::FailureKind::EngineTimeout,
            format!("not made in {} s", TRY_DEADLINE.as_secs()),
        )),
    };
    let mut probe = of_result(name, result);
    if writable && probe.status == ProbeStatus::Failed {
        // Runs without `--writable` work.
        probe.status = ProbeStatus::Warning;
    }
    probe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], status: ProbeStatus, found: &str) {
        let sys = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = sys.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let probe = user_namespaces(sys.path());
        assert_eq!((probe.status, probe.found.as_str()), (status, found));
        assert_eq!(probe.fix.is_empty(), status == ProbeStatus::Ok);
    }

    #[test]
    fn what_forbids_user_namespaces_is_named() {
        let max = "user/max_user_namespaces";
        let debian = "kernel/unprivileged_userns_clone";
        let ubuntu = "kernel/apparmor_restrict_unprivileged_userns";
        check(&[], ProbeStatus::Ok, "allowed");
        check(
            &[(max, "9000\n"), (debian, "1\n")],
            ProbeStatus::Ok,
            "allowed",
        );
        check(
            &[(max, "0\n")],
            ProbeStatus::Failed,
            "user.max_user_namespaces is 0",
        );
        check(
            &[(debian, "0\n")],
            ProbeStatus::Failed,
            "kernel.unprivileged_userns_clone is 0",
        );
        check(
            &[(ubuntu, "1\n")],
            ProbeStatus::Warning,
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        );
    }
}
