//! Sessions outlive the daemon: killed, stopped, replaced. What goes on in them
//! does not even notice.

use std::fs;

use isol8_e2e::harness::{
    host,
    session::{Beat, Heart, Session},
    stage::Stage,
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

/// A session with a file and a heart, and how they were.
struct Before<'a> {
    work: Session<'a>,
    heart: Heart,
    beat: Beat,
    sandbox: String,
}

impl<'a> Before<'a> {
    fn begin(stage: &'a Stage, name: &str, mark: u32) -> Self {
        Self::begin_with(stage, name, mark, &[])
    }

    fn begin_with(stage: &'a Stage, name: &str, mark: u32, args: &[&str]) -> Self {
        let work = stage.session(name);
        work.bash(&format!(
            "echo kept {name} > /sandbox/f; echo kept > /tmp/t; mkdir d; echo deep > d/g"
        ))
        .args(args)
        .go()
        .ok();
        let heart = work.start_heart(&stage.mark(mark));
        Self {
            beat: work.beat(&heart),
            sandbox: work.sandbox(),
            work,
            heart,
        }
    }

    /// The same sandbox, files and process.
    #[track_caller]
    fn is_there(&self) {
        let name = self.work.name();
        let ran = self
            .work
            .bash("cat /sandbox/f /tmp/t d/g")
            .arg("--json")
            .go();
        let result = ran.ended(0).json();
        assert_eq!(result["stdout"], format!("kept {name}\nkept\ndeep\n"));
        assert_eq!(result["sandboxId"], self.sandbox.as_str());
        self.heart.goes_on_since(self.beat);
        assert_eq!(self.work.beat(&self.heart).pid, self.beat.pid);
        assert_eq!(self.work.sandbox(), self.sandbox);
    }
}

