//! What a session is made with stays: another runtime or other limits are an
//! error with both values, and nothing happens.

use isol8_e2e::harness::{call::Ran, session::Session, stage::Stage};

/// Refused with 125, nothing printed by any program, the session as it was.
#[track_caller]
fn refused(work: &Session<'_>, ran: &Ran) {
    assert_eq!(ran.ended(125).out(), "", "{ran:?}");
    ran.says("hint: ");
    let untouched = work.bash("cat f; ls -A").go();
    assert_eq!(untouched.ok(), "as it was\nf\nmain.sh\n");
}

#[track_caller]
fn both_values(stage: &Stage, args: &[&str], has: &str, asked: &str) {
    let work = stage.session("work");
    let sandbox = work.sandbox();
    let ran = work.bash("echo changed > f").args(args).go();
    refused(&work, &ran);
    ran.says(args[0])
        .says(has)
        .says(asked)
        .says("isol8 session rm work");
    assert_eq!(work.sandbox(), sandbox, "it is the same one");
}

both_engines! {
    fn another_runtime_is_refused_in_the_words_of_the_contract(stage: &Stage) {
        stage.eval("node", "require('fs').writeFileSync('f', 'kept')").arg("--persistent").go().ok();
        let ran = stage.python("print('switched')").arg("--persistent").go();
        assert_eq!(ran.ended(125).out(), "");
        let words = "Cannot switch runtime from \"node\" to \"python\". Each persistent container supports a single runtime.";
        assert!(ran.err().contains(words), "{ran:?}");
        let hint = "hint: use `--session <name>` or `isol8 session rm default`";
        assert!(ran.err().contains(hint), "{ran:?}");
        // As the hint says: another session, or this one removed.
        let other = stage.session("py");
        assert_eq!(other.python("print('another')").go().ok(), "another\n");
        let default = stage.session("default");
        let kept = default.eval("node", "console.log(require('fs').readFileSync('f', 'utf8'))").go();
        assert_eq!(kept.ok(), "kept\n");
        default.remove();
        assert_eq!(default.python("print('switched')").go().ok(), "switched\n");
        default.remove();
        other.remove();
    }

    fn other_limits_are_refused_with_both_values(stage: &Stage) {
        let work = stage.session("work");
        let made = ["--memory", "200m", "--cpu", "0.5", "--pids-limit", "40", "--sandbox-size", "48m", "--tmp-size", "24m"];
        work.bash("echo as it was > f").args(made).go().ok();
        both_values(stage, &["--memory", "300m"], "200", "300");
        both_values(stage, &["--cpu", "0.75"], "0.5", "0.75");
        both_values(stage, &["--pids-limit", "41"], "40", "41");
        both_values(stage, &["--sandbox-size", "49m"], "48", "49");
        both_values(stage, &["--tmp-size", "25m"], "24", "25");
        both_values(stage, &["--net", "host"], "none", "host");
        both_values(stage, &["--net", "filtered"], "none", "filtered");
        let other = match stage.engine() {
            Engine::Docker => "native",
            Engine::Native => "docker",
        };
        both_values(stage, &["--engine", other], stage.engine().name(), other);
        refused(&work, &work.bash("echo changed > f").arg("--writable").go());
        let image = work.bash("echo changed > f").args(["--image", "isol8-e2e:other"]).go();
        refused(&work, &image);
        image.says("isol8-e2e:other");
        // Two at once are both told.
        let two = work.bash("echo changed > f").args(["--memory", "1g", "--cpu", "2"]).go();
        refused(&work, &two);
        two.says("--memory").says("--cpu");
        // The same, or nothing, is fine; a timeout and an output cap are a run's own.
        let same = work.bash("cat f").args(made).args(["--net", "none", "--engine", stage.engine().name()]).go();
        assert_eq!(same.ok(), "as it was\n");
        let own = work.bash("cat f").args(["--timeout", "5000", "--max-output", "3"]).go();
        assert_eq!(own.ok(), "as ");
        work.remove();
    }

    /// The limits of its first run hold in the later ones that say nothing.
    fn its_own_limits_hold(stage: &Stage) {
        let work = stage.session("work");
        let args = ["--pids-limit", "20", "--tmp-size", "8m", "--memory", "128m"];
        work.python("1").args(args).go().ok();
        let look = "import os, time\n\
            s = os.statvfs('/tmp'); print(s.f_blocks * s.f_frsize >> 20)\n\
            n = 0\n\
            try:\n while 1:\n  if os.fork() == 0: time.sleep(99)\n  n += 1\n\
            except OSError: print(n)";
        assert_eq!(work.python(look).go().ok(), "8\n19\n");
        let eat = "a = []\nwhile 1: a.append(bytearray(b'x') * (1 << 20))";
        let ran = work.python(eat).arg("--json").go();
        assert_eq!(ran.json()["verdict"], "oom_killed", "{ran:?}");
        let peak = ran.json()["resourceUsage"]["peakMemoryBytes"].as_u64().expect("a number");
        assert!(peak <= 129 << 20, "{peak}");
        work.remove();
    }

    fn names_are_checked_before_anything_happens(stage: &Stage) {
        for name in ["", "-x", "a b", "a/b", "a:b", "é", "..", &"x".repeat(65)] {
            let ran = stage.bash("echo no").arg(format!("--session={name}")).go();
            assert_eq!(ran.ended(2).out(), "", "{ran:?}");
            let rm = stage.isol8(["session", "rm", "--", name]).go();
            assert_ne!(rm.code(), 0, "{rm:?}");
        }
        assert_eq!(stage.sessions().len(), 0);
        let long = stage.session("x".repeat(64));
        assert_eq!(long.bash("echo fine").go().ok(), "fine\n");
        long.remove();
    }

    /// A first run that cannot begin leaves no session.
    fn what_was_never_made_is_not_there(stage: &Stage) {
        let work = stage.session("work");
        let ran = work.bash("echo no").args(["--image", "isol8-e2e:no-such-image"]).go();
        ran.ended(125).says("image");
        assert!(work.info().is_none());
        work.rm().ended(125).says("no session");
        let listed = stage.isol8(["session", "ls", "work:/sandbox"]).go();
        listed.ended(125).says("no session `work`");
        assert_eq!(work.bash("echo now").go().ok(), "now\n");
        work.remove();
    }
}
