//! How a gateway ends, and what it does when its daemon does.

use isol8_e2e::harness::{
    gateway::{Gateway, program},
    host,
    http::Client,
    wait::{seconds, wait_until},
    websocket::WebSocket,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// One run of each kind that goes on.
struct Open {
    whole: Client,
    stream: Client,
    socket: WebSocket,
}

impl Open {
    fn with(gateway: &Gateway, mark: &str) -> Self {
        let body = program("bash", &format!("echo ready; sleep {mark}"));
        let mut whole = gateway.client();
        whole.send("POST /execute", &[], body.to_string().as_bytes());
        let mut stream = gateway.client();
        stream.send("POST /execute/stream", &[], body.to_string().as_bytes());
        assert_eq!(stream.begun().expect("an answer").status, 200);
        assert_eq!(stream.event().expect("an event")["data"], "ready\n");
        let mut socket = WebSocket::open(gateway.client());
        let mut first = body;
        first["type"] = json!("execute");
        socket.send(&first);
        assert_eq!(socket.event()["data"], "ready\n");
        wait_until("all of them", seconds(20), || {
            host::sleepers(mark).len() == 3
        });
        Self {
            whole,
            stream,
            socket,
        }
    }

    /// Each has its last word: an error of this status and kind.
    #[track_caller]
    fn fail(mut self, statuses: &[u16], kinds: &[&str]) {
        let told = |error: &Value| {
            let kind = error["kind"].as_str().unwrap_or_default();
            assert!(kinds.contains(&kind), "{error:#}");
            assert!(
                error["error"]
                    .as_str()
                    .is_some_and(|error| !error.is_empty()),
                "{error:#}"
            );
        };
        let answer = self.whole.answer();
        assert!(statuses.contains(&answer.status), "{}", answer.shown());
        told(&answer.json());
        let last = self.stream.event().expect("a last event");
        assert_eq!(last["type"], "error", "{last:#}");
        told(&last["error"]);
        assert_eq!(self.stream.event(), None);
        let (events, code) = self.socket.rest();
        let last = events.last().expect("a last event");
        assert_eq!((&last["type"], code), (&json!("error"), 1000), "{last:#}");
        told(&last["error"]);
    }
}

both_engines! {
    fn a_gateway_that_stops_tells_everybody(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let mark = &stage.mark(70_550);
        let open = Open::with(&gateway, mark);
        let mut idle = gateway.client();
        idle.send("GET /health", &[], b"");
        idle.answer().ok();
        let address = gateway.address();
        let mut gateway = gateway;
        gateway.signal(Signal::TERM);
        open.fail(&[503], &["shutting_down"]);
        assert_eq!(idle.until_closed(), b"");
        let status = gateway.ended();
        assert!(status.success(), "{status}: {}", gateway.log());
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
        wait_until("their end", seconds(10), || host::sleepers(mark).is_empty());
        assert_eq!(stage.sessions(), Vec::<Value>::new());
    }

    /// As a crash of it: the daemon ends what it had asked for.
    fn a_gateway_that_is_killed_leaves_no_run(stage: &Stage) {
        let mut gateway = Gateway::start(stage);
        let mark = &stage.mark(70_560);
        let open = Open::with(&gateway, mark);
        gateway.signal(Signal::KILL);
        assert!(!gateway.ended().success());
        wait_until("their end", seconds(10), || host::sleepers(mark).is_empty());
        wait_until("their runs' end", seconds(10), || stage.status()["runsInFlight"] == 0);
        drop(open);
        // The next one finds everything as it was.
        let next = Gateway::start(stage);
        assert_eq!(next.run("bash", "echo next", json!({}))["stdout"], "next\n");
        next.until_idle(stage);
        next.stop();
    }

    fn a_gateway_outlives_its_daemon(stage: &Stage) {
        let gateway = Gateway::start(stage);
        let mark = &stage.mark(70_570);
        let mut body = program("bash", "echo kept > f");
        body["sessionId"] = json!("work");
        gateway.post("/execute", &body).ok();
        let before = gateway.weight();
        let open = Open::with(&gateway, mark);
        stage.crash_daemon();
        open.fail(&[502, 503], &["engine_unreachable", "internal"]);
        // Meanwhile it says what is the matter.
        gateway.ask("GET /health").ok();
        for answer in [
            gateway.post("/execute", &program("bash", "true")),
            gateway.post("/execute/stream", &program("bash", "true")),
            gateway.ask("GET /sessions"),
            gateway.ask("GET /file?sessionId=work&path=f"),
            gateway.ask("DELETE /session/work"),
            gateway.post("/cleanup", &json!({})),
        ] {
            let error = answer.error(503);
            assert_eq!((error.as_str(), &answer.json()["kind"]), ("the isol8 daemon does not answer", &json!("engine_unreachable")));
        }
        assert_eq!(gateway.metric("isol8_daemon_up").to_bits(), 0.0_f64.to_bits());
        let mut socket = WebSocket::open(gateway.client());
        socket.send(&json!({"type": "execute", "request": {"code": "true", "runtime": "bash"}}));
        let (events, code) = socket.rest();
        assert_eq!((&events[0]["error"]["kind"], code), (&json!("engine_unreachable"), 1000), "{events:#?}");
        drop(socket);
        wait_until("their end", seconds(20), || host::sleepers(mark).is_empty());
        // A daemon is back, and with it everything that lasts.
        stage.start_daemon();
        assert_eq!(gateway.run("bash", "echo back", json!({}))["stdout"], "back\n");
        assert_eq!(gateway.ask("GET /file?sessionId=work&path=f").ok()["content"], "a2VwdAo=");
        gateway.ask("DELETE /session/work").ok();
        gateway.until_idle(stage);
        gateway.weighs_as(&before, 64 << 20);
        gateway.stop();
    }
}
