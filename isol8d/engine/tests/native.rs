//! The native engine on the real thing: jails, limits, figures, and what is left
//! when something goes wrong. Needs bubblewrap and either root or a delegated
//! cgroup, and fails without.
//!
//! `ISOL8_INIT` names the init binary; otherwise the one in the target folder is
//! taken: `cargo build -p isol8-init` makes it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests are tests"
)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use isol8_core::{
    failure::FailureKind,
    ids::{DaemonId, SandboxId},
    outcome::Counters,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network, SandboxKey, SandboxSpec},
};
use isol8_engine::{
    CREATE_DEADLINE, Engine, Place, ProbeStatus, Sandbox, link::PROTOCOL, native::NativeEngine,
};
use isol8_proto::init::{self, EnvVar, exited::How, from_init, to_init};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

// ---- what a test stands on ------------------------------------------------

/// A daemon's folders and its engine.
struct Bench {
    engine: NativeEngine,
    place: Place,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = place_in(folder.path());
        fs::copy(init_binary(), place.kit.join("init")).unwrap();
        Self {
            engine: NativeEngine::new(place.clone()).unwrap(),
            place,
            _folder: Some(folder),
        }
    }

    /// As a daemon that starts again on what the last one left.
    fn restarted(&self) -> Self {
        Self {
            engine: NativeEngine::new(self.place.clone()).unwrap(),
            place: self.place.clone(),
            _folder: None,
        }
    }

    async fn own(&self) -> Vec<SandboxId> {
        let found = self.engine.list().await.unwrap();
        let own = found
            .into_iter()
            .filter(|found| found.daemon == self.place.daemon);
        own.map(|found| found.id).collect()
    }

    /// Groups, folders, mounts and processes.
    async fn nothing_is_left(&self) {
        assert_eq!(self.own().await, [], "cgroups stay");
        let sockets = self.place.runtime_dir.join("sb");
        let folders = fs::read_dir(sockets).map(Iterator::count).unwrap_or(0);
        assert_eq!(folders, 0, "folders stay");
        let stage = fs::read_dir(self.place.runtime_dir.join("stage")).unwrap();
        assert_eq!(stage.count(), 0, "the stage was used on the host");
        let run = self.place.runtime_dir.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(run), "mounts stay");
        assert_eq!(processes_with(run), [0_u32; 0], "processes stay");
    }
}

/// The folders of a daemon, closed to other users.
fn place_in(folder: &Path) -> Place {
    let make = |name: &str| {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    Place {
        daemon: DaemonId::random(),
        runtime_dir: make("run"),
        state_dir: make("state"),
        kit: make("kit"),
    }
}

/// Processes, dead ones too, whose command line has `text` in it.
fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(text) {
            found.push(pid);
        }
    }
    found
}

/// Dead children of this process that nobody buries. Other tests of this process
/// have some that are about to be.
async fn unburied_launchers() -> Vec<u32> {
    let own = format!(" Z {} ", std::process::id());
    let is_dead = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(&own))
    };
    let names = fs::read_dir("/proc").unwrap().flatten();
    let mut dead: Vec<u32> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_dead)
        .collect();
    let before = Instant::now();
    while !dead.is_empty() && before.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        dead.retain(is_dead);
    }
    dead
}

fn init_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ISOL8_INIT") {
        return path.into();
    }
    // <target>/<profile>/deps/<this test>
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let released = format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH);
    let folders = [profile.parent().unwrap().join(released), profile.to_owned()];
    let found = folders.map(|folder| folder.join("isol8-init"));
    found
        .into_iter()
        .find(|path| path.is_file())
        .expect("there is no isol8-init: `cargo build -p isol8-init`, or set ISOL8_INIT")
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        key: SandboxKey {
            engine: EngineKind::Native,
            runtime: Runtime::Bash,
            image: None,
            network: Network::None,
            writable: false,
            sandbox_size: ByteSize::mib(64),
            tmp_size: ByteSize::mib(32),
        },
        limits: Limits {
            memory: ByteSize::mib(256),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).unwrap(),
        },
    }
}

// ---- the daemon's part in a run -------------------------------------------

/// What a program said and how it ended.
#[derive(Debug)]
struct Ended {
    stdout: String,
    how: How,
}

