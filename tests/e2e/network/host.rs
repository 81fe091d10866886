//! `--net host`: the host's own network, said so.

use std::{io::Read as _, net::TcpListener, thread};

use isol8_e2e::harness::{stage::Engine, stage::Stage};
use serde_json::json;

both_engines! {
    /// What listens on the host is reached, and what stands inside is seen.
    fn the_hosts_network_is_the_programs(stage: &Stage) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let got = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("it says something");
            text
        });
        let code = format!(
            "import socket, os\n\
            s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'from inside'); s.close()\n\
            print(os.readlink('/proc/self/ns/net'), sorted(k for k in os.environ if 'proxy' in k.lower()))\n\
            print(sorted(l.split(':')[0].strip() for l in open('/proc/net/dev').readlines()[2:]))"
        );
        let ran = stage.python(&code).args(["--net", "host"]).go();
        let out = ran.ok();
        assert_eq!(got.join().expect("it read"), "from inside");
        let namespace = std::fs::read_link("/proc/thread-self/ns/net").expect("it is there");
        assert!(out.starts_with(&format!("{} []\n", namespace.display())), "{out}");
        ran.says("warning: ").says("--net host");
        assert_eq!(ran.err().lines().count(), 1, "{ran:?}");
        // Still a sandbox otherwise.
        let ran = stage.bash("touch /usr/x; id -u; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp:'").args(["--net", "host"]).go();
        let out = ran.ok();
        assert!(out.contains("CapEff:\t0000000000000000\n") && out.contains("NoNewPrivs:\t1\n") && !out.starts_with("0\n"), "{ran:?}");
        ran.says("Read-only file system");
    }
}

/// An operator may forbid it.
fn forbidden(engine: Engine) {
    let policy = json!({"policy": {"allowHostNetwork": false}});
    Stage::with_config(engine, policy, |stage| {
        stage
            .python("print('ran')")
            .args(["--net", "host"])
            .go()
            .ended(125)
            .says("allowHostNetwork");
        assert_eq!(stage.python("print('ran')").go().ok(), "ran\n");
    });
}

#[test]
fn may_be_forbidden_docker() {
    forbidden(Engine::Docker);
}

#[test]
fn may_be_forbidden_native() {
    forbidden(Engine::Native);
}
