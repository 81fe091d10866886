//! Several keys, and how they change while the gateway serves.

use std::time::Duration;

use isol8_core::config;
use isol8_gateway::{Key, KeyName, NewKey, Rotation, Sources, Store};
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    client::Client,
    stage::{KEY, OTHER_KEY, Stage, program, wait_for},
    stream::waiting,
};

const GONE: &str = "the API key was removed or has expired";

fn one() -> Key {
    Key::new("one", KEY, true)
}

fn two() -> Key {
    Key::new("two", OTHER_KEY, false)
}

fn status(stage: &Stage, key: &str) -> u16 {
    stage.ask_as(key, "GET", "/sessions", "").status
}

/// A stream of this key whose program waits, past its head.
fn waiting_as(stage: &Stage, key: &str) -> Client {
    let mut client = stage.client();
    client.send(
        "POST",
        "/execute/stream",
        &[("Authorization", &format!("Bearer {key}"))],
        &program("print x\nwait", ""),
    );
    let (status, _) = client.head().expect("a head");
    assert_eq!(status, 200);
    assert!(client.event().is_some_and(|event| event.contains("stdout")));
    client
}

#[test]
fn a_key_opens_from_the_change_on_and_no_longer() {
    let stage = Stage::new();
    assert_eq!(status(&stage, "the-third-key"), 403);
    let third = Key::new("three", "the-third-key", false);
    stage.keys.replace(vec![one(), third]);
    assert_eq!(status(&stage, "the-third-key"), 200);
    assert_eq!(status(&stage, KEY), 200);
    let answer = stage.ask_as(OTHER_KEY, "GET", "/sessions", "");
    assert_eq!(answer.error(403), "Invalid API key");
    stage.keys.replace(Vec::new());
    assert_eq!(status(&stage, KEY), 403);
}

/// Also on a connection that is open: every request is asked for its key.
#[test]
fn a_kept_connection_is_no_way_round_a_removal() {
    let stage = Stage::new();
    let mut client = stage.client();
    let key = format!("Bearer {OTHER_KEY}");
    for expected in [200, 403] {
        client.send("GET", "/sessions", &[("Authorization", &key)], "");
        assert_eq!(client.answer().status, expected);
        stage.keys.replace(vec![one()]);
    }
}

