//! What a sandbox is: the promises of isolation, seen from inside and, where
//! only the host can tell, from outside.

use std::{collections::BTreeSet, fs, io::ErrorKind, net::TcpListener, os::unix::net};

use isol8_e2e::harness::{
    call::Running,
    host::{self, Process},
    stage::{CANARY, Engine, Stage},
    wait::{seconds, wait_for},
};
use serde_json::{Value, json};

const POSTURE: &str = include_str!("programs/posture.py");

/// The CA bundle of the configuration reaches programs in these.
const CA_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NPM_CONFIG_CAFILE",
];

fn posture(stage: &Stage, args: &[&str]) -> Value {
    let ran = stage.python(POSTURE).args(args).go();
    ran.ok();
    assert!(
        !ran.out().contains(CANARY),
        "the daemon's environment got inside"
    );
    ran.json()
}

fn words(value: &Value) -> BTreeSet<&str> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|word| word.as_str().expect("text"))
        .collect()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

fn check_identity(seen: &Value) {
    let all = |field: &str| -> Vec<u64> {
        let list = seen[field].as_array().expect("a list");
        list.iter()
            .map(|id| id.as_str().expect("text").parse().expect("a number"))
            .collect()
    };
    let (uid, gid) = (all("Uid"), all("Gid"));
    assert!(uid[0] != 0 && uid.iter().all(|id| *id == uid[0]), "{uid:?}");
    assert!(gid[0] != 0 && gid.iter().all(|id| *id == gid[0]), "{gid:?}");
    assert!(
        all("Groups").iter().all(|id| *id == gid[0]),
        "{}",
        seen["Groups"]
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(seen[set], json!(["0000000000000000"]), "{set}");
    }
    assert_eq!(seen["NoNewPrivs"], json!(["1"]));
    assert_eq!(seen["Seccomp"], json!(["2"]));
}

fn check_namespaces(seen: &Value) {
    for name in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("namespaces are there");
        assert_ne!(seen["namespaces"][name].as_str(), host.to_str(), "{name}");
    }
    assert_eq!(seen["interfaces"], json!(["lo"]));
    assert_eq!(seen["hostname"], "sandbox");
    let pids = seen["pids"].as_array().expect("a list");
    assert_eq!(
        pids.as_slice(),
        &[json!(1), seen["self"].clone()],
        "only PID 1 and the program"
    );
}

fn check_files(seen: &Value, engine: Engine) {
    assert_eq!(seen["writable"], json!(["/dev/shm", "/sandbox", "/tmp"]));
    assert_eq!(
        seen["content"],
        json!({"/sandbox": ["main.py"], "/tmp": [], "/dev/shm": []})
    );
    assert_eq!(seen["cwd"], "/sandbox");
    let runs = json!({"/sandbox": "OK", "/tmp": "EACCES", "/dev/shm": "EACCES"});
    assert_eq!(seen["runs from"], runs);
    // The engine's API has no word for nosuid and nodev on a bind mount;
    // no_new_privs and the device cgroup stand in for them.
    let bound: &[&str] = match engine {
        Engine::Docker => &["ro"],
        Engine::Native => &["ro", "nosuid", "nodev"],
    };
    for (point, kind, options) in [
        ("/", None, &["ro"][..]),
        ("/sandbox", Some("tmpfs"), &["rw", "nosuid", "nodev"]),
        ("/tmp", Some("tmpfs"), &["rw", "nosuid", "nodev", "noexec"]),
        (
            "/dev/shm",
            Some("tmpfs"),
            &["rw", "nosuid", "nodev", "noexec"],
        ),
        ("/proc", Some("proc"), &["nosuid", "nodev", "noexec"]),
        ("/isol8/kit", None, bound),
        ("/isol8/link", None, bound),
    ] {
        let mount = &seen["mounts"][point];
        assert!(
            mount.is_object(),
            "no mount at {point}: {:?}",
            names(&seen["mounts"])
        );
        let present = words(&mount["options"]);
        for option in options {
            assert!(
                present.contains(option),
                "{point} without {option}: {mount}"
            );
        }
        if let Some(kind) = kind {
            assert_eq!(mount["type"], *kind, "{point}");
        }
        if kind == Some("tmpfs") {
            let bounds = words(&mount["super"]);
            assert!(
                bounds.iter().any(|text| text.starts_with("size=")),
                "{point}: {mount}"
            );
            assert!(
                bounds.iter().any(|text| text.starts_with("nr_inodes=")),
                "{point}: {mount}"
            );
        }
    }
    let harmless: BTreeSet<_> = [
        "full", "null", "random", "tty", "urandom", "zero", "console", "ptmx",
    ]
    .into();
    let devices = words(&seen["devices"]);
    assert!(devices.is_subset(&harmless), "{devices:?}");
    assert!(
        !names(&seen["mounts"])
            .iter()
            .any(|point| point.contains("docker.sock"))
    );
}

