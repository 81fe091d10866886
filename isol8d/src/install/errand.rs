//! One command in a sandbox, to its end: a part of an installation.
//!
//! Nobody speaks to it and its output is taken as fast as it comes, so that
//! there is no credit to keep an account of beyond one window.

use bytes::Bytes;
use isol8_core::env;
use isol8_engine::link::{Link, LinkError};
use isol8_proto::init::{
    Command, Credit, EnvVar, Exec, Failed, FailureKind as InitFailure, exited::How, from_init,
    to_init,
};
use thiserror::Error;

use super::recipe::Step;
use crate::outbox::WINDOW_BYTES;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(u8),
    Signal(i32),
}

impl Ended {
    pub(crate) fn is_good(self) -> bool {
        self == Self::Code(0)
    }
}

/// Why there is no end to speak of.
#[derive(Debug, Error)]
pub(crate) enum ErrandError {
    /// It could not be started.
    #[error("`{program}` cannot be started: {}", failed.message)]
    NotStarted { program: String, failed: Failed },
    /// The sandbox is gone.
    #[error("the sandbox went away")]
    Lost(#[source] LinkError),
    /// Init does not hold to the protocol.
    #[error("init {0}")]
    Broken(&'static str),
}

impl ErrandError {
    /// There is no such program.
    pub(crate) fn is_missing(&self) -> bool {
        let missing = [InitFailure::NotFound, InitFailure::NotExecutable];
        matches!(self, Self::NotStarted { failed, .. } if missing.contains(&failed.kind()))
    }

    /// The sandbox is full, of files or of processes.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::NotStarted { failed, .. } if failed.kind() == InitFailure::NoSpace)
    }
}

/// Runs a step. `take` gets what it writes: standard output (`true`) and error.
///
/// # Cancellation
/// Not cancel safe: the command goes on, and the sandbox is to be destroyed.
pub(crate) async fn run(
    link: &mut Link,
    step: &Step,
    mut take: impl FnMut(bool, &Bytes),
) -> Result<Ended, ErrandError> {
    use from_init::Message;
    let exec = to_init::Message::Exec(exec(step));
    link.writer.send(exec).await.map_err(ErrandError::Lost)?;
    let mut started = false;
    let (mut stdout, mut stderr) = (0, 0);
    loop {
        match link.reader.recv().await.map_err(ErrandError::Lost)? {
            Message::Stdout(bytes) => {
                stdout += bytes.len() as u64;
                take(true, &bytes);
            }
            Message::Stderr(bytes) => {
                stderr += bytes.len() as u64;
                take(false, &bytes);
            }
            Message::Started(_) => started = true,
            Message::StdinCredit(_) => {}
            Message::Exited(exited) => {
                return match exited.how {
                    Some(How::Code(code)) => u8::try_from(code)
                        .map(Ended::Code)
                        .map_err(|_| ErrandError::Broken("gave an exit code that cannot be")),
                    Some(How::Signal(signal)) => Ok(Ended::Signal(signal)),
                    None => Err(ErrandError::Broken("gave no exit code")),
                };
            }
            Message::Failed(failed) if !started => {
                let program = step.argv.first().cloned().unwrap_or_default();
                return Err(ErrandError::NotStarted { program, failed });
            }
            Message::Failed(_) => {}
            _ => return Err(ErrandError::Broken("spoke out of turn")),
        }
        if stdout > WINDOW_BYTES || stderr > WINDOW_BYTES {
            return Err(ErrandError::Broken("sent more output than it may"));
        }
        if stdout.max(stderr) >= WINDOW_BYTES / 4 {
            let credit = to_init::Message::Credit(Credit {
                stdout: std::mem::take(&mut stdout),
                stderr: std::mem::take(&mut stderr),
                data: 0,
            });
            link.writer.send(credit).await.map_err(ErrandError::Lost)?;
        }
    }
}

fn exec(step: &Step) -> Exec {
    let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    let variable = |(name, value): (&String, &String)| EnvVar {
        name: bytes(name),
        value: bytes(value),
    };
    Exec {
        command: Some(Command {
            argv: step.argv.iter().map(bytes).collect(),
            env: step.env.iter().map(variable).collect(),
            cwd: env::HOME.as_bytes().into(),
        }),
        use_parked: false,
        stdout_credit: WINDOW_BYTES,
        stderr_credit: WINDOW_BYTES,
        stdin: false,
    }
}
