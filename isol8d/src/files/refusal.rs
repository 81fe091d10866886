//! What init could not do, in words for the one who asked. The kernel's number
//! decides; init's own sentence is at most a cause, without anything in it that
//! would move a cursor: names in a sandbox are whatever a program made them.

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::init::{Failed, FailureKind as InitFailure};
use rustix::io::Errno;

use super::place::{Place, Shown};
use crate::convert::invalid;

/// One of these is what the kernel said.
fn is(failed: &Failed, numbers: &[Errno]) -> bool {
    let mut numbers = numbers.iter();
    numbers.any(|errno| errno.raw_os_error() == failed.errno)
}

fn said(failed: &Failed) -> String {
    Shown(failed.message.as_bytes()).to_string()
}

/// A file or folder could not be written.
pub(super) fn of_put(failed: &Failed, place: &Place, folder: bool) -> Failure {
    let what = if folder { "folder" } else { "regular file" };
    if failed.kind() == InitFailure::NoSpace {
        return Failure::new(
            FailureKind::NoSpace,
            format!("there is no room left in the session for `{place}`"),
        )
        .hint(format!(
            "remove files in it, or make a session with a larger `{}`",
            place.size_option()
        ));
    }
    if is(failed, &[Errno::EXIST]) {
        return invalid(format!("`{place}` is there, and is no {what}"))
            .hint("take another name, or remove it first");
    }
    if is(failed, &[Errno::NOTDIR, Errno::LOOP, Errno::XDEV]) {
        return invalid(format!("`{place}` cannot be a {what}"))
            .cause("it, or a folder on the way to it, is a file or a link")
            .hint("links are not followed: name the place itself");
    }
    denied(failed, place, "written").unwrap_or_else(|| other(failed, place, "written"))
}

/// A file or folder could not be read. `begun`: a part of it was.
pub(super) fn of_get(failed: &Failed, place: &Place, begun: bool, most: &str) -> Failure {
    if failed.kind() == InitFailure::NoSpace {
        let message = format!("`{place}` is more than one call may read: {most}");
        return Failure::new(FailureKind::Unsupported, message)
            .hint("read the folders in it one by one");
    }
    if !begun && let Some(failure) = missing(failed, place) {
        return failure;
    }
    if !begun && is(failed, &[Errno::INVAL]) {
        return invalid(format!("`{place}` is neither a file nor a folder"))
            .hint("links are not followed: name what it leads to");
    }
    if is(failed, &[Errno::STALE, Errno::NOENT]) {
        return changing(failed, place, "read");
    }
    if let Some(failure) = denied(failed, place, "read") {
        return failure.cause(said(failed));
    }
    if failed.kind() == InitFailure::BadPath {
        let message = format!("`{place}` cannot be read as a whole");
        return Failure::new(FailureKind::Unsupported, message)
            .cause(said(failed))
            .hint("only regular files, folders, and links that stay inside are read: remove it, or read what is beside it");
    }
    other(failed, place, "read")
}

/// It could not be removed, or not all of it.
pub(super) fn of_delete(failed: &Failed, place: &Place) -> Failure {
    if is(failed, &[Errno::ISDIR]) {
        return invalid(format!("`{place}` is a folder"))
            .hint("`isol8 session rm -r` removes folders too, with everything in them");
    }
    if let Some(failure) = missing(failed, place) {
        return failure;
    }
    if is(failed, &[Errno::STALE, Errno::NOTEMPTY]) {
        return changing(failed, place, "removed");
    }
    denied(failed, place, "removed").unwrap_or_else(|| other(failed, place, "removed"))
}

fn missing(failed: &Failed, place: &Place) -> Option<Failure> {
    if is(failed, &[Errno::LOOP]) {
        return Some(
            invalid(format!("`{place}` leads through a link"))
                .hint("links are not followed: name the place itself"),
        );
    }
    is(failed, &[Errno::NOENT, Errno::NOTDIR]).then(|| {
        let message = format!("there is no file or folder `{place}` in the session");
        Failure::new(FailureKind::NotFound, message)
    })
}

fn denied(failed: &Failed, place: &Place, what: &str) -> Option<Failure> {
    let message = format!("`{place}` cannot be {what}");
    if is(failed, &[Errno::ACCESS, Errno::PERM]) {
        return Some(
            Failure::new(FailureKind::Unsupported, message)
                .cause("the session's own user may not do that")
                .hint("change the mode of the file or of its folder with a run in the session"),
        );
    }
    is(failed, &[Errno::ROFS]).then(|| {
        Failure::new(FailureKind::Unsupported, message)
            .cause("packages are mounted there, and cannot be changed")
            .hint("take another folder")
    })
}

