//! One socket: it is listened to, spoken to and watched, all at once.
//!
//! ```text
//! client ─▶ hear ─▶ inbox ─▶ feed ─▶ run ─▶ speak ─▶ client
//!             └──── signals ─────────▶┘
//! ```
//!
//! A program that does not read its stdin stops `feed`, and `hear` when the inbox
//! is full; a client that does not read stops `speak`, then the run. None of them
//! stops another one before that.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Run, Said, Tongue,
    inbox::{Inbox, Waiting, inbox},
    json,
    pulse::Pulse,
    wire,
};
use crate::{
    gateway::Shared,
    keys::{Caller, revoked},
    meter::Meter,
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

/// A socket.
pub(super) struct Line {
    tongue: Tongue,
    mouth: Mouth,
    ear: SplitStream<WebSocket>,
    meter: Meter,
}

type Mouth = SplitSink<WebSocket, Message>;

/// Why a socket ended before its run.
pub(super) enum Ended {
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What goes from a client to its run.
pub(super) struct Talk {
    inbox: Option<Inbox>,
    waiting: Waiting,
    stdin: mpsc::Sender<Bytes>,
    signals: mpsc::Sender<i32>,
}

impl Talk {
    /// With the run's end of it. Without `is_live`, `stdin` is all that there is.
    pub(super) fn new(stdin: Vec<Bytes>, is_live: bool) -> (Self, Input) {
        let (sender, from_stdin) = mpsc::channel(1);
        let (signals, from_signals) = mpsc::channel(SIGNALS);
        let (inbox, waiting) = inbox();
        let talk = Self {
            inbox: is_live.then_some(inbox),
            waiting: waiting.behind(stdin),
            stdin: sender,
            signals,
        };
        (talk, Input::live(from_stdin, from_signals))
    }
}

impl Line {
    pub(super) fn new(socket: WebSocket, tongue: Tongue, meter: Meter) -> Self {
        let (mouth, ear) = socket.split();
        Self {
            tongue,
            mouth,
            ear,
            meter,
        }
    }

    /// Carries out the run of this socket, and closes it.
    pub(super) async fn serve(mut self, shared: &Arc<Shared>, caller: &Caller) {
        let ended = tokio::select! {
            biased;
            () = caller.revoked().cancelled() => Err(revoked().into()),
            ended = self.run(shared, caller) => ended,
        };
        let code = match ended {
            Ok(()) => NORMAL,
            Err(Ended::Gone) => return,
            Err(Ended::Refused(refusal)) => {
                if let Some(last) = self.tongue.failed(refusal)
                    && self.mouth.send(last).await.is_err()
                {
                    return;
                }
                REFUSED
            }
        };
        self.close(code).await;
    }

    async fn run(&mut self, shared: &Arc<Shared>, caller: &Caller) -> Result<(), Ended> {
        let first = tokio::select! {
            first = timeout(shared.bounds.body, next(&mut self.ear, &self.meter)) => first,
            () = shared.stop.cancelled() => return Err(Refusal::stopping().into()),
        };
        let first = first.map_err(|_| Refusal::invalid("no first message came in time"))??;
        // As a body would, it has its place for as long as the run.
        let mut room = match self.meter.heard() {
            Some(room) => room,
            None => shared.room.reserve(caller, 0, &shared.bounds).await?,
        };
        let bytes = first.clone().into_data().len();
        let whole = shared.room.grow(caller, &mut room, bytes, &shared.bounds);
        whole.await?;
        let (run, talk) = match self.tongue {
            Tongue::Json => json::begin(shared, caller, first, room).await?,
            Tongue::Wire => wire::begin(shared, caller, first, room).await?,
        };
        self.talk(run, talk, shared.bounds.comment).await
    }

    /// Until the run's last event is said, or nothing was heard for a little longer
    /// than `quiet`.
    async fn talk(&mut self, run: Run, talk: Talk, quiet: Duration) -> Result<(), Ended> {
        // Two pings have gone unanswered by then.
        let (ping, pulse) = (quiet / 2, Pulse::new(quiet + quiet / 3));
        let feed = async {
            talk.waiting.feed(talk.stdin).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = pulse.stops() => Err(Ended::Gone),
            ended = hear(&mut self.ear, &self.meter, self.tongue, talk.inbox, talk.signals, &pulse) => Err(ended),
            () = feed => Ok(()),
            said = speak(&mut self.mouth, self.tongue, run, ping, &pulse) => said,
        }
    }

    async fn close(&mut self, code: u16) {
        let frame = CloseFrame {
            code,
            reason: Default::default(),
        };
        let goodbye = async {
            if self.mouth.send(Message::Close(Some(frame))).await.is_ok() {
                // To the client's own goodbye: closed before, it could lose our words.
                while let Some(Ok(_)) = self.ear.next().await {}
            }
        };
        // One that does not come is no matter.
        let _late = timeout(GOODBYE, goodbye).await;
    }
}

/// The next message that says something.
///
/// # Cancellation
/// Loses nothing.
async fn next(ear: &mut SplitStream<WebSocket>, meter: &Meter) -> Result<Message, Ended> {
    loop {
        match ear.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(Ended::Gone),
            Some(Ok(message)) => return Ok(message),
            Some(Err(error)) => return Err(unheard(&error, meter)),
        }
    }
}

/// Too long, without room, or no frame at all. Who is gone does not hear it.
fn unheard(error: &axum::Error, meter: &Meter) -> Ended {
    let refused = meter.refused();
    let refusal = refused.unwrap_or_else(|| Refusal::invalid(format!("no message: {error}")));
    refusal.into()
}

/// Listens for as long as there is somebody.
async fn hear(
    ear: &mut SplitStream<WebSocket>,
    meter: &Meter,
    tongue: Tongue,
    mut inbox: Option<Inbox>,
    signals: mpsc::Sender<i32>,
    pulse: &Pulse,
) -> Ended {
    loop {
        let message = match ear.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                pulse.beat();
                continue;
            }
            Some(Ok(Message::Close(_))) | None => return Ended::Gone,
            Some(Ok(message)) => message,
            Some(Err(error)) => return unheard(&error, meter),
        };
        pulse.beat();
        // While it is held.
        let _room = meter.heard();
        match tongue.said(message) {
            Err(refusal) => return refusal.into(),
            Ok(Said::Signal(number)) => {
                // One that finds no room is one of many like it.
                let _full = signals.try_send(number);
            }
            Ok(Said::Stdin(pieces, ends)) => {
                let Some(open) = &inbox else {
                    return Refusal::invalid("`stdin`: it has ended").into();
                };
                for piece in pieces {
                    if let Err(piece) = open.try_put(piece) {
                        let _deaf = pulse.pause();
                        open.put(piece).await;
                    }
                }
                if ends {
                    inbox = None;
                }
            }
        }
    }
}

/// Says everything that the run tells, and asks in between who is there.
async fn speak(
    mouth: &mut Mouth,
    tongue: Tongue,
    mut run: Run,
    ping: Duration,
    pulse: &Pulse,
) -> Result<(), Ended> {
    let mut ping = interval(ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (messages, is_last) = tokio::select! {
            next = run.next() => next,
            _ = ping.tick() => (vec![Message::Ping(Bytes::new())], false),
        };
        for message in messages {
            // A ping waits behind what a client does not read. One that speaks by
            // itself is heard of all the same.
            let _mute = (tongue == Tongue::Json).then(|| pulse.pause());
            mouth.send(message).await.map_err(|_| Ended::Gone)?;
        }
        if is_last {
            return Ok(());
        }
    }
}
