//! Lists of names.

use std::collections::BTreeSet;

use isol8_proto::init::{EntryKind, Fetch, to_init};

use crate::{
    fetch::{self, Tree},
    rig::{Rig, bash, wait_for},
};

fn order(path: &str, depth: u32) -> Fetch {
    Fetch {
        max_bytes: 0,
        credit: 0,
        names_only: true,
        depth,
        ..fetch::order(path)
    }
}

/// What is there, one a line.
pub(crate) fn names(rig: &mut Rig, path: &str, depth: u32) -> String {
    let (tree, end) = fetch::fetch(rig, order(path, depth));
    let end = end.expect("all of it");
    assert_eq!(end.entries as usize, tree.entries.len());
    let line = |(entry, data): &(isol8_proto::init::Entry, Vec<u8>)| {
        assert!(data.is_empty());
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        match entry.kind() {
            EntryKind::Folder if path.is_empty() => String::new(),
            EntryKind::Folder => format!("{path}/\n"),
            EntryKind::File => format!("{path} of {}\n", entry.size),
            EntryKind::Link => format!("{path} -> {}\n", String::from_utf8_lossy(&entry.target)),
            EntryKind::Other => format!("{path}?\n"),
            EntryKind::Unspecified => panic!("{entry:?}"),
        }
    };
    tree.entries.iter().map(line).collect()
}

#[test]
fn names_come_without_data_whatever_they_stand_for() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir -p t/a/b t/closed; printf text > t/a/f; touch t/closed/x; ln -s /etc t/out
         mkfifo t/p; chmod 0 t/a/f t/closed",
    );
    let all = "a/\na/b/\na/f of 4\nclosed/\nout -> /etc\np?\n";
    assert_eq!(names(&mut rig, "t", 0), all);
    assert_eq!(names(&mut rig, "t", 9), all);
    assert_eq!(names(&mut rig, "t", 1), "a/\nclosed/\nout -> /etc\np?\n");
    assert_eq!(names(&mut rig, "", 1), "t/\n");
    assert_eq!(names(&mut rig, "t/a/f", 1), " of 4\n");
    assert_eq!(names(&mut rig, "t/out", 1), " -> /etc\n");
    assert_eq!(names(&mut rig, "t/p", 1), "?\n");
}

#[test]
fn names_in_a_folder_that_may_only_be_listed_are_all_there_is_to_say() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir -p t/r/d/e t/r2; printf text > t/r/f; ln -s /etc t/r/l; mkfifo t/r/p; touch t/z
         chmod 444 t/z t/r t/r2; chmod 0 t/r/f; mkdir x; touch x/y; chmod 111 x",
    );
    let below = "d/\nf of 0\nl -> \np?\n";
    assert_eq!(names(&mut rig, "t/r", 0), below);
    assert_eq!(names(&mut rig, "t/r", 1), below);
    // And the walk finds the way back.
    let all = "r/\nr/d/\nr/f of 0\nr/l -> \nr/p?\nr2/\nz of 0\n";
    assert_eq!(names(&mut rig, "t", 0), all);
    assert_eq!(names(&mut rig, "", 1), "t/\nx/\n");
    let (_, end) = fetch::fetch(&mut rig, order("x", 1));
    let failed = end.expect_err("it may not be listed");
    assert_eq!(failed.errno, libc::EACCES);
    let why = "cannot read `x` below /sandbox: permission denied";
    assert_eq!(failed.message, why);
}

#[test]
fn too_many_names_are_refused() {
    let mut rig = Rig::start();
    rig.bash("touch {1..50}");
    let (_, end) = fetch::fetch(
        &mut rig,
        Fetch {
            max_entries: 50,
            ..order("", 1)
        },
    );
    assert_eq!(end.expect_err("too many").errno, libc::E2BIG);
}

#[test]
fn names_that_go_meanwhile_are_left_out() {
    let mut rig = Rig::lasting();
    rig.start_command(bash(
        "mkdir t; echo ready; until [ -e stop ]; do touch t/{1..50}; rm -r t/{1..50}; done",
    ));
    rig.wait_for_output("ready\n");
    let mut met = BTreeSet::new();
    let mut rounds = 0;
    assert!(wait_for(|| {
        met.insert(names(&mut rig, "t", 0));
        rounds += 1;
        rounds >= 100 && met.len() > 1
    }));
    rig.put("stop", b"").expect("written");
    assert_eq!(rig.outcome().stderr, "");
}

#[test]
fn a_lasting_sandbox_is_read_while_a_program_runs() {
    let mut rig = Rig::lasting();
    rig.put("big", &[7; 3_000_000]).expect("written");
    rig.start_with_stdin(bash("echo begin; read -r; head -c 2000000 /dev/zero"));
    rig.wait_for_output("begin\n");
    rig.send(to_init::Message::Fetch(fetch::order("big")));
    rig.send(to_init::Message::Stdin("go\n".into()));
    let (mut tree, mut output, mut ends) = (Tree::default(), 0, 0);
    while ends < 2 {
        use isol8_proto::init::from_init::Message;
        match rig.recv() {
            Message::Stdout(bytes) => output += bytes.len(),
            Message::StdinCredit(_) => {}
            Message::Exited(_) => ends += 1,
            other => {
                if let Some(end) = tree.take(other) {
                    assert_eq!(end.expect("all of it").bytes, 3_000_000);
                    ends += 1;
                }
            }
        }
    }
    assert_eq!(output, 2_000_000);
}
