//! The first words between the daemon and the init of a sandbox.

use bytes::Bytes;
use isol8_core::failure::{Failure, FailureKind};
use isol8_engine::link::{Link, PROTOCOL};
use isol8_proto::init::{FailureKind as InitFailure, Hello, Prepare, from_init, to_init};

/// Hears the first frame of an init that has dialled.
///
/// # Errors
/// `Internal` when it says something else, speaks another protocol, or is gone.
pub(crate) async fn hello(link: &mut Link) -> Result<Hello, Failure> {
    match receive(link).await? {
        from_init::Message::Hello(hello) if hello.protocol == PROTOCOL => Ok(hello),
        from_init::Message::Hello(hello) => {
            let message = format!(
                "init speaks protocol {}, this daemon {PROTOCOL}",
                hello.protocol
            );
            Err(Failure::new(FailureKind::Internal, message)
                .hint("install isol8d and isol8-init of the same version"))
        }
        other => Err(unexpected(&other)),
    }
}

/// Gets a new sandbox ready; whether its interpreter is parked.
///
/// # Errors
/// Why it cannot be made ready.
pub(crate) async fn prepare(link: &mut Link, prepare: Prepare) -> Result<bool, Failure> {
    hello(link).await?;
    let prepare = to_init::Message::Prepare(prepare);
    link.writer
        .send(prepare)
        .await
        .map_err(|error| lost(&error))?;
    match receive(link).await? {
        from_init::Message::Ready(ready) => Ok(ready.parked),
        other => Err(unexpected(&other)),
    }
}

/// What a lasting init is to be told, and nothing else: no interpreter waits in a
/// session, since whatever else runs there could reach for it.
pub(crate) fn with_token(token: &[u8]) -> Prepare {
    Prepare {
        parked: None,
        token: Bytes::copy_from_slice(token),
    }
}

async fn receive(link: &mut Link) -> Result<from_init::Message, Failure> {
    link.reader.recv().await.map_err(|error| lost(&error))
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(
        FailureKind::Internal,
        "a new sandbox was lost before it was ready",
    )
    .because(error)
}

fn unexpected(message: &from_init::Message) -> Failure {
    let said = match message {
        from_init::Message::Failed(failed) => {
            let kind = match failed.kind() {
                InitFailure::NoSpace => FailureKind::NoSpace,
                InitFailure::NotFound | InitFailure::NotExecutable => {
                    FailureKind::InterpreterMissing
                }
                _ => FailureKind::Internal,
            };
            return Failure::new(kind, "init could not get a new sandbox ready")
                .cause(failed.message.clone());
        }
        from_init::Message::Hello(_) => "Hello",
        from_init::Message::Ready(_) => "Ready",
        _ => "a message of a run",
    };
    let message = format!("init said {said} out of turn");
    Failure::new(FailureKind::Internal, message)
}
