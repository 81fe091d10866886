//! What a person sees of a run: where code comes from, what comes back, how it
//! ends.

use std::fs;

use isol8_e2e::harness::{
    host,
    wait::{millis, seconds, wait_until},
};
use rustix::process::Signal;
use serde_json::json;

/// One program a runtime, with the file that chooses it.
const HELLOS: [(&str, &str, &str); 7] = [
    ("a.py", "print(6 * 7)", "42\n"),
    (
        "a.js",
        "const os = require('os'); console.log(typeof os.EOL, 6 * 7)",
        "string 42\n",
    ),
    (
        "a.cjs",
        "console.log(typeof require, typeof module.exports)",
        "function object\n",
    ),
    (
        "a.mjs",
        "import os from 'os'; console.log(typeof os.EOL, import.meta.url)",
        "string file:///sandbox/main.mjs\n",
    ),
    (
        "a.ts",
        "const n: number = 6; console.log(n * 7, typeof Bun.version)",
        "42 string\n",
    ),
    (
        "a.mts",
        "const n: number = 6; console.log(n * 7, typeof Deno.version.deno)",
        "42 string\n",
    ),
    ("a.sh", "echo $((6 * 7)) \"$0\"", "42 /sandbox/main.sh\n"),
];

both_engines! {
    /// Every extension finds its runtime, and the file keeps it.
    fn files_choose_their_runtime(stage: &Stage) {
        for (name, code, expected) in HELLOS {
            let path = stage.file(name, code);
            let out = stage.isol8(["run"]).arg(&path).go().ok();
            assert_eq!(out, expected, "{name}");
        }
        let path = stage.file("program", "print('by name')");
        let out = stage.isol8(["run", "-r", "python"]).arg(&path).go().ok();
        assert_eq!(out, "by name\n");
    }

    /// Inline code and code on stdin, with and without a named runtime.
    fn code_comes_inline_or_from_stdin(stage: &Stage) {
        assert_eq!(stage.isol8(["run", "-e", "print(2 ** 10)"]).go().ok(), "1024\n");
        assert_eq!(stage.isol8(["run"]).feed("print('piped')").go().ok(), "piped\n");
        let bash = stage.isol8(["run", "-r", "bash"]).feed("echo piped\nexit 3").go();
        assert_eq!(bash.ended(3).out(), "piped\n");
        // An explicit empty program is one.
        let empty = stage.isol8(["run", "-e", ""]).feed("print('not me')").go();
        assert_eq!(empty.ok(), "");
        assert_eq!(empty.err(), "");
        let hyphen = stage.isol8(["run", "-e", "-1 and print('hyphen')"]).go();
        assert_eq!(hyphen.ok(), "hyphen\n");
        let unicode = stage.python("print('Grüße, 世界 🦀')").go();
        assert_eq!(unicode.ok(), "Grüße, 世界 🦀\n");
    }

    /// Both module systems are in users' one-liners.
    fn inline_node_requires_and_imports(stage: &Stage) {
        for (code, expected) in [
            ("const p = require('path'); console.log(p.join('a', 'b'))", "a/b\n"),
            ("import p from 'path'; console.log(p.join('a', 'b'))", "a/b\n"),
            ("import { join } from 'node:path';\nconsole.log(await Promise.resolve(join('a','b')))",
             "a/b\n"),
        ] {
            assert_eq!(stage.eval("node", code).go().ok(), expected, "{code}");
        }
    }

    /// Data, pipes, and nothing at all.
    fn stdin_reaches_the_program(stage: &Stage) {
        let echo = "import sys; sys.stdout.write(sys.stdin.read().upper())";
        let data = stage.python(echo).args(["--stdin", "some data"]).go();
        assert_eq!(data.ok(), "SOME DATA");
        assert_eq!(stage.python(echo).feed("through a pipe").go().ok(), "THROUGH A PIPE");
        assert_eq!(stage.python(echo).go().ok(), "", "no stdin is the end of file at once");
        let file = stage.file("upper.py", echo);
        let piped = stage.isol8(["run"]).arg(file).feed("to a file's program").go();
        assert_eq!(piped.ok(), "TO A FILE'S PROGRAM");

        let count = "import sys, zlib; d = sys.stdin.buffer.read(); print(len(d), zlib.crc32(d))";
        let big: Vec<u8> = (0..8_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let seen = stage.python(count).feed(big).go().ok();
        assert_eq!(seen, format!("8388608 {}\n", crc(8 << 18)));

        let first = "import sys; print(sys.stdin.readline().strip(), flush=True)";
        let mut live = stage.python(first).open_stdin().start();
        let pipe = live.stdin.as_mut().expect("the pipe is open");
        std::io::Write::write_all(pipe, b"a line\n").expect("the client reads");
        live.until_stdout("a line");
        // RX18: the program ends while its input is still open.
        assert!(live.finish().ended(0).elapsed < seconds(10));
    }

    /// The program's own code, a signal's, and a traceback with its real name.
    fn exit_codes_are_the_programs(stage: &Stage) {
        for code in [0, 1, 7, 42, 255] {
            stage.bash(&format!("exit {code}")).go().ended(code);
        }
        stage.python("import sys; sys.exit(3)").go().ended(3);
        let died = stage.python("import os; os.kill(os.getpid(), 11)").go();
        died.ended(139);
        stage.bash("kill -TERM $$").go().ended(143);
        let raised = stage.python("x = 1\nraise ValueError('of mine')").go();
        raised.ended(1).says("ValueError: of mine").says("/sandbox/main.py\", line 2");
        let verdicts = stage.bash("kill -KILL $$").arg("--json").go();
        verdicts.ended(137);
        assert_eq!(verdicts.json()["verdict"], "signalled", "{verdicts:?}");
    }

    /// The result object, and stdout that is no text.
    fn json_is_the_whole_result(stage: &Stage) {
        let code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)";
        let ran = stage.python(code).arg("--json").go();
        ran.ended(4);
        assert_eq!(ran.err(), "", "nothing else is printed");
        let result = ran.json();
        for (key, expected) in [
            ("stdout", json!("out\n")),
            ("stderr", json!("err\n")),
            ("exitCode", json!(4)),
            ("verdict", json!("exited")),
            ("truncated", json!(false)),
            ("runtime", json!("python")),
            ("engine", json!(stage.engine().name())),
        ] {
            assert_eq!(result[key], expected, "{key} of {result:#}");
        }
        for key in ["executionId", "timestamp", "sandboxId"] {
            assert!(result[key].as_str().is_some_and(|text| text.len() > 9), "{key}");
        }
        assert!(result["warm"].is_boolean());
        assert!(result["durationMs"].is_number());
        let usage = &result["resourceUsage"];
        assert!(usage["cpuMs"].as_f64().is_some_and(|ms| ms > 0.0), "{usage}");
        let peak = usage["peakMemoryBytes"].as_u64().expect("a number");
        assert!((1 << 20..512 << 20).contains(&peak), "{peak}");
        assert!(result.get("stdoutBase64").is_none(), "the text was valid");

        let raw = stage.python("import sys; sys.stdout.buffer.write(bytes(range(256)))");
        let result = raw.arg("--json").go().json();
        let bytes: Vec<u8> = (0..=255).collect();
        let encoded = data_encoding::BASE64.encode(&bytes);
        assert_eq!(result["stdoutBase64"], encoded.as_str());
    }

    /// Bytes are bytes, streams are two, `--out` is a copy.
    fn output_arrives_byte_for_byte(stage: &Stage) {
        let raw = stage.python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 3000)").go();
        raw.ended(0);
        let expected: Vec<u8> = (0..3000).flat_map(|_| 0..=255).collect();
        assert_eq!(raw.stdout, expected);

        let both = "import sys; print('to out'); print('to err', file=sys.stderr)";
        for mode in ["--no-stream", "--stream"] {
            let ran = stage.python(both).arg(mode).go();
            assert_eq!((ran.ok(), ran.err()), ("to out\n".into(), "to err\n".into()), "{mode}");
        }
        let copy = stage.folder().join("copy");
        let ran = stage.python(both).arg("--out").arg(&copy).go();
        assert_eq!(ran.ok(), "to out\n");
        assert_eq!(fs::read_to_string(&copy).expect("the copy is there"), "to out\n");

        // Streamed: the first line is there while the program goes on.
        let slow = "print('first', flush=True); import sys; sys.stdin.read()";
        let mut live = stage.python(slow).open_stdin().start();
        live.until_stdout("first");
        assert!(live.is_running());
        live.finish().ok();
    }

    /// The cap is exact, said once, and does not stop the program.
    fn output_is_capped(stage: &Stage) {
        let code = "import sys\nsys.stdout.write('x' * 3000000)\nsys.stderr.write('done')";
        let ran = stage.python(code).args(["--max-output", "1000"]).go();
        ran.ended(0).says("done");
        assert_eq!(ran.stdout, b"x".repeat(1000));
        let notice = ran.err().replace("done", "");
        assert_eq!(notice.trim().lines().count(), 1, "one line: {notice}");
        let result = stage.python(code).args(["--max-output", "1000", "--json"]).go().json();
        assert_eq!(result["truncated"], true);
        assert_eq!(result["stdout"].as_str().map(str::len), Some(1000));
        let default = stage.python(code).go();
        assert_eq!(default.stdout.len(), 1 << 20);
        let whole = stage.python("print('x' * 999, end='')").args(["--max-output", "999"]).go();
        assert_eq!((whole.ok().len(), whole.err()), (999, String::new()));
    }

    /// One budget, one message, 137.
    fn timeouts_kill_and_say_so(stage: &Stage) {
        stage.python("1").go().ok();
        let sleep = "print('before', flush=True)\nimport time\ntime.sleep(60)";
        let ran = stage.python(sleep).args(["--timeout", "1500"]).go();
        ran.ended(137).says("1500").within(seconds(4));
        assert_eq!(ran.out(), "before\n");
        assert!(ran.elapsed > millis(1400), "{ran:?}");
        let result = stage.bash("sleep 60").args(["--timeout", "500", "--json"]).go();
        assert_eq!(result.ended(137).json()["verdict"], "timed_out");
    }

    /// Sizes and counts are what was asked for.
    fn limits_hold(stage: &Stage) {
        let probe = "import os, json\n\
            f = lambda p: (lambda s: s.f_blocks * s.f_frsize)(os.statvfs(p))\n\
            print(json.dumps({p: f(p) for p in ('/sandbox', '/tmp')}))";
        let sizes = stage.python(probe).args(["--sandbox-size", "20m", "--tmp-size", "10m"]);
        let sizes = sizes.go();
        sizes.ok();
        assert_eq!(sizes.json(), json!({"/sandbox": 20 << 20, "/tmp": 10 << 20}));

        let threads = "import threading, time\nn = 0\n\
            try:\n while n < 200:\n  threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); n += 1\n\
            except RuntimeError: pass\nprint(n, flush=True)\nimport os; os._exit(0)";
        let made = stage.python(threads).args(["--pids-limit", "20"]).go().ok();
        assert_eq!(made, "19\n", "the main thread and 19 others");

        // RX12
        let files = "l = []\ntry:\n while 1: l.append(open('/dev/null'))\n\
            except OSError as e: print(e.errno, len(l) <= 4096)";
        let opened = stage.python(files).go();
        assert_eq!(opened.ok(), "24 True\n");
    }

    /// Variables and secrets, in that order; a secret's value can be our own.
    fn environment_is_what_was_given(stage: &Stage) {
        let code = "import os; print(os.environ['A'], os.environ['B'], len(os.environ['C']))";
        let ran = stage
            .python(code)
            .env("C", "from-outside-1")
            .args(["--env", "A=x=y z", "--env", "B=over", "--secret", "B=hidden-value"])
            .args(["--secret", "C"])
            .go();
        assert_eq!(ran.ok(), "x=y z *** 14\n");
    }

    /// The root is read-only unless asked, and then only for one run.
    fn writable_is_for_one_run(stage: &Stage) {
        let write = "try:\n open('/usr/isol8-was-here', 'w').write('x'); print('written')\n\
            except OSError as e: print(e.strerror)";
        let denied = stage.python(write).go().ok();
        assert!(denied.starts_with("Read-only") || denied.starts_with("Permission"), "{denied}");
        let asked = stage.python(write).arg("--writable").go();
        match asked.code() {
            // As the sandbox's own user even a writable root has files of others.
            0 => assert!(["written\n", "Permission denied\n"].contains(&asked.out().as_str())),
            _ => drop(asked.ended(125).says("writable")),
        }
        let after = "import os; print(os.path.exists('/usr/isol8-was-here'))";
        assert_eq!(stage.python(after).go().ok(), "False\n");
        assert!(!std::path::Path::new("/usr/isol8-was-here").exists());
    }

    /// Ctrl-C reaches the program; the second one ends everything; so do
    /// SIGTERM and a broken pipe.
    fn interrupts_end_the_run(stage: &Stage) {
        let polite = "import signal, sys, time\n\
            signal.signal(signal.SIGINT, lambda *_: (print('bye', flush=True), sys.exit(7)))\n\
            print('ready', flush=True)\ntime.sleep(60)";
        let live = stage.python(polite).start();
        live.until_stdout("ready");
        live.signal(Signal::INT);
        let ran = live.finish();
        ran.ended(7).within(seconds(10));
        assert_eq!(ran.out(), "ready\nbye\n");
        let plain = stage.python("print('ready', flush=True)\nimport time\ntime.sleep(60)").start();
        plain.until_stdout("ready");
        plain.signal(Signal::INT);
        plain.finish().ended(130).within(seconds(10));

        let mark = &stage.mark(86_421);
        let deaf = format!("trap 'echo once' INT; trap '' TERM; echo ready; while :; do sleep {mark}; done");
        let live = stage.bash(&deaf).start();
        live.until_stdout("ready");
        live.signal(Signal::INT);
        live.until_stdout("once");
        live.signal(Signal::INT);
        live.finish().ended(130).within(seconds(10));
        wait_until("the second Ctrl-C's effect", seconds(2), || host::sleepers(mark).is_empty());

        let live = stage.bash(&format!("echo ready; sleep {mark}")).start();
        live.until_stdout("ready");
        live.signal(Signal::TERM);
        live.finish().ended(143).within(seconds(10));
        wait_until("SIGTERM's effect", seconds(2), || host::sleepers(mark).is_empty());
    }

    /// `| head` ends quietly.
    fn a_closed_pipe_ends_quietly(stage: &Stage) {
        let isol8 = stage.binary("isol8");
        let isol8 = isol8.get_program().to_string_lossy().into_owned();
        let line = format!("'{isol8}' run -r bash -e 'while :; do echo y; done' | head -n 2");
        let shell = stage.isol8(["--version"]).tweak(|command| {
            let mut sh = std::process::Command::new("sh");
            sh.arg("-c").arg(&line).env_clear();
            sh.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            *command = sh;
        });
        let ran = shell.go();
        assert_eq!((ran.ok(), ran.err()), ("y\ny\n".into(), String::new()));
        ran.within(seconds(10));
    }

    /// A run in a warm sandbox says so and is as fresh as any.
    fn warm_runs_are_fresh(stage: &Stage) {
        let code = "import os, sys\nprint(sorted(os.listdir('/sandbox')), os.listdir('/tmp'))\n\
            open('/sandbox/mine', 'w'); open('/tmp/mine', 'w')";
        let mut ids = Vec::new();
        for round in 0..4 {
            let ran = stage.python(code).arg("--json").go();
            let result = ran.ended(0).json();
            assert_eq!(result["stdout"], "['main.py'] []\n", "{result:#}");
            ids.push(result["sandboxId"].to_string());
            wait_until("a warm sandbox", seconds(20), || {
                stage.status()["pools"].as_array().is_some_and(|pools| {
                    pools.iter().any(|pool| pool["warm"].as_u64() > Some(0))
                })
            });
            if round > 0 {
                assert_eq!(result["warm"], true, "{result:#}");
            }
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4, "a sandbox is used once");
    }
}

/// CRC-32 of the little-endian numbers from 0 to `count`, as zlib gives it.
fn crc(count: u32) -> String {
    let mut crc = u32::MAX;
    for byte in (0..count).flat_map(u32::to_le_bytes) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    (!crc).to_string()
}
