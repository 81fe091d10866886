//! How a run ended. A verdict is something that happened, never a guess.

use std::time::Duration;

/// The one typed end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The main process ended by itself.
    Exited(u8),
    /// A signal ended the main process.
    Signalled(i32),
    /// The run's time was over; everything in the sandbox was killed.
    TimedOut,
    /// The memory limit killed the program.
    OomKilled,
    /// The client went away or asked for it.
    Cancelled,
    /// The sandbox vanished under the run.
    SandboxLost,
}

impl Verdict {
    /// The name in logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Signalled(_) => "signalled",
            Self::TimedOut => "timed_out",
            Self::OomKilled => "oom_killed",
            Self::Cancelled => "cancelled",
            Self::SandboxLost => "sandbox_lost",
        }
    }
}

/// What a sandbox has used since it was made, from its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// User and system time of every process.
    pub cpu: Duration,
    /// Highest memory, tmpfs included.
    pub peak_memory_bytes: u64,
    /// Memory that is held now, tmpfs included, without the pages of files that
    /// the kernel can drop.
    pub memory_bytes: u64,
    /// Memory that files in tmpfs hold now.
    pub shmem_bytes: u64,
    /// Processes that the memory limit has killed.
    pub oom_kills: u64,
}

/// What a run used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// From leaving the queue to the verdict.
    pub wall: Duration,
    /// Processor time.
    pub cpu: Duration,
    /// Highest memory.
    pub peak_memory_bytes: u64,
    /// Bytes written to stdout, before any cap.
    pub stdout_bytes: u64,
    /// Bytes written to stderr, before any cap.
    pub stderr_bytes: u64,
    /// Bytes through the filter towards the sandbox.
    pub network_bytes_in: u64,
    /// Bytes through the filter from the sandbox.
    pub network_bytes_out: u64,
}

/// Everything that is known when a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What it used.
    pub usage: Usage,
    /// Part of stdout was dropped.
    pub stdout_truncated: bool,
    /// Part of stderr was dropped.
    pub stderr_truncated: bool,
    /// One line for a person, where the verdict does not say enough.
    pub reason: Option<String>,
}