async fn next(sandbox: &mut Sandbox) -> from_init::Message {
    let next = timeout(PATIENCE, sandbox.link.reader.recv()).await;
    next.expect("init answers").unwrap()
}

async fn send(sandbox: &mut Sandbox, message: to_init::Message) {
    sandbox.link.writer.send(message).await.unwrap();
}

/// Up to the program's start, in a sandbox that nothing was said to yet.
async fn start(sandbox: &mut Sandbox, runtime: Runtime, program: &str) {
    match next(sandbox).await {
        from_init::Message::Hello(hello) => assert_eq!(hello.protocol, PROTOCOL),
        other => panic!("{other:?} in place of a hello"),
    }
    let prepare = init::Prepare { parked: None };
    send(sandbox, to_init::Message::Prepare(prepare)).await;
    assert!(matches!(next(sandbox).await, from_init::Message::Ready(_)));
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    let name = format!("main.{}", runtime.extension());
    let file = init::File {
        path: bytes(&name),
        data: bytes(program),
        append: false,
        last: true,
        mode: 0o644,
    };
    send(sandbox, to_init::Message::File(file)).await;
    assert!(matches!(
        next(sandbox).await,
        from_init::Message::FileWritten(_)
    ));
    let argv = runtime.command_line(&sandbox.interpreter.program, &format!("/sandbox/{name}"));
    let env = isol8_core::env::base(runtime, &sandbox.interpreter.path);
    let exec = init::Exec {
        command: Some(init::Command {
            argv: argv.iter().map(|word| bytes(word)).collect(),
            env: env
                .iter()
                .map(|(name, value)| EnvVar {
                    name: bytes(name),
                    value: bytes(value),
                })
                .collect(),
            cwd: bytes("/sandbox"),
        }),
        use_parked: false,
        stdout_credit: 1 << 20,
        stderr_credit: 1 << 20,
        stdin: false,
    };
    send(sandbox, to_init::Message::Exec(exec)).await;
}

async fn finish(sandbox: &mut Sandbox) -> Ended {
    let mut output = Vec::new();
    loop {
        match next(sandbox).await {
            from_init::Message::Stdout(piece) => output.extend_from_slice(&piece),
            from_init::Message::Stderr(piece) => {
                eprintln!("{}", String::from_utf8_lossy(&piece));
            }
            from_init::Message::Exited(exited) => {
                let stdout = String::from_utf8_lossy(&output).into_owned();
                let how = exited.how.unwrap();
                return Ended { stdout, how };
            }
            from_init::Message::Failed(failed) => panic!("{failed:?}"),
            _ => {}
        }
    }
}

/// Makes a sandbox, runs a program in it, reads its figures, destroys it.
async fn once(bench: &Bench, spec: &SandboxSpec, program: &str) -> (Ended, Counters) {
    let mut sandbox = bench.engine.create(spec).await.unwrap();
    start(&mut sandbox, spec.key.runtime, program).await;
    let ended = finish(&mut sandbox).await;
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    bench.engine.destroy(&spec.id).await.unwrap();
    (ended, counters)
}

