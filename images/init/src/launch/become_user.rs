//! Namespaces of the launcher, and the way down from root.

use std::{fs, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, getegid, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid},
};

use super::Trouble;

/// Leaves the host's mount namespace. Without a uid to become there is no root
/// to mount things, so a user namespace comes with it: the caller keeps its uid.
pub(super) fn enter_namespaces(uid: Option<u32>) -> Result<(), Trouble> {
    let mut flags = CloneFlags::CLONE_NEWNS;
    let (own_uid, own_gid) = (geteuid(), getegid());
    if uid.is_none() {
        if own_uid.is_root() {
            return Err(Trouble::new("cannot make a jail", "root without --uid"));
        }
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| Trouble::new("cannot make the namespaces", errno))?;
    if uid.is_none() {
        // In this order: a gid map is refused while groups can be dropped.
        map("setgroups", "deny")?;
        map("uid_map", &format!("{own_uid} {own_uid} 1"))?;
        map("gid_map", &format!("{own_gid} {own_gid} 1"))?;
    }
    // Nothing that happens on either side is seen on the other.
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| Trouble::new("cannot make the mounts private", errno))
}

fn map(file: &str, line: &str) -> Result<(), Trouble> {
    let path = Path::new("/proc/self").join(file);
    fs::write(&path, line)
        .map_err(|error| Trouble::new(format!("cannot write {}", path.display()), error))
}

/// Becomes the sandbox's uid for good. Capabilities go with it: the kernel drops
/// them when the last of the three uids leaves 0.
pub(super) fn drop_to(id: u32) -> Result<(), Trouble> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let refused = |what: &'static str| move |errno| Trouble::new(what, errno);
    setgroups(&[]).map_err(refused("cannot drop the groups"))?;
    setresgid(gid, gid, gid).map_err(refused("cannot become the sandbox's gid"))?;
    setresuid(uid, uid, uid).map_err(refused("cannot become the sandbox's uid"))?;
    // Not to be believed without looking: all that follows rests on it.
    let users = getresuid().map_err(refused("cannot see the uids"))?;
    let groups = getresgid().map_err(refused("cannot see the gids"))?;
    let all = [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3]
        && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err();
    if all {
        Ok(())
    } else {
        Err(Trouble::new("cannot drop root", "it came back"))
    }
}