#[test]
fn what_runs_under_a_removed_key_ends_with_its_last_word() {
    let stage = Stage::new();
    let mut stays = waiting(&stage, "print x\nwait");
    assert!(stays.event().is_some_and(|event| event.contains("stdout")));
    let mut stream = waiting_as(&stage, OTHER_KEY);
    let mut whole = stage.client();
    let key = format!("Bearer {OTHER_KEY}");
    let body = program("wait", "");
    whole.send("POST", "/execute", &[("Authorization", &key)], &body);
    wait_for("all runs", || stage.world.count("waiting") == 3);

    stage.keys.replace(vec![one()]);
    let last = stream.event().expect("a last event");
    assert!(
        last.contains(r#""type":"error""#) && last.contains(GONE),
        "{last}"
    );
    assert_eq!(stream.event(), None, "the stream is whole");
    assert_eq!(whole.answer().error(403), GONE);
    wait_for("both to be cancelled", || stage.world.count("gone") == 2);

    // The other key's goes on, over the change.
    stage.world.release.cancel();
    let events: Vec<_> = std::iter::from_fn(|| stays.event()).collect();
    let last = events.last().expect("a last event");
    assert!(last.contains(r#""type":"exit""#), "{last}");
}

#[test]
fn a_websocket_of_a_removed_key_is_closed() {
    let stage = Stage::new();
    let mut client = stage.client();
    let head = format!(
        "GET /execute/ws HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OTHER_KEY}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    );
    client.write(head.as_bytes());
    assert_eq!(client.head().expect("a head").0, 101);
    stage.keys.replace(vec![one()]);
    let mut frame = || {
        let head = client.read(2);
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(client.read(2).try_into().expect("two"))),
            short => short.into(),
        };
        (head[0] & 0x0f, client.read(length))
    };
    let (kind, said) = frame();
    let said = String::from_utf8(said).expect("it is text");
    assert!(kind == 1 && said.contains(GONE), "{said}");
    let (kind, code) = frame();
    assert_eq!((kind, &code[..2]), (8, &1008u16.to_be_bytes()[..]));
}

#[test]
fn a_key_and_what_it_runs_end_when_it_expires() {
    let stage = Stage::new();
    let mut stream = waiting_as(&stage, OTHER_KEY);
    let soon = Timestamp::now() + Duration::from_millis(100);
    stage.keys.replace(vec![one(), two().until(soon)]);
    let last = stream.event().expect("a last event");
    assert!(last.contains(GONE), "{last}");
    assert_eq!(status(&stage, OTHER_KEY), 403);
    assert_eq!(status(&stage, KEY), 200);
}

#[test]
fn the_bound_on_runs_holds_over_a_change() {
    let stage = Stage::with(|bounds| bounds.runs_per_key = 1);
    let first = waiting_as(&stage, OTHER_KEY);
    let narrower = config::Policy {
        allow_host_network: Some(false),
        ..config::Policy::default()
    };
    stage.keys.replace(vec![two().with_policy(narrower), one()]);
    let second = |key| stage.ask_as(key, "POST", "/execute", &program("", ""));
    assert_eq!(second(OTHER_KEY).status, 429, "the first one still runs");
    second(KEY).ok();
    drop(first);
    stage.world.await_note("gone");
    wait_for("the place", || second(OTHER_KEY).status == 200);
}

#[test]
fn each_key_has_a_ceiling_of_its_own() {
    let stage = Stage::new();
    let low = config::Policy {
        max_memory: Some("64m".parse().expect("a size")),
        max_timeout: Some(Duration::from_secs(1)),
        ..config::Policy::default()
    };
    stage.keys.replace(vec![one(), two().with_policy(low)]);
    let run = |key, options: serde_json::Value| {
        let body = json!({"request": {"code": "", "runtime": "python"}, "options": options});
        stage.ask_as(key, "POST", "/execute", &body.to_string())
    };
    let said = run(OTHER_KEY, json!({"memoryLimit": "65m"})).error(403);
    assert!(said.contains("`policy.maxMemory`"), "{said}");
    let said = run(OTHER_KEY, json!({"timeoutMs": 1001})).error(403);
    assert!(said.contains("`policy.maxTimeoutMs`"), "{said}");
    run(OTHER_KEY, json!({"memoryLimit": "64m"})).ok();
    run(KEY, json!({"memoryLimit": "65m", "timeoutMs": 1001})).ok();
    run(OTHER_KEY, json!({})).ok();
    let defaults = stage.world.last_start().defaults.expect("lowered ones");
    assert_eq!(defaults.memory_bytes, 64 << 20);
}

/// The whole way: the database, the keeper, the gateway.
struct Kept {
    store: Store,
    stop: std::sync::mpsc::SyncSender<()>,
    stage: Stage,
    _folder: TempDir,
}

impl Kept {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/keys.db");
        let mut store = Store::open(&path).expect("it can be made");
        add(&mut store, "admin");
        let keeper = isol8_gateway::Keeper::new(Sources {
            store: Some(path),
            ..Sources::default()
        });
        let keeper = keeper.expect("the sources are right");
        let stage = Stage::with_keys(keeper.keys());
        let (stop, orders) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || keeper.keep(&orders));
        Self {
            store,
            stop,
            stage,
            _folder: folder,
        }
    }

    fn await_status(&self, key: &str, expected: u16) {
        wait_for(&format!("{expected}"), || {
            status(&self.stage, key) == expected
        });
    }
}

fn name(text: &str) -> KeyName {
    text.parse().expect("a name")
}

fn add(store: &mut Store, text: &str) -> String {
    let new = NewKey {
        name: name(text),
        is_admin: false,
        expires: None,
        policy: config::Policy::default(),
    };
    let added = store.add(&new, Timestamp::now(), |text| Ok(text.to_owned()));
    added.expect("it is new")
}

#[test]
fn sessions_stay_with_their_key_and_go_to_no_other() {
    let mut kept = Kept::new();
    let first = add(&mut kept.store, "ci");
    let other = add(&mut kept.store, "b");
    kept.await_status(&other, 200);
    let body = json!({
        "request": {"code": "", "runtime": "python", "files": {"a": "b"}},
        "sessionId": "work",
    });
    let stage = &kept.stage;
    stage
        .ask_as(&first, "POST", "/execute", &body.to_string())
        .ok();
    let read = |key: &str| {
        stage
            .ask_as(key, "GET", "/file?sessionId=work&path=a", "")
            .status
    };
    assert_eq!((read(&first), read(&other)), (200, 404));
    let remove = stage.ask_as(&other, "DELETE", "/session/work", "");
    assert_eq!(remove.status, 404);

    let rotation = Rotation {
        keep: None,
        expires: None,
    };
    let rotated = kept
        .store
        .rotate(&name("ci"), &rotation, Timestamp::now(), |text| {
            Ok(text.to_owned())
        });
    let second = rotated.expect("it is there");
    kept.await_status(&second, 200);
    assert_eq!((read(&first), read(&second)), (403, 200));

    kept.store.remove(&name("ci")).expect("it is there");
    kept.await_status(&second, 403);
    let third = add(&mut kept.store, "ci");
    kept.await_status(&third, 200);
    let stage = &kept.stage;
    let read = stage.ask_as(&third, "GET", "/file?sessionId=work&path=a", "");
    assert_eq!(read.status, 404, "it is another key of the same name");
    assert_eq!(stage.world.sessions().len(), 1);
    drop(kept.stop);
}
