//! The thread that writes.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{entry::Entry, log::Log};

/// A handle on the thread. The thread ends with it, after all that was brought.
#[derive(Debug)]
pub(super) struct Writer {
    /// Unbounded; bounded by who waits: each run brings one entry at a time.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    done: oneshot::Sender<io::Result<()>>,
}

impl Writer {
    pub(super) fn start(mut log: Log) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || {
            loop {
                match jobs.recv_timeout(log.patience()) {
                    Ok(job) => {
                        let result = log.record(&job.entry, Timestamp::now());
                        // Who no longer waits has what it wanted all the same.
                        drop(job.done.send(result));
                    }
                    Err(RecvTimeoutError::Timeout) => log.idle(Timestamp::now()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            log.finish(Timestamp::now());
        };
        let thread = thread::Builder::new().name("audit".to_owned());
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread.spawn(work)?),
        })
    }

    /// Waits until the entry is written, or kept for later where it may be.
    ///
    /// # Errors
    /// It is neither.
    pub(super) async fn write(&self, entry: Entry) -> io::Result<()> {
        let gone = || io::Error::other("the thread of the audit log is gone");
        let (done, result) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { entry, done }).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been told; runs have been refused since.
            drop(thread.join());
        }
    }
}
