//! Where a file of a session is, from the words of a client.

use std::fmt;

use bytes::Bytes;
use isol8_core::failure::Failure;
use isol8_proto::init::Root;

use crate::{convert::invalid, status};

/// The kernel takes no longer path (PATH_MAX, without its NUL).
const MAX_PATH_BYTES: usize = 4095;

/// Nor a longer name in it (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;

/// Of a path in a message: what is longer is cut.
const SHOWN_BYTES: usize = 300;

/// A file or folder below one of the two roots: plain names, no way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    root: Root,
    path: Bytes,
}

impl Place {
    /// Takes `/sandbox/…`, `/tmp/…`, or a path below /sandbox. `.` and doubled
    /// slashes are left out, so that one place has one form.
    ///
    /// # Errors
    /// `InvalidRequest` for other roots, `..`, a NUL, and what is too long.
    pub(crate) fn parse(path: &[u8]) -> Result<Self, Failure> {
        check_bytes(path)?;
        if !path.starts_with(b"/") {
            return Self::below(Root::Sandbox, &[], path);
        }
        let mut names = names(path);
        let root = match names.next() {
            Some(b"sandbox") => Root::Sandbox,
            Some(b"tmp") => Root::Tmp,
            Some(b"..") => return Err(leads_up(path)),
            _ => {
                let message = format!("`{}` is not a place for files of a session", Shown(path));
                return Err(invalid(message)
                    .cause("only /sandbox and /tmp can be written in a sandbox")
                    .hint("begin the path with `/sandbox/` or `/tmp/`"));
            }
        };
        let rest: Vec<_> = names.collect();
        Self::below(root, &[], &rest.join(&b'/'))
    }

    /// What has this relative path below the place; the place itself for none.
    ///
    /// # Errors
    /// `InvalidRequest` as [`Place::parse`], and for a path that is not relative.
    pub(crate) fn join(&self, path: &[u8]) -> Result<Self, Failure> {
        check_bytes(path)?;
        if path.starts_with(b"/") {
            let message = format!("`{}` is not relative", Shown(path));
            return Err(invalid(message).hint("leave out the `/` at its beginning"));
        }
        Self::below(self.root, &self.path, path)
    }

    fn below(root: Root, above: &[u8], path: &[u8]) -> Result<Self, Failure> {
        let mut joined = above.to_vec();
        for name in names(path) {
            if name == b".." {
                return Err(leads_up(path));
            }
            if name.len() > MAX_NAME_BYTES {
                let message = format!("the name `{}` is too long", Shown(name));
                return Err(too_long(message, MAX_NAME_BYTES));
            }
            if !joined.is_empty() {
                joined.push(b'/');
            }
            joined.extend_from_slice(name);
        }
        let place = Self {
            root,
            path: joined.into(),
        };
        if place.root_name().len() + 1 + place.path.len() > MAX_PATH_BYTES {
            return Err(too_long(
                format!("the path `{place}` is too long"),
                MAX_PATH_BYTES,
            ));
        }
        Ok(place)
    }

    /// It is /sandbox or /tmp itself.
    pub(crate) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// What [`Place::path`] is relative to, as init has it.
    pub(crate) fn root(&self) -> i32 {
        self.root.into()
    }

    /// Relative to the root, as init has it.
    pub(crate) fn path(&self) -> Bytes {
        self.path.clone()
    }

    /// The option that says how much fits there.
    pub(crate) const fn size_option(&self) -> &'static str {
        match self.root {
            Root::Sandbox => "--sandbox-size",
            Root::Tmp => "--tmp-size",
        }
    }

    const fn root_name(&self) -> &'static str {
        match self.root {
            Root::Sandbox => "/sandbox",
            Root::Tmp => "/tmp",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root_name())?;
        if !self.path.is_empty() {
            write!(f, "/{}", Shown(&self.path))?;
        }
        Ok(())
    }
}

