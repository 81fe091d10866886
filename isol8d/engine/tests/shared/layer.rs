//! Installed packages that are mounted where they are looked for.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use isol8_core::{
    failure::FailureKind, ids::SandboxId, layer::LayerId, runtime::Runtime, sandbox::SandboxSpec,
};
use isol8_engine::{Engine, Place};

use super::Ready;

fn layered(spec: &SandboxSpec, runtime: Runtime, layer: &LayerId) -> SandboxSpec {
    let mut spec = spec.clone();
    spec.id = SandboxId::random();
    spec.key.runtime = runtime;
    spec.key.layer = Some(layer.clone());
    spec
}

/// A layer with these files, as the daemon leaves one: readable by everybody.
pub(crate) fn make(place: &Place, name: u8, files: &[(&str, &str)]) -> (LayerId, PathBuf) {
    let id = LayerId::new(&[name; 32]);
    let tree = place.layers.join(id.as_str()).join("tree");
    for (path, content) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }
    open(&place.layers.join(id.as_str()));
    (id, tree)
}

pub(crate) fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn open(path: &Path) {
    let folder = fs::metadata(path).unwrap().is_dir();
    let mode = if folder { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if folder {
        for entry in fs::read_dir(path).unwrap() {
            open(&entry.unwrap().path());
        }
    }
}

pub(crate) async fn one_that_is_missing_is_named(engine: &dyn Engine, spec: &SandboxSpec) {
    let id = LayerId::new(&[0xee; 32]);
    let spec = layered(spec, Runtime::Python, &id);
    let failure = engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.message.contains(id.as_str()), "{failure}");
}

/// Where this python looks for packages of its user.
async fn user_site(engine: &dyn Engine, spec: &SandboxSpec) -> String {
    let mut spec = spec.clone();
    spec.key.runtime = Runtime::Python;
    let sandbox = engine.create(&spec).await.unwrap();
    let mut ready = Ready::of(sandbox, &spec.key, false).await;
    let site = ready
        .run("import site; print(site.getusersitepackages())")
        .await;
    engine.destroy(&spec.id).await.unwrap();
    let inside = site.trim().strip_prefix("/sandbox/.local/").unwrap();
    inside.to_owned()
}

/// Python finds packages and path files of a layer, parked and plain, and sees
/// the same both times.
pub(crate) async fn python_imports_from_one(
    engine: &dyn Engine,
    place: &Place,
    spec: &SandboxSpec,
) {
    let site = user_site(engine, spec).await;
    let at = |name: &str| format!("{site}/{name}");
    let (id, _) = make(
        place,
        1,
        &[
            (&at("shapes/__init__.py"), "sides = 3\n"),
            (&at("beside.pth"), "beside\nimport sys; sys.loaded = 1\n"),
            (&at("beside/further.py"), "name = 'further'\n"),
            ("bin/tool", "#!/bin/sh\necho ran\n"),
        ],
    );
    let program = "import shapes, further, sys\n\
        print(shapes.sides, further.name, sys.loaded, shapes.__file__)\n\
        print(*sys.path, sep='\\n')\n";
    let mut seen = Vec::new();
    for park in [true, false] {
        let spec = layered(spec, Runtime::Python, &id);
        let sandbox = engine.create(&spec).await.unwrap();
        let mut ready = Ready::of(sandbox, &spec.key, park).await;
        seen.push(ready.run(program).await);
        engine.destroy(&spec.id).await.unwrap();
    }
    let first = format!("3 further 1 /sandbox/.local/{site}/shapes/__init__.py\n/sandbox\n");
    assert!(seen[0].starts_with(&first), "{}", seen[0]);
    assert_eq!(seen[0], seen[1], "parked and plain");
}

