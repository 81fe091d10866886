//! Requests as they are sent to the proxy, byte for byte, and what has to come
//! of them. One program in one sandbox sends a whole table.

use std::net::IpAddr;

use data_encoding::BASE64;
use isol8_e2e::harness::{internet::Internet, origin::Seen, stage::Stage};
use serde_json::{Value, json};

const PROGRAM: &str = include_str!("../programs/egress.py");

/// How many vectors go on at a time.
const WIDTH: u32 = 8;

/// Requests to this are what a filter has to stop.
pub(super) const EVIL: &str = "evil.example";

/// One conversation with the proxy.
#[derive(Debug, Clone)]
pub(super) struct Vector {
    /// What it tries, for the message of a failed test.
    label: String,
    steps: Vec<Value>,
    /// What the client gets, answer by answer; see [`outcome_is`].
    want: Vec<&'static str>,
    /// How many requests may reach an origin; `None` where the body of a
    /// permitted request is what is wrong.
    hits: Option<usize>,
}

impl Vector {
    /// A conversation of `steps` that is refused unless it is said otherwise.
    pub(super) fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            steps: Vec::new(),
            want: vec!["403"],
            hits: Some(0),
        }
    }

    /// `GET http://AUTHORITY/…`, as every client writes it.
    pub(super) fn get(authority: &str) -> Self {
        Self::new(format!("GET {authority}")).send(format!(
            "GET http://{authority}§ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
        ))
    }

    /// CONNECT, TLS for `name`, and a GET inside.
    pub(super) fn connect(authority: &str, name: Option<&str>) -> Self {
        Self::tunnel(authority)
            .step(json!({"tls": name}))
            .send("GET § HTTP/1.1\r\nHost: inside.example\r\nConnection: close\r\n\r\n")
    }

    /// CONNECT alone; what goes through follows.
    pub(super) fn tunnel(authority: &str) -> Self {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let vector = Self::new(format!("CONNECT {authority}")).step(send(head.as_bytes()));
        vector.step(json!({"answer": "CONNECT"}))
    }

    /// Bytes of text and the answer to them. `§` stands for the vector's own
    /// path, by which it is known to the origin.
    pub(super) fn send(self, text: impl AsRef<str>) -> Self {
        self.say(text).step(json!({"answer": "GET"}))
    }

    /// Bytes of text and nothing else.
    pub(super) fn say(self, text: impl AsRef<str>) -> Self {
        self.step(json!({"text": text.as_ref()}))
    }

    /// Bytes that are no text, and the answer to them.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        self.step(send(bytes)).step(json!({"answer": "GET"}))
    }

    /// Any step of the program.
    pub(super) fn step(mut self, step: Value) -> Self {
        self.steps.push(step);
        self
    }

    /// Says in words what it tries.
    pub(super) fn called(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// It reaches its origin once.
    pub(super) fn passes(self) -> Self {
        let want = if self.steps.iter().any(|step| step.get("tls").is_some()) {
            vec!["200", "tls", "200"]
        } else {
            vec!["200"]
        };
        self.want(&want).hits(1)
    }

    /// It is malformed, and no origin hears of it.
    pub(super) fn refused_as_malformed(self) -> Self {
        self.want(&["4xx"])
    }

    /// What the client gets.
    pub(super) fn want(mut self, want: &[&'static str]) -> Self {
        self.want = want.to_vec();
        self
    }

    /// How often its path may be asked for.
    pub(super) fn hits(mut self, hits: usize) -> Self {
        self.hits = Some(hits);
        self
    }

    /// A permitted request whose body is malformed: its origin may hear of it,
    /// but of nothing that stands in the body.
    pub(super) fn may_hit(mut self) -> Self {
        self.hits = None;
        self
    }
}

fn send(bytes: &[u8]) -> Value {
    json!({"send": BASE64.encode(bytes)})
}

/// What reached an origin when a table was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) seen: Vec<Seen>,
}

impl Sent {
    /// The one request of a vector that reached its origin.
    #[track_caller]
    pub(super) fn hit(&self, vectors: &[Vector], label: &str) -> &Seen {
        let at = vectors.iter().position(|vector| vector.label == label);
        let path = path(at.expect("there is such a vector"));
        let found = self.seen.iter().find(|seen| seen.path() == path);
        found.expect("it reached its origin")
    }
}

fn path(index: usize) -> String {
    format!("/v/{index:03}/")
}

