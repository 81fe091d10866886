//! From what was seen to what is said: the verdict and its one line of reason.

use std::time::Duration;

use isol8_core::{
    outcome::{Counters, Verdict},
    quantity::ByteSize,
    request::RunLimits,
};

/// How the pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Init said that the main process ended by itself.
    Code(u8),
    /// Init said that a signal ended it.
    Signal(i32),
    /// The time was over; whatever init said afterwards is our own doing.
    Deadline,
    /// The client went.
    Cancelled,
    /// The daemon is going down.
    Stopped,
    /// The stream to init ended without a word.
    LinkLost,
    /// Init said what it may not say.
    Broken(&'static str),
}

const SIGKILL: i32 = 9;

impl Seen {
    /// Whether only the counters can tell what happened.
    pub(crate) fn needs_counters(self) -> bool {
        // After a kill of ours nobody is in a hurry, and what init knows of the
        // main process leaves its children out.
        matches!(
            self,
            Self::Signal(SIGKILL) | Self::LinkLost | Self::Deadline
        )
    }
}

/// The verdict and what a person should know beside it. `used` is what the run
/// alone used, where it is known.
pub(crate) fn judge(
    seen: Seen,
    used: Option<Counters>,
    limits: &RunLimits,
) -> (Verdict, Option<String>) {
    let oom = used.filter(|used| used.oom_kills > 0);
    match (seen, oom) {
        (Seen::Signal(SIGKILL) | Seen::LinkLost, Some(used)) => {
            (Verdict::OomKilled, Some(oom_reason(&used, limits)))
        }
        (Seen::Code(0), _) => (Verdict::Exited(0), None),
        (Seen::Code(code), _) => {
            let reason = used.and_then(|used| full_reason(&used, limits));
            (Verdict::Exited(code), reason)
        }
        (Seen::Signal(signal), _) => (Verdict::Signalled(signal), None),
        (Seen::Deadline, _) => (Verdict::TimedOut, Some(timeout_reason(limits.timeout))),
        (Seen::Cancelled, _) => (Verdict::Cancelled, None),
        (Seen::Stopped, _) => (
            Verdict::Cancelled,
            Some("the daemon was stopped".to_owned()),
        ),
        (Seen::LinkLost, None) => (
            Verdict::SandboxLost,
            Some("the sandbox went away while the program ran".to_owned()),
        ),
        (Seen::Broken(how), _) => (
            Verdict::SandboxLost,
            Some(format!("the sandbox was given up: {how}")),
        ),
    }
}

pub(crate) fn timeout_reason(timeout: Duration) -> String {
    format!("the time limit of {} ms was over", timeout.as_millis())
}

fn oom_reason(used: &Counters, limits: &RunLimits) -> String {
    let memory = limits.memory;
    // Files are worth a word when without them there would have been room.
    if used.shmem_bytes >= memory.as_bytes() / 4 {
        let files = rounded(used.shmem_bytes);
        return format!(
            "the memory limit of {memory} was reached; files in /sandbox, /tmp and /dev/shm fill memory too and hold {files} of it"
        );
    }
    format!("the memory limit of {memory} was reached")
}

/// A program that fails with a tmpfs full has most often failed because of it;
/// the line says what is known, not more.
fn full_reason(used: &Counters, limits: &RunLimits) -> Option<String> {
    let least = limits.sandbox_size.min(limits.tmp_size).as_bytes();
    let nearly = least - least / 32;
    (used.shmem_bytes >= nearly).then(|| {
        format!(
            "files hold {}; /sandbox has room for {} and /tmp for {}",
            rounded(used.shmem_bytes),
            limits.sandbox_size,
            limits.tmp_size
        )
    })
}

fn rounded(bytes: u64) -> ByteSize {
    if bytes < 1 << 20 {
        return ByteSize::bytes(bytes);
    }
    ByteSize::mib(bytes >> 20)
}

