//! Clients that mean no good, and honest ones beside them.

use std::{thread, time::Duration};

use crate::{
    client::{Client, head},
    stage::{KEY, Stage, program, wait_for},
    stream::waiting,
};

const SHORT: Duration = Duration::from_millis(100);

fn bearer() -> String {
    format!("Bearer {KEY}")
}

#[test]
fn who_never_finishes_a_head_is_cut() {
    let stage = Stage::with(|bounds| bounds.header = SHORT);
    let mut silent = stage.client();
    let mut slow = stage.client();
    slow.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ");
    let mut kept = stage.client();
    kept.send("GET", "/health", &[], "");
    assert_eq!(kept.answer().status, 200);
    for client in [&mut silent, &mut slow, &mut kept] {
        client.await_close();
    }
}

#[test]
fn who_never_finishes_a_body_is_answered() {
    let stage = Stage::with(|bounds| bounds.body = SHORT);
    let mut client = stage.client();
    client.write(
        head(
            "POST",
            "/execute",
            &[("Authorization", &bearer())],
            Some(100),
        )
        .as_bytes(),
    );
    client.write(b"{");
    let answer = client.answer();
    assert_eq!(answer.error(408), "the request's body did not come in time");
    client.await_close();
}

#[test]
fn a_head_has_a_size() {
    let stage = Stage::new();
    let mut client = stage.client();
    let long = "x".repeat(128 << 10);
    client
        .try_write(head("GET", "/health", &[("X-Long", &long)], None).as_bytes())
        .ok();
    assert!(
        client
            .try_answer()
            .is_none_or(|answer| answer.status == 431)
    );
    let mut client = stage.client();
    let many = "X-A: b\r\n".repeat(500);
    client
        .try_write(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes())
        .ok();
    assert!(
        client
            .try_answer()
            .is_none_or(|answer| answer.status == 431)
    );
}

#[test]
fn a_body_has_a_size() {
    let stage = Stage::with(|bounds| bounds.body_bytes = 1 << 20);
    // It says so before.
    let mut client = stage.client();
    client.write(
        head(
            "POST",
            "/execute",
            &[("Authorization", &bearer())],
            Some(1 << 30),
        )
        .as_bytes(),
    );
    let piece = vec![b' '; 1 << 20];
    // The gateway may stop reading at any time; its answer comes all the same.
    let _cut = (0..64).try_for_each(|_| client.try_write(&piece));
    assert!(
        client
            .answer()
            .error(413)
            .contains("larger than 1048576 bytes")
    );
    // It turns out so.
    for path in ["/execute", "/execute/stream", "/file", "/cleanup"] {
        let mut client = stage.client();
        let headers = [
            ("Authorization", &*bearer()),
            ("Transfer-Encoding", "chunked"),
        ];
        client.write(head("POST", path, &headers, None).as_bytes());
        for _ in 0..3 {
            client.write(b"80000\r\n");
            client.write(&piece[..0x80000]);
            client.write(b"\r\n");
        }
        client.write(b"0\r\n\r\n");
        assert!(client.answer().error(413).contains("larger"), "{path}");
    }
    assert!(stage.world.notes().is_empty());
    stage.execute("").ok();
}

#[test]
fn who_asks_first_is_answered_first() {
    let stage = Stage::new();
    let mut client = stage.client();
    let headers = [("Authorization", &*bearer()), ("Expect", "100-continue")];
    client.write(head("POST", "/execute", &headers, Some(1 << 30)).as_bytes());
    assert!(client.answer().error(413).contains("larger"));
    client.await_close();
    // What may come is asked for.
    let mut client = stage.client();
    let body = program("print x", "");
    client.write(head("POST", "/execute", &headers, Some(body.len())).as_bytes());
    assert_eq!(client.head().expect("an answer").0, 100);
    client.write(body.as_bytes());
    client.answer().ok();
}

#[test]
fn a_compressed_body_is_refused() {
    let stage = Stage::new();
    for path in ["/execute", "/execute/stream", "/file", "/cleanup"] {
        for encoding in ["gzip", "identity, gzip", "deflate", "br", "x"] {
            let mut client = stage.client();
            let headers = [
                ("Authorization", &*bearer()),
                ("Content-Encoding", encoding),
            ];
            client.send("POST", path, &headers, "{}");
            assert!(client.answer().error(415).contains("`Content-Encoding`"));
        }
    }
    assert!(stage.world.notes().is_empty());
    let mut client = stage.client();
    let headers = [
        ("Authorization", &*bearer()),
        ("Content-Encoding", "identity"),
    ];
    client.send("POST", "/execute", &headers, &program("", ""));
    client.answer().ok();
}

#[test]
fn bodies_share_a_room() {
    let stage = Stage::alone(|bounds| {
        bounds.body_bytes = 1 << 20;
        bounds.bodies_bytes = 1 << 20;
    });
    let begin = |client: &mut Client, bytes: usize| {
        let headers = [("Authorization", &*bearer())];
        client.write(head("POST", "/execute", &headers, Some(1 << 20)).as_bytes());
        client.write(&vec![b' '; bytes]);
    };
    // What is announced takes no room.
    let mut held: Vec<Client> = (0..8).map(|_| stage.client()).collect();
    for client in &mut held {
        begin(client, 1);
        stage.execute("").ok();
    }
    drop(held);
    // What has come does.
    let mut hog = stage.client();
    begin(&mut hog, (1 << 20) - 1);
    wait_for("a full room", || stage.execute("").status == 429);
    hog.write(b" ");
    assert!(hog.answer().error(400).contains("EOF"));
    stage.execute("").ok();
}

