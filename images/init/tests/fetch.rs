//! What the daemon takes out of /sandbox.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use isol8_proto::init::{
    Credit, Entry, EntryKind, Failed, FailureKind, Fetch, Fetched, KillAll, from_init, to_init,
};

use crate::rig::{PLENTY, Rig, bash, descendants, plain, wait_for};

const QUIET: Duration = Duration::from_millis(300);

pub(crate) fn order(path: &str) -> Fetch {
    Fetch {
        path: path.to_owned().into(),
        max_bytes: PLENTY,
        max_entries: 1 << 20,
        credit: PLENTY,
        ..Fetch::default()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) entries: Vec<(Entry, Vec<u8>)>,
}

impl Tree {
    pub(crate) fn take(&mut self, message: from_init::Message) -> Option<Result<Fetched, Failed>> {
        match message {
            from_init::Message::Entry(entry) => self.entries.push((entry, Vec::new())),
            from_init::Message::EntryData(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= 256 << 10);
                let (entry, data) = self.entries.last_mut().expect("an entry comes first");
                data.extend_from_slice(&bytes);
                assert!(data.len() as u64 <= entry.size);
            }
            from_init::Message::Fetched(fetched) => return Some(Ok(fetched)),
            from_init::Message::Failed(failed) => return Some(Err(failed)),
            other => panic!("unexpected {other:?}"),
        }
        None
    }

    pub(crate) fn lines(&self) -> String {
        let line = |(entry, data): &(Entry, Vec<u8>)| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let what = match entry.kind() {
                EntryKind::File if data.is_empty() && entry.size > 0 => {
                    format!("of {}", entry.size)
                }
                EntryKind::File => {
                    assert_eq!(entry.size, data.len() as u64);
                    format!("= {}", text(data))
                }
                EntryKind::Folder => "/".to_owned(),
                EntryKind::Link => format!("-> {}", text(&entry.target)),
                EntryKind::Other => "?".to_owned(),
                EntryKind::Unspecified => panic!("{entry:?}"),
            };
            format!("{:o} {} {what}\n", entry.mode, text(&entry.path))
        };
        self.entries.iter().map(line).collect()
    }
}

pub(crate) fn fetch(rig: &mut Rig, order: Fetch) -> (Tree, Result<Fetched, Failed>) {
    rig.send(to_init::Message::Fetch(order));
    let mut tree = Tree::default();
    loop {
        let message = rig.recv();
        if let Some(end) = tree.take(message) {
            return (tree, end);
        }
    }
}

#[track_caller]
fn refused(rig: &mut Rig, order: Fetch, kind: FailureKind, message: &str) {
    let (_, end) = fetch(rig, order);
    let failed = end.expect_err("refused");
    assert_eq!((failed.kind(), &failed.message[..]), (kind, message));
    assert_ne!(failed.errno, 0);
}

#[test]
fn a_tree_comes_parents_first_and_sorted() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir -p t/b/c t/a; printf one > t/b/c/1; printf '' > t/b/empty; printf z > t/z
         chmod 4755 t/z; chmod 600 t/b/empty; ln -s ../z t/b/up; ln -s b t/d; ln t/z t/a/hard",
    );
    let (tree, end) = fetch(&mut rig, order("t"));
    let end = end.expect("all of it");
    assert_eq!((end.bytes, end.entries), (5, 10));
    assert_eq!(
        tree.lines(),
        "755  /\n755 a /\n755 a/hard = z\n755 b /\n755 b/c /\n644 b/c/1 = one\n\
         600 b/empty = \n777 b/up -> ../z\n777 d -> b\n755 z = z\n"
    );
    // And all of /sandbox; and init goes on.
    let (tree, end) = fetch(&mut rig, order(""));
    assert_eq!(end.expect("all of it").entries, 11);
    assert!(tree.lines().starts_with("755  /\n755 t /\n755 t/a /\n"));
    assert_eq!(rig.bash("echo on").stdout, "on\n");
}

