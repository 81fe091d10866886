//! What a client sends of its files, checked and turned into frames for init.
//!
//! ```text
//!  idle ──file──▶ open ──data──▶ open ──next entry, end──▶ idle   (all its data is there)
//!    └──folder──▶ idle              └──────────────────────▶ refused  (it is not)
//! ```
//! The last piece of a file is held back until something else comes: only then
//! it is known to be whole, and init gives it its name.

use bytes::Bytes;
use isol8_core::failure::Failure;
use isol8_proto::{
    init::{File, Folder, to_init},
    v1::{self, put_request::Message},
};

use crate::{
    convert::invalid,
    files::{MAX_BYTES, MAX_ENTRIES, MAX_PIECE_BYTES, place::Place},
};

/// Of set-uid and the like nothing comes along.
const MODE: u32 = 0o777;

/// What init is to do next.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) frame: to_init::Message,
    /// The first frame of an entry: one answer will come.
    pub(super) begins: Option<Begun>,
    /// It is the last frame of its entry: the answer is due.
    pub(super) is_last: bool,
}

/// An entry that init has heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) place: Place,
    /// Of a file; `None`: a folder.
    pub(super) size: Option<u64>,
}

/// The files of one call.
#[derive(Debug)]
pub(super) struct Upload {
    /// Where all of them go.
    base: Place,
    open: Option<Open>,
    entries: u32,
    pub(super) total: v1::PutResponse,
}

#[derive(Debug)]
struct Open {
    place: Place,
    size: u64,
    left: u64,
    /// The piece that is held back.
    held: File,
}

impl Open {
    fn step(self, last: bool) -> Step {
        let begins = (!self.held.append).then_some(Begun {
            place: self.place,
            size: Some(self.size),
        });
        Step {
            frame: to_init::Message::File(File { last, ..self.held }),
            begins,
            is_last: last,
        }
    }

    fn finish(self) -> Result<Step, Failure> {
        if self.left == 0 {
            return Ok(self.step(true));
        }
        let message = format!("`{}` is not all there", self.place);
        Err(invalid(message).cause(format!(
            "{} of {} bytes came, and then something else",
            self.size - self.left,
            self.size
        )))
    }
}

impl Upload {
    pub(super) fn new(base: Place) -> Self {
        Self {
            base,
            open: None,
            entries: 0,
            total: v1::PutResponse::default(),
        }
    }

    /// What a message of the client makes init do: nothing, or up to two things.
    ///
    /// # Errors
    /// `InvalidRequest`. There is no way on then.
    pub(super) fn take(&mut self, message: Option<Message>) -> Result<Vec<Step>, Failure> {
        match message {
            Some(Message::Entry(entry)) => self.entry(&entry),
            Some(Message::Data(data)) => Ok(self.data(data)?.into_iter().collect()),
            Some(Message::Start(_)) => Err(invalid("a copy has one `start`, this is the second")),
            None => Err(invalid(
                "a message of a kind that this daemon does not know",
            )),
        }
    }

    /// The client has sent all.
    ///
    /// # Errors
    /// `InvalidRequest` when the last file is not whole.
    pub(super) fn end(&mut self) -> Result<Option<Step>, Failure> {
        self.open.take().map(Open::finish).transpose()
    }

    /// The file of which no data has come, with its size.
    pub(super) fn begun(&self) -> Option<(&Place, u64)> {
        let open = self.open.as_ref()?;
        let is_new = !open.held.append && open.held.data.is_empty();
        is_new.then_some((&open.place, open.size))
    }

