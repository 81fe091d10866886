//! The Debian package in a Debian of its own: what its units promise, and its life
//! from the installation to the purge, on a real systemd.

mod debian;

use std::{fs, path::Path};

use debian::{Booted, Debian, UNIFIED, package};
use isol8_e2e::harness::call::Ran;
use serde_json::Value;

/// Units with the most exposure that each may have.
const EXPOSURE: [(&str, f64); 2] = [("isol8d.service", 3.0), ("isol8-serve.service", 2.0)];

const SYSTEM_UNITS: [&str; 3] = ["isol8d.socket", "isol8d.service", "isol8-serve.service"];

/// The native engine's unit, where an operator puts it.
const NATIVE: &str = "etc/systemd/system/isol8d.service.d/native.conf";

/// What others write when a package comes and goes.
const OF_OTHERS: [&str; 4] = ["var/lib/dpkg", "var/log", "var/cache", "run/systemd"];

fn install(debian: &Debian, package: &Path) {
    let name = package.file_name().expect("a file");
    fs::copy(package, debian.root().join("root").join(name)).expect("the root is ours");
    debian
        .run(&["sh", "-c", "dpkg --install /root/isol8_*.deb"])
        .ok();
}

#[test]
fn the_same_binaries_make_the_same_package() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("/tmp takes a folder"));
    let [one, two] = folders.each_ref().map(|folder| package(folder.path()));
    assert_eq!(one.file_name(), two.file_name());
    let read = |path: &Path| fs::read(path).expect("it was made");
    assert!(read(&one) == read(&two), "{one:?} and {two:?} differ");
}

