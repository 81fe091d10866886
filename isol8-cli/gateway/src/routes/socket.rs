//! `GET /execute/ws`: a run over a WebSocket, with live stdin and signals.
//!
//! One socket is one run. What the program does not read of its stdin is not read
//! from the socket either, past what the daemon takes ahead.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
        },
    },
};
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Answer, execute};
use crate::{
    api::{SocketInput, SocketStart, StreamPhase},
    body,
    execution::Execution,
    files::pieces,
    gateway::Shared,
    keys::Caller,
    narrator::{Narrator, Told, failed},
    refusal::Refusal,
    requests::Input,
};

/// Signals on their way; more of them are like those.
const SIGNALS: usize = 8;

/// A client has said goodbye by then, or is gone.
const GOODBYE: Duration = Duration::from_secs(5);

/// The run is over, whatever its end was.
const NORMAL: u16 = 1000;
/// What came was no message of ours.
const REFUSED: u16 = 1008;

pub(super) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let upgrade = upgrade.map_err(|error| Refusal::invalid(format!("no WebSocket: {error}")))?;
    let place = Arc::clone(&shared.sockets).try_acquire_owned();
    let place = place.map_err(|_| Refusal::busy("too many WebSockets"))?;
    let most = shared.bounds.body_bytes;
    let upgrade = upgrade.max_message_size(most).max_frame_size(most);
    // The gateway is not over before its sockets are.
    let token = shared.tasks.token();
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let code = match serve(&shared, &caller, &mut socket).await {
            Ok(()) => NORMAL,
            Err(Ended::Gone) => return,
            Err(Ended::Refused(refusal)) => {
                if say(&mut socket, failed(refusal, StreamPhase::Setup))
                    .await
                    .is_err()
                {
                    return;
                }
                REFUSED
            }
        };
        close(&mut socket, code).await;
        drop((place, token));
    }))
}

/// Why a socket ended before its run.
enum Ended {
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn serve(shared: &Arc<Shared>, caller: &Caller, socket: &mut WebSocket) -> Result<(), Ended> {
    let first = tokio::select! {
        first = timeout(shared.bounds.body, text(socket)) => first,
        () = shared.stop.cancelled() => return Err(Refusal::stopping().into()),
    };
    let first = first.map_err(|_| Refusal::invalid("no first message came in time"))??;
    let start: SocketStart = body::parse(first.as_bytes())?;
    let (asked, is_live) = start.split();
    let (mut job, place) = execute::prepare(shared, caller, asked)?;
    let files = shared
        .answers
        .reserve(job.file_bytes(), &shared.bounds)
        .await?;
    let (stdin, from_stdin) = mpsc::channel(1);
    let (signals, from_signals) = mpsc::channel(SIGNALS);
    let mut talk = Talk {
        stdin: Some(stdin),
        signals,
        waiting: VecDeque::new(),
        ends: false,
    };
    if is_live {
        job.start.stdin = true;
    } else {
        talk.waiting.extend(pieces(std::mem::take(&mut job.stdin)));
        talk.ends = true;
    }
    let input = Input::live(from_stdin, from_signals);
    let run = Execution::with(shared, job, vec![place, files], input);
    drop(first);
    talk.pump(run, socket, shared.bounds.comment).await
}

/// The next text.
async fn text(socket: &mut WebSocket) -> Result<axum::extract::ws::Utf8Bytes, Ended> {
    loop {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Binary(_))) => {
                return Err(Refusal::invalid("messages are JSON, as text").into());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Ended::Gone),
        }
    }
}

/// What goes to the program.
struct Talk {
    /// Until its end.
    stdin: Option<mpsc::Sender<Bytes>>,
    signals: mpsc::Sender<i32>,
    /// Of stdin; nothing is read from the socket meanwhile.
    waiting: VecDeque<Bytes>,
    /// Stdin ends behind what waits.
    ends: bool,
}

impl Talk {
    async fn pump(
        &mut self,
        mut run: Execution,
        socket: &mut WebSocket,
        quiet: Duration,
    ) -> Result<(), Ended> {
        let mut narrator = Narrator::default();
        let mut quiet = interval(quiet);
        quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.ends && self.waiting.is_empty() {
                self.stdin = None;
            }
            let stdin = self.stdin.clone();
            let has_stdin = !self.waiting.is_empty() && stdin.is_some();
            tokio::select! {
                event = run.next() => {
                    let is_last = event.is_last();
                    for told in narrator.tell(event) {
                        say(socket, told).await?;
                    }
                    if is_last {
                        return Ok(());
                    }
                }
                room = reserve(stdin), if has_stdin => match (room, self.waiting.pop_front()) {
                    (Some(room), Some(piece)) => drop(room.send(piece)),
                    // The program's end is on its way.
                    _ => self.waiting.clear(),
                },
                message = text(socket), if !has_stdin => self.take(&message?)?,
                _ = quiet.tick() => {
                    let ping = socket.send(Message::Ping(Bytes::new())).await;
                    ping.map_err(|_| Ended::Gone)?;
                }
            }
        }
    }

    fn take(&mut self, message: &str) -> Result<(), Ended> {
        match body::parse(message.as_bytes())? {
            SocketInput::Signal { signal } => {
                // One that finds no room is one of many like it.
                let _full = self.signals.try_send(signal.number());
            }
            SocketInput::Stdin { .. } if self.stdin.is_none() => {
                return Err(Refusal::invalid("`stdin`: it has ended").into());
            }
            SocketInput::Stdin { data, end } => {
                self.waiting.extend(pieces(data.into()));
                self.ends = end;
            }
        }
        Ok(())
    }
}

async fn reserve(stdin: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    stdin?.reserve_owned().await.ok()
}

/// Sends an event; a notice is for those who can see comments.
async fn say(socket: &mut WebSocket, told: Told) -> Result<(), Ended> {
    let Told::Event(json) = told else {
        return Ok(());
    };
    let sent = socket.send(Message::Text(json.into())).await;
    sent.map_err(|_| Ended::Gone)
}

async fn close(socket: &mut WebSocket, code: u16) {
    let frame = CloseFrame {
        code,
        reason: Default::default(),
    };
    let goodbye = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // To the client's own goodbye: closed before, it could lose our words.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // One that does not come is no matter.
    let _late = timeout(GOODBYE, goodbye).await;
}