/// Sends every vector from one sandbox with a filtered network, and checks what
/// came of each and that nothing else reached anybody.
#[track_caller]
pub(super) fn check(stage: &Stage, internet: &Internet, args: &[&str], vectors: &[Vector]) -> Sent {
    let orders: Vec<Value> = vectors.iter().enumerate().map(order).collect();
    let order = json!({"width": WIDTH, "vectors": orders}).to_string();
    drop((
        internet.origin.take_seen(),
        internet.origin.take_connections(),
    ));
    let ran = stage
        .python(PROGRAM)
        .args(["--net", "filtered", "--timeout", "100000"])
        .args(args)
        .feed(order)
        .go();
    ran.ok();
    let answers = ran.json();
    let seen = internet.origin.take_seen();
    let mut wrong = Vec::new();
    for (index, vector) in vectors.iter().enumerate() {
        let answer = &answers[format!("{index}")];
        let path = path(index);
        let hits: Vec<&Seen> = seen
            .iter()
            .filter(|seen| seen.target.contains(&path))
            .collect();
        let came = answer.as_array().expect("a list of answers");
        let pairs = vector.want.iter().zip(came);
        let as_wanted = came.len() == vector.want.len()
            && pairs
                .into_iter()
                .all(|(want, answer)| outcome_is(want, answer));
        let reached = vector.hits.is_none_or(|most| hits.len() == most)
            && hits.iter().all(|seen| seen.path() == path);
        if !as_wanted || !reached {
            let shown: Vec<String> = came.iter().map(short).collect();
            let to: Vec<_> = hits.iter().map(|seen| (seen.to, &seen.target)).collect();
            wrong.push(format!(
                "{}: wanted {:?} and {:?} hits, got {shown:?} and {to:?}",
                vector.label, vector.want, vector.hits
            ));
        }
    }
    // What carries no path of a vector is nobody's.
    wrong.extend(
        seen.iter()
            .filter(|seen| !seen.target.contains("/v/"))
            .map(|seen| format!("{} reached {}", seen.target, seen.to)),
    );
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        vectors.len(),
        wrong.join("\n")
    );
    Sent { seen }
}

/// Checks that nobody else was dialled than these addresses.
#[track_caller]
pub(super) fn only_dialled(internet: &Internet, allowed: &[IpAddr]) {
    let dialled = internet.origin.take_connections();
    let others: Vec<_> = dialled
        .iter()
        .filter(|address| !allowed.contains(&address.ip()) || ![80, 443].contains(&address.port()))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

fn order((index, vector): (usize, &Vector)) -> Value {
    let path = path(index);
    let steps: Vec<Value> = vector
        .steps
        .iter()
        .map(|step| match step["text"].as_str() {
            Some(text) => send(text.replace('§', &path).as_bytes()),
            None => step.clone(),
        })
        .collect();
    json!({"id": index.to_string(), "steps": steps})
}

/// Whether an answer is what was wanted: a status, `4xx` for a request that is
/// refused as malformed (or a connection closed on it), `tls` for a handshake
/// that ended well, `closed` for a connection that did.
fn outcome_is(want: &str, answer: &Value) -> bool {
    let closed = answer
        .as_str()
        .is_some_and(|text| text.starts_with("closed"));
    let status = answer["status"].as_u64().unwrap_or_default();
    let body = answer["body"].as_str().unwrap_or_default();
    match want {
        "tls" => answer == "tls",
        "closed" => closed,
        "rest" => answer.get("rest").is_some(),
        "4xx" => closed || ((400..500).contains(&status) && status != 403 && is_ours(body)),
        "403" => status == 403 && is_block(body),
        "502" => status == 502 && body.starts_with("isol8: cannot reach "),
        status_text => status_text.parse() == Ok(status),
    }
}

/// One line, and it is ours.
fn is_ours(body: &str) -> bool {
    body.starts_with("isol8: ") && body.ends_with('\n') && body.lines().count() == 1
}

/// The line that the contract promises.
pub(super) fn is_block(body: &str) -> bool {
    let host = body.strip_prefix("isol8: request to ");
    let host = host.and_then(|rest| rest.strip_suffix(" blocked by network filter\n"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
}

fn short(answer: &Value) -> String {
    match answer["status"].as_u64() {
        Some(status) => format!("{status} {}", answer["body"]),
        None => answer.to_string(),
    }
}
