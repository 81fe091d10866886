//! The stream to the daemon, and how an init that lasts gets a new one.
//!
//! ```text
//!  talking ──ended or broken──▶ alone ──somebody answers──▶ talking
//!     └──not lasting──▶ init ends ◀──for too long──┘
//! ```
//! What stood in a stream that is lost is forgotten in both directions. What else
//! that means is at `Supervisor::lose_line`.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isol8_proto::init::{from_init, to_init};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::{
    door::Door,
    wire::{Inbox, LinkError, Outbox},
};

/// Without a daemon for so long, a sandbox that lasts ends: nobody will come and
/// clear it away.
pub(crate) const ORPHANED: Duration = Duration::from_secs(24 * 60 * 60);

/// Between two calls that nobody answered. It doubles from the first to the last:
/// a daemon that starts anew is found at once, one that is gone costs nothing.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(1);

/// The daemon's side of everything: who it is, and what goes to and fro.
#[derive(Debug)]
pub(crate) struct Line {
    socket: PathBuf,
    /// Stays open so that the port stays taken.
    door: Option<Door>,
    /// `None`: alone.
    stream: Option<UnixStream>,
    inbox: Inbox,
    pub(crate) outbox: Outbox,
    /// How long it may be alone; `None`: not at all.
    orphaned: Option<Duration>,
    /// Since when it talks.
    dialled: Instant,
    /// The daemon has said something on this stream.
    heard: bool,
    calls: Calls,
}

/// The calls of an init that is alone.
#[derive(Debug)]
struct Calls {
    /// Since when it has had no daemon that stayed.
    since: Instant,
    next: Instant,
    delay: Duration,
}

impl Line {
    /// Dials the daemon and hands it the door, if there is one.
    ///
    /// # Errors
    /// When there is nobody at `socket`, or it does not get the door.
    pub(crate) fn dial(
        socket: &Path,
        door: Option<Door>,
        orphaned: Option<Duration>,
    ) -> Result<Self, LinkError> {
        let stream = UnixStream::connect(socket)?;
        if let Some(door) = &door {
            door.hand_over(&stream)?;
        }
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Self {
            socket: socket.to_owned(),
            door,
            stream: Some(stream),
            inbox: Inbox::default(),
            outbox: Outbox::new(),
            orphaned,
            dialled: now,
            heard: false,
            calls: Calls {
                since: now,
                next: now,
                delay: FIRST_DELAY,
            },
        })
    }

    pub(crate) const fn is_lasting(&self) -> bool {
        self.orphaned.is_some()
    }

    /// The stream, unless it is alone.
    pub(crate) const fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// Adds a message for the daemon.
    ///
    /// # Errors
    /// [`LinkError::Overrun`] when the daemon has left too many lying.
    pub(crate) fn push(&mut self, message: from_init::Message) -> Result<(), LinkError> {
        self.outbox.push(message)
    }

    /// Writes as much as the daemon takes now.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        match &self.stream {
            Some(stream) => self.outbox.flush(stream),
            None => Ok(()),
        }
    }

    /// Reads once. False: nothing there now.
    pub(crate) fn fill(&mut self) -> Result<bool, LinkError> {
        match &self.stream {
            Some(stream) => self.inbox.fill(stream),
            None => Ok(false),
        }
    }

    /// The next command that is here whole.
    pub(crate) fn take(&mut self) -> Result<Option<to_init::Message>, LinkError> {
        let command = self.inbox.take()?;
        self.heard |= command.is_some();
        Ok(command)
    }

    /// Gives the stream up, with everything in it.
    pub(crate) fn lose(&mut self) {
        let now = Instant::now();
        self.stream = None;
        self.inbox = Inbox::default();
        self.outbox.clear();
        // Who hangs up at once is no daemon, and is not called in a hurry.
        if self.heard || now - self.dialled >= LAST_DELAY {
            self.calls = Calls {
                since: now,
                next: now,
                delay: FIRST_DELAY,
            };
        } else {
            self.calls.unanswered(now);
        }
    }

    /// How long to wait for the next call.
    pub(crate) fn pause(&self) -> Duration {
        let next = self.calls.next.min(self.end());
        next.saturating_duration_since(Instant::now())
    }

    /// Calls the daemon if it is time to; whether it answered.
    ///
    /// # Errors
    /// [`LinkError::Orphaned`] after too long.
    pub(crate) fn redial(&mut self) -> Result<bool, LinkError> {
        let now = Instant::now();
        if now < self.calls.next.min(self.end()) {
            return Ok(false);
        }
        match self.call() {
            Ok(stream) => {
                self.stream = Some(stream);
                self.dialled = now;
                self.heard = false;
                Ok(true)
            }
            // Whatever is wrong may be right again with the next daemon.
            Err(_) if now < self.end() => {
                self.calls.unanswered(now);
                Ok(false)
            }
            Err(_) => Err(LinkError::Orphaned),
        }
    }

    fn end(&self) -> Instant {
        self.calls.since + self.orphaned.unwrap_or(Duration::ZERO)
    }

    /// Does not wait where a daemon leaves its callers waiting.
    fn call(&self) -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(stream.as_raw_fd(), &UnixAddr::new(&self.socket)?)?;
        let stream = UnixStream::from(stream);
        if let Some(door) = &self.door {
            door.hand_over(&stream)?;
        }
        Ok(stream)
    }
}

impl Calls {
    fn unanswered(&mut self, now: Instant) {
        self.next = now + self.delay;
        self.delay = (self.delay * 2).min(LAST_DELAY);
    }
}
