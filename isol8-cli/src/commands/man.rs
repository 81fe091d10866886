//! `isol8 man`: for those who make packages.

use std::path::Path;

use clap::CommandFactory as _;
use isol8_core::failure::{Failure, FailureKind};

use crate::{args::Args, exit::Exit};

/// Writes a page for `isol8` and one for each of its commands.
pub(super) fn man(folder: &Path) -> Result<Exit, Failure> {
    match clap_mangen::generate_to(Args::command(), folder) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let message = format!("cannot write manual pages into `{}`", folder.display());
            Err(Failure::new(FailureKind::NoSpace, message).because(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let folder = tempfile::tempdir().expect("a folder");
        man(folder.path()).expect("room for pages");
        for name in ["isol8", "isol8-run", "isol8-serve", "isol8-session-cp"] {
            let page = std::fs::read_to_string(folder.path().join(format!("{name}.1")));
            assert!(page.expect(name).contains(".SH NAME"), "{name}");
        }
        let hidden = folder.path().join("isol8-man.1");
        assert!(!hidden.exists(), "it is not for people");
        let elsewhere = man(&folder.path().join("nowhere")).expect_err("no folder");
        assert!(elsewhere.message.contains("nowhere"), "{elsewhere}");
    }
}
