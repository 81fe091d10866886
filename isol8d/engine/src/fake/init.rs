//! The init of a fake sandbox: the real protocol, a scripted program.
//!
//! One that lasts serves one stream after another. What goes on in it ends with
//! its stream; what is in [`Insides`] stays.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use isol8_core::ids::SandboxId;
use isol8_proto::init::{
    Done, Exec, Failed, FailureKind, Fetch, FromInit, Hello, Prepare, Ready, ToInit, from_init,
    to_init,
};
use prost::Message;
use tokio::{
    io::{DuplexStream, ReadHalf, WriteHalf},
    sync::{Notify, mpsc, oneshot},
    task::yield_now,
};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{
    FakeEngine, Step,
    insides::{Insides, refusal},
    writing::{self, Writing},
};
use crate::link::{MAX_FRAME_BYTES, PROTOCOL};

/// Stdin that may be on its way to the program.
pub(super) const STDIN_CREDIT_BYTES: u64 = 256 << 10;

pub(super) const SIGKILL: i32 = 9;

/// For folders that come without one.
const USUAL_FOLDER_MODE: u32 = 0o755;

/// What has ended, and cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// The stream, and what went on meanwhile.
    Stream,
    /// Init itself, and everything with it.
    Sandbox,
}

/// A new stream for an init that has none.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) stream: DuplexStream,
    /// Told when init has taken it.
    pub(super) taken: oneshot::Sender<()>,
}

/// What a frame from the daemon changes.
#[derive(Default)]
pub(super) struct Inbox {
    exec: Option<Exec>,
    /// A program runs or is about to.
    pub(super) running: bool,
    fetch: Option<Fetch>,
    /// A tree is being read or is about to be.
    fetching: bool,
    /// The tree is not to be read on.
    fetch_stopped: Option<Failed>,
    writing: Option<Writing>,
    pub(super) data_credit: u64,
    pub(super) stdout_credit: u64,
    pub(super) stderr_credit: u64,
    pub(super) stdin: VecDeque<Bytes>,
    pub(super) stdin_closed: bool,
    pub(super) signals: VecDeque<i32>,
    /// The program handles signals other than SIGKILL.
    pub(super) handles_signals: bool,
    pub(super) killed_by: Option<i32>,
    /// Commands from the daemon change nothing any more.
    pub(super) deaf: bool,
}

/// One stream of an init.
pub(super) struct Init {
    pub(super) engine: FakeEngine,
    pub(super) id: SandboxId,
    lasting: bool,
    insides: Arc<Mutex<Insides>>,
    inbox: Mutex<Inbox>,
    changed: Notify,
    out: mpsc::Sender<Bytes>,
}

/// Where an init comes from and who may call it again.
pub(super) struct Birth {
    pub(super) engine: FakeEngine,
    pub(super) id: SandboxId,
    pub(super) lasting: bool,
    /// Most bytes below its two roots.
    pub(super) rooms: [u64; 2],
    pub(super) calls: mpsc::Receiver<Call>,
}

/// Serves one sandbox until it ends or the task is aborted.
pub(super) async fn run(mut birth: Birth, mut stream: DuplexStream) {
    let insides = Arc::new(Mutex::new(Insides::new(birth.rooms)));
    loop {
        let (out, queue) = mpsc::channel(4);
        let init = Init {
            engine: birth.engine.clone(),
            id: birth.id.clone(),
            lasting: birth.lasting,
            insides: Arc::clone(&insides),
            inbox: Mutex::default(),
            changed: Notify::new(),
            out,
        };
        let gone = init.serve(stream, queue).await;
        if gone == Gone::Sandbox || !birth.lasting {
            return;
        }
        let Some(call) = birth.calls.recv().await else {
            return;
        };
        // Who called may have given up since: then the stream ends at once.
        call.taken.send(()).ok();
        stream = call.stream;
    }
}

