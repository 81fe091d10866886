//! `isol8 run --host`, against a server that the test scripts.

pub(crate) mod server;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use expect_test::{Expect, expect};
use isol8_proto::v1::{
    CloseStdin, ErrorDetail, Exited, Notice, StdinTaken, Usage, Verdict, run_event::Event,
    run_request::Message as Sent,
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::cli::{Done, command, finish, signal, spawn};
use server::{Guest, Run, Server};

const KEY: &str = "the-key-of-the-test";

/// `isol8 run` on a server, in a home where no daemon is.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, url: &str, args: &[&str]) -> Command {
        let args: Vec<_> = ["run", "--host", url].iter().chain(args).copied().collect();
        let mut command = command(self.path(), &args);
        command.env("ISOL8_API_KEY", KEY);
        command
    }

    fn run(&self, url: &str, args: &[&str]) -> Done {
        let done = finish(spawn(self.command(url, args)));
        assert!(!done.stderr.contains(KEY), "{}", done.stderr);
        done
    }
}

fn run(server: &Server, args: &[&str]) -> Done {
    Home::new().run(&server.url(), args)
}

/// What is said, with the server's address taken out.
#[track_caller]
fn check(server: &Server, args: &[&str], expected: &Expect) {
    let done = run(server, &[&["-e", "1"], args].concat());
    assert_eq!(done.text(), "");
    let told = done.told().replace(&server.address.to_string(), "SERVER");
    expected.assert_eq(&told);
}

#[test]
fn a_run_is_what_it_is_here() {
    let server = Server::plain(|guest: Guest| async move {
        guest.note(guest.head.lines().next().unwrap_or_default());
        for name in ["host", "authorization", "sec-websocket-protocol"] {
            guest.note(guest.header(name).unwrap_or("nothing"));
        }
        let mut run = guest.welcome().await;
        run.note(format!("{:?} {:?}", run.start.code, run.start.session));
        run.accept().await;
        run.stdout(vec![0xff, 0, b'\n', 0xc3]).await;
        run.send(Event::Stderr("of the program\n".into())).await;
        let message = "look".to_owned();
        run.send(Event::Notice(Notice { message })).await;
        run.stdout("end").await;
        run.code(7).await;
    });
    let home = Home::new();
    let url = format!("{}/base/", server.url());
    let done = home.run(&url, &["-e", "print(1)", "--session", "s", "--out", "copy"]);
    assert_eq!(done.told(), "7\nof the program\nnote: look\n");
    assert_eq!(done.stdout, b"\xff\0\n\xc3end");
    assert_eq!(
        fs::read(home.path().join("copy")).expect("a copy"),
        done.stdout
    );
    assert_eq!(
        server.seen(),
        [
            "GET /base/execute/ws HTTP/1.1",
            &server.address.to_string(),
            &format!("Bearer {KEY}"),
            "isol8.v1",
            r#"b"print(1)" Some("s")"#,
        ]
    );
    for name in ["d.sock", "state"] {
        assert!(!home.path().join(name).exists(), "no daemon is needed");
    }
}

#[test]
fn a_result_is_told_as_json() {
    let server = Server::running(|mut run: Run| async move {
        assert!(run.start.buffered);
        run.accept().await;
        run.stdout(vec![b'a', 0xff]).await;
        run.exit(Exited {
            verdict: Verdict::TimedOut.into(),
            usage: Some(Usage {
                wall_us: 1500,
                ..Usage::default()
            }),
            ..Exited::default()
        })
        .await;
    });
    let done = run(&server, &["-e", "1", "--json"]);
    assert_eq!(done.code, 137);
    let result: serde_json::Value = serde_json::from_str(done.text()).expect("JSON");
    assert_eq!(result["stdoutBase64"], "Yf8=");
    assert_eq!(result["verdict"], "timed_out");
    assert_eq!(result["durationMs"], 1.5);
    assert_eq!(result["executionId"], "run-1");
}

