//! A run of `isol8 run --host`: what the daemon is asked and says, in binary
//! messages, below the ceiling of the gateway and of the key.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::Bytes;
use isol8_proto::v1::{RunRequest, Start, run_request};
use prost::Message as _;

use super::{
    Run, Said,
    line::{Ended, Talk},
};
use crate::{
    body::Place,
    gateway::Shared,
    job::{self, SessionId},
    keys::Caller,
    refusal::Refusal,
    relay::Relay,
    routes::execute,
};

/// Starts the run that the first message asks for.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    caller: &Caller,
    first: Message,
    room: Place,
) -> Result<(Run, Talk), Ended> {
    let message = binary(first)?;
    let run_request::Message::Start(mut start) = request(message)? else {
        return Err(Refusal::invalid("the first message is no `Start`").into());
    };
    check(&mut start, shared, caller)?;
    let places = execute::places(shared, caller, &start).await?;
    let bytes = match start.buffered {
        true => job::output_bytes(&start),
        false => 0,
    };
    let answer = shared
        .answers
        .reserve(caller, bytes, &shared.bounds)
        .await?;
    let (talk, input) = Talk::new(Vec::new(), start.stdin);
    let relay = Relay::start(shared, caller, start, input, (places, room, answer));
    Ok((Run::Wire(relay), talk))
}

/// Puts what is asked for below the ceiling, and the session among those of the
/// caller. All other fields are the daemon's to judge.
fn check(start: &mut Start, shared: &Shared, caller: &Caller) -> Result<(), Refusal> {
    shared.policy.narrowed(caller.policy()).apply(start)?;
    caller.owner().clone_into(&mut start.lane);
    if let Some(id) = &start.session {
        start.session = Some(SessionId::parse("session", id)?.name(caller));
    }
    Ok(())
}

/// What a later message says.
pub(super) fn said(message: Message) -> Result<Said, Refusal> {
    match request(binary(message)?)? {
        run_request::Message::Start(_) => Err(Refusal::invalid("a second `Start`")),
        run_request::Message::Stdin(piece) => Ok(Said::Stdin(vec![piece], false)),
        run_request::Message::CloseStdin(_) => Ok(Said::Stdin(Vec::new(), true)),
        run_request::Message::Signal(signal) => Ok(Said::Signal(signal.number)),
    }
}

fn binary(message: Message) -> Result<Bytes, Refusal> {
    match message {
        Message::Binary(bytes) => Ok(bytes),
        _ => Err(Refusal::invalid("messages are `RunRequest`, as binary")),
    }
}

fn request(bytes: Bytes) -> Result<run_request::Message, Refusal> {
    let request = RunRequest::decode(bytes)
        .map_err(|error| Refusal::invalid(format!("no `RunRequest`: {error}")))?;
    let nothing = || Refusal::invalid("a `RunRequest` that says nothing we know");
    request.message.ok_or_else(nothing)
}
