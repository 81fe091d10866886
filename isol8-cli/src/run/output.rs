//! The program's output on its way to our stdout and stderr, byte for byte.
//!
//! A write that cannot block is made at once. The first one that might is
//! handed, with all that follow, to a thread of its own, so that a reader who
//! pauses never keeps us from hearing Ctrl-C.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    io::Errno,
    stdio,
};
use tokio::sync::{mpsc, oneshot};

/// A pipe or terminal that has room has at least this much (PIPE_BUF).
const SMALL: usize = 4096;
/// Pieces that wait for a slow reader, 256 KiB each at most.
const QUEUE: usize = 16;

/// What anybody may ask for (`/proc/sys/fs/pipe-max-size` by default).
const PIPE_BYTES: usize = 1 << 20;

/// Why output stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputError {
    /// Nobody reads our stdout any more.
    StdoutClosed,
    /// Our stdout takes no more, such as a full disk.
    Stdout(String),
}

/// What is known about the output when all of it is written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// stdout, where it was to be collected.
    pub(crate) stdout: Vec<u8>,
    /// stderr, where it was to be collected.
    pub(crate) stderr: Vec<u8>,
    /// The copy is not complete, and why.
    pub(crate) copy_failed: Option<String>,
    /// What is on our stderr does not end with a line's end.
    pub(crate) mid_line: bool,
}

/// Takes output.
#[derive(Debug)]
pub(crate) struct Output(State);

#[derive(Debug)]
enum State {
    Direct(Box<Sink>),
    Threaded {
        queue: mpsc::Sender<Piece>,
        done: oneshot::Receiver<(Box<Sink>, Result<(), OutputError>)>,
    },
    Failed(OutputError),
}

#[derive(Debug)]
enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The installer's output, never collected.
    Installer(Bytes),
    /// A line of ours between those of the program.
    Own(Bytes),
}

impl Output {
    /// With `collect`, nothing is written and all is kept. `copy` takes what
    /// goes to stdout as well.
    pub(crate) fn new(collect: bool, copy: Option<(PathBuf, File)>) -> Self {
        Self(State::Direct(Box::new(Sink {
            collect,
            copy,
            stdout_never_blocks: never_blocks(stdio::stdout()),
            stderr_never_blocks: never_blocks(stdio::stderr()),
            written: Written::default(),
        })))
    }

    /// Takes a piece of the program's stdout.
    ///
    /// # Errors
    /// Our stdout takes no more. It may have been an earlier piece.
    pub(crate) async fn stdout(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        self.put(Piece::Stdout(bytes)).await
    }

    /// Takes a piece of the program's stderr.
    ///
    /// # Errors
    /// As [`Output::stdout`]; a closed stderr is no error.
    pub(crate) async fn stderr(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        self.put(Piece::Stderr(bytes)).await
    }

    /// Takes a piece of the installer's output, for stderr as it is.
    ///
    /// # Errors
    /// As [`Output::stdout`].
    pub(crate) async fn installer(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        self.put(Piece::Installer(bytes)).await
    }

    /// Takes lines of ours for stderr. No lines at all end one that is not ended.
    ///
    /// # Errors
    /// As [`Output::stdout`].
    pub(crate) async fn own(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        self.put(Piece::Own(bytes)).await
    }

