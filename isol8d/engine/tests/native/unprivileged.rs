//! The same without root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use isol8_core::{failure::FailureKind, ids::DaemonId};
use isol8_engine::{Engine, native::NativeEngine};

use crate::{
    bench::{Bench, init_binary, place_in, spec},
    network::system_packages,
    program::once,
    shared::{door, lasting, layer},
};

/// Set in the process that is the unprivileged daemon.
const AS_USER: &str = "ISOL8_TEST_AS_USER";
/// No account of this host.
const USER: u32 = 61_234;

/// Runs this test again as an ordinary user, with `prepare` done before by root.
fn again_as_user(test: &str, prepare: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open.clone()).unwrap();
    // The target folder may be where others cannot go.
    let (exe, init) = (folder.path().join("test"), folder.path().join("isol8-init"));
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    fs::copy(init_binary(), &init).unwrap();
    for path in [&exe, &init] {
        fs::set_permissions(path, open.clone()).unwrap();
    }
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    prepare(&home);
    let output = Command::new(&exe)
        .args(["--exact", test, "--nocapture"])
        .env(AS_USER, &home)
        .env("ISOL8_INIT", &init)
        .env("TMPDIR", &home)
        .env("HOME", &home)
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "as uid {USER}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Hands a daemon's groups to the user, as an administrator would.
fn delegate(daemon: &DaemonId) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for hierarchy in ["freezer", "memory", "cpu", "cpuacct", "pids"] {
        let folder = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join("isol8")
            .join(daemon.as_str());
        fs::create_dir_all(&folder).unwrap();
        chown(&folder, Some(USER), Some(USER)).unwrap();
        for file in fs::read_dir(&folder).unwrap().flatten() {
            chown(file.path(), Some(USER), Some(USER)).unwrap();
        }
        made.push(folder);
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_cgroups_is_refused_with_a_way_out() {
    let Some(_) = std::env::var_os(AS_USER) else {
        again_as_user(
            "unprivileged::a_user_without_cgroups_is_refused_with_a_way_out",
            |_| (),
        );
        return;
    };
    let bench = Bench::new();
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::HostLacks, "{failure}");
    assert!(failure.hint.unwrap().contains("Delegate=yes"));
    assert!(!bench.engine.health().await.healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_cgroups_has_jails() {
    let Some(home) = std::env::var_os(AS_USER) else {
        if !Path::new("/sys/fs/cgroup/memory").is_dir() {
            // On v2 this is what the whole file does below a delegated scope.
            return;
        }
        let mut made = Vec::new();
        again_as_user("unprivileged::a_user_with_cgroups_has_jails", |home| {
            let daemon = DaemonId::random();
            fs::write(home.join("daemon"), daemon.as_str()).unwrap();
            made = delegate(&daemon);
            // Of a daemon that nobody else may look into.
            let closed = delegate(&DaemonId::random());
            for folder in &closed {
                chown(folder, Some(0), Some(0)).unwrap();
                fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
            }
            made.extend(closed);
        });
        for folder in made {
            assert!(folder.exists(), "a user cannot remove root's folder");
            fs::remove_dir(folder).unwrap();
        }
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut place = place_in(folder.path());
    let daemon = fs::read_to_string(Path::new(&home).join("daemon")).unwrap();
    place.daemon = DaemonId::parse(&daemon).unwrap();
    fs::copy(init_binary(), place.kit.join("init")).unwrap();
    let bench = Bench {
        engine: NativeEngine::new(place.clone()).unwrap(),
        place,
        _folder: Some(folder),
    };
    let program = r#"
        echo "$(id -u) $(cat /sandbox/none 2>/dev/null)"
        : > /sandbox/x && : > /tmp/x && : > /dev/shm/x && echo wrote
        : 2>/dev/null > /usr/x && echo "wrote to /usr"
        grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status | tr -s '\t ' ' '
        stat -f -c '%n %c' /sandbox
    "#;
    let (ended, counters) = once(&bench, &spec(), program).await;
    assert_eq!(
        ended.stdout,
        "1000 \nwrote\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\nSeccomp: 2\n/sandbox 8192\n"
    );
    assert!(counters.peak_memory_bytes > 0);
    let mut writable = spec();
    writable.key.writable = true;
    let (ended, _) = once(
        &bench,
        &writable,
        "touch /opt/x /usr/local/bin/x && echo wrote",
    )
    .await;
    assert_eq!(ended.stdout, "wrote\n");
    door::leads_outside(&bench.engine, &spec()).await;
    door::is_nobody_elses(&bench.engine, &spec()).await;
    layer::one_cannot_be_changed(&bench.engine, &bench.place, &spec()).await;
    system_packages(&bench).await;
    let later = bench.restarted();
    lasting::one_outlives_its_stream(&bench.engine, &later.engine, &spec()).await;
    lasting::a_program_is_no_init(&bench.engine, &spec()).await;
    bench.nothing_is_left().await;
}
