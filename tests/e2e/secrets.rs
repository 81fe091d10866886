//! Where a secret must not show: every text that leaves the sandbox, and every
//! place of the host that others can read.

use std::{fs, path::Path, process::Command};

use isol8_e2e::harness::{
    call::{Call, Ran},
    host,
    wait::{seconds, wait_for},
};

/// Awkward on purpose: multi-byte, quotes, blanks, characters of encodings.
const SECRET: &str = "s3cr3t-Ünïcode/+ \"x\"";

fn with_secret(call: Call) -> Call {
    // The value comes from the environment: on a command line all may read it.
    call.env("K", SECRET).args(["--secret", "K"])
}

#[track_caller]
fn hidden(ran: &Ran) {
    for (name, text) in [("stdout", ran.out()), ("stderr", ran.err())] {
        assert!(!text.contains(SECRET), "on {name}: {ran:?}");
    }
}

both_engines! {
    /// SL01: at every split, byte by byte, and round the sizes of pieces.
    fn masked_at_every_split(stage: &Stage) {
        let length = SECRET.len();
        let splits = format!(
            "import os, sys, time\n\
            k = os.environb[b'K']\n\
            def out(b): os.write(1, b)\n\
            for n in range({length} + 1):\n \
             out(b'<' + k[:n]); time.sleep(0.004); out(k[n:] + b'>\\n')\n\
            for n in range({length}): out(k[n:n + 1])\n\
            out(b'\\n' + k + k + b'\\n' + b'a' * (65536 - 5) + k + b'b' * 65531 + k + b'\\n')"
        );
        let ran = with_secret(stage.python(&splits)).go();
        ran.ok();
        hidden(&ran);
        let out = ran.out();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), length + 4, "{ran:?}");
        assert!(lines[..=length].iter().all(|line| *line == "<***>"), "{:?}", &lines[..=length]);
        assert_eq!((lines[length + 1], lines[length + 2]), ("***", "******"));
        let padded = format!("{}***{}***", "a".repeat(65531), "b".repeat(65531));
        assert_eq!(lines[length + 3], padded);
    }

    /// What cannot become a secret is not held back.
    fn other_output_is_not_delayed(stage: &Stage) {
        let code = "import os, sys\nos.write(1, b'plain'); sys.stdin.read(); os.write(1, os.environb[b'K'][:4])";
        let live = with_secret(stage.python(code)).open_stdin().start();
        live.until_stdout("plain");
        // The beginning of a secret that never came is output after all.
        assert_eq!(live.finish().ok(), "plains3cr");
    }

    /// SL03: the cap falls inside the value.
    fn masked_before_it_is_cut(stage: &Stage) {
        for cap in ["5", "6", "7", "8", "12", "20"] {
            let code = "import os, sys; sys.stdout.write('12345' + os.environ['K'] + 'rest')";
            let ran = with_secret(stage.python(code)).args(["--max-output", cap]).go();
            hidden(&ran);
            assert!("12345***rest".starts_with(&ran.out()), "cap {cap}: {ran:?}");
        }
    }

    /// SL09: every text channel, one secret inside another, several at once.
    fn masked_in_every_channel(stage: &Stage) {
        let code = "import os, sys\nk = os.environ['K']\nprint(k, file=sys.stderr); print(k)\n\
            open('/sandbox/' + k.replace('/', '')[:8], 'w'); raise ValueError('about ' + k)";
        for args in [&[][..], &["--no-stream"], &["--json"]] {
            let ran = with_secret(stage.python(code)).args(args).go();
            ran.ended(1);
            hidden(&ran);
            let all = ran.out() + &ran.err();
            assert_eq!(all.matches("***").count(), 3, "{ran:?}");
            // JSON escapes the quotes of the value: no escaped form either.
            assert!(!all.contains("Ünïcode") && !all.contains("s3cr3t"), "{ran:?}");
        }
        let two = stage
            .python("import os; print(os.environ['A'], os.environ['B'], 'outer-inner-outer')")
            .args(["--secret", "A=inner", "--secret", "B=outer-inner-outer"])
            .go();
        assert_eq!(two.ok(), "*** *** ***\n");
        let copy = stage.folder().join("copy");
        let ran = with_secret(stage.python("import os; print(os.environ['K'])")).arg("--out").arg(&copy).go();
        assert_eq!(ran.ok(), "***\n");
        assert_eq!(fs::read_to_string(copy).expect("the copy"), "***\n");
    }

    /// SL06: the usual encodings of a secret are the secret.
    fn usual_encodings_are_masked(stage: &Stage) {
        let code = "import base64, os\nk = os.environb[b'K']\n\
            for e in (base64.b64encode, base64.urlsafe_b64encode):\n \
             for before in (b'', b'u', b'us', b'user:'):\n  \
              print(e(before + k).decode(), e(before + k + b'!').decode().rstrip('='))";
        let ran = with_secret(stage.python(code)).go();
        let out = ran.ok();
        let core = data_encoding::BASE64_NOPAD.encode(SECRET.as_bytes());
        let url = data_encoding::BASE64URL_NOPAD.encode(SECRET.as_bytes());
        for text in [&core[4..core.len() - 4], &url[4..url.len() - 4]] {
            assert!(!out.contains(text), "{out}");
        }
        assert!(out.lines().all(|line| line.contains("***")), "{out}");
    }

    /// SL08: pins what is documented as out of reach of masking; only a network
    /// policy keeps a program from sending what it knows.
    fn transformed_values_are_not_masked(stage: &Stage) {
        let ran = with_secret(stage.python("import os; print(os.environ['K'][::-1])")).go();
        assert_eq!(ran.ok().trim_end(), SECRET.chars().rev().collect::<String>());
    }

    /// SL10: while it runs and afterwards, neither value nor code is in any
    /// place of the host that outlives or describes the run.
    fn no_trace_on_the_host(stage: &Stage) {
        let mark = &stage.mark(70_010);
        let code_mark = "code-canary-5dd1";
        let file = stage.file("program.sh", format!("# {code_mark}\necho $K >&2\nsleep {mark}"));
        let since = host::tool("date", &["+%s"]);
        let live = with_secret(stage.isol8(["run"]).arg(&file).arg("--debug")).start();
        let process = wait_for("the program", seconds(20), || host::sleepers(mark).pop());
        let canaries = [SECRET, "s3cr3t", code_mark];
        let clean = |place: &str, text: &str| {
            for canary in canaries {
                assert!(!text.contains(canary), "{canary} in {place}");
            }
        };
        for other in host::processes() {
            clean("an argv of the host", &other.argv.join(" "));
        }
        if stage.engine() == Engine::Docker {
            let label = format!("label=isol8.daemon={}", stage.daemon_id().expect("it has one"));
            let ids = host::tool("docker", &["ps", "-aq", "--filter", &label]);
            let mut looked = 0;
            for id in ids.lines() {
                // A warm one may be gone by now.
                for verb in ["inspect", "logs"] {
                    let output = Command::new("docker").args([verb, id]).output().expect("docker runs");
                    clean(verb, &String::from_utf8_lossy(&output.stdout));
                    clean(verb, &String::from_utf8_lossy(&output.stderr));
                    looked += usize::from(verb == "inspect" && output.status.success());
                }
            }
            assert!(looked > 0, "the run's container was looked at");
        }
        // Core dumps are off for whoever knows the value.
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid.as_raw_nonzero()));
        let limits = limits.expect("it lives");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        let soft = core.split_whitespace().nth(4).expect("a number");
        assert!(["0", "1"].contains(&soft), "{core}");
        live.signal(rustix::process::Signal::TERM);
        let ran = live.finish();
        hidden(&ran);
        if stage.engine() == Engine::Docker {
            let until = host::tool("date", &["+%s"]);
            let events = ["events", "--since", since.trim(), "--until", until.trim(), "--format", "{{json .}}"];
            clean("docker events", &host::tool("docker", &events));
        }
        clean("the daemon's log", &stage.log());
        clean("isol8 status", &stage.status().to_string());
        let mut files = Vec::new();
        collect(&stage.folder().join("state"), &mut files);
        assert!(!files.is_empty(), "the daemon keeps its state there");
        for path in files {
            let content = fs::read(&path).unwrap_or_default();
            // The kit's binary and hooks are public.
            clean(&path.display().to_string(), &String::from_utf8_lossy(&content));
        }
    }

    /// SL11: the value is the program's alone.
    fn only_the_program_knows(stage: &Stage) {
        let code = "import glob, os\n\
            try: print(open('/proc/1/environ').read())\n\
            except OSError as e: print(e.strerror)\n\
            for p in glob.glob('/proc/[0-9]*/environ'):\n \
             try:\n  \
              if p.split('/')[2] != str(os.getpid()): print(p, len(open(p, 'rb').read()))\n \
             except OSError as e: pass\n\
            print(open('/proc/self/cmdline').read().count('cr3t'), len(os.environ['K']))";
        let ran = with_secret(stage.python(code)).go();
        assert_eq!(ran.ok(), format!("Permission denied\n0 {}\n", SECRET.chars().count()));
    }

    /// A failed run's message does not tell either.
    fn errors_do_not_tell(stage: &Stage) {
        let ran = with_secret(stage.isol8(["run", "-e", "1", "--image", "isol8-e2e:no-such-image"])).go();
        ran.ended(125);
        hidden(&ran);
        let short = stage.python("1").args(["--secret", "S=abc"]).go();
        assert!(short.code() != 0 && !short.err().contains("abc"), "SL04: {short:?}");
    }
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
