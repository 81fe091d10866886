//! Takes over a lasting jail whose init has no stream: of an earlier process of
//! this daemon, or of this one.
//!
//! Programs run in it and may dial as well. Its init alone is in the jail's group,
//! under its uid, and the first process of a namespace directly below ours.

use std::{fs, io, sync::Arc, time::Duration};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    sandbox::Network,
};
use tokio::time::sleep;

use super::{
    NativeEngine, blocking,
    cgroup::Cgroups,
    live::{Adopting, Live, Shared, no_such},
};
use crate::{
    Adoption, Sandbox,
    meet::{Meeting, Peer},
};

/// The longest wait for init to dial. It calls once a second at least.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a jail is looked at that does not dial.
const LOOK: Duration = Duration::from_millis(100);

/// A jail that lives, and the socket that its init is to dial.
struct Awaited {
    meeting: Meeting,
    live: Arc<Live>,
    /// This process did not know of it.
    new: bool,
    _adopting: Adopting,
}

impl NativeEngine {
    pub(super) async fn take_over(&self, adoption: &Adoption) -> Result<Sandbox, Failure> {
        let id = &adoption.spec.id;
        let awaited = {
            let (shared, id, uid) = (Arc::clone(&self.shared), id.clone(), adoption.uid);
            let runtime = tokio::runtime::Handle::current();
            blocking(move || {
                let _inside = runtime.enter();
                shared.await_again(&id, uid)
            })
        };
        let Awaited {
            meeting,
            live,
            new,
            _adopting,
        } = awaited.await?;
        let cgroups = self.shared.ground.cgroups()?;
        let filtered = adoption.spec.key.network == Network::Filtered;
        let is_init = |peer: &Peer| {
            peer.uid == adoption.uid && cgroups.holds(id, peer.pid) && is_first_inside(peer.pid)
        };
        let met = tokio::select! {
            met = meeting.accept(DIAL_DEADLINE, filtered, is_init) => met,
            failure = ended(cgroups, id) => Err(failure),
        };
        if new
            && met
                .as_ref()
                .is_err_and(|why| why.kind == FailureKind::NotFound)
        {
            self.shared.forget(id, &live);
        }
        let met = met?;
        Ok(Sandbox {
            id: id.clone(),
            link: met.link,
            interpreter: adoption.interpreter.clone(),
            listener: met.listener,
            uid: adoption.uid,
        })
    }
}

impl Shared {
    /// Opens the socket of a jail in which something lives. Blocks.
    fn await_again(&self, id: &SandboxId, uid: u32) -> Result<Awaited, Failure> {
        let cgroups = self.ground.cgroups()?;
        let alive = cgroups.is_alive(id).map_err(|error| unseen(id, &error))?;
        if !alive {
            return Err(no_such(id));
        }
        let (live, new) = self.note_again(id, uid);
        if live.is_doomed() {
            return Err(no_such(id));
        }
        if live.uid() != uid {
            let message = format!("sandbox `{id}` has the uid {}, not {uid}", live.uid());
            return Err(Failure::new(FailureKind::Internal, message));
        }
        let adopting = live.begin_adoption().ok_or_else(|| {
            let message = format!("somebody is taking over sandbox `{id}` already");
            Failure::new(FailureKind::Internal, message)
        })?;
        let meeting = Meeting::reopen(&self.ground.place().runtime_dir, id)?;
        Ok(Awaited {
            meeting,
            live,
            new,
            _adopting: adopting,
        })
    }
}

fn unseen(id: &SandboxId, error: &io::Error) -> Failure {
    let message = format!("cannot see whether sandbox `{id}` lives");
    Failure::new(FailureKind::Internal, message).because(error)
}

/// Ends when nothing lives in a sandbox, or nobody can tell. Cancel safe.
async fn ended(cgroups: &Cgroups, id: &SandboxId) -> Failure {
    loop {
        sleep(LOOK).await;
        match cgroups.is_alive(id) {
            Ok(true) => {}
            Ok(false) => return no_such(id),
            Err(error) => return unseen(id, &error),
        }
    }
}

/// Whether a process is PID 1 of a pid namespace that was made in ours.
fn is_first_inside(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| is_first(&status, pid))
}

/// The numbers of a process, from our namespace down to its own.
fn is_first(status: &str, pid: i32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    numbers == [pid.to_string().as_str(), "1"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_process_of_the_jail_itself_is_its_init() {
        let check = |line: &str, expected| {
            let status = format!("Name:\tx\nPid:\t42\n{line}\nNSsid:\t0\n");
            assert_eq!(is_first(&status, 42), expected, "{line}");
        };
        check("NSpid:\t42\t1", true);
        check("NSpid:\t42\t2", false);
        check("NSpid:\t42", false);
        // It made a namespace of its own in there.
        check("NSpid:\t42\t7\t1", false);
        check("NSpid:\t7\t1", false);
        check("NSpid:", false);
        check("", false);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_first_inside(own), "this test has no namespace");
        assert!(!is_first_inside(-1));
    }
}
