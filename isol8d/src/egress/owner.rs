//! The task that owns the egress process. See [`super`] for its states.

use std::{collections::BTreeMap, future::pending, os::fd::BorrowedFd, sync::Arc, time::Duration};

use isol8_core::failure::{Failure, FailureKind};
use isol8_egress::control::{ControlError, News, Order, Sender, TrafficId};
use isol8_proto::v1;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    EgressSettings, Status,
    entry::{Command, Entry},
    process::Process,
};

/// The first pause after a death. It doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A process that lived this long was well: the next pause is the first again.
const WELL: Duration = Duration::from_secs(30);

/// How long the socket may take an order: the process always reads.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// How long an answer may take. More than the gate's own limit of 5 s for a
/// close.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);

#[derive(Debug)]
enum State {
    Idle,
    Starting(JoinHandle<Result<Process, Failure>>),
    Running {
        process: Box<Process>,
        since: Instant,
    },
    /// The last start failed, or the last process died.
    Waiting {
        until: Instant,
        failed: bool,
    },
}

/// What happens without a command.
enum Event {
    Started(Result<Process, Failure>),
    Heard(Result<Option<News>, ControlError>),
    Rested,
}

impl State {
    /// Cancel safe: nothing that came is lost.
    async fn next(&mut self) -> Event {
        match self {
            Self::Idle => pending().await,
            Self::Starting(start) => Event::Started(start.await.unwrap_or_else(|error| {
                let message = "the start of the network filter panicked";
                Err(Failure::new(FailureKind::EgressUnavailable, message).because(&error))
            })),
            Self::Running { process, .. } => Event::Heard(process.receiver.news().await),
            Self::Waiting { until, .. } => {
                sleep_until(*until).await;
                Event::Rested
            }
        }
    }
}

/// The state of the task.
#[derive(Debug)]
pub(super) struct Owner {
    settings: Arc<EgressSettings>,
    status: watch::Sender<Status>,
    state: State,
    entries: BTreeMap<TrafficId, Entry>,
    pause: Duration,
    /// Processes that were ready.
    started: u32,
}

impl Owner {
    pub(super) fn new(settings: Arc<EgressSettings>, status: watch::Sender<Status>) -> Self {
        Self {
            settings,
            status,
            state: State::Idle,
            entries: BTreeMap::new(),
            pause: FIRST_PAUSE,
            started: 0,
        }
    }

