//! Packages of the host's own system for jails, which show the host's `/usr`.
//!
//! There is no root in a jail and `/usr` is read-only. So apt works below
//! `/sandbox`, as the sandbox's own user, with a copy of what the host's apt
//! knows: where packages come from, whose signatures count, what is installed
//! already. It downloads, and what the packages hold is laid out as a tree that
//! later jails have over `/usr`. Maintainers' scripts are not run: what they
//! would make (alternatives, caches, users, `/etc`, `/var`) is not there.
//!
//! What the host keeps from some of its users does not go into a jail, nor do
//! sources with a password in their address.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use isol8_core::failure::{Failure, FailureKind};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{
    recipe::{Must, Order, SCRATCH, Step},
    registry::canonical,
};

/// Where the result is, below `/sandbox`: a folder with `usr` in it.
pub(crate) const TREE: &str = ".apt/tree";

const CONFIG: &str = include_str!("apt/apt.conf");
const UNPACK: &str = include_str!("apt/unpack.sh");
/// A source that does not answer, or that the host has and cannot use, must not
/// stop what comes from another. That a package is then not to be found, the next
/// step says.
const UPDATE: &str = "apt-get -q update \"$@\" || true";

/// Without these there is no apt here.
const TOOLS: [&str; 3] = ["usr/bin/apt-get", "usr/bin/dpkg-deb", GPGV];
const GPGV: &str = "usr/bin/gpgv";
/// Newer apts have another for signatures.
const OTHER_GPGV: &str = "usr/bin/sqv";

const STATUS: &str = "var/lib/dpkg/status";
/// A desktop with thousands of packages has 6 MB.
const MAX_STATUS_BYTES: u64 = 64 << 20;
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Files of one folder; a host has a few dozen.
const MAX_FILES: usize = 500;

/// Below `/etc/apt`: a file, or all in a folder that end like this (nothing:
/// all). Never `auth.conf`, which holds passwords.
const FILES: [&str; 3] = ["sources.list", "preferences", "trusted.gpg"];
const FOLDERS: [(&str, &[&str]); 5] = [
    ("sources.list.d", &[".list", ".sources"]),
    ("preferences.d", &[]),
    ("trusted.gpg.d", &[".gpg", ".asc"]),
    ("keyrings", &[]),
    ("mirrors", &[]),
];

/// A file for a jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Below `/sandbox`.
    pub(crate) path: String,
    pub(crate) data: Bytes,
}

/// The host's apt, as much of it as a jail gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Apt {
    files: Vec<Sent>,
    /// Hosts from lists of mirrors, which apt does not tell.
    mirrors: BTreeSet<String>,
}

impl Apt {
    /// Reads what the host at `root` has. Blocks.
    ///
    /// # Errors
    /// `Unsupported` on a host without apt.
    pub(crate) fn look(root: &Path) -> Result<Self, Failure> {
        check_tools(root)?;
        let status = read_public(&root.join(STATUS), MAX_STATUS_BYTES)
            .map_err(|error| unsupported().cause(format!("cannot read `/{STATUS}`: {error}")))?;
        let mut apt = Self {
            files: Vec::new(),
            mirrors: BTreeSet::new(),
        };
        apt.send("apt.conf", CONFIG.into());
        apt.send("status", status.into());
        let etc = root.join("etc/apt");
        for name in names(&etc) {
            apt.add(&etc, &name);
        }
        Ok(apt)
    }

    fn send(&mut self, name: &str, data: Bytes) {
        let below = SCRATCH.trim_start_matches("/sandbox/");
        let path = format!("{below}/apt/{name}");
        self.files.push(Sent { path, data });
    }

    /// Takes a file below `/etc/apt` unless it is not for everybody.
    fn add(&mut self, etc: &Path, name: &str) {
        let Ok(bytes) = read_public(&etc.join(name), MAX_FILE_BYTES) else {
            return;
        };
        let Ok(text) = str::from_utf8(&bytes) else {
            return self.send(&format!("etc/{name}"), bytes.into());
        };
        let text = if name.ends_with(".sources") {
            moved(&without_secrets(text, "\n\n"))
        } else if name.starts_with("sources.list") {
            moved(&without_secrets(text, "\n"))
        } else if name.starts_with("mirrors/") {
            let text = without_secrets(text, "\n");
            let hosts = text.split_whitespace().filter_map(host_of);
            self.mirrors.extend(hosts);
            text
        } else {
            text.to_owned()
        };
        self.send(&format!("etc/{name}"), text.into());
    }

    /// What the jail is to be sent before any step.
    pub(crate) fn files(&self) -> &[Sent] {
        &self.files
    }