fn changing(failed: &Failed, place: &Place, what: &str) -> Failure {
    let message = format!("`{place}` was changed while it was {what}");
    Failure::new(FailureKind::SessionBusy, message)
        .cause(said(failed))
        .hint("a program runs in the background of the session: try again")
}

fn other(failed: &Failed, place: &Place, what: &str) -> Failure {
    Failure::new(FailureKind::Internal, format!("`{place}` cannot be {what}")).cause(said(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: InitFailure, errno: Errno) -> Failed {
        Failed {
            kind: kind.into(),
            message: "said\x1b[0m".to_owned(),
            errno: errno.raw_os_error(),
            files: true,
        }
    }

    #[track_caller]
    fn check(failure: &Failure, kind: FailureKind) {
        assert_eq!(failure.kind, kind, "{failure}");
        let told = failure.to_string();
        assert!(told.contains("`/tmp/a`"), "{told}");
        assert!(!told.contains('\x1b'), "{told}");
    }

    #[test]
    fn every_refusal_names_the_path_and_its_class() {
        use FailureKind as Kind;
        use InitFailure::{BadPath, NoSpace, Other};
        let place = Place::parse(b"/tmp/a").expect("a place");
        for (kind, errno, put, get, delete) in [
            (
                NoSpace,
                Errno::NOSPC,
                Kind::NoSpace,
                Kind::Unsupported,
                Kind::Internal,
            ),
            (
                BadPath,
                Errno::EXIST,
                Kind::InvalidRequest,
                Kind::Unsupported,
                Kind::Internal,
            ),
            (
                BadPath,
                Errno::LOOP,
                Kind::InvalidRequest,
                Kind::InvalidRequest,
                Kind::InvalidRequest,
            ),
            (
                BadPath,
                Errno::NOTDIR,
                Kind::InvalidRequest,
                Kind::NotFound,
                Kind::NotFound,
            ),
            (
                BadPath,
                Errno::NOENT,
                Kind::Internal,
                Kind::NotFound,
                Kind::NotFound,
            ),
            (
                BadPath,
                Errno::ISDIR,
                Kind::Internal,
                Kind::Unsupported,
                Kind::InvalidRequest,
            ),
            (
                BadPath,
                Errno::XDEV,
                Kind::InvalidRequest,
                Kind::Unsupported,
                Kind::Internal,
            ),
            (
                Other,
                Errno::STALE,
                Kind::Internal,
                Kind::SessionBusy,
                Kind::SessionBusy,
            ),
            (
                Other,
                Errno::NOTEMPTY,
                Kind::Internal,
                Kind::Internal,
                Kind::SessionBusy,
            ),
            (
                Other,
                Errno::ACCESS,
                Kind::Unsupported,
                Kind::Unsupported,
                Kind::Unsupported,
            ),
            (
                Other,
                Errno::ROFS,
                Kind::Unsupported,
                Kind::Unsupported,
                Kind::Unsupported,
            ),
            (
                Other,
                Errno::IO,
                Kind::Internal,
                Kind::Internal,
                Kind::Internal,
            ),
        ] {
            let failed = failed(kind, errno);
            check(&of_put(&failed, &place, false), put);
            check(&of_put(&failed, &place, true), put);
            check(&of_get(&failed, &place, false, "1 byte"), get);
            check(&of_delete(&failed, &place), delete);
        }
    }

    #[test]
    fn what_goes_away_under_a_reader_is_no_missing_file() {
        let place = Place::parse(b"/tmp/a").expect("a place");
        let gone = failed(InitFailure::Other, Errno::NOENT);
        let kind = of_get(&gone, &place, true, "").kind;
        assert_eq!(kind, FailureKind::SessionBusy);
    }

    #[test]
    fn a_link_that_is_asked_for_is_told_from_a_socket_on_the_way() {
        let place = Place::parse(b"/tmp/a").expect("a place");
        let neither = failed(InitFailure::BadPath, Errno::INVAL);
        let kind = |begun| of_get(&neither, &place, begun, "").kind;
        assert_eq!(kind(false), FailureKind::InvalidRequest);
        assert_eq!(kind(true), FailureKind::Unsupported);
    }

    #[test]
    fn no_room_names_the_option_that_gives_more() {
        let full = failed(InitFailure::NoSpace, Errno::NOSPC);
        for (path, option) in [("/tmp/a", "--tmp-size"), ("/sandbox/a", "--sandbox-size")] {
            let place = Place::parse(path.as_bytes()).expect("a place");
            let hint = of_put(&full, &place, false).hint.expect("a hint");
            assert!(hint.contains(option), "{hint}");
        }
    }
}
