//! stdout and its copies: byte for byte, to whoever reads it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use expect_test::expect;
use isol8_proto::v1::{Exited, Usage, Verdict};

use crate::{
    cli::{command, finish, isol8, signal, spawn},
    fake::{Fake, Run},
};

const PIECE: usize = 64 << 10;

/// Writes `pieces` of 64 KiB; byte `i` of piece `n` is `i * 7 + n`.
fn flood(pieces: usize) -> Fake {
    Fake::new(move |run: Run| async move {
        run.accept().await;
        for number in 0..pieces {
            run.stdout(piece(number)).await;
            if run.is_closed() {
                return run.note("cancelled");
            }
        }
        run.note("all sent");
        run.code(0).await;
    })
}

fn piece(number: usize) -> Vec<u8> {
    let byte = |index: usize| u8::try_from((index * 7 + number) % 256).expect("it fits");
    (0..PIECE).map(byte).collect()
}

#[test]
fn binary_output_is_exact() {
    let fake = flood(40);
    let done = isol8(&fake, &["run", "-e", "1"]);
    let expected: Vec<u8> = (0..40).flat_map(piece).collect();
    assert_eq!(done.told(), "0\n");
    assert!(done.stdout == expected, "{} bytes", done.stdout.len());
}

#[test]
fn output_to_a_file_is_exact() {
    let fake = flood(20);
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    command.stdout(fs::File::create(fake.path("out")).expect("room"));
    assert_eq!(finish(spawn(command)).told(), "0\n");
    let expected: Vec<u8> = (0..20).flat_map(piece).collect();
    assert!(fs::read(fake.path("out")).expect("it is there") == expected);
}

