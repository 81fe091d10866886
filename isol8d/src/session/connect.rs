//! Finds the sandbox of a session again, and makes sure that it is that one.

use std::{sync::Arc, time::Duration};

use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::{Engine, link::Link};
use isol8_proto::init::{Folder, from_init, to_init};
use tokio::time::timeout;

use super::{record::Record, turn::Seat};
use crate::greeting;

/// An init that has dialled speaks at once.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Past what an engine takes for an init that is alive and does not dial.
const ADOPT_DEADLINE: Duration = Duration::from_secs(30);

/// What stood in the stream when a run ended is carried out in no time.
const SETTLE_DEADLINE: Duration = Duration::from_secs(2);

/// Why there is no sandbox.
#[derive(Debug)]
pub(super) enum Unconnected {
    /// It is gone, or no longer what it was.
    Lost(String),
    /// It may be there.
    Later(Failure),
}

/// Takes over the sandbox of a record. Its stream must have been dropped.
pub(super) async fn connect(
    engine: &Arc<dyn Engine>,
    record: &Record,
) -> Result<Seat, Unconnected> {
    match dial(engine, record).await {
        // A sandbox that went in between is gone by now.
        Err(Unconnected::Later(failure)) if failure.kind == FailureKind::Internal => {
            tracing::debug!(error = %failure, "the init of a session has gone at once");
            dial(engine, record).await
        }
        dialled => dialled,
    }
}

async fn dial(engine: &Arc<dyn Engine>, record: &Record) -> Result<Seat, Unconnected> {
    let adoption = record.adoption();
    let adopted = timeout(ADOPT_DEADLINE, engine.adopt(&adoption)).await;
    let adopted = adopted.unwrap_or_else(|_| {
        let message = "the engine of a session does not answer";
        Err(Failure::new(FailureKind::EngineTimeout, message))
    });
    let mut sandbox = adopted.map_err(|failure| match failure.kind {
        FailureKind::NotFound => Unconnected::Lost("its sandbox is gone".to_owned()),
        _ => Unconnected::Later(failure),
    })?;
    let hello = match timeout(HELLO_DEADLINE, greeting::hello(&mut sandbox.link)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(failure)) => return Err(Unconnected::Later(failure)),
        Err(_) => {
            let message = "the init of a session says nothing";
            return Err(Unconnected::Later(Failure::new(
                FailureKind::EngineTimeout,
                message,
            )));
        }
    };
    if hello.token != record.token.as_bytes() || !hello.lasting {
        let reason = "what answered in its place is not its own init".to_owned();
        return Err(Unconnected::Lost(reason));
    }
    Ok(Seat {
        link: sandbox.link,
        listener: sandbox.listener,
        record: record.clone(),
        engine: Arc::clone(engine),
    })
}

/// Waits until init has carried out everything that it was sent, and has nothing
/// more to say. False: it does not come to that.
pub(super) async fn settle(link: &mut Link) -> bool {
    // The root is there: this asks for nothing but an answer, in its turn.
    let ask = to_init::Message::Folder(Folder::default());
    let settled = async {
        link.writer.send(ask).await.ok()?;
        loop {
            match link.reader.recv().await.ok()? {
                from_init::Message::Done(_) => return Some(()),
                from_init::Message::Failed(failed) if failed.files => return Some(()),
                // Such as the answer to a signal that came too late.
                from_init::Message::Failed(_) | from_init::Message::StdinCredit(_) => {}
                _ => return None,
            }
        }
    };
    matches!(timeout(SETTLE_DEADLINE, settled).await, Ok(Some(())))
}

#[cfg(test)]
mod tests;
