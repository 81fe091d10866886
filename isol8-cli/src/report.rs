//! What we say when a run is over: its exit code, a message where the verdict
//! needs one, and the result object of `--json`.

mod json;
mod kept;

use isol8_core::{
    failure::{Failure, FailureKind},
    quantity::ByteSize,
};
use isol8_proto::v1::{Exited, Limits, Verdict};

use crate::{console::Console, exit::Exit, run::Finished};

pub(crate) use json::{engine, result_object, runtime};
pub(crate) use kept::{Asked, how_to_look};

/// How the run ended, in our terms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conclusion {
    pub(crate) exit: Exit,
    /// For an end that was not the program's own.
    pub(crate) failure: Option<Failure>,
    /// For the program's own end, where more is known about it.
    pub(crate) note: Option<String>,
}

impl Conclusion {
    /// The same for a run on another machine: what is to be looked at is there.
    pub(crate) fn elsewhere(mut self) -> Self {
        if self.exit == Exit::Failed
            && let Some(failure) = &mut self.failure
        {
            failure.hint = Some("`isol8 daemon logs` on the server may say more".to_owned());
        }
        self
    }
}

/// Judges the last event.
pub(crate) fn conclude(exited: &Exited, limits: &Limits) -> Conclusion {
    let reason = Some(exited.reason.clone()).filter(|reason| !reason.is_empty());
    // The daemon knows best; without its word the verdict speaks.
    let ended = |exit, what: &str, why: Option<String>, hint: &str| {
        let message = match reason.clone().or(why) {
            Some(why) => format!("{what}: {why}"),
            None => what.to_owned(),
        };
        Conclusion {
            exit,
            failure: Some(Failure::new(FailureKind::Internal, message).hint(hint)),
            note: None,
        }
    };
    match exited.verdict() {
        Verdict::Exited => match exited.code.map(u8::try_from) {
            Some(Ok(code)) => Conclusion {
                exit: Exit::Program(code),
                failure: None,
                note: reason,
            },
            _ => unclear(exited),
        },
        Verdict::Signalled => match exited.signal.map(u8::try_from) {
            Some(Ok(number @ 1..=127)) => Conclusion {
                exit: Exit::Signalled(number),
                failure: None,
                note: reason,
            },
            _ => unclear(exited),
        },
        Verdict::TimedOut => ended(
            Exit::TimedOut,
            "the run was killed",
            Some(match limits.timeout_ms {
                0 => "its time was over".to_owned(),
                limit => format!("the time limit of {limit} ms was over"),
            }),
            "allow more with `--timeout <ms>`",
        ),
        Verdict::OomKilled => ended(
            Exit::OomKilled,
            "the run was killed",
            Some(match limits.memory_bytes {
                0 => "the memory limit was reached".to_owned(),
                limit => format!("the memory limit of {} was reached", ByteSize::bytes(limit)),
            }),
            "allow more with `--memory <size>`; files in /sandbox and /tmp count",
        ),
        Verdict::Cancelled => ended(
            Exit::Failed,
            "the run was cancelled",
            None,
            "`isol8 daemon logs` may say more",
        ),
        Verdict::SandboxLost => ended(
            Exit::Failed,
            "the sandbox vanished under the run",
            None,
            "run it again; `isol8 doctor` checks this host",
        ),
        Verdict::Unspecified => unclear(exited),
    }
}

/// An end that this version does not understand is never taken for success.
fn unclear(exited: &Exited) -> Conclusion {
    let what = format!(
        "verdict {}, code {:?}, signal {:?}",
        exited.verdict, exited.code, exited.signal
    );
    let failure = Failure::new(
        FailureKind::Internal,
        "the daemon told an end without sense",
    )
    .cause(what)
    .hint("`isol8 status` shows the daemon's version");
    Conclusion {
        exit: Exit::Failed,
        failure: Some(failure),
        note: None,
    }
}

/// Says on stderr what there is to say, and gives the exit code. Of a kept sandbox
/// only where something was `asked`.
pub(crate) fn tell(
    finished: &Finished,
    conclusion: Conclusion,
    asked: Option<Asked>,
    console: &Console,
) -> Exit {
    let exited = &finished.exited;
    let kept = asked.and_then(|asked| kept::kept(&exited.kept_sandbox_id, asked));
    let speaks = conclusion.failure.is_some()
        || kept.is_some()
        || conclusion.note.is_some()
        || exited.stdout_truncated
        || exited.stderr_truncated
        || finished.written.copy_failed.is_some();
    if speaks && finished.written.mid_line {
        console.say("");
    }
    if let Some(warning) = truncation(exited) {
        console.warning(&warning);
    }
    if let Some(note) = &conclusion.note {
        console.note(note);
    }
    if let Some(failure) = &conclusion.failure {
        console.failure(failure);
    }
    if let Some(kept) = kept {
        kept.tell(console);
    }
    if let Some(copy) = &finished.written.copy_failed {
        let failure = Failure::new(FailureKind::Internal, "the copy of stdout is not complete")
            .cause(copy)
            .hint("the program ran to its end; give `--out` a place with room");
        console.failure(&failure);
        return Exit::Failed;
    }
    conclusion.exit
}

/// One line, whatever was cut.
fn truncation(exited: &Exited) -> Option<String> {
    let usage = exited.usage.unwrap_or_default();
    let (what, bytes) = match (exited.stdout_truncated, exited.stderr_truncated) {
        (false, false) => return None,
        (true, false) => ("stdout was", format!("{}", usage.stdout_bytes)),
        (false, true) => ("stderr was", format!("{}", usage.stderr_bytes)),
        (true, true) => (
            "stdout and stderr were",
            format!("{} and {}", usage.stdout_bytes, usage.stderr_bytes),
        ),
    };
    Some(format!(
        "{what} truncated, the program wrote {bytes} bytes; keep more with `--max-output <bytes>`"
    ))
}

#[cfg(test)]
mod tests;
