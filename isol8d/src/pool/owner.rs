//! The task that owns every sandbox that nobody has leased.

use std::{
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    layer::LayerId,
    pool::{Action, Event, Policy, Pool, PoolStatus, Ticket},
    sandbox::{EngineKind, Limits, SandboxKey, SandboxSpec},
};
use isol8_engine::Engine;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    Engines, Hold, Lease,
    empty::{Emptied, Empties},
    forget::Forgets,
    make::{Made, make},
};

type LeaseReply = oneshot::Sender<Result<(Lease, Limits), Failure>>;
type WarmReply = oneshot::Sender<Result<u32, Failure>>;

/// What callers wait for.
#[derive(Debug)]
pub(super) enum Request {
    Lease {
        ticket: Ticket,
        key: SandboxKey,
        limits: Limits,
        reply: LeaseReply,
    },
    Warm {
        ticket: Ticket,
        key: SandboxKey,
        count: u32,
        reply: WarmReply,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

impl Request {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Lease { reply, .. } => reply.is_closed(),
            Self::Warm { reply, .. } => reply.is_closed(),
            // It holds for everybody.
            Self::Shutdown { .. } => false,
        }
    }
}

/// What callers do not wait for.
#[derive(Debug)]
pub(super) enum Note {
    Release {
        id: SandboxId,
        /// Told after the first attempt to destroy it.
        done: Option<oneshot::Sender<()>>,
    },
    Cancel {
        ticket: Ticket,
    },
    Prewarm {
        key: SandboxKey,
    },
    Forget {
        layers: BTreeSet<LayerId>,
        done: oneshot::Sender<()>,
    },
    Idle {
        reply: oneshot::Sender<Vec<(SandboxId, EngineKind)>>,
    },
    Empty {
        reply: oneshot::Sender<Emptied>,
    },
    RunStarted,
    RunEnded,
}

#[derive(Debug)]
enum Reply {
    Lease(LeaseReply),
    Warm(WarmReply),
}

/// The owner.
#[derive(Debug)]
pub(super) struct Owner {
    pool: Pool,
    engines: Engines,
    notes: mpsc::UnboundedSender<Note>,
    publish: watch::Sender<PoolStatus>,
    epoch: Instant,
    replies: HashMap<Ticket, Reply>,
    /// Ready and not leased. Their links are watched.
    ready: HashMap<SandboxId, Made>,
    /// Of everything that the pool knows.
    makers: HashMap<SandboxId, Arc<dyn Engine>>,
    makes: Jobs<Made>,
    destroys: Jobs<()>,
    released: HashMap<SandboxId, oneshot::Sender<()>>,
    forgets: Forgets,
    empties: Empties,
    stopped: Vec<oneshot::Sender<()>>,
}

impl Owner {
    pub(super) fn new(
        policy: Policy,
        engines: Engines,
        notes: mpsc::UnboundedSender<Note>,
        publish: watch::Sender<PoolStatus>,
    ) -> Self {
        Self {
            pool: Pool::new(policy),
            engines,
            notes,
            publish,
            epoch: Instant::now(),
            replies: HashMap::new(),
            ready: HashMap::new(),
            makers: HashMap::new(),
            makes: Jobs::default(),
            destroys: Jobs::default(),
            released: HashMap::new(),
            forgets: Forgets::default(),
            empties: Empties::default(),
            stopped: Vec::new(),
        }
    }

