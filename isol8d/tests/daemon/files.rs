//! Files of sessions, from a client's side.

use std::time::Duration;

use bytes::Bytes;
use isol8_core::ids::Principal;
use isol8_proto::v1::{
    self, ErrorDetail, FileEntry, FileKind, GetResponse, PutRequest, Verdict,
    admin_service_client::AdminServiceClient, get_response::Message as Got,
    put_request::Message as Put, session_service_client::SessionServiceClient,
};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use crate::stage::{ME, Ran, Stage, python};

type Client = SessionServiceClient<Channel>;

const SESSION: &str = "work";

fn client(stage: &Stage, who: Principal) -> Client {
    SessionServiceClient::new(stage.channel(who))
}

/// Code that runs in the session.
fn inside(code: &str) -> v1::Start {
    v1::Start {
        session: Some(SESSION.to_owned()),
        ..python(code)
    }
}

async fn run(stage: &Stage, code: &str) -> Ran {
    let ran = stage.start(inside(code)).await.end().await;
    assert_eq!(ran.verdict(), Verdict::Exited, "{:?}", ran.end);
    ran
}

/// A daemon with a session in which `code` has run.
async fn with_session(code: &str) -> Stage {
    let stage = Stage::new();
    run(&stage, code).await;
    stage
}

/// Sessions stay when their daemon goes, and nothing else does.
async fn end(stage: Stage, sessions: usize) {
    stage.daemon.stop();
    let native = stage.native.clone();
    stage.ended().await;
    assert_eq!(native.live(), sessions, "{:?}", native.steps());
}

fn start(path: &str) -> Put {
    Put::Start(v1::PutStart {
        session: SESSION.to_owned(),
        path: path.to_owned().into(),
    })
}

fn file(path: &str, size_bytes: u64) -> Put {
    Put::Entry(FileEntry {
        path: path.to_owned().into(),
        kind: FileKind::File.into(),
        size_bytes,
        ..FileEntry::default()
    })
}

fn folder(path: &str) -> Put {
    Put::Entry(FileEntry {
        path: path.to_owned().into(),
        kind: FileKind::Folder.into(),
        ..FileEntry::default()
    })
}

fn data(bytes: impl Into<Bytes>) -> Put {
    Put::Data(bytes.into())
}

/// A copy of which the client has not said all.
struct Putting {
    says: mpsc::Sender<PutRequest>,
    answer: AbortOnDropHandle<Result<Response<v1::PutResponse>, Status>>,
}

impl Putting {
    fn start(stage: &Stage) -> Self {
        let (says, said) = mpsc::channel(1);
        let mut client = client(stage, ME);
        #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
        let answer = tokio::spawn(async move { client.put(ReceiverStream::new(said)).await });
        Self {
            says,
            answer: AbortOnDropHandle::new(answer),
        }
    }

    /// False: nobody listens any more.
    async fn say(&self, message: Put) -> bool {
        let message = Some(message);
        self.says.send(PutRequest { message }).await.is_ok()
    }

    async fn end(self) -> Result<v1::PutResponse, Status> {
        drop(self.says);
        let answer = self.answer.await.expect("no panic");
        answer.map(Response::into_inner)
    }
}

async fn put(
    stage: &Stage,
    messages: impl IntoIterator<Item = Put>,
) -> Result<v1::PutResponse, Status> {
    let putting = Putting::start(stage);
    for message in messages {
        if !putting.say(message).await {
            break;
        }
    }
    putting.end().await
}

fn get_request(path: &str) -> v1::GetRequest {
    v1::GetRequest {
        session: SESSION.to_owned(),
        path: path.to_owned().into(),
        ..v1::GetRequest::default()
    }
}

async fn getting(stage: &Stage, request: v1::GetRequest) -> Result<Streaming<GetResponse>, Status> {
    let got = client(stage, ME).get(request).await;
    got.map(Response::into_inner)
}

