//! Bytes in both directions, and what holds them back.

use std::time::{Duration, Instant};

use isol8_proto::init::{CloseStdin, Exec, exited::How, from_init, to_init};

use crate::rig::{Rig, bash, plain};

const QUIET: Duration = Duration::from_millis(300);

#[test]
fn stdin_streams_to_the_program_and_ends() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash(
        "while read -r line; do echo \"got $line\"; done; echo end",
    ));
    for word in ["one", "two"] {
        rig.send(to_init::Message::Stdin(format!("{word}\n").into()));
        rig.wait_for_output(&format!("got {word}\n"));
    }
    rig.send(to_init::Message::Stdin("three\n".into()));
    rig.send(to_init::Message::CloseStdin(CloseStdin {}));
    assert_eq!(rig.outcome().stdout, "got three\nend\n");
}

#[test]
fn without_stdin_the_program_reads_its_end() {
    let outcome = Rig::start().bash("cat; echo code $?; [ -p /dev/stdin ] && echo pipe");
    assert_eq!(outcome.stdout, "code 0\npipe\n");
}

#[test]
fn stdin_arrives_whole_and_within_credit() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash("sha256sum"));
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let (mut credit, mut sent) = (256_u64 << 10, 0);
    while sent < data.len() {
        if credit == 0 {
            match rig.recv() {
                from_init::Message::StdinCredit(more) => credit += more.bytes,
                other => panic!("unexpected {other:?}"),
            }
            continue;
        }
        let end = data
            .len()
            .min(sent + usize::try_from(credit.min(200 << 10)).expect("small"));
        rig.send(to_init::Message::Stdin(data[sent..end].to_vec().into()));
        credit -= (end - sent) as u64;
        sent = end;
    }
    rig.send(to_init::Message::CloseStdin(CloseStdin {}));
    let expected = std::process::Command::new("python3")
        .args(["-c", "import hashlib;print(hashlib.sha256(bytes(n*7%2**32%251 for n in range(5000000))).hexdigest())"])
        .output()
        .expect("python3");
    let expected = String::from_utf8(expected.stdout).expect("text");
    assert_eq!(rig.outcome().stdout, format!("{}  -\n", expected.trim()));
}

#[test]
fn a_program_that_does_not_read_gets_no_more_than_the_buffer() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash("sleep 60"));
    let mut credit = 256_u64 << 10;
    let mut sent = 0_u64;
    // A pipe and the buffer take some; then no credit comes any more.
    loop {
        while credit > 0 {
            let piece = credit.min(64 << 10);
            rig.send(to_init::Message::Stdin(
                vec![b'x'; usize::try_from(piece).expect("small")].into(),
            ));
            credit -= piece;
            sent += piece;
        }
        match rig.recv_within(QUIET) {
            Some(from_init::Message::StdinCredit(more)) => credit += more.bytes,
            Some(other) => panic!("unexpected {other:?}"),
            None => break,
        }
    }
    assert!(
        (256 << 10..=512 << 10).contains(&sent),
        "{sent} bytes were taken"
    );
    rig.signal(15);
    assert_eq!(rig.outcome().how, Some(How::Signal(15)));
}

#[test]
fn more_stdin_than_the_credit_ends_the_sandbox() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash("sleep 60"));
    for _ in 0..3 {
        let piece = to_init::Message::Stdin(vec![0; 200 << 10].into());
        // Init may be gone before the last piece: that is what is wanted.
        if rig.try_send(piece).is_err() {
            break;
        }
    }
    assert!(rig.wait_for_end());
}

#[test]
fn stdin_for_a_program_that_closed_it_is_dropped_and_credited() {
    let mut rig = Rig::start();
    rig.start_with_stdin(bash("exec <&-; echo closed; sleep 60"));
    rig.wait_for_output("closed\n");
    for _ in 0..20 {
        rig.send(to_init::Message::Stdin(vec![0; 100 << 10].into()));
        let mut credit = 0;
        while credit < 100 << 10 {
            match rig.recv() {
                from_init::Message::StdinCredit(more) => credit += more.bytes,
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    rig.signal(9);
    assert_eq!(rig.outcome().how, Some(How::Signal(9)));
}

#[test]
fn a_flood_stops_at_the_credit_and_a_signal_overtakes_it() {
    let mut rig = Rig::start();
    let flood = Exec {
        stdout_credit: 100_000,
        stderr_credit: 0,
        ..plain(bash("exec cat /dev/zero"))
    };
    rig.exec(flood).expect("started");
    let mut seen = 0;
    while let Some(message) = rig.recv_within(QUIET) {
        match message {
            from_init::Message::Stdout(bytes) => seen += bytes.len(),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(seen, 100_000);
    rig.credit(50_000, 0);
    while seen < 150_000 {
        match rig.recv() {
            from_init::Message::Stdout(bytes) => seen += bytes.len(),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(rig.recv_within(QUIET).is_none(), "the credit is used up");
    rig.signal(15);
    // The end comes behind what stands in the pipe.
    assert!(
        rig.recv_within(QUIET).is_none(),
        "there is no credit for the rest"
    );
    rig.credit(1 << 30, 0);
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let exited = rig.drain(&mut stdout, &mut stderr);
    assert_eq!(exited.how, Some(How::Signal(15)));
    assert!(
        !stdout.is_empty() && stdout.len() <= 1 << 20,
        "{} bytes",
        stdout.len()
    );
}

#[test]
fn a_stream_without_credit_does_not_hold_the_other() {
    let mut rig = Rig::start();
    let script = "head -c 1000000 /dev/zero & head -c 3000000 /dev/zero >&2; wait";
    let exec = Exec {
        stdout_credit: 10,
        ..plain(bash(script))
    };
    rig.exec(exec).expect("started");
    let (mut stdout, mut stderr) = (0, 0);
    while stderr < 3_000_000 {
        match rig.recv() {
            from_init::Message::Stdout(bytes) => stdout += bytes.len(),
            from_init::Message::Stderr(bytes) => stderr += bytes.len(),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((stdout, stderr), (10, 3_000_000));
    rig.credit(1 << 30, 0);
    assert_eq!(rig.outcome().stdout.len(), 999_990);
}

#[test]
fn commands_are_read_while_nobody_takes_the_output() {
    let mut rig = Rig::start();
    rig.start_command(bash("echo ready; exec cat /dev/zero"));
    rig.wait_for_output("ready\n");
    // We read nothing: socket and outbox fill up.
    std::thread::sleep(QUIET);
    rig.signal(9);
    // Of bubblewrap and init nothing is below init.
    let gone = || crate::rig::descendants(rig.jail_pid()).len() <= 1;
    assert!(
        crate::rig::wait_for(gone),
        "the program outlived its signal"
    );
    let (mut stdout, mut stderr) = (vec![], vec![]);
    assert_eq!(
        rig.drain(&mut stdout, &mut stderr).how,
        Some(How::Signal(9))
    );
}

#[test]
fn two_hundred_megabytes_arrive() {
    let mut rig = Rig::start();
    let start = Instant::now();
    rig.start_command(bash("exec head -c 200000000 /dev/zero"));
    let (mut count, mut how) = (0, None);
    while how.is_none() {
        match rig.recv() {
            from_init::Message::Stdout(bytes) => count += bytes.len(),
            from_init::Message::Exited(exited) => how = exited.how,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((count, how), (200_000_000, Some(How::Code(0))));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}
