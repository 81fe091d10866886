use std::time::Duration;

use isol8_core::egress::record::Action;
use proptest::prelude::*;

use super::*;
use crate::confine::Landlock;

fn filter() -> Filter {
    Filter {
        allow: vec![r"a\.test".to_owned(), String::new()],
        deny: vec!["ü\u{1}\"".to_owned()],
        registries: vec!["r.test".to_owned()],
        allow_private: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ports: vec![80, 0, u16::MAX],
    }
}

fn ends() -> ((Sender, Receiver), (Sender, Receiver)) {
    let (one, two) = pair().unwrap();
    (split(one).unwrap(), split(two).unwrap())
}

#[tokio::test]
async fn orders_arrive_as_they_were_sent_with_their_descriptors() {
    let ((daemon, _), (_, mut process)) = ends();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let open = Order::Open {
        traffic: u64::MAX,
        listener: listener.as_fd(),
        filter: filter(),
    };
    daemon.order(&open).await.unwrap();
    daemon
        .order(&Order::Set {
            traffic: 0,
            filter: filter(),
        })
        .await
        .unwrap();
    daemon.order(&Order::Close { traffic: 3 }).await.unwrap();
    match process.order().await.unwrap().unwrap() {
        Order::Open {
            traffic,
            listener: got,
            filter: read,
        } => {
            assert_eq!((traffic, read), (u64::MAX, filter()));
            let got = std::net::TcpListener::from(got);
            assert_eq!(got.local_addr().unwrap(), listener.local_addr().unwrap());
            let flags = rustix::io::fcntl_getfd(&got).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        other => panic!("{other:?}"),
    }
    match process.order().await.unwrap().unwrap() {
        Order::Set {
            traffic: 0,
            filter: read,
        } => assert_eq!(read, filter()),
        other => panic!("{other:?}"),
    }
    let close = process.order().await.unwrap().unwrap();
    assert!(matches!(close, Order::Close { traffic: 3 }), "{close:?}");
    drop(daemon);
}

#[tokio::test]
async fn the_end_of_one_side_is_the_end_for_the_other() {
    let (daemon, (sender, mut process)) = ends();
    drop(daemon);
    assert!(process.order().await.unwrap().is_none());
    let gone = sender.news(&News::Ready(CONFINED)).await;
    assert!(matches!(gone, Err(ControlError::Gone)), "{gone:?}");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_sent() {
    let ((daemon, _), (_, mut process)) = ends();
    let mut long = filter();
    long.allow = vec!["x".repeat(MAX_MESSAGE_BYTES)];
    assert!(length_of(&long) > MAX_FILTER_BYTES);
    let refused = daemon
        .order(&Order::Set {
            traffic: 1,
            filter: long.clone(),
        })
        .await;
    assert!(
        matches!(refused, Err(ControlError::TooLong(_))),
        "{refused:?}"
    );
    // The longest that is taken arrives.
    long.allow = vec![String::new()];
    long.allow = vec!["x".repeat(MAX_FILTER_BYTES - length_of(&long) - 2)];
    assert!(length_of(&long) <= MAX_FILTER_BYTES);
    assert!(length_of(&long) > MAX_FILTER_BYTES - 8);
    daemon
        .order(&Order::Set {
            traffic: u64::MAX,
            filter: long.clone(),
        })
        .await
        .unwrap();
    match process.order().await.unwrap().unwrap() {
        Order::Set { filter: read, .. } => assert_eq!(read, long),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_descriptor_too_many_is_refused_and_closed() {
    let ((_daemon, mut news), (process, _orders)) = ends();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    process
        .send(&wire::news(&News::Ready(CONFINED)), Some(writer.as_fd()))
        .await
        .unwrap();
    drop(writer);
    let heard = news.news().await;
    assert!(
        matches!(heard, Err(ControlError::Malformed(_))),
        "{heard:?}"
    );
    // The end of the pipe says that nobody holds its other side.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn only_a_packet_socket_is_a_control_socket() {
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(split(stream.into()).is_err());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(split(file.into()).is_err());
}

const CONFINED: Confined = Confined {
    uid: 200_000,
    landlock: Landlock::Partial,
};

#[test]
fn news_are_read_as_they_were_written() {
    let totals = Totals {
        requests: 1,
        blocked: 2,
        unlogged: 3,
        bytes_in: 4,
        bytes_out: u64::MAX,
    };
    let record = Record {
        timestamp_ms: 1_700_000_000_123,
        method: "GET".to_owned(),
        host: "a\nb".to_owned(),
        port: u16::MAX,
        path: None,
        action: Action::Block,
        reason: "not in the allow list".to_owned(),
        bytes_in: 5,
        bytes_out: 6,
        duration: Duration::from_micros(1_234_567),
    };
    let all = [
        News::Ready(CONFINED),
        News::Ack {
            traffic: 1,
            result: Ok(()),
        },
        News::Ack {
            traffic: 1,
            result: Err(String::new()),
        },
        News::Record {
            traffic: 2,
            record: Record {
                path: Some(String::new()),
                ..record.clone()
            },
        },
        News::Record { traffic: 2, record },
        News::Closed { traffic: 3, totals },
    ];
    for news in all {
        assert_eq!(wire::to_news(&wire::news(&news)).unwrap(), news);
    }
}

#[test]
fn a_listener_is_told_from_everything_else() {
    let at = |address: &str| std::net::TcpListener::bind(address).unwrap();
    let own = at("127.0.0.1:0");
    assert_eq!(check_listener(own.as_fd(), true), Ok(()));
    assert!(
        check_listener(own.as_fd(), false).is_err(),
        "the port counts"
    );
    assert!(check_listener(at("0.0.0.0:0").as_fd(), true).is_err());
    assert!(check_listener(at("127.0.0.2:0").as_fd(), true).is_err());
    let client = std::net::TcpStream::connect(own.local_addr().unwrap()).unwrap();
    assert!(check_listener(client.as_fd(), true).is_err());
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(check_listener(udp.as_fd(), true).is_err());
    assert!(check_listener(io::stdin().as_fd(), true).is_err());
}

proptest! {
    /// Whatever comes: an answer, and no panic.
    #[test]
    fn noise_is_no_message(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _order = wire::to_order(&bytes, None);
        let _news = wire::to_news(&bytes);
    }
}
