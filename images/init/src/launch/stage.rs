//! The folder tree that bubblewrap makes the jail of.
//!
//! It is built on a tmpfs that only this mount namespace has, below an empty
//! folder of the daemon, and then moved to [`STAGE`].

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{chdir, geteuid},
};

use super::{
    STAGE, Trouble,
    plan::{Plan, Spot, Step, TmpfsOptions},
};

/// The stage itself holds folders, links and mount points only.
const STAGE_OPTIONS: &str = "size=256k,nr_inodes=512,mode=0755";
/// `copy` is for a handful of small files.
const MAX_COPY_DEPTH: usize = 8;

const NONE: Option<&Path> = None;

/// Builds the whole stage and moves it to [`STAGE`].
pub(super) fn build(plan: &Plan) -> Result<(), Trouble> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("isol8"),
        &plan.stage,
        Some("tmpfs"),
        flags,
        Some(STAGE_OPTIONS),
    )
    .map_err(|errno| Trouble::new(format!("cannot mount {}", plan.stage.display()), errno))?;
    // Every place is relative to here: no part of it can be led elsewhere.
    chdir(&plan.stage).map_err(|errno| Trouble::new("cannot enter the stage", errno))?;
    let builder = Builder {
        // Unprivileged: what is made belongs to the right uid already.
        owner: plan.uid,
        uid: plan.uid.unwrap_or_else(|| geteuid().as_raw()),
    };
    for step in &plan.steps {
        builder
            .take(step)
            .map_err(|why| Trouble::new(format!("cannot stage {step:?}"), why))?;
    }
    chdir("/").map_err(|errno| Trouble::new("cannot leave the stage", errno))?;
    mount(Some(&plan.stage), STAGE, NONE, MsFlags::MS_MOVE, NONE)
        .map_err(|errno| Trouble::new(format!("cannot move the stage to {STAGE}"), errno))
}

struct Builder {
    owner: Option<u32>,
    uid: u32,
}

impl Builder {
    fn take(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Dir(at) => make_dir(&at.0),
            Step::Own(at) => {
                make_dir(&at.0)?;
                self.own(&at.0)
            }
            Step::File(at) => make_file(&at.0),
            Step::Link { target, at } => {
                make_parent(&at.0)?;
                symlink(target, &at.0)
            }
            Step::Bind { from, at } => bind(from, at),
            Step::Copy { from, at } => {
                make_parent(&at.0)?;
                self.copy(from, &at.0, MAX_COPY_DEPTH)
            }
            Step::Tmpfs { options, at } => self.tmpfs(options, at),
            Step::Merge { lower, at } => merge(lower, at),
            Step::Overlay {
                lower,
                upper,
                work,
                at,
            } => self.overlay(lower, [upper, work, at]),
        }
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some(uid) => chown(path, Some(uid), Some(uid)),
            None => Ok(()),
        }
    }

    fn tmpfs(&self, options: &TmpfsOptions, at: &Spot) -> io::Result<()> {
        make_dir(&at.0)?;
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if !options.exec {
            flags |= MsFlags::MS_NOEXEC;
        }
        let data = format!(
            "size={},nr_inodes={},mode={:o},uid={uid}{gid}",
            options.size_bytes,
            options.inodes,
            options.mode,
            uid = self.uid,
            // Unprivileged, the caller's gid is the one that is mapped.
            gid = self
                .owner
                .map_or(String::new(), |gid| format!(",gid={gid}")),
        );
        mount(
            Some("tmpfs"),
            &at.0,
            Some("tmpfs"),
            flags,
            Some(data.as_str()),
        )?;
        Ok(())
    }

    fn overlay(&self, lower: &[PathBuf], [upper, work, at]: [&Spot; 3]) -> io::Result<()> {
        for spot in [upper, work, at] {
            make_dir(&spot.0)?;
        }
        let data = format!(
            "{},upperdir={},workdir={}{}",
            lower_option(lower)?,
            as_option(&upper.0)?,
            as_option(&work.0)?,
            // The kernel keeps its notes where an unprivileged mounter may.
            if self.owner.is_none() {
                ",userxattr"
            } else {
                ""
            },
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount_overlay(at, flags, &data)
    }

    fn copy(&self, from: &Path, to: &Path, depth: usize) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        if meta.is_symlink() {
            return symlink(fs::read_link(from)?, to);
        }
        if meta.is_file() {
            fs::copy(from, to)?;
            return self.own(to);
        }
        if !meta.is_dir() || depth == 0 {
            return Err(io::Error::other("neither a file, a link nor a flat folder"));
        }
        make_dir(to)?;
        self.own(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.copy(&entry.path(), &to.join(entry.file_name()), depth - 1)?;
        }
        Ok(())
    }
}

/// Without an upper folder there is nothing that could be written to.
fn merge(lower: &[PathBuf], at: &Spot) -> io::Result<()> {
    make_dir(&at.0)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_overlay(at, flags, &lower_option(lower)?)
}

fn mount_overlay(at: &Spot, flags: MsFlags, data: &str) -> io::Result<()> {
    mount(Some("overlay"), &at.0, Some("overlay"), flags, Some(data))?;
    Ok(())
}

fn lower_option(lower: &[PathBuf]) -> io::Result<String> {
    let parts: io::Result<Vec<&str>> = lower.iter().map(|path| as_option(path)).collect();
    Ok(format!("lowerdir={}", parts?.join(":")))
}

/// A path as a part of the options of a mount, which have no way to quote.
fn as_option(path: &Path) -> io::Result<&str> {
    let text = path
        .to_str()
        .filter(|text| !text.contains([',', ':', '\\']));
    text.ok_or_else(|| io::Error::other("a path that no mount option can hold"))
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    Ok(())
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => make_dir(parent),
        _ => Ok(()),
    }
}

fn make_file(path: &Path) -> io::Result<()> {
    make_parent(path)?;
    if !path.exists() {
        fs::File::create_new(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
    }
    Ok(())
}

/// Binds a file or folder of the host read-only. A bind that stays writable does
/// not exist here.
fn bind(from: &Path, at: &Spot) -> io::Result<()> {
    // The place is resolved once: what is mounted is what was looked at.
    let from: PathBuf = fs::canonicalize(from)?;
    if fs::metadata(&from)?.is_dir() {
        make_dir(&at.0)?;
    } else {
        make_file(&at.0)?;
    }
    mount(
        Some(&from),
        &at.0,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )?;
    let flags = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | kept(statvfs(&at.0)?.flags());
    mount(NONE, &at.0, NONE, flags, NONE)?;
    Ok(())
}

/// The flags that a mount from outside the user namespace must keep.
fn kept(flags: FsFlags) -> MsFlags {
    let pairs = [
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    pairs
        .into_iter()
        .filter(|(of_fs, _)| flags.contains(*of_fs))
        .fold(MsFlags::empty(), |all, (_, flag)| all | flag)
}