#[test]
fn a_single_file_is_an_entry_without_a_path() {
    let mut rig = Rig::start();
    rig.bash("mkdir a; printf text > a/b");
    let (tree, end) = fetch(&mut rig, order("a/b"));
    assert_eq!(end.expect("all of it").entries, 1);
    assert_eq!(tree.lines(), "644  = text\n");
}

#[test]
fn what_is_not_there_or_leads_out_is_no_path() {
    let mut rig = Rig::start();
    rig.bash("ln -s /etc link; mkdir a; ln -s .. a/up; mkfifo fifo; printf x > file");
    for path in [
        "none", "link", "link/x", "a/up", "a/up/a", "fifo", "/etc", "..", "a/../a", "file/x", "a/",
    ] {
        let message = format!("there is no file or folder `{path}` below /sandbox");
        refused(&mut rig, order(path), FailureKind::BadPath, &message);
    }
}

#[test]
fn links_that_lead_out_and_things_that_are_no_files_are_named() {
    let mut rig = Rig::start();
    for (make, message) in [
        (
            "ln -s ../../x t/a/l",
            "the link `a/l` leads out: to `../../x`",
        ),
        (
            "ln -s /sandbox/t t/a/l",
            "the link `a/l` leads out: to `/sandbox/t`",
        ),
        (
            "ln -s b/../.. t/a/l",
            "the link `a/l` leads out: to `b/../..`",
        ),
        (
            "mkfifo t/a/p",
            "`a/p` is neither a file, a folder nor a link",
        ),
    ] {
        rig.bash(&format!("rm -rf t; mkdir -p t/a; {make}"));
        refused(&mut rig, order("t"), FailureKind::BadPath, message);
    }
    // For somebody who only wants to know of them.
    rig.bash("rm -rf t; mkdir -p t/a; ln -s /etc/passwd t/a/l; mkfifo t/a/p; printf x > t/f");
    let tolerant = Fetch {
        any_kind: true,
        ..order("t")
    };
    let (tree, fetched) = fetch(&mut rig, tolerant);
    let kinds: Vec<_> = tree.entries.iter().map(|(entry, _)| entry.kind()).collect();
    let (folder, file) = (EntryKind::Folder, EntryKind::File);
    let expected = [folder, folder, EntryKind::Link, EntryKind::Other, file];
    assert_eq!(kinds, expected);
    let fetched = fetched.expect("nothing is refused");
    assert_eq!((fetched.bytes, fetched.entries), (1, 5));
    let linked: u64 = tree.entries.iter().map(|(_, data)| data.len() as u64).sum();
    assert_eq!(linked, 1, "nothing is read through a link");
    rig.bash("rm -rf t; mkdir t; printf x > t/f; chmod 0 t/f");
    refused(
        &mut rig,
        order("t"),
        FailureKind::Other,
        "cannot read `f`: permission denied",
    );
}

#[test]
fn a_deep_tree_is_walked_with_few_descriptors() {
    let mut rig = Rig::start_with(&[], &["/usr/bin/prlimit", "--nofile=64"]);
    let make = |top: &str, name: &str, depth: u32| {
        let enter = format!("os.mkdir({name}); os.chdir({name})");
        let below = format!("for i in range({depth}): {enter}");
        format!(
            "import os\nos.mkdir('{top}'); os.chdir('{top}')\n{below}\nopen('z', 'w').write('end')"
        )
    };
    let python = format!("python3 -c \"{}\"", make("deep", "'d'", 3000));
    assert_eq!(rig.bash(&python).stderr, "");
    let (tree, end) = fetch(&mut rig, order("deep"));
    assert_eq!(end.expect("all of it").entries, 3002);
    let (last, data) = tree.entries.last().expect("the file");
    assert_eq!((last.path.len(), &data[..]), (6001, &b"end"[..]));

    let python = format!("python3 -c \"{}\"", make("far", "'n' * 250", 70));
    assert_eq!(rig.bash(&python).stderr, "");
    let (_, end) = fetch(&mut rig, order("far"));
    let failed = end.expect_err("too deep");
    assert_eq!(failed.kind(), FailureKind::BadPath);
    assert!(
        failed.message.starts_with(
            "the folders are too deep, their path has more than 16384 bytes: below `nnn"
        )
    );
}

