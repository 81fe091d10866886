//! Files on their way out.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use isol8_core::failure::FailureKind;
use isol8_proto::{
    init::{Entry, EntryKind, Fetched, from_init},
    v1::{self, get_response::Message},
};
use rustix::io::Errno;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::init::{Init, entry, failed, pair};
use crate::files::{
    Ask, Events, MAX_ENTRIES, Trouble, WINDOW_BYTES, get, memory::tests::unknown, outlet,
    outlet::MAX_WAITING,
};

/// A read of /tmp/x, and both of its other ends.
async fn reading<T>(
    change: impl FnOnce(&mut v1::GetRequest),
    act: impl AsyncFnOnce(Init, Events, CancellationToken) -> T,
) -> (Result<(), Trouble>, T) {
    let mut asked = v1::GetRequest {
        path: "/tmp/x".into(),
        ..v1::GetRequest::default()
    };
    change(&mut asked);
    let ask = Ask::of(&asked).expect("it is right");
    let (mut link, init) = pair();
    let stop = CancellationToken::new();
    let (outlet, events) = outlet(stop.clone().drop_guard());
    tokio::join!(
        async {
            let got = get(&mut link, &unknown(), &ask, &outlet, &stop).await;
            if let Err(Trouble::Refused(failure) | Trouble::InDoubt(failure)) = &got {
                outlet.fail(failure);
            }
            got
        },
        act(init, events, stop.clone()),
    )
}

/// The rest of what the client gets.
async fn rest(events: &mut Events) -> String {
    let mut shown = Vec::new();
    while let Some(next) = events.next().await {
        shown.push(match next.map(|next| next.message.expect("something")) {
            Ok(Message::Entry(entry)) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                match entry.kind() {
                    v1::FileKind::Folder => format!("{path}/"),
                    v1::FileKind::Link => {
                        format!("{path}->{}", String::from_utf8_lossy(&entry.target))
                    }
                    kind => format!("{path}:{}:{}", kind.as_str_name(), entry.size_bytes),
                }
            }
            Ok(Message::Data(data)) => format!("={}", data.len()),
            Ok(Message::Done(done)) => format!("{} in {}", done.bytes, done.entries),
            Err(status) => format!("{:?}", status.code()),
        });
    }
    shown.join(" ").replace("FILE_KIND_", "")
}

fn data(bytes: usize) -> from_init::Message {
    from_init::Message::EntryData(vec![b'x'; bytes].into())
}

fn fetched(bytes: u64, entries: u32) -> from_init::Message {
    from_init::Message::Fetched(Fetched { bytes, entries })
}

