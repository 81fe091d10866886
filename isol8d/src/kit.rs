//! The folder that every sandbox mounts read-only: init, the park hooks, and the
//! certificate authorities where the operator has added some.
//!
//! It is named by its content, written beside and renamed, so that a sandbox
//! never sees half of one and two versions never meet.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use isol8_core::failure::{Failure, FailureKind};
use sha2::{Digest, Sha256};

use crate::paths::{unusable, write_atomically};

mod authorities;

/// A file of the kit.
struct Piece<'a> {
    path: &'a str,
    content: &'a [u8],
    mode: u32,
}

/// The hooks that park an interpreter, compiled in.
const HOOKS: [(&str, &[u8]); 2] = [
    (
        "park/python/sitecustomize.py",
        include_bytes!("../../images/park/python/sitecustomize.py"),
    ),
    (
        "park/node.cjs",
        include_bytes!("../../images/park/node.cjs"),
    ),
];

/// Where a package puts init.
const PACKAGED_INIT: &str = "/usr/lib/isol8/isol8-init";

/// Finds isol8-init: `ISOL8_INIT`, beside this executable, or where a package
/// puts it.
///
/// # Errors
/// `HostLacks` names the places that were tried.
pub fn find_init() -> Result<PathBuf, Failure> {
    let named = env::var_os("ISOL8_INIT").map(PathBuf::from);
    let beside = env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name("isol8-init"));
    let places: Vec<PathBuf> = match named {
        // Named on purpose: another one would be a surprise.
        Some(path) => vec![path],
        None => beside
            .into_iter()
            .chain([PathBuf::from(PACKAGED_INIT)])
            .collect(),
    };
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<_> = places
        .iter()
        .map(|p| format!("`{}`", p.display()))
        .collect();
    Err(Failure::new(
        FailureKind::HostLacks,
        format!("isol8-init is not at {}", tried.join(" nor at ")),
    )
    .hint("install isol8 whole, or set `ISOL8_INIT` to the path of isol8-init"))
}

/// Makes sure that the kit with this init is in the state folder; gives its path.
/// A whole kit that is there serves also when the disk is full. `ca_bundle` is
/// the file of `network.caBundle`: what is in it goes into the kit.
///
/// # Errors
/// `NoSpace` and `HostLacks` name the path; `InvalidRequest` a `ca_bundle` that
/// cannot be used.
pub fn install(
    init: &Path,
    ca_bundle: Option<&Path>,
    state_dir: &Path,
) -> Result<PathBuf, Failure> {
    let authorities = ca_bundle.map(authorities::merged).transpose()?;
    let content = fs::read(init).map_err(|error| unusable(init, &error))?;
    let mut pieces = vec![Piece {
        path: "init",
        content: &content,
        mode: 0o555,
    }];
    pieces.extend(HOOKS.iter().map(|(path, content)| Piece {
        path,
        content,
        mode: 0o444,
    }));
    pieces.extend(authorities.iter().map(|content| Piece {
        path: "ca-bundle.crt",
        content,
        mode: 0o444,
    }));
    let kit = state_dir.join(format!("kit-{}", name(&pieces)));
    if is_whole(&kit, &pieces) {
        return Ok(kit);
    }
    let write = || -> io::Result<()> {
        if kit.exists() {
            fs::remove_dir_all(&kit)?;
        }
        let beside = state_dir.join(format!(".kit.{}", std::process::id()));
        if beside.exists() {
            fs::remove_dir_all(&beside)?;
        }
        fill(&beside, &pieces)
            .and_then(|()| fs::rename(&beside, &kit))
            .inspect_err(|_| {
                let _gone = fs::remove_dir_all(&beside);
            })
    };
    write().map_err(|error| unusable(&kit, &error))?;
    Ok(kit)
}

/// Removes the kits of other versions. Only for the one daemon of this state
/// folder, before it makes a sandbox: what still mounts one is about to go.
pub fn remove_others(state_dir: &Path, kit: &Path) {
    let Ok(entries) = fs::read_dir(state_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_kit = name.starts_with("kit-") || name.starts_with(".kit.");
        if is_kit
            && Some(&*entry.file_name()) != kit.file_name()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, kit = %name, "cannot remove an old kit");
        }
    }
}

fn name(pieces: &[Piece<'_>]) -> String {
    let mut hash = Sha256::new();
    for piece in pieces {
        // Lengths keep two pieces from reading as one.
        hash.update((piece.path.len() as u64).to_le_bytes());
        hash.update(piece.path.as_bytes());
        hash.update((piece.content.len() as u64).to_le_bytes());
        hash.update(piece.content);
    }
    HEXLOWER.encode(&hash.finalize()[..6])
}

fn is_whole(kit: &Path, pieces: &[Piece<'_>]) -> bool {
    pieces.iter().all(|piece| {
        let path = kit.join(piece.path);
        let mode = fs::symlink_metadata(&path).map(|found| found.permissions().mode() & 0o7777);
        let content = fs::read(&path);
        mode.is_ok_and(|mode| mode == piece.mode)
            && content.is_ok_and(|content| content == piece.content)
    })
}

fn fill(kit: &Path, pieces: &[Piece<'_>]) -> io::Result<()> {
    make_folder(kit)?;
    for piece in pieces {
        let path = kit.join(piece.path);
        let folders: Vec<_> = path
            .ancestors()
            .skip(1)
            .take_while(|folder| *folder != kit)
            .collect();
        for folder in folders.into_iter().rev().filter(|f| !f.exists()) {
            make_folder(folder)?;
        }
        write_atomically(&path, piece.content, piece.mode)?;
    }
    Ok(())
}

/// A folder that sandboxes' uids can read, whatever the umask.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_is_named_by_content_and_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        let init = folder.path().join("isol8-init");
        fs::write(&init, "one").expect("it can be written");
        let first = install(&init, None, folder.path()).expect("room for a kit");
        let inside = first.join("init");
        assert_eq!(fs::read(&inside).expect("init"), b"one");
        let mode = fs::metadata(&inside).expect("init").permissions().mode();
        assert_eq!(mode & 0o777, 0o555);

        fs::remove_file(&inside).expect("it is ours");
        fs::write(&inside, "cut").expect("it is ours");
        assert_eq!(install(&init, None, folder.path()).expect("mended"), first);
        assert_eq!(fs::read(&inside).expect("init"), b"one");

        fs::write(&init, "two").expect("it can be written");
        let second = install(&init, None, folder.path()).expect("another");
        assert_ne!(second, first);
        let left = || fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left(), 3, "init and two kits, nothing half done");
        remove_others(folder.path(), &second);
        assert!(second.exists() && !first.exists() && init.exists());
    }
}
