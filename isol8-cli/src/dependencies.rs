//! `dependencies` of the configuration file, changed where it stands: everything
//! else in the file stays as it is, to the byte.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use isol8_core::{
    config::{layer::Layer, search::Trust},
    failure::{Failure, FailureKind},
    package::Package,
    runtime::Runtime,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::settings::{self, Found};

/// A file's permissions where it is made.
const MODE: u32 = 0o644;

/// A changed file that is not written yet.
#[derive(Debug)]
pub(crate) struct Change {
    path: PathBuf,
    /// What stood there when it was prepared, if there was a file.
    before: Option<String>,
    text: String,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    dependencies: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Lists<'a>(#[serde(borrow)] BTreeMap<&'a str, &'a RawValue>);

impl Change {
    /// Puts these lists into the file that is in force, or into a new one of the
    /// person's own.
    ///
    /// # Errors
    /// Where there is no place for a file, a link there leads nowhere, or what came
    /// out is no configuration.
    pub(crate) fn prepare(
        found: Option<Found>,
        lists: &BTreeMap<Runtime, Vec<Package>>,
    ) -> Result<Self, Failure> {
        let (path, trust, before) = match found {
            Some(Found { path, trust, text }) => (path, trust, Some(text)),
            None => {
                let path = settings::own_file().ok_or_else(no_place)?;
                not_a_lost_link(&path)?;
                (path, Trust::Full, None)
            }
        };
        let mut changed = before.clone().unwrap_or_else(|| "{}\n".to_owned());
        for (runtime, packages) in lists {
            changed = with(&changed, *runtime, packages).map_err(|error| {
                let message = format!("cannot change `{}`", path.display());
                Failure::new(FailureKind::InvalidRequest, message).because(&error)
            })?;
        }
        Layer::parse(&changed, path.clone(), trust)?;
        Ok(Self {
            path,
            before,
            text: changed,
        })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it, whole or not at all. A link stays one.
    ///
    /// # Errors
    /// Why it could not be written; also when the file is not what it was, since
    /// what somebody else wrote while images were built would be lost.
    pub(crate) fn write(&self) -> Result<(), Failure> {
        not_a_lost_link(&self.path)?;
        let now = match fs::read_to_string(&self.path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.cannot_write(&error)),
        };
        if now != self.before {
            let message = format!("`{}` was changed meanwhile", self.path.display());
            return Err(Failure::new(FailureKind::HostLacks, message)
                .cause("what was written there while the images were built is kept")
                .hint("type the same `isol8 setup` again; the images are built"));
        }
        write(&self.path, &self.text).map_err(|error| self.cannot_write(&error))
    }

