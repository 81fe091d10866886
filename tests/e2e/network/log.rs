//! What is written down about requests.

use std::collections::BTreeSet;

use isol8_e2e::harness::{call::Ran, internet::PUBLIC};
use serde_json::Value;

use super::vector::EVIL;

const KEYS: [&str; 10] = [
    "action",
    "bytesIn",
    "bytesOut",
    "durationMs",
    "host",
    "method",
    "path",
    "port",
    "reason",
    "timestamp",
];

/// A conversation that leaves seven requests, the last one malformed.
const CODE: &str = "import socket, ssl, urllib.request, urllib.error\n\
    def go(url, **more):\n \
     try: return urllib.request.urlopen(url, **more).read()\n \
     except urllib.error.URLError as e: return str(e)\n\
    go('http://EXAMPLE.com./bytes/1000?x=1')\n\
    go('http://evil.example/secret/path')\n\
    go('https://example.com/inside')\n\
    go('https://evil.example/inside')\n\
    go('http://169.254.169.254/latest')\n\
    go('http://example.com/up', data=b'z' * 5000)\n\
    s = socket.create_connection(('127.0.0.1', 8118))\n\
    s.sendall(b'GET http://evil\"\\xc3\\xa4\\xff\\x1b[31m/ HTTP/1.1\\r\\n\\r\\n'); s.recv(100)\n";

/// The lines of the log on standard error.
fn lines(ran: &Ran) -> Vec<Value> {
    let err = ran.err();
    let lines = err.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[track_caller]
fn check(logs: &[Value]) {
    assert_eq!(logs.len(), 7, "{logs:#?}");
    for log in logs {
        let keys: BTreeSet<&str> = log
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, KEYS.into_iter().collect());
        let stamp = log["timestamp"].as_str().expect("text");
        assert!(stamp.len() == 24 && stamp.ends_with('Z'), "{stamp}");
        assert!(log["durationMs"].is_u64(), "{log}");
    }
    let one = |method: &str, host: &str, path: Option<&str>| {
        let found = logs.iter().filter(|log| {
            log["method"] == method && log["host"] == host && log["path"].as_str() == path
        });
        let found: Vec<&Value> = found.collect();
        assert_eq!(found.len(), 1, "{method} {host} {path:?}: {logs:#?}");
        found[0].clone()
    };
    let plain = one("GET", "example.com", Some("/bytes/1000?x=1"));
    assert_eq!(
        (&plain["action"], &plain["port"]),
        (&"ALLOW".into(), &80.into()),
        "{plain}"
    );
    assert!(
        plain["bytesIn"].as_u64() >= Some(1000) && plain["bytesOut"].as_u64() > Some(20),
        "{plain}"
    );
    let evil = one("GET", EVIL, Some("/secret/path"));
    assert_eq!(evil["action"], "BLOCK");
    assert_eq!(
        (&evil["bytesIn"], &evil["bytesOut"]),
        (&0.into(), &0.into()),
        "nothing was exchanged: {evil}"
    );
    assert!(!evil["reason"].as_str().unwrap_or_default().is_empty());
    let tunnel = one("CONNECT", "example.com", None);
    assert_eq!(
        (&tunnel["action"], &tunnel["port"]),
        (&"ALLOW".into(), &443.into())
    );
    assert!(tunnel["bytesIn"].as_u64() > Some(500), "{tunnel}");
    assert_eq!(one("CONNECT", EVIL, None)["action"], "BLOCK");
    let metadata = one("GET", "169.254.169.254", Some("/latest"));
    assert_eq!(metadata["action"], "BLOCK");
    let upload = one("POST", "example.com", Some("/up"));
    assert!(upload["bytesOut"].as_u64() >= Some(5000), "{upload}");
    let odd: Vec<&Value> = logs
        .iter()
        .filter(|log| {
            log["host"] != EVIL && log["host"].as_str().unwrap_or_default().starts_with("evil")
        })
        .collect();
    assert_eq!(odd.len(), 1, "{logs:#?}");
    assert_eq!(odd[0]["action"], "BLOCK");
}

