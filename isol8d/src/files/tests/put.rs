//! Files on their way in.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use isol8_core::failure::FailureKind;
use isol8_engine::link::Link;
use isol8_proto::{
    init::{File, FileWritten, Folder, from_init, to_init},
    v1::{self, put_request::Message},
};
use rustix::io::Errno;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::init::{Disk, Init, PIPE_BYTES, failed, pair, serve};
use crate::files::{
    MAX_PIECE_BYTES, Place, Trouble, WINDOW_BYTES,
    memory::tests::{holding, unknown},
    put,
};

type Request = Result<v1::PutRequest, Status>;

fn request(message: Message) -> Request {
    Ok(v1::PutRequest {
        message: Some(message),
    })
}

fn file(path: &str, size_bytes: u64) -> Request {
    request(Message::Entry(v1::FileEntry {
        path: path.to_owned().into(),
        kind: v1::FileKind::File.into(),
        size_bytes,
        ..v1::FileEntry::default()
    }))
}

fn folder(path: &str) -> Request {
    request(Message::Entry(v1::FileEntry {
        path: path.to_owned().into(),
        kind: v1::FileKind::Folder.into(),
        ..v1::FileEntry::default()
    }))
}

fn data(bytes: usize) -> Request {
    request(Message::Data(Bytes::from(vec![b'x'; bytes])))
}

fn base() -> Place {
    Place::parse(b"/sandbox").expect("a place")
}

async fn put_all<S>(link: &mut Link, client: &mut S) -> Result<v1::PutResponse, Trouble>
where
    S: Stream<Item = Request> + Unpin,
{
    put(link, &unknown(), base(), client, &CancellationToken::new()).await
}

/// Everything that a client sends, to an init that obeys: how it ended, whether
/// the stream is still in step, and what is on the disk.
async fn written(disk: Disk, client: Vec<Request>) -> (Result<v1::PutResponse, Trouble>, Disk) {
    let (mut link, init) = pair();
    let mut client = stream::iter(client);
    let (put, disk) = tokio::join!(
        async {
            let put = put_all(&mut link, &mut client).await;
            if !matches!(put, Err(Trouble::InDoubt(_))) {
                in_step(&mut link).await;
            }
            drop(link);
            put
        },
        serve(init, disk),
    );
    (put, disk)
}

/// The next answer is that of the next command.
async fn in_step(link: &mut Link) {
    let next = to_init::Message::File(File {
        path: "next".into(),
        data: "12345".into(),
        last: true,
        ..File::default()
    });
    link.writer.send(next).await.expect("it listens");
    let answer = link.reader.recv().await.expect("an answer");
    let expected = from_init::Message::FileWritten(FileWritten { bytes: 5 });
    assert_eq!(answer, expected, "the stream is out of step");
}

#[track_caller]
fn refused(put: Result<v1::PutResponse, Trouble>, kind: FailureKind, part: &str) {
    match put {
        Err(Trouble::Refused(failure)) => {
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.to_string().contains(part), "{failure}");
        }
        other => panic!("not refused in order: {other:?}"),
    }
}

