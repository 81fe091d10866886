//! The command line of one jail: what the launcher stages, and how bubblewrap
//! makes a jail of it.
//!
//! Everything that comes from the host is staged, so that bubblewrap, which runs
//! as the sandbox's own uid, needs no right on the daemon's folders.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use isol8_core::sandbox::{Network, SandboxKey};

use super::{
    interpreters::Installed,
    rootfs::{INSIDE_ID, RootFs, Top},
};

/// Where the launcher leaves the stage: what it says in its own `STAGE`.
const STAGED: &str = "/tmp";
/// The jail's root on the stage, and in a writable jail the layers beside it.
const ROOT: &str = "root";
const WRITABLE: &str = "rw";
/// `/dev/shm`: python's multiprocessing wants some.
const SHM_BYTES: u64 = 64 << 20;
const SHM_INODES: u64 = 1024;
/// One inode for so many bytes of a tmpfs: a tree of small files (node_modules)
/// fits, and empty files alone cannot fill the memory.
const BYTES_PER_INODE: u64 = 8 << 10;
const MIN_INODES: u64 = 1024;
/// Sandboxes die before anything else when the host's memory is out.
const OOM_SCORE_ADJ: u32 = 500;
/// Folders below `/usr` that a writable jail's user owns.
const OWN_USR: [&str; 7] = ["", "/bin", "/etc", "/include", "/lib", "/sbin", "/share"];
/// Top folders that a writable jail's user owns.
const OWN_TOPS: [&str; 12] = [
    "home",
    "media",
    "mnt",
    "opt",
    "root",
    "run",
    "srv",
    "var",
    "var/cache",
    "var/lib",
    "var/log",
    "var/tmp",
];

/// Everything that a jail is made of.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) bwrap: &'a Path,
    /// The version at hand can forbid further user namespaces.
    pub(super) disable_userns: bool,
    /// Files that put the launcher into the cgroup.
    pub(super) join: &'a [PathBuf],
    /// The host uid, or `None` where the daemon is not root.
    pub(super) uid: Option<u32>,
    /// An empty folder.
    pub(super) stage: &'a Path,
    /// The compiled filter.
    pub(super) seccomp: &'a Path,
    pub(super) kit: &'a Path,
    /// The folder with the socket.
    pub(super) link: &'a Path,
    pub(super) etc: &'a Path,
    pub(super) rootfs: &'a RootFs,
    /// The host's, for a jail in the host's network.
    pub(super) resolv_conf: Option<&'a Path>,
    pub(super) interpreter: &'a Installed,
    /// The packages of the key's layer.
    pub(super) layer: Option<&'a Path>,
    pub(super) key: &'a SandboxKey,
    /// Its init dials again when its stream ends, and ends itself without a daemon
    /// for so long.
    pub(super) lasting: Option<Duration>,
}