#[test]
fn large_answers_share_a_room_too() {
    let stage = Stage::alone(|bounds| {
        bounds.answers_bytes = 4 << 20;
        bounds.body = SHORT;
    });
    // Each of them may have 1 MiB in each of two streams.
    let mut held: Vec<Client> = (0..2).map(|_| stage.client()).collect();
    for client in &mut held {
        client.post("/execute", &program("wait", ""));
    }
    wait_for("the runs", || stage.world.count("waiting") == 2);
    assert_eq!(
        stage.execute("").error(429),
        "too many large requests at once"
    );
    // A stream needs none of it.
    let body = program("", "");
    assert_eq!(stage.ask("POST", "/execute/stream", &body).status, 200);
    stage.world.release.cancel();
    for client in &mut held {
        client.answer().ok();
    }
    wait_for("room", || stage.execute("").status == 200);
}

#[test]
fn an_answer_keeps_its_room_and_its_connection_until_it_was_read() {
    let stage = Stage::with(|bounds| {
        bounds.answers_bytes = 2 << 20;
        bounds.connections = 2;
        bounds.body = Duration::from_secs(2);
    });
    // More than the kernel takes for two ends of a connection.
    let line = format!("print {}\n", "x".repeat(3 << 20));
    let mut slow = stage.client();
    slow.post("/execute", &program(&line.repeat(6), ""));
    let (status, headers) = slow.head().expect("it has begun");
    assert_eq!(status, 200);
    let told = stage.execute("").error(429);
    assert_eq!(told, "too many large requests at once");
    // Whoever comes now has the place of that one, which waits.
    let _kept: Vec<_> = (0..4)
        .map(|_| {
            wait_for("a place", || stage.ask("GET", "/health", "").status == 200);
            stage.client()
        })
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.expect("a length").1.parse().expect("a number");
    assert_eq!(slow.read(length).len(), length, "it was cut");
    wait_for("room", || stage.execute("").status == 200);
}

#[test]
fn who_does_not_read_loses_the_run_and_hurts_nobody() {
    let stage = Stage::with(|bounds| bounds.write_idle = Duration::from_millis(500));
    let stuck: Vec<Client> = (0..4).map(|_| waiting(&stage, "flood")).collect();
    wait_for("the floods", || stage.world.count("flooding") == 4);
    stage.execute("print x").ok();
    wait_for("the runs to be cancelled", || {
        stage.world.count("gone") == 4
    });
    drop(stuck);
}

#[test]
fn a_burst_is_served_or_told_to_come_again() {
    let stage = Stage::with(|bounds| bounds.runs_per_key = 4);
    let waiting: Vec<Client> = (0..4).map(|_| waiting(&stage, "wait")).collect();
    wait_for("the runs", || stage.world.count("waiting") == 4);
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = || stage.execute("");
        let asked: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
        asked
            .into_iter()
            .map(|one| one.join().expect("no panic"))
            .collect()
    });
    for answer in answers {
        assert!(answer.error(429).contains("4 runs of this key"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // Another key has its own places, and these come back.
    let body = program("", "");
    stage
        .ask_as(crate::stage::OTHER_KEY, "POST", "/execute", &body)
        .ok();
    drop(waiting);
    wait_for("a place", || stage.execute("").status == 200);
}

#[test]
fn places_come_back_however_a_run_ends() {
    let stage = Stage::with(|bounds| bounds.runs_per_key = 1);
    for code in [
        "",
        "exit 1",
        "fail internal",
        "refuse forbidden",
        "break",
        "verdict timed_out",
    ] {
        for path in ["/execute", "/execute/stream"] {
            let busy = || stage.ask("POST", path, &program(code, "")).status == 429;
            // A run gives its place back just behind its last event.
            wait_for("a place", || !busy());
        }
    }
}

#[test]
fn who_asks_for_nothing_keeps_nobody_out() {
    let stage = Stage::with(|bounds| bounds.connections = 4);
    let mut run = waiting(&stage, "wait");
    let mut kept = stage.client();
    for _ in 0..3 {
        let mut silent: Vec<Client> = (0..20).map(|_| stage.client()).collect();
        for client in &mut silent {
            client.try_write(b"GET /health HTTP/1.1\r\nX-A: ").ok();
        }
        stage.execute("print x").ok();
        for client in &mut silent[..17] {
            client.await_close();
        }
    }
    // It was the first to wait.
    kept.await_close();
    // Whoever has a request stays.
    stage.world.release.cancel();
    let mut last = None;
    while let Some(event) = run.event() {
        last = Some(event);
    }
    assert!(last.expect("an event").contains("exit"));
}

#[test]
fn connections_past_the_limit_are_told() {
    let stage = Stage::alone(|bounds| bounds.connections = 4);
    let held: Vec<Client> = (0..4).map(|_| waiting(&stage, "wait")).collect();
    let answer = stage.execute("");
    assert_eq!(answer.error(429), "too many connections");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(held);
    wait_for("a place", || stage.execute("").status == 200);
}

#[test]
fn rubbish_is_no_harm() {
    let stage = Stage::new();
    for rubbish in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = stage.client();
        client.try_write(rubbish).ok();
        // Whatever it answers, it is no success and no fault of ours.
        let status = client.try_answer().map_or(400, |answer| answer.status);
        assert!((400..500).contains(&status), "{status}");
    }
    stage.execute("").ok();
}
