use bytes::{BufMut, BytesMut};
use isol8_proto::init::{Done, Exited, Failed, FromInit, StdinCredit};
use prost::Message as _;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    time::Instant,
};

use super::*;

fn pair() -> (Link, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (read, write) = tokio::io::split(ours);
    (Link::new(read, write), theirs)
}

fn frames(said: &[from_init::Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for message in said {
        let message = FromInit {
            message: Some(message.clone()),
        };
        let message = message.encode_to_vec();
        bytes.put_u32_le(u32::try_from(message.len()).expect("short"));
        bytes.put_slice(&message);
    }
    bytes
}

async fn settles(said: &[from_init::Message]) -> bool {
    let (mut link, mut init) = pair();
    init.write_all(&frames(said)).await.expect("there is room");
    settle(&mut link).await
}

fn late(files: bool) -> from_init::Message {
    from_init::Message::Failed(Failed {
        files,
        ..Failed::default()
    })
}

/// What the next run must not take for an answer to its own command.
#[tokio::test(start_paused = true)]
async fn late_answers_are_the_last_runs() {
    use from_init::Message;
    let credit = || Message::StdinCredit(StdinCredit { bytes: 7 });
    let done = || Message::Done(Done {});
    assert!(settles(&[done()]).await);
    assert!(settles(&[late(false), credit(), late(false), done()]).await);
    assert!(settles(&[late(true)]).await, "it is an answer too");

    let (mut link, mut init) = pair();
    let said = frames(&[late(false), done(), credit()]);
    init.write_all(&said).await.expect("there is room");
    assert!(settle(&mut link).await);
    let next = link.reader.recv().await;
    assert!(matches!(next, Ok(Message::StdinCredit(_))), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn an_init_that_is_still_at_something_does_not_settle() {
    use from_init::Message;
    let output = Message::Stdout(b"old"[..].into());
    assert!(!settles(&[output, Message::Done(Done {})]).await);
    assert!(!settles(&[Message::Exited(Exited::default())]).await);

    let (mut link, init) = pair();
    drop(init);
    assert!(!settle(&mut link).await, "it is gone");

    let (mut link, _silent) = pair();
    let began = Instant::now();
    assert!(!settle(&mut link).await);
    assert_eq!(began.elapsed(), SETTLE_DEADLINE);
}
