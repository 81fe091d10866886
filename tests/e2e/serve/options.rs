//! The fields of `options`, one by one.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    host,
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

const FORKS: &str = "import os, time\n\
    n = 0\n\
    try:\n \
     while n < 100:\n  \
      if os.fork() == 0: time.sleep(60)\n  \
      n += 1\n\
    except OSError: pass\n\
    print(n)";

/// Writes until a folder is full; prints the MiB.
const FILL: &str = "import sys\n\
    for folder in ('/sandbox', '/tmp'):\n \
     n = 0\n \
     with open(folder + '/fill', 'wb', 0) as f:\n  \
      try:\n   \
       while n < 64: f.write(bytes(1 << 20)); n += 1\n  \
      except OSError: pass\n \
     print(folder, n <= {'/sandbox': 32, '/tmp': 8}[folder])";

both_engines! {
    fn what_a_run_may_take_is_bounded(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let touch = "d = bytearray(200 << 20)\nfor i in range(0, len(d), 4096): d[i] = 1\nprint('kept')";
        let result = gateway.run("python", touch, json!({"memoryLimit": "64m"}));
        assert_eq!((&result["verdict"], &result["exitCode"], &result["stdout"]), (&json!("oom_killed"), &json!(137), &json!("")), "{result:#}");
        assert_eq!(gateway.run("python", touch, json!({"memoryLimit": "400m"}))["stdout"], "kept\n");

        let few = gateway.run("python", FORKS, json!({"pidsLimit": 10}));
        assert_eq!(few["stdout"], "9\n", "{few:#}");

        let busy = gateway.run("bash", "while :; do :; done", json!({"cpuLimit": 0.25, "timeoutMs": 2000}));
        assert_eq!(busy["verdict"], "timed_out", "{busy:#}");
        let used = busy["resourceUsage"]["cpuMs"].as_f64().expect("a number");
        assert!((50.0..1200.0).contains(&used), "a quarter of 2000 ms, not {used}");

        let full = gateway.run("python", FILL, json!({"sandboxSize": "32m", "tmpSize": "8m", "memoryLimit": "256m"}));
        assert_eq!(full["stdout"], "/sandbox True\n/tmp True\n", "{full:#}");

        let flood = "import sys; sys.stdout.write('o' * 5000); sys.stderr.write('e' * 5000)";
        let cut = gateway.run("python", flood, json!({"maxOutputSize": 1000}));
        assert_eq!((&cut["truncated"], &cut["exitCode"]), (&json!(true), &json!(0)), "{cut:#}");
        assert_eq!(cut["stdout"], "o".repeat(1000));
        assert_eq!(cut["stderr"], "e".repeat(1000));
        let whole = gateway.run("python", flood, json!({"maxOutputSize": 5000}));
        assert_eq!((&whole["truncated"], whole["stdout"].as_str().map(str::len)), (&json!(false), Some(5000)));

        // That of the request comes first.
        let mut body = program("bash", "sleep 60");
        body["request"]["timeoutMs"] = json!(1000);
        body["options"] = json!({"timeoutMs": 20_000});
        let late = gateway.post("/execute", &body).ok();
        assert_eq!(late["verdict"], "timed_out");
        // Over before there is a sandbox, with files and without.
        body["request"]["timeoutMs"] = json!(1);
        let bare = gateway.post("/execute", &body).ok();
        body["request"]["files"] = json!({"a": "x"});
        body["request"]["outputPaths"] = json!(["a"]);
        for none in [bare, gateway.post("/execute", &body).ok()] {
            let told = (&none["verdict"], &none["exitCode"], &none["runtime"]);
            assert_eq!(told, (&json!("timed_out"), &json!(137), &json!("bash")), "{none:#}");
        }
        gateway.until_idle(stage);
    }

    fn what_a_run_is_given_and_what_is_hidden(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        // A mount of its own tells; who may write where there is the image's matter.
        let root = "while read -r _ _ _ _ point options _; do [[ $point == / ]] && way=${options%%,*}; done < /proc/self/mountinfo; echo $way";
        assert_eq!(gateway.run("bash", root, json!({}))["stdout"], "ro\n");
        assert_eq!(gateway.run("bash", root, json!({"readonlyRootFs": true}))["stdout"], "ro\n");
        assert_eq!(gateway.run("bash", root, json!({"readonlyRootFs": false}))["stdout"], "rw\n");

        let secret = "s3cr3t-value-of-the-test";
        let tell = "echo $TOKEN; echo ${#TOKEN}; echo $TOKEN >&2; printf %s $TOKEN > f";
        let mut body = program("bash", tell);
        body["options"] = json!({"secrets": {"TOKEN": secret}});
        let result = gateway.post("/execute", &body).ok();
        assert_eq!((&result["stdout"], &result["stderr"]), (&json!("***\n24\n"), &json!("***\n")));
        let events = gateway.client().events(&body);
        assert!(events.len() >= 2 && !json!(events).to_string().contains(secret), "{events:#?}");
        assert!(!gateway.log().contains(secret), "no secret in a log");

        let names = "import socket; print([name for _, name in socket.if_nameindex()])";
        assert_eq!(gateway.run("python", names, json!({}))["stdout"], "['lo']\n");
        assert_eq!(gateway.run("python", names, json!({"network": "none"}))["stdout"], "['lo']\n");
        assert_eq!(gateway.run("python", names, json!({"network": "filtered"}))["stdout"], "['lo']\n");
        gateway.until_idle(stage);
    }

    fn a_sandbox_is_kept_and_cleaned_up(stage: &Stage) {
        let gateway = &Gateway::start(stage);
        let mark = &stage.mark(70_510);
        let code = format!("sleep {mark} >/dev/null 2>&1 & echo begun");
        let result = gateway.run("bash", &code, json!({"persist": true}));
        assert_eq!(result["stdout"], "begun\n", "{result:#}");
        wait_until("its program", seconds(10), || host::sleepers(mark).len() == 1);
        let sessions = stage.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        assert_eq!((&sessions[0]["sandboxId"], &sessions[0]["state"]), (&result["sandboxId"], &json!("kept")));
        // It has no id over HTTP.
        assert_eq!(gateway.ask("GET /sessions").ok(), json!({"sessions": []}));
        let counts = gateway.post_text("/cleanup", "").ok();
        assert_eq!(counts["failed"], 0, "{counts}");
        assert!(counts["removed"].as_u64().is_some_and(|count| count >= 1), "{counts}");
        wait_until("its end", seconds(10), || host::sleepers(mark).is_empty());
        gateway.until_idle(stage);
    }
}

