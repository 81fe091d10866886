//! Folders with more names than init holds at a time.

use std::{collections::BTreeSet, fs};

use isol8_proto::init::{Credit, EntryKind, Failed, Fetch, Fetched, Root, from_init, to_init};

use crate::{
    fetch::{self, Tree},
    rig::{Rig, bash, descendants},
};

const FILES: usize = 40_000;
/// One after so many files, with a file in it.
const A_FOLDER_AFTER: usize = 1000;
const FOLDERS: usize = FILES / A_FOLDER_AFTER;

/// Makes them in /tmp/many, with long names.
fn fill(rig: &mut Rig) {
    let python = format!(
        "import os
os.mkdir('/tmp/many')
os.chdir('/tmp/many')
for i in range({FILES}):
    open(f'{{i:0250}}', 'w').close()
    if i % {A_FOLDER_AFTER} == 0:
        os.mkdir(f'd{{i}}')
        open(f'd{{i}}/f', 'w').write('data')"
    );
    assert_eq!(rig.bash(&format!("python3 -c \"{python}\"")).stderr, "");
}

fn order() -> Fetch {
    Fetch {
        root: Root::Tmp.into(),
        ..fetch::order("many")
    }
}

/// The most memory that init ever had, in KiB.
fn most_memory(rig: &Rig) -> u64 {
    let init = descendants(rig.jail_pid())[0];
    let status = fs::read_to_string(format!("/proc/{init}/status")).expect("init");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("a line").parse().expect("a number")
}

/// All of them are there, once each and behind their folder.
#[track_caller]
fn check_whole(tree: &Tree, end: &Fetched) {
    let expected = 1 + FILES + 2 * FOLDERS;
    assert_eq!(
        (end.entries as usize, tree.entries.len()),
        (expected, expected)
    );
    let mut seen = BTreeSet::new();
    for (entry, _) in &tree.entries {
        let path = String::from_utf8(entry.path.to_vec()).expect("text");
        if let Some((folder, _)) = path.rsplit_once('/') {
            assert!(seen.contains(folder), "{path}");
        }
        assert!(seen.insert(path), "{entry:?}");
    }
}

#[test]
fn many_names_take_little_memory_and_come_once() {
    let mut rig = Rig::start();
    fill(&mut rig);
    let before = most_memory(&rig);
    let (tree, end) = fetch::fetch(
        &mut rig,
        Fetch {
            names_only: true,
            ..order()
        },
    );
    check_whole(&tree, &end.expect("all of it"));
    let (tree, end) = fetch::fetch(&mut rig, order());
    let end = end.expect("all of it");
    assert_eq!(end.bytes, 4 * FOLDERS as u64);
    check_whole(&tree, &end);
    let more = most_memory(&rig) - before;
    assert!(more < 4 << 10, "{more} KiB for {} KiB", FILES / 4);
}

#[test]
fn many_names_count_against_what_is_wanted() {
    let mut rig = Rig::start();
    fill(&mut rig);
    let all = u32::try_from(1 + FILES + 2 * FOLDERS).expect("few");
    for (max_entries, enough) in [(all, true), (all - 1, false), (10_000, false)] {
        let order = Fetch {
            max_entries,
            ..order()
        };
        match fetch::fetch(&mut rig, order).1 {
            Ok(_) => assert!(enough, "{max_entries}"),
            Err(failed) => assert_eq!((failed.errno, enough), (libc::E2BIG, false)),
        }
    }
}

/// Stops in the first folder of the many, does something, and goes on.
fn interrupted(script: &str) -> Result<Fetched, Failed> {
    let mut rig = Rig::lasting();
    fill(&mut rig);
    rig.send(to_init::Message::Fetch(Fetch {
        credit: 0,
        ..order()
    }));
    let mut tree = Tree::default();
    loop {
        let message = rig.recv();
        let stops = matches!(&message, from_init::Message::Entry(entry)
            if entry.kind() == EntryKind::File && entry.size > 0);
        assert!(tree.take(message).is_none());
        if stops {
            break;
        }
    }
    rig.start_command(bash(script));
    rig.outcome();
    rig.send(to_init::Message::Credit(Credit {
        stdout: 0,
        stderr: 0,
        data: 1 << 20,
    }));
    loop {
        let message = rig.recv();
        if let Some(end) = tree.take(message) {
            if let Ok(end) = &end {
                check_whole(&tree, end);
            }
            return end;
        }
    }
}

#[test]
fn a_part_of_many_is_never_taken_for_the_whole() {
    let failed = interrupted("rm /tmp/many/*9").expect_err("it was changed");
    assert_eq!(failed.errno, libc::ESTALE, "{failed:?}");
    assert!(interrupted("touch /tmp/elsewhere").is_ok());
}
