//! A run in JSON, one text message for each event.

use std::sync::Arc;

use axum::extract::ws::{Message, Utf8Bytes};

use super::{
    Run, Said,
    line::{Ended, Talk},
};
use crate::{
    api::{SocketInput, SocketStart},
    body::{self, Place},
    execution::Execution,
    files::pieces,
    gateway::Shared,
    keys::Caller,
    narrator::Narrator,
    refusal::Refusal,
    routes::execute,
};

/// Starts the run that the first message asks for.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    caller: &Caller,
    first: Message,
    room: Place,
) -> Result<(Run, Talk), Ended> {
    let message = text(&first)?.as_bytes();
    let start: SocketStart = body::parse(message)?;
    let (asked, is_live) = start.split();
    let (mut job, places) = execute::prepare(shared, caller, asked).await?;
    drop(first);
    let files = shared
        .answers
        .reserve(caller, job.file_bytes(), &shared.bounds)
        .await?;
    job.start.stdin |= is_live;
    let stdin = pieces(std::mem::take(&mut job.stdin)).collect();
    let (talk, input) = Talk::new(stdin, is_live);
    let run = Execution::with(shared, job, (places, room), input);
    Ok((Run::Json(Box::new((run, Narrator::default(), files))), talk))
}

/// What a later message says.
pub(super) fn said(message: Message) -> Result<Said, Refusal> {
    Ok(match body::parse(text(&message)?.as_bytes())? {
        SocketInput::Signal { signal } => Said::Signal(signal.number()),
        SocketInput::Stdin { data, end } => Said::Stdin(pieces(data.into()).collect(), end),
    })
}

fn text(message: &Message) -> Result<&Utf8Bytes, Refusal> {
    match message {
        Message::Text(text) => Ok(text),
        _ => Err(Refusal::invalid("messages are JSON, as text")),
    }
}