#[test]
fn a_large_file_arrives_whole_against_credit() {
    let mut rig = Rig::start();
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    rig.put("big", &data).expect("written");
    rig.send(to_init::Message::Fetch(Fetch {
        credit: 1000,
        ..order("big")
    }));
    let mut tree = Tree::default();
    let mut given = 1000;
    let end = loop {
        match rig.recv_within(QUIET) {
            Some(message) => {
                if let Some(end) = tree.take(message) {
                    break end;
                }
            }
            None => {
                let (_, have) = &tree.entries[0];
                assert_eq!(have.len(), given, "all of the credit and no more");
                given += 700_000;
                rig.send(to_init::Message::Credit(Credit {
                    data: 700_000,
                    ..Credit::default()
                }));
            }
        }
    };
    assert_eq!(end.expect("all of it").bytes, 3_000_000);
    assert!(given > 3_000_000, "it stopped at the credit, {given} bytes");
    assert!(tree.entries[0].1 == data);
}

#[test]
fn a_folder_that_may_not_be_entered_is_passed_on_if_it_is_empty() {
    let mut rig = Rig::start();
    rig.bash("mkdir -p t/closed; touch t/z; chmod 444 t/closed");
    let (tree, end) = fetch(&mut rig, order("t"));
    assert_eq!(end.expect("all of it").entries, 3);
    assert_eq!(tree.lines(), "755  /\n444 closed /\n644 z = \n");
    rig.bash("chmod 755 t/closed; touch t/closed/f; chmod 444 t/closed");
    let message = "cannot read `closed/f`: permission denied";
    refused(&mut rig, order("t"), FailureKind::Other, message);
}

#[test]
fn the_bounds_hold() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; head -c 600 /dev/zero > t/a; head -c 401 /dev/zero > t/b");
    let enough = Fetch {
        max_bytes: 1001,
        max_entries: 3,
        ..order("t")
    };
    let (_, end) = fetch(&mut rig, enough.clone());
    assert_eq!(end.expect("all of it").bytes, 1001);
    let bytes = Fetch {
        max_bytes: 1000,
        ..enough.clone()
    };
    let message = "the files have more than 1000 bytes together";
    refused(&mut rig, bytes, FailureKind::NoSpace, message);
    for max_entries in [0, 1, 2] {
        let entries = Fetch {
            max_entries,
            ..enough.clone()
        };
        let message = "there are more files and folders than may be read at once";
        refused(&mut rig, entries, FailureKind::NoSpace, message);
    }
}

/// A process of the sandbox that outlives the program that started it.
fn in_background(rig: &mut Rig, script: &str) {
    let outcome = rig.bash(&format!("( {script} ) </dev/null >/dev/null 2>&1 &"));
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_file_that_shrinks_meanwhile_is_no_file() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; head -c 100000 /dev/zero > t/f");
    in_background(
        &mut rig,
        "until [ -e go ]; do sleep 0.01; done; printf x > t/f; touch gone",
    );
    rig.send(to_init::Message::Fetch(Fetch {
        credit: 10,
        ..order("t")
    }));
    let mut tree = Tree::default();
    while tree.entries.last().is_none_or(|(_, data)| data.len() < 10) {
        let message = rig.recv();
        assert!(tree.take(message).is_none());
    }
    // Files can be put while others are taken.
    rig.put("go", b"").expect("written");
    let init = descendants(rig.jail_pid())[0];
    assert!(wait_for(|| descendants(init).is_empty()));
    rig.send(to_init::Message::Credit(Credit {
        data: PLENTY,
        ..Credit::default()
    }));
    let from_init::Message::Failed(failed) = rig.recv() else {
        panic!("it was passed on");
    };
    assert_eq!(failed.message, "`f` became shorter while it was read");
    assert_eq!(rig.bash("ls gone").stdout, "gone\n");
}