/// A name for a message: cut, and without what would move a terminal's cursor.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let cut = status::cut(&text, SHOWN_BYTES);
        for c in cut.chars() {
            match c {
                '\'' | '"' | '\\' => write!(f, "{c}")?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        if cut.len() < text.len() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = path.split(|byte| *byte == b'/');
    all.filter(|name| !name.is_empty() && *name != b".")
}

fn check_bytes(path: &[u8]) -> Result<(), Failure> {
    if path.contains(&0) {
        return Err(invalid(format!("`{}` holds a NUL", Shown(path))));
    }
    Ok(())
}

fn leads_up(path: &[u8]) -> Failure {
    invalid(format!("`{}` leads up with `..`", Shown(path))).hint("name the place itself")
}

fn too_long(message: String, most: usize) -> Failure {
    invalid(message).cause(format!("the most is {most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Result<&str, &str>) {
        let parsed = Place::parse(path.as_bytes());
        let shown = parsed.map(|place| place.to_string());
        match (shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected, "{path:?}"),
            (Err(failure), Err(part)) => {
                assert_eq!(failure.kind.name(), "invalid_request");
                let told = failure.to_string();
                assert!(told.contains(part), "{part} is not in: {told}");
            }
            (found, expected) => panic!("{path:?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_place_is_below_sandbox_or_tmp() {
        for (path, place) in [
            ("", "/sandbox"),
            (".", "/sandbox"),
            ("/sandbox", "/sandbox"),
            ("//sandbox//", "/sandbox"),
            ("/tmp/", "/tmp"),
            ("a", "/sandbox/a"),
            ("./a//b/./c/", "/sandbox/a/b/c"),
            ("/sandbox/a/b", "/sandbox/a/b"),
            ("/./tmp/x", "/tmp/x"),
            ("sandbox/x", "/sandbox/sandbox/x"),
            ("tmp", "/sandbox/tmp"),
            ("..a/...", "/sandbox/..a/..."),
            ("$(x); -rf *", "/sandbox/$(x); -rf *"),
        ] {
            check(path, Ok(place));
        }
    }

    #[test]
    fn other_roots_and_ways_up_are_refused() {
        for (path, why) in [
            ("/", "not a place"),
            ("/etc/passwd", "not a place"),
            ("/sandboxed/x", "not a place"),
            ("/Sandbox/x", "not a place"),
            ("/proc/1/root/sandbox", "not a place"),
            ("..", "leads up"),
            ("a/../b", "leads up"),
            ("/sandbox/..", "leads up"),
            ("/sandbox/../etc", "leads up"),
            ("/../sandbox/x", "leads up"),
            ("/tmp/a/..", "leads up"),
            ("a\0b", "holds a NUL"),
            ("/sandbox/a\0", "holds a NUL"),
        ] {
            check(path, Err(why));
        }
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        check(
            &"x".repeat(255),
            Ok(&format!("/sandbox/{}", "x".repeat(255))),
        );
        check(&"x".repeat(256), Err("is too long"));
        let deep = "abcd/".repeat((MAX_PATH_BYTES - "/sandbox".len()) / 5);
        assert!(Place::parse(deep.as_bytes()).is_ok());
        check(&format!("{deep}/abcd/abcd"), Err("is too long"));
        let place = Place::parse(deep.as_bytes()).expect("it fits");
        assert!(place.join(b"abcd/abcd").is_err());
    }

    #[test]
    fn an_entry_is_below_its_place() {
        let place = Place::parse(b"/tmp/a").expect("a place");
        let joined = |path: &[u8]| place.join(path).map(|place| place.to_string());
        assert_eq!(joined(b"").expect("itself"), "/tmp/a");
        assert_eq!(joined(b"b/./c").expect("below"), "/tmp/a/b/c");
        for bad in [&b"/b"[..], b"/tmp/a/b", b"..", b"b/../..", b"b\0"] {
            assert!(place.join(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        let place = Place::parse(b"a\x1b[2Jb\nc\xff").expect("a place");
        assert_eq!(place.to_string(), "/sandbox/a\\u{1b}[2Jb\\nc\u{fffd}");
        let long = Place::parse("ü/".repeat(400).as_bytes()).expect("a place");
        assert!(long.to_string().len() < 400, "{long}");
    }
}
