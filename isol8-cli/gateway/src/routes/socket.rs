//! `GET /execute/ws`: a run over a WebSocket, with live stdin and signals.
//!
//! One socket is one run. What is said over it is JSON ([`json`]), or with the
//! subprotocol `isol8.v1` what the daemon itself speaks ([`wire`]). Both have in
//! common how they listen, speak and notice that nobody is there ([`line`]).

mod inbox;
mod json;
mod line;
mod pulse;
mod wire;

use std::sync::Arc;

use axum::{
    Extension,
    extract::{
        State,
        ws::{Message, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
};
use bytes::Bytes;
use isol8_proto::v1::GatewayEvent;
use prost::Message as _;

use super::Answer;
use crate::{
    api::StreamPhase,
    body::Place,
    execution::Execution,
    gateway::Shared,
    keys::Caller,
    meter::Meter,
    narrator::{self, Narrator, Told},
    refusal::Refusal,
    relay::{self, Relay},
};

use line::Line;

/// The subprotocol of `isol8 run --host`.
const WIRE: &str = "isol8.v1";

pub(super) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(meter): Extension<Meter>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let upgrade = upgrade.map_err(|error| Refusal::invalid(format!("no WebSocket: {error}")))?;
    let place = shared.sockets.try_take(&caller, 1);
    let place = place.ok_or_else(|| Refusal::busy("too many WebSockets"))?;
    let most = shared.bounds.body_bytes;
    let upgrade = upgrade
        .max_message_size(most)
        .max_frame_size(most)
        .protocols([WIRE]);
    let tongue = match upgrade.selected_protocol() {
        Some(_) => Tongue::Wire,
        None => Tongue::Json,
    };
    // The gateway is not over before its sockets are.
    let token = shared.tasks.token();
    Ok(upgrade.on_upgrade(move |socket| async move {
        meter.begin(shared.room.clone(), Arc::clone(&caller), &shared.bounds);
        Line::new(socket, tongue, meter)
            .serve(&shared, &caller)
            .await;
        drop((place, token));
    }))
}

/// What is spoken over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tongue {
    /// For everybody.
    Json,
    /// For the command line: nothing is lost or told in other words.
    Wire,
}

/// What a client says after its first message.
#[derive(Debug)]
enum Said {
    /// Pieces of stdin, and whether it ends behind them.
    Stdin(Vec<Bytes>, bool),
    Signal(i32),
}

impl Tongue {
    fn said(self, message: Message) -> Result<Said, Refusal> {
        match self {
            Self::Json => json::said(message),
            Self::Wire => wire::said(message),
        }
    }

    /// The last word of a socket whose run was refused.
    fn failed(self, refusal: Refusal) -> Option<Message> {
        match self {
            Self::Json => json_message(narrator::failed(refusal, StreamPhase::Setup)),
            Self::Wire => Some(wire_message(&relay::failed(refusal.detail()))),
        }
    }
}

/// A run that goes on, and how it is told.
enum Run {
    /// With the room for its last event.
    Json(Box<(Execution, Narrator, Place)>),
    Wire(Relay),
}

impl Run {
    /// What there is to say next, and whether that is all.
    ///
    /// # Cancellation
    /// Loses nothing.
    async fn next(&mut self) -> (Vec<Message>, bool) {
        match self {
            Self::Json(both) => {
                let (run, narrator, _room) = &mut **both;
                let event = run.next().await;
                let is_last = event.is_last();
                let told = narrator.tell(event).into_iter();
                (told.filter_map(json_message).collect(), is_last)
            }
            Self::Wire(relay) => {
                let (event, is_last) = relay.next().await;
                (vec![wire_message(&event)], is_last)
            }
        }
    }
}

/// A notice is for those who can see comments.
fn json_message(told: Told) -> Option<Message> {
    match told {
        Told::Event(json) => Some(Message::Text(json.into())),
        Told::Notice(_) => None,
    }
}

fn wire_message(event: &GatewayEvent) -> Message {
    Message::Binary(event.encode_to_vec().into())
}
