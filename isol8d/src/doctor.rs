//! Everything that can stop a run, each with what was found and what mends it.

use std::{path::Path, time::Duration};

use isol8_core::failure::Failure;
use isol8_engine::{Probe, ProbeStatus};
use isol8_proto::v1::{Check, CheckStatus};
use tokio::time::timeout;

use crate::{
    egress::{EgressSettings, examine},
    kit,
    paths::write_atomically,
    roster::Roster,
};

/// An engine bounds its probes; this holds if it does not.
const ENGINE_DEADLINE: Duration = Duration::from_secs(30);

/// Under this the state folder is too full to be at ease.
const LOW_SPACE_BYTES: u64 = 256 << 20;

fn check(name: &str, status: CheckStatus, found: String, fix: &str) -> Check {
    Check {
        name: name.to_owned(),
        status: status.into(),
        found,
        fix: fix.to_owned(),
    }
}

/// Looks at the daemon's own folders and files.
#[must_use]
pub fn host(runtime_dir: &Path, state_dir: &Path, config_source: &str) -> Vec<Check> {
    let init = match kit::find_init() {
        Ok(path) => check("init", CheckStatus::Ok, path.display().to_string(), ""),
        Err(failure) => check(
            "init",
            CheckStatus::Failed,
            failure.to_string(),
            "set `ISOL8_INIT` to the path of isol8-init",
        ),
    };
    vec![
        check(
            "daemon's configuration",
            CheckStatus::Ok,
            config_source.to_owned(),
            "",
        ),
        folder("runtime folder", runtime_dir, "ISOL8_SOCKET"),
        folder("state folder", state_dir, "ISOL8_STATE_DIR"),
        init,
    ]
}

fn folder(name: &str, path: &Path, variable: &str) -> Check {
    let shown = path.display();
    let elsewhere = format!("set `{variable}` to a place in a folder that you can write to");
    let probe = path.join(".doctor");
    if let Err(error) = write_atomically(&probe, b"", 0o600) {
        let found = format!("cannot write to {shown}: {error}");
        return check(name, CheckStatus::Failed, found, &elsewhere);
    }
    let _gone = std::fs::remove_file(&probe);
    match rustix::fs::statvfs(path) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{shown}, {} MiB free", free >> 20);
            if free < LOW_SPACE_BYTES {
                return check(name, CheckStatus::Warning, text, &elsewhere);
            }
            check(name, CheckStatus::Ok, text, "")
        }
        Err(error) => check(name, CheckStatus::Warning, format!("{shown}: {error}"), ""),
    }
}

/// Starts an egress process that tries what it must not be able to do.
pub async fn egress(settings: &EgressSettings, state_dir: &Path) -> Check {
    let name = "egress process";
    let held = match examine::examine(settings, state_dir).await {
        Ok(held) => held,
        Err(failure) => return from_failure(name, &failure),
    };
    let status = match (held.wrong.is_empty(), held.is_kept_from_files) {
        (false, _) => CheckStatus::Failed,
        (true, false) => CheckStatus::Warning,
        (true, true) => CheckStatus::Ok,
    };
    let fix = match status {
        CheckStatus::Warning => "use a kernel with Landlock (5.13 or later), or a daemon of root",
        _ => "",
    };
    let mut found = vec![held.confined];
    found.extend(held.wrong);
    check(name, status, found.join("; "), fix)
}

/// Lets every engine probe itself.
pub async fn engines(roster: &Roster) -> Vec<Check> {
    let mut checks = Vec::new();
    for (kind, engine) in roster.engines() {
        match timeout(ENGINE_DEADLINE, engine.doctor()).await {
            Ok(probes) => checks.extend(probes.into_iter().map(from_probe)),
            Err(_) => checks.push(check(
                kind.name(),
                CheckStatus::Failed,
                "its probes did not end in time".to_owned(),
                "",
            )),
        }
    }
    for (kind, why) in roster.absent() {
        let fix = why.hint.as_deref().unwrap_or_default();
        checks.push(check(
            kind.name(),
            CheckStatus::Failed,
            why.to_string(),
            fix,
        ));
    }
    checks
}

fn from_probe(probe: Probe) -> Check {
    let status = match probe.status {
        ProbeStatus::Ok => CheckStatus::Ok,
        ProbeStatus::Warning => CheckStatus::Warning,
        ProbeStatus::Failed => CheckStatus::Failed,
    };
    check(&probe.name, status, probe.found, &probe.fix)
}

/// A failure as a check.
#[must_use]
pub fn from_failure(name: &str, failure: &Failure) -> Check {
    let fix = failure.hint.as_deref().unwrap_or_default();
    check(name, CheckStatus::Failed, failure.to_string(), fix)
}

/// Whether nothing failed.
#[must_use]
pub fn all_well(checks: &[Check]) -> bool {
    let failed = |check: &Check| status_name(check.status()) == "failed";
    !checks.iter().any(failed)
}

/// The checks for a person, a line each, with what mends them below.
#[must_use]
pub fn to_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let status = status_name(check.status());
        text.push_str(&format!("{status:8}{}: {}\n", check.name, check.found));
        if !check.fix.is_empty() {
            text.push_str(&format!("        fix: {}\n", check.fix));
        }
    }
    text
}

/// The checks as JSON, for `isol8d doctor --json`.
#[must_use]
pub fn to_json(checks: &[Check]) -> serde_json::Value {
    let checks: Vec<_> = checks
        .iter()
        .map(|check| {
            serde_json::json!({
                "name": check.name,
                "status": status_name(check.status()),
                "found": check.found,
                "fix": check.fix,
            })
        })
        .collect();
    serde_json::json!({ "checks": checks })
}

/// The name of a status for people and JSON.
#[must_use]
pub fn status_name(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warning => "warning",
        CheckStatus::Failed | CheckStatus::Unspecified => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_fails_with_a_fix() {
        let folder = tempfile::tempdir().expect("a folder");
        let checks = host(folder.path(), &folder.path().join("missing"), "defaults");
        let by_name = |name: &str| {
            let found = checks.iter().find(|check| check.name == name);
            found.expect("it is checked")
        };
        assert_ne!(by_name("runtime folder").status(), CheckStatus::Failed);
        let state = by_name("state folder");
        assert_eq!(state.status(), CheckStatus::Failed);
        assert!(state.fix.contains("ISOL8_STATE_DIR"), "{}", state.fix);
        let json = to_json(&checks).to_string();
        assert!(json.contains(r#""status":"failed""#), "{json}");
    }
}
