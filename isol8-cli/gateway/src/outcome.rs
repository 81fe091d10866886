//! What a run left: its output, and the result object that tells how it ended.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use isol8_core::egress::record::{Action, Record};
use isol8_proto::v1::{
    Accepted, Engine, Exited, NetworkAction, NetworkRequest, Runtime as WireRuntime,
    Verdict as WireVerdict,
};
use jiff::Timestamp;

use crate::{
    api::{ExecutionResult, ResourceUsage, Verdict},
    refusal::Refusal,
};

/// Signal n as an exit code is this much and n.
const SIGNAL_BASE: i32 = 128;
const KILLED: i32 = SIGNAL_BASE + 9;
/// isol8 itself failed.
const NO_CODE: i32 = 125;

/// What is held of one stream, whatever the daemon's own limit is.
const MOST_HELD_BYTES: usize = 64 << 20;

/// One of the streams of a run, as a whole.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    bytes: Vec<u8>,
    pub(crate) truncated: bool,
}

impl Collected {
    pub(crate) fn add(&mut self, bytes: &Bytes) {
        let room = MOST_HELD_BYTES - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// As text, and in base64 where it is no text.
    fn told(self) -> (String, Option<String>) {
        match String::from_utf8_lossy(&self.bytes) {
            Cow::Borrowed(text) => (text.to_owned(), None),
            Cow::Owned(text) => (text, Some(BASE64.encode(&self.bytes))),
        }
    }
}

/// How a run ended, and everything that came before except for its output.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) accepted: Accepted,
    pub(crate) exited: Exited,
    pub(crate) network: Option<Vec<Record>>,
    pub(crate) files: Option<BTreeMap<String, String>>,
    pub(crate) started: Timestamp,
}

impl Ended {
    /// The result without the output.
    ///
    /// # Errors
    /// 502 for an end that makes no sense: it is never taken for success.
    pub(crate) fn result(self) -> Result<ExecutionResult, Refusal> {
        let Self {
            accepted,
            exited,
            network,
            files,
            started,
        } = self;
        let (verdict, exit_code) = end(&exited).ok_or_else(|| {
            let message = "the daemon told an end without sense";
            Refusal::new(axum::http::StatusCode::BAD_GATEWAY, message).kind("internal")
        })?;
        let usage = exited.usage.unwrap_or_default();
        Ok(ExecutionResult {
            stdout: None,
            stdout_base64: None,
            stderr: None,
            exit_code,
            verdict,
            duration_ms: milliseconds(usage.wall_us),
            truncated: exited.stdout_truncated || exited.stderr_truncated,
            runtime: runtime(accepted.runtime()),
            timestamp: format!("{started:.3}"),
            engine: engine(accepted.engine()),
            execution_id: accepted.run_id,
            sandbox_id: accepted.sandbox_id,
            warm: accepted.warm,
            resource_usage: ResourceUsage {
                cpu_ms: milliseconds(usage.cpu_us),
                peak_memory_bytes: usage.peak_memory_bytes,
                network_bytes_in: usage.network_bytes_in,
                network_bytes_out: usage.network_bytes_out,
            },
            network_logs: network,
            files,
        })
    }

    /// The result with all of the output.
    ///
    /// # Errors
    /// As [`Ended::result`].
    pub(crate) fn with_output(
        self,
        stdout: Collected,
        stderr: Collected,
    ) -> Result<ExecutionResult, Refusal> {
        let mut result = self.result()?;
        result.truncated |= stdout.truncated || stderr.truncated;
        let (text, base64) = stdout.told();
        result.stdout = Some(text);
        result.stdout_base64 = base64;
        result.stderr = Some(stderr.told().0);
        Ok(result)
    }
}

fn end(exited: &Exited) -> Option<(Verdict, i32)> {
    Some(match exited.verdict() {
        WireVerdict::Exited => (Verdict::Exited, exited.code?),
        WireVerdict::Signalled => (Verdict::Signalled, SIGNAL_BASE + exited.signal?),
        WireVerdict::TimedOut => (Verdict::TimedOut, KILLED),
        WireVerdict::OomKilled => (Verdict::OomKilled, KILLED),
        WireVerdict::Cancelled => (Verdict::Cancelled, NO_CODE),
        WireVerdict::SandboxLost => (Verdict::SandboxLost, NO_CODE),
        WireVerdict::Unspecified => return None,
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a run of 285 years would be rounded to the microsecond"
)]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

fn runtime(runtime: WireRuntime) -> &'static str {
    match runtime {
        WireRuntime::Unspecified => "unknown",
        WireRuntime::Python => "python",
        WireRuntime::Node => "node",
        WireRuntime::Bun => "bun",
        WireRuntime::Deno => "deno",
        WireRuntime::Bash => "bash",
    }
}

pub(crate) fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::Unspecified => "unknown",
        Engine::Docker => "docker",
        Engine::Native => "native",
    }
}

/// One request of the filtered network as the log has it.
#[must_use]
pub fn record(request: NetworkRequest) -> Record {
    Record {
        action: match request.action() {
            NetworkAction::Allow => Action::Allow,
            // What a newer daemon did is not known to have been let through.
            NetworkAction::Block | NetworkAction::Unspecified => Action::Block,
        },
        timestamp_ms: request.timestamp_ms,
        method: request.method,
        host: request.host,
        port: u16::try_from(request.port).unwrap_or_default(),
        path: request.path,
        reason: request.reason,
        bytes_in: request.bytes_in,
        bytes_out: request.bytes_out,
        duration: Duration::from_micros(request.duration_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(verdict: WireVerdict, code: Option<i32>, signal: Option<i32>) -> Exited {
        Exited {
            verdict: verdict.into(),
            code,
            signal,
            ..Exited::default()
        }
    }

    #[test]
    fn every_end_has_its_code() {
        let table = [
            (
                exited(WireVerdict::Exited, Some(7), None),
                Some((Verdict::Exited, 7)),
            ),
            (exited(WireVerdict::Exited, None, None), None),
            (
                exited(WireVerdict::Signalled, None, Some(11)),
                Some((Verdict::Signalled, 139)),
            ),
            (
                exited(WireVerdict::TimedOut, None, None),
                Some((Verdict::TimedOut, 137)),
            ),
            (
                exited(WireVerdict::OomKilled, None, None),
                Some((Verdict::OomKilled, 137)),
            ),
            (
                exited(WireVerdict::Cancelled, None, None),
                Some((Verdict::Cancelled, 125)),
            ),
            (
                exited(WireVerdict::SandboxLost, None, None),
                Some((Verdict::SandboxLost, 125)),
            ),
            (exited(WireVerdict::Unspecified, Some(0), None), None),
        ];
        for (exited, expected) in table {
            assert_eq!(end(&exited), expected, "{exited:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_cut_and_said() {
        let mut collected = Collected::default();
        let piece = Bytes::from(vec![b'x'; MOST_HELD_BYTES / 2 + 1]);
        collected.add(&piece);
        assert!(!collected.truncated);
        collected.add(&piece);
        assert!(collected.truncated);
        assert_eq!(collected.bytes.len(), MOST_HELD_BYTES);
    }
}
