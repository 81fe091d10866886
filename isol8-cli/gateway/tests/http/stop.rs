//! The end of a gateway.

use std::{net::TcpStream, time::Duration};

use crate::{
    stage::{Stage, program},
    stream::waiting,
};

#[test]
fn every_stream_has_its_last_event() {
    let stage = Stage::new();
    let mut stream = waiting(&stage, "print x\nwait");
    assert!(
        stream
            .event()
            .expect("an event")
            .contains(r#""type":"stdout""#)
    );
    let mut whole = stage.client();
    whole.post("/execute", &program("wait", ""));
    let mut idle = stage.client();
    idle.send("GET", "/health", &[], "");
    assert_eq!(idle.answer().status, 200);
    crate::stage::wait_for("both runs", || stage.world.count("waiting") == 2);

    stage.stop.cancel();
    let last = stream.event().expect("an event");
    assert!(
        last.contains(r#""type":"error""#) && last.contains("shutting_down"),
        "{last}"
    );
    assert_eq!(stream.event(), None, "the stream is whole");
    assert_eq!(whole.answer().error(503), "the gateway is shutting down");
    idle.await_close();
    stage.await_end();
    crate::stage::wait_for("both to be cancelled", || stage.world.count("gone") == 2);
    assert!(
        TcpStream::connect(stage.address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn who_does_not_read_does_not_hold_it_up() {
    let stage = Stage::with(|bounds| bounds.grace = Duration::from_millis(200));
    let stuck = waiting(&stage, "flood");
    stage.world.await_note("flooding");
    let mut slow = stage.client();
    slow.write(b"POST /execute HTTP/1.1\r\n");
    stage.stop.cancel();
    stage.await_end();
    stage.world.await_note("gone");
    drop(stuck);
}