/// Programs, pages and completions are there, systemd has nothing to say about the
/// units, and they are as closed as they are said to be.
#[test]
fn what_is_installed_is_sound() {
    let debian = Debian::unpack();
    let before = debian.files();
    let made = tempfile::tempdir().expect("/tmp takes a folder");
    install(&debian, &package(made.path()));
    let said = |argv: &[&str]| debian.run(argv).ok();

    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(said(&["isol8", "--version"]), format!("isol8 {version}\n"));
    assert_eq!(
        said(&["isol8d", "--version"]),
        format!("isol8d {version}\n")
    );
    let page = said(&["man", "isol8-run"]);
    assert!(page.contains("--memory"), "{page}");
    let page = said(&["man", "isol8d"]);
    let help = said(&["isol8d", "--help"]);
    let flags = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    for flag in flags {
        assert!(page.contains(flag), "{flag} in {page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        said(&["isol8", "completions", shell]);
    }
    said(&[
        "bash",
        "-c",
        ". /usr/share/bash-completion/completions/isol8",
    ]);
    let doctor = debian.run(&["isol8d", "doctor"]).out();
    assert!(doctor.contains("/usr/lib/isol8/isol8-init"), "{doctor}");

    let verified = debian.run(&[&["systemd-analyze", "verify"][..], &SYSTEM_UNITS].concat());
    assert_eq!(
        (verified.ok(), verified.err()),
        (String::new(), String::new())
    );
    let native = debian.read("usr/share/isol8/native.conf");
    debian.write(NATIVE, &native);
    let path = "/usr/lib/systemd/system/isol8d.service";
    let verified = debian.run(&["systemd-analyze", "verify", path]);
    assert_eq!(new_words(&verified), "", "{verified:?}");
    debian.remove(NATIVE);
    let folder = "/usr/lib/systemd/user";
    let user = ["isol8d.socket", "isol8d.service"].map(|unit| format!("{folder}/{unit}"));
    let analyze = ["systemd-analyze", "verify", "--user", &user[0], &user[1]];
    let runtime = ["env", "XDG_RUNTIME_DIR=/root"];
    let verified = debian.run(&[&runtime, &analyze[..]].concat());
    assert_eq!(new_words(&verified), "", "{verified:?}");

    for (unit, most) in EXPOSURE {
        let path = format!("/usr/lib/systemd/system/{unit}");
        let looked = said(&["systemd-analyze", "security", "--offline=true", &path]);
        let last = looked.lines().last().unwrap_or_default();
        let figure = last
            .split(": ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let figure: f64 = figure.and_then(|text| text.parse().ok()).expect(last);
        assert!(figure <= most, "{last}");
    }

    said(&["dpkg", "--purge", "isol8"]);
    assert_nothing_of_ours(&debian);
    let after = debian.files();
    let new: Vec<_> = after
        .difference(&before)
        .filter(|path| !OF_OTHERS.iter().any(|start| path.starts_with(start)))
        .filter(|path| !path.starts_with("root"))
        .collect();
    assert!(new.is_empty(), "{} files are new: {new:?}", new.len());
}

/// What systemd says of units, but for a setting that is of systemd 254.
fn new_words(verified: &Ran) -> String {
    let known = |line: &str| line.contains("'DelegateSubgroup'") && line.ends_with("ignoring.");
    let said = verified.err();
    let lines = said.lines().filter(|line| !known(line));
    lines.collect()
}

/// Installed, used by a group, restarted, upgraded under sessions, watched, asked
/// over HTTP, removed, purged.
#[test]
fn from_the_installation_to_the_purge() {
    if !Path::new(UNIFIED).is_dir() {
        // A host with cgroup v2 alone has no controllers to spare for another
        // systemd.
        return;
    }
    let debian = Debian::unpack();
    let made = tempfile::tempdir().expect("/tmp takes a folder");
    install(&debian, &package(made.path()));
    let key = "a-key-that-only-this-test-knows";
    let digest = debian.run(&[
        "sh",
        "-c",
        &format!("printf %s {key} | sha256sum | cut -c1-64"),
    ]);
    let keys = format!(
        r#"{{"keys":[{{"name":"test","sha256":"{}"}}]}}"#,
        digest.ok().trim()
    );
    debian.write("etc/isol8/keys.json", &keys);
    debian.run(&["chmod", "0600", "/etc/isol8/keys.json"]).ok();
    // No Docker here. A short watchdog, so that the test does not wait for long.
    let native = debian.read("usr/share/isol8/native.conf");
    debian.write(NATIVE, &format!("{native}\nWatchdogSec=3\n"));

    let booted = debian.boot();
    the_group_may_run(&booted);
    a_restart_keeps_sessions(&booted);
    a_daemon_that_hangs_is_replaced(&booted);
    the_gateway_serves(&booted, key);
    booted.ok(&["sh", "-c", "dpkg --install /root/isol8_*.deb"]);
    assert_eq!(in_session(&booted, "cat f"), "kept\n", "after the upgrade");

    let id = debian.read("var/lib/isol8/daemon-id");

    removed(&booted);
    // An operator may have stopped all of it before.
    booted.ok(&["sh", "-c", "dpkg --install /root/isol8_*.deb"]);
    assert_eq!(in_session(&booted, "echo again"), "again\n");
    booted.ok(&["systemctl", "stop", "isol8d.socket", "isol8d.service"]);
    removed(&booted);
    debian.remove(NATIVE);
    booted.ok(&["dpkg", "--purge", "isol8"]);
    assert_eq!(booted.ok(&["find", "/run", "/tmp", "-name", "*isol8*"]), "");
    let users = booted.ok(&["getent", "passwd"]);
    assert!(!users.contains("isol8"), "{users}");
    drop(booted);

    assert_nothing_of_ours(&debian);
    for controller in ["memory", "cpu", "cpuacct", "pids", "freezer"] {
        let group = format!("/sys/fs/cgroup/{controller}/isol8/{id}");
        assert!(!Path::new(&group).exists(), "{group}");
    }
}

#[track_caller]
fn removed(booted: &Booted) {
    booted.ok(&["dpkg", "--remove", "isol8"]);
    let processes = booted.ok(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
    assert!(!processes.contains("isol8"), "{processes}");
}

#[track_caller]
fn assert_nothing_of_ours(debian: &Debian) {
    let left = debian.files();
    // What the test put there, and pages that `man` has shown.
    let of_others = |path: &Path| path.starts_with("root") || path.starts_with("var/cache/man");
    let left = left.iter().filter(|path| !of_others(path));
    let ours: Vec<_> = left
        .filter(|path| path.to_string_lossy().contains("isol8"))
        .collect();
    assert!(ours.is_empty(), "{} files are left: {ours:?}", ours.len());
}

/// `isol8` of somebody who is in these groups.
fn somebody(booted: &Booted, groups: &[&str], args: &[&str]) -> Ran {
    let start = ["setpriv", "--reuid", "1234", "--regid", "1234"];
    let socket = "ISOL8_SOCKET=/run/isol8/isol8d.sock";
    let rest = ["env", "HOME=/nonexistent", socket, "isol8"];
    booted.run(&[&start, groups, &rest, args].concat())
}

fn in_session(booted: &Booted, code: &str) -> String {
    let args = ["run", "--session", "work", "-r", "bash", "-e", code];
    somebody(booted, &["--groups", "isol8"], &args).ok()
}

/// The socket is there, the daemon is not, until a member of the group dials.
fn the_group_may_run(booted: &Booted) {
    booted.until("isol8d.socket", "ActiveState", |state| state == "active");
    booted.until("isol8d.service", "ActiveState", |state| state == "inactive");
    let code = ["run", "-r", "bash", "-e", "echo here"];
    let ran = somebody(booted, &["--groups", "isol8"], &code);
    assert_eq!(ran.ok(), "here\n");
    let stranger = somebody(booted, &["--clear-groups"], &code);
    stranger.ended(125).says("permission denied");
    booted.until("isol8d.service", "StatusText", |status| {
        status.starts_with("serving;")
    });
    let journal = booted.ok(&["journalctl", "-u", "isol8d", "-o", "json", "--no-pager"]);
    let mut entries = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let served = entries.find(|entry| {
        let message = entry["MESSAGE"].as_str().unwrap_or_default();
        message.starts_with("isol8d: serving version=")
    });
    let served = served.unwrap_or_else(|| panic!("not in {journal}"));
    assert_eq!(served["PRIORITY"], "6", "{served}");
}

fn a_restart_keeps_sessions(booted: &Booted) {
    assert_eq!(in_session(booted, "echo kept > f; cat f"), "kept\n");
    booted.ok(&["systemctl", "restart", "isol8d.service"]);
    assert_eq!(in_session(booted, "cat f"), "kept\n");
}

/// It takes connections and answers nobody: its manager ends it.
fn a_daemon_that_hangs_is_replaced(booted: &Booted) {
    let show = [
        "systemctl",
        "show",
        "--value",
        "-p",
        "MainPID",
        "isol8d.service",
    ];
    let pid = booted.ok(&show);
    booted.ok(&["sh", "-c", &format!("kill -STOP {pid}")]);
    booted.until("isol8d.service", "NRestarts", |count| count == "1");
    assert_eq!(in_session(booted, "cat f"), "kept\n");
    assert_ne!(booted.ok(&show), pid);
}

/// `systemctl start` returns when it answers.
fn the_gateway_serves(booted: &Booted, key: &str) {
    booted.ok(&["systemctl", "start", "isol8-serve.service"]);
    let body = r#"{"request":{"code":"echo $((6 * 7))","runtime":"bash"}}"#;
    let length = body.len();
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/3000; printf '%s\\r\\n' 'POST /execute HTTP/1.1' \
         'Host: localhost:3000' 'Authorization: Bearer {key}' 'Connection: close' \
         'Content-Type: application/json' 'Content-Length: {length}' '' >&3; \
         printf %s '{body}' >&3; cat <&3"
    );
    let answer = booted.ok(&["bash", "-c", &ask]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""stdout":"42\n""#), "{answer}");
    booted.ok(&["systemctl", "stop", "isol8-serve.service"]);
}
