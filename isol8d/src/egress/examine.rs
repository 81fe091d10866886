//! Whether an egress process can be started, and what holds it.

use std::{path::Path, process::Stdio, time::Duration};

use isol8_core::failure::{Failure, FailureKind};
use tokio::time::timeout;

use super::{EgressSettings, process};

/// It takes some milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a process that examined itself found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How it is confined, for a person.
    pub confined: String,
    /// Files are out of its reach: by Landlock, or because they belong to
    /// somebody else.
    pub is_kept_from_files: bool,
    /// What it could do all the same.
    pub wrong: Vec<String>,
}

/// Starts a process that confines itself, tries what it must not be able to do
/// and ends.
///
/// # Errors
/// `EgressUnavailable` when it cannot be started or confined.
pub async fn examine(settings: &EgressSettings, state_dir: &Path) -> Result<Held, Failure> {
    let failed = || {
        let message = "the process that filters the network cannot be started";
        Failure::new(FailureKind::EgressUnavailable, message)
    };
    let uid = process::lease()?;
    let mut command = process::command(&settings.program, uid.as_ref());
    command.arg("--self-check").arg("--hidden").arg(state_dir);
    command.stdout(Stdio::piped());
    let output = match timeout(DEADLINE, command.output()).await {
        Ok(output) => output.map_err(|error| failed().because(&error))?,
        Err(_) => return Err(failed().cause("it did not end in time")),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed().cause(said.trim().replace('\n', "; ")));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines = said.lines().map(str::to_owned);
    let confined = lines
        .next()
        .ok_or_else(|| failed().cause("it found nothing"))?;
    Ok(Held {
        is_kept_from_files: uid.is_some() || !confined.ends_with("no landlock"),
        wrong: lines.collect(),
        confined,
    })
}
