//! Lines, days, and disks that are full ([`full`]).

mod full;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use expect_test::expect;
use isol8_core::{
    config::{Audit as Settings, Config},
    egress::record::{Action, Record},
    outcome::{Usage, Verdict},
    package::Package,
    request::{Hosts, RunLimits, Secret, bytes_of_code::Code},
    runtime::Runtime,
    sandbox::Network,
};
use serde_json::Value;

use super::*;

fn settings() -> Settings {
    Settings {
        enabled: true,
        ..Config::default().audit
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn secrets() -> BTreeMap<String, Secret> {
    let value = Secret("hunter2".to_owned());
    BTreeMap::from([("TOKEN".to_owned(), value)])
}

fn request(code: &[u8]) -> RunRequest {
    RunRequest {
        runtime: Runtime::Python,
        code: Code::new(code),
        extension: "py".to_owned(),
        engine: None,
        network: Network::Filtered,
        limits: RunLimits::default(),
        writable: false,
        image: None,
        env: BTreeMap::from([("PLAIN".to_owned(), "env value".to_owned())]),
        secrets: secrets(),
        stdin: false,
        buffered: false,
        install: Package::parse_all(Runtime::Python, &["rich"]).expect("a package"),
        dependencies: Vec::new(),
        no_install_cache: false,
        hosts: Hosts {
            allow: vec![r"example\.com".to_owned()],
            deny: vec!["hunter2".to_owned()],
        },
        log_network: false,
        session: None,
        persist: false,
    }
}

fn record(host: &str) -> Record {
    Record {
        timestamp_ms: 1_700_000_000_000,
        method: "GET".to_owned(),
        host: host.to_owned(),
        port: 80,
        path: Some("/?key=hunter2".to_owned()),
        action: Action::Allow,
        reason: String::new(),
        bytes_in: 1,
        bytes_out: 2,
        duration: Duration::from_millis(3),
    }
}

fn outcome() -> Outcome {
    Outcome {
        verdict: Verdict::Exited(3),
        usage: Usage {
            wall: Duration::from_millis(5),
            stdout_bytes: 9,
            network_bytes_in: 1,
            ..Usage::default()
        },
        stdout_truncated: false,
        stderr_truncated: true,
        reason: None,
    }
}

fn run_id(byte: u8) -> RunId {
    RunId::parse(&format!("{byte:02x}").repeat(16)).expect("an id")
}

fn sandbox_id() -> SandboxId {
    SandboxId::parse(&"5b".repeat(16)).expect("an id")
}

fn of_run(audit: &Audit, byte: u8) -> RunAudit {
    let secrets = Secrets::new(&secrets()).expect("secrets");
    audit.of_run(&run_id(byte), Principal(1000), &secrets)
}

async fn start(run: &RunAudit, code: &[u8]) -> Result<(), Failure> {
    run.started(&request(code), EngineKind::Native).await
}

/// Every file of a folder, by name, with its text.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let file = |entry: io::Result<fs::DirEntry>| {
        let path = entry.expect("it can be read").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, fs::read_to_string(path).expect("text"))
    };
    entries.map(file).collect()
}

/// Every line of the one day that a test has, or of the two if it is midnight.
fn lines(state: &Path) -> Vec<Value> {
    let text: String = files(&state.join("audit")).into_values().collect();
    assert!(text.is_ascii() && text.ends_with('\n'), "{text}");
    let line = |line| serde_json::from_str(line).expect("a line is JSON");
    text.lines().map(line).collect()
}

