//! `isol8 serve` on a stage.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    host::{self, Process},
    http::{Answer, Client},
    stage::Stage,
    wait::{seconds, wait_for, wait_until},
};

/// Opens every gateway of a test.
pub const KEY: &str = "a-key-of-the-test";

/// A gateway. Dropped, its process is killed.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Gateway {
    /// Starts one at a free port, and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(stage: &Stage) -> Self {
        Self::start_as(stage, |_| {})
    }

    /// [`Gateway::start`] with a change to its command.
    ///
    /// # Panics
    /// When it does not serve.
    #[must_use]
    #[track_caller]
    pub fn start_as(stage: &Stage, change: impl FnOnce(&mut Command)) -> Self {
        let log = stage.folder().join("gateway.log");
        let mut command = stage.binary("isol8");
        command
            .args(["serve", "--port", "0"])
            .env("ISOL8_API_KEY", KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the stage's folder is ours"));
        change(&mut command);
        let mut child = command.spawn().expect("isol8 starts");
        let address = wait_for("the gateway", seconds(60), || {
            let said = fs::read_to_string(&log).expect("it was made");
            if let Some(status) = child.try_wait().expect("it is ours") {
                panic!("the gateway ended ({status}): {said}");
            }
            let (_, after) = said.split_once("serves http://")?;
            after.split_once('\n')?.0.parse().ok()
        });
        Self {
            child,
            address,
            log,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    #[track_caller]
    pub fn process(&self) -> Process {
        host::process(self.pid()).expect("the gateway lives")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// A connection with the key.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        self.stranger().with_key(KEY)
    }

    /// A connection without a key.
    #[must_use]
    #[track_caller]
    pub fn stranger(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request such as `GET /sessions`, without a body.
    ///
    /// # Panics
    /// When it is not answered.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "to ask is often all")]
    pub fn ask(&self, what: &str) -> Answer {
        let mut client = self.client();
        client.send(what, &[], b"");
        client.answer()
    }

    /// One request with this body.
    ///
    /// # Panics
    /// When it is not answered.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "to ask is often all")]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    /// One request with this body, be it JSON or not.
    ///
    /// # Panics
    /// When it is not answered.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "to ask is often all")]
    pub fn post_text(&self, path: &str, body: &str) -> Answer {
        let mut client = self.client();
        client.send(&format!("POST {path}"), &[], body.as_bytes());
        client.answer()
    }

    /// Runs a program with these options and gives the result.
    ///
    /// # Panics
    /// When it is not run.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "to ask is often all")]
    pub fn run(&self, runtime: &str, code: &str, options: Value) -> Value {
        let mut body = program(runtime, code);
        body["options"] = options;
        self.post("/execute", &body).ok()
    }

    /// The value of a metric without labels.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.ask("GET /metrics").text();
        let start = format!("{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        let value = line.and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// What it holds of the host now.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    #[track_caller]
    pub fn weight(&self) -> Weight {
        let process = self.process();
        let peak = process.status("VmHWM");
        let kib = peak
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok());
        Weight {
            descriptors: process.descriptors(),
            peak_bytes: kib.map(|kib: u64| kib << 10).expect("a number"),
        }
    }

    /// Checks that it never took more than `grown_bytes` of memory since `before`,
    /// and waits until it has no more descriptors open.
    ///
    /// # Panics
    /// When it has.
    #[track_caller]
    pub fn weighs_as(&self, before: &Weight, grown_bytes: u64) {
        let grown = self.weight().peak_bytes - before.peak_bytes;
        assert!(grown < grown_bytes, "it grew by {} MiB", grown >> 20);
        // One for the connection to the daemon, made at the first need.
        wait_until("closed descriptors", seconds(20), || {
            self.weight().descriptors <= before.descriptors + 1
        });
    }

    /// Waits until nothing goes on behind it: no run here or in the daemon, no
    /// session, no connection but the one that asks.
    ///
    /// # Panics
    /// When something does not end.
    #[track_caller]
    pub fn until_idle(&self, stage: &Stage) {
        for (name, count) in [
            ("isol8_http_runs_in_flight", 0.0),
            ("isol8_daemon_runs_in_flight", 0.0),
            ("isol8_daemon_runs_queued", 0.0),
            ("isol8_daemon_sessions", 0.0),
            ("isol8_http_connections", 1.0),
        ] {
            wait_until(&format!("{name} of {count}"), seconds(20), || {
                (self.metric(name) - count).abs() < 0.5
            });
        }
        assert_eq!(stage.sessions(), Vec::<Value>::new());
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the gateway is there");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come.
    #[must_use]
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the gateway's end", seconds(30), || {
            self.child.try_wait().expect("it is ours")
        })
    }

    /// Ends it as an operator would.
    ///
    /// # Panics
    /// When it does not end with 0.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

/// What a gateway holds of the host.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// Open descriptors.
    pub descriptors: usize,
    /// The most memory that it ever had.
    pub peak_bytes: u64,
}

/// The body of a run.
#[must_use]
pub fn program(runtime: &str, code: &str) -> Value {
    json!({"request": {"code": code, "runtime": runtime}})
}
