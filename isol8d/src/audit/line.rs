//! From an entry to lines of JSON. No field holds a value of the environment,
//! and every text that came from outside is masked.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use data_encoding::HEXLOWER;
use isol8_core::{
    egress::record::Record,
    failure::Failure,
    ids::{Principal, SandboxId},
    mask::Secrets,
    outcome::Verdict,
    request::{Hosts, RunLimits},
    sandbox::Network,
};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    entry::{Body, Ended, Entry, Started},
    head::Head,
};

/// What every line begins with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a, T> {
    /// When it was written.
    time: &'a str,
    event: &'static str,
    run_id: &'a str,
    #[serde(flatten)]
    body: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StartedBody<'a> {
    uid: u32,
    engine: &'static str,
    runtime: &'static str,
    image: Option<&'a str>,
    network: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<HostsBody>,
    packages: Vec<String>,
    writable: bool,
    limits: LimitsBody,
    code_bytes: usize,
    code_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

#[derive(Serialize)]
struct HostsBody {
    allow: Vec<String>,
    deny: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LimitsBody {
    timeout_ms: u64,
    memory_bytes: u64,
    cpu_millis: u32,
    pids: u32,
    sandbox_bytes: u64,
    tmp_bytes: u64,
    max_output_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndedBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    usage: UsageBody,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<HeadBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<HeadBody>,
}

#[derive(Serialize)]
struct HeadBody {
    text: String,
    /// There was more than is recorded.
    cut: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageBody {
    wall_ms: u64,
    cpu_ms: u64,
    peak_memory_bytes: u64,
    stdout_bytes: u64,
    stderr_bytes: u64,
    network_bytes_in: u64,
    network_bytes_out: u64,
}

#[derive(Serialize)]
struct FailedBody {
    uid: u32,
    kind: &'static str,
    message: String,
    causes: Vec<String>,
}

/// The lines of an entry, each with its line end.
pub(super) fn lines(entry: &Entry, now: Timestamp) -> Vec<Vec<u8>> {
    let time = format!("{now:.3}");
    let secrets = &entry.secrets;
    let begin = |event| Begin {
        time: &time,
        event,
        run_id: entry.run.as_str(),
    };
    match &entry.body {
        Body::Started(run) => vec![begin("run_started").with(started(run, secrets))],
        Body::Network(records) => {
            let line = |record| begin("network").with(masked(record, secrets));
            records.iter().map(line).collect()
        }
        Body::Ended(run) => vec![begin("run_ended").with(ended(run, secrets))],
        Body::Failed(principal, failure) => {
            vec![begin("run_failed").with(failed(*principal, failure, secrets))]
        }
    }
}

struct Begin<'a> {
    time: &'a str,
    event: &'static str,
    run_id: &'a str,
}

impl Begin<'_> {
    fn with(&self, body: impl Serialize) -> Vec<u8> {
        let line = Line {
            time: self.time,
            event: self.event,
            run_id: self.run_id,
            body,
        };
        let text = serde_json::to_string(&line).expect("text and numbers always serialise");
        let mut line = ascii(text);
        line.push('\n');
        line.into_bytes()
    }
}

/// The same JSON in ASCII: whatever a run holds, no reader can take it for the
/// end of a line or for an escape sequence of a terminal.
fn ascii(text: String) -> String {
    let plain = |c: char| c.is_ascii() && c != '\x7f';
    if text.chars().all(plain) {
        return text;
    }
    let mut line = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if plain(c) {
            line.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(line, "\\u{unit:04x}").expect("a String takes everything");
        }
    }
    line
}

fn started<'a>(run: &'a Started, secrets: &Secrets) -> StartedBody<'a> {
    let request = &run.request;
    let mask = |texts: &[String]| texts.iter().map(|text| secrets.mask_text(text)).collect();
    let hosts = |hosts: &Hosts| HostsBody {
        allow: mask(&hosts.allow),
        deny: mask(&hosts.deny),
    };
    let code = request.code.as_bytes();
    let packages = request.install.iter();
    StartedBody {
        uid: run.principal.0,
        engine: run.engine.name(),
        runtime: request.runtime.name(),
        image: request.image.as_ref().map(|image| image.as_str()),
        network: request.network.name(),
        hosts: (request.network == Network::Filtered).then(|| hosts(&request.hosts)),
        packages: packages
            .map(|package| secrets.mask_text(package.as_str()))
            .collect(),
        writable: request.writable,
        limits: limits(&request.limits),
        code_bytes: code.len(),
        code_sha256: HEXLOWER.encode(&Sha256::digest(code)),
        code: run.with_code.then(|| text(code, secrets)),
    }
}

fn limits(limits: &RunLimits) -> LimitsBody {
    LimitsBody {
        timeout_ms: millis(limits.timeout),
        memory_bytes: limits.memory.as_bytes(),
        cpu_millis: limits.cpu.as_millis(),
        pids: limits.pids.get(),
        sandbox_bytes: limits.sandbox_size.as_bytes(),
        tmp_bytes: limits.tmp_size.as_bytes(),
        max_output_bytes: limits.max_output,
    }
}

fn ended<'a>(run: &'a Ended, secrets: &Secrets) -> EndedBody<'a> {
    let (outcome, usage) = (&run.outcome, &run.outcome.usage);
    let (exit_code, signal) = match outcome.verdict {
        Verdict::Exited(code) => (Some(code), None),
        Verdict::Signalled(signal) => (None, Some(signal)),
        _ => (None, None),
    };
    let head = |head: &Head| {
        head.kept().map(|kept| HeadBody {
            text: text(&kept.bytes, secrets),
            cut: kept.cut,
        })
    };
    EndedBody {
        sandbox_id: run.sandbox.as_ref().map(SandboxId::as_str),
        verdict: outcome.verdict.name(),
        exit_code,
        signal,
        reason: outcome.reason.as_ref().map(|text| secrets.mask_text(text)),
        usage: UsageBody {
            wall_ms: millis(usage.wall),
            cpu_ms: millis(usage.cpu),
            peak_memory_bytes: usage.peak_memory_bytes,
            stdout_bytes: usage.stdout_bytes,
            stderr_bytes: usage.stderr_bytes,
            network_bytes_in: usage.network_bytes_in,
            network_bytes_out: usage.network_bytes_out,
        },
        truncated: outcome.stdout_truncated || outcome.stderr_truncated,
        stdout: head(&run.output.stdout),
        stderr: head(&run.output.stderr),
    }
}

fn failed(principal: Principal, failure: &Failure, secrets: &Secrets) -> FailedBody {
    let causes = failure.causes.iter();
    FailedBody {
        uid: principal.0,
        kind: failure.kind.name(),
        message: secrets.mask_text(&failure.message),
        causes: causes.map(|cause| secrets.mask_text(cause)).collect(),
    }
}

fn masked<'a>(record: &'a Record, secrets: &Secrets) -> Cow<'a, Record> {
    if secrets.is_empty() {
        return Cow::Borrowed(record);
    }
    let mask = |text: &String| secrets.mask_text(text);
    Cow::Owned(Record {
        method: mask(&record.method),
        host: mask(&record.host),
        path: record.path.as_ref().map(mask),
        reason: mask(&record.reason),
        ..record.clone()
    })
}

/// Bytes as text: masked first, so that what is no text cannot hide a secret.
fn text(bytes: &[u8], secrets: &Secrets) -> String {
    let mut masker = secrets.masker();
    let mut out = Vec::with_capacity(bytes.len());
    masker.push(bytes, &mut out);
    masker.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
