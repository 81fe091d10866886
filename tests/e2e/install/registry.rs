//! Registries of a test's own, under whatever names pip and npm ask for: in an
//! internet where every name leads to the one origin, nothing has to be
//! configured.

use std::{fs, path::PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use isol8_e2e::harness::{
    host,
    internet::{Internet, PUBLIC},
    origin::Reply,
    stage::Stage,
};
use serde_json::json;

/// Writes a wheel: a zip of text files. Arguments: the archive, then name and
/// content of each member.
const ZIP: &str = "import sys, zipfile\n\
    with zipfile.ZipFile(sys.argv[1], 'w') as z:\n \
     for name, text in zip(sys.argv[2::2], sys.argv[3::2]): z.writestr(name, text)";

/// Writes a gzipped tar the same way.
const TAR: &str = "import io, sys, tarfile\n\
    with tarfile.open(sys.argv[1], 'w:gz') as t:\n \
     for name, text in zip(sys.argv[2::2], sys.argv[3::2]):\n  \
      m = tarfile.TarInfo(name); m.size = len(text.encode()); m.mode = 0o644\n  \
      t.addfile(m, io.BytesIO(text.encode()))";

fn archive(stage: &Stage, writer: &str, name: &str, members: &[(&str, &str)]) -> Vec<u8> {
    let path: PathBuf = stage.folder().join(name);
    let shown = path.display().to_string();
    let mut args = vec!["-c", writer, &shown];
    args.extend(members.iter().flat_map(|(name, text)| [*name, *text]));
    drop(host::tool("python3", &args));
    fs::read(&path).expect("it was written")
}

fn page(internet: &Internet, name: &str, file: &str) {
    let body =
        format!("<!DOCTYPE html><html><body><a href=\"/files/{file}\">{file}</a></body></html>");
    let kind = "text/html";
    internet.origin.serve(
        &format!("/simple/{name}/"),
        Reply {
            kind,
            body: body.into(),
        },
    );
}

fn file(internet: &Internet, path: &str, body: Vec<u8>) {
    let kind = "application/octet-stream";
    internet.origin.serve(path, Reply { kind, body });
}

/// Every name of this internet leads to the origin from now on.
pub(super) fn everywhere(internet: &Internet) {
    internet.resolver.answer_everything(PUBLIC.into());
}

/// Publishes a python package of one module, as a wheel.
pub(crate) fn wheel(stage: &Stage, internet: &Internet, name: &str, module: &str) {
    everywhere(internet);
    let archive_name = format!("{name}-1.0-py3-none-any.whl");
    let info = format!("{name}-1.0.dist-info");
    let (module_file, metadata, wheel, record) = (
        format!("{name}.py"),
        format!("{info}/METADATA"),
        format!("{info}/WHEEL"),
        format!("{info}/RECORD"),
    );
    let listed = format!("{module_file},,\n{metadata},,\n{wheel},,\n{record},,\n");
    let members = [
        (module_file.as_str(), module),
        (
            &metadata,
            &*format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
        ),
        (
            &wheel,
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (&record, &listed),
    ];
    let body = archive(stage, ZIP, &archive_name, &members);
    file(internet, &format!("/files/{archive_name}"), body);
    page(internet, name, &archive_name);
}

/// Publishes a python package that is built where it is installed: `build` runs
/// there, and what it returns is the text of the module.
pub(super) fn source(stage: &Stage, internet: &Internet, name: &str, build: &str) {
    everywhere(internet);
    let backend = format!(
        "import os, zipfile\n{build}\n\
        def get_requires_for_build_wheel(settings=None): return []\n\
        def build_wheel(folder, settings=None, metadata=None):\n \
         wheel = '{name}-1.0-py3-none-any.whl'\n \
         info = '{name}-1.0.dist-info/'\n \
         with zipfile.ZipFile(os.path.join(folder, wheel), 'w') as z:\n  \
          z.writestr('{name}.py', build())\n  \
          z.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')\n  \
          z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n  \
          z.writestr(info + 'RECORD', '')\n \
         return wheel\n"
    );
    let top = format!("{name}-1.0");
    let (project, code, info) = (
        format!("{top}/pyproject.toml"),
        format!("{top}/backend.py"),
        format!("{top}/PKG-INFO"),
    );
    let members = [
        (
            project.as_str(),
            "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
        ),
        (&code, &backend),
        (
            &info,
            &*format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
        ),
    ];
    let archive_name = format!("{top}.tar.gz");
    let body = archive(stage, TAR, &archive_name, &members);
    file(internet, &format!("/files/{archive_name}"), body);
    page(internet, name, &archive_name);
}

/// Publishes a node package whose files lie on a host of their own, with a
/// script that runs after it was installed.
pub(super) fn node(stage: &Stage, internet: &Internet, name: &str, index: &str, script: &str) {
    everywhere(internet);
    let about = json!({
        "name": name, "version": "1.0.0", "main": "index.js",
        "scripts": {"postinstall": "node after.js"},
    });
    let members = [
        ("package/package.json", &*about.to_string()),
        ("package/index.js", index),
        ("package/after.js", script),
    ];
    let archive_name = format!("{name}-1.0.0.tgz");
    let body = archive(stage, TAR, &archive_name, &members);
    let sum = host::tool(
        "sha512sum",
        &[&stage.folder().join(&archive_name).display().to_string()],
    );
    let sum = sum.split(' ').next().expect("a sum");
    let sum = HEXLOWER
        .decode(sum.as_bytes())
        .expect("a sum is hexadecimal");
    let mut version = about;
    version["dist"] = json!({
        "tarball": format!("https://tarballs.example/files/{archive_name}"),
        "integrity": format!("sha512-{}", BASE64.encode(&sum)),
    });
    version["hasInstallScript"] = json!(true);
    let document = json!({
        "name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
    });
    file(internet, &format!("/files/{archive_name}"), body);
    let kind = "application/json";
    internet.origin.serve(
        &format!("/{name}"),
        Reply {
            kind,
            body: document.to_string().into(),
        },
    );
}