    /// Serves until it was told to stop and nothing is left.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut notes: mpsc::UnboundedReceiver<Note>,
    ) {
        let mut open = true;
        while !self.pool.is_stopped() {
            let epoch = self.epoch;
            let wake = self.pool.wake_at().map(|at| epoch + at);
            tokio::select! {
                biased;
                note = notes.recv() => {
                    self.take_note(note.expect("the owner has a sender itself"));
                }
                id = poll_fn(|context| poll_lost(&mut self.ready, context)) => self.lost(id),
                (id, result) = self.makes.ended() => self.made(id, result),
                (id, result) = self.destroys.ended() => self.destroyed(id, &result),
                request = requests.recv(), if open => match request {
                    Some(request) => self.serve(request).await,
                    // Nobody can lease or stop any more.
                    None => {
                        open = false;
                        self.step(Event::Shutdown);
                    }
                },
                () = sleep_until(wake.unwrap_or(epoch)), if wake.is_some() => {
                    self.step(Event::Wake);
                }
            }
            self.publish();
            self.forgets.tell(&self.pool);
            self.empties.tell(&self.pool);
        }
        self.publish();
        for done in self.stopped {
            let _left = done.send(());
        }
    }

    fn publish(&self) {
        let status = self.pool.status(self.epoch.elapsed());
        self.publish.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    async fn serve(&mut self, request: Request) {
        // Notes come first: that it was given up may have been heard before it.
        if request.is_given_up() {
            return;
        }
        match request {
            Request::Lease {
                ticket,
                key,
                limits,
                reply,
            } => {
                self.replies.insert(ticket, Reply::Lease(reply));
                self.drop_the_dead().await;
                self.step(Event::Lease {
                    ticket,
                    key,
                    limits,
                });
            }
            Request::Warm {
                ticket,
                key,
                count,
                reply,
            } => {
                self.replies.insert(ticket, Reply::Warm(reply));
                self.step(Event::Warm { ticket, key, count });
            }
            Request::Shutdown { done } => {
                self.stopped.push(done);
                self.step(Event::Shutdown);
            }
        }
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Release { id, done } => {
                if let Some(done) = done {
                    self.released.insert(id.clone(), done);
                }
                self.step(Event::Release { id: id.clone() });
                if !self.pool.knows(&id) {
                    self.tell_released(&id);
                }
            }
            Note::Cancel { ticket } => {
                self.replies.remove(&ticket);
                self.step(Event::Cancel { ticket });
            }
            Note::Prewarm { key } => {
                if self.engines.contains_key(&key.engine) {
                    self.step(Event::Prewarm { key });
                }
            }
            Note::Forget { layers, done } => {
                self.forgets.add(layers.clone(), done);
                self.step(Event::Forget { layers });
            }
            Note::Idle { reply } => {
                let _left = reply.send(self.pool.idle());
            }
            Note::Empty { reply } => {
                self.empties.add(&self.pool, reply);
                self.step(Event::Empty);
            }
            Note::RunStarted => self.step(Event::RunStarted),
            Note::RunEnded => self.step(Event::RunEnded),
        }
    }

    /// Looks at every warm sandbox once more before one is handed out. The
    /// yield lets the runtime ask the kernel first: a link that broke a moment
    /// ago is not known to be broken before that.
    async fn drop_the_dead(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        tokio::task::yield_now().await;
        while let Some(id) = poll_fn(|context| {
            Poll::Ready(match poll_lost(&mut self.ready, context) {
                Poll::Ready(id) => Some(id),
                Poll::Pending => None,
            })
        })
        .await
        {
            self.lost(id);
        }
    }

    fn lost(&mut self, id: SandboxId) {
        tracing::warn!(sandbox_id = %id, "a waiting sandbox was lost");
        self.ready.remove(&id);
        self.step(Event::Lost { id });
    }

    fn made(&mut self, id: SandboxId, result: Result<Made, Failure>) {
        let result = match result {
            Ok(made) => {
                self.ready.insert(id.clone(), made);
                Ok(())
            }
            Err(failure) => {
                tracing::debug!(sandbox_id = %id, error = %failure, "make failed");
                Err(failure)
            }
        };
        self.step(Event::Made { id, result });
    }

    fn destroyed(&mut self, id: SandboxId, result: &Result<(), Failure>) {
        if let Err(failure) = result {
            tracing::warn!(sandbox_id = %id, error = %failure, "destroy failed");
        }
        self.tell_released(&id);
        self.empties.tried(&id, result);
        let gone = result.is_ok();
        if gone {
            self.makers.remove(&id);
        }
        self.step(Event::Destroyed { id, gone });
    }

    fn tell_released(&mut self, id: &SandboxId) {
        if let Some(done) = self.released.remove(id) {
            let _left = done.send(());
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.pool.step(self.epoch.elapsed(), event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Make { id, key, limits } => {
                let engine = &self.engines[&key.engine];
                let engine = Arc::clone(engine);
                self.makers.insert(id.clone(), Arc::clone(&engine));
                let spec = SandboxSpec {
                    id: id.clone(),
                    key,
                    limits,
                    lasting: false,
                };
                self.makes
                    .start(id, async move { make(&*engine, &spec).await });
            }
            Action::Abort { id } => self.makes.abort(&id),
            Action::Hand {
                ticket,
                id,
                limits,
                warm,
            } => self.hand(ticket, id, limits, warm),
            Action::Fail { ticket, failure } => match self.replies.remove(&ticket) {
                Some(Reply::Lease(reply)) => drop(reply.send(Err(failure))),
                Some(Reply::Warm(reply)) => drop(reply.send(Err(failure))),
                None => {}
            },
            Action::Warmed { ticket, count } => {
                if let Some(Reply::Warm(reply)) = self.replies.remove(&ticket) {
                    let _left = reply.send(Ok(count));
                }
            }
            Action::Destroy { id } => {
                // Closing the link ends what still lives in it.
                self.ready.remove(&id);
                let engine = Arc::clone(&self.makers[&id]);
                let name = id.clone();
                self.destroys
                    .start(id, async move { engine.destroy(&name).await });
            }
        }
    }

    fn hand(&mut self, ticket: Ticket, id: SandboxId, limits: Limits, warm: bool) {
        let made = self.ready.remove(&id).expect("what is handed out is ready");
        let lease = Lease {
            sandbox: made.sandbox,
            warm,
            parked: made.parked,
            baseline: made.baseline,
            hold: Hold {
                engine: Arc::clone(&self.makers[&id]),
                id,
                notes: self.notes.clone(),
                released: false,
            },
        };
        // If nobody is there any more, the lease is dropped, which releases it.
        if let Some(Reply::Lease(reply)) = self.replies.remove(&ticket) {
            drop(reply.send(Ok((lease, limits))));
        }
    }
}