impl Order<'_> {
    /// The arguments of `isol8-init`.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut args = Args::default();
        args.add(["launch"]);
        for procs in self.join {
            args.add(["--join".as_ref(), procs.as_path()]);
        }
        if let Some(uid) = self.uid {
            args.add(["--uid", &uid.to_string()]);
        }
        args.add(["--stage".as_ref(), self.stage]);
        args.add(["--oom-score-adj", &OOM_SCORE_ADJ.to_string()]);
        args.add(["--seccomp".as_ref(), self.seccomp]);
        self.rlimits(&mut args);
        if self.key.writable {
            self.writable_root(&mut args);
        } else {
            self.plain_root(&mut args);
        }
        self.common(&mut args);
        args.add(["--"]);
        self.bubblewrap(&mut args);
        args.0
    }

    fn rlimits(&self, args: &mut Args) {
        let largest = self.key.sandbox_size.max(self.key.tmp_size).as_bytes();
        // A page more than any tmpfs holds: a full one says so to the program,
        // and does not kill it.
        let largest = largest.max(SHM_BYTES) + 4096;
        for (name, value) in [
            // Not 0: that stops files alone. At 1 the kernel starts no collector
            // on the host either.
            ("core", 1),
            ("fsize", largest),
            ("memlock", 64 << 10),
            ("msgqueue", 0),
            ("nice", 0),
            ("nofile", 1024),
            ("rtprio", 0),
            ("sigpending", 1024),
        ] {
            args.add(["--rlimit", name, &value.to_string()]);
        }
    }

    /// Where the jail's root is on the stage.
    fn root(&self) -> String {
        if self.key.writable {
            format!("{WRITABLE}/{ROOT}")
        } else {
            ROOT.to_owned()
        }
    }

    /// Where `/sandbox` is on the stage.
    fn sandbox(&self) -> &'static str {
        if self.key.writable {
            "rw/sandbox"
        } else {
            "sandbox"
        }
    }

    /// A root that bubblewrap makes read-only as a whole.
    fn plain_root(&self, args: &mut Args) {
        for top in &self.rootfs.tops {
            if let Top::Folder { name } = top {
                let (below, at) = (Path::new("/").join(name), format!("{ROOT}/{name}"));
                match self.system_layer(name) {
                    Some(above) => {
                        args.add(["--lower".as_ref(), above.as_path()]);
                        args.add(["--lower".as_ref(), below.as_path()]);
                        args.add(["--merge", &at]);
                    }
                    None => args.bind(&below, &at),
                }
            }
        }
        args.bind(self.etc, &format!("{ROOT}/etc"));
        for folder in ["home", "run", "var"] {
            args.add(["--dir", &format!("{ROOT}/{folder}")]);
        }
        args.add(["--link", "../tmp", &format!("{ROOT}/var/tmp")]);
        args.tmpfs(self.key.sandbox_size.as_bytes(), "0700", "exec", "sandbox");
    }

    /// A root whose changes go to the same tmpfs as `/sandbox`, inside its size.
    fn writable_root(&self, args: &mut Args) {
        args.tmpfs(self.key.sandbox_size.as_bytes(), "0755", "exec", WRITABLE);
        let root = self.root();
        args.add(["--own", self.sandbox()]);
        args.add(["--own", &root]);
        for part in OWN_USR {
            args.add(["--own", &format!("{WRITABLE}/upper/usr/local{part}")]);
        }
        for top in &self.rootfs.tops {
            if let Top::Folder { name } = top {
                if let Some(above) = self.system_layer(name) {
                    args.add(["--lower".as_ref(), above.as_path()]);
                }
                args.add(["--lower".as_ref(), Path::new("/").join(name).as_path()]);
                args.add([
                    Path::new("--overlay"),
                    Path::new(&format!("{WRITABLE}/upper/{name}")),
                    Path::new(&format!("{WRITABLE}/work/{name}")),
                    Path::new(&format!("{root}/{name}")),
                ]);
            }
        }
        let etc = format!("{root}/etc");
        args.add(["--copy".as_ref(), self.etc, Path::new(&etc)]);
        for folder in OWN_TOPS {
            args.add(["--own", &format!("{root}/{folder}")]);
        }
    }

    /// What a layer of the system's own packages puts over a top folder.
    fn system_layer(&self, top: &str) -> Option<PathBuf> {
        let tree = self.layer?;
        let own = self.key.runtime.install_folder().is_none();
        Some(tree.join(top)).filter(|above| own && above.is_dir())
    }

    fn common(&self, args: &mut Args) {
        let root = self.root();
        if let (Some(tree), Some(folder)) = (self.layer, self.key.runtime.install_folder()) {
            args.bind(tree, &format!("{}/{folder}", self.sandbox()));
        }
        for top in &self.rootfs.tops {
            if let Top::Link { name, target } = top {
                let at = format!("{root}/{name}");
                args.add(["--link".as_ref(), target.as_path(), Path::new(&at)]);
            }
        }
        for name in &self.rootfs.shown_etc {
            let from = Path::new("/etc").join(name);
            args.bind(&from, &format!("{root}/etc/{name}"));
        }
        if let (Network::Host, Some(file)) = (self.key.network, self.resolv_conf) {
            args.bind(file, &format!("{root}/etc/resolv.conf"));
        }
        for folder in ["dev", "proc", "sandbox", "tmp"] {
            args.add(["--dir", &format!("{root}/{folder}")]);
        }
        args.bind(self.kit, &format!("{root}/isol8/kit"));
        args.bind(self.link, &format!("{root}/isol8/link"));
        for mount in &self.interpreter.mounts {
            let inside = mount.at.strip_prefix("/").unwrap_or(&mount.at);
            let at = Path::new(&root).join(inside);
            args.add(["--bind".as_ref(), mount.from.as_path(), &at]);
        }
        args.tmpfs(self.key.tmp_size.as_bytes(), "1777", "noexec", "tmp");
        args.add(["--tmpfs", &SHM_BYTES.to_string(), &SHM_INODES.to_string()]);
        args.add(["1777", "noexec", "shm"]);
        args.add(["--file", "empty", "--dir", "void"]);
    }

    fn bubblewrap(&self, args: &mut Args) {
        args.add([self.bwrap]);
        args.add(["--unshare-all", "--unshare-user"]);
        match self.key.network {
            // Filtered has no interface either: the proxy is behind a socket that
            // init makes.
            Network::None | Network::Filtered => {}
            Network::Host => args.add(["--share-net"]),
        }
        if self.disable_userns {
            args.add(["--disable-userns"]);
        }
        let id = INSIDE_ID.to_string();
        args.add(["--uid", &id, "--gid", &id, "--hostname", "sandbox"]);
        args.add(["--as-pid-1", "--new-session", "--clearenv"]);
        args.add(["--cap-drop", "ALL"]);
        let root = format!("{STAGED}/{}", self.root());
        if self.key.writable {
            args.add(["--bind", &root, "/"]);
            // With all that is mounted below them.
            let isol8 = format!("{root}/isol8");
            args.add(["--ro-bind", &isol8, "/isol8"]);
            for mount in &self.interpreter.mounts {
                let inside = mount.at.strip_prefix("/").unwrap_or(&mount.at);
                let from = Path::new(&root).join(inside);
                args.add(["--ro-bind".as_ref(), from.as_path(), &mount.at]);
            }
        } else {
            args.add(["--ro-bind", &root, "/"]);
        }
        args.add(["--proc", "/proc", "--dev", "/dev"]);
        args.add(["--bind", &format!("{STAGED}/shm"), "/dev/shm"]);
        // Its tmpfs has no bounds: nothing is ever written there.
        args.add(["--remount-ro", "/dev"]);
        let sandbox = format!("{STAGED}/{}", self.sandbox());
        args.add(["--bind", &sandbox, "/sandbox"]);
        args.add(["--bind", &format!("{STAGED}/tmp"), "/tmp"]);
        for (names, mask) in [
            (&self.rootfs.masked_files, "empty"),
            (&self.rootfs.masked_folders, "void"),
        ] {
            for name in names {
                let (from, path) = (format!("{STAGED}/{mask}"), format!("/proc/{name}"));
                args.add(["--ro-bind", &from, &path]);
            }
        }
        args.add(["--chdir", "/sandbox", "--"]);
        args.add(["/isol8/kit/init", "/isol8/link/sock"]);
        if self.key.network == Network::Filtered {
            args.add(["--egress"]);
        }
        if let Some(orphaned) = self.lasting {
            args.add([
                "--lasting",
                "--orphan-ms",
                &orphaned.as_millis().to_string(),
            ]);
        }
    }
}

#[derive(Debug, Default)]
struct Args(Vec<OsString>);

impl Args {
    fn add<T: Into<OsString>>(&mut self, words: impl IntoIterator<Item = T>) {
        self.0.extend(words.into_iter().map(Into::into));
    }

    fn bind(&mut self, from: &Path, at: &str) {
        self.add(["--bind".as_ref(), from, Path::new(at)]);
    }

    fn tmpfs(&mut self, bytes: u64, mode: &str, exec: &str, at: &str) {
        let inodes = (bytes / BYTES_PER_INODE).max(MIN_INODES);
        self.add(["--tmpfs", &bytes.to_string(), &inodes.to_string()]);
        self.add([mode, exec, at]);
    }
}

#[cfg(test)]
mod tests;
