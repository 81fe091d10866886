//! The init of a fake sandbox: the real protocol, a scripted program.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use isol8_core::ids::SandboxId;
use isol8_proto::init::{
    Exec, Exited, Failed, FailureKind, Fetch, FileWritten, FromInit, Hello, Ready, Started,
    StdinCredit, ToInit, exited::How, from_init, to_init,
};
use prost::Message;
use tokio::{
    io::{DuplexStream, ReadHalf, WriteHalf},
    sync::{Notify, mpsc},
};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{
    FakeEngine, Step,
    fetch::Leavings,
    script::{self, Op},
};
use crate::link::{MAX_FRAME_BYTES, PROTOCOL};

/// Output goes in pieces of this size, as from a pipe.
const PIECE_BYTES: u64 = 64 << 10;

/// Stdin that may be on its way to the program.
const STDIN_CREDIT_BYTES: u64 = 256 << 10;

const SIGKILL: i32 = 9;

/// The stream or the program has ended.
pub(super) struct Gone;

/// What takes init some time.
enum Order {
    Exec(Exec),
    Fetch(Fetch),
}

/// What a frame from the daemon changes for the program.
#[derive(Default)]
pub(super) struct Inbox {
    orders: VecDeque<Order>,
    /// The program's file: its path below /sandbox, and what is in it.
    file: Option<Bytes>,
    code: Vec<u8>,
    pub(super) leavings: Leavings,
    pub(super) data_credit: u64,
    stdout_credit: u64,
    stderr_credit: u64,
    stdin: VecDeque<Bytes>,
    stdin_closed: bool,
    signals: VecDeque<i32>,
    /// The program handles signals other than SIGKILL.
    handles_signals: bool,
    killed_by: Option<i32>,
    /// Commands from the daemon change nothing any more.
    deaf: bool,
}

pub(super) struct Init {
    engine: FakeEngine,
    id: SandboxId,
    inbox: Mutex<Inbox>,
    changed: Notify,
    killed: Notify,
    out: mpsc::Sender<Bytes>,
}

/// Serves one sandbox until the stream ends or the task is aborted.
pub(super) async fn run(engine: FakeEngine, id: SandboxId, stream: DuplexStream) {
    let (read, write) = tokio::io::split(stream);
    let mut codec = LengthDelimitedCodec::builder();
    codec.little_endian().max_frame_length(MAX_FRAME_BYTES);
    let (out, queue) = mpsc::channel(4);
    let init = Init {
        engine,
        id,
        inbox: Mutex::default(),
        changed: Notify::new(),
        killed: Notify::new(),
        out,
    };
    tokio::select! {
        () = init.send_all(queue, codec.new_write(write)) => {}
        _ = init.listen(codec.new_read(read)) => {}
        _ = init.live() => {}
    }
}