#[test]
fn output_comes_as_it_is_written() {
    let fake = Fake::new(|mut run: Run| async move {
        run.accept().await;
        run.stdout("first").await;
        run.signal().await;
        run.code(0).await;
    });
    let mut child = spawn(command(fake.folder.path(), &["run", "-e", "1"]));
    let mut first = [0; 5];
    let stdout = child.stdout.as_mut().expect("it is piped");
    stdout
        .read_exact(&mut first)
        .expect("it comes before the end");
    assert_eq!(&first, b"first");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(finish(child).told(), "0\n");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_run_quietly() {
    let fake = flood(usize::MAX);
    let mut child = spawn(command(fake.folder.path(), &["run", "-e", "1"]));
    let mut reader = BufReader::new(child.stdout.take().expect("it is piped"));
    reader.fill_buf().expect("it writes");
    drop(reader);
    assert_eq!(finish(child).told(), "141\n");
    fake.await_note("cancelled");
}

#[test]
fn a_full_disk_behind_stdout_is_told() {
    let fake = flood(usize::MAX);
    let mut command = command(fake.folder.path(), &["run", "-e", "1"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    command.stdout(full.expect("Linux has it"));
    expect![[r#"
        125
        error: cannot write to stdout
        cause: No space left on device (os error 28)
    "#]]
    .assert_eq(&finish(spawn(command)).told());
    fake.await_note("cancelled");
}

#[test]
fn a_closed_stderr_does_not_end_the_run() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        for _ in 0..100 {
            run.stderr(vec![b'x'; PIECE]).await;
        }
        run.stdout("out").await;
        run.code(3).await;
    });
    let mut child = spawn(command(fake.folder.path(), &["run", "-e", "1"]));
    drop(child.stderr.take());
    let done = finish(child);
    assert_eq!((done.code, done.text()), (3, "out"));
}

#[test]
fn a_paused_reader_pauses_the_program_and_ctrl_c_is_still_heard() {
    let fake = flood(usize::MAX);
    let mut child = spawn(command(fake.folder.path(), &["run", "-e", "1"]));
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_exact(&mut [0; 1]).expect("it writes");
    // Nobody reads from here on. The first signal finds the script deaf, as a
    // program may be; the second one is ours.
    signal(&child, rustix::process::Signal::INT);
    signal(&child, rustix::process::Signal::TERM);
    let code = finish(child).code;
    assert!([130, 143].contains(&code), "{code}");
    drop(stdout);
    fake.await_note("cancelled");
}

#[test]
fn out_is_a_copy() {
    let fake = flood(3);
    let done = isol8(&fake, &["run", "-e", "1", "--out", "copy"]);
    assert_eq!(done.told(), "0\n");
    assert_eq!(done.stdout.len(), 3 * PIECE);
    assert!(fs::read(fake.path("copy")).expect("it is there") == done.stdout);
}

#[test]
fn a_copy_that_fails_is_told_at_the_end() {
    let fake = flood(3);
    let done = isol8(&fake, &["run", "-e", "1", "--out", "/dev/full"]);
    assert_eq!(done.stdout.len(), 3 * PIECE, "the run goes on");
    expect![[r#"
        125
        error: the copy of stdout is not complete
        cause: `/dev/full`: No space left on device (os error 28)
        hint: the program ran to its end; give `--out` a place with room
    "#]]
    .assert_eq(&done.told());
    assert_eq!(fake.seen(), ["all sent"]);
}

#[test]
fn a_copy_that_cannot_begin_starts_no_run() {
    let fake = flood(3);
    let done = isol8(&fake, &["run", "-e", "1", "--out", "/nowhere/copy"]);
    expect![[r#"
        2
        error: cannot write the copy of stdout to `/nowhere/copy`
        cause: No such file or directory (os error 2)
        hint: give `--out` a file in a folder that you may write to
    "#]]
    .assert_eq(&done.told());
    assert_eq!(fake.seen(), Vec::<String>::new());
}

#[test]
fn json_is_one_object_and_nothing_else() {
    let fake = Fake::new(|run: Run| async move {
        run.note(format!("buffered {}", run.start.buffered));
        run.accept().await;
        run.stdout("héllo ").await;
        run.stderr("warn\n").await;
        run.stdout("wörld\n").await;
        run.exit(Exited {
            verdict: Verdict::Exited.into(),
            code: Some(4),
            usage: Some(Usage {
                wall_us: 1500,
                cpu_us: 500,
                peak_memory_bytes: 77,
                ..Usage::default()
            }),
            stderr_truncated: true,
            ..Exited::default()
        })
        .await;
    });
    let done = isol8(&fake, &["run", "-e", "1", "--json", "--out", "copy"]);
    assert_eq!(done.code, 4);
    let mut object: serde_json::Value = serde_json::from_str(done.text()).expect("JSON alone");
    let time = object["timestamp"].take();
    let time = time.as_str().expect("a text").parse::<jiff::Timestamp>();
    assert!(time.is_ok());
    let expected = serde_json::json!({
        "stdout": "héllo wörld\n",
        "stderr": "warn\n",
        "exitCode": 4,
        "verdict": "exited",
        "durationMs": 1.5,
        "truncated": true,
        "executionId": "run-1",
        "runtime": "python",
        "timestamp": null,
        "sandboxId": "sandbox-1",
        "engine": "native",
        "warm": true,
        "resourceUsage": {
            "cpuMs": 0.5,
            "peakMemoryBytes": 77,
            "networkBytesIn": 0,
            "networkBytesOut": 0,
        },
    });
    assert_eq!(object, expected);
    assert_eq!(fake.seen(), ["buffered true"]);
    let copy = fs::read_to_string(fake.path("copy")).expect("it is there");
    assert_eq!(copy, "héllo wörld\n");
}

#[test]
fn json_of_what_is_no_text() {
    let fake = Fake::new(|run: Run| async move {
        run.accept().await;
        run.stdout(&b"\xffok"[..]).await;
        run.exit(Exited {
            verdict: Verdict::TimedOut.into(),
            ..Exited::default()
        })
        .await;
    });
    let done = isol8(&fake, &["run", "-e", "1", "--json"]);
    let object: serde_json::Value = serde_json::from_str(done.text()).expect("JSON alone");
    assert_eq!(object["stdout"], "\u{fffd}ok");
    assert_eq!(object["stdoutBase64"], "/29r");
    assert_eq!(
        (&object["verdict"], &object["exitCode"]),
        (&"timed_out".into(), &137.into())
    );
    assert_eq!(done.code, 137);
}

#[test]
fn json_into_a_closed_pipe_ends_quietly() {
    let fake = Fake::new(|run: Run| run.simple(0));
    let mut command = command(fake.folder.path(), &["run", "-e", "1", "--json"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(Stdio::from(writer));
    assert_eq!(finish(spawn(command)).told(), "141\n");
}