/// What comes of a path, in short, and the content of all files.
async fn get(stage: &Stage, path: &str) -> Result<(Vec<String>, Vec<u8>), Status> {
    let mut stream = getting(stage, get_request(path)).await?;
    let (mut names, mut content, mut done) = (Vec::new(), Vec::new(), false);
    while let Some(next) = stream.message().await? {
        assert!(!done, "something came after the end");
        match next.message.expect("something") {
            Got::Entry(entry) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                names.push(match entry.kind() {
                    FileKind::Folder => format!("{path}/"),
                    FileKind::Link => format!("{path}@"),
                    _ => path,
                });
            }
            Got::Data(data) => content.extend_from_slice(&data),
            Got::Done(counts) => {
                assert_eq!(counts.bytes, content.len() as u64);
                assert_eq!(counts.entries, names.len() as u64);
                done = true;
            }
        }
    }
    assert!(done, "the stream ended without `done`");
    Ok((names, content))
}

async fn delete(stage: &Stage, path: &str, recursive: bool) -> Result<(), Status> {
    let request = v1::DeleteRequest {
        session: SESSION.to_owned(),
        path: path.to_owned().into(),
        recursive,
    };
    client(stage, ME).delete(request).await.map(drop)
}

#[track_caller]
fn told<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> ErrorDetail {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    ErrorDetail::decode(status.details()).expect("an ErrorDetail")
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_there_for_runs_and_comes_back() {
    let stage = with_session("out x").await;
    let big: Vec<u8> = (0..900_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut messages = vec![start("data"), folder(""), folder("sub")];
    for name in ["sub/a", "sub/b", "sub/c"] {
        messages.push(file(name, big.len() as u64));
        messages.extend(big.chunks(256 << 10).map(|piece| data(piece.to_vec())));
    }
    messages.extend([file("note", 6), data("hello\n")]);
    let total = put(&stage, messages).await.expect("it is written");
    assert_eq!((total.files, total.folders), (4, 2));
    assert_eq!(total.bytes, 2_700_006);
    assert_eq!(run(&stage, "read data/note").await.text(), "hello\n");
    let (names, content) = get(&stage, "/sandbox/data").await.expect("it is there");
    assert_eq!(names, ["/", "note", "sub/", "sub/a", "sub/b", "sub/c"]);
    assert_eq!(content, [b"hello\n", &big[..], &big, &big].concat());
    delete(&stage, "data/note", false)
        .await
        .expect("it is there");
    assert_eq!(run(&stage, "read data/note").await.text(), "no data/note\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_run_leaves_can_be_had() {
    let stage = with_session("write /tmp/a/b made\nlink /tmp/a/l b").await;
    let (names, content) = get(&stage, "/tmp/a").await.expect("it is there");
    assert_eq!(names, ["/", "b", "l@"]);
    assert_eq!(content, b"made\n");
    let (names, content) = get(&stage, "/tmp/a/b").await.expect("it is there");
    assert_eq!(
        (&names[..], &content[..]),
        (&[String::new()][..], &b"made\n"[..])
    );
    let named = v1::GetRequest {
        names_only: true,
        depth: 1,
        ..get_request("/tmp")
    };
    let mut stream = getting(&stage, named).await.expect("it is there");
    let mut names = Vec::new();
    while let Some(next) = stream.message().await.expect("no failure") {
        match next.message.expect("something") {
            Got::Entry(entry) => names.push(entry.path),
            Got::Data(_) => panic!("names have no data"),
            Got::Done(_) => {}
        }
    }
    assert_eq!(names, ["", "a"]);
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_its_owners() {
    let stage = with_session("write secret x").await;
    let mut other = client(&stage, Principal(2000));
    let got = other.get(get_request("secret")).await.expect("a stream");
    let detail = told(got.into_inner().message().await, Code::NotFound);
    assert_eq!(detail.kind, "not_found");
    let request = v1::DeleteRequest {
        session: SESSION.to_owned(),
        path: "secret".into(),
        recursive: false,
    };
    told(other.delete(request).await, Code::NotFound);
    let name = || SESSION.to_owned();
    let removed = other.remove(v1::RemoveSessionRequest {
        name: name(),
        force: true,
    });
    told(removed.await, Code::NotFound);
    let list = other.list(v1::ListSessionsRequest { sizes: true }).await;
    assert!(list.expect("a list").into_inner().sessions.is_empty());
    // Not even that there is one.
    for (who, seen) in [(Principal(2000), 0), (ME, 1)] {
        let mut admin = AdminServiceClient::new(stage.channel(who));
        let status = admin.status(v1::StatusRequest {}).await;
        assert_eq!(status.expect("a status").into_inner().sessions.len(), seen);
    }
    assert_eq!(run(&stage, "read secret").await.text(), "x\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_told_with_what_to_do() {
    let stage = with_session("write dir/file x\nlink link dir").await;
    for path in ["/etc/passwd", "/", "../x", "/sandbox/../etc", "a\0"] {
        told(get(&stage, path).await, Code::InvalidArgument);
        told(delete(&stage, path, true).await, Code::InvalidArgument);
        let copy = [start(path), folder("")];
        told(put(&stage, copy).await, Code::InvalidArgument);
    }
    let detail = told(get(&stage, "nothing").await, Code::NotFound);
    assert!(detail.message.contains("`/sandbox/nothing`"), "{detail:?}");
    told(get(&stage, "link/file").await, Code::InvalidArgument);
    told(delete(&stage, "nothing", true).await, Code::NotFound);
    told(delete(&stage, "/tmp", true).await, Code::InvalidArgument);
    let detail = told(delete(&stage, "dir", false).await, Code::InvalidArgument);
    assert!(detail.hint.contains("session rm -r"), "{detail:?}");
    for copy in [
        vec![start("dir"), file("", 0)],
        vec![start("link"), file("x", 0)],
        vec![start("dir/file"), file("x", 0)],
        vec![start("a"), file("../x", 0)],
        vec![start("a"), file("x", 2), data("x")],
        vec![start("a"), file("x", 1), data("xx")],
        vec![start("a"), data("xx")],
        vec![start("a"), start("b")],
        vec![start("a"), file("x", 1 << 20), data(vec![0; 300 << 10])],
        vec![start("a"), file("x", (16 << 30) + 1)],
        vec![file("x", 0)],
        vec![],
    ] {
        let detail = told(put(&stage, copy.clone()).await, Code::InvalidArgument);
        assert_eq!(detail.kind, "invalid_request", "{copy:?}");
    }
    let none = v1::PutStart {
        session: "none".to_owned(),
        path: "a".into(),
    };
    told(put(&stage, [Put::Start(none)]).await, Code::NotFound);
    // After all that, the session is as it was, and was never without init.
    let (names, _) = get(&stage, "").await.expect("it is there");
    assert!(!names.iter().any(|name| name.starts_with('a')), "{names:?}");
    assert_eq!(run(&stage, "read dir/file").await.text(), "x\n");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_session_says_so_and_goes_on() {
    let stage = Stage::new();
    let small = v1::Start {
        limits: Some(v1::Limits {
            sandbox_bytes: 1 << 20,
            ..v1::Limits::default()
        }),
        ..inside("out x")
    };
    let ran = stage.start(small).await.end().await;
    assert_eq!(ran.verdict(), Verdict::Exited, "{:?}", ran.end);
    let mut copy = vec![
        start("a"),
        file("small", 1),
        data("x"),
        file("big", 4 << 20),
    ];
    copy.extend((0..16).map(|_| data(vec![0; 256 << 10])));
    let detail = told(put(&stage, copy).await, Code::ResourceExhausted);
    assert_eq!(detail.kind, "no_space");
    assert!(detail.message.contains("`/sandbox/a/big`"), "{detail:?}");
    assert!(detail.hint.contains("--sandbox-size"), "{detail:?}");
    let (names, _) = get(&stage, "a").await.expect("it is there");
    assert_eq!(names, ["/", "small"]);
    delete(&stage, "a", true).await.expect("it can be removed");
    end(stage, 1).await;
}

/// Files are memory, and init lives in the same: it must never be what the kernel
/// kills for it.
#[tokio::test(start_paused = true)]
async fn a_session_whose_memory_is_full_is_emptied_and_goes_on() {
    let stage = Stage::new();
    let small = |code: &str| v1::Start {
        limits: Some(v1::Limits {
            memory_bytes: 128 << 20,
            ..v1::Limits::default()
        }),
        ..inside(code)
    };
    let hold = 126 << 20;
    let full = small(&format!("write /tmp/x text\nheld {hold}"));
    let ran = stage.start(full).await.end().await;
    assert_eq!(ran.verdict(), Verdict::Exited, "{:?}", ran.end);
    let id = stage.native.live_ids().remove(0);
    let limit = || {
        let limits = stage.native.limits_of(&id).expect("it lives");
        limits.memory.as_bytes() >> 20
    };
    let copy = vec![start("a"), file("one", 1), data("x")];
    let detail = told(put(&stage, copy).await, Code::ResourceExhausted);
    assert_eq!(detail.kind, "no_space");
    assert!(detail.message.contains("128m"), "{detail:?}");
    assert!(detail.hint.contains("isol8 session rm"), "{detail:?}");
    assert_eq!(limit(), 128, "it is taken back");
    let changes = stage.native.set_limits_total();
    let (_, content) = get(&stage, "/tmp/x").await.expect("it can be read");
    assert_eq!(content, b"text\n");
    assert_eq!(
        stage.native.set_limits_total(),
        changes + 2,
        "init has room"
    );
    // More is held than what a limit can be taken back to.
    stage.native.hold(&id, 130 << 20);
    delete(&stage, "/tmp/x", false).await.expect("it is there");
    assert_eq!(limit(), 144);
    stage.native.hold(&id, 10 << 20);
    let ran = stage.start(small("out fine")).await.end().await;
    assert_eq!(ran.text(), "fine\n");
    assert_eq!(limit(), 128, "a run has what it was promised");
    let copy = vec![start("a"), file("one", 1), data("x")];
    put(&stage, copy).await.expect("it fits");
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_cut_off_leaves_no_half_file() {
    let stage = with_session("out x").await;
    let putting = Putting::start(&stage);
    for message in [
        start("a"),
        file("whole", 1),
        data("x"),
        file("half", 10),
        data("half"),
        data("more"),
    ] {
        assert!(putting.say(message).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // As a client that is killed: no end of the stream, but of the call.
    drop(putting.answer);
    let (names, content) = get(&stage, "a").await.expect("it is there");
    assert_eq!(
        (&names[..], &content[..]),
        (&["/", "whole"].map(str::to_owned)[..], &b"x"[..])
    );
    end(stage, 1).await;
}

/// 8 MiB in a folder `big`.
fn big_copy() -> Vec<Put> {
    let mut copy = vec![start("big")];
    for number in 0..16 {
        copy.push(file(&number.to_string(), 512 << 10));
        copy.extend((0..2).map(|_| data(vec![7; 256 << 10])));
    }
    copy
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_while_it_reads_costs_nobody_the_session() {
    let stage = with_session("write small x").await;
    put(&stage, big_copy()).await.expect("it is written");
    let mut stream = getting(&stage, get_request("big")).await.expect("a stream");
    for _ in 0..3 {
        assert!(stream.message().await.expect("no failure").is_some());
    }
    // While it does not read, others go on.
    let other = stage.run("out other").await;
    assert_eq!(other.text(), "other\n");
    drop(stream);
    let (_, content) = get(&stage, "small").await.expect("it is there");
    assert_eq!(content, b"x\n");
    let (_, content) = get(&stage, "big").await.expect("it is there");
    assert_eq!(content.len(), 8 << 20);
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_waits_for_the_run_before_it() {
    let stage = with_session("out x").await;
    let mut going = stage.start(inside("sleep 5000\nwrite made late")).await;
    going.accepted().await;
    let began = Instant::now();
    let (_, content) = get(&stage, "made").await.expect("it is there by now");
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert_eq!(content, b"late\n");
    assert_eq!(going.end().await.verdict(), Verdict::Exited);
    end(stage, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_waiting_gives_up_its_turn() {
    let stage = with_session("out x").await;
    let mut going = stage.start(inside("hang")).await;
    going.accepted().await;
    let waits = tokio::time::timeout(Duration::from_secs(1), delete(&stage, "a", true));
    assert!(waits.await.is_err(), "the run goes on");
    drop(going);
    let (names, _) = get(&stage, "").await.expect("it is its turn");
    assert_eq!(names[0], "/");
    end(stage, 1).await;
}

/// Every call that is under way or waits gets an answer when the daemon stops.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_daemon_is_told_to_everybody() {
    let stage = with_session("write small x").await;
    let putting = Putting::start(&stage);
    for message in [start("a"), file("half", 10), data("half"), data("more")] {
        assert!(putting.say(message).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stream = getting(&stage, get_request("small")).await;
    let mut stream = stream.expect("it waits for its turn");
    stage.daemon.stop();
    let detail = told(putting.answer.await.expect("no panic"), Code::Unavailable);
    assert_eq!(detail.kind, "shutting_down");
    told(stream.message().await, Code::Unavailable);
    let native = stage.native.clone();
    stage.ended().await;
    assert_eq!(native.live(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_does_not_hold_the_end() {
    let stage = with_session("out x").await;
    put(&stage, big_copy()).await.expect("it is written");
    let mut stream = getting(&stage, get_request("big")).await.expect("a stream");
    assert!(stream.message().await.expect("no failure").is_some());
    let began = Instant::now();
    end(stage, 1).await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_goes_in_the_middle_of_a_copy_says_so() {
    let stage = with_session("out x").await;
    let putting = Putting::start(&stage);
    for message in [start("a"), file("half", 10), data("half"), data("more")] {
        assert!(putting.say(message).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut client = client(&stage, ME);
    let remove = |force| v1::RemoveSessionRequest {
        name: SESSION.to_owned(),
        force,
    };
    told(client.remove(remove(false)).await, Code::FailedPrecondition);
    client.remove(remove(true)).await.expect("it is removed");
    let detail = told(putting.end().await, Code::DataLoss);
    assert_eq!(detail.kind, "session_lost");
    told(get(&stage, "a").await, Code::NotFound);
    end(stage, 0).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_with_their_sizes_and_removed() {
    let stage = with_session("write a 12345\nwrite /tmp/b 123").await;
    let mut client = client(&stage, ME);
    let list = client.list(v1::ListSessionsRequest { sizes: true }).await;
    let sessions = list.expect("a list").into_inner().sessions;
    let [session] = &sessions[..] else {
        panic!("not one: {sessions:?}");
    };
    assert_eq!((&*session.name, &*session.runtime), (SESSION, "python"));
    let program = session.size_bytes.expect("it is idle") - 10;
    assert!(program < 100, "the two files and the program: {session:?}");
    for bad in ["", "../x", "a b"] {
        let name = bad.to_owned();
        let remove = v1::RemoveSessionRequest { name, force: false };
        told(client.remove(remove).await, Code::InvalidArgument);
    }
    let name = SESSION.to_owned();
    let remove = v1::RemoveSessionRequest { name, force: false };
    let removed = client.remove(remove).await.expect("it is removed");
    assert_eq!(removed.into_inner().kept_sandbox_id, "");
    end(stage, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_sandbox_becomes_a_session_with_its_files() {
    let stage = Stage::new();
    let keep = v1::Start {
        persist: true,
        ..python("write a kept")
    };
    let ran = stage.start(keep).await.end().await;
    let id = ran.exited().kept_sandbox_id.clone();
    assert!(!id.is_empty(), "{:?}", ran.end);
    let adopt = |sandbox_id: &str| v1::AdoptRequest {
        sandbox_id: sandbox_id.to_owned(),
        name: SESSION.to_owned(),
    };
    let mut client = client(&stage, ME);
    told(client.adopt(adopt("what?")).await, Code::InvalidArgument);
    told(client.adopt(adopt(&"0".repeat(32))).await, Code::NotFound);
    let adopted = client.adopt(adopt(&id)).await.expect("it is there");
    let session = adopted.into_inner().session.expect("a session");
    assert_eq!((&*session.name, &session.sandbox_id), (SESSION, &id));
    let (_, content) = get(&stage, "a").await.expect("it is there");
    assert_eq!(content, b"kept\n");
    end(stage, 1).await;
}