both_engines_online! {
    fn the_network_is_filtered_and_logged(stage: &Stage, internet: &Internet) {
        internet.name("evil.example", isol8_e2e::harness::internet::PUBLIC);
        let gateway = &Gateway::start(stage);
        let code = "import urllib.request, urllib.error\n\
            for url in ('http://example.com/bytes/1000', 'http://evil.example/x', 'http://other.example/'):\n \
             try: print(len(urllib.request.urlopen(url).read()))\n \
             except urllib.error.HTTPError as e: print(e.code, e.read().decode().strip())";
        let options = json!({
            "network": "filtered", "logNetwork": true,
            "networkFilter": {"whitelist": ["example\\.com", "evil\\.example"], "blacklist": ["evil"]},
        });
        let result = gateway.run("python", code, options.clone());
        assert_eq!(result["stdout"], "1000\n\
            403 isol8: request to evil.example blocked by network filter\n\
            403 isol8: request to other.example blocked by network filter\n", "{result:#}");
        let logs = result["networkLogs"].as_array().expect("a log");
        let told: Vec<_> = logs.iter().map(|log| (log["host"].as_str(), log["action"].as_str())).collect();
        assert_eq!(told, [
            (Some("example.com"), Some("ALLOW")), (Some("evil.example"), Some("BLOCK")), (Some("other.example"), Some("BLOCK")),
        ]);
        assert!(result["resourceUsage"]["networkBytesIn"].as_u64().is_some_and(|bytes| bytes >= 1000), "{result:#}");
        assert!(result["resourceUsage"]["networkBytesOut"].as_u64().is_some_and(|bytes| bytes > 0), "{result:#}");

        let mut quiet = options;
        quiet["logNetwork"] = json!(false);
        assert_eq!(gateway.run("python", code, quiet).get("networkLogs"), None::<&Value>);
        // What is in the `exit` event of a stream.
        let mut body = program("python", code);
        body["options"] = json!({"network": "filtered", "logNetwork": true});
        let events = gateway.client().events(&body);
        let logs = &events.last().expect("an event")["result"]["networkLogs"];
        assert_eq!(logs.as_array().map(Vec::len), Some(3), "{events:#?}");
        gateway.until_idle(stage);
    }
}
