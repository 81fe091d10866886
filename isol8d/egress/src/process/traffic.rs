//! One sandbox: from its listener's arrival until everything of it has ended.

use std::{future::pending, io, net, os::fd::OwnedFd, pin::pin, sync::Arc};

use isol8_core::egress::{
    record::Record,
    rules::{Filter, FilterError, Rules},
};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{News, TrafficId},
    gate::{Gate, Totals},
    limits::Limits,
    net::Net,
};

/// What the daemon wants of an open sandbox.
#[derive(Debug)]
pub(super) enum Step {
    Set(Filter),
    Close,
}

pub(super) struct Traffic {
    id: TrafficId,
    gate: Arc<Gate>,
    net: Arc<Net>,
    say: UnboundedSender<News>,
}

impl Traffic {
    pub(super) fn new(id: TrafficId, net: &Arc<Net>, say: &UnboundedSender<News>) -> Self {
        Self {
            id,
            gate: Arc::new(Gate::new(Limits::default())),
            net: Arc::clone(net),
            say: say.clone(),
        }
    }

    /// Serves until `Close`, and tells the totals. What was refused waits for
    /// `Close` as well, and carries nothing until then.
    pub(super) async fn carry(
        self,
        listener: Result<OwnedFd, String>,
        filter: Filter,
        mut steps: UnboundedReceiver<Step>,
    ) -> TrafficId {
        let listener = listener.and_then(|fd| {
            listening(fd).map_err(|error| format!("cannot accept on the listener: {error}"))
        });
        let totals = match (listener, self.open(filter).await) {
            (Ok(listener), Ok(())) => {
                self.ack(Ok(()));
                self.serve(listener, &mut steps).await
            }
            (Err(why), _) | (Ok(_), Err(why)) => {
                self.ack(Err(why));
                let totals = self.gate.close().await;
                closed(&mut steps).await;
                totals
            }
        };
        let traffic = self.id;
        self.tell(News::Closed { traffic, totals });
        traffic
    }

    async fn serve(&self, listener: TcpListener, steps: &mut UnboundedReceiver<Step>) -> Totals {
        let stop = CancellationToken::new();
        let (gate, net) = (Arc::clone(&self.gate), Arc::clone(&self.net));
        let (say, traffic) = (self.say.clone(), self.id);
        let log = move |record: Record| {
            // The writer ends with the process only.
            let _ended = say.send(News::Record { traffic, record });
        };
        let accepting = async {
            crate::serve(listener, gate, net, log, stop.clone()).await;
            // Without an accept loop there is no network, and no end either.
            pending::<()>().await
        };
        let mut accepting = pin!(accepting);
        let mut is_refused = false;
        loop {
            let step = tokio::select! {
                () = &mut accepting => continue,
                step = steps.recv() => step,
            };
            match step {
                Some(Step::Set(filter)) => {
                    let opened = self.open(filter).await;
                    is_refused = opened.is_err();
                    self.ack(opened);
                    if is_refused {
                        break;
                    }
                }
                Some(Step::Close) | None => break,
            }
        }
        stop.cancel();
        let totals = self.gate.close().await;
        if is_refused {
            closed(steps).await;
        }
        totals
    }

    /// Opens the gate, or another one. Compiling takes a while at most, and
    /// not from those who move bytes.
    async fn open(&self, filter: Filter) -> Result<(), String> {
        let compiled = spawn_blocking(move || Rules::compile(&filter)).await;
        let rules = compiled
            .map_err(|error| error.to_string())?
            .map_err(|error: FilterError| error.to_string())?;
        self.gate.open(rules);
        Ok(())
    }

    fn ack(&self, result: Result<(), String>) {
        let traffic = self.id;
        self.tell(News::Ack { traffic, result });
    }

    fn tell(&self, news: News) {
        // The writer ends with the process only.
        let _ended = self.say.send(news);
    }
}

/// Reads past everything before `Close`.
async fn closed(steps: &mut UnboundedReceiver<Step>) {
    while let Some(Step::Set(_)) = steps.recv().await {}
}

fn listening(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