/// The first sandbox whose link ended or said something: nothing is due on it
/// while it waits.
fn poll_lost(ready: &mut HashMap<SandboxId, Made>, context: &mut Context<'_>) -> Poll<SandboxId> {
    for (id, made) in ready {
        let message = pin!(tokio::task::unconstrained(made.sandbox.link.reader.recv()));
        if message.poll(context).is_ready() {
            return Poll::Ready(id.clone());
        }
    }
    Poll::Pending
}

/// Tasks, each for one sandbox. They end with the owner.
#[derive(Debug)]
struct Jobs<T> {
    tasks: JoinSet<Result<T, Failure>>,
    running: HashMap<tokio::task::Id, (SandboxId, AbortHandle)>,
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            running: HashMap::new(),
        }
    }
}

impl<T: Send + 'static> Jobs<T> {
    fn start(
        &mut self,
        id: SandboxId,
        job: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(job);
        self.running.insert(handle.id(), (id, handle));
    }

    fn abort(&self, id: &SandboxId) {
        let mut running = self.running.values();
        if let Some((_, handle)) = running.find(|(other, _)| other == id) {
            handle.abort();
        }
    }

    /// The next that ends; never, while there is none.
    ///
    /// # Cancellation
    /// Cancel safe.
    async fn ended(&mut self) -> (SandboxId, Result<T, Failure>) {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (task, result) = match ended {
            Ok((task, result)) => (task, result),
            Err(error) => (error.id(), Err(broken(&error))),
        };
        let (id, _) = self.running.remove(&task).expect("every task is listed");
        (id, result)
    }
}

fn broken(error: &JoinError) -> Failure {
    if error.is_cancelled() {
        return super::shutting_down();
    }
    Failure::new(FailureKind::Internal, "the engine has a bug: it panicked")
        .hint("`isol8 daemon logs` shows where")
}
