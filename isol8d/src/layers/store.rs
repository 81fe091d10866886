//! Layers on disk: `S/layers/<id>/{meta.json, tree/}`.
//!
//! A layer is written below a name that begins with `tmp-` and renamed when it
//! is whole and on disk. Whatever still has such a name when a daemon starts was
//! left by one that died. Every call here may block.

use std::{
    fs::{self, File, FileTimes},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    layer::LayerId,
};
use serde::{Deserialize, Serialize};

use crate::paths::unusable;

/// Begins the name of what is not a layer, or no longer one.
const TEMPORARY: &str = "tmp-";

/// What is written beside the files of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Meta {
    /// For a person who looks into the folder.
    pub(crate) runtime: String,
    pub(crate) engine: String,
    pub(crate) packages: Vec<String>,
    /// What the installer belongs to: see [`isol8_engine::Engine::identity`].
    pub(crate) identity: String,
    /// The hosts from which it came, by the kind of registry; empty where the
    /// installer was not filtered.
    pub(crate) registries: Vec<Known>,
    /// Every package names one version.
    pub(crate) pinned: bool,
    pub(crate) bytes: u64,
    pub(crate) entries: u32,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
}

/// The hosts of one kind of registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Known {
    pub(crate) world: String,
    pub(crate) hosts: Vec<String>,
}

/// A layer that is whole.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: LayerId,
    pub(crate) meta: Meta,
    /// Since 1970.
    pub(crate) last_used: Duration,
}

/// The folder of all layers.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// A layer that is being written. Dropping it removes what is there.
#[derive(Debug)]
pub(crate) struct Draft {
    folder: PathBuf,
    kept: bool,
}

