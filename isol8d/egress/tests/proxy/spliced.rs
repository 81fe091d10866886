//! Connections that carry much: bytes go through pipes of the kernel's.

use std::{fs, time::Duration};

use isol8_core::egress::rules::Rules;
use isol8_egress::{Limits, Net};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    life::tunnel,
    rig::{
        Origin, PATIENCE, Proxy, assert_allowed, names, only, open, read_all, read_answer,
        read_head, read_request, status, until,
    },
};

/// A prime: no size of a buffer or a page is a multiple of it.
const PERIOD: usize = 65_521;

/// More than is copied before anything is spliced.
const MUCH: u64 = 3_000_017;

/// The same bytes over and over, which no lost or doubled page leaves so.
struct Pattern(Vec<u8>);

impl Pattern {
    const LARGEST: usize = 300_007;

    fn new() -> Self {
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        Self(
            period
                .into_iter()
                .cycle()
                .take(PERIOD + Self::LARGEST)
                .collect(),
        )
    }

    fn at(&self, place: u64, count: usize) -> &[u8] {
        let start = usize::try_from(place % PERIOD as u64).unwrap();
        &self.0[start..start + count]
    }

    /// Sends what stands from `place` on, in pieces of odd sizes.
    async fn send<W: AsyncWrite + Unpin>(&self, to: &mut W, place: u64, bytes: u64) {
        let (mut sent, mut size) = (0, 1);
        while sent < bytes {
            let count = usize::try_from(bytes - sent).unwrap().min(size);
            to.write_all(self.at(place + sent, count)).await.unwrap();
            sent += count as u64;
            size = (size * 7 + 3) % Self::LARGEST + 1;
        }
    }

    /// Reads exactly so much, and it is what stands from `place` on.
    async fn expect<R: AsyncRead + Unpin>(&self, from: &mut R, place: u64, bytes: u64) {
        let (mut seen, mut buffer) = (0, vec![0; Self::LARGEST]);
        while seen < bytes {
            let most = usize::try_from(bytes - seen).unwrap().min(buffer.len());
            let count = timeout(PATIENCE, from.read(&mut buffer[..most]))
                .await
                .expect("bytes come")
                .unwrap();
            assert!(count > 0, "only {seen} of {bytes} came");
            assert!(
                buffer[..count] == *self.at(place + seen, count),
                "other bytes after {seen}"
            );
            seen += count as u64;
        }
    }
}

/// Ends of pipes that this process has. Each test is a process of its own.
fn pipes() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|link| fs::read_link(link.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("pipe:"))
        .count()
}

/// Pipes of the test's own surroundings do not count.
struct Before(usize);

impl Before {
    fn now() -> Self {
        Self(pipes())
    }

    fn made(&self) -> usize {
        pipes().saturating_sub(self.0)
    }
}

async fn with(limits: Limits, port: u16) -> Proxy {
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    Proxy::with(net, limits, Some(open(&[port]))).await
}

/// Answers every connection's first request with a body of which it sends
/// `sent` bytes, and then does as `then` says.
async fn body(length: u64, sent: u64, then: Then) -> Origin {
    Origin::run("127.0.0.1:0", move |mut stream, seen| async move {
        let request = read_request(&mut stream).await;
        seen.lock().unwrap().push(request);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Pattern::new().send(&mut stream, 0, sent).await;
        match then {
            Then::End => {}
            Then::Wait => {
                let mut rest = Vec::new();
                let _reset = stream.read_to_end(&mut rest).await;
                seen.lock().unwrap().push("told".to_owned());
            }
        }
    })
    .await
}

#[derive(Clone, Copy)]
enum Then {
    End,
    Wait,
}

