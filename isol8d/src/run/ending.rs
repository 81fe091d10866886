//! How a run that is over is told: its outcome on the wire, or a failure without
//! secrets.

use std::time::Duration;

use isol8_core::{
    failure::Failure,
    ids::SandboxId,
    mask::Secrets,
    outcome::{Counters, Outcome, Usage, Verdict},
    request::{RunLimits, RunRequest},
};
use isol8_proto::v1;

use super::{
    Ended,
    pump::Pump,
    verdict::{Seen, judge},
};
use crate::{audit::Heads, daemon::Daemon, status::cut};

/// The end of a run that was given up before it had a sandbox.
pub(super) fn cancelled_early(daemon: &Daemon) -> Ended<'static> {
    let seen = if daemon.cancel_runs.is_cancelled() {
        Seen::Stopped
    } else {
        Seen::Cancelled
    };
    let (verdict, reason) = judge(seen, None, &RunLimits::default());
    ended_early(verdict, reason)
}

/// The end of a run whose packages were not there in time.
pub(super) fn ended_in_install(seen: Seen, limits: &RunLimits) -> Ended<'static> {
    let (verdict, reason) = judge(seen, None, limits);
    let reason = reason.map(|reason| match seen {
        Seen::Deadline => format!("{reason} while packages were installed"),
        _ => reason,
    });
    ended_early(verdict, reason)
}

/// The end of a run that never had a sandbox.
pub(super) fn ended_early(verdict: Verdict, reason: Option<String>) -> Ended<'static> {
    Ended {
        outcome: Outcome {
            verdict,
            usage: Usage::default(),
            stdout_truncated: false,
            stderr_truncated: false,
            reason,
        },
        heads: Heads::default(),
        left: None,
    }
}

pub(super) fn conclude(
    seen: Seen,
    used: Option<Counters>,
    wall: Duration,
    pump: &Pump<'_>,
    request: &RunRequest,
) -> Outcome {
    let (verdict, reason) = judge(seen, used, &request.limits);
    let rusage = pump.rusage.unwrap_or_default();
    let (cpu, peak_memory_bytes) = match used {
        // Nobody has reset the mark of an earlier run.
        Some(used) if used.peak_memory_bytes == 0 => (used.cpu, rusage.max_rss_bytes),
        Some(used) => (used.cpu, used.peak_memory_bytes),
        None => (rusage.cpu, rusage.max_rss_bytes),
    };
    Outcome {
        verdict,
        usage: Usage {
            wall,
            cpu,
            peak_memory_bytes,
            stdout_bytes: pump.stdout.written_bytes(),
            stderr_bytes: pump.stderr.written_bytes(),
            network_bytes_in: 0,
            network_bytes_out: 0,
        },
        stdout_truncated: pump.stdout.is_truncated(),
        stderr_truncated: pump.stderr.is_truncated(),
        reason,
    }
}

pub(super) fn exited(outcome: Outcome, kept: Option<&SandboxId>) -> v1::Exited {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (verdict, code, signal) = match outcome.verdict {
        Verdict::Exited(code) => (v1::Verdict::Exited, Some(code.into()), None),
        Verdict::Signalled(signal) => (v1::Verdict::Signalled, None, Some(signal)),
        Verdict::TimedOut => (v1::Verdict::TimedOut, None, None),
        Verdict::OomKilled => (v1::Verdict::OomKilled, None, None),
        Verdict::Cancelled => (v1::Verdict::Cancelled, None, None),
        Verdict::SandboxLost => (v1::Verdict::SandboxLost, None, None),
    };
    v1::Exited {
        verdict: verdict.into(),
        code,
        signal,
        usage: Some(v1::Usage {
            wall_us: micros(outcome.usage.wall),
            cpu_us: micros(outcome.usage.cpu),
            peak_memory_bytes: outcome.usage.peak_memory_bytes,
            stdout_bytes: outcome.usage.stdout_bytes,
            stderr_bytes: outcome.usage.stderr_bytes,
            network_bytes_in: outcome.usage.network_bytes_in,
            network_bytes_out: outcome.usage.network_bytes_out,
        }),
        stdout_truncated: outcome.stdout_truncated,
        stderr_truncated: outcome.stderr_truncated,
        reason: outcome.reason.unwrap_or_default(),
        kept_sandbox_id: kept.map(ToString::to_string).unwrap_or_default(),
    }
}

/// Of each text in a failure: some are what an init or an engine said.
const MOST_TEXT_BYTES: usize = 4 << 10;

/// A failure leaves the sandbox as text too: no secret may be in it, nor more
/// than a person would read. Masked before it is cut, so that no piece of a
/// secret stays.
pub(super) fn masked(failure: Failure, secrets: &Secrets) -> Failure {
    let mask = |text: &String| {
        let masked = secrets.mask_text(text);
        let kept = cut(&masked, MOST_TEXT_BYTES);
        if kept.len() == masked.len() {
            return masked;
        }
        format!("{kept}…")
    };
    Failure {
        message: mask(&failure.message),
        causes: failure.causes.iter().map(mask).collect(),
        hint: failure.hint.as_ref().map(mask),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use isol8_core::{failure::FailureKind, request::Secret};

    use super::*;

    #[test]
    fn a_failure_is_told_without_secrets_and_not_at_any_length() {
        let secrets = BTreeMap::from([("KEY".to_owned(), Secret("hunter22".to_owned()))]);
        let secrets = Secrets::new(&secrets).expect("good");
        // The secret stands where the text is cut.
        let long = "x".repeat(MOST_TEXT_BYTES - 4) + "hunter22" + &"y".repeat(1 << 20);
        let failure = Failure::new(FailureKind::Internal, "no hunter22");
        let told = masked(failure.cause(long).hint("not hunter22"), &secrets);
        assert_eq!(told.message, "no ***");
        assert_eq!(told.hint.as_deref(), Some("not ***"));
        let cause = &told.causes[0];
        assert!(cause.ends_with("x***y…"), "{}", cause.len());
        assert_eq!(cause.len(), MOST_TEXT_BYTES + "…".len());
    }
}
