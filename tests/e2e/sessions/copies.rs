//! `isol8 session cp`, both ways: what arrives is what was sent, or nothing.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use isol8_e2e::harness::{
    call::Call,
    session::Session,
    stage::Stage,
    wait::{seconds, wait_until},
};
use rustix::process::Signal;

/// A file, or a folder, with its mode.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    File(u32, Vec<u8>),
    Folder(u32),
    Other,
}

type Tree = BTreeMap<PathBuf, Item>;

/// Everything below a folder of this host, by relative path.
fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it can be read").flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let mode = meta.permissions().mode() & 0o777;
            let item = if meta.is_dir() {
                folders.push(path.clone());
                Item::Folder(mode)
            } else if meta.is_file() {
                Item::File(mode, fs::read(&path).expect("it can be read"))
            } else {
                Item::Other
            };
            found.insert(path.strip_prefix(root).expect("below it").to_owned(), item);
        }
    }
    found
}

/// Bytes that no two places of a file have in common, and no compression.
pub(super) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

fn write(root: &Path, name: &OsStr, mode: u32, content: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("below a folder")).expect("the folder is ours");
    fs::write(&path, content).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Every kind of name, size and mode.
fn sample(root: &Path) {
    for (name, mode, size) in [
        (&b"plain.txt"[..], 0o644, 12),
        (b"empty", 0o600, 0),
        (b"program.sh", 0o755, 300),
        (b"private", 0o640, 70_000),
        (b"a folder/with spaces", 0o644, 5),
        (b"deep/er/and/er/file", 0o444, 9),
        (b"-rf", 0o644, 3),
        (b".hidden/..c", 0o644, 4),
        (b"new\nline", 0o644, 7),
        (b"not utf-8 \xff\xfe", 0o644, 8),
        (b"$(touch pwn); id", 0o644, 2),
        (b"piece", 0o644, 256 << 10),
        (b"more than a piece", 0o644, (256 << 10) + 1),
        (b"much more", 0o644, 3_333_333),
    ] {
        write(
            root,
            OsStr::from_bytes(name),
            mode,
            &noise(size, size as u64 + 7),
        );
    }
    fs::create_dir_all(root.join("empty folder")).expect("the folder is ours");
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(root.join("deep/er"), closed).expect("it is ours");
}

fn session<'a>(stage: &'a Stage, args: &[&str]) -> Session<'a> {
    let work = stage.session("work");
    work.bash("true").args(args).go().ok();
    work
}

fn local(stage: &Stage, name: &str) -> String {
    let path = stage.folder().join(name);
    path.to_str().expect("text").to_owned()
}

