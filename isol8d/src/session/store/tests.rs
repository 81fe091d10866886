use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, UNIX_EPOCH},
};

use isol8_core::{
    config::Config,
    ids::Principal,
    layer::LayerId,
    package::Package,
    quantity::{ByteSize, CpuMillis, Pids},
    runtime::Runtime,
    sandbox::{EngineKind, ImageName, Limits, Network},
    session::SessionName,
};
use isol8_engine::Interpreter;

use super::*;
use crate::session::record::Token;

fn record(name: Option<&str>) -> Record {
    let mut key = Config::default().usual_key(EngineKind::Docker, Runtime::Python);
    key.network = Network::Filtered;
    key.writable = true;
    key.image = Some(ImageName::parse("debian:trixie-slim").expect("a name"));
    key.layer = Some(LayerId::new(&[7; 32]));
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    Record {
        owner: Principal(1000),
        name: name.map(|name| SessionName::parse(name).expect("a name")),
        sandbox: SandboxId::random(),
        token: Token::random(),
        key,
        limits: Limits {
            memory: ByteSize::mib(64),
            cpu: CpuMillis::new(500).expect("in range"),
            pids: Pids::new(9).expect("in range"),
        },
        uid: 204_001,
        interpreter: Interpreter {
            program: "/usr/bin/python3".to_owned(),
            path: "/usr/bin:/bin".to_owned(),
            parkable: true,
            authorities: Some("/isol8/kit/ca-bundle.crt".to_owned()),
            deno_dir: None,
        },
        packages: Package::parse_all(Runtime::Python, &["numpy>=2", "six"])
            .expect("packages")
            .into_iter()
            .collect(),
        persist: true,
        created: at,
        used: at,
        lost: name.map(|_| "it went".to_owned()),
    }
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), None).expect("it can be read")
}

#[tokio::test]
async fn what_is_put_is_there_for_the_next_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let (work, kept) = (record(Some("work")), record(None));
    store.put(work.clone()).await.expect("written");
    store.put(kept.clone()).await.expect("written");
    let path = folder.path().join(FILE);
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the tokens");

    let next = open(&folder);
    assert_eq!(next.get(&work.sandbox), Some(work.clone()));
    assert_eq!(next.get(&kept.sandbox), Some(kept.clone()));
    assert_eq!(next.take(&work.sandbox, |_| true), Some(work));
    next.write().await.expect("written");
    assert_eq!(open(&folder).all(), [kept]);
    let names = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(names, 1, "nothing half is left");
}

#[tokio::test]
async fn what_can_wait_is_written_when_there_is_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let work = record(Some("work"));
    store.put(work.clone()).await.expect("written");
    let later = work.used + Duration::from_secs(5);
    store.change(&work.sandbox, |record| record.used = later);
    assert_eq!(open(&folder).all()[0].used, work.used);
    store.settle().await;
    assert_eq!(open(&folder).all()[0].used, later);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    // Root writes anywhere but into what is not there.
    drop(folder);
    let failure = store.put(record(None)).await.expect_err("no folder");
    assert_eq!(failure.kind, FailureKind::NoSpace);
    assert_eq!(store.all(), []);
}

#[tokio::test]
async fn a_file_that_is_not_understood_is_refused_and_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    store.put(record(Some("work"))).await.expect("written");
    let path = folder.path().join(FILE);
    let good = fs::read_to_string(&path).expect("text");
    let check = |text: &str, why: &str| {
        fs::write(&path, text).expect("written");
        let failure = Store::open(folder.path(), None).expect_err("not understood");
        let told = failure.causes.join(": ");
        assert!(told.contains(why), "{why} is not in: {told}");
        let hint = failure.hint.expect("a hint");
        assert!(hint.contains("sessions.json.old"), "{hint}");
        assert_eq!(fs::read_to_string(&path).expect("text"), text);
    };
    check("", "EOF");
    check(&good[..good.len() / 2], "EOF");
    check(
        &good.replace("\"version\": 1", "\"version\": 2"),
        "it is of version 2",
    );
    check(
        &good.replace("\"python\"", "\"perl\""),
        "`runtime` of session 0",
    );
    check(
        &good.replace("\"filtered\"", "\"open\""),
        "`network` of session 0",
    );
    check(&good.replace("\"uid\"", "\"gid\""), "gid");
    check(
        &good.replace("\"work\"", "\"-work\""),
        "`name` of session 0",
    );
    check(&good.replace("six", "--six"), "`packages` of session 0");
    let half = &good[good.find("\"token\"").expect("a token")..][..20];
    let short = half.split(' ').nth(1).expect("a value").trim_matches('"');
    check(&good.replace(short, ""), "`token` of session 0");
}

#[test]
fn no_file_is_no_sessions() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(open(&folder).all(), []);
    assert!(!folder.path().join(FILE).exists(), "looking writes nothing");
}
