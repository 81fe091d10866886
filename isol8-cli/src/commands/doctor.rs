//! `isol8 doctor`: our own checks, then the daemon's. Where no daemon answers,
//! `isol8d doctor` makes them in a process of its own.

use std::process::{Command, Stdio};

use anstyle::{AnsiColor, Style};
use isol8_core::failure::Failure;
use isol8_proto::v1::{
    Check as WireCheck, CheckStatus, DoctorRequest, admin_service_client::AdminServiceClient,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{answer, answer_json, status};
use crate::{
    connect::{self, ANSWER_TIMEOUT, Link, silent, unwanted},
    console::{Console, printable},
    exit::Exit,
    paths::Paths,
    settings,
};

const OK: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const FAIL: Style = AnsiColor::Red.on_default().bold();

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    Warning,
    Failed,
}

/// One check, as `--json` prints it and `isol8d doctor --json` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Check {
    name: String,
    status: Mark,
    found: String,
    #[serde(default)]
    fix: String,
}

#[derive(Deserialize)]
struct Report {
    checks: Vec<Check>,
}

impl Check {
    fn new(name: &str, status: Mark, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status,
            found: found.into(),
            fix: String::new(),
        }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn failed(name: &str, failure: &Failure) -> Self {
        Self::new(name, Mark::Failed, failure.to_string())
            .fix(failure.hint.clone().unwrap_or_default())
    }
}

impl From<WireCheck> for Check {
    fn from(check: WireCheck) -> Self {
        let status = match check.status() {
            CheckStatus::Ok => Mark::Ok,
            CheckStatus::Warning => Mark::Warning,
            // What we do not know is nothing to rely on.
            CheckStatus::Failed | CheckStatus::Unspecified => Mark::Failed,
        };
        Self {
            name: check.name,
            status,
            found: check.found,
            fix: check.fix,
        }
    }
}

/// Prints every check. The exit code is 1 if one failed.
pub(super) async fn doctor(json: bool, paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let mut checks = vec![Check::new(
        "isol8",
        Mark::Ok,
        format!("version {}", env!("CARGO_PKG_VERSION")),
    )];
    checks.push(configuration());
    checks.push(executable(paths));
    match connect::dial(paths, console).await {
        Err(failure) => checks.push(Check::failed("daemon", &failure)),
        Ok(None) => {
            let found = "not running; the first run starts it";
            checks.push(Check::new("daemon", Mark::Ok, found));
            checks.extend(on_its_own(paths, console));
        }
        Ok(Some(link)) => match ask(&link).await {
            Ok(answered) => checks.extend(answered),
            Err(failure) => checks.push(Check::failed("daemon", &failure)),
        },
    }
    let printed = match json {
        true => answer_json(&serde_json::json!({ "checks": checks }))?,
        false => answer(&render(&checks))?,
    };
    let failed = checks.iter().any(|check| check.status == Mark::Failed);
    Ok(if failed { Exit::Unwell } else { printed })
}

fn configuration() -> Check {
    match settings::load() {
        Ok(resolved) => {
            let found = match resolved.file {
                Some(path) => path.display().to_string(),
                None => "no file, the defaults".to_owned(),
            };
            Check::new("configuration", Mark::Ok, found)
        }
        Err(failure) => Check::failed("configuration", &failure),
    }
}

fn executable(paths: &Paths) -> Check {
    match paths.daemon() {
        Ok(path) => Check::new("isol8d", Mark::Ok, path.display().to_string()),
        Err(failure) => Check::failed("isol8d", &failure),
    }
}

async fn ask(link: &Link) -> Result<Vec<Check>, Failure> {
    let status = status::ask(link).await?;
    let found = format!(
        "version {}, pid {}, socket {}",
        status.version,
        status.pid,
        link.socket.display()
    );
    let daemon = match status::version_warning(&status.version) {
        None => Check::new("daemon", Mark::Ok, found),
        Some(warning) => Check::new("daemon", Mark::Warning, warning).fix("isol8 daemon stop"),
    };
    let mut client = AdminServiceClient::new(link.channel.clone());
    let answer = timeout(ANSWER_TIMEOUT, client.doctor(DoctorRequest {})).await;
    let answer = answer.map_err(|_| silent(link))?;
    let checks = answer
        .map_err(|status| unwanted(&status))?
        .into_inner()
        .checks;
    let mut all = vec![daemon];
    all.extend(checks.into_iter().map(Check::from));
    Ok(all)
}

/// The daemon's checks without a daemon.
fn on_its_own(paths: &Paths, console: &Console) -> Vec<Check> {
    let Ok(daemon) = paths.daemon() else {
        return Vec::new();
    };
    console.debug(format_args!("running {} doctor --json", daemon.display()));
    let output = Command::new(&daemon)
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .output();
    let wrong = |why: String| {
        vec![
            Check::new("isol8d doctor", Mark::Failed, why)
                .fix(format!("{} doctor", daemon.display())),
        ]
    };
    let output = match output {
        Ok(output) => output,
        Err(error) => return wrong(error.to_string()),
    };
    match serde_json::from_slice::<Report>(&output.stdout) {
        Ok(report) => report.checks,
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("it said nothing");
            wrong(format!("it ended with {}: {said}", output.status))
        }
    }
}

fn render(checks: &[Check]) -> Vec<u8> {
    let width = checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for check in checks {
        let (style, mark) = match check.status {
            Mark::Ok => (OK, "ok  "),
            Mark::Warning => (WARN, "warn"),
            Mark::Failed => (FAIL, "FAIL"),
        };
        let found = printable(&check.found);
        text += &format!("{style}{mark}{style:#}  {:width$}  {found}\n", check.name);
        if !check.fix.is_empty() {
            text += &format!("      {:width$}  fix: {}\n", "", printable(&check.fix));
        }
    }
    let plain = anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
    match plain {
        true => anstream::adapter::strip_str(&text).to_string().into_bytes(),
        false => text.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_report_is_understood() {
        let text = r#"{"checks":[
            {"name":"bwrap","status":"ok","found":"0.8.0"},
            {"name":"docker","status":"warning","found":"no answer","fix":"start it"},
            {"name":"init","status":"failed","found":"missing","fix":"install it"}]}"#;
        let report: Report = serde_json::from_str(text).expect("it is valid");
        let marks: Vec<_> = report.checks.iter().map(|check| check.status).collect();
        assert_eq!(marks, [Mark::Ok, Mark::Warning, Mark::Failed]);
    }

    #[test]
    fn a_status_that_we_do_not_know_is_a_failure() {
        let check = WireCheck {
            name: "x".to_owned(),
            status: 77,
            ..WireCheck::default()
        };
        assert_eq!(Check::from(check).status, Mark::Failed);
    }
}
