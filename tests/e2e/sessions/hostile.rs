//! FA02, FA03, FA08: what a program in a session does to its files so that a
//! copy reads or writes somewhere else.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::Path,
};

use isol8_e2e::harness::{session::Session, stage::Stage, wait::seconds};

const PLANT: &str = "import os, socket\n\
    os.makedirs('/sandbox/out/sub'); os.makedirs('/tmp/away')\n\
    open('/sandbox/out/plain', 'w').write('plain'); open('/sandbox/out/sub/deep', 'w').write('deep')\n\
    open('/tmp/away/secret', 'w').write('CANARY')\n\
    os.symlink('/etc/passwd', '/sandbox/out/passwd')\n\
    os.symlink('/proc/self/environ', '/sandbox/out/environ')\n\
    os.symlink('/tmp/away', '/sandbox/out/away')\n\
    os.symlink('../../../../../../etc', '/sandbox/out/etc')\n\
    os.symlink('loop-b', '/sandbox/out/loop-a'); os.symlink('loop-a', '/sandbox/out/loop-b')\n\
    os.symlink('.', '/sandbox/out/self')\n\
    os.mkfifo('/sandbox/out/fifo')\n\
    s = socket.socket(socket.AF_UNIX); s.bind('/sandbox/out/socket')\n\
    os.symlink('/tmp/away', '/sandbox/door'); os.symlink('/tmp/away/new', '/sandbox/target')\n\
    os.symlink('/isol8', '/sandbox/isol8'); os.symlink('/proc/1/root', '/sandbox/root')\n\
    print('planted')";

fn planted(stage: &Stage) -> Session<'_> {
    let work = stage.session("work");
    assert_eq!(work.python(PLANT).go().ok(), "planted\n");
    work
}

/// Every path below a folder, no link followed.
fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
        found.push(entry.path());
    }
}

