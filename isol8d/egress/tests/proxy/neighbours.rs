//! Names that nobody answers for are one sandbox's own trouble.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use isol8_core::egress::rules::Rules;
use isol8_egress::{Gate, Limits, Net, Resolver, serve};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::rig::{Origin, open, read_answer, status};

/// One of the sandboxes of one process.
async fn sandbox(net: &Arc<Net>, ports: &[u16], tasks: &TaskTracker) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = Arc::new(Gate::new(Limits::default()));
    gate.open(Rules::compile(&open(ports)).unwrap());
    let stop = CancellationToken::new();
    tasks.spawn(serve(listener, gate, Arc::clone(net), |_| {}, stop));
    address
}

async fn ask(proxy: std::net::SocketAddr, host: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn names_that_hang_do_not_keep_a_neighbour_from_resolving() {
    let origin = Origin::hello().await;
    let resolver = Resolver::with(|name| {
        async move {
            if name.starts_with("hang") {
                std::future::pending::<()>().await;
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        }
        .boxed()
    });
    let net = Arc::new(Net::direct(resolver));
    let tasks = TaskTracker::new();
    let hostile = sandbox(&net, &[origin.port], &tasks).await;
    let other = sandbox(&net, &[origin.port], &tasks).await;
    let mut hanging = Vec::new();
    for n in 0..200 {
        hanging.push(ask(hostile, &format!("hang{n}.test"), origin.port).await);
    }
    // All of them have been taken: a later one of the same sandbox is judged.
    let mut last = TcpStream::connect(hostile).await.unwrap();
    last.write_all(b"GET http://10.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&read_answer(&mut last).await), 403);
    let mut stream = ask(other, "good.test", origin.port).await;
    let answer = timeout(Duration::from_secs(3), read_answer(&mut stream)).await;
    assert_eq!(
        status(&answer.expect("a neighbour waits for hostile names")),
        200
    );
}
