//! What goes on in a fake sandbox: scripted programs, one at a time.

use std::time::Duration;

use bytes::Bytes;
use isol8_proto::init::{Exec, Exited, Failed, Started, StdinCredit, exited::How, from_init};

use super::{
    init::{Gone, Init, SIGKILL, STDIN_CREDIT_BYTES},
    script::{self, Op},
};

/// Output goes in pieces of this size, as from a pipe.
const PIECE_BYTES: u64 = 64 << 10;

impl Init {
    /// Runs one program from its start to the report of its end.
    pub(super) async fn exec(&self, exec: &Exec) -> Result<(), Gone> {
        let parked = std::mem::take(&mut self.insides().parked) && exec.use_parked;
        let code = self.code_of(exec);
        let ops = ops(&code);
        let end = match ops.first() {
            Some(Op::Refuse(kind)) => from_init::Message::Failed(Failed {
                kind: *kind,
                message: "scripted".to_owned(),
                ..Failed::default()
            }),
            _ => {
                self.send(from_init::Message::Started(Started {
                    parked,
                    stdin_credit: STDIN_CREDIT_BYTES,
                }))
                .await?;
                let about = about(exec, parked, code.len());
                let how = tokio::select! {
                    biased;
                    signal = self.wait(|inbox| inbox.killed_by) => How::Signal(signal),
                    how = self.program(&ops, exec, &about) => how?,
                };
                from_init::Message::Exited(Exited {
                    how: Some(how),
                    user_us: 0,
                    system_us: 0,
                    max_rss_bytes: 0,
                })
            }
        };
        // The next one may come as soon as the end is told.
        self.inbox().running = false;
        self.send(end).await
    }

    /// What is in the program's file; for any other command line what the test
    /// has said about it.
    fn code_of(&self, exec: &Exec) -> Bytes {
        let argv = exec.command.iter().flat_map(|command| &command.argv);
        let argv: Vec<_> = argv.map(|word| String::from_utf8_lossy(word)).collect();
        let last = argv.last().filter(|last| last.starts_with("/sandbox/"));
        if let Some(code) = last.and_then(|file| self.insides().read(file)) {
            return code;
        }
        let command_line = argv.join(" ");
        self.insides().leavings.ran(command_line.clone());
        self.engine.errand_of(command_line).into()
    }

    async fn program(&self, ops: &[Op], exec: &Exec, about: &[u8]) -> Result<How, Gone> {
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
                Op::About => self.write(true, about).await?,
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
                Op::Held(bytes) => self.engine.hold(&self.id, *bytes),
                Op::Oom => {
                    self.engine.count(&self.id, |c| c.oom_kills += 1);
                    return Ok(How::Signal(SIGKILL));
                }
                Op::OomInit => {
                    self.engine.count(&self.id, |c| c.oom_kills += 2);
                    return Err(Gone::Sandbox);
                }
                Op::Die => return Err(Gone::Stream),
                Op::Perish => return Err(Gone::Sandbox),
                Op::Hang => std::future::pending().await,
                Op::Deaf => {
                    self.inbox().deaf = true;
                    std::future::pending().await
                }
                Op::Nonsense => {
                    let garbage = Bytes::from_static(&[0xff; 16]);
                    self.send_raw(garbage).await?;
                }
                Op::Place(name) => self.insides().leavings.place(name),
                Op::Write(path, text) => {
                    let data = Bytes::copy_from_slice(text);
                    let written = self.insides().write(path, data);
                    if let Err(errno) = written {
                        let word = format!("cannot write {path}: errno {errno}\n");
                        self.write(false, word.as_bytes()).await?;
                    }
                }
                Op::Link(path, target) => self.insides().link(path, target),
                Op::Read(path) => {
                    let found = self.insides().read(path);
                    let found = found.unwrap_or_else(|| format!("no {path}\n").into());
                    self.write(true, &found).await?;
                }
                Op::Background(name) => {
                    self.insides().background.insert(name.clone());
                }
                Op::Processes => {
                    let mut list = String::new();
                    for name in &self.insides().background {
                        list += &format!("{name}\n");
                    }
                    self.write(true, list.as_bytes()).await?;
                }
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

fn about(exec: &Exec, parked: bool, size: usize) -> Vec<u8> {
    let argv = exec.command.iter().flat_map(|command| &command.argv);
    let argv: Vec<_> = argv.map(|arg| String::from_utf8_lossy(arg)).collect();
    format!("{size} {} parked={parked}\n", argv.join(" ")).into_bytes()
}