#[tokio::test]
async fn a_run_is_told_from_start_to_end_and_without_secrets() {
    let state = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        include_code: true,
        include_output: true,
        ..settings()
    };
    let audit = Audit::open(&settings, state.path()).expect("it opens");
    let run = of_run(&audit, 1);
    start(&run, b"print('hunter2 \xff')\n").await.expect("room");
    run.network(&[record("a\n\u{2028}hunter2"), record("b")])
        .await;
    let mut heads = run.heads();
    heads.stdout.push(b"*** caf\xc3\xa9 ");
    heads.stdout.push(b"hunter2");
    heads.stderr.push(&vec![b'x'; 70_000]);
    run.ended(&outcome(), Some(&sandbox_id()), heads).await;

    let mut lines = lines(state.path());
    for line in &mut lines {
        let time = line["time"].take();
        assert!(time.as_str().expect("a text").parse::<Timestamp>().is_ok());
    }
    let head = lines[3]["stderr"].take();
    assert_eq!(head["text"].as_str().map(str::len), Some(64 << 10));
    assert_eq!(head["cut"], true);
    let text = format!("{lines:#?}");
    for hidden in ["hunter2", "env value", "PLAIN"] {
        assert!(!text.contains(hidden), "{text}");
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    expect![[r#"
        {"code":"print('*** �')\n","codeBytes":19,"codeSha256":"14c6aa07da50dc8bd01c2c853a82419ba0c039ac9ee8a2af5b2b9b65168dd89d","engine":"native","event":"run_started","hosts":{"allow":["example\\.com"],"deny":["***"]},"image":null,"limits":{"cpuMillis":1000,"maxOutputBytes":1048576,"memoryBytes":536870912,"pids":64,"sandboxBytes":536870912,"timeoutMs":30000,"tmpBytes":268435456},"network":"filtered","packages":["rich"],"runId":"01010101010101010101010101010101","runtime":"python","time":null,"uid":1000,"writable":false}
        {"action":"ALLOW","bytesIn":1,"bytesOut":2,"durationMs":3,"event":"network","host":"a\n ***","method":"GET","path":"/?key=***","port":80,"reason":"","runId":"01010101010101010101010101010101","time":null,"timestamp":"2023-11-14T22:13:20.000Z"}
        {"action":"ALLOW","bytesIn":1,"bytesOut":2,"durationMs":3,"event":"network","host":"b","method":"GET","path":"/?key=***","port":80,"reason":"","runId":"01010101010101010101010101010101","time":null,"timestamp":"2023-11-14T22:13:20.000Z"}
        {"event":"run_ended","exitCode":3,"runId":"01010101010101010101010101010101","sandboxId":"5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b","stderr":null,"stdout":{"cut":false,"text":"*** café ***"},"time":null,"truncated":true,"usage":{"cpuMs":0,"networkBytesIn":1,"networkBytesOut":0,"peakMemoryBytes":0,"stderrBytes":0,"stdoutBytes":9,"wallMs":5},"verdict":"exited"}
    "#]].assert_eq(&text);
}

#[tokio::test]
async fn code_and_output_are_the_operators_choice() {
    let state = tempfile::tempdir().expect("a folder");
    let audit = Audit::open(&settings(), state.path()).expect("it opens");
    let run = of_run(&audit, 1);
    start(&run, b"secret sauce").await.expect("room");
    let mut heads = run.heads();
    heads.stdout.push(b"secret result");
    run.ended(&outcome(), None, heads).await;
    let failure = Failure::new(FailureKind::ImageMissing, "no image for hunter2");
    of_run(&audit, 2)
        .failed(&failure.cause("hunter2").hint("x"))
        .await;
    let lines = lines(state.path());
    assert!(!format!("{lines:?}").contains("secret "), "{lines:?}");
    let sha = "d592aa9a80de2d44d5b0e3d2b7c98d27ae5b509d15a112243a170ee7c97d205d";
    assert_eq!(lines[0]["codeSha256"], sha);
    assert_eq!(lines[0]["codeBytes"], 12);
    let mut failed = lines[2].clone();
    failed["time"].take();
    expect![[r#"{"causes":["***"],"event":"run_failed","kind":"image_missing","message":"no image for ***","runId":"02020202020202020202020202020202","time":null,"uid":1000}"#]].assert_eq(&failed.to_string());
}

#[tokio::test]
async fn nothing_is_made_where_nobody_wants_a_record() {
    let state = tempfile::tempdir().expect("a folder");
    let audit = Audit::open(&Config::default().audit, state.path()).expect("it opens");
    let run = of_run(&audit, 1);
    start(&run, b"").await.expect("nothing to do");
    run.network(&[record("a")]).await;
    run.ended(&outcome(), None, run.heads()).await;
    assert!(files_of(state.path()).is_empty());
}

fn files_of(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let name = |entry: io::Result<fs::DirEntry>| {
        let name = entry.expect("it can be read").file_name();
        name.to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).expect("it is there");
    found.permissions().mode() & 0o7777
}

#[tokio::test]
async fn only_we_can_read_it() {
    let state = tempfile::tempdir().expect("a folder");
    let open = || Audit::open(&settings(), state.path()).expect("it opens");
    let folder = state.path().join("audit");
    drop(open());
    let file = folder.join(files_of(&folder).first().expect("the day's file"));
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    // As somebody else's umask or hand may have left them.
    for (path, mode) in [(&folder, 0o755), (&file, 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    drop(open());
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
}

#[test]
fn a_folder_in_which_others_write_is_refused() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().join("logs");
    let settings = Settings {
        log_dir: Some(folder.clone()),
        ..settings()
    };
    drop(Audit::open(&settings, state.path()).expect("it is made"));
    assert_eq!(mode(&folder), 0o700);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).expect("it is ours");
    let failure = Audit::open(&settings, state.path()).expect_err("not ours alone");
    assert_eq!(failure.kind, FailureKind::Forbidden);
    assert!(failure.message.contains("others may write"), "{failure}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
    drop(Audit::open(&settings, state.path()).expect("others may look"));
    assert_eq!(mode(&folder), 0o755, "the operator's own choice");
}

#[test]
fn a_link_is_not_followed() {
    let state = tempfile::tempdir().expect("a folder");
    let now = at("2026-02-28T12:00:00Z");
    let victim = state.path().join("victim");
    fs::write(&victim, "mine\n").expect("room");
    symlink(&victim, state.path().join("audit-2026-02-28.jsonl")).expect("room");
    let folder = state.path().to_path_buf();
    Days::open_own(folder, 1, now).expect_err("it is no file");
    assert_eq!(fs::read_to_string(&victim).expect("it is there"), "mine\n");
}

#[test]
fn every_day_has_its_file() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().to_path_buf();
    let mut days = Days::open_own(folder, 30, at("2026-02-28T23:59:59.998Z")).expect("it opens");
    for (line, time) in [
        ("a\n", "2026-02-28T23:59:59.999Z"),
        ("b\n", "2026-03-01T00:00:00Z"),
        // Midnight is UTC's.
        ("c\n", "2026-03-01T23:59:59+05:00"),
        ("d\n", "2026-03-01T23:59:59-05:00"),
    ] {
        days.append(line.as_bytes(), at(time)).expect("room");
    }
    expect![[r#"
        {
            "audit-2026-02-28.jsonl": "a\n",
            "audit-2026-03-01.jsonl": "b\nc\n",
            "audit-2026-03-02.jsonl": "d\n",
        }
    "#]]
    .assert_debug_eq(&files(state.path()));
}

#[test]
fn old_files_of_ours_are_removed_and_nothing_else() {
    let state = tempfile::tempdir().expect("a folder");
    let names = [
        "audit-2026-01-01.jsonl",
        "audit-2026-02-26.jsonl",
        "audit-2026-02-27.jsonl",
        "audit-2026-02-27.jsonl.gz",
        "audit-2025-02-30.jsonl",
        "audit-20260101.jsonl",
        "audit-2026-01-01T00:00.jsonl",
        "other-2020-01-01.jsonl",
    ];
    for name in names {
        fs::write(state.path().join(name), "x\n").expect("room");
    }
    let folder = state.path().to_path_buf();
    let mut days = Days::open_own(folder, 2, at("2026-03-01T05:00:00Z")).expect("it opens");
    let left: Vec<String> = files_of(state.path()).into_iter().collect();
    assert!(!left.contains(&names[0].to_owned()) && !left.contains(&names[1].to_owned()));
    for name in &names[2..] {
        assert!(left.contains(&(*name).to_owned()), "{name} is gone");
    }
    // The next day, and not by a line: an idle daemon keeps its promise too.
    days.tidy(at("2026-03-01T23:00:00Z"));
    assert!(files_of(state.path()).contains(names[2]));
    days.tidy(at("2026-03-02T00:00:01Z"));
    assert!(!files_of(state.path()).contains(names[2]));
}

#[test]
fn a_file_that_was_moved_away_is_made_again() {
    let state = tempfile::tempdir().expect("a folder");
    let now = at("2026-03-01T12:00:00Z");
    let mut days = Days::open_own(state.path().to_path_buf(), 30, now).expect("it opens");
    let (file, moved) = (
        state.path().join("audit-2026-03-01.jsonl"),
        state.path().join("old"),
    );
    days.append(b"a\n", now).expect("room");
    fs::rename(&file, &moved).expect("it is there");
    days.append(b"b\n", now).expect("room");
    fs::remove_file(&file).expect("it is there");
    days.append(b"c\n", now).expect("room");
    assert_eq!(fs::read_to_string(&moved).expect("it is there"), "a\n");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "c\n");
}

#[test]
fn half_a_line_does_not_spoil_the_next() {
    let state = tempfile::tempdir().expect("a folder");
    let now = at("2026-03-01T12:00:00Z");
    let file = state.path().join("audit-2026-03-01.jsonl");
    fs::write(&file, "a\nhal").expect("room");
    let mut days = Days::open_own(state.path().to_path_buf(), 30, now).expect("it opens");
    days.append(b"b\n", now).expect("room");
    assert_eq!(
        fs::read_to_string(&file).expect("it is there"),
        "a\nhal\nb\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_at_once_never_mix_their_lines() {
    const RUNS: u8 = 32;
    let state = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        include_code: true,
        ..settings()
    };
    // Two daemons on one folder, as well.
    let audits = [(); 2].map(|()| Audit::open(&settings, state.path()).expect("it opens"));
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 0..RUNS {
        let audit = audits[usize::from(byte % 2)].clone();
        tasks.spawn(async move {
            let run = of_run(&audit, byte);
            let code = vec![b'a' + byte % 26; 50_000];
            start(&run, &code).await.expect("room");
            for _ in 0..10 {
                run.network(&[record("a"), record("b")]).await;
            }
            run.ended(&outcome(), None, run.heads()).await;
        });
    }
    tasks.join_all().await;
    let lines = lines(state.path());
    assert_eq!(lines.len(), usize::from(RUNS) * 22);
    for byte in 0..RUNS {
        let id = run_id(byte);
        let own = lines.iter().filter(|line| line["runId"] == id.as_str());
        let events: Vec<&str> = own.filter_map(|line| line["event"].as_str()).collect();
        assert_eq!((events[0], events[21]), ("run_started", "run_ended"));
        assert!(events[1..21].iter().all(|event| *event == "network"));
    }
}