/// Sends for ever, whatever comes.
async fn flood() -> Origin {
    Origin::run("127.0.0.1:0", |mut stream, _| async move {
        let mut first = [0; 4096];
        let count = stream.read(&mut first).await.unwrap();
        if first[..count].starts_with(b"GET ") {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                u64::MAX >> 1
            );
            stream.write_all(head.as_bytes()).await.unwrap();
        }
        let piece = vec![b'x'; 100_003];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await
}

async fn ask(stream: &mut TcpStream, port: u16) {
    let request = format!("GET http://origin.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// A plain answer that has begun, or a tunnel.
async fn begin(proxy: &Proxy, port: u16, is_plain: bool) -> TcpStream {
    if is_plain {
        let mut stream = proxy.dial().await;
        ask(&mut stream, port).await;
        assert_eq!(status(&read_head(&mut stream).await), 200);
        stream
    } else {
        let (mut stream, _) = proxy.connect(&format!("origin.test:{port}")).await;
        let hello = crate::tunnels::client_hello("origin.test");
        stream.write_all(&hello).await.unwrap();
        stream
    }
}

/// Reads until something is spliced, and a good deal more.
async fn read_much(stream: &mut TcpStream, before: &Before) {
    let mut buffer = vec![0; 100_000];
    let mut seen = 0;
    while seen < 8 << 20 || before.made() == 0 {
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = count.expect("bytes come").unwrap();
        assert!(count > 0, "it ended after {seen}");
        seen += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_passes_a_tunnel_byte_for_byte() {
    let each: u64 = (512 << 20) + 4_099;
    let (origin, before, pattern) = (Origin::echo().await, Before::now(), Pattern::new());
    let proxy = Proxy::start(open(&[origin.port])).await;
    let stream = tunnel(&proxy, "origin.test", origin.port).await;
    let (mut read, mut write) = stream.into_split();
    let send = async {
        pattern.send(&mut write, 0, each / 2).await;
        assert_eq!(before.made(), 4, "a pipe each way");
        pattern.send(&mut write, each / 2, each - each / 2).await;
        write.shutdown().await.unwrap();
    };
    let receive = async {
        pattern.expect(&mut read, 0, each).await;
        assert_eq!(read_all(&mut read).await, "");
    };
    tokio::join!(send, receive);
    let record = proxy.record().await;
    assert_allowed(&record, "every public host is open");
    assert_eq!(record.bytes_in, record.bytes_out);
    let hello = record.bytes_in - each;
    assert!((100..4096).contains(&hello), "{record:?}");
    until(|| before.made() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_pass_byte_for_byte_on_one_connection() {
    let pattern = Pattern::new();
    for length in [524_287, 524_288, 524_289, MUCH, (200 << 20) + 1] {
        let before = Before::now();
        let origin = body(length, length, Then::End).await;
        let proxy = Proxy::start(open(&[origin.port])).await;
        let mut stream = proxy.dial().await;
        // The second is there before the first is answered.
        ask(&mut stream, origin.port).await;
        ask(&mut stream, origin.port).await;
        for _ in 0..2 {
            let head = read_head(&mut stream).await;
            assert_eq!(status(&head), 200);
            assert!(
                head.contains(&format!("content-length: {length}")),
                "{head}"
            );
            pattern.expect(&mut stream, 0, length).await;
        }
        ask(&mut stream, origin.port).await;
        read_head(&mut stream).await;
        pattern.expect(&mut stream, 0, length).await;
        for record in proxy.records(3).await {
            assert_allowed(&record, "every public host is open");
            assert!(
                (length..length + 100).contains(&record.bytes_in),
                "{record:?}"
            );
        }
        until(|| before.made() == 0).await;
        let totals = proxy.gate.close().await;
        assert_eq!((totals.requests, totals.blocked), (3, 0));
    }
}

#[tokio::test]
async fn a_client_that_does_not_keep_the_connection_sees_its_end() {
    let origin = body(MUCH, MUCH, Then::Wait).await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    for (version, field) in [("1.1", "Connection: close\r\n"), ("1.0", "")] {
        let mut stream = proxy.dial().await;
        let url = format!("http://origin.test:{}/", origin.port);
        let request = format!("GET {url} HTTP/{version}\r\nHost: x\r\n{field}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
        Pattern::new().expect(&mut stream, 0, MUCH).await;
        assert_eq!(read_all(&mut stream).await, "");
    }
    for record in proxy.records(2).await {
        assert_allowed(&record, "every public host is open");
    }
}

#[tokio::test]
async fn what_an_origin_sends_behind_its_answer_goes_to_nobody() {
    let origin = body(MUCH, MUCH + 70_000, Then::End).await;
    let small = Origin::hello().await;
    let proxy = Proxy::start(open(&[origin.port, small.port])).await;
    let mut stream = proxy.dial().await;
    ask(&mut stream, origin.port).await;
    read_head(&mut stream).await;
    Pattern::new().expect(&mut stream, 0, MUCH).await;
    ask(&mut stream, small.port).await;
    let answer = read_answer(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_answer_that_ends_too_soon_is_cut_off() {
    let origin = body(MUCH, MUCH - 1, Then::End).await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = begin(&proxy, origin.port, true).await;
    Pattern::new().expect(&mut stream, 0, MUCH - 1).await;
    assert_eq!(read_all(&mut stream).await, "");
    assert_allowed(&proxy.record().await, "cut off: the connection broke");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_ends_its_request() {
    let origin = body(2 * MUCH, MUCH, Then::Wait).await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = begin(&proxy, origin.port, true).await;
    Pattern::new().expect(&mut stream, 0, MUCH).await;
    drop(stream);
    until(|| origin.seen().contains(&"told".to_owned())).await;
    assert_allowed(&proxy.record().await, "cut off: the connection broke");
}

#[tokio::test]
async fn each_side_may_end_its_direction_first() {
    let pattern = Pattern::new();
    // The program does.
    let origin = Origin::echo().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = tunnel(&proxy, "origin.test", origin.port).await;
    {
        let (mut read, mut write) = stream.split();
        tokio::join!(
            pattern.send(&mut write, 0, MUCH),
            pattern.expect(&mut read, 0, MUCH)
        );
        let last = async {
            pattern.send(&mut write, MUCH, MUCH).await;
            write.shutdown().await.unwrap();
        };
        tokio::join!(last, pattern.expect(&mut read, MUCH, MUCH));
    }
    assert_eq!(read_all(&mut stream).await, "");
    assert_allowed(&proxy.record().await, "every public host is open");

    // The origin does, and reads on.
    let origin = Origin::run("127.0.0.1:0", |mut stream, seen| async move {
        let mut hello = [0; 1];
        stream.read_exact(&mut hello).await.unwrap();
        Pattern::new().send(&mut stream, 0, MUCH).await;
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        let sent = Pattern::new().at(0, 100_000).to_vec();
        let is_whole = rest.ends_with(&sent) && rest.len() > 1 << 20;
        seen.lock().unwrap().push(is_whole.to_string());
    })
    .await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = begin(&proxy, origin.port, false).await;
    pattern.expect(&mut stream, 0, MUCH).await;
    assert_eq!(read_all(&mut stream).await, "");
    stream.write_all(&vec![b'y'; 1 << 20]).await.unwrap();
    stream.write_all(pattern.at(0, 100_000)).await.unwrap();
    drop(stream);
    until(|| origin.seen() == ["true"]).await;
    assert_allowed(&proxy.record().await, "every public host is open");
}

#[tokio::test]
async fn the_byte_limit_holds_in_the_middle() {
    let cap: u64 = 20_000_003;
    for is_plain in [true, false] {
        let (origin, before) = (flood().await, Before::now());
        let limits = Limits {
            bytes: cap,
            ..Limits::default()
        };
        let proxy = with(limits, origin.port).await;
        let mut stream = begin(&proxy, origin.port, is_plain).await;
        let mut seen = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut seen))
            .await
            .unwrap();
        assert!(seen.len() as u64 <= cap);
        let record = proxy.record().await;
        assert_allowed(&record, "cut off: the byte limit of the run is reached");
        // The byte by which it was noticed.
        assert_eq!(record.bytes_in + record.bytes_out, cap + 1, "{record:?}");
        until(|| before.made() == 0).await;
    }
    // The other way.
    let origin = Origin::run("127.0.0.1:0", |mut stream, _| async move {
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    let limits = Limits {
        bytes: cap,
        ..Limits::default()
    };
    let proxy = with(limits, origin.port).await;
    let mut stream = begin(&proxy, origin.port, false).await;
    while stream.write_all(&[7; 100_003]).await.is_ok() {}
    let record = proxy.record().await;
    assert_allowed(&record, "cut off: the byte limit of the run is reached");
    assert_eq!((record.bytes_in, record.bytes_out), (0, cap + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn close_in_the_middle_ends_it_and_leaves_nothing_open() {
    let origin = flood().await;
    let before = Before::now();
    for (is_plain, pause_us) in [true, false].into_iter().flat_map(|is_plain| {
        // At moments that the reader's progress and a few delays spread.
        [0, 70, 310, 900, 2_100].map(|pause| (is_plain, pause))
    }) {
        let proxy = Proxy::start(open(&[origin.port])).await;
        let mut stream = begin(&proxy, origin.port, is_plain).await;
        read_much(&mut stream, &before).await;
        let read = async {
            let mut sink = vec![0; 1 << 20];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        };
        let close = async {
            tokio::time::sleep(Duration::from_micros(pause_us)).await;
            timeout(PATIENCE, proxy.gate.close()).await.unwrap()
        };
        let (totals, ()) = tokio::join!(close, read);
        let record = proxy.record().await;
        assert_allowed(&record, "cut off: the run ended");
        assert_eq!(
            (totals.bytes_in, totals.bytes_out),
            (record.bytes_in, record.bytes_out)
        );
        assert_eq!(before.made(), 0);
    }
}

#[tokio::test]
async fn a_new_policy_ends_it_in_the_middle() {
    for is_plain in [true, false] {
        let (origin, before) = (flood().await, Before::now());
        let proxy = Proxy::start(open(&[origin.port])).await;
        let mut stream = begin(&proxy, origin.port, is_plain).await;
        read_much(&mut stream, &before).await;
        let goes_on = only(r"origin\.test", &[origin.port]);
        proxy.gate.open(Rules::compile(&goes_on).unwrap());
        read_much(&mut stream, &before).await;
        proxy
            .gate
            .open(Rules::compile(&only("nothing", &[origin.port])).unwrap());
        read_all(&mut stream).await;
        assert_allowed(&proxy.record().await, "cut off: the policy changed");
        until(|| before.made() == 0).await;
    }
}

#[tokio::test]
async fn silence_in_the_middle_is_cut_off() {
    let limits = Limits {
        stall: Duration::from_millis(300),
        ..Limits::default()
    };
    for is_plain in [true, false] {
        let origin = body(2 * MUCH, MUCH, Then::Wait).await;
        let silent = Origin::run("127.0.0.1:0", |mut stream, _| async move {
            stream.read_u8().await.unwrap();
            Pattern::new().send(&mut stream, 0, MUCH).await;
            let mut rest = Vec::new();
            let _reset = stream.read_to_end(&mut rest).await;
        })
        .await;
        let port = if is_plain { origin.port } else { silent.port };
        let proxy = with(limits.clone(), port).await;
        let mut stream = begin(&proxy, port, is_plain).await;
        Pattern::new().expect(&mut stream, 0, MUCH).await;
        assert_eq!(read_all(&mut stream).await, "");
        assert_allowed(
            &proxy.record().await,
            "cut off: no byte passed for too long",
        );
    }
}

/// The pipe is full, the program's socket too, and nobody reads.
#[tokio::test]
async fn a_program_that_stops_reading_is_cut_off() {
    let limits = Limits {
        stall: Duration::from_millis(300),
        ..Limits::default()
    };
    for is_plain in [true, false] {
        let (origin, before) = (flood().await, Before::now());
        let proxy = with(limits.clone(), origin.port).await;
        let mut stream = begin(&proxy, origin.port, is_plain).await;
        read_much(&mut stream, &before).await;
        let record = proxy.record().await;
        assert_allowed(&record, "cut off: no byte passed for too long");
        until(|| before.made() == 0).await;
    }
}

#[tokio::test]
async fn a_pipe_is_given_back_in_silence_and_taken_again() {
    let (origin, before, pattern) = (Origin::echo().await, Before::now(), Pattern::new());
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = tunnel(&proxy, "origin.test", origin.port).await;
    let (mut read, mut write) = stream.split();
    for round in 0..2 {
        let place = round * MUCH;
        let send = pattern.send(&mut write, place, MUCH);
        tokio::join!(send, pattern.expect(&mut read, place, MUCH));
        assert_eq!(before.made(), 4, "round {round}");
        until(|| before.made() == 0).await;
    }
}

#[tokio::test]
async fn little_needs_no_pipe() {
    let (origin, before) = (Origin::echo().await, Before::now());
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = tunnel(&proxy, "origin.test", origin.port).await;
    for _ in 0..20 {
        stream.write_all(&[1; 10_000]).await.unwrap();
        let mut back = [0; 10_000];
        stream.read_exact(&mut back).await.unwrap();
    }
    assert_eq!(before.made(), 0);
}

async fn copied(proxy: &Proxy, echo: u16, long: u16, before: &Before) {
    let pattern = Pattern::new();
    let mut stream = tunnel(proxy, "origin.test", echo).await;
    let (mut read, mut write) = stream.split();
    let send = pattern.send(&mut write, 0, MUCH);
    tokio::join!(send, pattern.expect(&mut read, 0, MUCH));
    assert_eq!(before.made(), 0);
    let mut stream = begin(proxy, long, true).await;
    pattern.expect(&mut stream, 0, MUCH).await;
    assert_eq!(before.made(), 0);
}

#[tokio::test]
async fn with_no_pipe_left_bytes_are_copied() {
    let (echo, long) = (Origin::echo().await, body(MUCH, MUCH, Then::End).await);
    let before = Before::now();
    let limits = Limits {
        pipes: 0,
        ..Limits::default()
    };
    let net = Net::direct(names(&[("origin.test", &["127.0.0.1"])]));
    let proxy = Proxy::with(net, limits, Some(open(&[echo.port, long.port]))).await;
    copied(&proxy, echo.port, long.port, &before).await;
}

/// The test lowers the limit of its own process, so it stands alone in it.
#[tokio::test]
async fn with_no_file_left_bytes_are_copied() {
    let origin = Origin::echo().await;
    let (before, pattern) = (Before::now(), Pattern::new());
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut stream = tunnel(&proxy, "origin.test", origin.port).await;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let few = |current| Rlimit {
        current: Some(current),
        maximum,
    };
    setrlimit(Resource::Nofile, few(64)).unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let (mut read, mut write) = stream.split();
    let send = pattern.send(&mut write, 0, MUCH);
    tokio::join!(send, pattern.expect(&mut read, 0, MUCH));
    hoard.clear();
    // There was none of it before either.
    let (mut read, mut write) = stream.split();
    let send = pattern.send(&mut write, MUCH, MUCH);
    tokio::join!(send, pattern.expect(&mut read, MUCH, MUCH));
    assert_eq!(before.made(), 4);
}