#[track_caller]
fn ended(got: Result<(), Trouble>, refused: bool, kind: FailureKind) {
    let trouble = got.expect_err("it failed");
    let was_refused = matches!(trouble, Trouble::Refused(_));
    let failure = trouble.into_failure();
    assert_eq!(failure.kind, kind, "{failure}");
    assert_eq!(was_refused, refused, "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_tree_comes_in_its_order() {
    let (got, shown) = reading(
        |_| {},
        async |mut init, mut events, _| {
            let order = init.fetch().await;
            assert_eq!((&order.path[..], order.root), (&b"x"[..], 1));
            assert_eq!(
                (order.max_bytes, order.max_entries),
                (unknown().files_bytes(), MAX_ENTRIES)
            );
            assert_eq!(order.credit, WINDOW_BYTES);
            assert!(!order.names_only);
            for message in [
                entry("", EntryKind::Folder, 0),
                entry("a", EntryKind::File, 5),
                data(2),
                data(3),
                from_init::Message::Entry(Entry {
                    path: "b".into(),
                    kind: EntryKind::Link.into(),
                    target: "a".into(),
                    ..Entry::default()
                }),
                entry("c", EntryKind::File, 0),
                fetched(5, 4),
            ] {
                init.say(message).await;
            }
            rest(&mut events).await
        },
    )
    .await;
    assert!(got.is_ok(), "{got:?}");
    assert_eq!(shown, "/ a:FILE:5 =2 =3 b->a c:FILE:0 5 in 4");
}

#[tokio::test(start_paused = true)]
async fn names_come_alone() {
    let names = |asked: &mut v1::GetRequest| {
        asked.names_only = true;
        asked.depth = 2;
        asked.max_entries = 3;
    };
    let (got, shown) = reading(names, async |mut init, mut events, _| {
        let order = init.fetch().await;
        assert!(order.names_only && order.depth == 2 && order.max_entries == 3);
        for message in [
            entry("", EntryKind::Folder, 0),
            entry("huge", EntryKind::File, u64::MAX),
            entry("sock", EntryKind::Other, 7),
            fetched(u64::MAX, 3),
        ] {
            init.say(message).await;
        }
        rest(&mut events).await
    })
    .await;
    assert!(got.is_ok(), "{got:?}");
    let expected = format!("/ huge:FILE:{max} sock:OTHER:0 {max} in 3", max = u64::MAX);
    assert_eq!(shown, expected);
}

/// What is in between is the window, whatever the size of the file.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stops_init() {
    const PIECE: usize = 128 << 10;
    let size = 8 * WINDOW_BYTES;
    let (got, sent) = reading(
        |_| {},
        async |mut init, mut events, _| {
            let mut credit = init.fetch().await.credit;
            init.say(entry("", EntryKind::File, size)).await;
            let mut sent = 0;
            while credit >= PIECE as u64 {
                init.say(data(PIECE)).await;
                credit -= PIECE as u64;
                sent += PIECE as u64;
            }
            assert_eq!(sent, WINDOW_BYTES);
            assert!(
                init.hear_soon().await.is_none(),
                "credit for a client that slept"
            );
            // An hour later it reads on.
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let reader = async {
                let mut read = 0;
                let mut most = 0;
                while let Some(next) = events.next().await {
                    match next.expect("no failure").message {
                        Some(Message::Data(data)) => read += data.len() as u64,
                        Some(Message::Done(done)) => assert_eq!(done.bytes, read),
                        _ => {}
                    }
                    most = most.max(read);
                }
                most
            };
            let writer = async {
                while sent < size {
                    credit += init.credit().await;
                    assert!(credit <= WINDOW_BYTES, "more than the window is open");
                    while credit >= PIECE as u64 && sent < size {
                        init.say(data(PIECE)).await;
                        credit -= PIECE as u64;
                        sent += PIECE as u64;
                    }
                }
                init.say(fetched(size, 1)).await;
            };
            let (read, ()) = tokio::join!(reader, writer);
            assert_eq!(read, size);
            sent
        },
    )
    .await;
    assert!(got.is_ok(), "{got:?}");
    assert_eq!(sent, size);
}