/// What was used between two readings. In a sandbox that is `shared` with earlier
/// runs, a peak that none of this run's has passed is not this run's: it is 0.
pub(crate) fn since(baseline: Option<Counters>, now: Counters, shared: bool) -> Counters {
    let before = baseline.unwrap_or_default();
    let own_peak = !shared || now.peak_memory_bytes > before.peak_memory_bytes;
    Counters {
        peak_memory_bytes: if own_peak { now.peak_memory_bytes } else { 0 },
        cpu: now.cpu.saturating_sub(before.cpu),
        oom_kills: now.oom_kills.saturating_sub(before.oom_kills),
        ..now
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(seen: Seen, used: Option<Counters>, verdict: Verdict, reason: Expect) {
        let (found, line) = judge(seen, used, &RunLimits::default());
        assert_eq!(found, verdict);
        reason.assert_eq(&line.unwrap_or_default());
    }

    fn used(oom_kills: u64, shmem_mib: u64) -> Option<Counters> {
        Some(Counters {
            oom_kills,
            shmem_bytes: shmem_mib << 20,
            ..Counters::default()
        })
    }

    #[test]
    fn a_kill_is_oom_only_when_the_kernel_counted_one() {
        let killed = Seen::Signal(9);
        check(killed, used(0, 0), Verdict::Signalled(9), expect![""]);
        check(killed, None, Verdict::Signalled(9), expect![""]);
        check(
            killed,
            used(1, 0),
            Verdict::OomKilled,
            expect!["the memory limit of 512m was reached"],
        );
        check(
            Seen::LinkLost,
            used(2, 300),
            Verdict::OomKilled,
            expect![
                "the memory limit of 512m was reached; files in /sandbox, /tmp and /dev/shm fill memory too and hold 300m of it"
            ],
        );
        // A child was killed and the program went on to its own end.
        check(Seen::Code(3), used(1, 0), Verdict::Exited(3), expect![""]);
        check(
            Seen::Signal(15),
            used(1, 0),
            Verdict::Signalled(15),
            expect![""],
        );
    }

    #[test]
    fn a_lost_sandbox_is_said_to_be_lost() {
        check(
            Seen::LinkLost,
            used(0, 0),
            Verdict::SandboxLost,
            expect!["the sandbox went away while the program ran"],
        );
        check(
            Seen::Broken("init sent more than it may"),
            used(1, 0),
            Verdict::SandboxLost,
            expect!["the sandbox was given up: init sent more than it may"],
        );
    }

    #[test]
    fn our_own_kill_is_no_signal_of_the_program() {
        check(
            Seen::Deadline,
            used(1, 0),
            Verdict::TimedOut,
            expect!["the time limit of 30000 ms was over"],
        );
        check(Seen::Cancelled, None, Verdict::Cancelled, expect![""]);
        check(
            Seen::Stopped,
            None,
            Verdict::Cancelled,
            expect!["the daemon was stopped"],
        );
    }

    #[test]
    fn a_failure_with_a_full_tmpfs_says_so() {
        check(
            Seen::Code(1),
            used(0, 256),
            Verdict::Exited(1),
            expect!["files hold 256m; /sandbox has room for 512m and /tmp for 256m"],
        );
        check(Seen::Code(0), used(0, 256), Verdict::Exited(0), expect![""]);
    }

    #[test]
    fn what_was_used_before_the_run_does_not_count() {
        let before = Counters {
            cpu: Duration::from_millis(30),
            oom_kills: 1,
            ..Counters::default()
        };
        let now = Counters {
            cpu: Duration::from_millis(50),
            oom_kills: 1,
            peak_memory_bytes: 7,
            ..Counters::default()
        };
        let used = since(Some(before), now, false);
        assert_eq!(used.cpu, Duration::from_millis(20));
        assert_eq!(used.oom_kills, 0);
        assert_eq!(used.peak_memory_bytes, 7);
    }

    #[test]
    fn the_peak_of_an_earlier_run_is_not_this_ones() {
        let peak = |peak_memory_bytes| Counters {
            peak_memory_bytes,
            ..Counters::default()
        };
        let used = |now| since(Some(peak(7)), peak(now), true).peak_memory_bytes;
        assert_eq!((used(7), used(8)), (0, 8));
    }
}
