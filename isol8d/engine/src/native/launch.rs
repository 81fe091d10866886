//! Starts a launcher and stays with it until it has ended, so that nothing is
//! left unburied.

use std::{
    ffi::OsString,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::watch,
};
use tokio_util::task::TaskTracker;

/// What is kept of the words of launcher, bubblewrap and init. More is read and
/// thrown away.
const MAX_WORDS_BYTES: usize = 4096;

/// How a jail ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None` when the kernel would not say.
    pub(super) status: Option<ExitStatus>,
    /// What was said on stderr.
    pub(super) words: String,
}

/// A jail that was started.
#[derive(Debug, Clone)]
pub(super) struct Jail {
    ended: watch::Receiver<Option<Arc<Ended>>>,
}

impl Jail {
    /// Starts a launcher. A task of `tracker` waits for its end.
    ///
    /// Nothing here makes the standard library fork: with neither uid nor hook it
    /// takes `posix_spawn`, which does not copy the daemon's page tables.
    pub(super) fn start(
        tracker: &TaskTracker,
        launcher: &Path,
        arguments: &[OsString],
    ) -> io::Result<Self> {
        let mut child = Command::new(launcher)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A terminal's ctrl-c is for the daemon, not for every jail.
            .process_group(0)
            .spawn()?;
        let stderr = child.stderr.take();
        let (sender, ended) = watch::channel(None);
        tracker.spawn(async move {
            let words = match stderr {
                Some(stderr) => listen(stderr).await,
                None => String::new(),
            };
            let ended = Ended {
                status: bury(child).await,
                words,
            };
            // Nobody may be left who wants to know.
            sender.send(Some(Arc::new(ended))).ok();
        });
        Ok(Self { ended })
    }

    /// Waits for the end.
    ///
    /// # Cancellation
    /// Cancel safe.
    pub(super) async fn ended(&mut self) -> Arc<Ended> {
        let gone = || {
            Arc::new(Ended {
                status: None,
                words: String::new(),
            })
        };
        match self.ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }
}

/// Reads to the end, which comes when the last process of the jail is gone.
async fn listen(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                let room = MAX_WORDS_BYTES.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..length.min(room)]);
            }
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

async fn bury(mut child: Child) -> Option<ExitStatus> {
    child.wait().await.ok()
}
