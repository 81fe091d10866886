//! Proxies that die and origins that misbehave.

use std::collections::BTreeSet;

use isol8_e2e::harness::{
    host::{self, Process},
    internet::{DEAD_PORT, PUBLIC},
    stage::Stage,
    wait::{seconds, wait_for, wait_until},
};
use rustix::process::{Signal, kill_process};

use super::vector::EVIL;

const FILTERED: [&str; 4] = ["--net", "filtered", "--allow", r"example\.com"];

/// The egress process of a stage: a child of its daemon.
fn egress(stage: &Stage) -> Option<Process> {
    let daemon = stage.daemon_process().pid.as_raw_nonzero().to_string();
    let mut all = host::processes();
    all.retain(|process| {
        process.status("PPid") == daemon
            && process.argv.iter().any(|word| word == "egress")
            && !process.is_zombie()
    });
    all.pop()
}

/// Those of the stage's own processes: others come and go with other tests.
fn network_namespaces(stage: &Stage) -> BTreeSet<String> {
    let name = stage.folder().file_name().expect("it has a name");
    let name = name.to_string_lossy();
    let mut all = host::processes();
    all.retain(|process| (process.environment() + &process.mounts()).contains(&*name));
    let links = all.iter().filter_map(|process| {
        let pid = process.pid.as_raw_nonzero();
        std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
    });
    links.map(|link| link.display().to_string()).collect()
}