impl Store {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Makes the folder, removes what an earlier daemon left half-written, and
    /// gives every layer that is whole.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) fn open(&self) -> Result<Vec<Stored>, Failure> {
        let bad = |error: io::Error| unusable(&self.folder, &error);
        fs::create_dir_all(&self.folder).map_err(bad)?;
        // Sandboxes pass through, and only the daemon lists.
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&self.folder, mode).map_err(bad)?;
        let mut stored = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(bad)? {
            let entry = entry.map_err(bad)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let found = LayerId::parse(&name).and_then(|id| self.read(id));
            match found {
                Some(found) => stored.push(found),
                None => {
                    tracing::debug!(name, "removing what is no layer");
                    remove(&entry.path());
                }
            }
        }
        Ok(stored)
    }

    fn read(&self, id: LayerId) -> Option<Stored> {
        let folder = self.folder.join(id.as_str());
        let path = folder.join("meta.json");
        let meta = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        if !fs::symlink_metadata(folder.join("tree")).ok()?.is_dir() {
            return None;
        }
        let used = fs::metadata(&path).ok()?.modified().ok()?;
        Some(Stored {
            id,
            meta,
            last_used: used.duration_since(SystemTime::UNIX_EPOCH).ok()?,
        })
    }

    /// Begins a layer.
    ///
    /// # Errors
    /// `NoSpace`, or that the folder cannot be used.
    pub(crate) fn draft(&self) -> Result<Draft, Failure> {
        let name = format!("{TEMPORARY}{}", SandboxId::random());
        let draft = Draft {
            folder: self.folder.join(name),
            kept: false,
        };
        let make = || {
            fs::create_dir(&draft.folder)?;
            fs::set_permissions(&draft.folder, fs::Permissions::from_mode(0o711))?;
            fs::create_dir(draft.tree())?;
            fs::set_permissions(draft.tree(), fs::Permissions::from_mode(0o755))
        };
        make().map_err(|error| unusable(&draft.folder, &error))?;
        Ok(draft)
    }

    /// Lets a draft be the layer `id` from now on.
    ///
    /// # Errors
    /// `NoSpace`, or that there is such a layer already.
    pub(crate) fn keep(&self, mut draft: Draft, id: &LayerId, meta: &Meta) -> Result<(), Failure> {
        let path = self.folder.join(id.as_str());
        let bad = |error: io::Error| unusable(&path, &error);
        let text = serde_json::to_vec_pretty(meta)
            .map_err(|error| Failure::new(FailureKind::Internal, "no meta").because(&error))?;
        fs::write(draft.folder.join("meta.json"), text).map_err(bad)?;
        // One call for thousands of files; a layer must not have its name before
        // its files are on disk.
        let folder = File::open(&self.folder).map_err(bad)?;
        rustix::fs::syncfs(&folder).map_err(|errno| bad(errno.into()))?;
        if path.exists() {
            return Err(bad(io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(&draft.folder, &path).map_err(bad)?;
        draft.kept = true;
        // It has its name. Where that is lost with the power, so is the layer as a
        // whole, and it is made again.
        if let Err(error) = folder.sync_all() {
            tracing::warn!(layer = %id, %error, "the name of a layer may not be on disk");
        }
        Ok(())
    }

    /// Notes that a layer is used now.
    pub(crate) fn touch(&self, id: &LayerId, now: SystemTime) {
        let path = self.folder.join(id.as_str()).join("meta.json");
        let touched =
            File::open(path).and_then(|file| file.set_times(FileTimes::new().set_modified(now)));
        if let Err(error) = touched {
            tracing::debug!(layer = %id, %error, "the use of a layer was not noted");
        }
    }

    /// Removes a layer. From the first step on it is none.
    pub(crate) fn remove(&self, id: &LayerId) {
        let path = self.folder.join(id.as_str());
        let beside = self
            .folder
            .join(format!("{TEMPORARY}{}", SandboxId::random()));
        match fs::rename(&path, &beside) {
            Ok(()) => remove(&beside),
            Err(error) => tracing::warn!(layer = %id, %error, "a layer cannot be removed"),
        }
    }
}

/// Removes a file or folder; what stays is removed at the next start.
fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

impl Draft {
    /// Where the files go.
    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta {
            runtime: "python".to_owned(),
            engine: "native".to_owned(),
            packages: vec!["six".to_owned()],
            identity: "it".to_owned(),
            registries: Vec::new(),
            pinned: false,
            bytes: 3,
            entries: 1,
            created_ms: 7,
        }
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).expect("it is there").count()
    }

    #[test]
    fn only_whole_layers_outlive_a_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path().join("layers"));
        assert!(store.open().expect("it is made").is_empty());
        let id = LayerId::new(&[1; 32]);
        let draft = store.draft().expect("there is room");
        fs::write(draft.tree().join("a"), "abc").expect("there is room");
        store.keep(draft, &id, &meta()).expect("it is kept");
        // Left by one that was killed.
        let mut left = store.draft().expect("there is room");
        left.kept = true;
        fs::create_dir(store.folder.join(LayerId::new(&[2; 32]).as_str())).expect("half a layer");
        let found = store.open().expect("it is there");
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].id, &found[0].meta), (&id, &meta()));
        assert_eq!(names(&store.folder), 1);
    }

    #[test]
    fn a_draft_that_is_dropped_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path().join("layers"));
        store.open().expect("it is made");
        let draft = store.draft().expect("there is room");
        fs::write(draft.tree().join("a"), "abc").expect("there is room");
        drop(draft);
        assert_eq!(names(&store.folder), 0);
    }

    #[test]
    fn use_is_noted_and_removal_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path().join("layers"));
        store.open().expect("it is made");
        let id = LayerId::new(&[1; 32]);
        let draft = store.draft().expect("there is room");
        store.keep(draft, &id, &meta()).expect("it is kept");
        let again = store.draft().expect("there is room");
        assert!(store.keep(again, &id, &meta()).is_err(), "it is there");
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        store.touch(&id, then);
        let found = store.open().expect("it is there");
        assert_eq!(found[0].last_used, Duration::from_secs(1000));
        store.remove(&id);
        assert_eq!(names(&store.folder), 0);
    }
}
