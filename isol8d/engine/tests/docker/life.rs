//! A sandbox that does as it should.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use isol8_core::{
    failure::FailureKind,
    ids::SandboxId,
    quantity::{ByteSize, CpuMillis, Pids},
    sandbox::{ImageName, Limits, Network},
};
use isol8_engine::Engine;
use isol8_proto::init::exited::How;

use crate::bench::{Bench, PATIENCE, once, run, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_nothing_is_left() {
    let bench = Bench::ready().await;
    let spec = spec();
    let (ended, counters) = once(
        &bench,
        &spec,
        "echo hello $((6 * 7)); head -c 9000000 /dev/zero > /tmp/x; exit 3",
    )
    .await;
    assert_eq!(ended.stdout, "hello 42\n");
    assert_eq!(ended.how, How::Code(3));
    assert!(counters.cpu > Duration::ZERO);
    assert!(counters.peak_memory_bytes > 9_000_000, "{counters:?}");
    assert!(counters.shmem_bytes >= 9_000_000, "{counters:?}");
    assert_eq!(counters.oom_kills, 0);
    bench.nothing_is_left().await;
    let gone = bench.engine.counters(&spec.id).await.unwrap_err();
    assert_eq!(gone.kind, FailureKind::NotFound);
    bench
        .engine
        .destroy(&spec.id)
        .await
        .expect("a second time does nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_as_hard_as_it_is_meant_to_be() {
    let bench = Bench::ready().await;
    let program = r#"
        grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\t ' ' '
        echo "user $(id -un) $(($(id -u) >= 200000)) $(($(id -u) == $(id -G)))"
        for path in / /usr /etc /isol8/kit /isol8/link /dev /proc/sys/kernel; do
          : 2>/dev/null > $path/x && echo "wrote to $path"
        done
        for path in /sandbox /tmp /dev/shm; do : > $path/x || echo "cannot write to $path"; done
        printf '#!/bin/sh\necho ran\n' > /tmp/s; cp /tmp/s /dev/shm/s; cp /tmp/s /sandbox/s
        chmod 755 /tmp/s /dev/shm/s /sandbox/s
        for path in /tmp/s /dev/shm/s /sandbox/s; do echo "$path: $($path 2>/dev/null)"; done
        echo "interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | tr '\n' ' ')"
        echo "localhost $(getent hosts localhost | tr -s ' ')"
        echo "limits $(grep core /proc/self/limits | tr -s " ") $(ulimit -n) $(ulimit -Hn) $(ulimit -q) $(ulimit -i)"
        cat /proc/1/environ 2>/dev/null && echo "read the environment of init"
        kill -9 1 2>/dev/null; echo "host $(uname -n), score $(cat /proc/self/oom_score_adj)"
        cat /proc/self/mountinfo | grep -cE ' /(sandbox|tmp|dev/shm) .*nr_inodes='
    "#;
    let (ended, _) = once(&bench, &spec(), program).await;
    let expected = "\
CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000
CapBnd: 0000000000000000\nCapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2
user sandbox 1 1
/tmp/s: \n/dev/shm/s: \n/sandbox/s: ran
interfaces lo \nlocalhost ::1 localhost ip6-localhost ip6-loopback
limits Max core file size 1 1 bytes  1024 4096 0 1024
host sandbox, score 1000
3
";
    assert_eq!(ended.stdout, expected);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_kills_the_program_and_is_counted() {
    let bench = Bench::ready().await;
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
async fn figures_can_be_read_when_every_process_is_gone() {
    let bench = Bench::ready().await;
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    run(&mut sandbox, "echo x").await;
    let before = bench.engine.counters(&spec.id).await.unwrap();
    drop(sandbox);
    let end = Instant::now() + PATIENCE;
    // init ends with its stream and everything inside with init.
    loop {
        let after = bench.engine.counters(&spec.id).await.unwrap();
        assert!(after.cpu >= before.cpu && after.oom_kills == 0, "{after:?}");
        let inside = Command::new("docker")
            .args(["inspect", "-f", "{{.State.Running}}"])
            .arg(format!("isol8-{}", spec.id))
            .output()
            .unwrap();
        if inside.stdout == b"false\n" {
            break;
        }
        assert!(Instant::now() < end, "the container outlives its stream");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = bench.engine.counters(&spec.id).await.unwrap();
    assert!(after.cpu >= before.cpu);
    bench.engine.destroy(&spec.id).await.unwrap();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_on_a_live_sandbox() {
    const SHOW: &str = "\
        cd /sys/fs/cgroup
        cat pids.max pids/pids.max memory.max memory/memory.limit_in_bytes \
          memory.swap.max memory/memory.memsw.limit_in_bytes 2>/dev/null";
    let bench = Bench::ready().await;
    let spec = spec();
    let mut sandbox = bench.engine.create(&spec).await.unwrap();
    let limits = Limits {
        memory: ByteSize::mib(96),
        cpu: CpuMillis::new(500).unwrap(),
        pids: Pids::new(20).unwrap(),
    };
    bench.engine.set_limits(&spec.id, &limits).await.unwrap();
    let began = Instant::now();
    bench.engine.set_limits(&spec.id, &limits).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(5),
        "asked the engine again"
    );
    let ended = run(&mut sandbox, SHOW).await;
    let mut lines = ended.stdout.lines();
    assert_eq!(lines.next(), Some("21"));
    assert_eq!(lines.next(), Some("100663296"));
    // v1 counts memory and swap together, v2 swap alone.
    assert!(matches!(lines.next(), Some("100663296" | "0") | None));
    bench.engine.destroy(&spec.id).await.unwrap();
    let gone = bench
        .engine
        .set_limits(&spec.id, &limits)
        .await
        .unwrap_err();
    assert_eq!(gone.kind, FailureKind::NotFound);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tightest_limits_still_start() {
    let bench = Bench::ready().await;
    let mut spec = spec();
    spec.limits.pids = Pids::new(1).unwrap();
    spec.limits.cpu = CpuMillis::new(100).unwrap();
    let program = "echo alone; (echo child) 2>/dev/null; echo after";
    let (ended, _) = once(&bench, &spec, program).await;
    assert!(ended.stdout.starts_with("alone\n"), "{ended:?}");
    assert!(!ended.stdout.contains("child"), "{ended:?}");
    bench.nothing_is_left().await;
}

/// Builds an image on the base image of bash.
fn image(tag: &str, lines: &str) {
    let built = Command::new("sh")
        .args([
            "-c",
            "printf 'FROM isol8:bash\\n%s\\n' \"$2\" | docker build -q -t \"$1\" -",
        ])
        .args(["sh", tag, lines])
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
}

fn remove_images(tags: &[&str]) {
    let removed = Command::new("docker")
        .args(["rmi", "-f"])
        .args(tags)
        .output();
    assert!(removed.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_an_image_is_an_empty_folder() {
    let bench = Bench::ready().await;
    let good = format!("isol8-test:{}", bench.place.daemon);
    let bad = format!("{good}-etc");
    image(&good, "VOLUME /data /tmp /sandbox");
    image(&bad, "VOLUME /etc");
    let mut spec = spec();
    spec.key.image = Some(ImageName::parse(&good).unwrap());
    let program = "echo x > /data/x || echo refused; ls -A /data; stat -f -c %T /data /tmp";
    let (ended, _) = once(&bench, &spec, program).await;
    assert_eq!(ended.stdout, "refused\ntmpfs\ntmpfs\n");
    spec.id = SandboxId::random();
    spec.key.image = Some(ImageName::parse(&bad).unwrap());
    let refused = bench.engine.create(&spec).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unsupported);
    remove_images(&[&good, &bad]);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_made_anew_is_found() {
    let bench = Bench::ready().await;
    let tag = format!("isol8-test:{}", bench.place.daemon);
    let mut spec = spec();
    spec.key.image = Some(ImageName::parse(&tag).unwrap());
    for name in ["one", "two"] {
        // The second time the engine has no image with the id that is known. No
        // other test's image has this one's content.
        let name = format!("{name}-{}", bench.place.daemon);
        image(&tag, &format!("ENV PATH=/{name}:/usr/bin:/bin"));
        spec.id = SandboxId::random();
        let sandbox = bench.engine.create(&spec).await.unwrap();
        assert_eq!(sandbox.interpreter.path, format!("/{name}:/usr/bin:/bin"));
        assert_eq!(sandbox.interpreter.program, "bash");
        bench.engine.destroy(&spec.id).await.unwrap();
        remove_images(&[&tag]);
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network_and_root_are_as_ordered() {
    let bench = Bench::ready().await;
    // The namespace itself: interfaces come and go with containers of others.
    let program = "readlink /proc/self/ns/net";
    let mut host = spec();
    host.key.network = Network::Host;
    let (ended, _) = once(&bench, &host, program).await;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(Some(ended.stdout.trim_end()), own.to_str());

    let program = "cat /etc/resolv.conf; getent hosts localhost >/dev/null && echo resolved";
    host.id = SandboxId::random();
    let (ended, _) = once(&bench, &host, program).await;
    assert!(ended.stdout.ends_with("resolved\n"), "{ended:?}");

    let program = "{ : > /var/tmp/x; } 2>/dev/null && echo wrote; exit 0";
    let (ended, _) = once(&bench, &spec(), program).await;
    assert_eq!(ended.stdout, "");
    let mut writable = spec();
    writable.key.writable = true;
    let (ended, _) = once(&bench, &writable, program).await;
    assert_eq!(ended.stdout, "wrote\n");
    bench.nothing_is_left().await;
}
