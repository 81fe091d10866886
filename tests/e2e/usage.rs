//! What is refused before anything runs: exit code 2, a message that names the
//! value, nothing on stdout. None of it needs an engine; the daemon is there
//! only to show that it is not asked.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, os::unix::process::CommandExt as _};

use isol8_e2e::harness::stage::{Engine, Stage};

const ANYBODY: u32 = 65_534;

fn stage(test: impl FnOnce(&Stage)) {
    Stage::without_daemon(Engine::Native, serde_json::json!({}), test);
}

#[track_caller]
fn refused(stage: &Stage, args: &[&str], named: &str) {
    let ran = stage.isol8(["run"]).args(args).go();
    ran.ended(2).says(named);
    assert_eq!(ran.out(), "", "{args:?}");
}

#[test]
fn wrong_flag_values() {
    stage(|stage| {
        // Some values only the daemon can judge: one that is there already.
        stage.start_daemon();
        for (args, named) in [
            (&["-e", "1", "-r", "cobol"][..], "cobol"),
            (&["-e", "1", "-r", "cobol"], "python, node, bun, deno"),
            (&["-e", "1", "--net", "open"], "open"),
            (&["-e", "1", "--engine", "vm"], "vm"),
            (&["-e", "1", "--timeout", "0"], "timeout"),
            (&["-e", "1", "--timeout", "-5"], "timeout"),
            (&["-e", "1", "--timeout", "soon"], "soon"),
            (&["-e", "1", "--timeout", "99999999999999999999"], "timeout"),
            (&["-e", "1", "--memory", "much"], "much"),
            (&["-e", "1", "--memory", "-1"], "memory"),
            (&["-e", "1", "--memory", "1e309"], "memory"),
            (&["-e", "1", "--memory", "99999999999t"], "memory"),
            (&["-e", "1", "--memory", "1"], "memory"),
            (&["-e", "1", "--cpu", "0"], "cpu"),
            (&["-e", "1", "--cpu", "nan"], "cpu"),
            (&["-e", "1", "--cpu", "-1"], "cpu"),
            (&["-e", "1", "--pids-limit", "0"], "pids"),
            (&["-e", "1", "--pids-limit", "-1"], "pids"),
            (&["-e", "1", "--sandbox-size", "0"], "sandbox-size"),
            (&["-e", "1", "--tmp-size", "x"], "tmp-size"),
            (&["-e", "1", "--max-output", "-1"], "max-output"),
            (&["-e", "1", "--env", "NOVALUE"], "NOVALUE"),
            (&["-e", "1", "--env", "=x"], "env"),
            (&["-e", "1", "--env", "A B=x"], "--env"),
            (&["-e", "1", "--secret", "=x"], "secret"),
            (
                &["-e", "1", "--secret", "ISOL8_NOT_SET_ANYWHERE"],
                "ISOL8_NOT_SET_ANYWHERE",
            ),
            (&["-e", "1", "--allow", "(", "--net", "filtered"], "("),
            (&["-e", "1", "--no-such-flag"], "no-such-flag"),
            (&["-e", "1", "--stream", "--no-stream"], "stream"),
        ] {
            refused(stage, args, named);
        }
    });
}

#[test]
fn malformed_secrets_are_not_shown() {
    stage(|stage| {
        let ran = stage
            .isol8(["run", "-e", "1", "--secret", "=hunter2-hunter2"])
            .go();
        ran.ended(2);
        assert!(!ran.err().contains("hunter2"), "{ran:?}");
        stage.start_daemon();
        let short = stage.isol8(["run", "-e", "1", "--secret", "K=abc"]).go();
        assert!([2, 125].contains(&short.code()), "SL04: {short:?}");
    });
}

