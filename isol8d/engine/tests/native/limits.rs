//! Memory, processes, processor, room.

use std::time::{Duration, Instant};

use isol8_core::{
    failure::FailureKind,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::Limits,
};
use isol8_engine::Engine;

use crate::{
    bench::{Bench, PATIENCE, members, spec},
    program::{finish, once, start},
};

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
