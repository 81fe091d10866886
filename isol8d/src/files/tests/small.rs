//! Removing and counting.

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::init::{Done, EntryKind, Fetched, from_init, to_init};
use rustix::io::Errno;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::init::{Init, entry, failed, pair};
use crate::files::{Place, Trouble, delete, size};

/// Asks to have /tmp/a removed.
async fn deleting(
    recursive: bool,
    act: impl AsyncFnOnce(Init, isol8_proto::init::Remove),
) -> Result<(), Trouble> {
    let (mut link, mut init) = pair();
    let place = Place::parse(b"/tmp/a").expect("a place");
    let stop = CancellationToken::new();
    let (deleted, ()) = tokio::join!(delete(&mut link, &place, recursive, &stop), async {
        let Some(to_init::Message::Remove(remove)) = init.hear().await else {
            panic!("no `Remove`");
        };
        act(init, remove).await;
    });
    deleted
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_removed() {
    for recursive in [false, true] {
        let deleted = deleting(recursive, async |mut init, remove| {
            assert_eq!(remove.recursive, recursive);
            assert_eq!((&remove.path[..], remove.root), (&b"a"[..], 1));
            init.say(from_init::Message::Done(Done {})).await;
        });
        assert!(deleted.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_says_why() {
    for (errno, kind) in [
        (Errno::NOENT, FailureKind::NotFound),
        (Errno::ISDIR, FailureKind::InvalidRequest),
        (Errno::NOTEMPTY, FailureKind::SessionBusy),
    ] {
        let deleted = deleting(false, async |mut init, _| init.say(failed(errno)).await);
        match deleted.await {
            Err(Trouble::Refused(failure)) => assert_eq!(failure.kind, kind),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_about_a_removal_stays_one() {
    let told = |deleted| match deleted {
        Err(Trouble::InDoubt(failure)) => failure.kind,
        other => panic!("{other:?}"),
    };
    let gone = deleting(false, async |_, _| {}).await;
    assert_eq!(told(gone), FailureKind::SessionLost);
    let lie = Fetched::default();
    let lie = deleting(false, async |mut init, _| {
        init.say(from_init::Message::Fetched(lie)).await;
    });
    assert_eq!(told(lie.await), FailureKind::Internal);
    let silent = deleting(false, async |init, _| {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(init);
    });
    assert_eq!(told(silent.await), FailureKind::EngineTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_removal_ends_when_it_is_stopped() {
    let (mut link, _init) = pair();
    let place = Place::parse(b"/tmp/a").expect("a place");
    let stop = CancellationToken::new();
    stop.cancel();
    let deleted = delete(&mut link, &place, true, &stop).await;
    assert!(matches!(deleted, Err(Trouble::InDoubt(_))), "{deleted:?}");
}

/// Nothing is sent for what cannot be.
#[tokio::test(start_paused = true)]
async fn a_root_cannot_be_removed() {
    for root in [&b"/sandbox"[..], b"/tmp/", b"."] {
        let (mut link, mut init) = pair();
        let place = Place::parse(root).expect("a root");
        let stop = CancellationToken::new();
        let deleted = delete(&mut link, &place, true, &stop).await;
        assert!(matches!(deleted, Err(Trouble::Refused(_))), "{deleted:?}");
        assert!(init.hear_soon().await.is_none());
    }
}

/// Counts, and gives what the link has for the next after it.
async fn counted(act: impl AsyncFnOnce(Init)) -> Result<u64, Failure> {
    let (mut link, init) = pair();
    let (size, ()) = tokio::join!(size(&mut link), act(init));
    size
}

#[tokio::test(start_paused = true)]
async fn both_roots_are_counted_by_names_alone() {
    let size = counted(async |mut init| {
        for root in [0, 1] {
            let order = init.fetch().await;
            assert!(order.names_only && order.root == root && order.path.is_empty());
            assert_eq!(order.max_entries, if root == 0 { 200_000 } else { 199_997 });
            init.say(entry("", EntryKind::Folder, 0)).await;
            init.say(entry("a", EntryKind::File, 1000)).await;
            init.say(entry("l", EntryKind::Link, 5)).await;
            let (bytes, entries) = (1000, 3);
            init.say(from_init::Message::Fetched(Fetched { bytes, entries }))
                .await;
        }
    });
    assert_eq!(size.await, Ok(2000));
}

#[tokio::test(start_paused = true)]
async fn with_too_many_it_is_what_was_counted_until_then() {
    let size = counted(async |mut init| {
        for _ in 0..2 {
            init.fetch().await;
            init.say(entry("", EntryKind::Folder, 0)).await;
            init.say(entry("a", EntryKind::File, u64::MAX)).await;
            init.say(failed(Errno::TOOBIG)).await;
        }
    });
    assert_eq!(size.await, Ok(u64::MAX));
}

#[tokio::test(start_paused = true)]
async fn a_size_is_not_waited_for() {
    let began = Instant::now();
    let size = counted(async |mut init| {
        init.fetch().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let failure = size.await.expect_err("it took too long");
    assert_eq!(failure.kind, FailureKind::EngineTimeout);
    assert!(began.elapsed() < Duration::from_secs(61));
    let size = counted(async |mut init| {
        init.fetch().await;
        init.say(entry("a", EntryKind::File, 1)).await;
        init.say(from_init::Message::EntryData("x".into())).await;
    });
    let failure = size.await.expect_err("names have no data");
    assert_eq!(failure.kind, FailureKind::Internal);
}
