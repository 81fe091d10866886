//! What a sandbox could have sent as a folder: nothing of it is written outside
//! of the destination, and nothing that makes no sense is taken for whole.

use std::fs;

use isol8_proto::v1::FileKind::{self, File, Folder, Link};

use crate::{
    cli::{command, finish, spawn},
    fake::{Answers, Fake, Step, entry},
};

/// Copies what these steps send to `here/tree`, where `here` and its neighbours
/// are watched. Gives the cause that is told, and what is below `tree`.
#[track_caller]
fn sent(steps: Vec<Step>) -> (String, Vec<String>) {
    let fake = Fake::answering(Answers {
        files: [("/sandbox/tree", steps)].into(),
        ..Answers::default()
    });
    let here = fake.path("here");
    fs::create_dir(&here).expect("room");
    fs::write(here.join("mine"), "mine").expect("room");
    let argv = ["session", "cp", "-r", "work:tree", "here"];
    let done = finish(spawn(command(fake.folder.path(), &argv)));
    assert_eq!(done.code, 125, "{}", done.stderr);
    assert!(!done.stderr.contains('\x1b'));
    let names = |path: &std::path::Path| {
        let found = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = found
            .map(|found| found.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let beside = names(fake.folder.path());
    assert_eq!(beside, ["d.sock", "here"], "beside the destination");
    let mut at_top = names(&here);
    at_top.retain(|name| name != "tree");
    assert_eq!(at_top, ["mine"], "beside the copy");
    assert_eq!(fs::read(here.join("mine")).expect("it is there"), b"mine");
    let cause = done.stderr.lines().nth(1).unwrap_or_default();
    (cause.to_owned(), names(&here.join("tree")))
}

/// In a folder, after a file that is fine.
#[track_caller]
fn refused(steps: Vec<Step>, cause: &str) {
    let before = [
        entry(b"", Folder, 0),
        entry(b"fine", File, 1),
        Step::Data(b"f"),
    ];
    let steps = before.into_iter().chain(steps).chain([Step::Done]);
    let (told, names) = sent(steps.collect());
    assert_eq!(told, format!("cause: it sent {cause}"));
    let whole = ["fine", "folder", "link"];
    assert!(
        names.iter().all(|name| whole.contains(&name.as_str())),
        "{names:?}"
    );
    assert!(names.contains(&"fine".to_owned()));
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let paths: [&[u8]; 12] = [
        b"../x",
        b"..",
        b"folder/../../x",
        b"/tmp/isol8-hostile",
        b"/",
        b".",
        b"./x",
        b"folder//x",
        b"folder/",
        b"folder/.",
        b"x\0y",
        b"\x1b[2J/../x",
    ];
    for path in paths {
        for kind in [File, Folder, Link] {
            let shown = match path {
                b"x\0y" => "x\\u{0}y".to_owned(),
                b"\x1b[2J/../x" => "\\u{1b}[2J/../x".to_owned(),
                path => String::from_utf8_lossy(path).into_owned(),
            };
            let folder = entry(b"folder", Folder, 0);
            let steps = vec![folder, entry(path, kind, 0)];
            refused(steps, &format!("`{shown}`, which is no path below it"));
        }
    }
    assert!(!std::path::Path::new("/tmp/isol8-hostile").exists());
}

#[test]
fn nothing_comes_twice() {
    for (first, second) in [
        (File, File),
        (File, Folder),
        (Folder, File),
        (Folder, Folder),
        (Link, File),
    ] {
        let twice = vec![entry(b"folder", first, 0), entry(b"folder", second, 0)];
        refused(twice, "`folder` twice");
    }
    refused(vec![entry(b"", Folder, 0)], "the first folder twice");
}

#[test]
fn what_is_above_an_entry_is_a_folder_that_came_before() {
    let below = |kind: FileKind| vec![entry(b"link", kind, 0), entry(b"link/x", File, 0)];
    refused(below(File), "`link/x` and not the folder above it");
    refused(below(Link), "`link/x` and not the folder above it");
    refused(
        vec![entry(b"no/x", Folder, 0)],
        "`no/x` and not the folder above it",
    );
    refused(
        vec![entry(b"folder", Folder, 0), entry(b"folder/a/x", File, 0)],
        "`folder/a/x` and not the folder above it",
    );
}

#[test]
fn a_file_has_the_data_that_it_says() {
    let file = |size| entry(b"half", File, size);
    // What came before the senseless piece is whole.
    let whole = |size| entry(b"folder", File, size);
    refused(
        vec![file(3), Step::Data(b"four")],
        "more data than a file has",
    );
    refused(
        vec![whole(1), Step::Data(b"f"), Step::Data(b"o")],
        "data of no file",
    );
    refused(vec![whole(0), Step::Data(b"f")], "data of no file");
    refused(vec![Step::Data(b"f")], "data of no file");
    let early = vec![file(9), Step::Data(b"f"), entry(b"x", File, 0)];
    refused(early, "an entry before the end of a file");
    refused(vec![file(9), Step::Data(b"f")], "an end within a file");
    refused(
        vec![file(u64::MAX), Step::Data(b"f")],
        "an end within a file",
    );
    let in_link = vec![entry(b"link", Link, 0), Step::Data(b"f")];
    refused(in_link, "data of no file");
}

#[test]
fn the_first_entry_is_what_was_asked_for() {
    let first = |steps: Vec<Step>| {
        let (told, names) = sent(steps);
        assert_eq!(names, [""; 0]);
        told
    };
    let told = first(vec![entry(b"x", File, 0), Step::Done]);
    assert_eq!(
        told,
        "cause: it sent an entry of a folder before the folder"
    );
    assert_eq!(first(vec![Step::Done]), "cause: it sent nothing");
    assert_eq!(
        first(vec![Step::Data(b"x")]),
        "cause: it sent data of no file"
    );
}

#[test]
fn a_file_has_nothing_below_it() {
    let fake = Fake::answering(Answers {
        files: [(
            "/sandbox/f",
            vec![entry(b"", File, 0), entry(b"x", File, 0), Step::Done],
        )]
        .into(),
        ..Answers::default()
    });
    for destination in ["f", "-"] {
        let argv = ["session", "cp", "-r", "work:f", destination];
        let done = finish(spawn(command(fake.folder.path(), &argv)));
        assert_eq!(done.code, 125);
        assert!(
            done.stderr.contains("it sent an entry below a file"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn a_stream_that_just_ends_is_not_whole() {
    let steps = vec![
        entry(b"", Folder, 0),
        entry(b"fine", File, 1),
        Step::Data(b"f"),
        entry(b"half", File, 9),
        Step::Data(b"f"),
    ];
    let (told, names) = sent(steps);
    assert_eq!(told, "hint: `isol8 daemon logs` may say more");
    assert_eq!(names, ["fine"]);
    // Also where every file is.
    let (_, names) = sent(vec![entry(b"", Folder, 0), entry(b"fine", File, 0)]);
    assert_eq!(names, ["fine"]);
}

#[test]
fn names_too_long_for_a_disk_are_an_error() {
    let long = vec![b'x'; 300];
    let (told, names) = sent(vec![
        entry(b"", Folder, 0),
        entry(&long, File, 1),
        Step::Data(b"f"),
        Step::Done,
    ]);
    assert!(told.contains("File name too long"), "{told}");
    assert_eq!(names, [""; 0]);
}
