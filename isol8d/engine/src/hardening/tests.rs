//! The whole body for one order, then what each property of an order changes.

use expect_test::{Expect, expect};
use isol8_core::{
    quantity::{CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, SandboxKey},
};
use serde_json::{Value, json};

use super::*;

const UID: u32 = 200_007;

fn spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        key: SandboxKey {
            engine: EngineKind::Docker,
            runtime: Runtime::Python,
            image: None,
            network: Network::None,
            writable: false,
            sandbox_size: ByteSize::mib(512),
            tmp_size: ByteSize::mib(256),
            layer: None,
        },
        limits: Limits {
            memory: ByteSize::mib(512),
            cpu: CpuMillis::ONE,
            pids: Pids::new(64).unwrap(),
        },
        lasting: false,
    }
}

fn body(change: impl FnOnce(&mut SandboxSpec, &mut Ground<'_>)) -> Value {
    let daemon = DaemonId::parse("00112233aabbccdd").unwrap();
    let volumes = ["/data".to_owned(), "/tmp".to_owned()];
    let etc = [("passwd", PathBuf::from("/run/isol8/sb/x/passwd"))];
    let mut ground = Ground {
        daemon: &daemon,
        created: 1_700_000_000,
        image: "sha256:abc",
        volumes: &[],
        uid: UID,
        kit: Path::new("/var/lib/isol8/kit-1"),
        link: Path::new("/run/isol8/sb/x"),
        layer: None,
        etc: &etc,
        seccomp: "{}",
        podman: false,
        runtime: None,
        cgroup_v1: false,
        cores: 4,
        orphaned: Duration::from_secs(3),
    };
    let mut spec = spec();
    change(&mut spec, &mut ground);
    // What a test cannot borrow for long enough.
    if ground.image == "with volumes" {
        ground.volumes = &volumes;
    }
    serde_json::to_value(create_body(&spec, &ground)).unwrap()
}

#[track_caller]
fn field(change: impl FnOnce(&mut SandboxSpec, &mut Ground<'_>), pointer: &str, expected: Value) {
    let body = body(change);
    let found = body.pointer(pointer).cloned().unwrap_or(Value::Null);
    assert_eq!(found, expected, "{pointer}");
}

#[track_caller]
fn check(value: &Value, expected: &Expect) {
    expected.assert_eq(&serde_json::to_string_pretty(value).unwrap());
}

#[test]
fn every_field_of_a_plain_order() {
    check(
        &body(|_, _| {}),
        &expect![[r#"
        {
          "AttachStderr": false,
          "AttachStdin": false,
          "AttachStdout": false,
          "Cmd": [
            "/isol8/link/sock"
          ],
          "Domainname": "",
          "Entrypoint": [
            "/isol8/kit/init"
          ],
          "Env": [],
          "Healthcheck": {
            "Test": [
              "NONE"
            ]
          },
          "HostConfig": {
            "AutoRemove": false,
            "CapAdd": [],
            "CapDrop": [
              "ALL"
            ],
            "CgroupnsMode": "private",
            "CpuShares": 512,
            "Init": false,
            "IpcMode": "private",
            "LogConfig": {
              "Config": {},
              "Type": "none"
            },
            "Memory": 536870912,
            "MemorySwap": 536870912,
            "Mounts": [
              {
                "BindOptions": {
                  "NonRecursive": true,
                  "Propagation": "private"
                },
                "ReadOnly": true,
                "Source": "/var/lib/isol8/kit-1",
                "Target": "/isol8/kit",
                "Type": "bind"
              },
              {
                "BindOptions": {
                  "NonRecursive": true,
                  "Propagation": "private"
                },
                "ReadOnly": true,
                "Source": "/run/isol8/sb/x",
                "Target": "/isol8/link",
                "Type": "bind"
              },
              {
                "BindOptions": {
                  "NonRecursive": true,
                  "Propagation": "private"
                },
                "ReadOnly": true,
                "Source": "/run/isol8/sb/x/passwd",
                "Target": "/etc/passwd",
                "Type": "bind"
              }
            ],
            "NanoCpus": 1000000000,
            "NetworkMode": "none",
            "OomKillDisable": false,
            "OomScoreAdj": 500,
            "PidMode": "",
            "PidsLimit": 65,
            "Privileged": false,
            "PublishAllPorts": false,
            "ReadonlyRootfs": true,
            "RestartPolicy": {
              "Name": "no"
            },
            "SecurityOpt": [
              "no-new-privileges=true",
              "seccomp={}"
            ],
            "ShmSize": 67108864,
            "Sysctls": {
              "net.ipv4.ping_group_range": "1 0"
            },
            "Tmpfs": {
              "/dev/shm": "rw,noexec,nosuid,nodev,size=67108864,nr_inodes=4096,mode=1777",
              "/sandbox": "rw,exec,nosuid,nodev,size=536870912,nr_inodes=65536,mode=0700,uid=200007,gid=200007",
              "/tmp": "rw,noexec,nosuid,nodev,size=268435456,nr_inodes=32768,mode=1777"
            },
            "UTSMode": "",
            "Ulimits": [
              {
                "Hard": 4096,
                "Name": "nofile",
                "Soft": 1024
              },
              {
                "Hard": 1,
                "Name": "core",
                "Soft": 1
              },
              {
                "Hard": 536870912,
                "Name": "fsize",
                "Soft": 536870912
              },
              {
                "Hard": 65536,
                "Name": "memlock",
                "Soft": 65536
              },
              {
                "Hard": 0,
                "Name": "msgqueue",
                "Soft": 0
              },
              {
                "Hard": 1024,
                "Name": "sigpending",
                "Soft": 1024
              },
              {
                "Hard": 0,
                "Name": "rtprio",
                "Soft": 0
              },
              {
                "Hard": 0,
                "Name": "nice",
                "Soft": 0
              }
            ],
            "UsernsMode": ""
          },
          "Hostname": "sandbox",
          "Image": "sha256:abc",
          "Labels": {
            "isol8.created": "1700000000",
            "isol8.daemon": "00112233aabbccdd",
            "isol8.managed": "1",
            "isol8.sandbox": "0123456789abcdef0123456789abcdef"
          },
          "NetworkDisabled": true,
          "OpenStdin": false,
          "StdinOnce": false,
          "StopSignal": "SIGKILL",
          "StopTimeout": 0,
          "Tty": false,
          "User": "200007:200007",
          "WorkingDir": "/"
        }"#]],
    );
}

#[test]
fn what_an_engine_keeps_by_default_is_never_replaced() {
    let body = body(|_, _| {});
    for name in [
        "MaskedPaths",
        "ReadonlyPaths",
        "Binds",
        "Devices",
        "GroupAdd",
    ] {
        assert_eq!(body["HostConfig"].get(name), None, "{name}");
    }
}

#[test]
fn the_root_is_writable_only_on_request() {
    let pointer = "/HostConfig/ReadonlyRootfs";
    field(|_, _| {}, pointer, json!(true));
    field(|spec, _| spec.key.writable = true, pointer, json!(false));
}

#[test]
fn each_network_mode() {
    let mode =
        |network| move |spec: &mut SandboxSpec, _: &mut Ground<'_>| spec.key.network = network;
    let none = "/HostConfig/NetworkMode";
    field(mode(Network::None), none, json!("none"));
    // The proxy is reached through init: no interface here either.
    field(mode(Network::Filtered), none, json!("none"));
    field(mode(Network::Host), none, json!("host"));
    field(mode(Network::None), "/NetworkDisabled", json!(true));
    field(mode(Network::Filtered), "/NetworkDisabled", json!(true));
    field(mode(Network::Host), "/NetworkDisabled", json!(false));
    // Engines refuse a setting of a namespace that is the host's.
    field(mode(Network::Host), "/HostConfig/Sysctls", Value::Null);
}

#[test]
fn a_lasting_container_is_told_so_and_marked() {
    let label = "/Labels/isol8.lasting";
    field(|_, _| {}, label, Value::Null);
    let lasting = |spec: &mut SandboxSpec, _: &mut Ground<'_>| {
        spec.lasting = true;
        spec.key.network = Network::Filtered;
    };
    field(lasting, label, json!("1"));
    let arguments = "/isol8/link/sock --egress --lasting --orphan-ms 3000";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    field(lasting, "/Cmd", json!(arguments));
    // It may not come back from the dead.
    field(lasting, "/HostConfig/RestartPolicy/Name", json!("no"));
}

#[test]
fn swappiness_exists_on_the_first_cgroups_alone() {
    let pointer = "/HostConfig/MemorySwappiness";
    field(|_, ground| ground.cgroup_v1 = true, pointer, json!(0));
    field(|_, ground| ground.cgroup_v1 = false, pointer, Value::Null);
}

#[test]
fn the_runtime_is_the_engines_own_unless_configured() {
    let pointer = "/HostConfig/Runtime";
    field(|_, _| {}, pointer, Value::Null);
    field(
        |_, ground| ground.runtime = Some("runsc"),
        pointer,
        json!("runsc"),
    );
}

#[test]
fn sizes_bound_bytes_and_inodes_and_files() {
    let small = |spec: &mut SandboxSpec, _: &mut Ground<'_>| {
        spec.key.sandbox_size = ByteSize::mib(1);
        spec.key.tmp_size = ByteSize::mib(32);
    };
    field(
        small,
        "/HostConfig/Tmpfs/~1sandbox",
        json!("rw,exec,nosuid,nodev,size=1048576,nr_inodes=1024,mode=0700,uid=200007,gid=200007"),
    );
    field(
        small,
        "/HostConfig/Tmpfs/~1tmp",
        json!("rw,noexec,nosuid,nodev,size=33554432,nr_inodes=4096,mode=1777"),
    );
    let largest = json!({"Name": "fsize", "Soft": 33_554_432, "Hard": 33_554_432});
    field(small, "/HostConfig/Ulimits/2", largest);
}

#[test]
fn podman_gets_the_options_that_it_knows() {
    let tight = |spec: &mut SandboxSpec, ground: &mut Ground<'_>| {
        ground.podman = true;
        spec.limits.pids = Pids::new(1).unwrap();
    };
    field(tight, "/HostConfig/PidsLimit", json!(2));
    let podman = |_: &mut SandboxSpec, ground: &mut Ground<'_>| ground.podman = true;
    let mounted =
        |path, options| field(podman, &format!("/HostConfig/Tmpfs/{path}"), json!(options));
    mounted(
        "~1sandbox",
        "rw,exec,nosuid,nodev,size=536870912,notmpcopyup,mode=1777",
    );
    mounted(
        "~1tmp",
        "rw,noexec,nosuid,nodev,size=268435456,notmpcopyup,mode=1777",
    );
    mounted(
        "~1dev~1shm",
        "rw,noexec,nosuid,nodev,size=67108864,notmpcopyup,mode=1777",
    );
}

#[test]
fn the_bounds_of_an_order_reach_the_engine() {
    let asked = |spec: &mut SandboxSpec, _: &mut Ground<'_>| {
        spec.limits.memory = ByteSize::mib(64);
        spec.limits.cpu = CpuMillis::new(2500).unwrap();
        spec.limits.pids = Pids::new(100).unwrap();
    };
    field(asked, "/HostConfig/Memory", json!(64 << 20));
    field(asked, "/HostConfig/MemorySwap", json!(64 << 20));
    field(asked, "/HostConfig/NanoCpus", json!(2_500_000_000_u64));
    field(asked, "/HostConfig/PidsLimit", json!(101));
}

