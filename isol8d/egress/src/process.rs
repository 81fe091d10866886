//! `isol8d egress`: the process that carries the bytes of sandboxes.
//!
//! ```text
//!  confine ▶ Hello ▶ Ready ▶ ┌ Open ▶ a task of its own: gate, accept loop ▶ Close ┐ ▶ end
//!                            └──────────────── any number at a time ───────────────┘
//! ```
//! It ends when the daemon's end of the control socket does, when it hears what
//! makes no sense, and when one of its own tasks panics: everything it carries
//! ends with it, and sandboxes have no network until the daemon starts another.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::available_parallelism,
};

use isol8_core::config::MAX_CA_BUNDLE_BYTES;
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    confine::{self, ConfineError, Confined},
    control::{self, ControlError, Hello, News, Order, TrafficId, check_listener},
    limits,
    net::{Net, NetError},
    resolver::Resolver,
    upstream::{Bypass, InvalidUpstream, Upstream},
};

pub mod self_check;
mod traffic;

use traffic::Step;

/// Threads that move bytes. One of them moves more than 1 GB/s; more than a few
/// would take cores from the sandboxes.
const MOST_WORKERS: usize = 4;

/// Threads that may wait: one each for what the resolver lets go on, and some
/// that are never a lookup's. Policies are compiled on these, and the daemon
/// takes a process that does not answer for dead.
const BLOCKING_THREADS: usize = limits::LOOKUPS_IN_ALL + 8;

/// Why the process ends before the daemon does.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It is not confined.
    #[error("cannot confine the process")]
    Confine(#[from] ConfineError),
    /// Its threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The control socket, or what came over it.
    #[error("cannot go on with the daemon")]
    Control(#[from] ControlError),
    /// An order that does not fit what came before.
    #[error("an order out of turn: {0}")]
    OutOfTurn(&'static str),
    /// The daemon's settings.
    #[error("cannot use the upstream proxy")]
    Upstream(#[from] InvalidUpstream),
    /// The way out.
    #[error("cannot set up the way out")]
    Net(#[from] NetError),
    /// The file of authorities.
    #[error("cannot read the file of certificate authorities")]
    Authorities(#[source] io::Error),
    /// A bug of ours.
    #[error("a task ended in a panic")]
    Panicked(#[from] JoinError),
}

/// Confines this process, then serves the daemon at the other end of
/// descriptor 0 until it is gone. Must be called before any thread is started.
///
/// # Errors
/// Why it ended before the daemon.
pub fn main(uid: Option<u32>) -> Result<(), ProcessError> {
    let (confined, workers) = confine(uid)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("egress")
        .enable_all()
        .build()
        .map_err(ProcessError::Threads)?;
    let result = runtime.block_on(serve(confined));
    // A lookup may hang in the C library: nobody waits for it.
    runtime.shutdown_background();
    result
}

/// Confines this process; gives how many threads it should have.
fn confine(uid: Option<u32>) -> Result<(Confined, usize), ProcessError> {
    let prepare = || -> io::Result<usize> {
        // The first runtime of a process makes a pair of Unix sockets for
        // signals, which the others use. Later there is no making one.
        drop(
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        );
        Ok(available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_WORKERS))
    };
    Ok(confine::enter(uid, prepare)?)
}

async fn serve(confined: Confined) -> Result<(), ProcessError> {
    let (news, mut orders) = control()?;
    let hello = match orders.order().await? {
        None => return Ok(()),
        Some(Order::Hello(hello)) => hello,
        Some(_) => return Err(ProcessError::OutOfTurn("the first is not `Hello`")),
    };
    let any_port = hello.any_port;
    let net = Arc::new(way_out(hello)?);
    // What waits here is bounded: records by the log budget of each run, the
    // rest by the orders of the daemon, which waits for answers.
    let (say, mut said) = mpsc::unbounded_channel();
    // Its other end is below.
    let _queued = say.send(News::Ready(confined));
    let mut desk = Desk {
        net,
        any_port,
        say,
        steps: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        while let Some(next) = said.recv().await {
            news.news(&next).await?;
        }
        Ok::<(), ControlError>(())
    });
    loop {
        tokio::select! {
            order = orders.order() => match order? {
                None => return Ok(()),
                Some(order) => desk.take(order)?,
            },
            Some(ended) = desk.tasks.join_next() => {
                desk.steps.remove(&ended?);
            }
            Some(wrote) = writer.join_next() => match wrote? {
                Err(ControlError::Gone) => return Ok(()),
                wrote => wrote?,
            },
        }
    }
}

/// The two directions of descriptor 0.
fn control() -> Result<(control::Sender, control::Receiver), ProcessError> {
    let split = || {
        let stdin = rustix::stdio::stdin();
        control::split(rustix::io::fcntl_dupfd_cloexec(stdin, 3)?)
    };
    Ok(split().map_err(ControlError::Io)?)
}

fn way_out(hello: Hello<OwnedFd>) -> Result<Net, ProcessError> {
    let resolver = Resolver::system();
    let Some(upstream) = hello.upstream else {
        return Ok(Net::direct(resolver));
    };
    let mut authorities = None;
    if let Some(fd) = hello.authorities {
        let mut text = String::new();
        let mut file = File::from(fd).take(MAX_CA_BUNDLE_BYTES + 1);
        let read = file.read_to_string(&mut text);
        let length = read.map_err(ProcessError::Authorities)?;
        if length as u64 > MAX_CA_BUNDLE_BYTES {
            let error = io::ErrorKind::FileTooLarge.into();
            return Err(ProcessError::Authorities(error));
        }
        authorities = Some(text);
    }
    let (upstream, bypass) = (Upstream::parse(&upstream)?, Bypass::parse(&hello.no_proxy));
    Ok(Net::through(
        resolver,
        upstream,
        bypass,
        authorities.as_deref(),
    )?)
}

/// Gives orders to the tasks that they are for.
struct Desk {
    net: Arc<Net>,
    any_port: bool,
    say: mpsc::UnboundedSender<News>,
    steps: HashMap<TrafficId, mpsc::UnboundedSender<Step>>,
    /// One for each sandbox that is open.
    tasks: JoinSet<TrafficId>,
}

impl Desk {
    fn take(&mut self, order: Order<OwnedFd>) -> Result<(), ProcessError> {
        let (traffic, step) = match order {
            Order::Hello(_) => return Err(ProcessError::OutOfTurn("a second `Hello`")),
            Order::Open {
                traffic,
                listener,
                filter,
            } => {
                if self.steps.contains_key(&traffic) {
                    return Err(ProcessError::OutOfTurn("`Open` of what is open"));
                }
                let listener = match check_listener(listener.as_fd(), self.any_port) {
                    Ok(()) => Ok(listener),
                    Err(why) => Err(format!("this is not the listener of a sandbox: {why}")),
                };
                let (step, steps) = mpsc::unbounded_channel();
                let task = traffic::Traffic::new(traffic, &self.net, &self.say);
                self.tasks.spawn(task.carry(listener, filter, steps));
                self.steps.insert(traffic, step);
                return Ok(());
            }
            Order::Set { traffic, filter } => (traffic, Step::Set(filter)),
            Order::Close { traffic } => (traffic, Step::Close),
        };
        let task = self.steps.get(&traffic);
        let task = task.ok_or(ProcessError::OutOfTurn("an order for what is not open"))?;
        // A task that has ended had `Close` before.
        task.send(step)
            .map_err(|_| ProcessError::OutOfTurn("an order after `Close`"))
    }
}