both_engines_online! {
    /// F28: the run loses the network and never gains it; the next request is
    /// judged by the same rules.
    fn a_killed_proxy_is_replaced(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let code = "import sys, time, http.client\n\
            def get(host):\n \
             try:\n  \
              c = http.client.HTTPConnection('127.0.0.1', 8118, timeout=30)\n  \
              c.request('GET', f'http://{host}/'); return c.getresponse().status\n \
             except (OSError, http.client.HTTPException) as e: return type(e).__name__\n\
            held = http.client.HTTPConnection('127.0.0.1', 8118, timeout=30)\n\
            held.request('GET', 'http://example.com/hang')\n\
            for line in sys.stdin:\n \
             print(get('example.com'), get('evil.example'), get('169.254.169.254'), flush=True)\n\
            try: print(held.getresponse().status)\n\
            except (OSError, http.client.HTTPException): print('lost')";
        let mut live = stage.python(code).args(FILTERED).args(["--timeout", "100000"]).open_stdin().start();
        let mut say = {
            let mut stdin = live.stdin.take().expect("it is open");
            move || std::io::Write::write_all(&mut stdin, b"go\n").expect("the program reads")
        };
        say();
        live.until_stdout("200 403 403\n");
        for round in 1..=3 {
            let proxy = wait_for("the egress process", seconds(10), || egress(stage));
            kill_process(proxy.pid, Signal::KILL).expect("root may");
            say();
            let lines = || String::from_utf8_lossy(&live.stdout_so_far()).lines().count();
            wait_until("an answer after the kill", seconds(60), || lines() == round + 1);
        }
        say();
        wait_until("the last answer", seconds(60), || live.stdout_so_far().iter().filter(|byte| **byte == b'\n').count() == 5);
        drop(say);
        let ran = live.finish();
        let out = ran.ok();
        for line in out.lines().take(5) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words[1] != "200" && words[2] != "200", "never more than before: {ran:?}");
        }
        // The kill is over and done when the last is asked.
        assert_eq!(out.lines().nth(4), Some("200 403 403"), "{ran:?}");
        assert_eq!(out.lines().last(), Some("lost"), "{ran:?}");
        let next = stage.python("import urllib.request; print(urllib.request.urlopen('http://example.com/').status)").args(FILTERED).go();
        assert_eq!(next.ok(), "200\n");
        assert!(internet.origin.take_seen().iter().all(|seen| seen.header("host") == Some("example.com")));
    }

    /// The process is what the design says: nobody, with nothing.
    fn the_proxy_has_no_power(stage: &Stage, internet: &Internet) {
        stage.python("1").args(FILTERED).go().ok();
        let proxy = egress(stage).expect("it stays for the next run");
        assert_ne!(proxy.uid(), Some(0));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(proxy.status(set), "0000000000000000", "{set}");
        }
        assert_eq!((proxy.status("NoNewPrivs").as_str(), proxy.status("Seccomp").as_str()), ("1", "2"));
        assert!(!proxy.environment().contains(isol8_e2e::harness::stage::CANARY), "no environment of the daemon's");
        assert!(!proxy.environment().contains("ISOL8_STATE_DIR"));
        let sockets = format!("/proc/{}/fd", proxy.pid.as_raw_nonzero());
        for entry in std::fs::read_dir(&sockets).expect("root may").flatten() {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let shown = target.display().to_string();
            let folder = stage.folder().display().to_string();
            assert!(!shown.starts_with(&folder) || shown.ends_with(".log"), "{shown}");
        }
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// Origins that stop, lie and never end; each is an error of its request,
    /// and of nothing else.
    fn origins_that_misbehave(stage: &Stage, internet: &Internet) {
        let code = format!(
            "import http.client, urllib.request, urllib.error, time\n\
            def go(url, timeout=30):\n \
             try: r = urllib.request.urlopen(url, timeout=timeout); return r.status, len(r.read())\n \
             except urllib.error.HTTPError as e: return e.code, e.read().decode().strip()\n \
             except http.client.IncompleteRead: return 'cut'\n \
             except OSError as e: return type(e).__name__\n\
            print(go('http://example.com/cut'))\n\
            print(go('http://example.com/hang', 1))\n\
            print(go('http://example.com:{DEAD_PORT}/'))\n\
            print(go('http://nobody.example.com/'))\n\
            print(go('http://example.com/redirect?http://169.254.169.254/'))\n\
            print(go('http://example.com/chunked/100000'))"
        );
        let ran = stage.python(&code).args(["--net", "filtered", "--allow", r"(.*\.)?example\.com"]).go();
        let out = ran.ok();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "cut", "{ran:?}");
        assert_eq!(lines[1], "TimeoutError", "{ran:?}");
        assert!(lines[2].contains("502, 'isol8: cannot reach example.com: "), "{ran:?}");
        assert!(lines[3].contains("502, 'isol8: cannot reach nobody.example.com: "), "{ran:?}");
        assert!(lines[4].contains("403, 'isol8: request to 169.254.169.254 blocked"), "{ran:?}");
        assert_eq!(lines[5], "(200, 100000)", "{ran:?}");
        let asked = internet.resolver.take_asked().iter().filter(|name| name.starts_with("nobody")).count();
        assert!(asked > 0 && asked % 2 == 0, "{asked}");
    }

    /// An endless answer to a program that does not read it, and one to a
    /// program that reads it away: neither grows anybody.
    fn floods_stay_flat(stage: &Stage, internet: &Internet) {
        stage.python("1").args(FILTERED).go().ok();
        let (daemon, proxy) = (stage.daemon_process(), egress(stage).expect("it runs"));
        let before = (daemon.resident_bytes(), proxy.resident_bytes());
        let lazy = "import sys, urllib.request\n\
            all = [urllib.request.urlopen('http://example.com/endless') for i in range(20)]\n\
            print('open', flush=True); sys.stdin.read(); print('end')";
        let eager = "import urllib.request\n\
            r = urllib.request.urlopen('http://example.com/endless'); n = 0\n\
            while n < 300_000_000: n += len(r.read(1 << 20))\n\
            print('read')";
        let held = stage.python(lazy).args(FILTERED).open_stdin().start();
        held.until_stdout("open");
        let ran = stage.python(eager).args(FILTERED).go();
        assert_eq!(ran.ok(), "read\n");
        let now = egress(stage).map(|proxy| proxy.pid);
        assert_eq!(now, Some(proxy.pid), "it is the same process");
        let grown = (
            daemon.resident_bytes().saturating_sub(before.0),
            proxy.resident_bytes().saturating_sub(before.1),
        );
        assert!(grown.0 < 16 << 20, "the daemon grew by {} bytes", grown.0);
        assert!(grown.1 < 32 << 20, "the proxy grew by {} bytes", grown.1);
        assert_eq!(held.finish().ok(), "open\nend\n");
        drop(internet.origin.take_seen());
    }

    /// Nothing stays: no process, no namespace.
    fn nothing_stays(stage: &Stage, internet: &Internet) {
        let before = network_namespaces(stage);
        for _ in 0..5 {
            let code = "import urllib.request; urllib.request.urlopen('http://example.com/').read()";
            stage.python(code).args(FILTERED).go().ok();
        }
        let proxy = egress(stage).expect("it runs");
        // Warm ones are there, or their end would show nothing.
        assert!(!network_namespaces(stage).is_subset(&before));
        stage.stop_daemon();
        wait_until("the proxy's end", seconds(5), || host::process(proxy.pid).is_none_or(|process| process.is_zombie()));
        wait_until("the namespaces' end", seconds(10), || network_namespaces(stage).is_subset(&before));
        assert_eq!(internet.origin.take_seen().len(), 5);
        // A daemon that is killed takes it along too.
        stage.start_daemon();
        stage.python("1").args(FILTERED).go().ok();
        let proxy = egress(stage).expect("it runs");
        stage.crash_daemon();
        wait_until("the proxy's end", seconds(5), || host::process(proxy.pid).is_none_or(|process| process.is_zombie()));
        stage.start_daemon();
    }
}
