//! Every exit code of `isol8`, in one place.

use std::process::{ExitCode, Termination};

use isol8_core::failure::{Failure, FailureKind};

/// The same for people: what `isol8 run --help` ends with.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  the program's own, or 128+n if signal n ended it
  137  the time or the memory of the run was used up (stderr says which)
  125  isol8 itself failed; also when the copy of --out is not complete
    2  what was typed is wrong, and nothing was done
  130  Ctrl-C ended the run (143 SIGTERM, 129 SIGHUP)
  141  nobody reads stdout any more";

/// Why the process ends, and so with which code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did what it was asked.
    Done,
    /// The program ended by itself: its own code.
    Program(u8),
    /// A signal ended the program.
    Signalled(u8),
    /// The run's time was over and it was killed.
    TimedOut,
    /// The run used up its memory and was killed.
    OomKilled,
    /// Ctrl-C, SIGTERM or SIGHUP ended the run before the program ended.
    Interrupted(u8),
    /// Nobody reads our stdout any more.
    StdoutClosed,
    /// `doctor` found something that can stop a run.
    Unwell,
    /// What was typed is wrong; nothing was done.
    Usage,
    /// isol8 itself failed.
    Failed,
}

/// Signal n as an exit code is this much and n.
const SIGNAL_BASE: u8 = 128;
const SIGKILL: u8 = 9;
const SIGPIPE: u8 = 13;

impl Exit {
    /// The code that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Program(code) => code,
            Self::Signalled(number) | Self::Interrupted(number) => {
                SIGNAL_BASE.saturating_add(number)
            }
            Self::TimedOut | Self::OomKilled => SIGNAL_BASE + SIGKILL,
            Self::StdoutClosed => SIGNAL_BASE + SIGPIPE,
            Self::Unwell => 1,
            Self::Usage => 2,
            Self::Failed => 125,
        }
    }

    /// The code of a failure: what was asked is wrong, or isol8 failed.
    pub(crate) fn of(failure: &Failure) -> Self {
        match failure.kind {
            FailureKind::InvalidRequest => Self::Usage,
            _ => Self::Failed,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;

    use super::*;

    /// The table that the documentation shows.
    #[test]
    fn every_exit_code() {
        let all = [
            Exit::Done,
            Exit::Program(7),
            Exit::Signalled(11),
            Exit::TimedOut,
            Exit::OomKilled,
            Exit::Interrupted(2),
            Exit::Interrupted(15),
            Exit::Interrupted(1),
            Exit::StdoutClosed,
            Exit::Unwell,
            Exit::Usage,
            Exit::Failed,
        ];
        let mut table = String::new();
        for exit in all {
            writeln!(table, "{:>3}  {exit:?}", exit.code()).expect("a String takes all");
        }
        expect![[r"
              0  Done
              7  Program(7)
            139  Signalled(11)
            137  TimedOut
            137  OomKilled
            130  Interrupted(2)
            143  Interrupted(15)
            129  Interrupted(1)
            141  StdoutClosed
              1  Unwell
              2  Usage
            125  Failed
        "]]
        .assert_eq(&table);
    }

    #[test]
    fn the_help_names_every_code_of_ours() {
        for exit in [
            Exit::TimedOut,
            Exit::OomKilled,
            Exit::Failed,
            Exit::Usage,
            Exit::Interrupted(2),
            Exit::Interrupted(15),
            Exit::Interrupted(1),
            Exit::StdoutClosed,
        ] {
            let code = exit.code().to_string();
            assert!(EXIT_CODES.contains(&code), "{exit:?}");
        }
    }

    #[test]
    fn only_a_wrong_request_is_a_usage_error() {
        let of = |kind| Exit::of(&Failure::new(kind, "x"));
        assert_eq!(of(FailureKind::InvalidRequest), Exit::Usage);
        for kind in [
            FailureKind::NotYet,
            FailureKind::Unsupported,
            FailureKind::Forbidden,
            FailureKind::AtCapacity,
            FailureKind::EngineUnreachable,
            FailureKind::ImageMissing,
            FailureKind::Internal,
        ] {
            assert_eq!(of(kind), Exit::Failed, "{kind:?}");
        }
    }
}