// ---- what holds -----------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_nothing_is_left() {
    let bench = Bench::new();
    let spec = spec();
    let program = "echo hello $((6 * 7)); head -c 9000000 /dev/zero > /tmp/x; exit 3";
    let (ended, counters) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "hello 42\n");
    assert_eq!(ended.how, How::Code(3));
    assert!(counters.cpu > Duration::ZERO);
    assert!(counters.peak_memory_bytes > 9_000_000, "{counters:?}");
    assert!(counters.shmem_bytes >= 9_000_000, "{counters:?}");
    assert_eq!(counters.oom_kills, 0);
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
    let gone = bench.engine.counters(&spec.id).await.unwrap_err();
    assert_eq!(gone.kind, FailureKind::NotFound);
    let again = bench.engine.destroy(&spec.id).await;
    again.expect("a second time does nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_is_as_hard_as_it_is_meant_to_be() {
    let bench = Bench::new();
    let program = r#"
        grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t ' ' '
        echo "user $(id -un) $(id -u) $(id -G) groups"
        for path in / /usr /etc /isol8/kit /isol8/link /dev /proc/sys/kernel /var /home /run; do
          : 2>/dev/null > $path/x && echo "wrote to $path"
        done
        for path in /sandbox /tmp /dev/shm /var/tmp; do : > $path/x || echo "cannot write to $path"; done
        printf '#!/bin/sh\necho ran\n' > /tmp/s; cp /tmp/s /dev/shm/s; cp /tmp/s /sandbox/s
        chmod 755 /tmp/s /dev/shm/s /sandbox/s
        for path in /tmp/s /dev/shm/s /sandbox/s; do echo "$path: $($path 2>/dev/null)"; done
        echo "interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | tr '\n' ' ')"
        echo "limits $(grep core /proc/self/limits | tr -s ' ') $(ulimit -n) $(ulimit -Hn) $(ulimit -q) $(ulimit -i) $(ulimit -l) $(ulimit -f)"
        cat /proc/1/environ 2>/dev/null && echo "read the environment of init"
        (echo x > /proc/1/fd/2) 2>/dev/null && echo "wrote to stderr of init"
        kill -9 1 2>/dev/null; echo "host $(uname -n), score $(cat /proc/self/oom_score_adj), $(cat /proc/self/cgroup | cut -d: -f3 | sort -u)"
        set -- /proc/[0-9]*; echo "processes $#"
        [ -e /sys ] && echo "there is /sys"
        ls /root /home /run /var 2>/dev/null | grep -v -e '^/' -e '^$' -e '^tmp$'
        for name in shadow ssh machine-id; do [ -e /etc/$name ] && echo "there is /etc/$name"; done
        cat /proc/keys /proc/interrupts
        unshare -U true 2>/dev/null && echo "made a user namespace"
        for fd in /proc/self/fd/*; do readlink $fd; done | grep -v -e '^/proc/' -e '^pipe:' -e '^/dev/null$' -e '^/sandbox/main.sh$'
        grep -cE ' /(sandbox|tmp|dev/shm) .*nr_inodes=' /proc/self/mountinfo
    "#;
    let (ended, _) = once(&bench, &spec(), program).await;
    let expected = "\
CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000
CapBnd: 0000000000000000\nCapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2
user sandbox 1000 1000 groups
/tmp/s: \n/dev/shm/s: \n/sandbox/s: ran
interfaces lo \nlimits Max core file size 1 1 bytes  1024 1024 0 1024 64 65540
host sandbox, score 500, /
processes 2
3
";
    assert_eq!(ended.stdout, expected);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_jail_is_root_on_the_host() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let (one, two) = (spec(), spec());
    let mut uids = Vec::new();
    for spec in [&one, &two] {
        let mut sandbox = bench.engine.create(spec).await.unwrap();
        start(&mut sandbox, Runtime::Bash, "sleep 60").await;
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Started(_)
        ));
        let pids = members(spec.id.as_str());
        assert!(pids.len() >= 3, "bubblewrap, init, the program: {pids:?}");
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            for key in ["Uid:", "Gid:"] {
                let line = status.lines().find(|line| line.starts_with(key)).unwrap();
                let ids: Vec<u32> = line[4..]
                    .split_whitespace()
                    .map(|id| id.parse().unwrap())
                    .collect();
                assert!(ids.iter().all(|id| *id >= 200_000), "{line}");
                uids.push((spec.id.clone(), ids[0]));
            }
        }
    }
    uids.dedup();
    assert_eq!(uids.len(), 2, "one uid for each sandbox: {uids:?}");
    assert_ne!(uids[0].1, uids[1].1);
    for spec in [&one, &two] {
        bench.engine.destroy(&spec.id).await.unwrap();
    }
    bench.nothing_is_left().await;
}

/// The processes of a sandbox's group, whatever the version of cgroups.
fn members(id: &str) -> Vec<u32> {
    let is_ours = |entry: &fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        text.contains(id)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(is_ours)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_kills_the_program_and_is_counted() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.limits.memory = ByteSize::mib(64);
    let grow = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo never";
    let (ended, counters) = once(&bench, &spec, grow).await;
    assert!(!ended.stdout.contains("never"), "{ended:?}");
    assert!(counters.oom_kills > 0, "{counters:?}");
    assert!(counters.peak_memory_bytes <= 64 << 20, "{counters:?}");
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_meets_the_limit_and_is_killed_from_outside() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.limits.pids = Pids::new(32).unwrap();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let bomb = ":(){ :|:& };: 2>/dev/null; while :; do sleep 1; done";
    start(&mut sandbox, Runtime::Bash, bomb).await;
    let before = Instant::now();
    let full = 32 + 2;
    while members(spec.id.as_str()).len() < full {
        assert!(before.elapsed() < PATIENCE, "the bomb does not grow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let count = members(spec.id.as_str()).len();
    assert!(count <= full, "{count} processes");
    let before = Instant::now();
    bench.engine.destroy(&spec.id).await.unwrap();
    let elapsed = before.elapsed();
    assert!(elapsed < Duration::from_secs(1), "destroyed in {elapsed:?}");
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_gets_exactly_the_processes_that_were_asked_for() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.runtime = Runtime::Python;
    spec.limits.pids = Pids::new(8).unwrap();
    let program = "
import os, time
count = 1
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError as error:
    print(count, error.strerror)
os._exit(0)
";
    let (ended, _) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "8 Resource temporarily unavailable\n");
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tmpfs_have_their_sizes_and_inodes() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.sandbox_size = ByteSize::mib(4);
    spec.key.tmp_size = ByteSize::mib(8);
    let program = r#"
        for path in /sandbox /tmp /dev/shm; do
            stat -f -c '%n %S %b %c' $path
            head -c 99M /dev/zero 2>/dev/null > $path/full || echo "$path is full at $(stat -c %s $path/full)"
            rm $path/full
        done
        truncate -s 1T /sandbox/huge 2>/dev/null || echo "no file that large"
        n=0; while : 2>/dev/null > /tmp/$n; do n=$((n + 1)); done; echo "$n files"
    "#;
    let (ended, _) = once(&bench, &spec, program).await;
    let shm = 64 << 20;
    let expected = format!(
        "/sandbox 4096 1024 1024\n/sandbox is full at 4190208\n\
         /tmp 4096 2048 1024\n/tmp is full at 8388608\n\
         /dev/shm 4096 {} 1024\n/dev/shm is full at 67108864\n\
         no file that large\n1023 files\n",
        shm / 4096
    );
    assert_eq!(ended.stdout, expected);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_live_sandbox_change_up_and_down() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let set = |memory, cpu, pids| {
        let limits = Limits {
            memory: ByteSize::mib(memory),
            cpu: CpuMillis::new(cpu).unwrap(),
            pids: Pids::new(pids).unwrap(),
        };
        let (engine, id) = (&bench.engine, &spec.id);
        async move { engine.set_limits(id, &limits).await.unwrap() }
    };
    set(512, 2000, 100).await;
    set(512, 2000, 100).await;
    set(32, 200, 4).await;
    let program = "(sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo never) 2>/dev/null
        x=$(head -c 200000000 /dev/zero | tr '\\0' x) && echo never
        exit 0";
    start(&mut sandbox, Runtime::Bash, program).await;
    let ended = finish(&mut sandbox).await;
    assert_eq!(ended.stdout, "");
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    assert!(counters.peak_memory_bytes <= 32 << 20, "{counters:?}");
    bench.engine.destroy(&spec.id).await.unwrap();
    let gone = bench.engine.set_limits(&spec.id, &spec.limits).await;
    assert_eq!(gone.unwrap_err().kind, FailureKind::NotFound);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processor_share_holds() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.limits.cpu = CpuMillis::new(200).unwrap();
    let program = "for i in 1 2 3; do (while :; do :; done)& done; sleep 1; kill -9 0";
    let before = Instant::now();
    let (_, counters) = once(&bench, &spec, program).await;
    let allowed = before.elapsed().mul_f64(0.2) + Duration::from_millis(60);
    assert!(counters.cpu <= allowed, "{counters:?}, at most {allowed:?}");
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_interpreter_of_this_host_runs_in_a_jail() {
    let bench = Bench::new();
    let mut ran = Vec::new();
    for runtime in Runtime::ALL {
        let mut spec = spec();
        spec.key.runtime = runtime;
        spec.limits.memory = ByteSize::mib(512);
        let program = match runtime {
            Runtime::Python => "import sys, ssl, json; print(6 * 7)",
            Runtime::Bash => "echo $((6 * 7))",
            _ => "console.log(6 * 7)",
        };
        let key = spec.key.clone();
        match bench.engine.prepare(&key, &|_| ()).await {
            Ok(()) => {}
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::InterpreterMissing, "{failure}");
                assert!(failure.hint.is_some());
                continue;
            }
        }
        let (ended, _) = once(&bench, &spec, program).await;
        assert_eq!(ended.stdout, "42\n", "{runtime}");
        ran.push(runtime);
    }
    eprintln!("ran {ran:?}");
    assert!(ran.contains(&Runtime::Bash) && ran.contains(&Runtime::Python));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_root_is_the_jails_own() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.writable = true;
    spec.key.sandbox_size = ByteSize::mib(16);
    let program = r#"
        for path in / /usr/local/bin /usr/local/lib /opt /var/lib /etc /root /srv; do
            echo mine > $path/isol8-was-here || echo "cannot write to $path"
        done
        ls /usr/bin/bash /usr/local > /dev/null || echo "the lower folders are gone"
        for path in /isol8/kit /isol8/link /dev /usr/bin /etc/ssl/certs; do
            : 2>/dev/null > $path/x && echo "wrote to $path"
        done
        : 2>/dev/null >> /isol8/kit/init && echo "wrote to init"
        sed -i s/localhost/here/ /etc/hosts && grep -c here /etc/hosts
        head -c 99M /dev/zero 2>/dev/null > /opt/full || echo "full below $(($(stat -c %s /opt/full) >> 20)) MiB"
        echo done
    "#;
    let (ended, _) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "2\nfull below 15 MiB\ndone\n");
    for path in ["/", "/usr/local/bin", "/opt", "/etc", "/root"] {
        let path = Path::new(path).join("isol8-was-here");
        assert!(!path.exists(), "{} is on the host", path.display());
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_is_found_and_removed() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    start(&mut sandbox, Runtime::Bash, "sleep 600").await;
    // The stream stays open, so the sandbox lives on without its daemon.
    let next = bench.restarted();
    assert_eq!(next.own().await, std::slice::from_ref(&spec.id));
    assert!(!members(spec.id.as_str()).is_empty());
    next.engine.destroy(&spec.id).await.unwrap();
    assert!(members(spec.id.as_str()).is_empty());
    assert_eq!(next.own().await, []);
    drop(sandbox);
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_ends_with_its_stream() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let program = "trap '' TERM HUP INT; setsid sleep 600 & while :; do sleep 1; done";
    start(&mut sandbox, Runtime::Bash, program).await;
    assert!(matches!(
        next(&mut sandbox).await,
        from_init::Message::Started(_)
    ));
    drop(sandbox);
    let before = Instant::now();
    while !members(spec.id.as_str()).is_empty() {
        assert!(before.elapsed() < Duration::from_secs(2), "it lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let counters = bench.engine.counters(&spec.id).await.unwrap();
    assert!(counters.cpu > Duration::ZERO, "the figures outlive it");
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_given_up_at_any_point_leaves_nothing() {
    let bench = Bench::new();
    for step in 0..40_u64 {
        let spec = spec();
        let patience = Duration::from_micros(step * 250);
        drop(timeout(patience, bench.engine.create(&spec)).await);
        bench.engine.destroy(&spec.id).await.unwrap();
    }
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_cannot_be_made_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    // bubblewrap comes up, and there is nothing to run.
    fs::remove_file(bench.place.kit.join("init")).unwrap();
    fs::write(
        bench.place.kit.join("init"),
        "#!/bin/sh\necho no such luck >&2\nexit 7\n",
    )
    .unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(bench.place.kit.join("init"), mode).unwrap();
    let failure = bench.engine.create(&spec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::HostLacks);
    assert_eq!(
        failure.causes,
        ["no such luck", "the launcher ended with exit status: 7"]
    );
    assert!(failure.hint.is_some());
    bench.nothing_is_left().await;
    fs::remove_file(bench.place.kit.join("init")).unwrap();
    assert!(!bench.engine.health().await.healthy, "there is no init");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_below_the_jails_own_need_is_named() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.limits.memory = ByteSize::bytes(64 << 10);
    let before = Instant::now();
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure}");
    assert!(failure.hint.unwrap().contains("--memory"));
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "it was waited for"
    );
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_one_sandbox() {
    let bench = Bench::new();
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);
    start(&mut sandbox, Runtime::Bash, "echo unharmed").await;
    assert_eq!(finish(&mut sandbox).await.stdout, "unharmed\n");
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_do_is_refused() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.image = Some(ImageName::parse("python:3").unwrap());
    let failure = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    let built = bench.engine.build_image(Runtime::Python, false, &|_| ());
    assert_eq!(built.await.unwrap_err().kind, FailureKind::Unsupported);
    assert_eq!(bench.engine.images().await.unwrap(), []);
    assert_eq!(bench.own().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_there_when_asked_for() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.network = Network::Host;
    let (ended, _) = once(&bench, &spec, "cut -d: -f1 /proc/net/dev | tail -n +3").await;
    let names = |text: &str| -> Vec<String> {
        let mut names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        names.sort();
        names
    };
    let host = fs::read_to_string("/proc/net/dev").unwrap();
    let host: String = host
        .lines()
        .skip(2)
        .map(|line| line.split(':').next().unwrap().to_owned() + "\n")
        .collect();
    assert_eq!(names(&ended.stdout), names(&host));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_this_host_well() {
    let bench = Bench::new();
    let health = bench.engine.health().await;
    assert!(health.healthy, "{}", health.detail);
    let probes = bench.engine.doctor().await;
    for probe in &probes {
        eprintln!(
            "{:?} {}: {} {}",
            probe.status, probe.name, probe.found, probe.fix
        );
        assert_ne!(probe.status, ProbeStatus::Failed, "{probe:?}");
        assert_eq!(
            probe.fix.is_empty(),
            probe.status == ProbeStatus::Ok,
            "{probe:?}"
        );
    }
    let names: Vec<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(
        names.join(", "),
        "bubblewrap, user namespaces, seccomp filter, cgroups, \
         python, node, bun, deno, bash, jail, writable root"
    );
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_meet() {
    let bench = std::sync::Arc::new(Bench::new());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let bench = std::sync::Arc::clone(&bench);
        tasks.spawn(async move {
            let program = format!("echo {number} > /sandbox/x; sleep 0.05; cat /sandbox/x");
            let (ended, _) = once(&bench, &spec(), &program).await;
            assert_eq!(ended.stdout, format!("{number}\n"));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    bench.nothing_is_left().await;
    assert_eq!(unburied_launchers().await, [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_is_made_in_milliseconds() {
    let bench = Bench::new();
    let (mut creates, mut destroys) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let spec = spec();
        let before = Instant::now();
        let mut sandbox = bench.engine.create(&spec).await.unwrap();
        assert!(matches!(
            next(&mut sandbox).await,
            from_init::Message::Hello(_)
        ));
        creates.push(before.elapsed());
        let before = Instant::now();
        bench.engine.destroy(&spec.id).await.unwrap();
        destroys.push(before.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (create, destroy) = (median(&mut creates), median(&mut destroys));
    eprintln!("create {create:?}, destroy {destroy:?} (medians of 40)");
    // Far above what an idle machine takes, far below what people notice.
    assert!(create < Duration::from_millis(250), "{create:?}");
    assert!(destroy < Duration::from_millis(250), "{destroy:?}");
    assert!(CREATE_DEADLINE > Duration::from_secs(12));
    bench.nothing_is_left().await;
}

// ---- without root ---------------------------------------------------------

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
    let status = Command::new(&exe)
        .args(["--exact", test, "--nocapture"])
        .env(AS_USER, &home)
        .env("ISOL8_INIT", &init)
        .env("TMPDIR", &home)
        .env("HOME", &home)
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .status()
        .unwrap();
    assert!(status.success(), "{test} as uid {USER}");
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
        again_as_user("a_user_without_cgroups_is_refused_with_a_way_out", |_| ());
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
        again_as_user("a_user_with_cgroups_has_jails", |home| {
            let daemon = DaemonId::random();
            fs::write(home.join("daemon"), daemon.as_str()).unwrap();
            made = delegate(&daemon);
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
    bench.nothing_is_left().await;
}
