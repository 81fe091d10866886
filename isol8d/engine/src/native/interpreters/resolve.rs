//! From a name on PATH to a real executable and what must be mounted for it.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use isol8_core::runtime::Runtime;

use super::{Installed, Mount, Places};

/// What every jail has anyway.
const ALWAYS_THERE: &str = "/usr";
/// For interpreters whose own path is taken.
const ELSEWHERE: &str = "/isol8/host";
/// Folders of a home that hold far more than an interpreter.
const TOO_MUCH: [&str; 5] = [".local", ".config", ".cache", "bin", "opt"];

/// Follows links and shims to the executable. The error says why this one is of
/// no use, as the end of a sentence.
pub(super) fn resolve(
    places: &Places,
    runtime: Runtime,
    candidate: &Path,
) -> Result<Installed, String> {
    let mut candidate = candidate.to_owned();
    if let Some(root) = pyenv_root(&candidate) {
        candidate = pyenv_choice(places, &root, runtime.executable())?;
    }
    let real = fs::canonicalize(&candidate).map_err(|error| format!("leads nowhere: {error}"))?;
    let real = match kind_of(&real)? {
        Kind::Executable => real,
        Kind::Script => packaged(&real, runtime)
            .ok_or("is a script that starts the interpreter from elsewhere")?,
    };
    if real.starts_with(ALWAYS_THERE) {
        return Ok(Installed {
            program: visible_name(&candidate, &real),
            mounts: Vec::new(),
        });
    }
    let mount = match prefix_of(&real, runtime) {
        Some(prefix) if is_dedicated(places, &prefix) => prefix,
        _ => real.clone(),
    };
    if places.strangers {
        readable_by_others(&real)?;
        readable_by_others(&mount)?;
    }
    let program = beside(&real, runtime);
    let Some(at) = moved(places, runtime, &mount) else {
        let (from, at) = (mount.clone(), mount);
        return Ok(Installed {
            program,
            mounts: vec![Mount { from, at }],
        });
    };
    let program = match program.strip_prefix(&mount) {
        Ok(inside) if inside != Path::new("") => at.join(inside),
        // The executable alone.
        _ => at.clone(),
    };
    let mounts = vec![Mount { from: mount, at }];
    Ok(Installed { program, mounts })
}

/// Where a mount goes that would lie below a folder which jails have for
/// themselves, such as /tmp.
fn moved(places: &Places, runtime: Runtime, mount: &Path) -> Option<PathBuf> {
    let hidden = places.hidden.iter().any(|own| mount.starts_with(own));
    hidden.then(|| Path::new(ELSEWHERE).join(runtime.executable()))
}

enum Kind {
    Executable,
    Script,
}

fn kind_of(path: &Path) -> Result<Kind, String> {
    let mut head = [0_u8; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut head));
    match read {
        Ok(4) if head == *b"\x7fELF" => Ok(Kind::Executable),
        Ok(_) => Ok(Kind::Script),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The root of pyenv, where the candidate is one of its shims.
fn pyenv_root(candidate: &Path) -> Option<PathBuf> {
    let shims = candidate.parent()?;
    let root = shims.parent()?;
    let is_pyenv = shims.ends_with("shims") && root.join("versions").is_dir();
    is_pyenv.then(|| root.to_owned())
}

/// The version that pyenv would take: the environment's, else the global one. A
/// version file of some working directory is not the daemon's business.
fn pyenv_choice(places: &Places, root: &Path, name: &str) -> Result<PathBuf, String> {
    let global = fs::read_to_string(root.join("version")).unwrap_or_default();
    let wanted = match &places.pyenv_version {
        Some(text) => text.split(':').map(str::to_owned).collect(),
        None => global
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    };
    let versions = root.join("versions");
    wanted
        .iter()
        // A version is one folder: never a way out.
        .filter(|version| !version.contains('/') && !version.starts_with('.'))
        .filter_map(|version| {
            let exact = versions.join(version).join("bin").join(name);
            exact
                .exists()
                .then_some(exact)
                .or_else(|| pyenv_prefix(&versions, version, name))
        })
        .next()
        .ok_or_else(|| "is a shim of pyenv, which has no global version".to_owned())
}

/// `3.11` stands for the newest 3.11.x.
fn pyenv_prefix(versions: &Path, wanted: &str, name: &str) -> Option<PathBuf> {
    let wanted = super::version(wanted)?;
    let mut fitting: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(versions)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let numbers = super::version(entry.file_name().to_str()?)?;
            let program = entry.path().join("bin").join(name);
            (numbers.starts_with(&wanted) && program.exists()).then_some((numbers, program))
        })
        .collect();
    fitting.sort();
    fitting.pop().map(|(_, program)| program)
}