fn check_limits(seen: &Value) {
    let limit = |name: &str| -> (i64, i64) {
        let pair = &seen["limits"][name];
        let of = |at: usize| {
            pair[at]
                .as_i64()
                .unwrap_or_else(|| panic!("{name}: {pair}"))
        };
        (of(0), of(1))
    };
    let bounded = |name: &str, most: i64| {
        let (soft, hard) = limit(name);
        assert!((0..=most).contains(&soft), "{name}: {soft}");
        assert!((0..=most).contains(&hard), "{name}: {hard}");
    };
    bounded("core", 1);
    bounded("nofile", 4096);
    bounded("memlock", 64 << 10);
    bounded("msgqueue", 0);
    bounded("sigpending", 1024);
    bounded("rtprio", 0);
    bounded("nice", 0);
}

fn check_environment(seen: &Value) {
    let env = &seen["env"];
    for (name, value) in [
        ("HOME", "/sandbox"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONUSERBASE", "/sandbox/.local"),
        ("NODE_PATH", "/sandbox/node_modules"),
        ("DENO_DIR", "/sandbox/.deno"),
        ("LANG", "C.UTF-8"),
        ("USER", "sandbox"),
        ("LOGNAME", "sandbox"),
        ("TMPDIR", "/tmp"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    let path = env["PATH"].as_str().expect("PATH is there");
    assert!(
        path.starts_with("/sandbox/.local/bin:/sandbox/node_modules/.bin:"),
        "{path}"
    );
    assert!(!path.split(':').any(str::is_empty), "{path}");
    let contract = [
        "HOME",
        "PYTHONUNBUFFERED",
        "PYTHONUSERBASE",
        "NODE_PATH",
        "DENO_DIR",
        "LANG",
        "USER",
        "LOGNAME",
        "TMPDIR",
        "PATH",
    ];
    let known: BTreeSet<_> = contract.into_iter().chain(CA_VARIABLES).collect();
    let found = names(env);
    assert!(found.is_subset(&known), "{:?}", found.difference(&known));
}

fn check_pid_1(seen: &Value) {
    for name in ["environ", "mem", "maps", "auxv", "io", "exe", "root", "fd"] {
        let result = seen["pid 1"][name].as_str().expect("text");
        assert!(
            ["EACCES", "EPERM"].contains(&result),
            "/proc/1/{name}: {result}"
        );
    }
    assert_eq!(seen["descriptors"], json!([0, 1, 2]));
    assert_eq!(seen["reachable"], json!([]), "sockets: {}", seen["sockets"]);
    assert_eq!(seen["abstract"], json!([]));
}

/// A run that waits: its process on the host, and what ends it.
fn waiting(stage: &Stage, mark: &str, args: &[&str]) -> (Running, Process) {
    let live = stage.bash(&format!("sleep {mark}")).args(args).start();
    let process = wait_for("the program on the host", seconds(20), || {
        host::sleepers(mark).pop()
    });
    (live, process)
}

both_engines! {
    /// ES17: the whole posture, in a cold and in a warm sandbox.
    fn posture_is_as_promised(stage: &Stage) {
        for round in ["first", "second"] {
            let seen = posture(stage, &[]);
            assert!(seen.is_object(), "{round}");
            check_identity(&seen);
            check_namespaces(&seen);
            check_files(&seen, stage.engine());
            check_limits(&seen);
            check_environment(&seen);
            check_pid_1(&seen);
        }
    }

    /// Plain starts, without a parked interpreter, look the same.
    fn posture_of_a_plain_start(stage: &Stage) {
        let mut seen = posture(stage, &["--env", "PYTHONHASHSEED=1"]);
        let given = seen["env"].as_object_mut().expect("an object").remove("PYTHONHASHSEED");
        assert_eq!(given, Some(json!("1")));
        check_identity(&seen);
        check_namespaces(&seen);
        check_files(&seen, stage.engine());
        check_limits(&seen);
        check_environment(&seen);
        check_pid_1(&seen);
    }

    /// Other runtimes get the same: no descriptor, variable or capability more.
    fn every_runtime_is_as_confined(stage: &Stage) {
        let read = "const fs = require('fs');\n\
            const status = fs.readFileSync('/proc/self/status', 'utf8');\n\
            const get = name => status.match(new RegExp(name + ':\\\\s*(.*)'))[1].trim();\n\
            const env = Object.keys(process.env).sort().join(' ');\n\
            let write; try { fs.writeFileSync('/usr/x', ''); write = 'OK' } catch (e) { write = e.code }\n\
            console.log([get('CapBnd'), get('NoNewPrivs'), get('Seccomp'), write].join(' '));\n\
            console.log(env);";
        let contract = "DENO_DIR HOME LANG LOGNAME NODE_PATH PATH PYTHONUNBUFFERED PYTHONUSERBASE TMPDIR USER";
        for runtime in ["node", "bun"] {
            let out = stage.eval(runtime, read).go().ok();
            let mut lines = out.lines();
            let first = lines.next().expect("a line");
            assert!(first.starts_with("0000000000000000 1 2 E"), "{runtime}: {first}");
            let kept: Vec<&str> = lines.next().expect("a line").split(' ')
                .filter(|name| !CA_VARIABLES.contains(name)).collect();
            assert_eq!(kept.join(" "), contract, "{runtime}");
        }
        let bash = "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\t\\n' '  '\n\
            echo x 2>/dev/null > /usr/x || echo denied\nls /proc/self/fd | tr '\\n' ' '";
        let out = stage.bash(bash).go().ok();
        assert_eq!(out, "CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 denied\n0 1 2 3 ");
        let deno = "const s = Deno.readTextFileSync('/proc/self/status');\n\
            console.log(/CapEff:\\s*0+\\n/.test(s), /Seccomp:\\s*2\\n/.test(s), Deno.cwd())";
        assert_eq!(stage.eval("deno", deno).go().ok(), "true true /sandbox\n");
    }

    /// NE01: nothing is reachable, at once; and nothing of the host's loopback
    /// and abstract sockets either.
    fn no_network_is_none(stage: &Stage) {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let port = tcp.local_addr().expect("it is bound").port();
        let name = format!("isol8-e2e-{}-{}", stage.engine().name(), std::process::id());
        let address = <net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let abstract_socket = net::UnixListener::bind_addr(&address.expect("a short name"))
            .expect("the name is free");
        tcp.set_nonblocking(true).expect("a socket");
        abstract_socket.set_nonblocking(true).expect("a socket");
        let code = format!(
            "import socket, errno, time\n\
            def go(family, kind, address):\n \
             begun = time.time()\n \
             s = socket.socket(family, kind); s.settimeout(5)\n \
             try: s.connect(address); s.send(b'x'); r = 'OK'\n \
             except OSError as e: r = errno.errorcode.get(e.errno, repr(e))\n \
             return r if time.time() - begun < 1 else r + ' late'\n\
            I, J, S, D = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM\n\
            print(go(I, S, ('1.1.1.1', 443)), go(J, S, ('2606:4700::1111', 443)), go(I, D, ('8.8.8.8', 53)),\n  \
             go(I, S, ('169.254.169.254', 80)), go(I, S, ('172.17.0.1', 80)), go(I, S, ('127.0.0.1', {port})),\n  \
             go(socket.AF_UNIX, S, '\\0{name}'))\n\
            try: print(socket.getaddrinfo('example.com', 80))\n\
            except OSError as e: print('no name')\n\
            s = socket.create_server(('127.0.0.1', 8080)); c = socket.create_connection(('127.0.0.1', 8080)); print('lo works')");
        let out = stage.python(&code).go().ok();
        let expected = "ENETUNREACH ENETUNREACH ENETUNREACH ENETUNREACH ENETUNREACH ECONNREFUSED \
            ECONNREFUSED\nno name\nlo works\n";
        assert_eq!(out.replace("EADDRNOTAVAIL", "ENETUNREACH"), expected);
        assert_eq!(tcp.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
        assert_eq!(abstract_socket.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
    }

    /// One host uid for each live sandbox, of a range that nobody else has;
    /// what is counted by uid, such as inotify, is then nobody else's.
    fn live_sandboxes_have_uids_of_their_own(stage: &Stage) {
        let (first, one) = waiting(stage, &stage.mark(70_011), &[]);
        let (second, two) = waiting(stage, &stage.mark(70_012), &[]);
        let uids = [one.uid().expect("it lives"), two.uid().expect("it lives")];
        assert_ne!(uids[0], uids[1]);
        assert_ne!(one.status("Gid"), two.status("Gid"));
        if rustix::process::geteuid().is_root() {
            for uid in uids {
                assert!((200_000..200_000 + 256 * 4096).contains(&uid), "{uid}");
            }
            for process in [&one, &two] {
                let namespace = fs::read_link(format!("/proc/{}/ns/net", process.pid.as_raw_nonzero()));
                let mine = fs::read_link("/proc/self/ns/net").expect("it is there");
                assert_ne!(namespace.expect("root may look"), mine);
            }
        }
        drop((first, second));
        let inotify = "import ctypes, errno\nl = ctypes.CDLL(None, use_errno=True)\nn = 0\n\
            while l.inotify_init1(0) >= 0 and n < 3000: n += 1\n\
            print(n, errno.errorcode.get(ctypes.get_errno()), flush=True)\nimport sys; sys.stdin.read()";
        let hog = stage.python(inotify).open_stdin().start();
        hog.until_stdout("EMFILE");
        let other = stage.python(inotify).go().ok();
        let count: u32 = other.split(' ').next().expect("a word").parse().expect("a number");
        assert!(count > 60, "the neighbour took them all: {other}");
        hog.finish().ok();
    }

    /// Nothing of the host's private files is inside.
    fn private_files_of_the_host_are_not_there(stage: &Stage) {
        let code = "import os\n\
            for p in ('/etc/shadow', '/etc/gshadow', '/etc/sudoers', '/root', '/home', '/var/lib/isol8',\n  \
              '/etc/ssh', '/etc/machine-id', '/var/log', '/var/run/docker.sock', '/run/docker.sock',\n  \
              '/sys/fs/cgroup', '/boot', '/mnt', '/srv'):\n \
             try:\n  \
              if os.path.isdir(p): r = sorted(os.listdir(p))\n  \
              else: r = open(p).read()\n \
             except OSError as e: r = None\n \
             if r: print(p, str(r)[:200])\n\
            print(sorted(set(l.split(':')[0] for l in open('/etc/passwd')) & {'root', 'sandbox'}))\n\
            import pwd; print(pwd.getpwuid(os.getuid()).pw_dir)";
        let out = stage.python(code).go().ok();
        for line in out.lines() {
            let allowed = match stage.engine() {
                // An image has logs of its packages and a cgroup view of its own.
                Engine::Docker => ["/var/log ", "/sys/fs/cgroup "].iter().any(|path| line.starts_with(path)),
                // The way to an interpreter that its owner keeps at home.
                Engine::Native => line.starts_with("/root ['.") && !line.contains(','),
            };
            let about_us = line.starts_with('[') || line == "/sandbox";
            assert!(allowed || about_us, "{line}\nof\n{out}");
        }
        assert!(out.contains("/sandbox"), "the program's user has a home: {out}");
    }

    /// `--net host` opens the network and nothing else.
    fn the_host_network_opens_nothing_else(stage: &Stage) {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let port = tcp.local_addr().expect("it is bound").port();
        let code = format!(
            "import os, socket\n\
            s = dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines())\n\
            print(s['CapEff'], s['CapBnd'], s['NoNewPrivs'], s['Seccomp'], os.getuid() != 0, len([p for p in os.listdir('/proc') if p.isdigit()]))\n\
            print(sorted(n for _, n in socket.if_nameindex()))\n\
            c = socket.create_connection(('127.0.0.1', {port})); print('connected')\n\
            for k, p in ((socket.SOCK_RAW, 1), (socket.SOCK_DGRAM, 1)):\n \
             try: socket.socket(socket.AF_INET, k, p); print('open')\n \
             except OSError as e: print(e.errno)");
        let out = stage.python(&code).args(["--net", "host"]).go().ok();
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("0000000000000000 0000000000000000 1 2 True 2"));
        let mut host: Vec<_> = fs::read_dir("/sys/class/net").expect("it is there")
            .map(|entry| format!("'{}'", entry.expect("an entry").file_name().to_string_lossy()))
            .filter(|name| name != "'bonding_masters'").collect();
        host.sort();
        assert_eq!(lines.next(), Some(format!("[{}]", host.join(", ")).as_str()));
        assert_eq!(lines.collect::<Vec<_>>(), ["connected", "1", "1"]);
        tcp.accept().expect("the program came");
        // Its default stays closed, and an operator can close this door too.
        assert_eq!(posture(stage, &[])["interfaces"], json!(["lo"]));
        Stage::with_config(stage.engine(), json!({"policy": {"allowHostNetwork": false}}), |strict| {
            let ran = strict.python("print(1)").args(["--net", "host"]).go();
            ran.ended(125).says("allowHostNetwork");
            assert_eq!(ran.out(), "");
        });
    }
}
