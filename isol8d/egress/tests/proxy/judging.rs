//! Who may be reached.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use isol8_core::egress::rules::Filter;
use isol8_egress::{Limits, Net, Resolver};

use crate::rig::{
    Origin, Proxy, assert_allowed, assert_blocked, names, only, open, read_answer, status,
};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn an_allowed_host_is_reached_and_its_answer_passed_on() {
    let origin = Origin::hello().await;
    let proxy = Proxy::start(only(r"origin\.test", &[origin.port])).await;

    let answer = proxy
        .get(&format!("http://origin.test:{}/a?b=c", origin.port))
        .await;

    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    let seen = origin.seen().remove(0);
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains(&format!("host: origin.test:{}\r\n", origin.port)),
        "{seen}"
    );
    let record = proxy.record().await;
    assert_allowed(&record, "allowed");
    assert_eq!(
        (record.host.as_str(), record.port),
        ("origin.test", origin.port)
    );
    assert_eq!(
        (record.method.as_str(), record.path.as_deref()),
        ("GET", Some("/a?b=c"))
    );
    assert_eq!(record.bytes_out, seen.len() as u64);
    assert_eq!(record.bytes_in, 43);
}
