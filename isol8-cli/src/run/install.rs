//! What the installer says. It is ours to pass on: it is no output of the
//! program, and in a result object there is no place for it.

use bytes::Bytes;
use isol8_core::failure::Failure;
use isol8_proto::v1::Phase;

/// Of what was not shown, so much is kept for the failure that may come.
const KEPT_BYTES: usize = 4 << 10;

/// And so many lines of it are told.
const KEPT_LINES: usize = 10;

/// Follows the phases of a run.
#[derive(Debug)]
pub(super) struct Installer {
    at_work: bool,
    /// The end of what was said, where nobody sees it.
    unseen: Option<Vec<u8>>,
}

/// What becomes of a piece of stderr.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stderr {
    /// The program's.
    Program(Bytes),
    /// The installer's, to be shown as it is.
    Installer(Bytes),
    /// The installer's, and nobody wants to see it.
    Unseen,
}

impl Installer {
    /// With `quiet`, nothing is shown unless the installer fails.
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            at_work: false,
            unseen: quiet.then(Vec::new),
        }
    }

    /// Takes note of the phase. True when the installer has just ended.
    pub(super) fn enter(&mut self, phase: Phase) -> bool {
        let was = self.at_work;
        self.at_work = phase == Phase::Install;
        was && !self.at_work
    }

    /// Tells whose stderr this is.
    pub(super) fn sort(&mut self, bytes: Bytes) -> Stderr {
        match (self.at_work, &mut self.unseen) {
            (false, _) => Stderr::Program(bytes),
            (true, None) => Stderr::Installer(bytes),
            (true, Some(unseen)) => {
                unseen.extend_from_slice(&bytes);
                let over = unseen.len().saturating_sub(KEPT_BYTES);
                unseen.drain(..over);
                Stderr::Unseen
            }
        }
    }

    /// The failure, with the end of what was not shown if it was the installer's.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        let Some(unseen) = self.unseen.as_ref().filter(|_| self.at_work) else {
            return failure;
        };
        let text = String::from_utf8_lossy(unseen);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(KEPT_LINES)..];
        // The daemon may have told them already.
        let told = |line: &&str| failure.causes.iter().any(|cause| cause.contains(*line));
        if last.last().is_none_or(told) {
            return failure;
        }
        failure.cause(last.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::failure::FailureKind;

    use super::*;

    fn failed() -> Failure {
        Failure::new(FailureKind::InstallFailed, "pip failed")
    }

    #[test]
    fn only_what_comes_in_its_phase_is_the_installers() {
        let bytes = Bytes::from_static(b"x\n");
        let mut installer = Installer::new(false);
        assert!(!installer.enter(Phase::Setup));
        assert_eq!(
            installer.sort(bytes.clone()),
            Stderr::Program(bytes.clone())
        );
        assert!(!installer.enter(Phase::Install));
        assert_eq!(
            installer.sort(bytes.clone()),
            Stderr::Installer(bytes.clone())
        );
        assert!(installer.enter(Phase::Code));
        assert_eq!(installer.sort(bytes.clone()), Stderr::Program(bytes));
        assert!(!installer.enter(Phase::Code));
        assert_eq!(installer.explain(failed()), failed());
    }

    #[test]
    fn a_failure_carries_the_last_lines_that_nobody_saw() {
        let mut installer = Installer::new(true);
        installer.enter(Phase::Install);
        for n in 0..10_000 {
            let line = Bytes::from(format!("line {n}\n\n"));
            assert_eq!(installer.sort(line), Stderr::Unseen);
        }
        let told = installer.explain(failed());
        let lines: Vec<&str> = told.causes[0].lines().collect();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines[KEPT_LINES - 1], "line 9999");
        // Not twice.
        assert_eq!(installer.explain(told.clone()), told);
        // What comes later is no failure of the installer.
        installer.enter(Phase::Code);
        assert_eq!(installer.explain(failed()), failed());
    }
}