    fn cannot_write(&self, error: &io::Error) -> Failure {
        let message = format!("cannot write `{}`", self.path.display());
        Failure::new(FailureKind::HostLacks, message)
            .because(error)
            .hint("the images are built; put the packages into `dependencies` by hand")
    }
}

/// A file in the place of such a link would leave its owner with two.
fn not_a_lost_link(path: &Path) -> Result<(), Failure> {
    match fs::read_link(path) {
        Ok(target) if !path.exists() => {
            let message = format!("`{}` is a link that leads nowhere", path.display());
            let hint = "make that file, with `{}` in it, or remove the link";
            Err(Failure::new(FailureKind::HostLacks, message)
                .cause(format!("there is no `{}`", target.display()))
                .hint(hint))
        }
        _ => Ok(()),
    }
}

fn no_place() -> Failure {
    Failure::new(
        FailureKind::HostLacks,
        "there is no place for a configuration file",
    )
    .cause("neither ISOL8_CONFIG, XDG_CONFIG_HOME nor HOME is set")
    .hint("set ISOL8_CONFIG to a file of your own")
}

/// The text with one list replaced or added.
fn with(text: &str, runtime: Runtime, packages: &[Package]) -> Result<String, serde_json::Error> {
    let names: Vec<&str> = packages.iter().map(Package::as_str).collect();
    let list = serde_json::to_string(&names)?;
    let entry = format!("\"{runtime}\": {list}");
    let file: File<'_> = serde_json::from_str(text)?;
    let Some(dependencies) = file.dependencies else {
        let object = range(text, text.trim());
        let entry = format!("\"dependencies\": {{ {entry} }}");
        return Ok(inserted(text, object, &entry));
    };
    let Lists(lists) = serde_json::from_str(dependencies.get())?;
    Ok(match lists.get(runtime.name()) {
        Some(old) => {
            let Range { start, end } = range(text, old.get());
            format!("{}{list}{}", &text[..start], &text[end..])
        }
        None => inserted(text, range(text, dependencies.get()), &entry),
    })
}

/// Where `part`, which was borrowed from `text`, is in it.
fn range(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

/// Adds an entry at the end of the object at this place, in lines if it has lines.
fn inserted(text: &str, object: Range<usize>, entry: &str) -> String {
    let inside = &text[object.start + 1..object.end - 1];
    let kept = inside.trim_end();
    let first = inside.trim_start();
    let indent = inside[..inside.len() - first.len()].rsplit_once('\n');
    let (separator, after) = match indent {
        // There is nothing in it yet.
        _ if first.is_empty() && object.start == 0 => ("\n  ".to_owned(), "\n"),
        _ if first.is_empty() => (" ".to_owned(), " "),
        Some((_, indent)) => (format!(",\n{indent}"), &inside[kept.len()..]),
        None => (", ".to_owned(), &inside[kept.len()..]),
    };
    let (head, tail) = (&text[..=object.start], &text[object.end - 1..]);
    format!("{head}{kept}{separator}{entry}{after}{tail}")
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mode = fs::metadata(&path).map_or(MODE, |meta| meta.permissions().mode() & 0o777);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    let written = write_new(&new, mode, text).and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        drop(fs::remove_file(&new));
    }
    written
}

fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    // The umask may have taken something away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, packages: &[&str], expected: &str) {
        let packages = Package::parse_all(Runtime::Python, packages).expect("good");
        let changed = with(text, Runtime::Python, &packages).expect("a file");
        assert_eq!(changed, expected);
        let again = with(&changed, Runtime::Python, &packages).expect("a file");
        assert_eq!(again, expected, "twice is once");
        Layer::parse(&changed, "/c.json".into(), Trust::Full).expect("a configuration");
    }

    #[test]
    fn the_rest_of_the_file_stays_as_it_is() {
        let file = |list: &str| {
            format!(
                "{{\n    \"debug\" : true,\n\t\"dependencies\": {{\"python\":{list},\"bun\": []}}\n , \"maxConcurrent\":4}}\n\n"
            )
        };
        check(
            &file("[ \"six\" ]"),
            &["six", "attrs"],
            &file("[\"attrs\",\"six\"]"),
        );
    }

    #[test]
    fn a_list_that_is_not_there_is_added() {
        let entry = r#""dependencies": { "python": ["six"] }"#;
        let cases = [
            ("{}".to_owned(), format!("{{\n  {entry}\n}}")),
            ("{ }\n".to_owned(), format!("{{\n  {entry}\n}}\n")),
            (
                "{\n    \"debug\": true\n}\n".to_owned(),
                format!("{{\n    \"debug\": true,\n    {entry}\n}}\n"),
            ),
            (
                r#"{ "debug": true }"#.to_owned(),
                format!(r#"{{ "debug": true, {entry} }}"#),
            ),
            (
                "{\n  \"dependencies\": {\n    \"node\": [\"a\"]\n  }\n}".to_owned(),
                "{\n  \"dependencies\": {\n    \"node\": [\"a\"],\n    \"python\": [\"six\"]\n  }\n}"
                    .to_owned(),
            ),
            (
                r#"{"dependencies":{}}"#.to_owned(),
                r#"{"dependencies":{ "python": ["six"] }}"#.to_owned(),
            ),
        ];
        for (before, after) in cases {
            check(&before, &["six"], &after);
        }
    }

    #[test]
    fn a_file_is_written_whole_and_a_link_stays() {
        let folder = tempfile::tempdir().expect("room");
        let (real, link) = (folder.path().join("real.json"), folder.path().join("link"));
        fs::write(&real, "{}").expect("room");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).expect("ours");
        std::os::unix::fs::symlink(&real, &link).expect("room");
        write(&link, "{ }").expect("room");
        assert_eq!(fs::read_to_string(&real).expect("it is there"), "{ }");
        assert!(link.is_symlink());
        let meta = fs::metadata(&real).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let new = folder.path().join("a/b/config.json");
        write(&new, "{}").expect("folders are made");
        let count = |path: &Path| fs::read_dir(path).expect("ours").count();
        assert_eq!(count(folder.path()), 3);
        assert_eq!(count(&folder.path().join("a/b")), 1);
    }

    #[test]
    fn what_was_written_meanwhile_is_kept() {
        let folder = tempfile::tempdir().expect("room");
        let path = folder.path().join("config.json");
        let lists = BTreeMap::from([(Runtime::Python, Vec::new())]);
        let prepare = |text: &str| {
            fs::write(&path, text).expect("room");
            let found = Found {
                path: path.clone(),
                trust: Trust::Full,
                text: text.to_owned(),
            };
            Change::prepare(Some(found), &lists).expect("a configuration")
        };
        let change = prepare("{}");
        fs::write(&path, r#"{"debug": true}"#).expect("room");
        let failure = change.write().expect_err("it was changed");
        assert!(failure.message.ends_with("was changed meanwhile"));
        let kept = fs::read_to_string(&path).expect("it is there");
        assert_eq!(kept, r#"{"debug": true}"#);

        let change = prepare("{}");
        fs::remove_file(&path).expect("ours");
        change.write().expect_err("it was removed");
        assert!(!path.exists());
        prepare("{}").write().expect("it is what it was");
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, "{\n  \"dependencies\": { \"python\": [] }\n}");
    }
}