    /// Runs until `Shutdown`, or until nobody is left to command.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let ended = loop {
            self.tell();
            if matches!(self.state, State::Idle) && !self.entries.is_empty() {
                self.begin();
            }
            let overdue = self.entries.values().filter_map(Entry::asked).min();
            let overdue = overdue.map(|asked| asked + ANSWER_DEADLINE);
            tokio::select! {
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.take(command).await,
                },
                event = self.state.next() => self.handle(event).await,
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    self.died("it does not answer").await;
                }
            }
        };
        self.finish().await;
        self.tell();
        if let Some(reply) = ended {
            // Who asked may have stopped waiting.
            let _gone = reply.send(());
        }
    }

    fn tell(&self) {
        let pid = match &self.state {
            State::Running { process, .. } => process.pid(),
            _ => None,
        };
        let shown = v1::EgressStatus {
            running: pid.is_some(),
            sandboxes: u32::try_from(self.entries.len()).unwrap_or(u32::MAX),
            restarts: self.started.saturating_sub(1),
        };
        self.status.send_replace(Status { shown, pid });
    }

    fn begin(&mut self) {
        let settings = Arc::clone(&self.settings);
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and awaited")]
        let start = tokio::spawn(async move { Process::start(&settings).await });
        self.state = State::Starting(start);
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Open {
                traffic,
                sandbox,
                listener,
                filter,
                ledger,
                reply,
            } => {
                let entry = Entry::new(sandbox, listener, filter, ledger, reply);
                self.entries.insert(traffic, entry);
                match self.state {
                    State::Running { .. } => self.open(traffic).await,
                    // Each run may try; after a death all wait.
                    State::Waiting { failed: true, .. } => self.state = State::Idle,
                    _ => {}
                }
            }
            Command::Set {
                traffic,
                filter,
                reply,
            } => {
                let sender = self.sender();
                let Some(entry) = self.entries.get_mut(&traffic) else {
                    return;
                };
                let order = entry.set(traffic, filter, reply, sender.is_some());
                if let (Some(sender), Some(order)) = (sender, order) {
                    let sent = send(&sender, order).await;
                    self.sent(sent).await;
                }
            }
            Command::Close { traffic, reply } => {
                let sender = self.sender();
                let Some(entry) = self.entries.get_mut(&traffic) else {
                    return;
                };
                let order = entry.close(traffic, reply);
                match (sender, order) {
                    (Some(sender), Some(order)) => {
                        let sent = send(&sender, order).await;
                        self.sent(sent).await;
                    }
                    (Some(_), None) => {}
                    (None, _) => self.closed(traffic),
                }
            }
            // `run` ends with it.
            Command::Shutdown { .. } => {}
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Started(Ok(process)) => self.started(process).await,
            Event::Started(Err(failure)) => self.not_started(&failure),
            Event::Heard(Ok(Some(news))) => {
                if let Err(why) = self.hear(news) {
                    self.died(why).await;
                }
            }
            Event::Heard(Ok(None)) => self.died("it ended").await,
            Event::Heard(Err(error)) => self.died(&error.to_string()).await,
            Event::Rested => self.state = State::Idle,
        }
    }

    async fn started(&mut self, process: Process) {
        self.started = self.started.saturating_add(1);
        let since = Instant::now();
        let process = Box::new(process);
        self.state = State::Running { process, since };
        let open: Vec<TrafficId> = self.entries.keys().copied().collect();
        for traffic in open {
            // Does nothing any more when it died over one of them.
            self.open(traffic).await;
        }
    }

    /// Whoever waits for the first time is told; the others go on waiting.
    fn not_started(&mut self, failure: &Failure) {
        tracing::error!(error = %failure, "the egress process cannot be started");
        self.entries.retain(|_, entry| {
            if !entry.was_open() {
                entry.refuse(failure);
            }
            entry.was_open()
        });
        self.rest(true);
    }

    /// What the process says.
    ///
    /// # Errors
    /// Something that it cannot have to say: it is not to be trusted any more.
    fn hear(&mut self, news: News) -> Result<(), &'static str> {
        let unknown = "it spoke of what is not open";
        match news {
            News::Ready(_) => Err("it was ready twice"),
            News::Ack { traffic, result } => {
                let entry = self.entries.get_mut(&traffic).ok_or(unknown)?;
                let result = result.map_err(|why| {
                    let message = "the network filter does not take the sandbox";
                    tracing::error!(sandbox_id = %entry.sandbox(), why, "egress refused");
                    Failure::new(FailureKind::EgressUnavailable, message).cause(why)
                });
                entry.acknowledge(&result)
            }
            News::Record { traffic, record } => {
                let entry = self.entries.get_mut(&traffic).ok_or(unknown)?;
                entry.ledger().add(record);
                Ok(())
            }
            News::Closed { traffic, totals } => {
                let entry = self.entries.get(&traffic).ok_or(unknown)?;
                if !entry.is_closing() {
                    return Err("it closed what was to stay open");
                }
                entry.ledger().count(&totals);
                self.closed(traffic);
                Ok(())
            }
        }
    }

    fn closed(&mut self, traffic: TrafficId) {
        if let Some(entry) = self.entries.remove(&traffic) {
            entry.closed();
        }
    }

    /// Gives a traffic to the process.
    async fn open(&mut self, traffic: TrafficId) {
        let (Some(sender), Some(entry)) = (self.sender(), self.entries.get_mut(&traffic)) else {
            return;
        };
        let sent = send(&sender, entry.open(traffic)).await;
        self.sent(sent).await;
    }

    fn sender(&self) -> Option<Sender> {
        match &self.state {
            State::Running { process, .. } => Some(process.sender.clone()),
            _ => None,
        }
    }

    async fn sent(&mut self, sent: Result<(), String>) {
        if let Err(why) = sent {
            self.died(&why).await;
        }
    }

    /// Ends what is left of the process, and has another one started when a
    /// while has passed.
    async fn died(&mut self, why: &str) {
        let (process, since) = match std::mem::replace(&mut self.state, State::Idle) {
            State::Running { process, since } => (process, since),
            // A start and a pause go on; nothing of a process is there to die.
            other => {
                self.state = other;
                return;
            }
        };
        let status = process.end().await;
        let open = self.entries.len();
        tracing::error!(why, status, open, "the egress process is gone");
        let closing = |entry: &mut Entry| {
            entry.lose();
            entry.is_closing()
        };
        let closed: Vec<TrafficId> = self
            .entries
            .iter_mut()
            .filter_map(|(traffic, entry)| closing(entry).then_some(*traffic))
            .collect();
        for traffic in closed {
            self.closed(traffic);
        }
        if since.elapsed() >= WELL {
            self.pause = FIRST_PAUSE;
        }
        self.rest(false);
    }

    fn rest(&mut self, failed: bool) {
        let until = Instant::now() + self.pause;
        self.state = State::Waiting { until, failed };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Ends the process for good.
    async fn finish(&mut self) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Running { process, .. } => drop(process.end().await),
            State::Starting(start) => {
                // Its process is killed with it, or was ready just now.
                start.abort();
                if let Ok(Ok(process)) = start.await {
                    drop(process.end().await);
                }
            }
            State::Idle | State::Waiting { .. } => {}
        }
        for entry in self.entries.values_mut() {
            entry.lose();
        }
        for (_, entry) in std::mem::take(&mut self.entries) {
            entry.closed();
        }
    }
}

async fn send(sender: &Sender, order: Order<BorrowedFd<'_>>) -> Result<(), String> {
    match timeout(SEND_DEADLINE, sender.order(&order)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes no orders".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_runs_dies() {
        let (status, _shown) = watch::channel(Status::default());
        let mut owner = Owner::new(Arc::default(), status);
        owner.rest(true);
        owner.died("a word that came late").await;
        assert!(matches!(owner.state, State::Waiting { failed: true, .. }));
    }
}
