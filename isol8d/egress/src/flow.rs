//! One direction of bytes between a program and an origin.
//!
//! ```text
//!           256 KiB passed, and there is a pipe
//!  copied ──────────────────────────────────────▶ spliced
//!     ▲                                              │
//!     └───────────── a second of silence ────────────┘
//! ```

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::TcpStream,
    task::coop::consume_budget,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    meter::Meter,
    pipe::{PIPE_BYTES, Pipe, Pipes},
};

/// What a direction begins with: most connections carry little.
const FIRST_BUFFER_BYTES: usize = 8 << 10;

/// What it grows to when it is filled at once. Larger ones are no faster.
const LARGEST_BUFFER_BYTES: usize = 64 << 10;

/// So much is copied before a pipe is asked for: thousands of small tunnels
/// make none.
const COPIED_BYTES: u64 = 256 << 10;

/// A pipe is given back when nothing comes for so long: others may want it.
const SILENCE: Duration = Duration::from_secs(1);

/// When a byte last passed, and whether one direction came to its end.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    last_ms: AtomicU64,
    has_ended: AtomicBool,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Once one side has said all it had, many others do not end their own
    /// direction but close, which the kernel calls a reset.
    pub(crate) fn is_farewell(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
        let is_close = matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected);
        is_close && self.has_ended.load(Relaxed)
    }

    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Relaxed);
    }

    /// Ready when no byte passed for so long.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let last = self.began + Duration::from_millis(self.last_ms.load(Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            sleep_until(last + limit).await;
        }
    }
}

/// What the bytes of a direction count as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Toll<'a> {
    /// Read from an origin.
    In(&'a Meter),
    /// Written to an origin.
    Out(&'a Meter),
}

impl Toll<'_> {
    fn read_room(self, most: usize) -> usize {
        match self {
            Self::In(meter) => meter.room(most),
            Self::Out(_) => most,
        }
    }

    fn write_room(self, most: usize) -> usize {
        match self {
            Self::In(_) => most,
            Self::Out(meter) => meter.room(most),
        }
    }

    fn was_read(self, count: usize) -> io::Result<()> {
        match self {
            Self::In(meter) => meter.spend(count, 0),
            Self::Out(_) => Ok(()),
        }
    }

    fn was_written(self, count: usize) -> io::Result<()> {
        match self {
            Self::In(_) => Ok(()),
            Self::Out(meter) => meter.spend(0, count),
        }
    }
}

/// Why a way of moving bytes came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// All has passed.
    Over,
    /// The other way may be better now.
    Change,
}

#[derive(Debug)]
pub(crate) struct Flow<'a, R, W> {
    from: R,
    to: W,
    toll: Toll<'a>,
    clock: &'a Clock,
    /// How much is still to pass, at most.
    left: u64,
    buffer: Vec<u8>,
}

impl<'a, R, W> Flow<'a, R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Passes bytes on until `from` ends.
    pub(crate) fn new(from: R, to: W, toll: Toll<'a>, clock: &'a Clock) -> Self {
        Self {
            from,
            to,
            toll,
            clock,
            left: u64::MAX,
            buffer: Vec::new(),
        }
    }

    /// The same for so many bytes at most.
    pub(crate) fn limited(self, left: u64) -> Self {
        Self { left, ..self }
    }

    /// How much of its limit did not come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Copies all, and passes the end on.
    pub(crate) async fn copy_to_end(mut self) -> io::Result<()> {
        while self.copy().await? == Pause::Change {}
        self.end().await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.clock.has_ended.store(true, Relaxed);
        self.to.shutdown().await
    }

    /// Copies so much that something faster may be worth its while.
    async fn copy(&mut self) -> io::Result<Pause> {
        if self.buffer.is_empty() {
            self.buffer.resize(FIRST_BUFFER_BYTES, 0);
        }
        let mut copied = 0;
        while copied < COPIED_BYTES {
            let most = at_most(self.left, self.buffer.len());
            if most == 0 {
                return Ok(Pause::Over);
            }
            let most = self.toll.read_room(most);
            let count = self.from.read(&mut self.buffer[..most]).await?;
            self.clock.touch();
            if count == 0 {
                return Ok(Pause::Over);
            }
            self.toll.was_read(count)?;
            self.left -= count as u64;
            copied += count as u64;
            let mut written = 0;
            while written < count {
                let most = self.toll.write_room(count - written);
                let piece = &self.buffer[written..written + most];
                let count = self.to.write(piece).await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                written += count;
                self.toll.was_written(count)?;
            }
            self.to.flush().await?;
            self.clock.touch();
            if count == self.buffer.len() && count < LARGEST_BUFFER_BYTES {
                self.buffer.resize(count * 2, 0);
            }
        }
        Ok(Pause::Change)
    }
}

impl<R, W> Flow<'_, R, W>
where
    R: AsyncRead + AsRef<TcpStream> + Unpin,
    W: AsyncWrite + AsRef<TcpStream> + Unpin,
{
    /// Moves all, without a copy where it is worth it, and passes the end on.
    pub(crate) async fn move_to_end(mut self, pipes: &Pipes) -> io::Result<()> {
        self.move_all(pipes).await?;
        self.end().await
    }

    /// Moves all and leaves the other side as it is.
    pub(crate) async fn move_all(&mut self, pipes: &Pipes) -> io::Result<()> {
        loop {
            if self.copy().await? == Pause::Over {
                return Ok(());
            }
            let Some(pipe) = pipes.take() else { continue };
            self.buffer = Vec::new();
            if self.splice(pipe, pipes).await? == Pause::Over {
                return Ok(());
            }
        }
    }

    async fn splice(&mut self, mut pipe: Pipe, pipes: &Pipes) -> io::Result<Pause> {
        loop {
            let most = at_most(self.left, PIPE_BYTES);
            if most == 0 {
                return Ok(Pause::Over);
            }
            let count = match self.fill(&mut pipe, self.toll.read_room(most)).await {
                Ok(None) => return Ok(Pause::Change),
                Ok(Some(0)) => return Ok(Pause::Over),
                Ok(Some(count)) => count,
                Err(error) if is_not_here(&error) => {
                    pipes.give_up();
                    return Ok(Pause::Change);
                }
                Err(error) => return Err(error),
            };
            self.toll.was_read(count)?;
            self.left -= count as u64;
            while pipe.held() > 0 {
                let count = self.drain(&mut pipe).await?;
                self.toll.was_written(count)?;
                self.clock.touch();
            }
        }
    }

    /// None when nothing came for a while.
    async fn fill(&self, pipe: &mut Pipe, most: usize) -> io::Result<Option<usize>> {
        let from = self.from.as_ref();
        loop {
            consume_budget().await;
            match from.try_io(Interest::READABLE, || pipe.fill(from, most)) {
                Err(error) if is_to_wait(&error) => {}
                result => {
                    self.clock.touch();
                    return result.map(Some);
                }
            }
            match timeout(SILENCE, from.readable()).await {
                Ok(ready) => ready?,
                Err(_) => return Ok(None),
            }
        }
    }

    async fn drain(&self, pipe: &mut Pipe) -> io::Result<usize> {
        let to = self.to.as_ref();
        let most = self.toll.write_room(pipe.held());
        loop {
            consume_budget().await;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to, most)) {
                Err(error) if is_to_wait(&error) => to.writable().await?,
                result => return result,
            }
        }
    }
}

fn at_most(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}

fn is_to_wait(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted)
}

/// What a kernel says, or a filter of system calls, that does not splice from
/// sockets. Nothing was taken then.
fn is_not_here(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::INVAL | Errno::NOSYS | Errno::PERM))
}
