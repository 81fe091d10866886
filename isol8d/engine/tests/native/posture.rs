//! What a program can and cannot do in a jail.

use std::{fs, path::Path};

use isol8_core::{quantity::ByteSize, runtime::Runtime, sandbox::Network};
use isol8_engine::Engine;
use isol8_proto::init::from_init;

use crate::{
    bench::{Bench, members, spec},
    program::{next, once, start},
};

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
host sandbox, score 1000, /
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
async fn the_hosts_network_is_there_when_asked_for() {
    let bench = Bench::new();
    let mut spec = spec();
    spec.key.network = Network::Host;
    // The namespace itself: interfaces come and go with containers of others.
    let (ended, _) = once(&bench, &spec, "readlink /proc/self/ns/net").await;
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(Some(ended.stdout.trim_end()), host.to_str());
    bench.nothing_is_left().await;
}
