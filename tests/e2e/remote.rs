//! `isol8 run --host`: what a run is on another machine. A table of command lines
//! runs here and there and must look the same; then what a run asks of both ends
//! while it goes on, and what becomes of it when one of them is gone.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use isol8_e2e::harness::{
    call::{Call, Ran},
    gateway::{Gateway, KEY},
    host,
    wait::{seconds, wait_until},
};
use rustix::process::Signal;

use crate::install::registry;

/// A command line that reaches no daemon but the one behind a gateway.
struct Away<'a> {
    stage: &'a isol8_e2e::harness::stage::Stage,
    url: String,
}

impl<'a> Away<'a> {
    fn to(gateway: &Gateway, stage: &'a isol8_e2e::harness::stage::Stage) -> Self {
        let url = format!("http://{}", gateway.address());
        Self { stage, url }
    }

    fn nowhere(&self) -> PathBuf {
        self.stage.folder().join("nowhere")
    }

    /// `isol8 run --host …` with these arguments.
    fn run(&self, args: &[&str]) -> Call {
        let call = self.stage.isol8(["run", "--host", &self.url]).args(args);
        call.env("ISOL8_API_KEY", KEY)
            .env("ISOL8_SOCKET", self.nowhere().join("d.sock"))
            .env("ISOL8_STATE_DIR", self.nowhere().join("state"))
    }

    fn bash(&self, code: &str) -> Call {
        self.run(&["-r", "bash", "-e", code])
    }

    /// The same here and there.
    #[track_caller]
    fn same(&self, args: &[&str], stdin: &[u8]) -> (Ran, Ran) {
        let here = self.stage.isol8(["run"]).args(args).feed(stdin).go();
        let there = self.run(args).feed(stdin).go();
        assert_eq!(there.code(), here.code(), "{here:?}\n{there:?}");
        assert!(there.stdout == here.stdout, "{here:?}\n{there:?}");
        assert_eq!(there.err(), here.err(), "{here:?}\n{there:?}");
        (here, there)
    }
}

/// Bytes that no compression and no text takes for granted.
const FLOOD: &str = "import random, sys\n\
    r = random.Random(5)\n\
    for _ in range(200): sys.stdout.buffer.write(r.randbytes(1 << 18))";