/// Nothing that a program does changes a layer, for itself or for others.
pub(crate) async fn one_cannot_be_changed(engine: &dyn Engine, place: &Place, spec: &SandboxSpec) {
    let (id, tree) = make(
        place,
        2,
        &[("lib/f", "whole\n"), ("bin/tool", "echo ran\n")],
    );
    symlink("f", tree.join("lib/link")).unwrap();
    let program = r#"
import ctypes, os, subprocess
layer = "/sandbox/.local"
print(open(layer + "/lib/link").read(), end="")
def attempt(what, act):
    try:
        act()
        print(what, "was possible")
    except OSError:
        pass
attempt("append", lambda: open(layer + "/lib/f", "a"))
attempt("create", lambda: open(layer + "/new", "x"))
attempt("make a folder", lambda: os.mkdir(layer + "/folder"))
attempt("unlink", lambda: os.unlink(layer + "/lib/f"))
attempt("chmod", lambda: os.chmod(layer + "/lib/f", 0o777))
attempt("chmod the folder", lambda: os.chmod(layer, 0o777))
attempt("utime", lambda: os.utime(layer + "/lib/f"))
attempt("rename it away", lambda: os.rename(layer, "/sandbox/away"))
attempt("remove it", lambda: os.rmdir(layer))
attempt("link out of it", lambda: os.link(layer + "/lib/f", "/sandbox/hard"))
attempt("set an attribute", lambda: os.setxattr(layer + "/lib/f", "user.x", b"x"))
libc = ctypes.CDLL(None, use_errno=True)
def mount(flags):
    if libc.mount(b"none", layer.encode(), None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
attempt("remount", lambda: mount(32))
attempt("remount the bind", lambda: mount(32 | 4096))
def umount():
    if libc.umount2(layer.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "umount")
attempt("unmount", umount)
open("/sandbox/own", "w").write("x")
options = [line.split() for line in open("/proc/self/mountinfo") if " /sandbox/.local " in line]
print(len(options), "ro" in options[0][5].split(","))
"#;
    for writable in [false, true] {
        let mut spec = layered(spec, Runtime::Python, &id);
        spec.key.writable = writable;
        let sandbox = engine.create(&spec).await.unwrap();
        let mut ready = Ready::of(sandbox, &spec.key, false).await;
        let said = ready.run(program).await;
        assert_eq!(said, "whole\n1 True\n", "writable: {writable}");
        engine.destroy(&spec.id).await.unwrap();
    }
    assert_eq!(fs::read_to_string(tree.join("lib/f")).unwrap(), "whole\n");
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 2);
}

/// `require` and `import` find what is mounted, parked and plain.
pub(crate) async fn node_loads_from_one(engine: &dyn Engine, place: &Place, spec: &SandboxSpec) {
    let (id, tree) = make(
        place,
        3,
        &[
            ("square/package.json", r#"{"name":"square","main":"it.js"}"#),
            ("square/it.js", "exports.sides = 4;\n"),
            (
                "modern/package.json",
                r#"{"name":"modern","type":"module","exports":"./it.js"}"#,
            ),
            ("modern/it.js", "export const name = 'modern';\n"),
            ("tool/cli.js", "#!/usr/bin/env node\nconsole.log('tool');\n"),
        ],
    );
    fs::create_dir(tree.join(".bin")).unwrap();
    symlink("../tool/cli.js", tree.join(".bin/tool")).unwrap();
    make_executable(&tree.join("tool/cli.js"));
    let common = "console.log(require('square').sides, require.resolve('square'));
        console.log(require('child_process').execSync('tool').toString().trim());
        import('modern').then(({ name }) => console.log(name));\n";
    let module = "import { sides } from 'square'; import { name } from 'modern';
        console.log(sides, name);\n";
    for park in [true, false] {
        for (extension, program, expected) in [
            (
                "js",
                common,
                "4 /sandbox/node_modules/square/it.js\ntool\nmodern\n",
            ),
            ("mjs", module, "4 modern\n"),
        ] {
            let mut spec = layered(spec, Runtime::Node, &id);
            spec.limits.memory = isol8_core::quantity::ByteSize::mib(512);
            let sandbox = engine.create(&spec).await.unwrap();
            let mut ready = Ready::of(sandbox, &spec.key, park).await;
            ready.start(extension, program).await;
            assert_eq!(ready.output().await, expected, "parked: {park}");
            engine.destroy(&spec.id).await.unwrap();
        }
    }
}
