use isol8_core::egress::rules::{Filter, Rules};
use tokio::{io::duplex, net::TcpListener};

use super::*;
use crate::{limits::Limits, resolver::Resolver};

fn rules(ports: &[u16]) -> Option<Arc<Rules>> {
    let filter = Filter {
        allow_private: vec!["127.0.0.1".parse().unwrap()],
        ports: ports.to_vec(),
        ..Filter::default()
    };
    Some(Arc::new(Rules::compile(&filter).unwrap()))
}

/// The program decides how long it takes for the answer to its CONNECT to go
/// out: new rules are not to be missed meanwhile.
#[tokio::test]
async fn new_rules_end_a_tunnel_whose_answer_was_not_read_yet() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    let limits = Arc::new(Limits::default());
    let session = Arc::new(Session::new(rules(&[port]), Arc::clone(&limits)));
    let lane = Arc::new(Lane::new());
    let service = Service {
        session: Arc::clone(&session),
        net: Arc::new(Net::direct(Resolver::system())),
        log: Arc::new(|_| {}),
        lane: Arc::clone(&lane),
    };
    // Less than the answer has.
    let (mut program, ours) = duplex(16);
    let mut guarded = Guarded::new(ours, Arc::clone(&lane), limits);
    let head = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n");
    let ask = async {
        program.write_all(head.as_bytes()).await.unwrap();
        program.read_u8().await.unwrap()
    };
    tokio::select! {
        _ = converse(&mut guarded, &service) => panic!("the whole answer went out"),
        first = ask => assert_eq!(first, b'H'),
    }
    assert_eq!(told_to_end(&session, &lane).now_or_never(), None);
    session.rules.send_replace(rules(&[1]));
    assert_eq!(told_to_end(&session, &lane).now_or_never(), Some(()));
    assert!(lane.take_tunnel().is_some(), "it was about to begin");
}
