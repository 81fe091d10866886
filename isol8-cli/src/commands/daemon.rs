//! `isol8 daemon start`, `stop` and `logs`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use isol8_core::failure::{Failure, FailureKind};
use isol8_proto::v1::{ShutdownRequest, admin_service_client::AdminServiceClient};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::time::{sleep, timeout};

use super::{answer, status};
use crate::{
    args::DaemonCommand,
    connect::{self, ANSWER_TIMEOUT, silent, unwanted},
    console::Console,
    exit::Exit,
    paths::Paths,
};

/// Longer than the daemon gives its runs to end and its sandboxes to go.
const STOP_TIMEOUT_S: i64 = 60;
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Starts, stops or shows the workstation's daemon.
pub(super) async fn daemon(
    command: &DaemonCommand,
    paths: &Paths,
    console: &Console,
) -> Result<Exit, Failure> {
    match command {
        DaemonCommand::Start => start(paths, console).await,
        DaemonCommand::Stop => stop(paths, console).await,
        DaemonCommand::Logs { follow } => logs(&paths.log()?, *follow).await,
    }
}

async fn start(paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let (link, what) = match connect::dial(paths, console).await? {
        Some(link) => (link, "was running"),
        None => (connect::dial_or_start(paths, console).await?, "is running"),
    };
    let status = status::ask(&link).await?;
    if let Some(warning) = status::version_warning(&status.version) {
        console.warning(&warning);
    }
    let shown = link.socket.display();
    let text = format!(
        "isol8d {} {what}: pid {}, socket {shown}\n",
        status.version, status.pid
    );
    answer(text.as_bytes())
}

async fn stop(paths: &Paths, console: &Console) -> Result<Exit, Failure> {
    let Some(link) = connect::dial(paths, console).await? else {
        return answer(b"isol8d was not running\n");
    };
    // Its own word: who listens may be the service manager. Taken before the order
    // is given, as afterwards the number may be somebody else's.
    let told = status::ask(&link).await.ok();
    let pid = told.and_then(|status| i32::try_from(status.pid).ok());
    let pid = pid.or(link.pid);
    let process = pid
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut client = AdminServiceClient::new(link.channel.clone());
    let order = timeout(ANSWER_TIMEOUT, client.shutdown(ShutdownRequest {})).await;
    let order = order.map_err(|_| silent(&link))?;
    if let Err(status) = order {
        let failure = unwanted(&status);
        // It may be gone before it has answered.
        if failure.kind != FailureKind::EngineUnreachable {
            return Err(failure);
        }
    }
    console.debug(format_args!("waiting for the daemon's process to end"));
    if let Some(process) = process {
        await_exit(&process, pid.unwrap_or_default())?;
    }
    answer(b"isol8d stopped\n")
}

fn await_exit(process: &impl rustix::fd::AsFd, pid: i32) -> Result<(), Failure> {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    let deadline = Timespec {
        tv_sec: STOP_TIMEOUT_S,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&deadline)) {
        Ok(0) => {
            let message = format!("the daemon (pid {pid}) has not ended in {STOP_TIMEOUT_S} s");
            Err(Failure::new(FailureKind::EngineTimeout, message)
                .hint("`isol8 daemon logs` says what it waits for"))
        }
        Ok(_) => Ok(()),
        Err(errno) => {
            let message = "cannot wait for the daemon's end";
            Err(Failure::new(FailureKind::Internal, message).because(&io::Error::from(errno)))
        }
    }
}

async fn logs(path: &Path, follow: bool) -> Result<Exit, Failure> {
    let shown = path.display();
    let cannot = |error: &io::Error| {
        let message = format!("cannot read the daemon's log `{shown}`");
        let failure = Failure::new(FailureKind::NotFound, message).because(error);
        failure.hint(
            "a daemon that you started elsewhere logs there; one of systemd's: \
             `journalctl -u isol8d`",
        )
    };
    let mut file = File::open(path).map_err(|error| cannot(&error))?;
    loop {
        let mut text = Vec::new();
        file.read_to_end(&mut text)
            .map_err(|error| cannot(&error))?;
        let exit = answer(&text)?;
        if !follow || exit == Exit::StdoutClosed {
            return Ok(exit);
        }
        sleep(FOLLOW_INTERVAL).await;
        // A daemon that starts puts a long log aside and begins a new one.
        let moved = |there: &File| Some(there.metadata().ok()?.ino());
        if let Ok(there) = File::open(path)
            && moved(&there) != moved(&file)
        {
            file = there;
        }
    }
}
