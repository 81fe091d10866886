//! A pipe of the kernel's, through which bytes go from one connection to
//! another without being copied into this process and out again.
//!
//! Each costs two files, and what it holds is memory of nobody's socket. So
//! they are few, they are made when a connection has shown that it carries
//! much, and whoever gets none copies instead.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a pipe is told to hold, in bytes. Half of the pages that a user may
/// have in pipes are enough for [`crate::limits::PIPES_IN_ALL`] of this size.
pub(crate) const PIPE_BYTES: usize = 256 << 10;

/// How a pipe is made.
pub(crate) const PIPE_FLAGS: PipeFlags = PipeFlags::CLOEXEC.union(PipeFlags::NONBLOCK);

/// How bytes are moved.
pub(crate) const SPLICE_FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Where the connections of a run get their pipes.
#[derive(Debug, Clone)]
pub(crate) struct Pipes {
    pub(crate) of_run: Arc<Semaphore>,
    pub(crate) of_all: Arc<Semaphore>,
}

impl Pipes {
    /// None when there are enough, and when the kernel gives none of the size.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let places = [&self.of_run, &self.of_all].map(|of| Arc::clone(of).try_acquire_owned().ok());
        let [Some(of_run), Some(of_all)] = places else {
            return None;
        };
        match Pipe::new([of_run, of_all]) {
            Ok(pipe) => Some(pipe),
            Err(error) => {
                tracing::debug!(%error, "no pipe to be had");
                None
            }
        }
    }

    /// No connection gets one any more: this kernel does not splice.
    pub(crate) fn give_up(&self) {
        self.of_all.close();
    }
}

#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    _places: [OwnedSemaphorePermit; 2],
}

impl Pipe {
    fn new(places: [OwnedSemaphorePermit; 2]) -> io::Result<Self> {
        let (read, write) = pipe_with(PIPE_FLAGS)?;
        // A smaller one would be slower than copying.
        fcntl_setpipe_size(&write, PIPE_BYTES)?;
        Ok(Self {
            read,
            write,
            held: 0,
            _places: places,
        })
    }

    /// How much was put in and not yet taken out.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes from a socket; 0 is its end. Only when nothing
    /// is held: a full pipe would look like a socket that has nothing.
    pub(crate) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe is filled when it is empty");
        let most = most.min(PIPE_BYTES);
        let count = splice(from, None, &self.write, None, most, SPLICE_FLAGS)?;
        self.held = count;
        Ok(count)
    }

    /// Gives up to `most` of what is held to a socket, at least one byte.
    pub(crate) fn drain(&mut self, to: impl AsFd, most: usize) -> io::Result<usize> {
        let most = most.min(self.held);
        match splice(&self.read, None, to, None, most, SPLICE_FLAGS)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => {
                self.held -= count;
                Ok(count)
            }
        }
    }
}

/// Whether this process may make a pipe and move bytes between two.
pub(crate) fn is_possible() -> bool {
    let moves = || -> io::Result<bool> {
        let (full, empty) = (pipe_with(PIPE_FLAGS)?, pipe_with(PIPE_FLAGS)?);
        fcntl_setpipe_size(&full.1, PIPE_BYTES)?;
        rustix::io::write(&full.1, b"x")?;
        Ok(splice(&full.0, None, &empty.1, None, 1, SPLICE_FLAGS)? == 1)
    };
    moves().unwrap_or(false)
}