#[test]
fn a_file_that_grows_is_as_long_as_it_was() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; : > t/f");
    in_background(&mut rig, "while :; do printf x >> t/f; done");
    let mut met = BTreeSet::new();
    assert!(wait_for(|| {
        let (tree, end) = fetch(&mut rig, order("t"));
        end.expect("all of it");
        let (entry, data) = &tree.entries[1];
        assert_eq!(entry.size, data.len() as u64);
        met.insert(entry.size);
        met.len() >= 20
    }));
}

#[test]
fn nobody_inside_leads_the_walk_out() {
    let mut rig = Rig::start();
    rig.bash("mkdir -p t/a/b out; printf secret > out/s; printf mine > t/a/b/m");
    in_background(
        &mut rig,
        "while :; do mv t/a/b out/b; ln -s ../../out t/a/b; rm t/a/b; mv out/b t/a/b; done",
    );
    let (mut rounds, mut met) = (0, 0);
    assert!(wait_for(|| {
        let (tree, end) = fetch(&mut rig, order("t"));
        let lines = tree.lines();
        assert!(!lines.contains("secret"), "{lines}");
        rounds += 1;
        met += usize::from(end.is_err() || !lines.contains("a/b/m"));
        rounds >= 300 && met > 0
    }));
}

#[test]
fn only_while_no_program_runs() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; head -c 1000000 /dev/zero > t/f");
    rig.start_with_stdin(bash("read -r line; echo $line"));
    let busy = "the sandbox is busy: a program runs in it, or files are being read or removed";
    refused(&mut rig, order("t"), FailureKind::Other, busy);
    rig.send(to_init::Message::Stdin("unharmed\n".into()));
    assert_eq!(rig.outcome().stdout, "unharmed\n");

    let little = Fetch {
        credit: 1,
        ..order("t")
    };
    rig.send(to_init::Message::Fetch(little));
    for _ in 0..3 {
        let message = rig.recv();
        assert!(Tree::default().take_any(message));
    }
    let failed = rig.exec(plain(bash("echo no"))).expect_err("busy");
    assert_eq!(failed.message, busy);
    assert_eq!(rig.bash("echo free").stdout, "free\n");
}

impl Tree {
    fn take_any(&mut self, message: from_init::Message) -> bool {
        matches!(
            message,
            from_init::Message::Entry(_) | from_init::Message::EntryData(_)
        )
    }
}

#[test]
fn kill_all_stops_it() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; head -c 1000000 /dev/zero > t/f");
    rig.send(to_init::Message::Fetch(Fetch {
        credit: 1,
        ..order("t")
    }));
    rig.send(to_init::Message::KillAll(KillAll {}));
    let mut tree = Tree::default();
    let end = loop {
        let message = rig.recv();
        if let Some(end) = tree.take(message) {
            break end;
        }
    };
    assert_eq!(
        end.expect_err("stopped").message,
        "stopped before all was read"
    );
    assert_eq!(rig.bash("echo on").stdout, "on\n");
}

#[test]
fn a_daemon_that_takes_nothing_costs_no_memory_and_no_processor() {
    let mut rig = Rig::start();
    rig.bash("mkdir t; head -c 30000000 /dev/zero > t/f; for i in {1..2000}; do : > t/g$i; done");
    rig.send(to_init::Message::Fetch(order("t")));
    assert!(wait_for(|| rig.is_stuck()));
    let (before, _) = rig.usage();
    std::thread::sleep(QUIET);
    let (after, pages) = rig.usage();
    assert!(after - before <= 2, "{before} ticks, then {after}");
    assert!(pages * 4096 < 8 << 20, "{pages} pages");
    let mut tree = Tree::default();
    let end = loop {
        let message = rig.recv();
        if let Some(end) = tree.take(message) {
            break end;
        }
    };
    assert_eq!(end.expect("all of it").entries, 2002);
}

#[test]
fn a_tree_is_fast() {
    let mut rig = Rig::start();
    rig.bash(
        "mkdir t; head -c 60000000 /dev/zero > t/f; for i in {1..3000}; do echo $i > t/g$i; done",
    );
    let before = Instant::now();
    let (_, end) = fetch(&mut rig, order("t"));
    let took = before.elapsed();
    assert_eq!(end.expect("all of it").entries, 3002);
    // A fraction of that, unless the machine has other work.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