/// The executable that a package of npm brings for this machine, given the
/// script that npm puts on PATH.
fn packaged(script: &Path, runtime: Runtime) -> Option<PathBuf> {
    let scope = match runtime {
        Runtime::Bun => "@oven",
        Runtime::Deno => "@deno",
        _ => return None,
    };
    let name = runtime.executable();
    let package = script.ancestors().find(|folder| {
        folder
            .parent()
            .is_some_and(|up| up.ends_with("node_modules"))
    })?;
    let machines: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["x64"],
        "aarch64" => &["arm64", "aarch64"],
        _ => return None,
    };
    let of_package = package.join("node_modules").join(scope);
    let beside_it = package.parent()?.join(scope);
    let mut fitting: Vec<PathBuf> = [of_package, beside_it]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let fits = machines.iter().any(|machine| name.contains(machine));
            name.contains("linux") && fits && !name.contains("musl")
        })
        .flat_map(|entry| [entry.path().join("bin").join(name), entry.path().join(name)])
        .filter(|path| matches!(kind_of(path), Ok(Kind::Executable)))
        .collect();
    // The plain build before `-baseline`, which is for older processors.
    fitting.sort_by_key(|path| path.as_os_str().len());
    fs::canonicalize(fitting.first()?).ok()
}

/// Below `/usr` the name that people know stays: a program that looks at its own
/// interpreter's path sees what it sees outside.
fn visible_name(candidate: &Path, real: &Path) -> PathBuf {
    let folder = candidate.parent().and_then(|up| fs::canonicalize(up).ok());
    match (folder, candidate.file_name()) {
        (Some(folder), Some(name)) if folder.starts_with(ALWAYS_THERE) => folder.join(name),
        _ => real.to_owned(),
    }
}

/// `bin/python3` beside `bin/python3.11`.
fn beside(real: &Path, runtime: Runtime) -> PathBuf {
    let plain = real.with_file_name(runtime.executable());
    match fs::canonicalize(&plain) {
        Ok(same) if same == real => plain,
        _ => real.to_owned(),
    }
}

/// The installation around `<prefix>/bin/<executable>`, where it is one.
fn prefix_of(real: &Path, runtime: Runtime) -> Option<PathBuf> {
    let bin = real.parent()?;
    let prefix = bin.parent().filter(|_| bin.ends_with("bin"))?;
    let is_installation = match runtime {
        Runtime::Python => fs::read_dir(prefix.join("lib"))
            .ok()?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("python3")),
        Runtime::Node => {
            prefix.join("include/node").is_dir() || prefix.join("lib/node_modules").is_dir()
        }
        // One file each.
        Runtime::Bun | Runtime::Deno | Runtime::Bash => false,
    };
    is_installation.then(|| prefix.to_owned())
}

/// Whether a folder holds an installation and nothing else of a person's.
fn is_dedicated(places: &Places, prefix: &Path) -> bool {
    let deep_enough = prefix.components().count() > 2;
    let in_home = places.home.as_ref().is_none_or(|home| {
        let home = fs::canonicalize(home).unwrap_or_else(|_| home.clone());
        let too_much = TOO_MUCH.iter().any(|name| prefix == home.join(name));
        !home.starts_with(prefix) && !too_much
    });
    // Homes of other people.
    let is_a_home = prefix.parent() == Some(Path::new("/home"));
    deep_enough && in_home && !is_a_home
}

fn readable_by_others(path: &Path) -> Result<(), String> {
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode());
    match mode {
        Ok(mode) if mode & 0o005 == 0o005 => Ok(()),
        _ => Err(format!(
            "is for its owner only: `chmod -R o+rX {}`",
            path.display()
        )),
    }
}