#[test]
fn programs_that_cannot_be_read() {
    stage(|stage| {
        let path = |name: &str| stage.folder().join(name).display().to_string();
        refused(stage, &[&path("missing.py")], "missing.py");
        stage.file("program.xyz", "1");
        refused(stage, &[&path("program.xyz")], "--runtime");
        refused(stage, &[&path("program.xyz")], "program.xyz");
        stage.file("a.py", "print(1)");
        refused(stage, &[&path("a.py"), "-e", "print(2)"], "-e");
        std::fs::create_dir(path("folder.py")).expect("the folder is ours");
        refused(stage, &[&path("folder.py")], "folder.py");
        refused(stage, &[""], "error");
    });
}

/// Root reads everything: the client runs as somebody else.
#[test]
fn a_file_of_somebody_else_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    stage(|stage| {
        let path = stage.file("private.py", "print(1)");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, closed).expect("the file is ours");
        let isol8 = stage.folder().join("isol8");
        std::fs::copy(stage.binary("isol8").get_program(), &isol8).expect("a copy for everybody");
        let copy = |command: &mut std::process::Command| {
            let mut other = std::process::Command::new(&isol8);
            other
                .env_clear()
                .env("HOME", "/nonexistent")
                .args(command.get_args());
            if rustix::process::geteuid().is_root() {
                other.uid(ANYBODY).gid(ANYBODY);
            }
            *command = other;
        };
        let ran = stage.isol8(["run"]).arg(&path).tweak(copy).go();
        ran.ended(2).says("private.py").says("permission denied");
    });
}

#[test]
fn argv_that_is_no_text() {
    stage(|stage| {
        let bad = OsStr::from_bytes(b"print('\xff')");
        let ran = stage.isol8(["run", "-e"]).arg(bad).go();
        ran.ended(2).says("utf-8");
        let ran = stage
            .isol8(["run", "--secret"])
            .arg(OsStr::from_bytes(b"K=hunter2\xff"))
            .go();
        ran.ended(2);
        assert!(!ran.err().contains("hunter2"), "{ran:?}");
    });
}

/// From a folder that anybody may have filled nothing can weaken isolation.
#[test]
fn a_working_directory_cannot_weaken_isolation() {
    stage(|stage| {
        let folder = stage.folder().join("work");
        std::fs::create_dir(&folder).expect("the folder is ours");
        for (key, value) in [
            ("security", r#"{"seccomp": "unconfined"}"#),
            ("policy", r#"{"allowHostNetwork": true}"#),
            ("docker", r#"{"host": "unix:///tmp/evil.sock"}"#),
            ("engine", r#""native""#),
            ("network", r#"{"allowPrivate": ["10.0.0.0/8"]}"#),
        ] {
            let config = format!("{{\"{key}\": {value}}}");
            std::fs::write(folder.join("isol8.config.json"), config).expect("the file is ours");
            let ran = stage.isol8(["run", "-e", "print(1)"]).tweak(|command| {
                command.current_dir(&folder).env_remove("ISOL8_CONFIG");
            });
            let ran = ran.go();
            assert_ne!(ran.code(), 0, "{ran:?}");
            ran.says(key);
            assert_eq!(ran.out(), "");
        }
    });
}

#[test]
fn the_client_starts_fast_and_explains_itself() {
    stage(|stage| {
        let help = stage.isol8(["run", "--help"]).go().ok();
        for flag in [
            "--eval",
            "--runtime",
            "--stdin",
            "--net",
            "--timeout",
            "--memory",
            "--cpu",
            "--pids-limit",
            "--sandbox-size",
            "--tmp-size",
            "--max-output",
            "--writable",
            "--image",
            "--secret",
            "--env",
            "--no-stream",
            "--out",
            "--json",
            "--engine",
            "--debug",
        ] {
            assert!(help.contains(flag), "{flag}");
        }
        let version = stage.isol8(["--version"]).go().ok();
        assert!(version.starts_with("isol8 0."), "{version}");
        assert!(
            stage
                .isol8(["completions", "bash"])
                .go()
                .ok()
                .contains("isol8")
        );
    });
}