    /// Changes when packages may turn out in another way: with what is installed
    /// on the host, its sources, and the recipe. Blocks: there is much to hash.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(UNPACK.as_bytes());
        for file in &self.files {
            add(file.path.as_bytes());
            add(&file.data);
        }
        HEXLOWER.encode(&hash.finalize())
    }

    /// Makes the folders that the other steps need.
    pub(crate) fn prepare(order: &Order<'_>) -> Step {
        let folders = [
            format!("{SCRATCH}/tmp"),
            format!("{SCRATCH}/apt/none"),
            format!("{SCRATCH}/apt/log"),
            format!("{SCRATCH}/apt/state/lists/partial"),
            format!("{SCRATCH}/apt/cache/archives/partial"),
            format!("/sandbox/{TREE}"),
        ];
        let line = ["mkdir", "-p", "--"].map(str::to_owned);
        order.step(Must::Succeed, line.into_iter().chain(folders))
    }

    /// Asks apt where it gets things from. Needs no network.
    pub(crate) fn question(order: &Order<'_>) -> Step {
        let line = ["apt-get", "-q", "update", "--print-uris"];
        in_jail(order.step(Must::BeThere, line))
    }

    /// Reads the answer: a line for each file that an update would get. A
    /// repository's packages lie where its lists do.
    pub(crate) fn hosts(&self, answer: &[u8]) -> BTreeSet<String> {
        let answer = String::from_utf8_lossy(answer);
        let quoted = answer.lines().filter_map(|line| {
            let (url, _) = line.strip_prefix('\'')?.split_once('\'')?;
            host_of(url)
        });
        quoted.chain(self.mirrors.iter().cloned()).collect()
    }

    /// Downloads and lays out.
    pub(crate) fn install(order: &Order<'_>) -> Vec<Step> {
        let authorities = order.interpreter.authorities.iter();
        let options: Vec<String> = authorities
            .flat_map(|path| ["-o".into(), format!("Acquire::https::CAInfo={path}")])
            .collect();
        let line = |fixed: &[&str], packages: bool| {
            let fixed = fixed.iter().map(|part| (*part).to_owned());
            let dashes = packages.then(|| "--".to_owned());
            let names = order.packages.iter().filter(|_| packages);
            let names = names.map(|package| package.as_str().to_owned());
            let line = fixed.chain(options.clone()).chain(dashes).chain(names);
            in_jail(order.step(Must::Succeed, line))
        };
        vec![
            line(&["/bin/sh", "-c", UPDATE, "update"], false),
            line(&["apt-get", "-q", "-y", "--download-only", "install"], true),
            order.step(Must::Succeed, ["/bin/sh", "-c", UNPACK]),
        ]
    }
}

fn check_tools(root: &Path) -> Result<(), Failure> {
    let exists = |tool: &str| root.join(tool).exists();
    let there = |tool: &str| exists(tool) || (tool == GPGV && exists(OTHER_GPGV));
    let lacks = TOOLS.into_iter().find(|tool| !there(tool));
    match lacks {
        Some(tool) => Err(unsupported().cause(format!("`/{tool}` is not there"))),
        None => Ok(()),
    }
}

/// The files below `/etc/apt` that a jail may get.
fn names(etc: &Path) -> Vec<String> {
    let files = FILES.into_iter().map(str::to_owned);
    let in_folders = FOLDERS.into_iter().flat_map(|(folder, endings)| {
        let names = names_in(&etc.join(folder), endings).into_iter();
        names.map(move |name| format!("{folder}/{name}"))
    });
    files.chain(in_folders).collect()
}

fn unsupported() -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        "this host has no apt to install packages for bash with",
    )
    .hint("use `--engine docker`")
}

fn in_jail(step: Step) -> Step {
    step.with("APT_CONFIG", format!("{SCRATCH}/apt/apt.conf"))
        .with("DEBIAN_FRONTEND", "noninteractive")
        .with("LC_ALL", "C.UTF-8")
}

/// Names in a folder that everybody may look into, sorted.
fn names_in(folder: &Path, endings: &[&str]) -> Vec<String> {
    let public = fs::metadata(folder).is_ok_and(|meta| meta.permissions().mode() & 0o005 == 0o005);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    if !public {
        return Vec::new();
    }
    let ends = |name: &String| endings.is_empty() || endings.iter().any(|end| name.ends_with(end));
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(ends)
        .collect();
    names.sort();
    names.truncate(MAX_FILES);
    names
}

/// Reads a regular file that everybody may read.
fn read_public(path: &PathBuf, most: u64) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.permissions().mode() & 0o004 == 0 || meta.len() > most {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    fs::read(path)
}

/// Leaves out comments, and each entry whose address holds a name or password.
fn without_secrets(text: &str, between: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text: String = lines
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect();
    let entries = text.split(between);
    let open: Vec<&str> = entries.filter(|entry| !has_secret(entry)).collect();
    open.join(between)
}

fn has_secret(text: &str) -> bool {
    let ends = |c: char| c == '/' || c.is_whitespace();
    let mut addresses = text.split("://").skip(1);
    addresses.any(|rest| rest.split(ends).next().unwrap_or_default().contains('@'))
}

/// Paths below `/etc/apt`, which keyrings and lists of mirrors have, lead to
/// where these files are in a jail.
fn moved(text: &str) -> String {
    const HERE: &str = "/etc/apt/";
    let there = format!("{SCRATCH}/apt/etc/");
    let mut new = String::with_capacity(text.len());
    for (at, piece) in text.split(HERE).enumerate() {
        if at > 0 {
            // Not in the middle of the path of a URL.
            let within = new.ends_with(|c: char| c.is_alphanumeric() || "._-".contains(c));
            new.push_str(if within { HERE } else { &there });
        }
        new.push_str(piece);
    }
    new
}

/// The host of a URL that goes through the network.
fn host_of(url: &str) -> Option<String> {
    let url = Url::parse(url.strip_prefix("mirror+").unwrap_or(url)).ok()?;
    let remote = matches!(url.scheme(), "http" | "https");
    remote.then(|| canonical(url.host_str()?)).flatten()
}

#[cfg(test)]
mod tests;