#[track_caller]
fn in_doubt(put: Result<v1::PutResponse, Trouble>, kind: FailureKind) {
    match put {
        Err(Trouble::InDoubt(failure)) => assert_eq!(failure.kind, kind, "{failure}"),
        other => panic!("the stream is not in doubt: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_written_in_its_order() {
    let (put, disk) = written(
        Disk::default(),
        vec![
            folder("a"),
            file("a/big", 600_000),
            data(250_000),
            data(250_000),
            data(100_000),
            file("a/empty", 0),
            folder("b"),
            file("last", 3),
            data(1),
            data(2),
        ],
    )
    .await;
    let total = v1::PutResponse {
        bytes: 600_003,
        files: 3,
        folders: 2,
    };
    assert_eq!(put.expect("it is written"), total);
    let sizes = disk.files.iter();
    let sizes: Vec<_> = sizes
        .map(|(name, content)| (name.as_str(), content.len()))
        .collect();
    let expected = [("a/big", 600_000), ("a/empty", 0), ("last", 3), ("next", 5)];
    assert_eq!(sizes, expected);
    assert_eq!(disk.folders, ["a", "b"]);
}

/// Before a byte of it goes: the kernel would kill init for it.
#[tokio::test(start_paused = true)]
async fn what_the_memory_does_not_hold_is_not_sent() {
    // A step of the looks.
    let step = 4 << 20;
    for (held_mib, size, expected) in [(100, 21 << 20, None), (100, step, Some(step))] {
        let (_fake, memory) = holding(held_mib);
        let (mut link, init) = pair();
        let mut client = vec![file("small", 1), data(1), file("big", size)];
        client.extend((0..size / MAX_PIECE_BYTES as u64).map(|_| data(MAX_PIECE_BYTES)));
        let mut client = stream::iter(client);
        let (put, disk) = tokio::join!(
            async {
                let stop = CancellationToken::new();
                let put = put(&mut link, &memory, base(), &mut client, &stop).await;
                in_step(&mut link).await;
                drop(link);
                put
            },
            serve(init, Disk::default()),
        );
        let big = disk.files.get("big").map(|content| content.len() as u64);
        assert_eq!(big, expected);
        if expected.is_none() {
            refused(
                put,
                FailureKind::NoSpace,
                "`/sandbox/big`: the session's memory limit",
            );
        } else {
            put.expect("it fits");
        }
        let small = disk.files.get("small").map(Vec::len);
        assert_eq!(small, Some(1), "what came before it is there");
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_goes_meanwhile_ends_a_copy() {
    let (fake, memory) = holding(20);
    let (mut link, init) = pair();
    let pieces = (0..400).map(|number| {
        if number == 100 {
            fake.hold(&fake.live_ids()[0], 120 << 20);
        }
        data(MAX_PIECE_BYTES)
    });
    let entry = file("big", 400 * MAX_PIECE_BYTES as u64);
    let mut client = stream::iter(std::iter::once(entry).chain(pieces));
    let (put, disk) = tokio::join!(
        async {
            let stop = CancellationToken::new();
            let put = put(&mut link, &memory, base(), &mut client, &stop).await;
            in_step(&mut link).await;
            drop(link);
            put
        },
        serve(init, Disk::default()),
    );
    refused(put, FailureKind::NoSpace, "memory limit of 128m");
    assert!(!disk.files.contains_key("big"), "half a file");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_of_nothing() {
    let (put, disk) = written(Disk::default(), Vec::new()).await;
    assert_eq!(put.expect("it is nothing"), v1::PutResponse::default());
    assert_eq!(disk.files.len(), 1, "only the next command's");
}

#[tokio::test(start_paused = true)]
async fn half_a_file_is_no_file() {
    let cut = || Err(Status::cancelled("gone"));
    for (end, part) in [
        (cut(), "cut off"),
        (data(3), "longer than it was said"),
        (file("other", 0), "1 of 3 bytes"),
        (folder("/"), "1 of 3 bytes"),
        (Ok(v1::PutRequest::default()), "does not know"),
    ] {
        for pieces in [1, 2] {
            let size = pieces + 2;
            let mut client = vec![file("whole", 1), data(1), file("half", size)];
            client.extend((0..pieces).map(|_| data(1)));
            client.push(end.clone());
            let (put, disk) = written(Disk::default(), client).await;
            let part = part.replace("1 of 3", &format!("{pieces} of {size}"));
            refused(put, FailureKind::InvalidRequest, &part);
            let names: Vec<_> = disk.files.keys().collect();
            assert_eq!(names, ["next", "whole"]);
            assert!(!disk.has_half());
        }
    }
}

/// Only the end of the stream says that the client meant this to be all.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_off_after_its_last_byte_has_not_finished() {
    let client = vec![file("a", 1), data(1), Err(Status::cancelled("gone"))];
    let (put, disk) = written(Disk::default(), client).await;
    refused(put, FailureKind::InvalidRequest, "cut off");
    assert!(!disk.files.contains_key("a"));
}

#[tokio::test(start_paused = true)]
async fn what_init_refuses_ends_the_copy_and_leaves_the_stream_in_step() {
    for (errno, kind) in [
        (Errno::NOSPC, FailureKind::NoSpace),
        (Errno::EXIST, FailureKind::InvalidRequest),
        (Errno::ACCESS, FailureKind::Unsupported),
    ] {
        let disk = Disk::with_bad("bad", errno);
        let mut client = vec![file("good", 1), data(1), file("bad", 5 << 20)];
        client.extend((0..20).map(|_| data(MAX_PIECE_BYTES)));
        client.push(file("after", 0));
        let (put, disk) = written(disk, client).await;
        refused(put, kind, "`/sandbox/bad`");
        assert!(disk.files.contains_key("good"));
        assert!(!disk.files.contains_key("bad"));
        assert!(!disk.files.contains_key("after"), "it was stopped at once");
    }
}

/// Many entries are on their way when one of the first fails.
#[tokio::test(start_paused = true)]
async fn the_answers_behind_a_refusal_are_taken_too() {
    let disk = Disk::with_bad("f3", Errno::EXIST);
    let names = (0..100).map(|number| match number % 2 {
        0 => folder(&format!("f{number}")),
        _ => file(&format!("f{number}"), 0),
    });
    let (put, disk) = written(disk, names.collect()).await;
    refused(put, FailureKind::InvalidRequest, "`/sandbox/f3`");
    assert!(disk.files.contains_key("f1") && !disk.files.contains_key("f3"));
}

/// A client whose messages are counted as they are taken.
struct Counted<S> {
    inner: S,
    taken: Arc<AtomicU64>,
}

impl<S: Stream<Item = Request> + Unpin> Stream for Counted<S> {
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let next = self.inner.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(request))) = &next {
            let bytes = match &request.message {
                Some(Message::Data(data)) => data.len() as u64,
                _ => 0,
            };
            self.taken.fetch_add(bytes, Ordering::Relaxed);
        }
        next
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_does_not_read_stops_the_client() {
    let (mut link, init) = pair();
    let taken = Arc::<AtomicU64>::default();
    let endless = stream::repeat_with(|| data(MAX_PIECE_BYTES));
    let mut client = Counted {
        inner: stream::iter([file("a", 1 << 30)]).chain(endless),
        taken: Arc::clone(&taken),
    };
    let put = timeout(Duration::from_secs(5), put_all(&mut link, &mut client)).await;
    assert!(put.is_err(), "it waits");
    let taken = taken.load(Ordering::Relaxed);
    let most = WINDOW_BYTES + PIPE_BYTES as u64;
    assert!(taken <= most, "{taken} bytes wait in the daemon");
    assert!(taken >= WINDOW_BYTES / 2, "{taken} bytes are too few");
    drop(init);
}

#[tokio::test(start_paused = true)]
async fn an_init_that_does_not_answer_hears_of_so_many_entries_and_no_more() {
    let (mut link, mut init) = pair();
    let mut number = 0;
    let mut client = stream::repeat_with(move || {
        number += 1;
        folder(&format!("f{number}"))
    });
    let put = put_all(&mut link, &mut client);
    let hears = async {
        let mut heard = 0;
        while init.hear_soon().await.is_some() {
            heard += 1;
        }
        heard
    };
    tokio::select! {
        put = put => panic!("it ended: {put:?}"),
        heard = hears => assert_eq!(heard, 256),
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_does_nothing_is_given_up_and_a_slow_client_is_not() {
    let began = Instant::now();
    let (mut link, _init) = pair();
    let put = put_all(&mut link, &mut stream::iter([folder("a")])).await;
    in_doubt(put, FailureKind::EngineTimeout);
    assert!(began.elapsed() >= Duration::from_secs(30));
    let (mut link, init) = pair();
    let hour = Duration::from_secs(3600);
    let slow = stream::iter([file("a", 2), data(1), data(0), data(1)]);
    let mut client = Box::pin(slow.then(|request| async move {
        tokio::time::sleep(hour).await;
        request
    }));
    let (put, _) = tokio::join!(
        async {
            let put = put_all(&mut link, &mut client).await;
            drop(link);
            put
        },
        serve(init, Disk::default())
    );
    assert_eq!(put.expect("it is written").bytes, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_leaves_nothing_behind() {
    let (mut link, init) = pair();
    let stop = CancellationToken::new();
    let half = stream::iter([file("a", 9), data(1), data(1)]);
    let mut client = half.chain(stream::pending());
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.cancel();
    };
    let (put, (), disk) = tokio::join!(
        async {
            let put = put(&mut link, &unknown(), base(), &mut client, &stop).await;
            in_step(&mut link).await;
            drop(link);
            put
        },
        stopping,
        serve(init, Disk::default()),
    );
    refused(put, FailureKind::ShuttingDown, "going down");
    assert!(!disk.has_half() && !disk.files.contains_key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_init_that_says_nothing() {
    let (mut link, _init) = pair();
    let stop = CancellationToken::new();
    stop.cancel();
    let began = Instant::now();
    let mut client = stream::pending();
    let put = put(&mut link, &unknown(), base(), &mut client, &stop).await;
    in_doubt(put, FailureKind::ShuttingDown);
    assert!(began.elapsed() <= Duration::from_secs(2));
}

/// One command, and what init does about it before it waits.
async fn after_one(
    client: Vec<Request>,
    act: impl AsyncFnOnce(Init) -> Option<Init>,
) -> Result<v1::PutResponse, Trouble> {
    let (mut link, mut init) = pair();
    let mut client = stream::iter(client).chain(stream::pending());
    let acting = async {
        init.hear().await.expect("a command");
        let _waits = act(init).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        put = put_all(&mut link, &mut client) => put,
        () = acting => unreachable!("it waits"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_goes_is_told_as_such() {
    let put = after_one(vec![folder("a")], async |_gone| None).await;
    in_doubt(put, FailureKind::SessionLost);
}

#[tokio::test(start_paused = true)]
async fn an_init_that_lies_is_not_believed() {
    let two = || vec![file("a", 1), data(1), folder("b")];
    let say = async |client, message: from_init::Message| {
        let act = async |mut init: Init| {
            init.say(message).await;
            Some(init)
        };
        timeout(Duration::from_secs(10), after_one(client, act)).await
    };
    let wrote = |bytes| from_init::Message::FileWritten(FileWritten { bytes });
    let of_a_program = match failed(Errno::NOENT) {
        from_init::Message::Failed(mut failed) => {
            failed.files = false;
            from_init::Message::Failed(failed)
        }
        other => other,
    };
    for lie in [
        wrote(2),
        from_init::Message::Done(isol8_proto::init::Done {}),
        from_init::Message::Stdout("x".into()),
        of_a_program,
    ] {
        let put = say(two(), lie.clone()).await;
        let put = put.unwrap_or_else(|_| panic!("{lie:?} went unnoticed"));
        in_doubt(put, FailureKind::Internal);
    }
    let put = say(vec![folder("b")], wrote(0)).await.expect("noticed");
    in_doubt(put, FailureKind::Internal);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_nothing_is_a_breach() {
    let (mut link, mut init) = pair();
    let mut client = stream::pending();
    let (put, ()) = tokio::join!(put_all(&mut link, &mut client), async {
        init.say(from_init::Message::Done(isol8_proto::init::Done {}))
            .await;
    });
    in_doubt(put, FailureKind::Internal);
}

/// What settles a half file is what the real init takes for an end of it.
#[tokio::test(start_paused = true)]
async fn a_half_file_is_given_up_by_a_file_that_cannot_be() {
    let (mut link, mut init) = pair();
    let half = [file("a", 9), data(1), data(1), Err(Status::cancelled("x"))];
    let mut client = stream::iter(half);
    let (_, heard) = tokio::join!(put_all(&mut link, &mut client), async {
        let mut heard = Vec::new();
        while let Some(command) = init.hear_soon().await {
            heard.push(command);
        }
        heard
    });
    let last = &heard[heard.len() - 2..];
    let expected = [
        to_init::Message::File(File {
            last: true,
            ..File::default()
        }),
        to_init::Message::Folder(Folder::default()),
    ];
    assert_eq!(last, expected);
}
