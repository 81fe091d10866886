//! What is typed for a file: `NAME:PATH` in a session, anything else here.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use isol8_core::{failure::Failure, session::SessionName};

use super::wrong;
use crate::plan::session_name;

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `-`: our stdin or stdout.
    Standard,
    /// On this host.
    Here(PathBuf),
    /// In a session.
    Inside(Inside),
}

/// A file or folder in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) session: SessionName,
    /// Absolute, of plain names.
    pub(super) path: Vec<u8>,
    /// What is meant is a folder, as it is written.
    pub(super) folder: bool,
    /// What is meant is what is in the folder: `NAME:PATH/.`.
    pub(super) contents: bool,
}

/// Where a path that is not absolute begins.
const HOME: &[u8] = b"/sandbox";

impl Place {
    /// A colon makes a session of what is before it, unless a `/` is: `./a:b` is
    /// a file here.
    ///
    /// # Errors
    /// What is before the colon is no name, or the path leads up.
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Standard);
        }
        if bytes.is_empty() {
            return Err(wrong("a path must not be empty")
                .hint("`.` is the folder you are in, `NAME:` the one of a session"));
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon {
            Some(colon) if colon > 0 && !bytes[..colon].contains(&b'/') => {
                let name = String::from_utf8_lossy(&bytes[..colon]);
                let session = session_name(&name, "work:/sandbox/data.csv").map_err(|failure| {
                    let whole = text.to_string_lossy();
                    failure.cause(format!(
                        "with a colon, `{}` is a file in a session; a file here is written \
                         with a folder, as in `./a:b`",
                        whole.escape_debug()
                    ))
                })?;
                Inside::new(session, &bytes[colon + 1..]).map(Self::Inside)
            }
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

impl Inside {
    fn new(session: SessionName, typed: &[u8]) -> Result<Self, Failure> {
        let shown = || String::from_utf8_lossy(typed).escape_debug().to_string();
        if typed.contains(&0) {
            return Err(wrong(format!("`{}` is no path", shown())));
        }
        let mut path = match typed.first() {
            Some(b'/') => Vec::new(),
            _ => HOME.to_vec(),
        };
        let mut last: &[u8] = b"";
        for name in typed.split(|byte| *byte == b'/') {
            last = name;
            match name {
                b"" | b"." => {}
                b".." => {
                    return Err(wrong(format!("`{}` leads up with `..`", shown()))
                        .hint("write the path as it is below /sandbox or /tmp"));
                }
                name => {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
            }
        }
        Ok(Self {
            session,
            path,
            folder: matches!(last, b"" | b"."),
            contents: last == b".",
        })
    }

    /// The last name of the path; none is in `NAME:/`.
    pub(super) fn name(&self) -> &[u8] {
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        slash.map_or(&[], |slash| &self.path[slash + 1..])
    }

    /// The path of what has this name in it.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        [&self.path[..], b"/", name].concat()
    }

    /// As it may be typed again.
    pub(super) fn shown(&self) -> String {
        let path = String::from_utf8_lossy(&self.path);
        format!("{}:{}", self.session, path.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &Expect) {
        let shown = match Place::parse(OsStr::new(text)) {
            Ok(Place::Standard) => "standard".to_owned(),
            Ok(Place::Here(path)) => format!("here {}", path.display()),
            Ok(Place::Inside(inside)) => {
                let kind = match (inside.folder, inside.contents) {
                    (_, true) => "contents of ",
                    (true, false) => "folder ",
                    (false, false) => "",
                };
                let name = String::from_utf8_lossy(inside.name()).into_owned();
                format!("{kind}{} ({name})", inside.shown())
            }
            Err(failure) => failure.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_colon_parts_a_session_from_its_path() {
        check("-", &expect!["standard"]);
        check("data.csv", &expect!["here data.csv"]);
        check("./a:b", &expect!["here ./a:b"]);
        check("/tmp/a:b", &expect!["here /tmp/a:b"]);
        check(":b", &expect!["here :b"]);
        check("./-", &expect!["here ./-"]);
        check(
            "work:/sandbox/a.txt",
            &expect!["work:/sandbox/a.txt (a.txt)"],
        );
        check("work:a.txt", &expect!["work:/sandbox/a.txt (a.txt)"]);
        check("work:/tmp/a:b", &expect!["work:/tmp/a:b (a:b)"]);
        check("work:-", &expect!["work:/sandbox/- (-)"]);
        check("work:", &expect!["folder work:/sandbox (sandbox)"]);
        check("work:/sandbox/", &expect!["folder work:/sandbox (sandbox)"]);
        check("work:/", &expect!["folder work: ()"]);
        check("work:/sandbox//x/./y", &expect!["work:/sandbox/x/y (y)"]);
        check("work:x/.", &expect!["contents of work:/sandbox/x (x)"]);
        check("work:.", &expect!["contents of work:/sandbox (sandbox)"]);
    }

    #[test]
    fn what_has_no_place_is_told() {
        check("", &expect!["a path must not be empty"]);
        check(
            "work:/sandbox/../etc",
            &expect!["`/sandbox/../etc` leads up with `..`"],
        );
        check("work:..", &expect!["`..` leads up with `..`"]);
        check(
            "my work:/x",
            &expect![[r"
            `my work` is not a session name: a name has 1 to 64 letters, digits and `._-`, a letter or digit first: with a colon, `my work:/x` is a file in a session; a file here is written with a folder, as in `./a:b`"]],
        );
        check(
            "-x:/x",
            &expect![[r"
            `-x` is not a session name: a name has 1 to 64 letters, digits and `._-`, a letter or digit first: with a colon, `-x:/x` is a file in a session; a file here is written with a folder, as in `./a:b`"]],
        );
    }

    #[test]
    fn paths_are_bytes() {
        let typed = std::ffi::OsString::from_vec(b"work:/sandbox/\xff".to_vec());
        let Ok(Place::Inside(inside)) = Place::parse(&typed) else {
            panic!("it is in a session");
        };
        assert_eq!(inside.path, b"/sandbox/\xff");
        assert_eq!(inside.name(), b"\xff");
    }
}