#[test]
fn what_is_kept_is_kept_there() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        run.exit(Exited {
            verdict: Verdict::Exited.into(),
            code: Some(0),
            kept_sandbox_id: "abc".to_owned(),
            ..Exited::default()
        })
        .await;
    });
    check(
        &server,
        &["--persist"],
        &expect![[r"
            0
            note: sandbox `abc` is kept on the server; `isol8 cleanup` there removes it
        "]],
    );
}

#[test]
fn a_run_that_has_no_end_failed() {
    let lost = |message: Message, expected: &Expect| {
        let server = Server::running(move |mut run: Run| {
            let message = message.clone();
            async move {
                run.accept().await;
                run.stdout("so far").await;
                run.message(message).await;
                while run.request().await.is_some() {}
            }
        });
        let done = run(&server, &["-e", "1"]);
        assert_eq!(done.text(), "so far");
        let told = done.told().replace(&server.address.to_string(), "SERVER");
        expected.assert_eq(&told);
    };
    lost(
        Message::Close(None),
        &expect![[r"
            125
            error: the connection to `http://SERVER` was lost
            cause: it was closed
            hint: the run ends there without its client; start it again
        "]],
    );
    let frame = CloseFrame {
        code: CloseCode::Restart,
        reason: "a proxy restarts\u{1b}[2J".into(),
    };
    lost(
        Message::Close(Some(frame)),
        &expect![[r"
            125
            error: the connection to `http://SERVER` was lost
            cause: it was closed: a proxy restarts\u{1b}[2J (1012)
            hint: the run ends there without its client; start it again
        "]],
    );
    lost(
        Message::text("{}"),
        &expect![[r"
            125
            error: `http://SERVER` does not speak as an isol8 gateway does
            cause: a message came as text
        "]],
    );
    lost(
        Message::binary(vec![0xff; 4]),
        &expect![[r"
            125
            error: `http://SERVER` does not speak as an isol8 gateway does
            cause: failed to decode Protobuf message: invalid varint
        "]],
    );
}

/// As by a kill: what the system calls it depends on who comes first.
#[test]
fn a_connection_that_is_cut_is_told() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        run.stdout("so far").await;
    });
    let done = run(&server, &["-e", "1"]);
    assert_eq!((done.code, done.text()), (125, "so far"));
    let lines: Vec<&str> = done.stderr.lines().collect();
    let lost = format!("error: the connection to `{}` was lost", server.url());
    assert_eq!(lines[0], lost);
    assert!(lines[1].starts_with("cause: "), "{lines:?}");
    assert_eq!(
        lines[2..],
        ["hint: the run ends there without its client; start it again"]
    );
}

#[test]
fn a_failure_is_told_as_it_is_there() {
    let server = Server::running(|run: Run| {
        run.fail(ErrorDetail {
            kind: "forbidden".to_owned(),
            message: "the network `host` is forbidden by `policy.allowHostNetwork`".to_owned(),
            causes: vec!["a cause".to_owned()],
            hint: "ask for another one".to_owned(),
            retry_after_ms: 0,
        })
    });
    check(
        &server,
        &[],
        &expect![[r"
            125
            error: the network `host` is forbidden by `policy.allowHostNetwork`
            cause: a cause
            hint: ask for another one
        "]],
    );
    let server = Server::running(|run: Run| {
        run.fail(ErrorDetail {
            kind: "invalid_request".to_owned(),
            message: "`session`: `..` is not an id".to_owned(),
            ..ErrorDetail::default()
        })
    });
    check(
        &server,
        &[],
        &expect![[r"
        2
        error: `session`: `..` is not an id
    "]],
    );
}

#[test]
fn who_is_not_welcome_hears_why() {
    let refused = |answer: &'static str, expected: &Expect| {
        check(&Server::saying(answer), &[], expected);
    };
    refused(
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 27\r\n\r\n{\"error\":\"Invalid API key\"}",
        &expect![[r"
            125
            error: `http://SERVER` does not take this API key
            cause: Invalid API key
            hint: give another one with `--key <key>`, or set ISOL8_API_KEY
        "]],
    );
    refused(
        "HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\":\"Missing Authorization header\"}",
        &expect![[r"
            125
            error: `http://SERVER` does not take this API key
            cause: Missing Authorization header
            hint: give another one with `--key <key>`, or set ISOL8_API_KEY
        "]],
    );
    refused(
        "HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"`Host`: not called `h`\",\"kind\":\"forbidden\"}",
        &expect![[r"
            125
            error: `http://SERVER` turns us away
            cause: `Host`: not called `h`
            hint: `isol8 serve --allow-host <name>` there tells it its name
        "]],
    );
    refused(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\n\r\n\
         {\"error\":\"too many WebSockets\",\"kind\":\"at_capacity\"}",
        &expect![[r"
            125
            error: `http://SERVER`: too many WebSockets
            hint: try again in 3000 ms
        "]],
    );
    refused(
        "HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":\"no WebSocket: no `Upgrade`\"}",
        &expect![[r"
            125
            error: `http://SERVER` opens no WebSocket
            cause: no WebSocket: no `Upgrade`
            hint: a proxy before it has to pass `Upgrade` and `Connection` on
        "]],
    );
    refused(
        "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\n\r\n<h1>nothing</h1>",
        &expect![[r"
            125
            error: no isol8 gateway answers at `http://SERVER`
            cause: it answered 404 Not Found
            hint: `isol8 serve` is one; `--host` takes the path before it too
        "]],
    );
    refused(
        "HTTP/1.1 200 OK\r\n\r\nhello",
        &expect![[r"
        125
        error: no isol8 gateway answers at `http://SERVER`
        cause: it answered 200 OK
        hint: `isol8 serve` is one; `--host` takes the path before it too
    "]],
    );
    refused(
        "HTTP/1.1 426 Upgrade Required\r\n\r\n",
        &expect![[r"
        125
        error: `http://SERVER` opens no WebSocket
        cause: it answered 426 Upgrade Required
        hint: a proxy before it has to pass `Upgrade` and `Connection` on
    "]],
    );
    refused(
        "HTTP/1.1 301 Moved Permanently\r\nlocation: https://elsewhere.example/\r\n\r\n",
        &expect![[r"
            125
            error: no isol8 gateway answers at `http://SERVER`
            cause: it answered 301 Moved Permanently
            cause: it sends us to `https://elsewhere.example/`
            hint: give `--host` the address where the gateway really is
        "]],
    );
    refused(
        "HTTP/1.1 502 Bad Gateway\r\n\r\n<html>",
        &expect![[r"
        125
        error: cannot reach `http://SERVER`
        cause: it answered 502 Bad Gateway
        hint: it may be a proxy whose isol8 gateway is gone
    "]],
    );
    refused(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\n\r\n",
        &expect![[r"
            125
            error: `http://SERVER` has no room for us
            cause: it answered 503 Service Unavailable
            hint: try again in 7000 ms
        "]],
    );
    refused(
        "SSH-2.0-OpenSSH_9.9\r\n",
        &expect![[r"
        125
        error: cannot reach `http://SERVER`
        cause: invalid HTTP version parsed
        hint: it may speak TLS there: try `https://`
    "]],
    );
    refused(
        "",
        &expect![[r"
        125
        error: cannot reach `http://SERVER`
        cause: connection closed before message completed
    "]],
    );
}

#[test]
fn a_server_that_does_not_speak_as_we_do_is_left() {
    let welcome = |accept: fn(&Guest) -> String, protocol: &'static str| {
        Server::plain(move |guest: Guest| {
            let accept = accept(&guest);
            guest.say(Guest::switching(&accept, protocol))
        })
    };
    let check = |server: &Server, expected: &Expect| check(server, &[], expected);
    // A gateway from before the subprotocol.
    check(
        &welcome(Guest::accept_key, ""),
        &expect![[r"
        125
        error: `http://SERVER` does not know remote runs
        cause: it is of another version than this command line
        hint: install the same version of isol8 at both ends
    "]],
    );
    check(
        &welcome(Guest::accept_key, "Sec-WebSocket-Protocol: isol8.v2\r\n"),
        &expect![[r"
            125
            error: `http://SERVER` does not know remote runs
            cause: it is of another version than this command line
            hint: install the same version of isol8 at both ends
        "]],
    );
    check(
        &welcome(
            |_| "nonsense".to_owned(),
            "Sec-WebSocket-Protocol: isol8.v1\r\n",
        ),
        &expect![[r"
            125
            error: `http://SERVER` opens no WebSocket
            hint: a proxy before it has to pass `Upgrade` and `Connection` on
        "]],
    );
}

#[test]
fn ctrl_c_goes_to_the_program_and_then_to_the_run() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        run.note("ready");
        while run.signal().await.is_some() {}
    });
    let home = Home::new();
    let child = spawn(home.command(&server.url(), &["-e", "1"]));
    server.await_note("ready");
    signal(&child, Signal::INT);
    server.await_note("signal 2");
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
    server.await_note("gone");
}

#[test]
fn a_killed_command_line_is_noticed() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        run.note("ready");
        while run.request().await.is_some() {}
    });
    let home = Home::new();
    let child = spawn(home.command(&server.url(), &["-e", "1"]));
    server.await_note("ready");
    signal(&child, Signal::KILL);
    finish(child);
    server.await_note("gone");
}

#[test]
fn who_waits_for_a_server_can_stop_waiting() {
    let server = Server::plain(|guest: Guest| async move {
        guest.note("here");
        guest.wait().await;
    });
    let home = Home::new();
    let child = spawn(home.command(&server.url(), &["-e", "1"]));
    server.await_note("here");
    signal(&child, Signal::INT);
    assert_eq!(finish(child).told(), "130\n");
    server.await_note("gone");
}

/// A signal has to pass, so no more than 1 MiB is on its way.
#[test]
fn stdin_waits_until_it_is_taken() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        let mut untaken = 0;
        loop {
            // No time passes on a link that has something to say.
            let next = tokio::time::timeout(Duration::from_millis(300), run.request());
            match next.await {
                Ok(Some(Sent::Stdin(piece))) => {
                    assert!(piece.len() <= 256 << 10);
                    untaken += piece.len();
                }
                Ok(other) => panic!("no stdin: {other:?}"),
                Err(_) => break,
            }
        }
        run.note(format!("{} MiB", untaken >> 20));
        let bytes = untaken as u64;
        run.send(Event::StdinTaken(StdinTaken { bytes })).await;
        assert!(matches!(run.request().await, Some(Sent::Stdin(_))));
        run.note("more");
        run.code(0).await;
    });
    let home = Home::new();
    let mut command = home.command(&server.url(), &["-e", "1"]);
    command.stdin(fs::File::open("/dev/zero").expect("Linux has it"));
    assert_eq!(finish(spawn(command)).told(), "0\n");
    assert_eq!(server.seen()[..2], ["1 MiB", "more"]);
}

#[test]
fn stdin_comes_whole_and_in_order() {
    let server = Server::running(|mut run: Run| async move {
        run.accept().await;
        loop {
            match run.request().await {
                Some(Sent::Stdin(piece)) => {
                    let bytes = piece.len() as u64;
                    run.send(Event::StdinTaken(StdinTaken { bytes })).await;
                    run.stdout(piece).await;
                }
                Some(Sent::CloseStdin(CloseStdin {})) => return run.code(0).await,
                other => panic!("no stdin: {other:?}"),
            }
        }
    });
    let home = Home::new();
    let data: Vec<u8> = (0..=255).cycle().take(5_000_001).collect();
    fs::write(home.path().join("data"), &data).expect("room");
    let mut command = home.command(&server.url(), &["-e", "1"]);
    command.stdin(fs::File::open(home.path().join("data")).expect("it is there"));
    let done = finish(spawn(command));
    assert_eq!(done.told(), "0\n");
    assert!(done.stdout == data, "{} bytes", done.stdout.len());
}

#[test]
fn nobody_there_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", free.local_addr().expect("it is bound"));
    drop(free);
    let done = Home::new().run(&url, &["-e", "1", "--debug"]);
    assert_eq!(done.code, 125);
    let told = format!("error: cannot reach `{url}`\ncause: Connection refused");
    assert!(done.stderr.contains(&told), "{}", done.stderr);
    let done = Home::new().run("http://nobody.invalid:1", &["-e", "1"]);
    assert_eq!(done.code, 125);
    let first = "warning: the key and the program travel to `http://nobody.invalid:1` in the clear";
    assert!(done.stderr.starts_with(first), "{}", done.stderr);
    assert!(
        done.stderr
            .contains("\nerror: cannot reach `http://nobody.invalid:1`\n")
    );
}

#[test]
fn the_server_proves_who_it_is() {
    let home = Home::new();
    let authority = home.path().join("authority.pem");
    let server = Server::secure(&authority, |guest: Guest| async move {
        let mut run = guest.welcome().await;
        run.accept().await;
        run.stdout("in secret").await;
        run.code(0).await;
    });
    let port = server.address.port();
    let url = format!("https://localhost:{port}");
    // Somebody else's authorities, so that this host needs none.
    let others = home.path().join("others.pem");
    drop(Server::secure(&others, |guest: Guest| guest.wait()));
    let with = |authorities: &Path, url: &str| {
        let mut command = home.command(url, &["-e", "1"]);
        command.env("SSL_CERT_FILE", authorities);
        let done = finish(spawn(command));
        (done.told().replace(&port.to_string(), "PORT"), done.stdout)
    };
    assert_eq!(
        with(&authority, &url),
        ("0\n".to_owned(), b"in secret".to_vec())
    );
    expect![[r"
        125
        error: cannot reach `https://localhost:PORT`
        cause: invalid peer certificate: UnknownIssuer
        hint: name the file of its authority in `network.caBundle` of the configuration, or in SSL_CERT_FILE
    "]]
    .assert_eq(&with(&others, &url).0);
    let by_address = with(&authority, &format!("https://127.0.0.1:{port}")).0;
    let lines = by_address.lines().collect::<Vec<_>>();
    assert_eq!(
        lines[..2],
        ["125", "error: cannot reach `https://127.0.0.1:PORT`"]
    );
    assert!(
        by_address.contains("certificate not valid for name"),
        "{by_address}"
    );
    expect![[r"
        125
        error: cannot reach `http://localhost:PORT`
        cause: invalid HTTP version parsed
        hint: it may speak TLS there: try `https://`
    "]]
    .assert_eq(&with(&authority, &format!("http://localhost:{port}")).0);

    let config = format!(r#"{{"network": {{"caBundle": {authority:?}}}}}"#);
    let path = home.path().join("config.json");
    fs::write(&path, config).expect("the folder is ours");
    let mut command = home.command(&url, &["-e", "1"]);
    command
        .env("SSL_CERT_FILE", &others)
        .env("ISOL8_CONFIG", path);
    assert_eq!(finish(spawn(command)).told(), "0\n");
}

#[test]
fn a_link_in_tls_that_is_cut_is_lost_as_any_other() {
    let home = Home::new();
    let authority = home.path().join("authority.pem");
    let server = Server::secure(&authority, |guest: Guest| async move {
        let mut run = guest.welcome().await;
        run.accept().await;
    });
    let port = server.address.port().to_string();
    let mut command = home.command(&format!("https://localhost:{port}"), &["-e", "1"]);
    command.env("SSL_CERT_FILE", &authority);
    expect![[r"
        125
        error: the connection to `https://localhost:PORT` was lost
        cause: it was closed
        hint: the run ends there without its client; start it again
    "]]
    .assert_eq(&finish(spawn(command)).told().replace(&port, "PORT"));
}

#[test]
fn tls_is_not_spoken_to_who_does_not() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut hello = [0; 16];
        stream.read_exact(&mut hello).expect("a greeting");
        let answer = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        answer.expect("the client is there");
    });
    let done = Home::new().run(&url, &["-e", "1"]);
    assert_eq!(done.code, 125);
    let told = done.stderr.replace(&url, "URL");
    let hint = "hint: it may speak plain HTTP there: try `http://`";
    assert!(told.starts_with("error: cannot reach `URL`\n"), "{told}");
    assert!(told.contains(hint), "{told}");
}