both_engines! {
    /// In and out again: the same names, modes and bytes.
    fn trees(stage: &Stage) {
        let work = session(stage, &[]);
        let from = stage.folder().join("from");
        sample(&from);
        let sent = tree(&from);
        work.cp(["-r", &local(stage, "from"), &work.at("/sandbox/")]).go().ok();
        let look = "cd from && find . -type f | wc -l; stat -c '%a %s' program.sh private empty; cat plain.txt | wc -c; test ! -e pwn; echo $?; ls -A -- -rf; stat -c %U empty > /dev/null && id -u && stat -c %u empty";
        let seen = work.bash(look).go().ok();
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[1..7], ["755 300", "640 70000", "600 0", "12", "0", "-rf"], "{seen}");
        assert_eq!(lines[7], lines[8], "files are the session's own user's");
        work.cp(["-r", &work.at("/sandbox/from"), &local(stage, "back")]).go().ok();
        let back = tree(&stage.folder().join("back"));
        assert_eq!(back.len(), sent.len());
        for (path, item) in &sent {
            assert!(back.get(path) == Some(item), "{path:?}");
        }
        // Again over what is there, both ways, and the contents alone.
        work.cp(["-r", &local(stage, "from"), &work.at("/sandbox/")]).go().ok();
        fs::create_dir(stage.folder().join("again")).expect("the folder is ours");
        work.cp(["-r", &work.at("/sandbox/from/."), &local(stage, "again")]).go().ok();
        work.cp(["-r", &work.at("/sandbox/from/."), &local(stage, "again")]).go().ok();
        assert!(tree(&stage.folder().join("again")) == sent);
        // Below /tmp too, and into a folder that is not there yet.
        work.cp(["-r", &local(stage, "from"), &work.at("/tmp/x/y/")]).go().ok();
        assert_eq!(work.bash("cat /tmp/x/y/from/plain.txt | wc -c").go().ok().trim(), "12");
        work.remove();
    }

    fn names_and_places(stage: &Stage) {
        let work = session(stage, &[]);
        let data = stage.file("data.csv", "1,2,3\n");
        let data = data.to_str().expect("text");
        // As in the contract's own example.
        work.cp([data, &work.at("/sandbox/")]).go().ok();
        work.cp([data, &work.at("renamed.csv")]).go().ok();
        work.cp([data, &work.at("new/folder/data.csv")]).go().ok();
        work.cp([data, &work.at("")]).go().ok();
        assert_eq!(work.bash("cat data.csv renamed.csv new/folder/data.csv; ls -A").go().ok(),
            "1,2,3\n1,2,3\n1,2,3\ndata.csv\nmain.sh\nnew\nrenamed.csv\n");
        let ran = work.cp([&work.at("data.csv"), "-"]).go();
        assert_eq!(ran.ok(), "1,2,3\n");
        assert_eq!(ran.err(), "");
        work.cp([&work.at("data.csv"), &local(stage, "out.csv")]).go().ok();
        assert_eq!(fs::read(stage.folder().join("out.csv")).expect("it came"), b"1,2,3\n");
        // Several at once.
        let two = stage.file("two.csv", "2\n");
        work.cp([data, two.to_str().expect("text"), &work.at("both/")]).go().ok();
        assert_eq!(work.names("both"), ["data.csv", "two.csv"]);
        // What is wrong is told, and nothing is made.
        for (args, code, says) in [
            (vec![data.to_owned(), work.at("/etc/passwd")], 2, "/etc/passwd"),
            (vec![data.to_owned(), work.at("../etc/x")], 2, ".."),
            (vec![data.to_owned(), work.at("/sandbox/../x")], 2, ".."),
            (vec![data.to_owned(), work.at("/proc/1/root/sandbox/x")], 2, "/proc"),
            (vec![work.at("/etc/passwd"), "-".to_owned()], 2, "/etc/passwd"),
            (vec![work.at("/sandbox/../etc/passwd"), "-".to_owned()], 2, ".."),
            (vec![work.at("nothing"), "-".to_owned()], 125, "nothing"),
            (vec![work.at("new"), local(stage, "new")], 2, "-r"),
            (vec!["/nonexistent".to_owned(), work.at("x")], 2, "/nonexistent"),
            (vec![local(stage, "."), work.at("x")], 2, "-r"),
            (vec![data.to_owned(), local(stage, "x")], 2, "session"),
            (vec![work.at("data.csv"), local(stage, "no/such/folder")], 2, "folder"),
            (vec![work.at("data.csv"), work.at("x")], 2, "session"),
            (vec![data.to_owned(), work.at(&"x".repeat(300))], 2, "long"),
            (vec![data.to_owned(), "nobody:x".to_owned()], 125, "no session"),
            (vec!["nobody:x".to_owned(), "-".to_owned()], 125, "no session"),
        ] {
            let ran = work.cp(&args).go();
            ran.ended(code).says(says).says("error");
            assert_eq!(ran.out(), "");
        }
        assert!(!stage.folder().join("new").exists());
        assert_eq!(work.names("/sandbox"), ["both", "data.csv", "main.sh", "new", "renamed.csv"]);
        assert!(stage.session("nobody").info().is_none(), "a copy makes no session");
        work.remove();
    }

    /// Ten thousand files, in and out, in bounded time.
    fn many_small_files(stage: &Stage) {
        let work = session(stage, &["--sandbox-size", "256m"]);
        let from = stage.folder().join("many");
        for n in 0..10_000 {
            let name = format!("{}/{n}", n % 100);
            let content = if n % 10 == 0 { String::new() } else { format!("file {n}\n") };
            write(&from, OsStr::new(&name), 0o644, content.as_bytes());
        }
        let sent = tree(&from);
        let up = work.cp(["-r", &local(stage, "many"), &work.at("/sandbox/")]).go();
        up.within(seconds(60)).ok();
        assert_eq!(work.bash("find many -type f | wc -l; cat many/42/4242").go().ok().split_whitespace().collect::<Vec<_>>(), ["10000", "file", "4242"]);
        let down = work.cp(["-r", &work.at("/sandbox/many"), &local(stage, "back")]).go();
        down.within(seconds(60)).ok();
        assert!(tree(&stage.folder().join("back")) == sent);
        let rm = ["session", "rm", "-r", &work.at("many")];
        stage.isol8(rm).go().within(seconds(30)).ok();
        assert_eq!(work.names("/sandbox"), ["main.sh"]);
        work.remove();
    }

    /// One large file each way, with flat memory; `make soak` makes it a GiB.
    fn large_files(stage: &Stage) {
        let mib = env::var("ISOL8_COPY_MIB").map_or(64, |text| text.parse().expect("a number of MiB"));
        let work = session(stage, &["--sandbox-size", &format!("{}m", mib + 16), "--memory", &format!("{}m", mib + 256)]);
        let content = noise(mib << 20, 99);
        let file = stage.file("large", &content);
        let daemon = stage.daemon_process();
        let before = daemon.resident_bytes();
        let up = work.cp([file.to_str().expect("text"), &work.at("/sandbox/")]).go();
        up.ok();
        let sums = work.bash("sha256sum large").go().ok();
        let sum = isol8_e2e::harness::host::tool("sha256sum", &[file.to_str().expect("text")]);
        assert_eq!(sums.split(' ').next(), sum.split(' ').next(), "by hash");
        let down = work.cp([&work.at("large"), &local(stage, "back")]).go();
        down.ok();
        assert!(fs::read(stage.folder().join("back")).expect("it came") == content);
        let grown = daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 24 << 20, "the daemon grew by {grown} bytes");
        fs::remove_file(file).expect("it is ours");
        work.remove();
    }

    /// Cut off by a signal, or killed: the name has what it had before.
    fn an_interrupted_upload_leaves_nothing(stage: &Stage) {
        let work = session(stage, &["--sandbox-size", "600m", "--memory", "1g"]);
        work.put("old", "as it was");
        let large = stage.file("large", vec![b'x'; 500 << 20]);
        for (name, signal, code) in [
            ("new", Signal::INT, 130),
            ("new", Signal::TERM, 143),
            ("new", Signal::KILL, 137),
            ("old", Signal::INT, 130),
            ("old", Signal::KILL, 137),
        ] {
            let live = work.cp([large.to_str().expect("text"), &work.at(name)]).start();
            wait_until("a copy under way", seconds(10), || work.is_busy());
            live.signal(signal);
            assert_eq!(live.finish().code(), code);
            assert_eq!(work.names("/sandbox"), ["main.sh", "old"], "{name} after {signal:?}");
            assert_eq!(work.bash("ls -A").go().ok(), "main.sh\nold\n");
        }
        assert_eq!(work.fetch("old"), b"as it was");
        work.remove();
    }

    fn an_interrupted_download_leaves_nothing(stage: &Stage) {
        let work = session(stage, &["--sandbox-size", "300m", "--memory", "700m"]);
        work.bash("head -c 250m /dev/zero > big").go().ok();
        for (turn, signal) in [Signal::INT, Signal::TERM, Signal::KILL].into_iter().enumerate() {
            for old in [false, true] {
                let folder = stage.folder().join(format!("{turn}-{old}"));
                fs::create_dir(&folder).expect("the folder is ours");
                if old {
                    fs::write(folder.join("big"), "as it was").expect("the folder is ours");
                }
                let live = work.cp([work.at("big"), folder.join("big").to_str().expect("text").to_owned()]).start();
                let count = || fs::read_dir(&folder).map_or(0, Iterator::count);
                wait_until("a copy under way", seconds(20), || count() > usize::from(old));
                live.signal(signal);
                let ran = live.finish();
                assert_ne!(ran.code(), 0, "it was not whole yet: {ran:?}");
                match old {
                    true => assert_eq!(fs::read(folder.join("big")).expect("it is there"), b"as it was"),
                    false => assert!(!folder.join("big").exists(), "no half file under its name"),
                }
                if signal != Signal::KILL {
                    assert_eq!(count(), usize::from(old), "nothing else either");
                }
                fs::remove_dir_all(&folder).expect("the folder is ours");
                assert_eq!(work.bash("echo fine").go().ok(), "fine\n");
            }
        }
        work.remove();
    }

    /// FA07: a file that grows and one that goes while they are read.
    fn files_that_change_while_they_are_read(stage: &Stage) {
        let work = session(stage, &["--sandbox-size", "64m"]);
        let grow = "(setsid bash -c 'while :; do echo grows >> grown; : > gone; rm -f gone; done' >/dev/null 2>&1 &)";
        work.bash(grow).go().ok();
        for n in 0..10 {
            let into = local(stage, &format!("out-{n}"));
            let ran = work.cp(["-r", &work.at("/sandbox"), &into]).go();
            ran.within(seconds(20));
            match ran.code() {
                0 => {
                    let grown = fs::read(Path::new(&into).join("grown")).unwrap_or_default();
                    assert!(grown.len().is_multiple_of(6) || !grown.is_empty(), "{}", grown.len());
                }
                _ => drop(ran.ended(125).says("changed")),
            }
        }
        // Holes come out as what is read of them.
        work.bash("truncate -s 60m sparse").go().ok();
        work.cp([work.at("sparse"), local(stage, "sparse")]).go().ok();
        let sparse = fs::read(local(stage, "sparse")).expect("it came");
        assert!(sparse.len() == 60 << 20 && sparse.iter().all(|byte| *byte == 0));
        work.remove();
    }

    /// What is removed is what was named.
    fn removal(stage: &Stage) {
        let work = session(stage, &[]);
        work.bash("mkdir -p d/e /tmp/away; echo 1 > d/e/f; echo 2 > g; ln -s /tmp/away l; echo kept > /tmp/away/kept").go().ok();
        let rm = |args: &[&str]| -> Call { stage.isol8(["session", "rm"]).args(args) };
        rm(&[&work.at("d")]).go().ended(2).says("is a folder").says("-r");
        rm(&[&work.at("nothing")]).go().ended(125).says("nothing");
        rm(&["-r", &work.at("/sandbox")]).go().ended(2);
        rm(&[&work.at("/etc/passwd")]).go().ended(2);
        let through = rm(&["-r", &work.at("l/kept")]).go();
        assert_ne!(through.code(), 0, "{through:?}");
        rm(&["-r", &work.at("d"), &work.at("g"), &work.at("l")]).go().ok();
        assert_eq!(work.bash("ls -A; cat /tmp/away/kept").go().ok(), "main.sh\nkept\n");
        work.remove();
    }
}