    async fn put(&mut self, piece: Piece) -> Result<(), OutputError> {
        if let State::Direct(sink) = &mut self.0 {
            if sink.can_take(&piece) {
                return sink.take(&piece);
            }
            self.go_threaded();
        }
        match &mut self.0 {
            State::Threaded { queue, .. } if queue.send(piece).await.is_ok() => Ok(()),
            State::Failed(error) => Err(error.clone()),
            _ => self.settle().await.map(drop),
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// Our stdout took no more.
    pub(crate) async fn finish(mut self) -> Result<Written, OutputError> {
        let mut sink = self.settle().await?;
        sink.finish_copy();
        Ok(sink.written)
    }

    /// The sink back, when the thread is through its queue or has failed.
    async fn settle(&mut self) -> Result<Box<Sink>, OutputError> {
        let vanished = OutputError::Stdout("the thread that writes is gone".to_owned());
        match std::mem::replace(&mut self.0, State::Failed(vanished.clone())) {
            State::Direct(sink) => Ok(sink),
            State::Threaded { queue, done } => {
                drop(queue);
                let (sink, result) = done.await.map_err(|_| vanished)?;
                result.inspect_err(|error| self.0 = State::Failed(error.clone()))?;
                Ok(sink)
            }
            State::Failed(error) => {
                self.0 = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    fn go_threaded(&mut self) {
        let nobody = State::Failed(OutputError::Stdout("no thread can be started".to_owned()));
        let State::Direct(mut sink) = std::mem::replace(&mut self.0, nobody) else {
            return;
        };
        widen(stdio::stdout());
        let (queue, mut pieces) = mpsc::channel::<Piece>(QUEUE);
        let (sender, done) = oneshot::channel();
        let work = move || {
            let mut result = Ok(());
            while let Some(piece) = pieces.blocking_recv() {
                result = sink.take(&piece);
                if result.is_err() {
                    break;
                }
            }
            drop(sender.send((sink, result)));
        };
        if thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(work)
            .is_ok()
        {
            self.0 = State::Threaded { queue, done };
        }
    }
}

/// Writes, blocking.
#[derive(Debug)]
struct Sink {
    collect: bool,
    copy: Option<(PathBuf, File)>,
    stdout_never_blocks: bool,
    stderr_never_blocks: bool,
    written: Written,
}

impl Sink {
    /// Whether [`Sink::take`] will return at once.
    fn can_take(&self, piece: &Piece) -> bool {
        if self.collect {
            return true;
        }
        match piece {
            Piece::Stdout(bytes) => {
                self.stdout_never_blocks || (bytes.len() <= SMALL && has_room(stdio::stdout()))
            }
            Piece::Stderr(bytes) | Piece::Installer(bytes) | Piece::Own(bytes) => {
                self.stderr_never_blocks || (bytes.len() <= SMALL && has_room(stdio::stderr()))
            }
        }
    }

    fn take(&mut self, piece: &Piece) -> Result<(), OutputError> {
        match piece {
            Piece::Stdout(bytes) => {
                self.copy(bytes);
                if self.collect {
                    self.written.stdout.extend_from_slice(bytes);
                    return Ok(());
                }
                write_all(stdio::stdout(), bytes).map_err(|errno| match errno {
                    Errno::PIPE => OutputError::StdoutClosed,
                    errno => OutputError::Stdout(io::Error::from(errno).to_string()),
                })
            }
            Piece::Stderr(bytes) if self.collect => {
                self.written.stderr.extend_from_slice(bytes);
                Ok(())
            }
            Piece::Stderr(bytes) | Piece::Installer(bytes) => {
                self.write_stderr(bytes);
                Ok(())
            }
            Piece::Own(bytes) => {
                if self.written.mid_line {
                    self.write_stderr(b"\n");
                }
                self.write_stderr(bytes);
                Ok(())
            }
        }
    }

    /// Without a reader the program goes on, as it would with `2>/dev/null`.
    fn write_stderr(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            let _unheard = write_all(stdio::stderr(), bytes);
            self.written.mid_line = *last != b'\n';
        }
    }

    /// A copy that fails is given up; the run goes on and the end tells.
    fn copy(&mut self, bytes: &[u8]) {
        if let Some((path, file)) = &mut self.copy
            && let Err(error) = file.write_all(bytes)
        {
            self.written.copy_failed = Some(copy_failure(path, &error));
            self.copy = None;
        }
    }

    fn finish_copy(&mut self) {
        if let Some((path, mut file)) = self.copy.take()
            && let Err(error) = file.flush()
        {
            self.written.copy_failed = Some(copy_failure(&path, &error));
        }
    }
}

fn copy_failure(path: &Path, error: &io::Error) -> String {
    format!("`{}`: {error}", path.display())
}

/// Regular files and `/dev/null` take what they get.
fn never_blocks(fd: rustix::fd::BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return true;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => true,
        FileType::CharacterDevice => is_null(stat.st_rdev),
        _ => false,
    }
}

/// Whether this device is `/dev/null`.
pub(crate) fn is_null(device: u64) -> bool {
    (rustix::fs::major(device), rustix::fs::minor(device)) == (1, 3)
}

fn has_room(fd: rustix::fd::BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // An error there (nobody reads) is found by the write.
    matches!(poll(&mut polled, Some(&now)), Ok(count) if count > 0)
}

/// Lets a pipe hold more than its 64 KiB, so that a flood changes between us and
/// its reader less often. No pipe, or no permission: it stays as it is.
fn widen(fd: rustix::fd::BorrowedFd<'_>) {
    if rustix::pipe::fcntl_getpipe_size(fd).is_ok_and(|size| size < PIPE_BYTES) {
        let _as_it_is = rustix::pipe::fcntl_setpipe_size(fd, PIPE_BYTES);
    }
}

/// Writes all, also where somebody made the descriptor non-blocking: it may be
/// shared with a process that wants it so.
fn write_all(fd: rustix::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match poll(&mut polled, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