both_engines! {
    /// Links, pipes and sockets are told and passed over: nothing is read through
    /// them, and none is made here.
    fn only_files_and_folders_come_out(stage: &Stage) {
        let work = planted(stage);
        let into = stage.folder().join("into");
        let ran = work.cp(["-r", &work.at("/sandbox/out"), into.to_str().expect("text")]).go();
        ran.within(seconds(20)).ok();
        let mut found = Vec::new();
        walk(&into, &mut found);
        let mut names: Vec<_> = found.iter().map(|path| path.strip_prefix(&into).expect("below").to_str().expect("text")).collect();
        names.sort_unstable();
        assert_eq!(names, ["plain", "sub", "sub/deep"]);
        ran.says("link");
        for path in ["passwd", "environ", "away", "etc", "loop-a", "self", "fifo", "socket", "passwd/x", "away/secret", "self/plain", "loop-a/x"] {
            let ran = work.cp([work.at(&format!("out/{path}")), "-".to_owned()]).go();
            assert_ne!(ran.within(seconds(10)).code(), 0, "{path}: {ran:?}");
            assert_eq!(ran.out(), "", "{path}");
        }
        for path in ["/sandbox/root/etc/passwd", "/sandbox/isol8/link/sock", "/sandbox/door/secret"] {
            let ran = work.cp([work.at(path), "-".to_owned()]).go();
            assert_ne!(ran.code(), 0, "{ran:?}");
            assert_eq!(ran.out(), "", "{path}");
        }
        // Their names can be seen, and where links lead.
        let listed = stage.isol8(["session", "ls", &work.at("out")]).go().ok();
        for text in ["passwd -> /etc/passwd", "fifo", "socket", "plain"] {
            assert!(listed.contains(text), "{text}: {listed}");
        }
        let door = stage.isol8(["session", "ls", &work.at("/sandbox/door")]).go();
        assert!(!door.out().contains("secret"), "nor is a folder listed through one: {door:?}");
        work.remove();
    }

    /// Nothing that is written in goes where a link leads.
    fn nothing_is_written_through_a_link(stage: &Stage) {
        let work = planted(stage);
        let file = stage.file("file", "written");
        let file = file.to_str().expect("text");
        for path in ["door/new", "target", "door/deep/new", "out/away/new", "out/self/new", "root/tmp/new", "isol8/new", "out/loop-a", "out/passwd", "out/fifo", "out/socket"] {
            let ran = work.cp([file, &work.at(path)]).go();
            ran.within(seconds(10));
            assert_ne!(ran.code(), 0, "{path}: {ran:?}");
        }
        let folder = stage.folder().join("door");
        fs::create_dir(&folder).expect("the folder is ours");
        fs::write(folder.join("new"), "written").expect("the folder is ours");
        let ran = work.cp(["-r", folder.to_str().expect("text"), &work.at("/sandbox/")]).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        let look = "import os\nprint(os.listdir('/tmp/away'), open('/tmp/away/secret').read(), os.path.exists('/sandbox/out/new'),\n\
            sorted(n for n in os.listdir('/sandbox') if os.path.islink('/sandbox/' + n)), os.readlink('/sandbox/out/passwd'))";
        let expected = "['secret'] CANARY False ['door', 'isol8', 'root', 'target'] /etc/passwd\n";
        assert_eq!(work.python(look).go().ok(), expected);
        work.remove();
    }

    /// What lies here in the way of a copy is not followed either.
    fn a_copy_out_stays_below_its_destination(stage: &Stage) {
        let work = planted(stage);
        let into = stage.folder().join("into");
        let outside = stage.folder().join("outside");
        fs::create_dir_all(&into).expect("the folder is ours");
        fs::create_dir(&outside).expect("the folder is ours");
        symlink(&outside, into.join("sub")).expect("the folder is ours");
        let ran = work.cp(["-r", &work.at("/sandbox/out/."), into.to_str().expect("text")]).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0, "written through a link of ours");
        fs::remove_file(into.join("sub")).expect("it is ours");
        fs::write(outside.join("plain"), "as it was").expect("the folder is ours");
        drop(fs::remove_file(into.join("plain")));
        symlink(outside.join("plain"), into.join("plain")).expect("the folder is ours");
        let ran = work.cp(["-r", &work.at("/sandbox/out/."), into.to_str().expect("text")]).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        assert_eq!(fs::read_to_string(outside.join("plain")).expect("it is there"), "as it was");
        // A pipe would hold the copy up for ever.
        fs::remove_file(into.join("plain")).expect("it is ours");
        drop(isol8_e2e::harness::host::tool("mkfifo", &[into.join("plain").to_str().expect("text")]));
        let ran = work.cp(["-r", &work.at("/sandbox/out/."), into.to_str().expect("text")]).go();
        assert_ne!(ran.within(seconds(10)).code(), 0, "{ran:?}");
        assert!(fs::symlink_metadata(into.join("plain")).expect("it is there").file_type().is_fifo());
        work.remove();
    }

    /// A folder that is swapped for a link all the time, in both directions.
    fn a_folder_that_becomes_a_link(stage: &Stage) {
        let work = planted(stage);
        let swap = "import os, subprocess, sys\n\
            open('/sandbox/swap.py', 'w').write('''import os\n\
            os.makedirs('/sandbox/swap/real'); open('/sandbox/swap/real/secret', 'w').write('inside')\n\
            os.symlink('/tmp/away', '/sandbox/swap/link')\n\
            while 1:\n \
             for one in ('real', 'link'):\n  \
              os.rename('/sandbox/swap/' + one, '/sandbox/swap/d'); os.rename('/sandbox/swap/d', '/sandbox/swap/' + one)\n''')\n\
            subprocess.Popen([sys.executable, '/sandbox/swap.py'], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)";
        work.python(swap).go().ok();
        let file = stage.file("up", "written");
        let file = file.to_str().expect("text");
        let mut came = 0;
        for n in 0..25 {
            let into = stage.folder().join(format!("swapped-{n}"));
            fs::create_dir(&into).expect("the folder is ours");
            work.cp(["-r", &work.at("swap"), into.to_str().expect("text")]).go().within(seconds(20));
            work.cp(["-r", &work.at("swap/d"), into.to_str().expect("text")]).go().within(seconds(20));
            work.cp([file, &work.at("swap/d/up")]).go().within(seconds(20));
            let mut found = Vec::new();
            walk(&into, &mut found);
            for path in found.iter().filter(|path| path.is_file()) {
                assert_eq!(fs::read_to_string(path).expect("it is text").replace("written", "inside"), "inside", "{path:?}");
                came += 1;
            }
        }
        assert!(came > 0, "some copies were in time");
        assert_eq!(work.python("import os; print(os.listdir('/tmp/away'))").go().ok(), "['secret']\n");
        work.remove();
    }

    /// RX08: deep and long, and nobody's stack overflows.
    fn very_deep_folders(stage: &Stage) {
        let work = stage.session("work");
        let deep = "import os\nfor n in range(3000):\n os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('bottom', 'w')\nprint('deep')";
        assert_eq!(work.python(deep).go().ok(), "deep\n");
        let ran = work.cp(["-r", &work.at("/sandbox"), stage.folder().join("deep").to_str().expect("text")]).go();
        assert_ne!(ran.within(seconds(20)).code(), 0, "no path is that long: {ran:?}");
        stage.isol8(["session", "ls", &work.at("/sandbox")]).go().within(seconds(5)).ok();
        assert!(work.info().is_some());
        assert_eq!(work.python("print('fine')").go().ok(), "fine\n");
        let name = "d".repeat(200);
        stage.isol8(["session", "rm", "-r", &work.at(&name)]).go().within(seconds(20)).ok();
        assert_eq!(work.names("/sandbox"), ["main.py"]);
        work.remove();
    }

    /// Files are memory, and init has no other: a copy that fills it would end the
    /// session with all that is in it.
    fn a_copy_that_is_more_than_the_memory(stage: &Stage) {
        let work = stage.session("work");
        work.python("open('/sandbox/mine', 'w').write('kept')").args(["--memory", "128m"]).go().ok();
        let sandbox = work.sandbox();
        let file = stage.file("large", vec![7_u8; 200 << 20]);
        let file = file.to_str().expect("text");
        for to in ["/tmp/", "/sandbox/"] {
            let ran = work.cp([file, &work.at(to)]).go();
            assert_ne!(ran.within(seconds(20)).code(), 0, "{to}: {ran:?}");
            ran.says("memory limit of 128m").says("hint: ").says("--memory");
        }
        assert_eq!(work.fetch("/sandbox/mine"), b"kept");
        assert_eq!(work.names("/tmp"), Vec::<String>::new(), "nothing of it is left");
        // What fits goes, and a second that takes its place must fit beside it.
        let file = stage.file("fits", vec![7_u8; 60 << 20]);
        let file = file.to_str().expect("text");
        work.cp([file, &work.at("/tmp/")]).go().within(seconds(20)).ok();
        let ran = work.cp([file, &work.at("/tmp/")]).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        ran.says("memory limit of 128m");
        let look = "import os; print(os.path.getsize('/tmp/fits') >> 20, open('/sandbox/mine').read())";
        assert_eq!(work.python(look).go().ok(), "60 kept\n");
        assert_eq!(work.sandbox(), sandbox, "it is the same one");
        work.remove();
    }

    /// A program has filled the memory with files: their owner gets at them, and
    /// rid of them.
    fn a_session_that_is_full_to_the_brim(stage: &Stage) {
        let work = stage.session("work");
        let fill = "open('/sandbox/mine', 'w').write('kept')\n\
            for n in range(200): open(f'/sandbox/fill-{n:03}', 'wb').write(bytes(1 << 20))";
        let ran = work.python(fill).args(["--memory", "128m"]).go();
        assert_ne!(ran.within(seconds(30)).code(), 0, "it is more than there is: {ran:?}");
        let sandbox = work.sandbox();
        let small = stage.file("small", vec![7_u8; 20 << 20]);
        let ran = work.cp([small.to_str().expect("text"), &work.at("/tmp/")]).go();
        assert_ne!(ran.code(), 0, "{ran:?}");
        ran.says("memory limit of 128m").says("isol8 session rm");
        let names = work.names("/sandbox");
        let fills: Vec<_> = names.iter().filter(|name| name.starts_with("fill-")).collect();
        assert!(fills.len() > 80, "{names:?}");
        assert_eq!(work.fetch("/sandbox/mine"), b"kept");
        assert_eq!(work.fetch("/sandbox/fill-000").len(), 1 << 20);
        for name in &fills {
            stage.isol8(["session", "rm", &work.at(&format!("/sandbox/{name}"))]).go().ok();
        }
        assert_eq!(work.python("print(open('/sandbox/mine').read())").go().ok(), "kept\n");
        work.cp([small.to_str().expect("text"), &work.at("/tmp/")]).go().ok();
        assert_eq!(work.sandbox(), sandbox, "it is the same one");
        work.remove();
    }
}
