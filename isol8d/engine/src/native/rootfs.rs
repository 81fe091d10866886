//! What a jail sees of the host: `/usr` and what belongs to it, and an `/etc` of
//! our own. No home, no `/var`, no `/run`, nothing of `/etc` that is a secret or
//! names the machine.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Uid and gid of the program inside.
pub(super) const INSIDE_ID: u32 = 1000;

/// Top-level names that belong to `/usr`: links to it, or folders on a host that
/// has not merged them.
const WITH_USR: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What a jail's `/etc` shows of the host's: what the dynamic loader, TLS,
/// the alternatives of Debian and fonts need. Each is readable by everybody.
const SHOWN_ETC: [&str; 10] = [
    "alternatives",
    "ca-certificates",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Files that are copied: small tables that programs look things up in.
const COPIED_ETC: [&str; 4] = ["mime.types", "protocols", "rpc", "services"];

/// `/proc` files and folders that tell about the host or reach into it. Each that
/// a sandbox could read costs about 0.1 ms of every jail.
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// One top-level name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Top {
    /// A link, as on the host.
    Link {
        /// Its name.
        name: &'static str,
        /// Where it leads.
        target: PathBuf,
    },
    /// A folder of the host.
    Folder {
        /// Its name.
        name: &'static str,
    },
}

/// What was found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RootFs {
    /// `/usr` and what belongs to it.
    pub(super) tops: Vec<Top>,
    /// Names below `/etc` that are the host's.
    pub(super) shown_etc: Vec<&'static str>,
    /// Files below `/proc` to hide.
    pub(super) masked_files: Vec<&'static str>,
    /// Folders below `/proc` to hide.
    pub(super) masked_folders: Vec<&'static str>,
}

impl RootFs {
    /// Looks at a host whose root is `root` and whose `/proc` is `proc`.
    pub(super) fn look(root: &Path, proc: &Path) -> Self {
        let mut tops = vec![Top::Folder { name: "usr" }];
        for name in WITH_USR {
            let path = root.join(name);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_symlink() => {
                    if let Ok(target) = fs::read_link(&path) {
                        tops.push(Top::Link { name, target });
                    }
                }
                Ok(meta) if meta.is_dir() => tops.push(Top::Folder { name }),
                _ => {}
            }
        }
        let etc = root.join("etc");
        let shown_etc = SHOWN_ETC
            .into_iter()
            .filter(|name| etc.join(name).exists())
            .collect();
        // What the sandbox's uid cannot read needs no mask.
        let readable = |name: &&str| {
            fs::metadata(proc.join(name)).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
        };
        let (masked_folders, masked_files) = MASKED_PROC
            .into_iter()
            .filter(readable)
            .partition(|name| proc.join(name).is_dir());
        Self {
            tops,
            shown_etc,
            masked_files,
            masked_folders,
        }
    }

    /// Writes the jail's `/etc` to a folder below `state` whose name tells its
    /// content, unless it is there.
    pub(super) fn write_etc(&self, root: &Path, state: &Path) -> io::Result<PathBuf> {
        let etc = Etc::compose(self, root);
        let folder = state.join(format!("etc-{}", etc.fingerprint()));
        if folder.is_dir() {
            return Ok(folder);
        }
        // Another daemon on the same state folder may do the same: only whole
        // folders get the name.
        let draft = state.join(format!("etc-draft-{}", std::process::id()));
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        etc.write(&draft)?;
        match fs::rename(&draft, &folder) {
            Err(error) if folder.is_dir() => {
                fs::remove_dir_all(&draft)?;
                drop(error);
            }
            renamed => renamed?,
        }
        Ok(folder)
    }
}

/// The content of a jail's `/etc`.
#[derive(Debug, Default)]
struct Etc {
    files: Vec<(String, Vec<u8>)>,
    links: Vec<(String, PathBuf)>,
    /// Where something of the host is mounted.
    mount_folders: Vec<String>,
    mount_files: Vec<String>,
}