both_engines_online! {
    /// Every request once, on standard error alone.
    fn on_standard_error(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let args = ["--net", "filtered", "--allow", r"example\.com", "--log-network"];
        let ran = stage.python(&format!("{CODE}print('done')")).args(args).go();
        assert_eq!(ran.ok(), "done\n");
        // No byte of it can do anything to a terminal.
        assert!(ran.stderr.iter().all(|byte| byte.is_ascii() && (*byte == b'\n' || *byte >= b' ')), "{ran:?}");
        check(&lines(&ran));
        // Without the flag there is none.
        let ran = stage.python(CODE).args(&args[..4]).go();
        ran.ok();
        assert_eq!(ran.err(), "");
    }

    /// In the result object, with the bytes of the whole run.
    fn in_the_result(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let args = ["--net", "filtered", "--allow", r"example\.com", "--log-network", "--json"];
        let ran = stage.python(CODE).args(args).go();
        ran.ok();
        let result = ran.json();
        let logs = result["networkLogs"].as_array().expect("a list");
        check(logs);
        let sum = |key: &str| logs.iter().map(|log| log[key].as_u64().expect("a number")).sum::<u64>();
        let usage = &result["resourceUsage"];
        assert_eq!(usage["networkBytesIn"].as_u64(), Some(sum("bytesIn")), "{usage}");
        assert_eq!(usage["networkBytesOut"].as_u64(), Some(sum("bytesOut")), "{usage}");
        // Bytes are counted without the log too.
        let ran = stage.python(CODE).args(&args[..4]).arg("--json").go();
        let result = ran.json();
        assert!(result.get("networkLogs").is_none(), "{result}");
        assert!(result["resourceUsage"]["networkBytesIn"].as_u64() > Some(1500), "{result}");
    }

    /// A failed, a killed and a quick run leave their requests too.
    fn of_every_end(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let args = ["--net", "filtered", "--allow", r"example\.com", "--log-network"];
        let get = "import urllib.request; urllib.request.urlopen('http://example.com/x').read(); ";
        for (end, code) in [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)] {
            let ran = stage.python(&format!("{get}{end}")).args(args).go();
            ran.ended(code);
            assert_eq!(lines(&ran).len(), 1, "{ran:?}");
        }
        // In the middle of an answer that never ends.
        let drip = "import urllib.request; print('up', flush=True); urllib.request.urlopen('http://example.com/drip').read()";
        let ran = stage.python(drip).args(args).args(["--timeout", "1500"]).go();
        ran.ended(137).says("time limit");
        let logs = lines(&ran);
        assert_eq!(logs.len(), 1, "{ran:?}");
        assert_eq!(logs[0]["path"], "/drip");
        assert_eq!(logs[0]["action"], "ALLOW");
        assert!(logs[0]["bytesIn"].as_u64() > Some(0), "{ran:?}");
    }

    /// SL: a secret in a URL is masked like everywhere else.
    fn secrets_are_masked(stage: &Stage, internet: &Internet) {
        let code = "import os, urllib.request, urllib.error\n\
            k = os.environ['K']\n\
            urllib.request.urlopen(f'http://example.com/{k}?key={k}').read()\n\
            try: urllib.request.urlopen(f'http://{k}.example/')\n\
            except urllib.error.HTTPError as e: pass";
        let args = ["--net", "filtered", "--allow", r"example\.com", "--log-network", "--secret", "K"];
        for output in [&[][..], &["--json"]] {
            let ran = stage.python(code).env("K", "hunter22").args(args).args(output).go();
            ran.ok();
            let all = ran.out() + &ran.err();
            assert!(!all.contains("hunter22"), "{ran:?}");
            assert!(all.contains("/***?key=***") && all.contains("***.example"), "{ran:?}");
        }
        // The origin got the real one: masking is about what we print.
        let seen = internet.origin.take_seen();
        assert!(seen.iter().all(|seen| seen.target == "/hunter22?key=hunter22") && seen.len() == 2, "{seen:?}");
    }
}