impl Init {
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
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
        let frame = Bytes::from(message.encode_to_vec());
        self.out.send(frame).await.map_err(|_| Gone)
    }

    async fn listen(
        &self,
        mut frames: FramedRead<ReadHalf<DuplexStream>, LengthDelimitedCodec>,
    ) -> Result<(), Gone> {
        self.send(from_init::Message::Hello(Hello {
            protocol: PROTOCOL,
            version: "fake".to_owned(),
            ..Hello::default()
        }))
        .await?;
        loop {
            let frame: BytesMut = frames.next().await.ok_or(Gone)?.map_err(|_| Gone)?;
            if self.engine.step(Step::FrameIn).await.is_some() {
                return Err(Gone);
            }
            let message = ToInit::decode(frame.freeze()).map_err(|_| Gone)?;
            self.handle(message.message.ok_or(Gone)?).await?;
            self.changed.notify_one();
            self.killed.notify_one();
        }
    }

    async fn handle(&self, message: to_init::Message) -> Result<(), Gone> {
        if self.inbox().deaf {
            return Ok(());
        }
        match message {
            to_init::Message::Prepare(prepare) => {
                let parked = prepare.parked.is_some() && !self.engine.state().parked_dies;
                self.send(from_init::Message::Ready(Ready { parked }))
                    .await?;
            }
            to_init::Message::File(file) => {
                let bytes = {
                    let mut inbox = self.inbox();
                    if !file.append {
                        inbox.code.clear();
                    }
                    inbox.code.extend_from_slice(&file.data);
                    inbox.file = Some(file.path);
                    inbox.code.len() as u64
                };
                if file.last {
                    self.send(from_init::Message::FileWritten(FileWritten { bytes }))
                        .await?;
                }
            }
            to_init::Message::Exec(exec) => {
                let mut inbox = self.inbox();
                inbox.stdout_credit = exec.stdout_credit;
                inbox.stderr_credit = exec.stderr_credit;
                inbox.stdin_closed = !exec.stdin;
                // They were for another program.
                inbox.stdin.clear();
                inbox.signals.clear();
                inbox.handles_signals = false;
                inbox.killed_by = None;
                inbox.orders.push_back(Order::Exec(exec));
            }
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
            to_init::Message::KillAll(_) | to_init::Message::KillRun(_) => {
                self.inbox().killed_by = Some(SIGKILL);
            }
            to_init::Message::Folder(_) | to_init::Message::Remove(_) => {
                let failed = Failed {
                    kind: FailureKind::BadPath.into(),
                    message: "a fake sandbox has no folders".to_owned(),
                    errno: 0,
                    files: true,
                };
                self.send(from_init::Message::Failed(failed)).await?;
            }
            to_init::Message::Fetch(fetch) => {
                let mut inbox = self.inbox();
                inbox.data_credit = fetch.credit;
                inbox.orders.push_back(Order::Fetch(fetch));
            }
        }
        Ok(())
    }

    /// Waits until `ready` finds in the inbox what it needs.
    pub(super) async fn wait<T>(&self, mut ready: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        loop {
            if let Some(found) = ready(&mut self.inbox()) {
                return found;
            }
            self.changed.notified().await;
        }
    }

    async fn live(&self) -> Result<(), Gone> {
        loop {
            match self.wait(|inbox| inbox.orders.pop_front()).await {
                Order::Exec(exec) => self.exec(&exec).await?,
                Order::Fetch(fetch) => self.fetch(&fetch).await?,
            }
        }
    }

    async fn exec(&self, exec: &Exec) -> Result<(), Gone> {
        let code = self.code_of(exec);
        let ops = ops(&code);
        if let Some(Op::Refuse(kind)) = ops.first() {
            return self
                .send(from_init::Message::Failed(Failed {
                    kind: *kind,
                    message: "scripted".to_owned(),
                    ..Failed::default()
                }))
                .await;
        }
        self.send(from_init::Message::Started(Started {
            parked: exec.use_parked,
            stdin_credit: STDIN_CREDIT_BYTES,
        }))
        .await?;
        let how = tokio::select! {
            biased;
            signal = self.killed() => How::Signal(signal),
            how = self.program(&ops, exec, code.len()) => how?,
        };
        self.send(from_init::Message::Exited(Exited {
            how: Some(how),
            user_us: 0,
            system_us: 0,
            max_rss_bytes: 0,
        }))
        .await
    }

    /// What is in the program's file; for any other command line what the test
    /// has said about it.
    fn code_of(&self, exec: &Exec) -> Vec<u8> {
        let argv = exec.command.iter().flat_map(|command| &command.argv);
        let argv: Vec<_> = argv.map(|word| String::from_utf8_lossy(word)).collect();
        let mut inbox = self.inbox();
        let file = inbox
            .file
            .as_ref()
            .map(|path| String::from_utf8_lossy(path));
        let file = file.map(|path| format!("/sandbox/{path}"));
        if file.is_some_and(|file| argv.last().is_some_and(|last| *last == file)) {
            return std::mem::take(&mut inbox.code);
        }
        let command_line = argv.join(" ");
        inbox.leavings.ran(command_line.clone());
        drop(inbox);
        self.engine.errand_of(command_line)
    }

    async fn killed(&self) -> i32 {
        loop {
            if let Some(signal) = self.inbox().killed_by {
                return signal;
            }
            self.killed.notified().await;
        }
    }

    async fn program(&self, ops: &[Op], exec: &Exec, size: usize) -> Result<How, Gone> {
        for op in ops {
            match op {
                Op::Out(bytes) => self.write(true, bytes).await?,
                Op::Err(bytes) => self.write(false, bytes).await?,
                Op::Drip(bytes) => {
                    for byte in bytes.chunks(1) {
                        self.write(true, byte).await?;
                    }
                }
                Op::Flood(bytes) => self.flood(true, *bytes).await?,
                Op::FloodErr(bytes) => self.flood(false, *bytes).await?,
                Op::Env(name) => self.write(true, &show_env(exec, name)).await?,
                Op::About => self.write(true, &about(exec, size)).await?,
                Op::EchoStdin => self.echo().await?,
                Op::Sleep(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
                Op::SignalWait => {
                    self.inbox().handles_signals = true;
                    let signal = self.wait(|inbox| inbox.signals.pop_front()).await;
                    self.write(true, format!("got {signal}\n").as_bytes())
                        .await?;
                }
                Op::Exit(code) => return Ok(How::Code(*code)),
                Op::Kill(signal) => return Ok(How::Signal(*signal)),
                Op::Cpu(us) => self
                    .engine
                    .count(&self.id, |c| c.cpu += Duration::from_micros(*us)),
                Op::Memory(bytes) => self
                    .engine
                    .count(&self.id, |c| c.peak_memory_bytes = *bytes),
                Op::Shmem(bytes) => self.engine.count(&self.id, |c| c.shmem_bytes = *bytes),
                Op::Oom => {
                    self.engine.count(&self.id, |c| c.oom_kills += 1);
                    return Ok(How::Signal(SIGKILL));
                }
                Op::OomInit => {
                    self.engine.count(&self.id, |c| c.oom_kills += 2);
                    return Err(Gone);
                }
                Op::Die => return Err(Gone),
                Op::Hang => std::future::pending().await,
                Op::Deaf => {
                    self.inbox().deaf = true;
                    std::future::pending().await
                }
                Op::Nonsense => {
                    let garbage = Bytes::from_static(&[0xff; 16]);
                    self.out.send(garbage).await.map_err(|_| Gone)?;
                }
                Op::Place(name) => self.inbox().leavings.place(name),
                Op::Refuse(_) => {}
            }
        }
        Ok(How::Code(0))
    }

    async fn write(&self, stdout: bool, bytes: &[u8]) -> Result<(), Gone> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = (rest.len() as u64).min(PIECE_BYTES);
            let granted = self
                .wait(|inbox| {
                    let credit = if stdout {
                        &mut inbox.stdout_credit
                    } else {
                        &mut inbox.stderr_credit
                    };
                    let granted = wanted.min(*credit);
                    *credit -= granted;
                    (granted > 0).then_some(granted)
                })
                .await;
            let granted = usize::try_from(granted).expect("a piece fits");
            let (now, later) = rest.split_at(granted);
            let data = Bytes::copy_from_slice(now);
            self.send(if stdout {
                from_init::Message::Stdout(data)
            } else {
                from_init::Message::Stderr(data)
            })
            .await?;
            rest = later;
        }
        Ok(())
    }

    async fn flood(&self, stdout: bool, bytes: u64) -> Result<(), Gone> {
        let piece = vec![b'x'; usize::try_from(PIECE_BYTES).expect("a piece fits")];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(PIECE_BYTES);
            let part = &piece[..usize::try_from(now).expect("a piece fits")];
            self.write(stdout, part).await?;
            left -= now;
        }
        Ok(())
    }

    async fn echo(&self) -> Result<(), Gone> {
        loop {
            let data = self
                .wait(|inbox| match inbox.stdin.pop_front() {
                    Some(data) => Some(Some(data)),
                    None => inbox.stdin_closed.then_some(None),
                })
                .await;
            let Some(data) = data else { return Ok(()) };
            self.write(true, &data).await?;
            self.send(from_init::Message::StdinCredit(StdinCredit {
                bytes: data.len() as u64,
            }))
            .await?;
        }
    }
}

fn ops(code: &[u8]) -> Vec<Op> {
    let text = String::from_utf8_lossy(code);
    text.lines().filter_map(script::parse).collect()
}

fn show_env(exec: &Exec, name: &str) -> Vec<u8> {
    let env = exec.command.iter().flat_map(|command| &command.env);
    let mut found = env.filter(|var| var.name == name.as_bytes());
    match found.next() {
        Some(var) => format!("{name}={}\n", String::from_utf8_lossy(&var.value)).into_bytes(),
        None => format!("{name} unset\n").into_bytes(),
    }
}

fn about(exec: &Exec, size: usize) -> Vec<u8> {
    let argv = exec.command.iter().flat_map(|command| &command.argv);
    let argv: Vec<_> = argv.map(|arg| String::from_utf8_lossy(arg)).collect();
    format!("{size} {} parked={}\n", argv.join(" "), exec.use_parked).into_bytes()
}
