//! What a run has started, and its end.
//!
//! A program is the leader of a session and of a process group. Of its run are, at
//! the moment of looking:
//! - whoever is in that session or group, also without its parent (`sleep 60 &`);
//! - every descendant of those, also in sessions of its own (`setsid sleep 60 &`),
//!   as long as each parent up to the session lives.
//!
//! Who has made a session of its own and lost its parent (what `daemon` does, or
//! `(setsid sleep 60 &)`) is detached: it is of no run, and only `KillAll` or the
//! end of the sandbox reaches it. Neither is what earlier runs left of this one:
//! each had a session of its own, and an orphan's parent is init, which is of no
//! run.
//!
//! A run begins with `Started` and is over when `Exited` is said. Between the end
//! of its main process and that (its last output may wait for credit) what it has
//! left in the background can still be killed with it, afterwards no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::sys::{self, Pid};

/// How often the process table is looked through. Each time finds what was forked
/// during the last; one that forks faster than it is found is left to a full
/// process limit, which stops it.
const MOST_ROUNDS: usize = 64;

/// A line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

/// SIGKILL for all that the run of `leader` has started.
///
/// They are stopped before, so that none forks, and that none loses the parent by
/// which it is known.
///
/// When the leader itself is off the process table, its number stays its
/// session's as long as somebody is in that.
pub(crate) fn kill(leader: Pid) {
    let mut known = BTreeSet::new();
    signal_new(leader, &mut known, libc::SIGSTOP);
    for pid in &known {
        sys::signal_process(*pid, libc::SIGKILL);
    }
    // A fork that was under way when its process was stopped.
    signal_new(leader, &mut known, libc::SIGKILL);
}

fn signal_new(leader: Pid, known: &mut BTreeSet<i32>, signal: i32) {
    for _ in 0..MOST_ROUNDS {
        let mut new = members(leader.number(), &processes(), known);
        new.retain(|pid| !known.contains(pid));
        if new.is_empty() {
            return;
        }
        for pid in new {
            sys::signal_process(pid, signal);
            known.insert(pid);
        }
    }
}

/// The processes of a run: of the session and group, and what descends from those
/// and from the `known` ones.
fn members(leader: i32, all: &[Process], known: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in all {
        children
            .entry(process.parent)
            .or_default()
            .push(process.pid);
    }
    let of_run = |process: &&Process| {
        process.session == leader || process.group == leader || known.contains(&process.pid)
    };
    let mut found = BTreeSet::new();
    let mut look: Vec<i32> = all.iter().filter(of_run).map(|found| found.pid).collect();
    while let Some(pid) = look.pop() {
        if found.insert(pid) {
            look.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// The live processes of the sandbox but ourselves.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // It may just have ended.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if pid != 1 {
            all.extend(parse(pid, &stat));
        }
    }
    all
}

/// Reads a line of `/proc/PID/stat`. `None` for what has ended already.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    // The name of the program may hold anything, parentheses and spaces too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    let mut number = || fields.next()?.parse().ok();
    Some(Process {
        pid,
        parent: number()?,
        group: number()?,
        session: number()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_fields() {
        let stat = "7 (a) S 1 2 3 (b)) R 4 5 6 0 -1 4194304";
        let expected = Process {
            pid: 7,
            parent: 4,
            group: 5,
            session: 6,
        };
        assert_eq!(parse(7, stat), Some(expected));
        assert_eq!(parse(7, "7 (a) Z 4 5 6"), None);
        assert_eq!(parse(7, "7 (a) S 4 5"), None);
        assert_eq!(parse(7, ""), None);
    }

    #[test]
    fn a_run_is_its_session_its_group_and_their_descendants() {
        let process = |pid, parent, group, session| Process {
            pid,
            parent,
            group,
            session,
        };
        let all = [
            process(10, 1, 10, 10),
            // Lost its parent, and is of the session.
            process(11, 1, 11, 10),
            // A session of its own, and its parent is of the run.
            process(12, 11, 12, 12),
            process(13, 12, 12, 12),
            // Detached.
            process(14, 1, 14, 14),
            process(15, 14, 14, 14),
            // Of an earlier run.
            process(5, 1, 5, 4),
        ];
        let of = |known: &[i32]| members(10, &all, &known.iter().copied().collect());
        assert_eq!(of(&[]), BTreeSet::from([10, 11, 12, 13]));
        assert_eq!(of(&[14]), BTreeSet::from([10, 11, 12, 13, 14, 15]));
    }
}
