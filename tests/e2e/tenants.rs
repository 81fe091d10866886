//! Runs of different people: nothing passes from one to the next or across.

use std::{collections::BTreeSet, thread};

use isol8_e2e::harness::{
    host,
    wait::{seconds, wait_for, wait_until},
};

both_engines! {
    /// XR01, XR04: what a run plants in every place it can write.
    fn nothing_is_left_for_the_next_run(stage: &Stage) {
        let plant = "import os, sys, glob\n\
            names = ['..c', '-rf', 'a\\nb', '.hidden', 'plain', '\\udcff']\n\
            for folder in ('/sandbox', '/tmp', '/var/tmp', '/dev/shm', '/run/lock', '/run', '/dev/mqueue', os.environ['HOME'], '/var/lock', '/usr/local', '/etc', '/isol8/kit/park/python'):\n \
             for name in names:\n  \
              try: open(os.path.join(folder, name), 'w').write('planted')\n  \
              except OSError: pass\n\
            v = f'python{sys.version_info[0]}.{sys.version_info[1]}'\n\
            site = f'/sandbox/.local/lib/{v}/site-packages'; os.makedirs(site)\n\
            open(site + '/sitecustomize.py', 'w').write('print(\"planted\")')\n\
            open(site + '/usercustomize.py', 'w').write('print(\"planted\")')\n\
            os.makedirs('/sandbox/.local/bin')\n\
            for tool in ('python3', 'node', 'bash', 'sh', 'ls', 'cat'):\n \
             p = '/sandbox/.local/bin/' + tool; open(p, 'w').write('#!/bin/sh\\necho planted'); os.chmod(p, 0o755)\n\
            open('/sandbox/.npmrc', 'w').write('registry=http://planted/')\n\
            open('/sandbox/.bashrc', 'w').write('echo planted'); open('/sandbox/.profile', 'w').write('echo planted')\n\
            print('planted all')";
        assert_eq!(stage.python(plant).go().ok(), "planted all\n");
        let list = "import os\n\
            for folder in ('/sandbox', '/tmp', '/var/tmp', '/dev/shm', '/run/lock', '/dev/mqueue'):\n \
             try: print(folder, sorted(os.listdir(folder)))\n \
             except FileNotFoundError: print(folder, [])\n\
            open('/sandbox/mark', 'w')";
        for _ in 0..2 {
            let seen = stage.python(list).go().ok();
            let expected = "/sandbox ['main.py']\n/tmp []\n/var/tmp []\n/dev/shm []\n/run/lock []\n/dev/mqueue []\n";
            assert_eq!(seen, expected);
        }
        assert_eq!(stage.bash("cat /sandbox/main.sh | head -c 3; echo; ls -A").go().ok(), "cat\nmain.sh\n");
        assert_eq!(stage.eval("node", "console.log(require('fs').readdirSync('.').join())").go().ok().trim(),
            stage.eval("node", "console.log(require('fs').readdirSync('.').join())").go().ok().trim());
    }

    /// XR02: a program that goes on listening hears nobody.
    fn nobody_listens_to_the_next_run(stage: &Stage) {
        let mark = &stage.mark(70_020);
        let listen = format!(
            "(trap '' HUP; while :; do cat /proc/*/environ; ps aux; ls -la /tmp /dev/shm; done > /sandbox/heard 2>&1 &)\n\
             setsid sleep {mark} & echo listening");
        assert_eq!(stage.bash(&listen).go().ok(), "listening\n");
        let told = stage.bash("echo $SECRET | wc -c; grep -c heard /proc/[0-9]*/cmdline /dev/null | grep -v :0")
            .args(["--secret", "SECRET=of-the-second-run"]).go();
        assert_eq!(told.out().lines().next(), Some("18"));
        wait_until("the listener's end", seconds(2), || host::sleepers(mark).is_empty());
    }

    /// Two live sandboxes share nothing: no process, file, IPC object, port.
    fn neighbours_do_not_see_each_other(stage: &Stage) {
        let first = "import os, socket, sys\n\
            s = socket.create_server(('127.0.0.1', 7777)); u = socket.socket(socket.AF_UNIX); u.bind('\\0neighbour'); u.listen()\n\
            open('/dev/shm/neighbour', 'w').write('x'); open('/tmp/neighbour', 'w').write('x')\n\
            print('there', flush=True); sys.stdin.read()\n\
            s.settimeout(0.1); u.settimeout(0.1)\n\
            for x in (s, u):\n \
             try: x.accept(); print('heard')\n \
             except TimeoutError: print('silent')";
        let live = stage.python(first).open_stdin().start();
        live.until_stdout("there");
        let second = "import os, socket, signal\n\
            def go(f, *a):\n \
             try: f(*a); return 'OK'\n \
             except OSError as e: return type(e).__name__\n\
            print(go(socket.create_connection, ('127.0.0.1', 7777)), go(socket.socket(socket.AF_UNIX).connect, '\\0neighbour'))\n\
            print(os.listdir('/dev/shm'), os.listdir('/tmp'), len([p for p in os.listdir('/proc') if p.isdigit()]))\n\
            print({go(os.kill, p, 9) for p in range(2, 5000) if p != os.getpid()})";
        let out = stage.python(second).go().ok();
        let expected = "ConnectionRefusedError ConnectionRefusedError\n[] [] 2\n{'ProcessLookupError'}\n";
        assert_eq!(out, expected);
        assert_eq!(live.finish().ok(), "there\nsilent\nsilent\n");
    }

    /// XR05: many at once, some of them cut short, each with its own answer.
    fn parallel_runs_do_not_mix(stage: &Stage) {
        stage.bash("true").go().ok();
        let (count, lanes) = match stage.engine() {
            Engine::Docker => (24, 6),
            Engine::Native => (72, 12),
        };
        thread::scope(|scope| {
            for lane in 0..lanes {
                scope.spawn(move || {
                    for turn in (lane..count).step_by(lanes) {
                        let nonce = format!("nonce-{turn}-{}", turn * 7919);
                        let code = format!("cat; for i in 1 2 3; do echo {nonce}; echo {nonce} >&2; done");
                        match turn % 9 {
                            4 => {
                                let ran = stage.bash(&format!("{code}; sleep 50"))
                                    .args(["--timeout", "2500", "--json"]).feed(nonce.clone()).go();
                                assert_eq!(ran.json()["verdict"], "timed_out", "{ran:?}");
                            }
                            7 => {
                                let live = stage.bash(&format!("{code}; sleep 50")).feed(nonce.clone()).start();
                                live.until_stdout(&nonce);
                                live.signal(rustix::process::Signal::KILL);
                                assert_eq!(live.finish().code(), 137);
                            }
                            _ => {
                                let ran = stage.bash(&code).feed(nonce.clone()).go();
                                let lines = format!("{nonce}\n").repeat(3);
                                assert_eq!(ran.ok(), format!("{nonce}{lines}"), "{ran:?}");
                                assert_eq!(ran.err(), lines, "{ran:?}");
                            }
                        }
                    }
                });
            }
        });
        wait_for("the end of cancelled runs", seconds(15), || {
            (stage.status()["runsInFlight"].as_u64() == Some(0)).then_some(())
        });
    }

    /// A sandbox serves once: ids never come twice, cold or warm.
    fn a_sandbox_is_used_once(stage: &Stage) {
        let mut ids = BTreeSet::new();
        for _ in 0..8 {
            let ran = stage.bash("echo $$").arg("--json").go();
            let id = ran.ended(0).json()["sandboxId"].as_str().expect("an id").to_owned();
            assert_eq!(id.len(), 32, "128 bits: {id}");
            assert!(ids.insert(id), "used twice");
        }
    }
}