both_engines! {
    /// Stdout byte for byte, stderr word for word, and the exit code.
    fn a_run_looks_the_same_here_and_there(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let script = stage.file("script.py", "import sys; print(sys.argv, len(sys.stdin.read()))");
        let script = script.to_str().expect("it is text");
        let typed = "x\u{1f980}\n".repeat(100_000);
        let table: &[(&[&str], &[u8])] = &[
            (&["-e", "print(6 * 7)"], b""),
            (&["-e", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], b""),
            (&["-e", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 999)"], b""),
            (&["-r", "bash", "-e", "wc -c; wc -c < /sandbox/main.sh"], b"\0\xff piped"),
            (&["-r", "bash", "-e", "cat", "--stdin", "typed"], b"piped"),
            (&["-r", "bash", "-e", "cat"], typed.as_bytes()),
            (&[script], b"12345"),
            (&[], b"print('the program came on stdin')"),
            (&["-r", "bash", "-e", "kill -SEGV $$"], b""),
            (&["-r", "bash", "-e", "echo on; sleep 60", "--timeout", "1500"], b""),
            (&["-e", "print('on', flush=True); b = bytearray(1 << 30)", "--memory", "64m"], b""),
            (&["-r", "bash", "-e", "seq 100000", "--max-output", "1000"], b""),
            (&["-r", "bash", "-e", "echo $S-$P; echo $S >&2", "--secret", "S=hush-hush", "--env", "P=plain"], b""),
            (&["-r", "bash", "-e", "echo one; echo two >&2; exit 9", "--no-stream"], b""),
            (&["-r", "bash", "-e", "touch /etc/x && echo written", "--writable"], b""),
            (&["-r", "bash", "-e", "touch /etc/x"], b""),
            (&["-e", "syntax error("], b""),
            (&["-e", "1", "--memory", "1k"], b""),
            (&["-e", "1", "--no-stream", "--max-output", "10g"], b""),
            (&["-e", "1", "-r", "perl"], b""),
        ];
        for (args, stdin) in table {
            away.same(args, stdin);
        }
        assert!(!away.nowhere().exists(), "no daemon was started here");
        gateway.stop();
    }

    /// 50 MiB down, 20 MiB up and down.
    fn nothing_is_lost_of_much(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let (here, _) = away.same(&["-e", FLOOD, "--max-output", "64m"], b"");
        assert_eq!(here.stdout.len(), 50 << 20);
        let up = &here.stdout[..20 << 20];
        let echoed = away.run(&["-r", "bash", "-e", "cat", "--max-output", "64m"]).feed(up).go();
        assert!(echoed.ended(0).stdout == up, "{echoed:?}");
        gateway.stop();
    }

    fn a_result_and_a_copy_are_the_same(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let args = ["-r", "bash", "-e", "printf 'a\\377'; echo e >&2; exit 4", "--json"];
        let results = [stage.isol8(["run"]).args(args).go(), away.run(&args).go()];
        let results = results.map(|ran| {
            let mut result = ran.ended(4).json();
            let object = result.as_object_mut().expect("an object");
            for key in ["executionId", "sandboxId", "timestamp", "durationMs", "resourceUsage", "warm"] {
                assert!(object.remove(key).is_some(), "{key} in {object:?}");
            }
            result
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[1]["stdoutBase64"], "Yf8=");

        let copy = |name: &str| stage.folder().join(name).display().to_string();
        let (here, there) = (copy("here"), copy("there"));
        let code = "printf 'x\\000\\377'";
        stage.bash(code).args(["--out", &here]).go().ended(0);
        away.bash(code).args(["--out", &there]).go().ended(0);
        assert_eq!(fs::read(here).expect("a copy"), fs::read(there).expect("a copy"));
        gateway.stop();
    }

    /// What is typed reaches the program at once, and its answer comes back.
    fn a_dialogue_is_live(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let mut live = away.bash("while read line; do echo \"got $line\"; done; exit 6").open_stdin().start();
        for word in ["one", "two", "three"] {
            let stdin = live.stdin.as_mut().expect("a pipe");
            writeln!(stdin, "{word}").expect("it is read");
            live.until_stdout(&format!("got {word}\n"));
        }
        live.finish().ended(6);
        gateway.stop();
    }

    fn ctrl_c_is_the_programs_and_then_the_runs(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let mark = &stage.mark(6100);
        let gone = |what: &str| wait_until(what, seconds(10), || host::sleepers(mark).is_empty());

        let live = away.bash(&format!("trap 'echo bye; exit 7' INT; echo ready; sleep {mark} & wait")).start();
        live.until_stdout("ready");
        live.signal(Signal::INT);
        let ran = live.finish();
        assert_eq!(ran.ended(7).out(), "ready\nbye\n");
        gone("the end of what the program left");

        let live = away.bash(&format!("trap 'echo once' INT; echo ready; while :; do sleep {mark}; done")).start();
        live.until_stdout("ready");
        live.signal(Signal::INT);
        live.until_stdout("once");
        live.signal(Signal::INT);
        live.finish().ended(130);
        gone("the second Ctrl-C's effect");

        let live = away.bash(&format!("echo ready; sleep {mark}")).start();
        live.until_stdout("ready");
        live.signal(Signal::TERM);
        live.finish().ended(143);
        gone("SIGTERM's effect");

        // It reads nothing of what it is sent.
        let stopped = away.bash(&format!("echo ready; sleep {mark}")).tweak(|command| {
            let mut sh = std::process::Command::new("sh");
            sh.args(["-c", "exec \"$0\" \"$@\" < /dev/zero"]);
            sh.arg(command.get_program()).args(command.get_args()).env_clear();
            sh.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            *command = sh;
        });
        let live = stopped.start();
        live.until_stdout("ready");
        live.signal(Signal::INT);
        live.finish().ended(130);
        gone("Ctrl-C behind stdin that nobody reads");
        gateway.stop();
    }

    /// The client's end, the gateway's and the daemon's: the run is never taken
    /// for one that went well, and nothing of it goes on.
    fn a_run_ends_with_either_end(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let mark = &stage.mark(6200);
        let begin = |away: &Away<'_>| {
            let live = away.bash(&format!("echo ready; sleep {mark}")).start();
            live.until_stdout("ready");
            assert_eq!(host::sleepers(mark).len(), 1);
            live
        };
        let gone = |what: &str| wait_until(what, seconds(10), || host::sleepers(mark).is_empty());

        let live = begin(&away);
        live.signal(Signal::KILL);
        live.finish().ended(137);
        gone("the run of a client that was killed");

        let live = begin(&away);
        gateway.signal(Signal::TERM);
        let ran = live.finish();
        ran.ended(125).says("the gateway is shutting down");
        gone("the run of a gateway that was stopped");
        drop(gateway);

        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let live = begin(&away);
        gateway.signal(Signal::KILL);
        let ran = live.finish();
        ran.ended(125).says("the connection to `http://").says("was lost");
        gone("the run of a gateway that was killed");
        drop(gateway);

        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let live = begin(&away);
        stage.crash_daemon();
        let ran = live.finish();
        ran.ended(125).says("the isol8 daemon does not answer");
        stage.start_daemon();
        gone("the run of a daemon that was killed");
        away.bash("echo again").go().ended(0);
        gateway.stop();
    }

    fn a_session_is_there_and_its_files_too(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        away.bash("echo kept > f").args(["--session", "work"]).go().ended(0);
        assert_eq!(away.bash("cat f").args(["--session", "work"]).go().ok(), "kept\n");
        assert_eq!(away.bash("ls").args(["--session", "other"]).go().ok(), "main.sh\n");
        // Whoever runs here does not meet it, and HTTP has it under its name.
        assert_eq!(stage.bash("ls").args(["--session", "work"]).go().ok(), "main.sh\n");
        let list = gateway.ask("GET /sessions").ok();
        let ids = list["sessions"].as_array().expect("a list").iter();
        let mut ids: Vec<&str> = ids.filter_map(|session| session["id"].as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["other", "work"]);
        let other = away.bash("cat f").args(["--session", "work", "--memory", "64m"]).go();
        other.ended(125).says("session `work` was made with something else");
        let kept = away.bash("exit 2").arg("--persist").go();
        kept.ended(2).says("is kept on the server");
        away.run(&["-e", "1", "--session", "../x"]).go().ended(2);
        stage.isol8(["cleanup", "--force"]).go().ended(0);
        gateway.stop();
    }

    /// The server decides what may be asked for.
    fn the_servers_ceiling_holds(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        for (args, rule) in [
            (["--net", "host"], "policy.allowHostNetwork"),
            (["--image", "alpine"], "policy.images"),
        ] {
            let ran = away.run(&["-e", "print('it ran')"]).args(args).go();
            assert_eq!(ran.ended(125).out(), "");
            ran.says("error: ").says(rule);
        }
        let wrong = away.bash("echo it ran").args(["--key", "wrong"]).arg("--debug").go();
        assert_eq!(wrong.ended(125).out(), "");
        wrong.says("does not take this API key").says("--key");
        for ran in [wrong, away.bash("exit 0").arg("--debug").go()] {
            assert!(!ran.err().contains(KEY) && !ran.err().contains("wrong"), "{ran:?}");
        }
        let begun = Instant::now();
        away.run(&["-e", "1", "--key", ""]).go().ended(2).says("API key required");
        assert!(begun.elapsed() < seconds(20));
        gateway.stop();
    }
}

both_engines_online! {
    /// Its progress is seen, and the log of the network comes along.
    fn packages_are_installed_there(stage: &Stage, internet: &Internet) {
        registry::wheel(stage, internet, "tiny", "VALUE = 42\n");
        let gateway = Gateway::start(stage);
        let away = Away::to(&gateway, stage);
        let code = "import tiny, urllib.request\n\
            print(tiny.VALUE)\n\
            try: urllib.request.urlopen('http://blocked.example/')\n\
            except OSError as e: print(e)";
        let args = ["-e", code, "--install", "tiny", "--net", "filtered", "--log-network", "--deny", "blocked"];
        let first = away.run(&args).go();
        assert_eq!(first.ended(0).out(), "42\nHTTP Error 403: Forbidden\n", "{first:?}");
        first.says("tiny").says(r#""host":"blocked.example""#).says(r#""action":"BLOCK""#);
        let result = away.run(&args).arg("--json").go().ended(0).json();
        let log = result["networkLogs"].as_array().expect("a log");
        assert!(log.iter().any(|entry| entry["action"] == "BLOCK"), "{result:#}");
        let none = away.run(&["-e", "1", "--install", "no-such-package-at-all"]).go();
        none.ended(125).says("error: ");
        gateway.stop();
        assert!(!Path::exists(&away.nowhere()));
    }
}
