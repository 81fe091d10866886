//! Where the program comes from and what runs it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use isol8_core::{
    failure::Failure, module_kind::node_extension, request::MAX_CODE_BYTES, runtime::Runtime,
};

use super::{World, wrong};
use crate::args::RunArgs;

/// Longer extensions mean nothing to any interpreter.
const MAX_EXTENSION: usize = 8;
/// The extension of a node program that is an ES module.
const MODULE: &str = "mjs";

/// Where the program comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Inline(String),
    File(PathBuf),
    Stdin,
}

/// The program's text and the extension of its file; empty means the runtime's.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) code: Bytes,
    pub(super) extension: String,
}

/// `--eval`, then the file, then stdin. An empty `--eval` is a program.
pub(super) fn choose(args: &RunArgs) -> Result<Source, Failure> {
    match (&args.eval, &args.file) {
        (Some(_), Some(file)) => Err(wrong("two programs at once")
            .cause(format!(
                "both `--eval` and the file `{}` were given",
                file.display()
            ))
            .hint("leave one of them out; data for the program can come through `--stdin`")),
        (Some(code), None) => Ok(Source::Inline(code.clone())),
        (None, Some(file)) if file.as_os_str() == "-" => Ok(Source::Stdin),
        (None, Some(file)) => Ok(Source::File(file.clone())),
        (None, None) => Ok(Source::Stdin),
    }
}

/// `--runtime`, else the file's extension, else python.
pub(super) fn runtime(source: &Source, flag: Option<&str>) -> Result<Runtime, Failure> {
    if let Some(name) = flag {
        return name
            .parse()
            .map_err(|error: isol8_core::runtime::UnknownRuntime| {
                wrong(error.to_string()).hint("write it like `--runtime node`")
            });
    }
    let Source::File(path) = source else {
        return Ok(Runtime::Python);
    };
    let shown = path.display();
    if path.is_dir() {
        return Err(is_directory(path));
    }
    match extension(path) {
        Some(extension) => Runtime::from_extension(&extension).ok_or_else(|| {
            wrong(format!("cannot tell which runtime `{shown}` is for"))
                .cause(format!("no runtime claims the extension `.{extension}`"))
        }),
        None => Err(wrong(format!("cannot tell which runtime `{shown}` is for"))
            .cause("its name has no extension")),
    }
    .map_err(|failure| failure.hint("say it with `--runtime python|node|bun|deno|bash`"))
}

/// Reads the program that `runtime` will run.
pub(super) fn read(
    source: &Source,
    runtime: Runtime,
    world: &mut World<'_>,
) -> Result<Program, Failure> {
    match source {
        Source::Inline(code) => {
            check_size("the program", code.len())?;
            Ok(nameless(Bytes::copy_from_slice(code.as_bytes()), runtime))
        }
        Source::Stdin => {
            let code = (world.read_stdin)(read_limit())
                .map_err(|error| wrong("cannot read the program from stdin").because(&error))?;
            check_size("the program on stdin", code.len())?;
            Ok(nameless(code.into(), runtime))
        }
        Source::File(path) => Ok(Program {
            code: read_file(path)?,
            extension: extension(path)
                .filter(|extension| extension.len() <= MAX_EXTENSION)
                .unwrap_or_default(),
        }),
    }
}

/// A program without a file. `require` and `import` both work in one for node,
/// also where node cannot tell them apart by itself.
fn nameless(code: Bytes, runtime: Runtime) -> Program {
    let module = runtime == Runtime::Node
        && str::from_utf8(&code).is_ok_and(|code| node_extension(code) == MODULE);
    let extension = if module { MODULE } else { "" };
    Program {
        code,
        extension: extension.to_owned(),
    }
}

/// One byte more than is taken, so that too much is noticed.
fn read_limit() -> u64 {
    u64::try_from(MAX_CODE_BYTES).map_or(u64::MAX, |most| most + 1)
}

fn read_file(path: &Path) -> Result<Bytes, Failure> {
    let shown = path.display();
    let cannot = |error: &io::Error| {
        let failure = wrong(format!("cannot read `{shown}`")).because(error);
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("check the path; inline code goes with `-e`"),
            io::ErrorKind::PermissionDenied => {
                failure.hint(format!("check who may read it: `ls -l {shown}`"))
            }
            _ => failure,
        }
    };
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let meta = file.metadata().map_err(|error| cannot(&error))?;
    if meta.is_dir() {
        return Err(is_directory(path));
    }
    if meta.is_file() {
        check_size(
            &format!("`{shown}`"),
            usize::try_from(meta.len()).unwrap_or(usize::MAX),
        )?;
    }
    let mut code = Vec::new();
    file.take(read_limit())
        .read_to_end(&mut code)
        .map_err(|error| cannot(&error))?;
    check_size(&format!("`{shown}`"), code.len())?;
    Ok(code.into())
}

fn is_directory(path: &Path) -> Failure {
    wrong(format!("`{}` is a directory", path.display())).hint("name the program's file")
}

fn check_size(what: &str, bytes: usize) -> Result<(), Failure> {
    if bytes <= MAX_CODE_BYTES {
        return Ok(());
    }
    let most = MAX_CODE_BYTES >> 20;
    Err(wrong(format!("{what} has more than {most} MiB"))
        .hint("pass data through stdin: `isol8 run program.py < data`"))
}

/// The extension in lower case; `None` where it is no plain word.
fn extension(path: &Path) -> Option<String> {
    let text = path.extension()?.to_str()?.to_ascii_lowercase();
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then_some(text)
}
