//! Bytes per second through the proxy, beside a direct connection to the same
//! origin. A smoke test with a wide margin: `make bench` measures.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    rig::{Origin, Proxy, open, read_head, status},
    tunnels::client_hello,
};

const MIB: usize = 256;

/// Of which the middle one counts.
const ROUNDS: usize = 3;

/// Sends so much to whoever says anything.
async fn flood() -> Origin {
    Origin::run("127.0.0.1:0", |mut stream, _| async move {
        let mut first = [0; 4096];
        let count = stream.read(&mut first).await.unwrap();
        if first[..count].starts_with(b"GET ") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MIB << 20);
            stream.write_all(head.as_bytes()).await.unwrap();
        }
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..MIB {
            stream.write_all(&piece).await.unwrap();
        }
    })
    .await
}

async fn mib_per_second(stream: &mut TcpStream) -> f64 {
    let began = Instant::now();
    let (mut total, mut buffer) = (0, vec![0; 256 << 10]);
    while total < MIB << 20 {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "only {total} bytes came");
        total += count;
    }
    MIB as f64 / began.elapsed().as_secs_f64()
}

async fn direct(port: u16) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    mib_per_second(&mut stream).await
}

async fn tunnelled(proxy: &Proxy, port: u16) -> f64 {
    let (mut stream, _) = proxy.connect(&format!("origin.test:{port}")).await;
    let hello = client_hello("origin.test");
    stream.write_all(&hello).await.unwrap();
    mib_per_second(&mut stream).await
}

async fn plain(proxy: &Proxy, port: u16) -> f64 {
    let mut stream = proxy.dial().await;
    let request = format!("GET http://origin.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut stream).await), 200);
    mib_per_second(&mut stream).await
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever asks")]
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_not_the_slowest_part() {
    let origin = flood().await;
    let proxy = Proxy::start(open(&[origin.port])).await;
    let mut seen = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        seen[0].push(direct(origin.port).await);
        seen[1].push(tunnelled(&proxy, origin.port).await);
        seen[2].push(plain(&proxy, origin.port).await);
    }
    let [direct, tunnelled, plain] = seen.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    let seen = format!(
        "direct {direct:.0} MiB/s, tunnel {tunnelled:.0} ({:.2}), plain {plain:.0} ({:.2})",
        tunnelled / direct,
        plain / direct
    );
    println!("{seen}");
    // A busy machine with two cores shares them between four parties here.
    for through in [tunnelled, plain] {
        assert!(through > 50.0 && through > direct / 20.0, "{seen}");
    }
}
