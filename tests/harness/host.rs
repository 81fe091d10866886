//! What the host shows of processes, from /proc.

use std::{fs, path::PathBuf, process::Command};

use rustix::process::Pid;

/// A process of the host, read at one moment.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number on the host.
    pub pid: Pid,
    /// Its arguments.
    pub argv: Vec<String>,
}

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid.as_raw_nonzero()))
    }

    /// A field of /proc/PID/status, such as `Uid`. Empty when it is gone.
    #[must_use]
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(self.file("status")).unwrap_or_default();
        let start = format!("{field}:");
        let line = status.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_default().trim().to_owned()
    }

    /// The effective uid as the host sees it.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.status("Uid").split_whitespace().nth(1)?.parse().ok()
    }

    /// Its environment. Empty when it is gone or not ours to see.
    #[must_use]
    pub fn environment(&self) -> String {
        let environ = fs::read(self.file("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).into_owned()
    }

    /// Its mounts. Empty when it is gone.
    #[must_use]
    pub fn mounts(&self) -> String {
        fs::read_to_string(self.file("mountinfo")).unwrap_or_default()
    }

    /// Number of open descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.file("fd")).map_or(0, Iterator::count)
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let shown = self.status("VmRSS");
        let number = shown.split_whitespace().next();
        number
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
            << 10
    }

    /// It has ended with all its threads, one of which may hold a socket for
    /// longer than the first. Nobody may have waited for it yet.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let threads = fs::read_dir(self.file("task")).map_or(0, Iterator::count);
        threads == 0 || threads == 1 && self.is_zombie()
    }

    /// It has ended and nobody has waited for it.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.status("State").starts_with('Z')
    }
}

/// Every process of the host.
///
/// # Panics
/// Without /proc.
#[must_use]
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let found = entries.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let pid = Pid::from_raw(pid)?;
        let argv = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let words = argv.split(|byte| *byte == 0);
        let argv = words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .filter(|word| !word.is_empty())
            .collect();
        Some(Process { pid, argv })
    });
    found.collect()
}

/// One process by its number.
#[must_use]
pub fn process(pid: Pid) -> Option<Process> {
    processes().into_iter().find(|process| process.pid == pid)
}

/// Live processes that were started as `sleep MARK`: a mark no other test uses
/// finds what a program left running, in whatever namespace it is.
#[must_use]
pub fn sleepers(mark: &str) -> Vec<Process> {
    let mut found = processes();
    found.retain(|process| {
        let [name, argument] = process.argv.as_slice() else {
            return false;
        };
        name.ends_with("sleep") && argument == mark && !process.is_zombie()
    });
    found
}

/// Runs a tool of the host and gives its standard output.
///
/// # Panics
/// When it fails.
#[must_use]
#[track_caller]
pub fn tool(name: &str, args: &[&str]) -> String {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {shown}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