#[tokio::test(start_paused = true)]
async fn entries_wait_for_the_client_in_a_bounded_queue() {
    let (got, ()) = reading(
        |_| {},
        async |mut init, mut events, stop| {
            init.fetch().await;
            init.say(entry("", EntryKind::Folder, 0)).await;
            // The pipe holds 64 KiB and the link reads ahead what it must.
            let long = "x".repeat(250);
            let mut said = 0;
            let flood = async {
                loop {
                    init.say(entry(
                        &format!("{said}{}", &long[..240]),
                        EntryKind::Folder,
                        0,
                    ))
                    .await;
                    said += 1;
                }
            };
            assert!(timeout(Duration::from_secs(5), flood).await.is_err());
            let mut queued = 0;
            while events.next().now_or_never().is_some() {
                queued += 1;
            }
            assert_eq!(queued, MAX_WAITING);
            stop.cancel();
        },
    )
    .await;
    ended(got, false, FailureKind::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_call() {
    let (got, ()) = reading(
        |_| {},
        async |mut init, mut events, _| {
            init.fetch().await;
            init.say(entry("", EntryKind::File, 1 << 30)).await;
            init.say(data(10)).await;
            assert!(events.next().await.is_some());
            drop(events);
        },
    )
    .await;
    // Nobody hears it; the stream to init must be closed.
    ended(got, false, FailureKind::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn what_init_refuses_leaves_the_stream_as_it_was() {
    use FailureKind as Kind;
    for (begun, errno, kind, shown) in [
        (false, Errno::NOENT, Kind::NotFound, "NotFound"),
        (false, Errno::LOOP, Kind::InvalidRequest, "InvalidArgument"),
        (true, Errno::XDEV, Kind::Unsupported, "/ FailedPrecondition"),
        (
            true,
            Errno::TOOBIG,
            Kind::Unsupported,
            "/ FailedPrecondition",
        ),
        (
            true,
            Errno::STALE,
            Kind::SessionBusy,
            "/ FailedPrecondition",
        ),
    ] {
        let (got, told) = reading(
            |_| {},
            async |mut init, mut events, _| {
                init.fetch().await;
                if begun {
                    init.say(entry("", EntryKind::Folder, 0)).await;
                }
                init.say(failed(errno)).await;
                rest(&mut events).await
            },
        )
        .await;
        ended(got, true, kind);
        assert_eq!(told, shown);
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_lies_is_not_believed() {
    let file = |size| entry("a", EntryKind::File, size);
    let folder = || entry("", EntryKind::Folder, 0);
    let cases: Vec<(&str, Vec<from_init::Message>)> = vec![
        ("data of nothing", vec![data(1)]),
        ("data of a folder", vec![folder(), data(1)]),
        ("more data", vec![file(1), data(2)]),
        ("an entry too early", vec![file(2), data(1), folder()]),
        ("an end too early", vec![file(2), data(1), fetched(2, 1)]),
        ("other counts", vec![folder(), fetched(0, 2)]),
        ("other sums", vec![file(1), data(1), fetched(2, 1)]),
        ("too large", vec![file(1001)]),
        ("too large together", vec![file(600), data(600), file(401)]),
        ("too many", vec![folder(), folder(), folder(), folder()]),
        ("a way up", vec![entry("../a", EntryKind::Folder, 0)]),
        ("another root", vec![entry("/etc", EntryKind::Folder, 0)]),
        ("a NUL", vec![entry("a\0", EntryKind::Folder, 0)]),
        ("no kind", vec![entry("a", EntryKind::Unspecified, 0)]),
        ("another's", vec![from_init::Message::Stdout("x".into())]),
    ];
    for (what, messages) in cases {
        let few = |asked: &mut v1::GetRequest| {
            asked.max_bytes = 1000;
            asked.max_entries = 3;
        };
        let lies = async |mut init: Init, mut events: Events, _: CancellationToken| {
            init.fetch().await;
            for message in messages {
                // It may have been found out before its last word.
                init.try_say(message).await.ok();
            }
            rest(&mut events).await
        };
        let (got, told) = reading(few, lies).await;
        assert!(got.is_err(), "{what} went unnoticed");
        ended(got, false, FailureKind::Internal);
        assert!(told.ends_with("Internal"), "{what}: {told}");
    }
    let more_than_credit = async |mut init: Init, mut events: Events, _: CancellationToken| {
        init.fetch().await;
        init.say(entry("", EntryKind::File, 2 * WINDOW_BYTES)).await;
        for _ in 0..5 {
            init.try_say(data(256 << 10)).await.ok();
        }
        while events.next().await.is_some_and(|next| next.is_ok()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let (got, ()) = reading(|_| {}, more_than_credit).await;
    ended(got, false, FailureKind::Internal);
}

#[tokio::test(start_paused = true)]
async fn an_init_that_goes_or_sleeps_is_told_as_such() {
    let (got, told) = reading(
        |_| {},
        async |mut init, mut events, _| {
            init.fetch().await;
            init.say(entry("", EntryKind::File, 10)).await;
            drop(init);
            rest(&mut events).await
        },
    )
    .await;
    ended(got, false, FailureKind::SessionLost);
    assert_eq!(told, ":FILE:10 DataLoss");
    let (got, told) = reading(
        |_| {},
        async |mut init, mut events, _| {
            init.fetch().await;
            init.say(entry("", EntryKind::File, 10)).await;
            rest(&mut events).await
        },
    )
    .await;
    ended(got, false, FailureKind::EngineTimeout);
    assert_eq!(told, ":FILE:10 DeadlineExceeded");
}
