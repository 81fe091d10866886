//! Homes as version managers leave them, made of files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const ELF: &[u8] = b"\x7fELF and so on";
const SHIM: &[u8] = b"#!/usr/bin/env node\n";

struct Home {
    folder: tempfile::TempDir,
    places: Places,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap().join("home/me");
        fs::create_dir_all(&home).unwrap();
        let places = Places {
            path: vec![home.join("on-path")],
            home: Some(home),
            pyenv_version: None,
            strangers: true,
            hidden: &[],
        };
        Self { folder, places }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.places.home.as_ref().unwrap().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn link(&self, to: &str, at: &str) -> &Self {
        let at = self.at(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(self.at(to), at).unwrap();
        self
    }

    /// What stands for `runtime` when only what this home has counts.
    #[track_caller]
    fn check(&self, runtime: Runtime, program: &str, mount: &str) {
        let found = self.places.find(runtime).unwrap();
        assert_eq!(found.program, self.at(program));
        assert_eq!(found.mounts, [self.same_path(mount)]);
    }

    fn same_path(&self, mount: &str) -> Mount {
        let (from, at) = (self.at(mount), self.at(mount));
        Mount { from, at }
    }

    /// Why the candidate at `path` is passed over.
    fn refusal(&self, runtime: Runtime, path: &str) -> String {
        resolve::resolve(&self.places, runtime, &self.at(path)).unwrap_err()
    }
}

fn pyenv(home: &Home) -> &Home {
    home.put(".pyenv/shims/python3", SHIM)
        .put(".pyenv/versions/3.9.18/bin/python3", ELF)
        .put(".pyenv/versions/3.9.18/lib/python3.9/os.py", b"")
        .put(".pyenv/versions/3.11.7/bin/python3.11", ELF)
        .put(".pyenv/versions/3.11.7/lib/python3.11/os.py", b"")
        .link(
            ".pyenv/versions/3.11.7/bin/python3.11",
            ".pyenv/versions/3.11.7/bin/python3",
        )
}

#[test]
fn a_shim_of_pyenv_leads_to_the_global_version() {
    let home = Home::new();
    pyenv(&home).put(".pyenv/version", b"3.11.7\n");
    home.check(
        Runtime::Python,
        ".pyenv/versions/3.11.7/bin/python3",
        ".pyenv/versions/3.11.7",
    );
}

#[test]
fn a_short_version_and_the_environment_are_honoured() {
    let mut home = Home::new();
    pyenv(&home).put(".pyenv/version", b"3.9\n");
    home.check(
        Runtime::Python,
        ".pyenv/versions/3.9.18/bin/python3",
        ".pyenv/versions/3.9.18",
    );
    home.places.pyenv_version = Some("3.11.7".into());
    home.check(
        Runtime::Python,
        ".pyenv/versions/3.11.7/bin/python3",
        ".pyenv/versions/3.11.7",
    );
    home.places.pyenv_version = Some("../../..".into());
    let why = home.refusal(Runtime::Python, ".pyenv/shims/python3");
    assert!(why.contains("no global version"), "{why}");
}

#[test]
fn the_newest_node_of_nvm_is_taken_or_the_default() {
    let home = Home::new();
    for version in ["v9.1.0", "v20.3.1", "v18.19.0"] {
        let prefix = format!(".nvm/versions/node/{version}");
        home.put(&format!("{prefix}/bin/node"), ELF)
            .put(&format!("{prefix}/include/node/node.h"), b"");
    }
    home.check(
        Runtime::Node,
        ".nvm/versions/node/v20.3.1/bin/node",
        ".nvm/versions/node/v20.3.1",
    );
    home.put(".nvm/alias/default", b"18\n");
    home.check(
        Runtime::Node,
        ".nvm/versions/node/v18.19.0/bin/node",
        ".nvm/versions/node/v18.19.0",
    );
}

#[test]
fn single_files_bring_nothing_else_along() {
    let home = Home::new();
    home.put(".bun/bin/bun", ELF).put(".deno/bin/deno", ELF);
    home.check(Runtime::Bun, ".bun/bin/bun", ".bun/bin/bun");
    home.check(Runtime::Deno, ".deno/bin/deno", ".deno/bin/deno");
}

#[test]
fn an_interpreter_is_another_one_after_an_upgrade() {
    let home = Home::new();
    home.put(".bun/bin/bun", ELF)
        .put(".nvm/versions/node/v18.19.0/bin/node", ELF);
    for (runtime, path) in [
        (Runtime::Bun, ".bun/bin/bun"),
        (Runtime::Node, ".nvm/versions/node/v18.19.0/bin/node"),
    ] {
        let found = home.places.find(runtime).unwrap();
        let before = found.identity().unwrap();
        assert_eq!(found.identity().unwrap(), before);
        home.put(path, &[ELF, b"more"].concat());
        assert_ne!(found.identity().unwrap(), before, "{runtime}");
        fs::remove_file(home.at(path)).unwrap();
        assert!(found.identity().is_err());
    }
}

#[test]
fn a_script_of_npm_leads_to_the_executable_of_its_package() {
    let home = Home::new();
    let machine = match env::consts::ARCH {
        "x86_64" => "x64",
        _ => "arm64",
    };
    let deno = format!("g/lib/node_modules/deno/node_modules/@deno/linux-{machine}-glibc/deno");
    let baseline = format!("g/lib/node_modules/@oven/bun-linux-{machine}-baseline/bin/bun");
    let bun = format!("g/lib/node_modules/@oven/bun-linux-{machine}/bin/bun");
    let musl = format!("g/lib/node_modules/@oven/bun-linux-{machine}-musl/bin/bun");
    home.put(".npmrc", b"prefix=~/g\n")
        .put("g/lib/node_modules/deno/bin.cjs", SHIM)
        .put("g/lib/node_modules/bun/bin/bun.exe", b"echo not installed")
        .put(&deno, ELF)
        .put(&baseline, ELF)
        .put(&musl, ELF)
        .put(&bun, ELF)
        .link("g/lib/node_modules/deno/bin.cjs", "g/bin/deno")
        .link("g/lib/node_modules/bun/bin/bun.exe", "g/bin/bun");
    home.check(Runtime::Deno, &deno, &deno);
    home.check(Runtime::Bun, &bun, &bun);
}

#[test]
fn a_whole_home_is_never_mounted() {
    let home = Home::new();
    home.put("bin/python3", ELF)
        .put("lib/python3.11/os.py", b"");
    let found = resolve::resolve(&home.places, Runtime::Python, &home.at("bin/python3")).unwrap();
    assert_eq!(found.mounts, [home.same_path("bin/python3")]);

    home.put(".local/bin/python3", ELF)
        .put(".local/lib/python3.11/os.py", b"");
    let program = home.at(".local/bin/python3");
    let found = resolve::resolve(&home.places, Runtime::Python, &program).unwrap();
    assert_eq!(found.mounts, [home.same_path(".local/bin/python3")]);
}

#[test]
fn what_only_its_owner_can_read_is_passed_over() {
    let home = Home::new();
    home.put("on-path/deno", ELF);
    let path = home.at("on-path/deno");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let why = home.refusal(Runtime::Deno, "on-path/deno");
    assert!(why.contains("chmod"), "{why}");
    let own = Places {
        strangers: false,
        ..home.places.clone()
    };
    assert!(resolve::resolve(&own, Runtime::Deno, &path).is_ok());
}

#[test]
fn a_shim_of_another_manager_is_passed_over() {
    let home = Home::new();
    home.put("on-path/node", b"#!/bin/sh\nexec mise x -- node\n");
    let why = home.refusal(Runtime::Node, "on-path/node");
    assert!(why.contains("script"), "{why}");
}

#[test]
fn what_a_jail_would_hide_is_mounted_elsewhere() {
    let mut home = Home::new();
    home.put("on-path/deno", ELF)
        .put("py/bin/python3", ELF)
        .put("py/lib/python3.11/os.py", b"");
    home.places.hidden = &["/"];
    let moved = |runtime, path: &str| {
        let found = resolve::resolve(&home.places, runtime, &home.at(path)).unwrap();
        let [mount] = <[Mount; 1]>::try_from(found.mounts).unwrap();
        (found.program, mount.from, mount.at)
    };
    assert_eq!(
        moved(Runtime::Deno, "on-path/deno"),
        (
            "/isol8/host/deno".into(),
            home.at("on-path/deno"),
            "/isol8/host/deno".into()
        )
    );
    assert_eq!(
        moved(Runtime::Python, "py/bin/python3"),
        (
            "/isol8/host/python3/bin/python3".into(),
            home.at("py"),
            "/isol8/host/python3".into()
        )
    );
}

#[test]
fn a_missing_interpreter_says_how_to_get_it() {
    let home = Home::new();
    home.put("on-path/deno", SHIM);
    // Whatever the host itself has: this asks for deno alone, and where the host
    // has one there is nothing to see.
    match home.places.find(Runtime::Deno) {
        Ok(found) => assert!(found.program.starts_with("/usr"), "{found:?}"),
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::InterpreterMissing);
            assert!(failure.causes[0].contains("is a script"), "{failure}");
            assert!(failure.hint.unwrap().contains("npm install"));
        }
    }
    drop(home.folder);
}

#[test]
fn the_interpreters_folder_comes_first_on_its_path() {
    let at = |program: &str| Installed {
        program: program.into(),
        mounts: Vec::new(),
    };
    assert_eq!(
        at("/opt/py/bin/python3").search_path(),
        "/opt/py/bin:/usr/local/bin:/usr/bin:/bin"
    );
    assert_eq!(
        at("/usr/bin/python3").search_path(),
        "/usr/local/bin:/usr/bin:/bin"
    );
}