impl Etc {
    fn compose(rootfs: &RootFs, root: &Path) -> Self {
        let mut etc = Self::default();
        let id = INSIDE_ID;
        etc.file(
            "passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                 sandbox:x:{id}:{id}:sandbox:/sandbox:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        );
        etc.file(
            "group",
            format!("root:x:0:\nsandbox:x:{id}:\nnogroup:x:65534:\n"),
        );
        etc.file(
            "hosts",
            "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n",
        );
        etc.file("hostname", "sandbox\n");
        etc.file("resolv.conf", "");
        etc.file("host.conf", "multi on\n");
        etc.file(
            "nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n\
             networks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
        );
        etc.file("shells", "/bin/sh\n/bin/bash\n");
        let host = root.join("etc");
        for name in COPIED_ETC {
            if let Ok(bytes) = fs::read(host.join(name)) {
                etc.file(name, bytes);
            }
        }
        for name in ["localtime", "os-release"] {
            // A link into `/usr` means the same inside.
            match fs::read_link(host.join(name)) {
                Ok(target) => etc.links.push((name.to_owned(), target)),
                Err(_) => {
                    if let Ok(bytes) = fs::read(host.join(name)) {
                        etc.file(name, bytes);
                    }
                }
            }
        }
        etc.links.push(("mtab".to_owned(), "/proc/mounts".into()));
        for name in &rootfs.shown_etc {
            if host.join(name).is_dir() {
                etc.mount_folders.push((*name).to_owned());
            } else {
                etc.mount_files.push((*name).to_owned());
            }
        }
        etc
    }

    fn file(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.files.push((name.to_owned(), content.into()));
    }

    fn fingerprint(&self) -> String {
        let digest = Sha256::digest(format!("{self:?}").as_bytes());
        HEXLOWER.encode(&digest[..6])
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        make_folder(folder)?;
        for (name, content) in &self.files {
            write_file(&folder.join(name), content)?;
        }
        for (name, target) in &self.links {
            symlink(target, folder.join(name))?;
        }
        for name in &self.mount_folders {
            make_folder(&folder.join(name))?;
        }
        for name in &self.mount_files {
            let path = folder.join(name);
            make_folder(path.parent().expect("it is below the folder"))?;
            write_file(&path, b"")?;
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    // The umask may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in [
            "usr/bin",
            "usr/lib",
            "lib64",
            "etc/ssl/certs",
            "etc/ssl/private",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        symlink("usr/bin", at("bin")).unwrap();
        symlink("/usr/share/zoneinfo/Etc/UTC", at("etc/localtime")).unwrap();
        fs::write(at("etc/services"), "http 80/tcp\n").unwrap();
        fs::write(at("etc/shadow"), "root:secret\n").unwrap();
        fs::write(at("etc/ld.so.cache"), "cache").unwrap();
        for (name, mode) in [("keys", 0o444), ("kcore", 0o400)] {
            fs::create_dir_all(at("proc/acpi")).unwrap();
            fs::write(at("proc").join(name), "").unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(at("proc").join(name), mode).unwrap();
        }
        root
    }

    #[test]
    fn usr_comes_with_what_belongs_to_it() {
        let root = host();
        let found = RootFs::look(root.path(), &root.path().join("proc"));
        let link = Top::Link {
            name: "bin",
            target: "usr/bin".into(),
        };
        let folder = |name| Top::Folder { name };
        assert_eq!(found.tops, [folder("usr"), link, folder("lib64")]);
        assert_eq!(found.shown_etc, ["ld.so.cache", "ssl/certs"]);
        assert_eq!(found.masked_files, ["keys"], "root alone reads kcore");
        assert_eq!(found.masked_folders, ["acpi"]);
    }

    #[test]
    fn etc_holds_what_programs_need_and_no_secret() {
        let root = host();
        let state = tempfile::tempdir().unwrap();
        let found = RootFs::look(root.path(), &root.path().join("proc"));
        let etc = found.write_etc(root.path(), state.path()).unwrap();
        let mut names: Vec<String> = fs::read_dir(&etc)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names.join(" "),
            "group host.conf hostname hosts ld.so.cache localtime mtab nsswitch.conf \
             passwd resolv.conf services shells ssl"
        );
        assert!(!etc.join("ssl/private").exists());
        let passwd = fs::read_to_string(etc.join("passwd")).unwrap();
        assert!(passwd.contains("sandbox:x:1000:1000"));
        assert_eq!(fs::read_to_string(etc.join("resolv.conf")).unwrap(), "");

        let again = found.write_etc(root.path(), state.path()).unwrap();
        assert_eq!(again, etc);
        let folders = fs::read_dir(state.path()).unwrap().count();
        assert_eq!(folders, 1, "nothing else stays");
    }
}
