//! What the process does with a daemon that makes no sense, or is gone.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{ExitStatus, Stdio},
};

use isol8_egress::control::{self, Hello, News, Order, Receiver, Sender};
use isol8_engine::uids::UidRange;
use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::rig::{Door, Origin, PATIENCE, assert_passed, only, program, signal};

/// A process on its own, whose daemon is the test.
struct Bare {
    child: Child,
    /// The daemon's end once more, for what no order says.
    raw: OwnedFd,
    sender: Sender,
    receiver: Receiver,
}

fn hello() -> Order<BorrowedFd<'static>> {
    Order::Hello(Hello {
        upstream: None,
        no_proxy: String::new(),
        authorities: None,
        any_port: true,
    })
}

impl Bare {
    fn start() -> Self {
        let (ours, theirs) = control::pair().unwrap();
        let mut command = Command::new(program());
        command
            .arg("egress")
            .stdin(Stdio::from(theirs))
            .kill_on_drop(true);
        let range = UidRange::of_this_process().unwrap();
        let uid = range.lease().unwrap();
        if rustix::process::geteuid().is_root() {
            command.arg("--uid").arg(uid.get().to_string());
        }
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let raw = ours.try_clone().unwrap();
        let (sender, receiver) = control::split(ours).unwrap();
        Self {
            child,
            raw,
            sender,
            receiver,
        }
    }

    async fn greeted() -> Self {
        let mut bare = Self::start();
        let hello = hello();
        bare.sender.order(&hello).await.unwrap();
        let ready = bare.news().await;
        assert!(matches!(ready, News::Ready(_)), "{ready:?}");
        bare
    }

    async fn news(&mut self) -> News {
        let news = timeout(PATIENCE, self.receiver.news())
            .await
            .expect("it answers");
        news.unwrap().expect("it lives")
    }

    fn bytes(&self, bytes: &[u8]) {
        rustix::net::send(&self.raw, bytes, rustix::net::SendFlags::empty()).unwrap();
    }

    async fn status(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .unwrap()
    }

    /// It ends of its own accord, and not as if all had been well.
    async fn assert_ends(self, why: &str) {
        let status = self.status().await;
        assert_eq!(status.code(), Some(1), "{why}: {status}");
    }
}

#[tokio::test]
async fn it_ends_with_the_daemon() {
    let (origin, door) = (Origin::start().await, Door::new());
    let mut bare = Bare::greeted().await;
    let (filter, fd) = (only("localhost", origin.port), door.fd());
    let open = Order::Open {
        traffic: 1,
        listener: fd.as_fd(),
        filter,
    };
    bare.sender.order(&open).await.unwrap();
    assert_eq!(
        bare.news().await,
        News::Ack {
            traffic: 1,
            result: Ok(())
        }
    );
    assert_passed(&door.get(&origin.url("localhost", "/")).await);
    // What a service manager or a terminal sends to everybody is not its end.
    for kind in [Signal::TERM, Signal::INT, Signal::HUP] {
        signal(bare.child.id().unwrap(), kind);
    }
    assert_passed(&door.get(&origin.url("localhost", "/")).await);
    let Bare {
        mut child,
        raw,
        sender,
        receiver,
    } = bare;
    drop((raw, sender, receiver));
    let status = timeout(PATIENCE, child.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert!(status.success(), "{status}");
    door.assert_nobody_accepts().await;
}

#[tokio::test]
async fn it_ends_before_the_first_word_too() {
    let Bare {
        mut child,
        raw,
        sender,
        receiver,
    } = Bare::start();
    drop((raw, sender, receiver));
    let status = timeout(PATIENCE, child.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn garbage_is_its_end() {
    let too_long = vec![0x0a; control::MAX_MESSAGE_BYTES + 1];
    // A message of no kind; noise; more than a message holds.
    let garbage: [&[u8]; 4] = [
        &[0x28, 0x01],
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        &too_long,
    ];
    for bytes in garbage {
        let bare = Bare::start();
        bare.bytes(bytes);
        bare.assert_ends("as the first").await;
        let bare = Bare::greeted().await;
        bare.bytes(bytes);
        bare.assert_ends("later").await;
    }
}

#[tokio::test]
async fn orders_out_of_turn_are_its_end() {
    let door = Door::new();
    let fd = door.fd();
    let set = Order::Set {
        traffic: 7,
        filter: only("x", 80),
    };
    let orders = [set, Order::Close { traffic: 7 }, hello()];
    for order in orders {
        let bare = Bare::greeted().await;
        bare.sender.order(&order).await.unwrap();
        bare.assert_ends(&format!("{order:?}")).await;
    }
    let open = || Order::Open {
        traffic: 1,
        listener: fd.as_fd(),
        filter: only("x", 80),
    };
    let bare = Bare::start();
    bare.sender.order(&open()).await.unwrap();
    bare.assert_ends("an order before `Hello`").await;
    let bare = Bare::greeted().await;
    bare.sender.order(&open()).await.unwrap();
    bare.sender.order(&open()).await.unwrap();
    bare.assert_ends("opened twice").await;
}

#[tokio::test]
async fn descriptors_that_are_no_listener_are_refused() {
    let mut bare = Bare::greeted().await;
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let udp: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let everywhere: OwnedFd = std::net::TcpListener::bind("0.0.0.0:0").unwrap().into();
    let elsewhere: OwnedFd = std::net::TcpListener::bind("127.0.0.2:0").unwrap().into();
    let door = Door::new();
    let connected: OwnedFd = std::net::TcpStream::connect(door.address).unwrap().into();
    let wrong = [file, udp, unix.into(), everywhere, elsewhere, connected];
    for (traffic, fd) in (1..).zip(&wrong) {
        let filter = only("x", 80);
        let open = Order::Open {
            traffic,
            listener: fd.as_fd(),
            filter,
        };
        bare.sender.order(&open).await.unwrap();
        match bare.news().await {
            News::Ack {
                traffic: of,
                result: Err(_),
            } => assert_eq!(of, traffic),
            other => panic!("{traffic}: {other:?}"),
        }
        bare.sender.order(&Order::Close { traffic }).await.unwrap();
        let closed = bare.news().await;
        assert!(matches!(closed, News::Closed { .. }), "{closed:?}");
    }
}

#[tokio::test]
async fn a_filter_that_does_not_compile_opens_nothing() {
    let (mut bare, door) = (Bare::greeted().await, Door::new());
    let fd = door.fd();
    let open = Order::Open {
        traffic: 1,
        listener: fd.as_fd(),
        filter: only("(", 80),
    };
    bare.sender.order(&open).await.unwrap();
    let ack = bare.news().await;
    assert!(matches!(ack, News::Ack { result: Err(_), .. }), "{ack:?}");
    door.assert_nobody_accepts().await;

    let open = Order::Open {
        traffic: 2,
        listener: fd.as_fd(),
        filter: only("x", 80),
    };
    bare.sender.order(&open).await.unwrap();
    assert_eq!(
        bare.news().await,
        News::Ack {
            traffic: 2,
            result: Ok(())
        }
    );
    let set = Order::Set {
        traffic: 2,
        filter: only("(", 80),
    };
    bare.sender.order(&set).await.unwrap();
    let ack = bare.news().await;
    assert!(matches!(ack, News::Ack { result: Err(_), .. }), "{ack:?}");
    // Neither the new one nor the old.
    bare.sender
        .order(&Order::Close { traffic: 2 })
        .await
        .unwrap();
    let closed = bare.news().await;
    assert!(
        matches!(closed, News::Closed { traffic: 2, .. }),
        "{closed:?}"
    );
    door.assert_nobody_accepts().await;
}
