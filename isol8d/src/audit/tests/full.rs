//! A disk that is full. The test runs itself again with a limit on the size of
//! files: a write over it fails like one on a full disk, after having written
//! what fits, and nobody has to be root for it.

use std::{env, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{sleep, timeout};

use super::*;

/// Tells the second run from the first.
const INNER: &str = "ISOL8_TEST_FULL_DISK";

/// Files may have this many blocks of 512 bytes.
const BLOCKS: &str = "16";

#[test]
fn a_full_disk_starts_nothing_and_loses_nothing() {
    if env::var_os(INNER).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(on_a_full_disk());
        return;
    }
    let own = env::current_exe().expect("the test itself");
    let name = "audit::tests::full::a_full_disk_starts_nothing_and_loses_nothing";
    // Without the trap the signal would end the process.
    let script = format!("trap '' XFSZ; ulimit -S -f {BLOCKS}; exec \"$0\" --exact {name}");
    let ran = Command::new("sh")
        .args(["-c", &script])
        .arg(own)
        .env(INNER, "1")
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&ran.stdout);
    let why = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}{why}");
    assert!(told.contains("1 passed"), "{told}");
}

async fn on_a_full_disk() {
    let state = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        include_code: true,
        ..settings()
    };
    let audit = Audit::open(&settings, state.path()).expect("it opens");
    let first = of_run(&audit, 1);
    start(&first, &[b'a'; 5000]).await.expect("there is room");

    let second = of_run(&audit, 2);
    let failure = start(&second, &[b'b'; 5000]).await.expect_err("it is full");
    assert_eq!(failure.kind, FailureKind::NoSpace);
    assert!(failure.message.starts_with("cannot write the audit log"));
    let one_line = lines(state.path());
    assert_eq!(one_line.len(), 1, "nothing of it is left: {one_line:?}");

    // What still fits is written; what does not is kept, in order.
    let failure = Failure::new(FailureKind::NoSpace, "c".repeat(5000));
    second.failed(&failure).await;
    first.network(&[record("a")]).await;
    first.ended(&outcome(), None, first.heads()).await;
    assert_eq!(lines(state.path()).len(), 1);
    // As long as lines are kept nothing starts, though this one would fit.
    let third = of_run(&audit, 3);
    let failure = start(&third, b"").await.expect_err("there are older lines");
    assert_eq!(failure.kind, FailureKind::NoSpace);

    let limit = getrlimit(Resource::Fsize);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Fsize, raised).expect("the hard limit is where it was");
    start(&third, b"").await.expect("there is room again");
    let lines = lines(state.path());
    let told = |line: &Value| {
        let event = line["event"].as_str().expect("an event");
        format!("{} {event}", &line["runId"].as_str().expect("an id")[..2])
    };
    let told: Vec<String> = lines.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "01 run_started",
            "02 run_failed",
            "01 network",
            "01 run_ended",
            "03 run_started"
        ]
    );
}

#[tokio::test]
async fn lines_that_wait_are_tried_again_by_themselves() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().join("audit");
    let audit = Audit::open(&settings(), state.path()).expect("it opens");
    let run = of_run(&audit, 1);
    start(&run, b"").await.expect("there is room");
    // A folder that is not there takes no file, and so no line.
    let away = state.path().join("away");
    fs::rename(&folder, &away).expect("it is there");
    run.ended(&outcome(), None, run.heads()).await;
    let failure = start(&of_run(&audit, 2), b"").await.expect_err("no folder");
    assert_eq!(failure.kind, FailureKind::Internal);
    fs::rename(&away, &folder).expect("it is there");
    // Nobody brings another line: it is tried again all the same.
    let has = |count: usize| lines(state.path()).len() == count;
    timeout(Duration::from_secs(30), async {
        while !has(2) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the line comes");
    // At the latest it comes with the end of the thread.
    fs::rename(&folder, &away).expect("it is there");
    run.failed(&failure).await;
    fs::rename(&away, &folder).expect("it is there");
    drop((run, audit));
    let event = |mut line: Value| line["event"].take();
    let events: Vec<Value> = lines(state.path()).into_iter().map(event).collect();
    assert_eq!(events, ["run_started", "run_ended", "run_failed"]);
}