both_engines! {
    /// SIGKILL; the next call of the command line starts another daemon.
    fn a_crash(stage: &Stage) {
        let (one, two) = (Before::begin(stage, "one", 70_130), Before::begin(stage, "two", 70_131));
        for _ in 0..3 {
            stage.crash_whoever_answers();
            assert!(!stage.answers());
            // It goes on while nobody is there.
            let alone = one.heart.seen_from_the_host().unwrap_or(one.beat);
            one.heart.goes_on_since(alone);
            one.is_there();
            two.is_there();
        }
        assert_eq!(stage.sessions().len(), 2);
        one.work.remove();
        two.work.remove();
        stage.stop_whoever_answers();
    }

    /// The end that an operator gives it.
    fn a_stop(stage: &Stage) {
        let before = Before::begin(stage, "work", 70_132);
        let warm = stage.bash("echo no session").go();
        warm.ok();
        stage.stop_whoever_answers();
        assert!(!stage.answers());
        before.heart.goes_on_since(before.beat);
        before.is_there();
        // By SIGTERM, as a service manager ends it.
        stage.stop_whoever_answers();
        stage.start_daemon();
        stage.stop_daemon();
        before.heart.goes_on_since(before.beat);
        stage.start_daemon();
        before.is_there();
        before.work.remove();
    }

    /// A run in flight ends for its caller, and with all that it has started.
    fn a_crash_in_the_middle_of_a_run(stage: &Stage) {
        let before = Before::begin(stage, "work", 70_133);
        let mark = &stage.mark(70_134);
        for code in [
            format!("echo up; sleep {mark}"),
            format!("trap '' HUP TERM INT; setsid sleep {mark} & sleep {mark} & echo up; wait"),
            format!("sleep {mark} & echo up; yes"),
        ] {
            let live = before.work.bash(&code).args(["--max-output", "10g"]).start();
            live.until_stdout("up");
            let waits = before.work.bash("echo never > /sandbox/never").start();
            wait_until("one that waits", seconds(10), || {
                before.work.info().is_some_and(|info| info["waiting"] == 1)
            });
            stage.crash_whoever_answers();
            for ran in [live.finish(), waits.finish()] {
                ran.ended(125).says("error").within(seconds(30));
            }
            // Without any daemon: init has seen its stream end.
            wait_until("the end of what the run had started", seconds(5), || host::sleepers(mark).is_empty());
            before.is_there();
            assert!(!before.work.names("/sandbox").contains(&"never".to_owned()));
        }
        before.work.remove();
        stage.stop_whoever_answers();
    }

    /// A copy in flight leaves nothing under the name that it was to have.
    fn a_crash_in_the_middle_of_a_copy(stage: &Stage) {
        let before = Before::begin_with(stage, "work", 70_135, &["--sandbox-size", "600m", "--memory", "1g"]);
        before.work.put("old", "as it was");
        let large = stage.file("large", vec![b'x'; 500 << 20]);
        for name in ["new", "old"] {
            let live = before.work.cp([large.to_str().expect("text"), &before.work.at(name)]).start();
            wait_until("a copy under way", seconds(10), || before.work.is_busy());
            stage.crash_whoever_answers();
            live.finish().ended(125);
            before.is_there();
        }
        assert_eq!(before.work.fetch("old"), b"as it was");
        let heart = format!(".beat-{}", stage.mark(70_135));
        let mut names = before.work.names("/sandbox");
        names.retain(|name| *name != heart);
        assert_eq!(names, ["d", "f", "main.sh", "old"]);
        before.work.remove();
        stage.stop_whoever_answers();
    }

    /// Who comes back for its sessions finds them, also when another daemon has
    /// looked after what is dead on this host meanwhile.
    fn another_daemon_spares_them(stage: &Stage) {
        let before = Before::begin(stage, "work", 70_136);
        let kept = stage.bash("echo kept > f").args(["--persist", "--json"]).go();
        kept.ok();
        assert_eq!(stage.sessions().len(), 2);
        stage.crash_daemon();
        Stage::with(stage.engine(), |other| {
            assert_eq!(other.bash("echo other").go().ok(), "other\n");
            assert_eq!(other.sessions().len(), 0, "they are nobody else's");
            other.isol8(["cleanup", "--force"]).go().ok();
            other.crash_daemon();
            other.start_daemon();
            assert_eq!(other.bash("echo again").go().ok(), "again\n");
        });
        before.heart.goes_on_since(before.beat);
        stage.start_daemon();
        before.is_there();
        assert_eq!(stage.sessions().len(), 2);
        stage.isol8(["cleanup", "--force"]).go().ok();
        assert_eq!(stage.sessions().len(), 0);
    }

    /// F23: what a newer daemon has written, or nobody can read, is not guessed
    /// at, and nothing is destroyed for it.
    fn a_state_file_that_cannot_be_read(stage: &Stage) {
        let before = Before::begin(stage, "work", 70_137);
        stage.stop_daemon();
        let path = stage.folder().join("state/sessions.json");
        let text = fs::read_to_string(&path).expect("it is written");
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("it is there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        let mut newer = parsed.clone();
        newer["version"] = json!(4711);
        let mut unknown = parsed.clone();
        unknown["sessions"][0]["colour"] = json!("blue");
        let mut senseless = parsed;
        senseless["sessions"][0]["engine"] = json!("steam");
        for (bad, why) in [
            (newer.to_string(), "4711"),
            (unknown.to_string(), "colour"),
            (senseless.to_string(), "engine"),
            (text[..text.len() / 2].to_owned(), "EOF"),
            (String::new(), "EOF"),
            ("no JSON".to_owned(), "expected"),
        ] {
            fs::write(&path, &bad).expect("the folder is ours");
            let said = stage.log().len();
            let mut daemon = stage.spawn_daemon(|_| {});
            wait_until("the refusal", seconds(20), || daemon.try_wait().is_ok_and(|status| status.is_some()));
            assert!(!daemon.wait().expect("it is ours").success());
            let log = stage.log();
            let refusal = &log[said..];
            assert!(refusal.contains("state/sessions.json") && refusal.contains(why), "{why}: {refusal}");
            let ran = before.work.bash("echo no").go();
            assert_eq!(ran.ended(125).out(), "");
            ran.says("sessions.json");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), bad, "it is left as it is");
        }
        before.heart.goes_on_since(before.beat);
        fs::write(&path, &text).expect("the folder is ours");
        stage.start_daemon();
        before.is_there();
        before.work.remove();
    }

    /// A program inside cannot pass for PID 1 when the daemon comes back.
    fn nobody_inside_answers_for_init(stage: &Stage) {
        let before = Before::begin(stage, "work", 70_138);
        // It dials whatever socket it can see, all the time.
        let dial = "import glob, socket, time\n\
            while 1:\n \
             for path in glob.glob('/isol8/**/*', recursive=True) + glob.glob('/isol8/link/*'):\n  \
              for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):\n   \
               s = socket.socket(socket.AF_UNIX, kind)\n   \
               try: s.connect(path); s.settimeout(0.05); s.send(b'\\x0a\\x04\\x08\\x01\\x18\\x01'); s.recv(100)\n   \
               except OSError: pass\n \
             time.sleep(0.01)";
        let py = stage.session("py");
        let start = format!("import subprocess, sys\nopen('d.py', 'w').write({dial:?})\n\
            subprocess.Popen([sys.executable, 'd.py'], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\nopen('f', 'w').write('kept')");
        py.python(&start).go().ok();
        for _ in 0..3 {
            stage.crash_whoever_answers();
            assert_eq!(py.python("print(open('f').read())").go().ok(), "kept\n");
            before.is_there();
        }
        py.remove();
        before.work.remove();
        stage.stop_whoever_answers();
    }
}