    fn entry(&mut self, entry: &v1::FileEntry) -> Result<Vec<Step>, Failure> {
        let mut steps: Vec<_> = self.end()?.into_iter().collect();
        let place = self.base.join(&entry.path)?;
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(invalid("there are too many files and folders for one copy")
                .cause(format!("the most is {MAX_ENTRIES}"))
                .hint("copy it in parts"));
        }
        let mode = entry.mode & MODE;
        match entry.kind() {
            v1::FileKind::File => self.file(place, entry.size_bytes, mode)?,
            v1::FileKind::Folder => {
                self.total.folders += 1;
                steps.push(Step {
                    frame: to_init::Message::Folder(Folder {
                        root: place.root(),
                        path: place.path(),
                        mode,
                    }),
                    begins: Some(Begun { place, size: None }),
                    is_last: true,
                });
            }
            v1::FileKind::Link | v1::FileKind::Other => {
                return Err(invalid(format!("`{place}` is neither a file nor a folder"))
                    .hint("copy what the link leads to, or leave it out"));
            }
            v1::FileKind::Unspecified => {
                return Err(invalid(format!("the kind of `{place}` is not given")));
            }
        }
        Ok(steps)
    }

    fn file(&mut self, place: Place, size: u64, mode: u32) -> Result<(), Failure> {
        if place.is_root() {
            return Err(invalid(format!("`{place}` is a folder and no file"))
                .hint("name the file that is to be written in it"));
        }
        self.total.bytes = self.total.bytes.saturating_add(size);
        if self.total.bytes > MAX_BYTES {
            return Err(invalid("the files are too large for one copy")
                .cause(format!("the most is {} GiB together", MAX_BYTES >> 30))
                .hint("copy them in parts"));
        }
        self.total.files += 1;
        let held = File {
            path: place.path(),
            root: place.root(),
            mode,
            ..File::default()
        };
        self.open = Some(Open {
            place,
            size,
            left: size,
            held,
        });
        Ok(())
    }

    /// A piece makes the one before it go. An empty one is nothing.
    fn data(&mut self, data: Bytes) -> Result<Option<Step>, Failure> {
        if data.len() > MAX_PIECE_BYTES {
            return Err(invalid(format!(
                "a piece of {} bytes is too long; the most is {MAX_PIECE_BYTES}",
                data.len()
            )));
        }
        let Some(mut open) = self.open.take() else {
            return Err(invalid("data came before the file that it is of"));
        };
        let Some(left) = open.left.checked_sub(data.len() as u64) else {
            let message = format!("`{}` is longer than it was said to be", open.place);
            return Err(invalid(message).cause(format!("it was to have {} bytes", open.size)));
        };
        open.left = left;
        // The first frame waits for the first data.
        if open.held.data.is_empty() || data.is_empty() {
            if !data.is_empty() {
                open.held.data = data;
            }
            self.open = Some(open);
            return Ok(None);
        }
        let next = File {
            append: true,
            data,
            ..open.held.clone()
        };
        let following = Open {
            place: open.place.clone(),
            held: next,
            ..open
        };
        self.open = Some(following);
        Ok(Some(open.step(false)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload() -> Upload {
        Upload::new(Place::parse(b"/tmp/base").expect("a place"))
    }

    fn entry(path: &str, kind: v1::FileKind, size: u64) -> Option<Message> {
        Some(Message::Entry(v1::FileEntry {
            path: path.to_owned().into(),
            kind: kind.into(),
            size_bytes: size,
            mode: 0o4755,
            ..v1::FileEntry::default()
        }))
    }

    fn file(path: &str, size: u64) -> Option<Message> {
        entry(path, v1::FileKind::File, size)
    }

    fn data(bytes: &'static [u8]) -> Option<Message> {
        Some(Message::Data(Bytes::from_static(bytes)))
    }

    /// Frames in short: `+` begins, `.` is last.
    fn shown(steps: impl IntoIterator<Item = Step>) -> String {
        let shown = steps.into_iter().map(|step| {
            let (what, path, mode) = match step.frame {
                to_init::Message::File(file) => {
                    assert_eq!(file.last, step.is_last);
                    assert_eq!(file.append, step.begins.is_none());
                    (format!("={}", file.data.len()), file.path, file.mode)
                }
                to_init::Message::Folder(folder) => ("/".to_owned(), folder.path, folder.mode),
                other => panic!("{other:?}"),
            };
            assert_eq!(mode, 0o755, "no set-uid comes along");
            let begins = if step.begins.is_some() { "+" } else { "" };
            let last = if step.is_last { "." } else { "" };
            format!("{begins}{}{what}{last}", String::from_utf8_lossy(&path))
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(messages: impl IntoIterator<Item = Option<Message>>, expected: Result<&str, &str>) {
        let mut upload = upload();
        let mut steps = Vec::new();
        let mut all = messages.into_iter();
        let taken = all.try_for_each(|message| {
            steps.extend(upload.take(message)?);
            Ok::<_, Failure>(())
        });
        let ended = taken.and_then(|()| upload.end());
        match (ended, expected) {
            (Ok(last), Ok(expected)) => {
                steps.extend(last);
                assert_eq!(shown(steps), expected);
            }
            (Err(failure), Err(part)) => {
                assert_eq!(failure.kind.name(), "invalid_request");
                let told = failure.to_string();
                assert!(told.contains(part), "{part} is not in: {told}");
                let named = |step: &Step| step.is_last && step.begins.is_none();
                assert!(!steps.iter().any(named), "half a file got its name");
            }
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn files_and_folders_become_frames_in_their_order() {
        let folder = |path| entry(path, v1::FileKind::Folder, 0);
        check([], Ok(""));
        check([folder("")], Ok("+base/."));
        check([file("", 0)], Ok("+base=0."));
        check([file("a", 3), data(b"abc")], Ok("+base/a=3."));
        check(
            [file("a", 3), data(b"ab"), data(b""), data(b"c")],
            Ok("+base/a=2 base/a=1."),
        );
        check(
            [
                folder(""),
                file("a", 3),
                data(b"ab"),
                data(b"c"),
                file("b", 0),
                folder("c"),
                file("c/d", 1),
                data(b"x"),
            ],
            Ok("+base/. +base/a=2 base/a=1. +base/b=0. +base/c/. +base/c/d=1."),
        );
    }

    #[test]
    fn data_is_neither_more_nor_less_than_was_said() {
        check([data(b"x")], Err("before the file"));
        check(
            [entry("a", v1::FileKind::Folder, 0), data(b"x")],
            Err("before the file"),
        );
        check([file("a", 0), data(b"x")], Err("longer than it was said"));
        check(
            [file("a", 2), data(b"xx"), data(b"x")],
            Err("longer than it was said"),
        );
        check([file("a", 2), data(b"x")], Err("1 of 2 bytes came"));
        check(
            [file("a", 2), data(b"x"), file("b", 0)],
            Err("1 of 2 bytes"),
        );
        check([file("a", 1)], Err("0 of 1 bytes"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        check([None], Err("does not know"));
        check(
            [Some(Message::Start(v1::PutStart::default()))],
            Err("the second"),
        );
        for kind in [v1::FileKind::Link, v1::FileKind::Other] {
            check([entry("a", kind, 0)], Err("neither a file nor a folder"));
        }
        check(
            [entry("a", v1::FileKind::Unspecified, 0)],
            Err("is not given"),
        );
        for path in ["/etc/x", "../x", "a/../b", "a\0b"] {
            check([file(path, 0)], Err("`"));
        }
        let long = Bytes::from(vec![0; MAX_PIECE_BYTES + 1]);
        check(
            [file("a", 1 << 30), Some(Message::Data(long))],
            Err("too long"),
        );
    }

    #[test]
    fn a_root_is_a_folder() {
        for root in [&b"/sandbox"[..], b"/tmp/"] {
            let mut upload = Upload::new(Place::parse(root).expect("a root"));
            assert!(upload.take(file("", 0)).is_err());
            let steps = upload.take(entry(".", v1::FileKind::Folder, 0));
            assert_eq!(shown(steps.expect("it is there")), "+/.");
        }
    }

    #[test]
    fn there_is_a_most_of_everything() {
        check([file("a", MAX_BYTES + 1)], Err("too large"));
        check([file("a", u64::MAX)], Err("too large"));
        let mut upload = upload();
        for number in 0..MAX_ENTRIES {
            let steps = upload.take(entry("a", v1::FileKind::Folder, 0));
            assert!(steps.is_ok(), "{number}");
        }
        let steps = upload.take(entry("a", v1::FileKind::Folder, 0));
        let told = steps.expect_err("one too many").to_string();
        assert!(told.contains("too many"), "{told}");
    }

    #[test]
    fn what_went_is_counted() {
        let mut upload = upload();
        for message in [
            entry("", v1::FileKind::Folder, 0),
            file("a", 2),
            data(b"xx"),
            file("b", 0),
        ] {
            upload.take(message).expect("it is right");
        }
        upload.end().expect("it is whole");
        let total = v1::PutResponse {
            bytes: 2,
            files: 2,
            folders: 1,
        };
        assert_eq!(upload.total, total);
    }
}