#[test]
fn starting_up_needs_room_that_the_program_does_not_get() {
    let tight = Limits {
        memory: ByteSize::mib(64),
        cpu: CpuMillis::new(100).unwrap(),
        pids: Pids::new(1).unwrap(),
    };
    let start = starting_limits(&tight, 4);
    let after = Bounds::of(&tight, 4);
    assert_eq!((start.pids, after.pids), (32, 2));
    assert_eq!(
        (start.nano_cpus, after.nano_cpus),
        (1_000_000_000, 100_000_000)
    );
    assert_eq!(start.memory_bytes, after.memory_bytes);
}

#[test]
fn more_cores_than_there_are_is_all_of_them() {
    let greedy = Limits {
        cpu: CpuMillis::new(64_000).unwrap(),
        ..spec().limits
    };
    assert_eq!(Bounds::of(&greedy, 2).nano_cpus, 2_000_000_000);
    assert_eq!(Bounds::of(&greedy, 0).nano_cpus, 1_000_000_000);
}

#[test]
fn an_update_never_leaves_room_for_swap() {
    let body = Bounds::of(&spec().limits, 4).update_body();
    check(
        &serde_json::to_value(body).unwrap(),
        &expect![[r#"
        {
          "Memory": 536870912,
          "MemorySwap": 536870912,
          "NanoCpus": 1000000000,
          "PidsLimit": 65
        }"#]],
    );
}

#[test]
fn a_filtered_network_is_asked_of_init() {
    let arguments = |network| {
        let change = move |spec: &mut SandboxSpec, _: &mut Ground<'_>| spec.key.network = network;
        body(change)["Cmd"].clone()
    };
    let plain = json!(["/isol8/link/sock"]);
    assert_eq!(arguments(Network::None), plain);
    assert_eq!(arguments(Network::Host), plain);
    let filtered = json!(["/isol8/link/sock", "--egress"]);
    assert_eq!(arguments(Network::Filtered), filtered);
}

#[test]
fn a_layer_is_mounted_read_only_over_the_tmpfs() {
    let body = body(|_, ground| {
        ground.layer = Some((Path::new("/state/layers/1/tree"), ".local"));
    });
    check(
        &body["HostConfig"]["Mounts"][3],
        &expect![[r#"
        {
          "BindOptions": {
            "NonRecursive": true,
            "Propagation": "private"
          },
          "ReadOnly": true,
          "Source": "/state/layers/1/tree",
          "Target": "/sandbox/.local",
          "Type": "bind"
        }"#]],
    );
}

#[test]
fn a_volume_becomes_an_empty_folder() {
    let body = body(|_, ground| ground.image = "with volumes");
    let targets: Vec<&str> = body["HostConfig"]["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["Target"].as_str().unwrap())
        .collect();
    assert_eq!(
        targets,
        ["/isol8/kit", "/isol8/link", "/etc/passwd", "/data"]
    );
    check(
        &body["HostConfig"]["Mounts"][3],
        &expect![[r#"
        {
          "ReadOnly": true,
          "Target": "/data",
          "TmpfsOptions": {
            "Mode": 365,
            "SizeBytes": 4096
          },
          "Type": "tmpfs"
        }"#]],
    );
}

#[test]
fn what_becomes_of_a_volume() {
    let table = [
        ("/data", Volume::Emptied),
        ("/data/", Volume::Emptied),
        ("/usr/share/x", Volume::Emptied),
        ("/sandbox/x", Volume::Emptied),
        ("/sandbox", Volume::Covered),
        ("/tmp/", Volume::Covered),
        ("//dev//shm", Volume::Covered),
        ("/isol8/kit", Volume::Covered),
        ("/isol8", Volume::Refused),
        ("/isol8/kit/init", Volume::Refused),
        ("/", Volume::Refused),
        ("", Volume::Refused),
        ("data", Volume::Refused),
        ("/data/../etc", Volume::Refused),
        ("/etc", Volume::Refused),
        ("/usr/bin", Volume::Refused),
        ("/dev", Volume::Refused),
        ("/proc/x", Volume::Refused),
        ("/lib64", Volume::Refused),
    ];
    for (path, expected) in table {
        assert_eq!(Volume::of(path), expected, "{path}");
    }
}
