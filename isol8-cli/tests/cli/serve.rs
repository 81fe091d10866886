//! `isol8 serve`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cli::{command, isol8},
    fake::Fake,
};

/// A server that has said where it listens.
pub(crate) struct Server {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    /// What it said before.
    said: String,
    pub(crate) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended; nobody else waits for it.
        let _over = self.child.kill();
        let _code = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).expect("it is text");
            assert!(read > 0, "it ended: {said}");
            if let Some(address) = line.trim().strip_prefix("isol8 serves http://") {
                break address.to_owned();
            }
            said += &line;
        };
        Self {
            child,
            stderr,
            said,
            address,
        }
    }

    fn ask(&self, head: &str, body: &str) -> String {
        self.ask_as("k", head, body)
    }

    pub(crate) fn ask_as(&self, key: &str, head: &str, body: &str) -> String {
        let mut answer = String::new();
        let mut stream = self.send(key, head, body);
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Asks, and leaves the answer to be read.
    fn send(&self, key: &str, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("a socket");
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("it takes it");
        stream
    }

    /// The next thing that it says.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stderr.read_line(&mut line).expect("it is text");
        assert!(read > 0, "it ended");
        line
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is there");
    }

    /// Its code, and what it said from now on.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("it is text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

pub(crate) fn serve(fake: &Fake, args: &[&str]) -> Command {
    let args: Vec<_> = ["serve"].iter().chain(args).copied().collect();
    command(fake.folder.path(), &args)
}

pub(crate) const RUN: &str = r#"{"request":{"code":"","runtime":"python"}}"#;

#[test]
fn it_serves_until_a_signal_comes() {
    for signal in [Signal::TERM, Signal::INT] {
        let fake = Fake::new(|run| async move {
            run.accept().await;
            run.stdout("hello").await;
            run.code(3).await;
        });
        let server = Server::start(serve(&fake, &["-p", "0", "-k", "k"]));
        assert!(
            server.address.starts_with("127.0.0.1:"),
            "{}",
            server.address
        );
        assert_eq!(server.said, "");
        assert!(
            server
                .ask("GET /health", "")
                .contains(r#"{"status":"ok","version":"0.1.0"}"#)
        );
        let answer = server.ask("POST /execute", RUN);
        assert!(
            answer.contains(r#""stdout":"hello""#) && answer.contains(r#""exitCode":3"#),
            "{answer}"
        );
        server.signal(signal);
        let (code, rest) = server.end();
        assert_eq!(code, Some(0), "{rest}");
        assert!(rest.contains("stopping"), "{rest}");
    }
}

#[test]
fn a_run_in_flight_is_told_of_the_end() {
    let fake = Fake::new(|run| async move {
        run.accept().await;
        run.stdout("x").await;
        run.gone().await;
    });
    let server = Server::start(serve(&fake, &["-p", "0", "-k", "k"]));
    let mut open = server.send("k", "POST /execute/stream", RUN);
    let mut answer = String::new();
    while !answer.contains(r#""type":"stdout""#) {
        let mut piece = [0; 4096];
        let count = open.read(&mut piece).expect("more of the answer");
        assert!(count > 0, "{answer}");
        answer += std::str::from_utf8(&piece[..count]).expect("text");
    }
    server.signal(Signal::TERM);
    open.read_to_string(&mut answer).expect("the rest of it");
    assert!(
        answer.contains(r#""type":"error""#) && answer.contains("shutting_down"),
        "{answer}"
    );
    assert_eq!(server.end().0, Some(0));
    fake.await_note("gone");
}

#[test]
fn without_a_key_it_serves_nobody() {
    let fake = Fake::silent();
    for args in [&["serve"][..], &["serve", "-k", ""]] {
        let done = isol8(&fake, args);
        assert_eq!(
            done.told(),
            "2\nerror: API key required\nhint: make one with `isol8 key add <name>`, or give it with \
             `--key <key>`, ISOL8_API_KEY or `--keys-file <path>`\n"
        );
    }
}

#[test]
fn the_environment_says_key_and_port() {
    let fake = Fake::new(|run| run.simple(0));
    let mut with = serve(&fake, &[]);
    with.env("ISOL8_API_KEY", "k")
        .env("ISOL8_PORT", "0")
        .env("PORT", "no port");
    let server = Server::start(with);
    assert!(server.ask("GET /openapi.json", "").contains(" 200 "));

    let mut with = serve(&fake, &["-k", "k"]);
    with.env("PORT", "many");
    let done = with.output().expect("it runs");
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).expect("it is text");
    assert!(
        said.contains("`PORT` is `many`, which is no port"),
        "{said}"
    );
}

#[test]
fn a_busy_port_is_left_to_whom_it_belongs() {
    let fake = Fake::new(|run| run.simple(0));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let server = Server::start(serve(&fake, &["-p", &port, "-k", "k", "--update"]));
    assert!(
        server
            .said
            .contains(&format!("port {port} is busy, taking a free one"))
    );
    assert!(
        server.said.contains("nothing is downloaded"),
        "{}",
        server.said
    );
    assert!(!server.address.ends_with(&format!(":{port}")));
    assert!(server.ask("GET /health", "").contains("ok"));
}

#[test]
fn an_address_of_another_host_is_refused() {
    let fake = Fake::silent();
    let done = isol8(
        &fake,
        &["serve", "-k", "k", "-p", "0", "--bind", "192.0.2.1"],
    );
    assert_eq!(done.code, 125);
    assert!(
        done.stderr.contains("cannot listen at `192.0.2.1:0`"),
        "{}",
        done.stderr
    );
    let done = isol8(&fake, &["serve", "-k", "k", "--bind", "nowhere"]);
    assert_eq!(done.code, 2);
}

#[test]
fn the_policy_of_the_file_opens_what_it_says() {
    let fake = Fake::new(|run| async move {
        run.note(format!("network {}", run.start.network));
        run.simple(0).await;
    });
    let folder = fake.path(".config/isol8");
    std::fs::create_dir_all(&folder).expect("it is ours");
    let policy = r#"{"policy":{"allowHostNetwork":true,"maxMemory":"64m"}}"#;
    std::fs::write(folder.join("config.json"), policy).expect("it is ours");
    // That of the working directory is no operator's, and hides nothing.
    std::fs::write(fake.path("isol8.config.json"), "{}").expect("it is ours");
    let body = RUN.replace("}}", r#"},"options":{"network":"host"}}"#);
    let server = Server::start(serve(&fake, &["-p", "0", "-k", "k"]));
    let answer = server.ask("POST /execute", &body);
    assert!(answer.contains(" 200 "), "{answer}");
    assert_eq!(fake.seen(), ["network 2"]);
    let body = RUN.replace("}}", r#"},"options":{"memoryLimit":"65m"}}"#);
    let answer = server.ask("POST /execute", &body);
    assert!(answer.contains("`policy.maxMemory`"), "{answer}");
}
