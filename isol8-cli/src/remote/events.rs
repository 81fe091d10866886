//! One run over one WebSocket.

use std::{error::Error, io, time::Duration};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{GatewayEvent, RunEvent, RunRequest, gateway_event::Event};
use prost::Message as _;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::Stream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    Remote,
    dial::{Socket, dial},
};
use crate::{connect::detailed, console::Console};

/// We say so often that we are there, also while nobody reads our output. A gateway
/// gives up after 20 s.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Each heartbeat is answered: after so much silence the link is lost.
const SILENCE: Duration = Duration::from_secs(45);

/// The events of a run. Dropped, the socket is closed, and the gateway cancels.
#[derive(Debug)]
pub(crate) struct Events {
    ear: SplitStream<Socket>,
    speaker: JoinHandle<()>,
    /// For messages.
    address: String,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.speaker.abort();
    }
}

impl Events {
    /// Connects, and sends what the run asks for.
    ///
    /// # Errors
    /// There is no gateway, or it does not let us in.
    pub(crate) async fn begin(
        remote: &Remote,
        requests: impl Stream<Item = RunRequest> + Send + Unpin + 'static,
        console: &Console,
    ) -> Result<Self, Failure> {
        let (mouth, ear) = dial(remote, console).await?.split();
        Ok(Self {
            ear,
            speaker: tokio::spawn(speak(mouth, requests)),
            address: remote.address.to_string(),
        })
    }

    /// The next event; not to be asked after the last one.
    ///
    /// # Errors
    /// The run failed, or the connection was lost. A run whose end did not come is
    /// never one that ended.
    pub(crate) async fn next(&mut self) -> Result<RunEvent, Failure> {
        loop {
            let Ok(next) = timeout(SILENCE, self.ear.next()).await else {
                let seconds = SILENCE.as_secs();
                return Err(self.lost().cause(format!("nothing came for {seconds} s")));
            };
            match next {
                None => return Err(self.lost().cause("it was closed")),
                // The text of TLS about it is for programmers.
                Some(Err(tungstenite::Error::Io(error)))
                    if error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    return Err(self.lost().cause("it was closed"));
                }
                Some(Err(tungstenite::Error::Io(error))) => {
                    return Err(self.lost().because(&error));
                }
                // The others say their own causes.
                Some(Err(error)) => return Err(self.lost().cause(error.to_string())),
                Some(Ok(Message::Binary(bytes))) => {
                    let event = GatewayEvent::decode(bytes);
                    match event.map_err(|error| self.garbled(&error))?.event {
                        Some(Event::Run(event)) => return Ok(event),
                        Some(Event::Failed(detail)) => return Err(detailed(detail)),
                        // A newer gateway says more than we know.
                        None => {}
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let why = match frame {
                        Some(frame) => format!("it was closed: {frame}"),
                        None => "it was closed".to_owned(),
                    };
                    return Err(self.lost().cause(why));
                }
                Some(Ok(Message::Text(_))) => return Err(self.garbled(&TextCame)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }

    fn lost(&self) -> Failure {
        let message = format!("the connection to `{}` was lost", self.address);
        Failure::new(FailureKind::EngineUnreachable, message)
            .hint("the run ends there without its client; start it again")
    }

    fn garbled(&self, error: &(dyn Error + 'static)) -> Failure {
        let message = format!("`{}` does not speak as an isol8 gateway does", self.address);
        Failure::new(FailureKind::Unsupported, message).because(error)
    }
}

#[derive(Debug)]
struct TextCame;

impl std::fmt::Display for TextCame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a message came as text")
    }
}

impl Error for TextCame {}

/// Says what is asked, as it comes, and in between that we are there. A link that
/// takes no more ends it; who listens hears of that.
async fn speak(
    mut mouth: SplitSink<Socket, Message>,
    mut requests: impl Stream<Item = RunRequest> + Unpin,
) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            request = requests.next() => match request {
                Some(request) => Message::Binary(request.encode_to_vec().into()),
                None => return,
            },
            _ = heartbeat.tick() => Message::Ping(Default::default()),
        };
        if mouth.send(message).await.is_err() {
            return;
        }
    }
}