impl Init {
    async fn serve(&self, stream: DuplexStream, queue: mpsc::Receiver<Bytes>) -> Gone {
        let (read, write) = tokio::io::split(stream);
        let mut codec = LengthDelimitedCodec::builder();
        codec.little_endian().max_frame_length(MAX_FRAME_BYTES);
        // In this order, and with a pause after each command: what a command has
        // begun is seen to have begun before the next one is heard.
        let result = tokio::select! {
            biased;
            () = self.send_all(queue, codec.new_write(write)) => Err(Gone::Stream),
            ended = self.programs() => ended,
            ended = self.fetches() => ended,
            ended = self.listen(codec.new_read(read)) => ended,
        };
        let Err(gone) = result;
        gone
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insides(&self) -> MutexGuard<'_, Insides> {
        self.insides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the others queue; ends when the daemon is gone.
    async fn send_all(
        &self,
        mut queue: mpsc::Receiver<Bytes>,
        mut sink: FramedWrite<WriteHalf<DuplexStream>, LengthDelimitedCodec>,
    ) {
        while let Some(frame) = queue.recv().await {
            let lost = self.engine.step(Step::FrameOut).await.is_some();
            if lost || sink.send(frame).await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn send(&self, message: from_init::Message) -> Result<(), Gone> {
        let message = FromInit {
            message: Some(message),
        };
        self.send_raw(Bytes::from(message.encode_to_vec())).await
    }

    pub(super) async fn send_raw(&self, frame: Bytes) -> Result<(), Gone> {
        self.out.send(frame).await.map_err(|_| Gone::Stream)
    }

    async fn listen(
        &self,
        mut frames: FramedRead<ReadHalf<DuplexStream>, LengthDelimitedCodec>,
    ) -> Result<Infallible, Gone> {
        let hello = {
            let insides = self.insides();
            Hello {
                protocol: PROTOCOL,
                version: "fake".to_owned(),
                token: insides.token.clone(),
                lasting: self.lasting,
                parked: insides.parked,
            }
        };
        self.send(from_init::Message::Hello(hello)).await?;
        loop {
            let frame = frames.next().await.ok_or(Gone::Stream)?;
            let frame: BytesMut = frame.map_err(|_| Gone::Stream)?;
            if self.engine.step(Step::FrameIn).await.is_some() {
                return Err(Gone::Stream);
            }
            let message = ToInit::decode(frame.freeze()).map_err(|_| Gone::Stream)?;
            let message = message.message.ok_or(Gone::Stream)?;
            if !self.inbox().deaf {
                self.obey(message).await?;
            }
            self.changed.notify_waiters();
            yield_now().await;
        }
    }

    async fn obey(&self, message: to_init::Message) -> Result<(), Gone> {
        match message {
            to_init::Message::Prepare(prepare) => self.prepare(&prepare).await?,
            to_init::Message::File(piece) => {
                let taken = {
                    let (mut inbox, mut insides) = (self.inbox(), self.insides());
                    writing::take(&mut inbox.writing, &mut insides, &piece)
                };
                if let Some(answer) = taken {
                    self.answer(answer.map(from_init::Message::FileWritten))
                        .await?;
                }
            }
            to_init::Message::Folder(order) => {
                let mode = match order.mode {
                    0 => USUAL_FOLDER_MODE,
                    mode => mode & 0o777,
                };
                let made = self
                    .insides()
                    .tree_mut(order.root)
                    .and_then(|tree| tree.make_folder(&order.path, mode));
                let made = made.map_err(|errno| refusal(errno, &order.path));
                self.answer(made.map(|()| from_init::Message::Done(Done {})))
                    .await?;
            }
            to_init::Message::Symlink(order) => {
                let made = self
                    .insides()
                    .tree_mut(order.root)
                    .and_then(|tree| tree.link(&order.path, order.target));
                let made = made.map_err(|errno| refusal(errno, &order.path));
                self.answer(made.map(|()| from_init::Message::Done(Done {})))
                    .await?;
            }
            to_init::Message::Remove(order) => {
                if self.stop_fetch(&busy(true)) {
                    return Ok(());
                }
                let removed = self
                    .insides()
                    .tree_mut(order.root)
                    .and_then(|tree| tree.remove(&order.path, order.recursive));
                let removed = removed.map_err(|errno| refusal(errno, &order.path));
                self.answer(removed.map(|()| from_init::Message::Done(Done {})))
                    .await?;
            }
            to_init::Message::Exec(exec) => self.take_exec(exec).await?,
            to_init::Message::Stdin(data) => self.inbox().stdin.push_back(data),
            to_init::Message::CloseStdin(_) => self.inbox().stdin_closed = true,
            to_init::Message::Credit(credit) => {
                let mut inbox = self.inbox();
                inbox.stdout_credit += credit.stdout;
                inbox.stderr_credit += credit.stderr;
                inbox.data_credit += credit.data;
            }
            to_init::Message::Signal(signal) => {
                let mut inbox = self.inbox();
                if inbox.handles_signals && signal.number != SIGKILL {
                    inbox.signals.push_back(signal.number);
                } else {
                    inbox.killed_by = Some(signal.number);
                }
            }
            to_init::Message::KillAll(_) => {
                self.inbox().killed_by = Some(SIGKILL);
                let mut insides = self.insides();
                insides.background.clear();
                insides.parked = false;
                drop(insides);
                self.stop_fetch(&Failed {
                    kind: FailureKind::Other.into(),
                    message: "stopped before all was read".to_owned(),
                    errno: libc::ECANCELED,
                    files: true,
                });
            }
            to_init::Message::KillRun(_) => self.inbox().killed_by = Some(SIGKILL),
            to_init::Message::Fetch(fetch) => self.take_fetch(fetch).await?,
        }
        Ok(())
    }

    async fn prepare(&self, prepare: &Prepare) -> Result<(), Gone> {
        let parked = prepare.parked.is_some() && !self.engine.state().parked_dies;
        {
            let mut insides = self.insides();
            if !prepare.token.is_empty() {
                insides.token = prepare.token.clone();
            }
            insides.parked = parked;
        }
        self.send(from_init::Message::Ready(Ready { parked })).await
    }

    async fn take_exec(&self, exec: Exec) -> Result<(), Gone> {
        if self.inbox().running {
            return self.send(from_init::Message::Failed(busy(false))).await;
        }
        if !self.lasting && self.stop_fetch(&busy(true)) {
            return Ok(());
        }
        let mut inbox = self.inbox();
        inbox.stdout_credit = exec.stdout_credit;
        inbox.stderr_credit = exec.stderr_credit;
        inbox.stdin_closed = !exec.stdin;
        // They were for another program.
        inbox.stdin.clear();
        inbox.signals.clear();
        inbox.handles_signals = false;
        inbox.killed_by = None;
        inbox.running = true;
        inbox.exec = Some(exec);
        Ok(())
    }

    async fn take_fetch(&self, fetch: Fetch) -> Result<(), Gone> {
        if self.inbox().running && !self.lasting {
            return self.send(from_init::Message::Failed(busy(true))).await;
        }
        if self.stop_fetch(&busy(true)) {
            return Ok(());
        }
        let mut inbox = self.inbox();
        inbox.data_credit = fetch.credit;
        inbox.fetching = true;
        inbox.fetch = Some(fetch);
        Ok(())
    }

    /// Ends the reading of a tree with this answer; whether there was one.
    fn stop_fetch(&self, answer: &Failed) -> bool {
        let mut inbox = self.inbox();
        if inbox.fetching {
            inbox.fetch_stopped = Some(answer.clone());
        }
        inbox.fetching
    }

    async fn answer(&self, answer: Result<from_init::Message, Failed>) -> Result<(), Gone> {
        self.send(answer.unwrap_or_else(from_init::Message::Failed))
            .await
    }

    /// Waits until `ready` finds in the inbox what it needs.
    pub(super) async fn wait<T>(&self, mut ready: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        loop {
            // All of one init is one task: nothing happens between the look and
            // the wait.
            if let Some(found) = ready(&mut self.inbox()) {
                return found;
            }
            self.changed.notified().await;
        }
    }

    async fn programs(&self) -> Result<Infallible, Gone> {
        loop {
            let exec = self.wait(|inbox| inbox.exec.take()).await;
            self.exec(&exec).await?;
        }
    }

    async fn fetches(&self) -> Result<Infallible, Gone> {
        loop {
            let order = self.wait(|inbox| inbox.fetch.take()).await;
            let answer = tokio::select! {
                biased;
                stopped = self.wait(|inbox| inbox.fetch_stopped.take()) => Err(stopped),
                fetched = self.fetch(&order) => fetched?,
            };
            {
                let mut inbox = self.inbox();
                inbox.fetching = false;
                inbox.fetch_stopped = None;
            }
            self.answer(answer.map(from_init::Message::Fetched)).await?;
        }
    }
}

fn busy(files: bool) -> Failed {
    Failed {
        kind: FailureKind::Other.into(),
        message: "the sandbox is busy".to_owned(),
        errno: libc::EBUSY,
        files,
    }
}
